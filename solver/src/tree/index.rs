//! The entries of one layer.
//!
//! Owns [`Index`]: what a layer says about its objects, including what it removes from the layers
//! below. An index is written last, so that its existence means that the layer is complete.
//!
//! Invariants:
//! - Entries are in the order of a walk: by component, a directory before what is in it; each
//!   path once; nothing below an entry that is not a directory.
//! - Normal form: removals are explicit whiteouts, and a directory is opaque only where it
//!   replaces something that is not a directory.
//! - No path is longer than [`MAX_PATH`], so no tree is deeper than half of that.
//!
//! Leaves to others: where the bytes of files are (`Files`), and where indexes are stored
//! (`snapshot`).

mod codec;
mod stack;

use std::sync::Arc;

use super::view::walk_order;
use super::{Entry, Files, Kind, TreePath, View};
use crate::id::ContentDigest;

/// Bytes of the longest path that a layer may contain; what Linux calls `PATH_MAX`.
pub const MAX_PATH: usize = 4096;

/// The entries of one layer in the order of a walk.
///
/// The root of the tree may be the first entry (the empty path); it tells the attributes of the
/// root directory. A directory that the layer does not change but has something changed in is an
/// entry too, with the attributes it has in the layer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    entries: Vec<(TreePath, Entry)>,
}

/// Why entries or bytes are not an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The bytes do not start as an index does.
    #[error("this is not the index of a layer")]
    NotAnIndex,
    /// The bytes are an index of another version of the format.
    #[error("the index has format {version}; this version reads format 1")]
    Version {
        /// The version it has.
        version: u8,
    },
    /// The bytes are not those that were written.
    #[error("the index is damaged: its checksum is wrong")]
    Checksum,
    /// The bytes do not follow the format.
    #[error("the index is malformed at byte {offset}: {problem}")]
    Malformed {
        /// Where, counted from the first byte.
        offset: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// An entry does not come after the one before it.
    #[error("{path} is out of order or there twice")]
    Order {
        /// The second of the two.
        path: TreePath,
    },
    /// A path is longer than [`MAX_PATH`].
    #[error("the path starting with {start} has {length} bytes; at most {MAX_PATH} are possible")]
    PathTooLong {
        /// The first component.
        start: String,
        /// Bytes of the path.
        length: usize,
    },
    /// An entry is below another entry that is not a directory.
    #[error("{path} is below something that is not a directory")]
    Below {
        /// The lower one.
        path: TreePath,
    },
    /// An entry has values that contradict each other or are out of range.
    #[error("{path}: {problem}")]
    Entry {
        /// Which entry.
        path: TreePath,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Index {
    /// Takes entries that are in the order of a walk.
    ///
    /// # Errors
    /// [`IndexError`] if they are not, or if one of them cannot be.
    pub fn new(entries: Vec<(TreePath, Entry)>) -> Result<Self, IndexError> {
        let mut previous: Option<&TreePath> = None;
        let mut closed: Option<&TreePath> = None;
        for (path, entry) in &entries {
            if previous.is_some_and(|previous| walk_order(previous, path).is_ge()) {
                return Err(IndexError::Order { path: path.clone() });
            }
            if path.as_bytes().len() > MAX_PATH {
                let start = path.components().next().unwrap_or_default();
                let start = String::from_utf8_lossy(&start[..start.len().min(100)]).into_owned();
                return Err(IndexError::PathTooLong {
                    start,
                    length: path.as_bytes().len(),
                });
            }
            if closed.is_some_and(|closed| path.starts_with(closed)) {
                return Err(IndexError::Below { path: path.clone() });
            }
            if let Some(problem) = problem(path, entry) {
                return Err(IndexError::Entry {
                    path: path.clone(),
                    problem,
                });
            }
            if !entry.is_directory() {
                closed = Some(path);
            }
            previous = Some(path);
        }
        Ok(Self { entries })
    }

    /// As [`Index::new`], after putting the entries in order. Of equal paths the last stays.
    ///
    /// # Errors
    /// [`IndexError`] if one of the entries cannot be.
    pub fn sorted(mut entries: Vec<(TreePath, Entry)>) -> Result<Self, IndexError> {
        entries.sort_by(|a, b| walk_order(&a.0, &b.0));
        entries.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self::new(entries)
    }

    /// The entries in the order of a walk.
    pub fn entries(&self) -> &[(TreePath, Entry)] {
        &self.entries
    }

    /// Gives the entries back.
    pub fn into_entries(self) -> Vec<(TreePath, Entry)> {
        self.entries
    }

    /// Whether the layer changes nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry at `path`.
    pub fn lookup(&self, path: &TreePath) -> Option<&Entry> {
        self.position(path).map(|(_, entry)| entry)
    }

    /// The entry at `path`, and how many are before it.
    pub fn position(&self, path: &TreePath) -> Option<(usize, &Entry)> {
        let at = self
            .entries
            .binary_search_by(|(other, _)| walk_order(other, path))
            .ok()?;
        Some((at, &self.entries[at].1))
    }

    /// Bytes that the files of the layer take on disk, each group of hard links once.
    pub fn allocated(&self) -> u64 {
        let mut groups = std::collections::HashSet::new();
        self.entries
            .iter()
            .filter(|(_, entry)| entry.link_group == 0 || groups.insert(entry.link_group))
            .fold(0_u64, |sum, (_, entry)| sum.saturating_add(entry.allocated))
    }

    /// Remembers the checksum of the file, link or node at `path`. Returns whether there is such
    /// an entry.
    pub fn set_digest(&mut self, path: &TreePath, digest: ContentDigest) -> bool {
        let Ok(at) = self
            .entries
            .binary_search_by(|(other, _)| walk_order(other, path))
        else {
            return false;
        };
        let entry = &mut self.entries[at].1;
        let possible = !matches!(entry.kind, Kind::Directory | Kind::Whiteout);
        if possible {
            entry.digest = Some(digest);
        }
        possible
    }

    /// Writes the index: a version, a checksum and the entries. Equal indexes give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        codec::encode(&self.entries)
    }

    /// Reads what [`Index::encode`] wrote. Takes memory in proportion to the entries, whatever
    /// the bytes say.
    ///
    /// # Errors
    /// [`IndexError`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, IndexError> {
        Self::new(codec::decode(bytes)?)
    }

    /// The tree of this layer on top of `base`: whiteouts remove, directories merge unless they
    /// are opaque, everything else replaces what was there. `files` is where the bytes of this
    /// layer are. What the layer does not touch is shared with `base`.
    ///
    /// A parent directory without an entry keeps its attributes; if there is none in `base`, it
    /// has mode 0755, belongs to root and is of 1970.
    #[must_use]
    pub fn onto(&self, base: &View, files: Arc<dyn Files>) -> View {
        stack::onto(&self.entries, base, &files)
    }
}

