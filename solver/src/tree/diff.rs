//! What turns one tree into another.
//!
//! Owns [`diff`]. Invariant: stacking the result on the lower tree gives the upper one, but for
//! times of directories in which nothing else changed.
//!
//! Leaves to others: writing the bytes of the layer (`writer`); they are those of the upper
//! tree at the same paths.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use super::checksum::{ChecksumError, fill};
use super::index::{Index, IndexError};
use super::view::Child;
use super::{Entry, Files, Kind, Node, TreePath, View};
use crate::cancel::Cancel;
use crate::error::{Blame, Fault};

/// Why two trees have no difference.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// Bytes to be compared could not be read, or the work was cancelled.
    #[error("the files cannot be compared")]
    Compare(#[from] ChecksumError),
    /// A tree has something that no layer can have.
    #[error("the difference cannot be a layer")]
    Index(#[from] IndexError),
}

impl Blame for DiffError {
    fn fault(&self) -> Fault {
        match self {
            Self::Compare(error) => error.fault(),
            Self::Index(_) => Fault::Input,
        }
    }
}

/// The layer that makes `upper` of `lower`: what `upper` has and `lower` lacks or has otherwise,
/// removals of what only `lower` has, and the directories on the way.
///
/// Equality is BuildKit's: of directories times do not count; files of equal size, mode, owner,
/// attributes and time are equal, unless their time is in whole seconds, as after unpacking an
/// archive: then the bytes are compared, by checksums that stay with the nodes. What both trees
/// share is not looked at.
///
/// Objects that are hard links of each other in one layer of `upper` are so in the result, as far
/// as they are in it. The root is an entry if anything changed.
///
/// # Errors
/// [`DiffError`]. Cancellation is a [`ChecksumError::Cancelled`] in it.
pub fn diff(lower: &View, upper: &View, cancel: &Cancel) -> Result<Index, DiffError> {
    if lower.same(upper) {
        return Ok(Index::default());
    }
    let mut changes = Changes::default();
    changes.walk(lower, upper, cancel)?;
    changes.compare_bytes(cancel)?;
    changes.keep_parents();
    let root = &mut changes.found[0];
    root.keep |= !same_attributes(lower.root().entry(), upper.root().entry());
    Ok(Index::new(changes.entries())?)
}

/// One object that may become an entry.
struct Found {
    path: TreePath,
    entry: Entry,
    keep: bool,
    /// The directory it is in; the root is in itself.
    parent: usize,
    /// Whose link group it is in.
    files: Option<Arc<dyn Files>>,
}

#[derive(Default)]
struct Changes {
    /// In the order of a walk; the root first.
    found: Vec<Found>,
    /// Places in `found` with the nodes whose bytes have to be compared.
    doubtful: Vec<(usize, Arc<Node>, Arc<Node>)>,
}

/// A directory whose children are being compared.
struct Frame<'a> {
    at: usize,
    lower: &'a [Child],
    upper: &'a [Child],
}

impl<'a> Frame<'a> {
    /// The next name, and what each tree has there.
    #[expect(clippy::type_complexity, reason = "a name and two nodes")]
    fn next(&mut self) -> Option<(&'a [u8], Option<&'a Arc<Node>>, Option<&'a Arc<Node>>)> {
        let order = match (self.lower.first(), self.upper.first()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(lower), Some(upper)) => lower.0.cmp(&upper.0),
        };
        let mut name: &[u8] = &[];
        let mut take = |children: &mut &'a [Child]| {
            let ((first, node), rest) = children.split_first()?;
            (name, *children) = (first, rest);
            Some(node)
        };
        let lower = if order.is_le() {
            take(&mut self.lower)
        } else {
            None
        };
        let upper = if order.is_ge() {
            take(&mut self.upper)
        } else {
            None
        };
        Some((name, lower, upper))
    }
}

impl Changes {
    fn walk(&mut self, lower: &View, upper: &View, cancel: &Cancel) -> Result<(), ChecksumError> {
        // A digest here would be that of a lent directory, which the layer is not.
        let root = Entry {
            digest: None,
            ..upper.root().entry().clone()
        };
        self.push(TreePath::root(), root, false, 0, None);
        let (lower, upper) = (lower.root().children(), upper.root().children());
        let mut frames = vec![Frame {
            at: 0,
            lower,
            upper,
        }];
        while let Some(frame) = frames.last_mut() {
            let Some((name, lower, upper)) = frame.next() else {
                frames.pop();
                cancel.check()?;
                continue;
            };
            let parent = frame.at;
            if let (Some(lower), Some(upper)) = (lower, upper)
                && Arc::ptr_eq(lower, upper)
            {
                continue;
            }
            let Ok(path) = self.found[parent].path.join(name) else {
                continue;
            };
            let Some(upper) = upper else {
                self.push(path, Entry::whiteout(), true, parent, None);
                continue;
            };
            if let Some(next) = self.visit(path, lower, upper, parent) {
                frames.push(next);
            }
        }
        Ok(())
    }

