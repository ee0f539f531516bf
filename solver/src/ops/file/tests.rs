//! Trees for the tests of the file op.

use std::sync::Arc;

use crate::tree::{Attributes, Entry, Kind, Node, TreePath, View};

pub(super) fn path(text: &str) -> TreePath {
    TreePath::new(text).unwrap()
}

pub(super) fn directory() -> Arc<Node> {
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    Node::directory(Entry::new(Kind::Directory, attributes), None, Vec::new())
}

pub(super) fn file() -> Arc<Node> {
    let attributes = Attributes {
        mode: 0o644,
        ..Attributes::default()
    };
    Node::leaf(Entry::new(Kind::File, attributes), None)
}

pub(super) fn link(target: &str) -> Arc<Node> {
    let mut entry = Entry::new(
        Kind::Symlink,
        Attributes {
            mode: 0o777,
            ..Attributes::default()
        },
    );
    entry.target = target.as_bytes().into();
    Node::leaf(entry, None)
}

pub(super) fn view<const N: usize>(nodes: [(&str, Arc<Node>); N]) -> View {
    nodes
        .into_iter()
        .fold(View::empty(), |view, (at, node)| view.with(&path(at), node))
}
