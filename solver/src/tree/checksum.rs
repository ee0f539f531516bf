//! Checksums of content, as `cache/contenthash` of BuildKit computes them.
//!
//! Owns the checksum of one object ([`FileHasher`], [`file_digest`]) and of parts of a tree
//! ([`checksum`]), and what a checksum covers as a list ([`list`], [`compare`]). They depend on names, kinds, modes, owners, link targets, extended attributes
//! and bytes; not on times.
//!
//! Invariants:
//! - The digests equal BuildKit's, so that caches made by either are hit by the other.
//! - What was computed stays with the node of the view, so that a tree costs only what changed in
//!   it since the last time, and a file is read once.
//! - No recursion: a tree may be deeper than a thread's stack.
//!
//! Leaves to others: which checksums a cache key is made of (`ops`).

mod fill;
mod filter;
mod follow;
mod hasher;
mod list;

use std::io;
use std::sync::Arc;

use ashlar_llb::patterns::BadPattern;

pub(super) use fill::fill;
pub use hasher::{FileHasher, file_digest};
pub use list::{Difference, ListedPart, compare, list};

use super::{Node, TreePath, View};
use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame, Fault};
use crate::id::ContentDigest;

/// What [`checksum`] covers. By default: the object at the path and all below it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChecksumOptions {
    /// A symbolic link stands for what it leads to; only at the top: links inside a directory are
    /// always links.
    pub follow_links: bool,
    /// The path is a pattern of Go's `path.Match`.
    pub wildcard: bool,
    /// Only what these patterns of `.dockerignore` match; empty means everything. Relative to the
    /// path.
    pub include: Arc<[String]>,
    /// Not what these patterns of `.dockerignore` match. Relative to the path.
    pub exclude: Arc<[String]>,
    /// Each of these must be the beginning of an absolute path that is covered. Looked at only
    /// together with `wildcard`, `include` or `exclude`, as in BuildKit.
    pub required: Arc<[String]>,
}

impl ChecksumOptions {
    /// Whether it is patterns that select what counts.
    fn is_filter(&self) -> bool {
        self.wildcard || !self.include.is_empty() || !self.exclude.is_empty()
    }
}

/// Why there is no checksum.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksumError {
    /// Nothing is there.
    #[error("{}: not found", String::from_utf8_lossy(path))]
    NotFound {
        /// The path that was asked for, or the required path.
        path: Vec<u8>,
    },
    /// Something on the way is not a directory.
    #[error("{}: not a directory", String::from_utf8_lossy(path))]
    NotADirectory {
        /// The path that was asked for.
        path: Vec<u8>,
    },
    /// More than 255 symbolic links were followed.
    #[error("{}: too many links", String::from_utf8_lossy(path))]
    TooManyLinks {
        /// The path that was asked for.
        path: Vec<u8>,
    },
    /// A pattern is malformed.
    #[error("a pattern of the path, the include or the exclude list is malformed")]
    Pattern(#[source] BadPattern),
    /// The bytes of a file could not be read, or are not as many as the tree tells.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: TreePath,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// The work was cancelled.
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
}

impl Blame for ChecksumError {
    fn fault(&self) -> Fault {
        match self {
            Self::Read { source, .. } if source.kind() != io::ErrorKind::InvalidData => {
                Fault::Environment
            }
            _ => Fault::Input,
        }
    }
}

/// The checksum of what is at `path` in a tree: `Checksum` of BuildKit's `cache/contenthash`.
///
/// Without wildcard and patterns it is that of one object, for a directory of all below it;
/// `path` may go through links. Otherwise it is that of the list of all objects that match, in
/// which directories count with their attributes only. If nothing matches, it is that of no bytes.
/// A `/` at the end of `path` leaves out the attributes of the directory itself.
///
/// File digests that the view does not know yet are computed, with two threads if they are many.
///
/// # Errors
/// [`ChecksumError`]. Cancellation is noticed between files.
pub fn checksum(
    view: &View,
    path: &[u8],
    options: &ChecksumOptions,
    cancel: &Cancel,
) -> Result<ContentDigest, ChecksumError> {
    if options.is_filter() {
        return filter::checksum(view, path, options, cancel);
    }
    let asked = || path.to_vec();
    let clean = TreePath::clean(path).map_err(|_| ChecksumError::NotFound { path: asked() })?;
    let (at, place) = follow::follow(view, &clean, options.follow_links)
        .map_err(|_| ChecksumError::TooManyLinks { path: asked() })?;
    match place {
        follow::Place::Node(node) => {
            fill(vec![(at, node.clone())], cancel)?;
            fill::known(node, path)
        }
        follow::Place::BelowFile => Err(ChecksumError::NotADirectory { path: asked() }),
        follow::Place::Missing => Err(ChecksumError::NotFound { path: asked() }),
    }
}

/// What is at `path`, if its [`checksum`] is known already: neither patterns are looked for nor files
/// read.
pub fn at_hand<'a>(view: &'a View, path: &[u8], options: &ChecksumOptions) -> Option<&'a Node> {
    if options.is_filter() {
        return None;
    }
    let clean = TreePath::clean(path).ok()?;
    match follow::follow(view, &clean, options.follow_links).ok()?.1 {
        follow::Place::Node(node) => node.digest_memo().get().map(|_| &**node),
        follow::Place::Missing | follow::Place::BelowFile => None,
    }
}

/// The checksum of what is at `path` where there is no tree at all (scratch).
///
/// # Errors
/// [`ChecksumError::NotFound`] unless `path` is `/`, whatever the options, as in BuildKit.
pub fn checksum_of_nothing(path: &[u8]) -> Result<ContentDigest, ChecksumError> {
    if path == b"/" {
        Ok(ContentDigest::of(b""))
    } else {
        Err(ChecksumError::NotFound {
            path: path.to_vec(),
        })
    }
}

/// The checksum of the attributes of a directory alone.
fn directory_header(node: &Node) -> ContentDigest {
    node.entry()
        .digest
        .unwrap_or_else(|| FileHasher::new(node.entry()).finish())
}

/// A digest as it goes into other digests.
fn digest_text(digest: ContentDigest) -> [u8; 71] {
    let mut text = *b"sha256:0000000000000000000000000000000000000000000000000000000000000000";
    for (pair, byte) in text[7..].chunks_exact_mut(2).zip(digest.as_bytes()) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

/// A node and the place it has in the tree.
pub(super) type Located = (TreePath, Arc<Node>);

#[cfg(test)]
mod tests;
