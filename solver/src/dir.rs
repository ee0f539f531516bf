//! Directory handles: the only way the engine reaches files whose names come from outside.
//!
//! Owns opening below a directory without ever leaving it, and extended attributes of objects
//! that are known by directory and name.
//!
//! Invariants:
//! - **No symbolic link is followed**, in no component.
//! - **Nothing blocks on what it opens**: pipes and devices are refused, not waited for.
//!
//! Leaves to others: what the names mean (`tree`), and whose directories they are.

mod xattr;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::path::Arg;

pub use xattr::{Xattr, remove_xattr, set_xattr, xattrs};

/// Flags of every directory handle.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Flags of every file opened for reading.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY);

/// How often a path is resolved at most; each time takes about a microsecond.
const ATTEMPTS: usize = 10_000;

/// A name as the system calls take it.
pub fn name(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

/// Opens the directory at `path` below `root`; the empty path is `root` itself. `path` has no
/// empty, `.` or `..` components.
///
/// # Errors
/// As the operating system says; `ELOOP` or `ENOTDIR` for a symbolic link on the way.
pub fn open_directory(root: impl AsFd, path: &[u8]) -> io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    Ok(open_beneath(root.as_fd(), path, DIRECTORY)?)
}

/// Opens the regular file at `path` below `root` for reading.
///
/// # Errors
/// As the operating system says; [`io::ErrorKind::InvalidData`] for anything but a regular file.
pub fn open_file(root: impl AsFd, path: &[u8]) -> io::Result<File> {
    open_file_and_stat(root, path).map(|(file, _)| file)
}

/// As [`open_file`], with what the system says of the file.
///
/// # Errors
/// As [`open_file`].
pub fn open_file_and_stat(root: impl AsFd, path: &[u8]) -> io::Result<(File, Stat)> {
    let file = match open_beneath(root.as_fd(), path, FILE) {
        Ok(file) => File::from(file),
        // A symbolic link, a socket or a device without driver: not a regular file.
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(not_a_file()),
        Err(error) => return Err(error.into()),
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(not_a_file());
    }
    Ok((file, stat))
}

fn not_a_file() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a regular file")
}

fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    if !path.contains(&b'/') {
        return openat(root, name(path), flags, Mode::empty());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2_again(root, name(path), flags, resolve) {
        // An old kernel, a sandbox that does not know the call, a path too long for one call, a
        // machine too busy.
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG | Errno::AGAIN) => {
            step_by_step(root, path, flags)
        }
        other => other,
    }
}

/// `openat2`, again while the kernel asks for that: it cannot tell whether a path stays inside if
/// anything on the machine is renamed or mounted meanwhile.
pub(crate) fn openat2_again(
    root: BorrowedFd<'_>,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    for _ in 0..ATTEMPTS {
        match openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

fn step_by_step(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here: Option<OwnedFd> = None;
    let mut parts = path.split(|&byte| byte == b'/').peekable();
    while let Some(part) = parts.next() {
        if matches!(part, b"" | b"..") {
            return Err(Errno::INVAL);
        }
        let at = here.as_ref().map_or(root, |fd| fd.as_fd());
        let flags = if parts.peek().is_some() { way } else { flags };
        here = Some(openat(at, name(part), flags, Mode::empty())?);
    }
    here.ok_or(Errno::INVAL)
}

/// Sets the mode of an object, which is no symbolic link, whatever its mode is now.
///
/// # Errors
/// As the operating system says; `ELOOP` for a symbolic link.
pub fn set_mode(directory: BorrowedFd<'_>, at: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = openat(directory, name(at), flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&handle)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP.into());
    }
    // The kernel changes no mode through such a handle itself.
    let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

/// The path of an object for the calls that take no directory handle. The object itself may be a
/// symbolic link, which such calls must not follow; what leads to it cannot be exchanged.
fn proc_path(directory: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests;
