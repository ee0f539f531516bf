//! Putting a layer on top of a view.

use std::sync::Arc;

use crate::tree::view::Child;
use crate::tree::{Attributes, Entry, Files, Kind, Node, TreePath, View};

/// A directory that is being put together. Frames are kept in a list of our own because trees may
/// be deeper than a thread's stack.
struct Frame<'a> {
    name: &'a [u8],
    /// The entry of this layer; `None` for a parent that is only passed through.
    entry: Option<&'a Entry>,
    /// What shows through from below.
    below: Option<Arc<Node>>,
    /// Sorted by name; `None` is a removal.
    changes: Vec<(&'a [u8], Option<Arc<Node>>)>,
}

impl<'a> Frame<'a> {
    fn open(name: &'a [u8], entry: Option<&'a Entry>, below: Option<&Arc<Node>>) -> Self {
        let opaque = entry.is_some_and(|entry| entry.opaque);
        let below = below
            .filter(|node| node.entry().is_directory() && !opaque)
            .cloned();
        Self {
            name,
            entry,
            below,
            changes: Vec::new(),
        }
    }

    fn close(self, files: &Arc<dyn Files>) -> Arc<Node> {
        let children = merge(
            self.below.as_ref().map_or(&[], |node| node.children()),
            self.changes,
        );
        match (self.entry, self.below) {
            (Some(entry), _) => Node::directory(entry.clone(), Some(files.clone()), children),
            (None, Some(node)) => {
                Node::directory(node.entry().clone(), node.files().cloned(), children)
            }
            (None, None) => {
                let attributes = Attributes {
                    mode: 0o755,
                    ..Attributes::default()
                };
                let entry = Entry::new(Kind::Directory, attributes);
                Node::directory(entry, Some(files.clone()), children)
            }
        }
    }
}

/// Both are sorted by name; `changes` win.
fn merge(below: &[Child], changes: Vec<(&[u8], Option<Arc<Node>>)>) -> Vec<Child> {
    if changes.is_empty() {
        return below.to_vec();
    }
    let mut children = Vec::with_capacity(below.len() + changes.len());
    let mut rest = below;
    for (name, node) in changes {
        let before = rest.partition_point(|(other, _)| **other < *name);
        children.extend_from_slice(&rest[..before]);
        rest = &rest[before..];
        let shared = match rest.split_first() {
            Some(((other, _), after)) if **other == *name => {
                rest = after;
                Some(other.clone())
            }
            _ => None,
        };
        if let Some(node) = node {
            children.push((shared.unwrap_or_else(|| name.into()), node));
        }
    }
    children.extend_from_slice(rest);
    children
}

pub(super) fn onto(entries: &[(TreePath, Entry)], base: &View, files: &Arc<dyn Files>) -> View {
    let (root, entries) = match entries.split_first() {
        None => return base.clone(),
        Some(((path, entry), rest)) if path.is_root() => (Some(entry), rest),
        Some(_) => (None, entries),
    };
    let mut frames = vec![Frame::open(b"", root, Some(base.root()))];
    for (path, entry) in entries {
        let mut components = path.components().peekable();
        // Stay in the directories that this path shares with the one before.
        let mut depth = 1;
        while let (Some(part), Some(frame)) = (components.peek(), frames.get(depth)) {
            if frame.name != *part {
                break;
            }
            components.next();
            depth += 1;
        }
        close_to(&mut frames, depth, files);
        while let Some(part) = components.next() {
            let last = components.peek().is_none();
            let top = frames
                .last_mut()
                .expect("BUG: the frame of the root is never closed here");
            let below = top.below.as_ref().and_then(|node| node.child(part));
            if !last || entry.is_directory() {
                let frame = Frame::open(part, last.then_some(entry), below);
                frames.push(frame);
            } else {
                let leaf = (entry.kind != Kind::Whiteout)
                    .then(|| Node::leaf(entry.clone(), Some(files.clone())));
                top.changes.push((part, leaf));
            }
        }
    }
    close_to(&mut frames, 1, files);
    let root = frames
        .pop()
        .expect("BUG: the frame of the root is never closed before");
    View::new(root.close(files))
}

fn close_to(frames: &mut Vec<Frame<'_>>, depth: usize, files: &Arc<dyn Files>) {
    while frames.len() > depth {
        let Some(frame) = frames.pop() else { return };
        let name = frame.name;
        let node = frame.close(files);
        if let Some(parent) = frames.last_mut() {
            parent.changes.push((name, Some(node)));
        }
    }
}
