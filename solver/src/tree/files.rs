//! Where the bytes of regular files are read from.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::{Entry, TreePath};
use crate::id::ContentDigest;

/// The bytes behind the entries of a tree: a layer of the store, or a directory lent by the
/// caller. Every node of a view knows its own.
pub trait Files: Send + Sync + fmt::Debug {
    /// Opens the regular file at `path` for reading, never following a symbolic link in any
    /// component, never blocking on a pipe.
    ///
    /// # Errors
    /// As the operating system says; something that is not a regular file is
    /// [`io::ErrorKind::InvalidData`].
    fn open(&self, path: &TreePath) -> io::Result<File>;

    /// Whether the bytes can never change. If not, a copy must hash what it reads and compare.
    fn immutable(&self) -> bool;

    /// Opens the directory at `path`, if the files are in directories: regular files directly in it
    /// have the names and bytes they have here, and may be hard linked from there if they are
    /// [`immutable`](Files::immutable). `None` by default: each file is then opened by its path.
    ///
    /// # Errors
    /// As the operating system says.
    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        let _unused = path;
        Ok(None)
    }

    /// If the files are those of a directory that a caller lends: what stands for that directory,
    /// the same each time it is lent the same way. Who looks at the files may remember by it what
    /// it made of them. `None` by default.
    fn lent(&self) -> Option<[u8; 32]> {
        None
    }

    /// Hears the checksum of an entry once it was computed from bytes read through
    /// [`Files::open`], so that it need not be computed again. Does nothing by default.
    fn computed(&self, path: &TreePath, entry: &Entry, digest: ContentDigest) {
        let _unused = (path, entry, digest);
    }
}
