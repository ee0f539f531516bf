//! The memory image of a layer that is being unpacked.

use std::collections::BTreeMap;

use crate::tree::{Attributes, Entry, Kind, TreePath};

/// Number of a node.
pub(super) type Id = usize;

/// The root directory.
pub(super) const ROOT: Id = 0;

/// One name of the layer.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: Id,
    pub(super) name: Box<[u8]>,
    /// What it is; `None` if it is only removed.
    pub(super) entry: Option<Entry>,
    /// A directory that the archive has something in, but no entry for.
    pub(super) implied: bool,
    /// The archive removes it from the layers below.
    pub(super) removed: bool,
    /// The archive removes all in it from the layers below.
    pub(super) opaque: bool,
    /// Bytes of its path.
    pub(super) length: usize,
    pub(super) children: BTreeMap<Box<[u8]>, Id>,
}

impl Node {
    pub(super) fn is_directory(&self) -> bool {
        self.entry.as_ref().is_some_and(Entry::is_directory)
    }
}

/// All names of the layer. Nodes that were replaced stay in the list without being reachable.
#[derive(Debug)]
pub(super) struct Staged {
    nodes: Vec<Node>,
}

/// A directory that was not mentioned (yet).
pub(super) fn implied_directory() -> Entry {
    Entry::new(
        Kind::Directory,
        Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
    )
}

impl Staged {
    pub(super) fn new() -> Self {
        let root = Node {
            parent: ROOT,
            name: Box::default(),
            entry: Some(implied_directory()),
            implied: true,
            removed: false,
            opaque: false,
            length: 0,
            children: BTreeMap::new(),
        };
        Self { nodes: vec![root] }
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn node_mut(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[id]
    }

    pub(super) fn child(&self, parent: Id, name: &[u8]) -> Option<Id> {
        self.nodes[parent].children.get(name).copied()
    }

    /// The child of that name, made without an entry if there is none.
    pub(super) fn child_or_new(&mut self, parent: Id, name: &[u8]) -> Id {
        if let Some(id) = self.child(parent, name) {
            return id;
        }
        let id = self.nodes.len();
        let above = self.nodes[parent].length;
        self.nodes.push(Node {
            parent,
            name: name.into(),
            entry: None,
            implied: false,
            removed: false,
            opaque: false,
            length: above + usize::from(above > 0) + name.len(),
            children: BTreeMap::new(),
        });
        self.nodes[parent].children.insert(name.into(), id);
        id
    }

    /// Whether it still has its name, and its directories theirs.
    pub(super) fn is_there(&self, mut id: Id) -> bool {
        while id != ROOT {
            let node = &self.nodes[id];
            if self.child(node.parent, &node.name) != Some(id) {
                return false;
            }
            id = node.parent;
        }
        true
    }

    pub(super) fn path(&self, mut id: Id) -> TreePath {
        let mut names = Vec::new();
        while id != ROOT {
            names.push(&self.nodes[id].name[..]);
            id = self.nodes[id].parent;
        }
        names.reverse();
        TreePath::new(names.join(&b'/')).expect("BUG: a staged name is not a name")
    }
}