    fn visit<'a>(
        &mut self,
        path: TreePath,
        lower: Option<&'a Arc<Node>>,
        upper: &'a Arc<Node>,
        parent: usize,
    ) -> Option<Frame<'a>> {
        let mut entry = upper.entry().clone();
        let same = lower.is_some_and(|lower| same_attributes(lower.entry(), &entry));
        if entry.is_directory() {
            let replaces = lower.is_some_and(|lower| !lower.entry().is_directory());
            entry.opaque = replaces;
            entry.digest = None;
            let at = self.push(path, entry, !same, parent, None);
            let lower = lower.map_or(&[][..], |lower| lower.children());
            return Some(Frame {
                at,
                lower,
                upper: upper.children(),
            });
        }
        entry.digest = upper.digest_memo().get().copied();
        let group = (entry.link_group != 0)
            .then(|| upper.files().cloned())
            .flatten();
        let bytes = entry.kind == Kind::File && entry.size > 0;
        let whole_seconds = entry.attributes.mtime.nanoseconds == 0;
        let Some(lower) = lower.filter(|lower| same && same_object(lower.entry(), &entry)) else {
            self.push(path, entry, true, parent, group);
            return None;
        };
        if bytes && whole_seconds {
            let at = self.push(path, entry, false, parent, group);
            self.doubtful.push((at, lower.clone(), upper.clone()));
        }
        None
    }

    fn push(
        &mut self,
        path: TreePath,
        entry: Entry,
        keep: bool,
        parent: usize,
        files: Option<Arc<dyn Files>>,
    ) -> usize {
        self.found.push(Found {
            path,
            entry,
            keep,
            parent,
            files,
        });
        self.found.len() - 1
    }

    /// Equal headers make checksums equal exactly if the bytes are.
    fn compare_bytes(&mut self, cancel: &Cancel) -> Result<(), ChecksumError> {
        let mut nodes = Vec::with_capacity(self.doubtful.len() * 2);
        for (at, lower, upper) in &self.doubtful {
            let path = &self.found[*at].path;
            nodes.push((path.clone(), lower.clone()));
            nodes.push((path.clone(), upper.clone()));
        }
        fill(nodes, cancel)?;
        for (at, lower, upper) in std::mem::take(&mut self.doubtful) {
            let digest = upper.digest_memo().get().copied();
            self.found[at].keep = digest.as_ref() != lower.digest_memo().get();
            self.found[at].entry.digest = digest;
        }
        Ok(())
    }

    fn keep_parents(&mut self) {
        for at in (1..self.found.len()).rev() {
            if self.found[at].keep {
                let parent = self.found[at].parent;
                self.found[parent].keep = true;
            }
        }
    }

    /// What is kept, with link groups of this layer.
    fn entries(self) -> Vec<(TreePath, Entry)> {
        let mut groups: HashMap<(usize, u32), Vec<usize>> = HashMap::new();
        let mut entries: Vec<(TreePath, Entry)> = Vec::new();
        for Found {
            path,
            mut entry,
            files,
            ..
        } in self.found.into_iter().filter(|found| found.keep)
        {
            let number = std::mem::take(&mut entry.link_group);
            if let Some(files) = files {
                let layer = Arc::as_ptr(&files).cast::<()>().addr();
                groups
                    .entry((layer, number))
                    .or_default()
                    .push(entries.len());
            }
            entries.push((path, entry));
        }
        let mut groups: Vec<_> = groups
            .into_values()
            .filter(|group| group.len() > 1)
            .collect();
        groups.sort_unstable();
        for (number, group) in (1..).zip(groups) {
            for at in group {
                entries[at].1.link_group = number;
            }
        }
        entries
    }
}

/// All but the time.
fn same_attributes(a: &Entry, b: &Entry) -> bool {
    let (left, right) = (&a.attributes, &b.attributes);
    a.kind == b.kind
        && (left.mode, left.uid, left.gid) == (right.mode, right.uid, right.gid)
        && left.xattrs == right.xattrs
}

/// Of objects with the same attributes, but for the bytes.
fn same_object(a: &Entry, b: &Entry) -> bool {
    (a.size, a.device, &a.target, a.attributes.mtime)
        == (b.size, b.device, &b.target, b.attributes.mtime)
}

#[cfg(test)]
mod tests;
