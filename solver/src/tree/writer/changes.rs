//! What a layer that is being written contains so far, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::id::ContentDigest;
use crate::tree::{Entry, Files, Node, TreePath, View};

/// A name and what the layer has there.
pub(super) type Children = BTreeMap<Arc<[u8]>, Slot>;

/// What the layer has at a path.
#[derive(Debug)]
pub(super) enum Slot {
    Directory(Box<Directory>),
    Leaf(Leaf),
    Whiteout,
}

/// Anything but a directory.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) node: Arc<Node>,
    /// Whether its inode belongs to another layer too, so that it must never be changed.
    pub(super) shared: bool,
    /// The checksum of the file that it is a copy of, if that has other attributes.
    pub(super) origin: Option<ContentDigest>,
}

/// A directory of the layer.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) entry: Entry,
    /// What of the base shows through.
    pub(super) base: Option<Arc<Node>>,
    pub(super) children: Children,
    /// The merged directory, until something in it changes.
    memo: OnceLock<Arc<Node>>,
}

/// What is at a path in base and layer together.
pub(super) enum Found<'a> {
    /// A directory of the layer.
    Directory(&'a Directory),
    /// Something of the layer that is not a directory.
    Leaf(&'a Leaf),
    /// Something of the base that the layer has nothing to say about.
    Base(&'a Arc<Node>),
}

impl Found<'_> {
    pub(super) fn is_directory(&self) -> bool {
        self.entry().is_directory()
    }

    pub(super) fn entry(&self) -> &Entry {
        match self {
            Self::Directory(directory) => &directory.entry,
            Self::Leaf(leaf) => leaf.node.entry(),
            Self::Base(node) => node.entry(),
        }
    }
}

impl Directory {
    pub(super) fn new(entry: Entry, base: Option<Arc<Node>>) -> Self {
        Self {
            entry,
            base,
            children: Children::new(),
            memo: OnceLock::new(),
        }
    }

    /// What the base has under that name.
    pub(super) fn below(&self, name: &[u8]) -> Option<&Arc<Node>> {
        self.base.as_ref().and_then(|base| base.child(name))
    }

    /// Must be called on every directory on the way to a change.
    pub(super) fn forget(&mut self) {
        self.memo.take();
    }

    pub(super) fn find<'a>(&'a self, path: &TreePath) -> Option<Found<'a>> {
        let mut here = self;
        let mut parts = path.components();
        while let Some(name) = parts.next() {
            match here.children.get(name) {
                Some(Slot::Directory(directory)) => here = directory,
                Some(Slot::Leaf(leaf)) => {
                    return parts.next().is_none().then_some(Found::Leaf(leaf));
                }
                Some(Slot::Whiteout) => return None,
                None => {
                    let node = here.below(name)?;
                    return parts
                        .try_fold(node, |node, name| node.child(name))
                        .map(Found::Base);
                }
            }
        }
        Some(Found::Directory(here))
    }

    /// The merged tree. Takes time for the directories that changed since the last time.
    pub(super) fn merged(&self, files: &Arc<dyn Files>) -> View {
        // A list instead of recursion: trees may be deeper than a thread's stack.
        let mut stale = vec![self];
        let mut at = 0;
        while let Some(&directory) = stale.get(at) {
            at += 1;
            for child in directory.children.values() {
                if let Slot::Directory(child) = child
                    && child.memo.get().is_none()
                {
                    stale.push(child);
                }
            }
        }
        for directory in stale.iter().rev() {
            directory.merge(files);
        }
        View::new(self.merge(files).clone())
    }

    /// Needs the memos of the directories in it.
    fn merge(&self, files: &Arc<dyn Files>) -> &Arc<Node> {
        self.memo.get_or_init(|| {
            let below = self.base.as_ref().map_or(&[][..], |base| base.children());
            let mut children = Vec::with_capacity(below.len() + self.children.len());
            let mut below = below.iter().peekable();
            for (name, slot) in &self.children {
                while let Some(child) = below.next_if(|(other, _)| other < name) {
                    children.push(child.clone());
                }
                below.next_if(|(other, _)| other == name);
                match slot {
                    Slot::Directory(directory) => {
                        children.push((name.clone(), directory.merge(files).clone()));
                    }
                    Slot::Leaf(leaf) => children.push((name.clone(), leaf.node.clone())),
                    Slot::Whiteout => {}
                }
            }
            children.extend(below.cloned());
            Node::directory(self.entry.clone(), Some(files.clone()), children)
        })
    }

    /// How many objects the layer has below this directory.
    pub(super) fn count(&self) -> usize {
        let mut todo = vec![self];
        let mut count = 0;
        while let Some(directory) = todo.pop() {
            count += directory.children.len();
            todo.extend(directory.children.values().filter_map(|child| match child {
                Slot::Directory(child) => Some(&**child),
                Slot::Leaf(_) | Slot::Whiteout => None,
            }));
        }
        count
    }

    /// Takes everything apart in the order of a walk, without recursion.
    pub(super) fn dismantle(children: Children, mut each: impl FnMut(TreePath, Dismantled)) {
        let mut todo = vec![(TreePath::root(), children.into_iter())];
        while let Some((parent, rest)) = todo.last_mut() {
            let Some((name, slot)) = rest.next() else {
                todo.pop();
                continue;
            };
            let path = parent
                .join(&name)
                .expect("BUG: a child's name is not a name");
            match slot {
                Slot::Directory(directory) => {
                    todo.push((path.clone(), directory.children.into_iter()));
                    each(path, Dismantled::Directory(directory.entry));
                }
                Slot::Leaf(leaf) => each(path, Dismantled::Leaf(leaf)),
                Slot::Whiteout => each(path, Dismantled::Whiteout),
            }
        }
    }
}

/// A part of a layer, without what is in it.
pub(super) enum Dismantled {
    Directory(Entry),
    Leaf(Leaf),
    Whiteout,
}

impl Dismantled {
    /// The checksum of the file that it is a copy of, if that has other attributes.
    pub(super) fn origin(&self) -> Option<ContentDigest> {
        match self {
            Self::Leaf(leaf) => leaf.origin,
            Self::Directory(_) | Self::Whiteout => None,
        }
    }

    /// The entry of the index.
    pub(super) fn into_entry(self) -> Entry {
        match self {
            Self::Directory(entry) => entry,
            Self::Leaf(Leaf { node, .. }) => {
                let mut entry = node.entry().clone();
                entry.digest = entry.digest.or_else(|| node.digest_memo().get().copied());
                entry
            }
            Self::Whiteout => Entry::whiteout(),
        }
    }
}
