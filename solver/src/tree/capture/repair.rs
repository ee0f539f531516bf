//! Bringing an upper directory to normal form on disk.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, Timespec, Timestamps, UTIME_OMIT, futimens, unlinkat};

use super::upper::{Fix, Upper};
use super::{CaptureError, CaptureOptions, failed};
use crate::dir;
use crate::tree::Timestamp;
use crate::tree::whiteout::make_whiteout;

/// Does what was written down, from the leaves up, and restores the times of directories.
pub(super) fn repair(
    fs: BorrowedFd<'_>,
    upper: &Upper,
    options: &CaptureOptions,
) -> Result<(), CaptureError> {
    for directory in upper
        .directories
        .iter()
        .rev()
        .filter(|one| !one.fixes.is_empty())
    {
        options.cancel.check()?;
        let path = &directory.path;
        let handle = dir::open_directory(fs, path.as_bytes()).map_err(failed("open", path))?;
        for fix in &directory.fixes {
            apply(handle.as_fd(), fix, options).map_err(failed("clean up", path))?;
        }
        let gone = directory.found.is_some_and(|at| !upper.found[at].keep);
        if !gone {
            set_mtime(handle.as_fd(), directory.mtime)
                .map_err(failed("restore the time of", path))?;
        }
    }
    Ok(())
}

fn apply(directory: BorrowedFd<'_>, fix: &Fix, options: &CaptureOptions) -> io::Result<()> {
    match fix {
        Fix::Unlink(name) => unlinkat(directory, dir::name(name), AtFlags::empty())?,
        Fix::RemoveDirectory(name) => unlinkat(directory, dir::name(name), AtFlags::REMOVEDIR)?,
        Fix::MakeWhiteout(name) => {
            make_whiteout(directory, &**name, options.single_id.is_none())?;
        }
        Fix::ClearOpaque => dir::remove_xattr(directory, b".", options.opaque_mark())?,
        Fix::SetOpaque => {
            if !dir::set_xattr(directory, b".", options.opaque_mark(), b"y")? {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
        }
    }
    Ok(())
}

pub(super) fn set_mtime(directory: BorrowedFd<'_>, mtime: Timestamp) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.seconds,
            tv_nsec: mtime.nanoseconds.into(),
        },
    };
    Ok(futimens(directory, &times)?)
}
