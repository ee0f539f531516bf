//! What a checksum covers, as a list, and how a tree differs from such a list.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::fill::{fill, known};
use super::{ChecksumError, ChecksumOptions, Located, directory_header, filter, follow};
use crate::cancel::Cancel;
use crate::id::ContentDigest;
use crate::tree::{Node, TreePath, View};

/// One part of what a checksum covers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a path and its checksum")]
pub struct ListedPart {
    /// Where, from the object that was asked for, which is empty; of what patterns select, from
    /// the root.
    pub path: Vec<u8>,
    /// The checksum is of a directory and all below it, and what is below it is not listed. It is
    /// of one object otherwise.
    pub whole: bool,
    /// The checksum.
    pub digest: ContentDigest,
}

/// What [`super::checksum`] of the same arguments covers. Directories are listed breadth first
/// until there are `most` parts. `None` if patterns select more than `most` objects.
///
/// # Errors
/// As for [`super::checksum`].
pub fn list(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    most: usize,
    cancel: &Cancel,
) -> Result<Option<Vec<ListedPart>>, ChecksumError> {
    if options.is_filter() {
        return filter::list(view, path, options, most, cancel);
    }
    let Some((at, top)) = top(view, path, options, cancel)? else {
        return Ok(Some(Vec::new()));
    };
    let mut parts = Vec::new();
    let mut todo = VecDeque::from([(Vec::new(), top.clone())]);
    // Those that are listed, and those that will be.
    let mut count = 1;
    while let Some((path, node)) = todo.pop_front() {
        let children = node.children();
        let whole = node.entry().is_directory() && count + children.len() > most;
        let digest = match node.entry().is_directory() && !whole {
            true => directory_header(&node),
            false => known(&node, at.as_bytes())?,
        };
        if !whole {
            count += children.len();
            let below = children.iter();
            todo.extend(below.map(|(name, child)| (join(&path, name), child.clone())));
        }
        parts.push(ListedPart {
            path,
            whole,
            digest,
        });
    }
    Ok(Some(parts))
}

/// How a tree differs from what was listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "what is compared is there, or not, or another"
)]
pub enum Difference {
    /// Only the tree has it.
    Added,
    /// Only the list has it.
    Removed,
    /// The checksums differ.
    Changed,
}

/// Compares what [`super::checksum`] of the same arguments covers with an earlier list, in which
/// each part has its path, whether it is whole, and a test whether a checksum is the one it had. `tell`
/// gets the paths that differ, as [`ListedPart::path`]; of directories that were removed or added only
/// the topmost.
///
/// # Errors
/// As for [`super::checksum`].
pub fn compare<'a>(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    old: impl Iterator<Item = (&'a [u8], bool, &'a dyn Fn(ContentDigest) -> bool)>,
    cancel: &Cancel,
    mut tell: impl FnMut(&[u8], Difference),
) -> Result<(), ChecksumError> {
    if options.is_filter() {
        return filter::compare(view, path, options, old, cancel, tell);
    }
    let top = top(view, path, options, cancel)?;
    let old: Vec<_> = old.collect();
    let paths: HashSet<&[u8]> = old.iter().map(|(path, ..)| *path).collect();
    let mut removed: HashSet<&[u8]> = HashSet::new();
    for (path, whole, was) in &old {
        let node = top.as_ref().and_then(|(_, top)| below(top, path));
        let Some(node) = node else {
            if !parent(path).is_some_and(|parent| removed.contains(parent)) {
                tell(path, Difference::Removed);
            }
            removed.insert(path);
            continue;
        };
        let digest = match node.entry().is_directory() && !whole {
            true => directory_header(node),
            false => known(node, path)?,
        };
        if !was(digest) {
            tell(path, Difference::Changed);
        }
        if !whole {
            for (name, _) in node.children() {
                let child = join(path, name);
                if !paths.contains(&child[..]) {
                    tell(&child, Difference::Added);
                }
            }
        }
    }
    if let (true, Some(_)) = (old.is_empty(), &top) {
        tell(b"", Difference::Added);
    }
    Ok(())
}

/// The object that was asked for, with all checksums.
fn top(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    cancel: &Cancel,
) -> Result<Option<Located>, ChecksumError> {
    let asked = || path.to_vec();
    let clean = TreePath::clean(path).map_err(|_| ChecksumError::NotFound { path: asked() })?;
    let (at, place) = follow::follow(view, &clean, options.follow_links)
        .map_err(|_| ChecksumError::TooManyLinks { path: asked() })?;
    let follow::Place::Node(node) = place else {
        return Ok(None);
    };
    fill(vec![(at.clone(), node.clone())], cancel)?;
    Ok(Some((at, node.clone())))
}

fn below<'a>(top: &'a Arc<Node>, path: &[u8]) -> Option<&'a Arc<Node>> {
    let mut parts = path
        .split(|&byte| byte == b'/')
        .filter(|part| !part.is_empty());
    parts.try_fold(top, |node, name| node.child(name))
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    let end = path.iter().rposition(|&byte| byte == b'/');
    match end {
        Some(end) => Some(&path[..end]),
        None => (!path.is_empty()).then_some(&path[..0]),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name);
    joined
}
