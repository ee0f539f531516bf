//! The mark by which a layer directory removes something of the layers below.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, XattrFlags, fsetxattr, mknodat};
use rustix::io::Errno;
use rustix::path::Arg;

/// Why there can be no whiteouts.
#[derive(Debug, thiserror::Error)]
#[error(
    "the file system of the state root cannot hold removals: put the state root on ext4, xfs, \
     btrfs or tmpfs, not on an overlay (inside a container: on a volume)"
)]
struct NoWhiteouts;

/// Makes a whiteout in a directory of a layer.
///
/// The directory gets the mark of a directory that was copied up, with no origin. Without it the
/// kernel lists a directory that only one of the mounted layers has as it is on disk, and a name
/// that cannot be looked up would show: after a merge a layer may be far from its base.
pub(crate) fn make_whiteout(
    directory: BorrowedFd<'_>,
    name: impl Arg,
    privileged: bool,
) -> io::Result<()> {
    // Linux lets everybody make this one device, but not where it would be one of its own.
    match mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => {
            let kind = io::ErrorKind::PermissionDenied;
            return Err(io::Error::new(kind, NoWhiteouts));
        }
        made => made?,
    }
    Ok(mark(directory, privileged)?)
}

/// Marks a directory that has whiteouts in it.
fn mark(directory: BorrowedFd<'_>, privileged: bool) -> Result<(), Errno> {
    let name = if privileged {
        "trusted.overlay.origin"
    } else {
        "user.overlay.origin"
    };
    match fsetxattr(directory, name, b"", XattrFlags::CREATE) {
        // It has the mark already, or there are no marks, and no overlay mounts, on this disk.
        Err(Errno::EXIST | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}
