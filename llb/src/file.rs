//! File steps: changes to a tree without a process.
//!
//! Owns [`FileActions`], a chain of actions that is one op, and [`Step`], such a chain whose
//! last action still takes options. Invariants: the actions of a chain are done in order, each
//! on what the one before left; a chain used as input of several copies is written once.
//! `file/actions.rs` has the actions, `file/write.rs` the op.

mod actions;
mod input;
mod owner;
mod write;

use std::fmt;
use std::sync::Arc;

pub use actions::{
    CopyPath, MakeDirectory, MakeFile, MakeSymlink, Remove, Step, copy, mkdir, mkfile, rm, symlink,
};
pub use input::{CopyInput, FileTree};
pub use owner::{Owner, Principal};

pub(crate) use actions::Action;
pub(crate) use input::ActionChain;

use crate::State;
use crate::caps::Cap;
use crate::constraints::{OpConstraints, op_options};
use crate::digest::excerpt;
use crate::vertex::{Link, Output, Vertex, VertexOp};

/// File actions that are done in order, as one op.
///
/// A chain starts with one of [`mkdir`], [`mkfile`], [`copy`], [`rm`] and [`symlink`], which
/// give a [`Step`]: a chain whose last action still takes options. It becomes a
/// `FileActions` where one is needed, or with `into()`.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::FileActions;
///
/// let mut actions = FileActions::new();
/// for name in ["a", "b"] {
///     actions = actions.mkfile(format!("/etc/{name}"), "").mode(0o600).into();
/// }
/// let state = llb::image("alpine").file(actions);
/// # let _ = state;
/// ```
#[derive(Clone, Debug, Default)]
pub struct FileActions {
    actions: Vec<Action>,
    constraints: OpConstraints,
}

impl FileActions {
    /// A chain without actions, to be added to. It cannot be written as it is.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn options_mut(&mut self) -> &mut OpConstraints {
        &mut self.constraints
    }

    /// Does the actions on `state` and gives the outcome as the input of a [`copy`] of another
    /// chain. Both are one op.
    ///
    /// ```
    /// use ashlar_llb as llb;
    ///
    /// let tree = llb::FileActions::from(llb::mkfile("/motd", "Hello")).on(llb::scratch());
    /// let state = llb::image("alpine").file(llb::copy(&tree, "/motd", "/etc/motd"));
    /// # let _ = state;
    /// ```
    #[must_use]
    pub fn on(self, state: impl Into<State>) -> FileTree {
        FileTree {
            chain: Arc::new(ActionChain::new(&state.into(), self.actions)),
        }
    }

    /// Makes the op that does the actions on `state`.
    pub(crate) fn into_output(self, state: &State) -> Output {
        let mut constraints = self.constraints;
        constraints.need(Cap::FileBase);
        let vertex = Vertex {
            op: VertexOp::File(FileVertex {
                chain: Some(Arc::new(ActionChain::new(state, self.actions))),
            }),
            constraints,
        };
        Output::first(vertex)
    }
}

op_options!(impl FileActions);

/// A file op in the making.
#[derive(Clone)]
pub(crate) struct FileVertex {
    /// Missing only while the vertex is being dropped.
    chain: Option<Arc<ActionChain>>,
}

impl FileVertex {
    pub(crate) fn each_input<'a>(&'a self, visit: impl FnMut(&'a Output)) {
        if let Some(chain) = &self.chain {
            chain.each_input(visit);
        }
    }

    pub(crate) fn name(&self) -> String {
        let actions = self.chain.as_ref().map(|chain| chain.actions());
        let names = actions.into_iter().flatten().map(Action::name);
        excerpt(&names.collect::<Vec<_>>().join(", "))
    }

    pub(crate) fn take_chain(&mut self) -> Option<Arc<ActionChain>> {
        self.chain.take()
    }
}

impl fmt::Debug for FileVertex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FileVertex").field(&self.name()).finish()
    }
}

/// Moves the chain an action's input keeps alive to `links`.
fn unlink_action(action: &mut Action, links: &mut Vec<Link>) {
    if let Action::Copy(copy) = action {
        match copy.take_input() {
            CopyInput::State(state) => state.unlink(links),
            CopyInput::Tree(tree) => links.push(Link::Chain(tree.chain)),
        }
    }
}
