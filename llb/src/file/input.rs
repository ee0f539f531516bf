//! What file actions work on: a chain bound to a state, and the sources of copies.
//!
//! Owns [`CopyInput`] and the bound chain. Invariant: identity of a chain is that of its `Arc`,
//! so that one outcome used twice is one sequence of actions in the op.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use super::{Action, unlink_action};
use crate::State;
use crate::state::Settings;
use crate::vertex::{Link, Output, release};

/// Where a [`copy`](crate::copy()) takes its files from: a state, or the outcome of file
/// actions ([`FileActions::on`](crate::FileActions::on)).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CopyInput {
    /// The tree of a state.
    State(State),
    /// The outcome of file actions, done in the same op.
    Tree(FileTree),
}

impl From<State> for CopyInput {
    fn from(state: State) -> Self {
        Self::State(state)
    }
}

impl From<&State> for CopyInput {
    fn from(state: &State) -> Self {
        Self::State(state.clone())
    }
}

impl From<FileTree> for CopyInput {
    fn from(tree: FileTree) -> Self {
        Self::Tree(tree)
    }
}

impl From<&FileTree> for CopyInput {
    fn from(tree: &FileTree) -> Self {
        Self::Tree(tree.clone())
    }
}

/// The outcome of file actions on a state, made by [`FileActions::on`](crate::FileActions::on).
#[derive(Clone)]
pub struct FileTree {
    pub(crate) chain: Arc<ActionChain>,
}

impl fmt::Debug for FileTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.chain.actions.iter().map(Action::name).collect();
        f.debug_tuple("FileTree").field(&names).finish()
    }
}

/// Actions and the tree and directory they start from.
pub(crate) struct ActionChain {
    pub(super) base: Option<Output>,
    pub(super) values: Settings,
    pub(super) actions: Box<[Action]>,
}

impl ActionChain {
    pub(crate) fn new(state: &State, actions: Vec<Action>) -> Self {
        Self {
            base: state.output.clone(),
            values: state.values.clone(),
            actions: actions.into(),
        }
    }

    pub(crate) fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// Calls `visit` with everything the chain refers to, in the order in which it is to be
    /// written: the last action's first.
    pub(crate) fn each_input<'a>(&'a self, mut visit: impl FnMut(&'a Output)) {
        // A chain that is copied from more than once is looked at once.
        let mut seen: HashSet<*const Self> = HashSet::new();
        // Chains to go on with, and how many of their actions are left.
        let mut todo: Vec<(&Self, usize)> = Vec::new();
        let mut next = Some((self, self.actions.len()));
        while let Some((chain, left)) = next {
            if left == chain.actions.len() && left > 0 {
                chain.base.iter().for_each(&mut visit);
            }
            let Some(position) = left.checked_sub(1) else {
                next = todo.pop();
                continue;
            };
            next = Some((chain, position));
            let Action::Copy(copy) = &chain.actions[position] else {
                continue;
            };
            match copy.input() {
                CopyInput::State(state) => state.output.iter().for_each(&mut visit),
                CopyInput::Tree(tree) => {
                    if seen.insert(Arc::as_ptr(&tree.chain)) {
                        todo.extend(next);
                        next = Some((&tree.chain, tree.chain.actions.len()));
                    }
                }
            }
        }
    }

    /// Moves everything the chain keeps alive to `links`.
    pub(crate) fn unlink(&mut self, links: &mut Vec<Link>) {
        self.values.unlink(links);
        links.extend(self.base.take().map(|output| Link::Vertex(output.vertex)));
        for action in &mut self.actions {
            unlink_action(action, links);
        }
    }
}

impl Drop for ActionChain {
    fn drop(&mut self) {
        let mut links = Vec::new();
        self.unlink(&mut links);
        release(links);
    }
}
