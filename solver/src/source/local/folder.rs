//! A scanned directory, kept for the next scan: what did not change is the same in memory, so that
//! its checksums need not be computed again.

use std::collections::HashMap;
use std::sync::Arc;

use super::known::{Inode, Stamp};
use super::scan::Listed;
use crate::id::ContentDigest;
use crate::tree::{Attributes, Entry, Files, Kind, Node};

/// A directory and what is in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) node: Arc<Node>,
    /// Sorted by name; the same as the children of the node.
    pub(super) items: Vec<Item>,
}

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: Arc<[u8]>,
    pub(super) seen: Seen,
}

/// What has a name.
#[derive(Debug)]
pub(super) enum Seen {
    Leaf(Leaf),
    Folder(Arc<Folder>),
    /// A directory that is being looked into: its number, and whether it stays if it is empty.
    Pending {
        id: usize,
        entry: Box<Entry>,
        keep: bool,
    },
}

/// Anything but a directory.
#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) node: Arc<Node>,
    pub(super) inode: Inode,
    pub(super) stamp: Stamp,
    /// It was old enough when it was scanned for another change to show.
    pub(super) settled: bool,
    /// A file with other names, here or elsewhere.
    pub(super) linked: bool,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Trees may be deeper than a thread's stack.
        let mut todo = std::mem::take(&mut self.items);
        while let Some(item) = todo.pop() {
            if let Seen::Folder(folder) = item.seen
                && let Some(mut folder) = Arc::into_inner(folder)
            {
                todo.append(&mut folder.items);
            }
        }
    }
}

impl Folder {
    /// The directory of these items, or `old` if it is the same.
    fn new(
        entry: Entry,
        items: Vec<Item>,
        old: Option<Arc<Self>>,
        files: &Arc<dyn Files>,
    ) -> Arc<Self> {
        let same = |(a, b): (&Item, &Item)| {
            a.name == b.name
                && match (&a.seen, &b.seen) {
                    (Seen::Leaf(a), Seen::Leaf(b)) => Arc::ptr_eq(&a.node, &b.node),
                    (Seen::Folder(a), Seen::Folder(b)) => Arc::ptr_eq(a, b),
                    _ => false,
                }
        };
        if let Some(old) = old
            && *old.node.entry() == entry
            && old.items.len() == items.len()
            && old.items.iter().zip(&items).all(same)
        {
            return old;
        }
        let child = |item: &Item| {
            let node = match &item.seen {
                Seen::Leaf(leaf) => leaf.node.clone(),
                Seen::Folder(folder) => folder.node.clone(),
                Seen::Pending { .. } => return None,
            };
            Some((item.name.clone(), node))
        };
        let children = items.iter().filter_map(child).collect();
        let node = Node::directory(entry, Some(files.clone()), children);
        Arc::new(Self { node, items })
    }
}

/// The root is not part of what a client sends. It counts as the plain directory that BuildKit
/// receives into, and its own checksum as that of nothing.
fn root_entry() -> Entry {
    let attributes = Attributes {
        mode: 0o755,
        ..Attributes::default()
    };
    Entry {
        digest: Some(ContentDigest::of(b"")),
        ..Entry::new(Kind::Directory, attributes)
    }
}

/// Puts the directories together; each has a higher number than the one it is in. `None` if the
/// first is not there any more.
pub(super) fn assemble(
    mut all: Vec<Option<Listed>>,
    files: &Arc<dyn Files>,
) -> Option<Arc<Folder>> {
    number_links(&mut all, files);
    // What a directory is made of: its number leads to the entry its parent has for it.
    let mut entries: Vec<Option<(Entry, bool)>> = Vec::new();
    entries.resize_with(all.len(), || None);
    if let Some(first) = entries.first_mut() {
        *first = Some((root_entry(), true));
    }
    for listed in all.iter_mut().flatten() {
        for item in &mut listed.items {
            if let Seen::Pending { id, entry, keep } = &item.seen {
                entries[*id] = Some(((**entry).clone(), *keep));
            }
        }
    }
    let mut folders: Vec<Option<Arc<Folder>>> = Vec::new();
    folders.resize_with(all.len(), || None);
    for at in (0..all.len()).rev() {
        let (Some(Listed { items, old }), Some((entry, keep))) =
            (all[at].take(), entries[at].take())
        else {
            continue;
        };
        let items: Vec<Item> = items
            .into_iter()
            .filter_map(|Item { name, seen }| {
                let seen = match seen {
                    Seen::Pending { id, .. } => Seen::Folder(folders[id].take()?),
                    seen => seen,
                };
                Some(Item { name, seen })
            })
            .collect();
        if keep || !items.is_empty() {
            folders[at] = Some(Folder::new(entry, items, old, files));
        }
    }
    folders.first_mut().and_then(Option::take)
}

/// Gives the files that are there under several names a common number.
fn number_links(all: &mut [Option<Listed>], files: &Arc<dyn Files>) {
    let mut counts: HashMap<Inode, u32> = HashMap::new();
    let mut each = |act: &mut dyn FnMut(&mut Leaf)| {
        for item in all
            .iter_mut()
            .flatten()
            .flat_map(|listed| &mut listed.items)
        {
            if let Seen::Leaf(leaf) = &mut item.seen
                && leaf.linked
            {
                act(leaf);
            }
        }
    };
    each(&mut |leaf| *counts.entry(leaf.inode).or_default() += 1);
    counts.retain(|_, count| *count > 1);
    let mut order: Vec<Inode> = counts.into_keys().collect();
    order.sort_unstable();
    each(&mut |leaf| {
        if let Ok(at) = order.binary_search(&leaf.inode) {
            let link_group = u32::try_from(at + 1).unwrap_or(0);
            let entry = Entry {
                link_group,
                ..leaf.node.entry().clone()
            };
            leaf.node = Node::leaf(entry, Some(files.clone()));
        }
    });
}