/// What is impossible about an entry.
fn problem(path: &TreePath, entry: &Entry) -> Option<&'static str> {
    let Entry {
        kind,
        attributes,
        size,
        device,
        target,
        link_group,
        allocated,
        digest,
        opaque,
    } = entry;
    let device_file = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
    let numbers = (device.major, device.minor);
    let overlay = |name: &[u8]| is_overlay_xattr(name);
    if path.is_root() && *kind != Kind::Directory {
        Some("the root is not a directory")
    } else if attributes.mode > 0o7777 {
        Some("the mode is more than permission bits")
    } else if attributes.uid == u32::MAX || attributes.gid == u32::MAX {
        Some("the owner is out of range")
    } else if attributes.mtime.nanoseconds >= 1_000_000_000 {
        Some("the time has more than a second of nanoseconds")
    } else if (*size != 0 || *allocated != 0) && *kind != Kind::File {
        Some("only regular files have a size")
    } else if target.is_empty() == (*kind == Kind::Symlink) {
        Some("symbolic links have a target, and only they")
    } else if target.contains(&0) {
        Some("the target contains a NUL byte")
    } else if numbers != (0, 0) && !device_file {
        Some("only device files have a device number")
    } else if numbers == (0, 0) && *kind == Kind::CharDevice {
        Some("a character device 0:0 would be a whiteout")
    } else if *opaque && *kind != Kind::Directory {
        Some("only directories are opaque")
    } else if *link_group != 0 && matches!(kind, Kind::Directory | Kind::Whiteout) {
        Some("directories and whiteouts have no hard links")
    } else if digest.is_some()
        && (*kind == Kind::Whiteout || *kind == Kind::Directory && !path.is_root())
    {
        Some("directories and whiteouts have no checksum")
    } else if *kind == Kind::Whiteout && *attributes != super::Attributes::default() {
        Some("a whiteout has no attributes")
    } else if attributes
        .xattrs
        .iter()
        .any(|(name, _)| name.is_empty() || overlay(name))
    {
        Some("an extended attribute is without name or belongs to the overlay file system")
    } else {
        None
    }
}

/// Whether an extended attribute means something to the overlay file system. Such attributes are
/// dropped from everything that comes from outside: they would let a layer look into others.
pub fn is_overlay_xattr(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

#[cfg(test)]
pub(super) mod tests;
