//! Mount points that had to be created, and their removal after the process.
//!
//! Owns: the record of what the sandbox created in the writable layer only to mount something on
//! it, and the one safe way to take it away again. A process may have swapped a stub for anything
//! by then, so that removal never follows a link and never removes what has content.

use crate::SandboxError;
use rustix::fs::{
    self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT,
};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// How often a path is resolved at most.
const ATTEMPTS: usize = 10_000;

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
    let mut removed = 0;
    // The last created is the deepest.
    for stub in stubs.iter().rev() {
        match remove(upper, stub) {
            Ok(true) => removed += 1,
            Ok(false) => {}
            Err(errno) => {
                let (path, source) = (stub.path.clone(), errno.into());
                return Err(SandboxError::RemoveStub { path, source });
            }
        }
    }
    Ok(removed)
}

/// False: it is not, or no longer, a stub.
fn remove(upper: BorrowedFd<'_>, stub: &Stub) -> rustix::io::Result<bool> {
    let Some(name) = stub.path.file_name() else {
        return Ok(false);
    };
    let Some(parent) = open_parent(upper, stub)? else {
        return Ok(false);
    };
    let found = match fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    };
    let flags = match (stub.kind, FileType::from_raw_mode(found.st_mode)) {
        (StubKind::File, FileType::RegularFile) if found.st_size == 0 => AtFlags::empty(),
        (StubKind::Directory, FileType::Directory) => AtFlags::REMOVEDIR,
        _ => return Ok(false),
    };
    let before = fs::fstat(&parent)?;
    let removed = match fs::unlinkat(&parent, name, flags) {
        // An ordinary user's process made the directory read-only, which does not stop root.
        Err(Errno::ACCESS) => {
            let mode = Mode::from_raw_mode(before.st_mode);
            fs::fchmod(&parent, mode | Mode::RWXU)?;
            let removed = fs::unlinkat(&parent, name, flags);
            fs::fchmod(&parent, mode)?;
            removed
        }
        removed => removed,
    };
    match removed {
        Ok(()) => {}
        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => return Ok(false),
        Err(errno) => return Err(errno),
    }
    // If nothing but the stub changed the directory, it is as old as before the stub.
    let seen = (
        before.st_mtime,
        u32::try_from(before.st_mtime_nsec).unwrap_or(0),
    );
    let (seconds, nanoseconds) = if seen == stub.parent_after {
        stub.parent_before
    } else {
        seen
    };
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanoseconds.into(),
        },
    };
    fs::futimens(&parent, &times)?;
    Ok(true)
}

/// The directory the stub was created in; `None` if the process replaced it.
fn open_parent(upper: BorrowedFd<'_>, stub: &Stub) -> rustix::io::Result<Option<OwnedFd>> {
    let parent = match stub.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    // The kernel asks again if anything on the machine is renamed or mounted meanwhile.
    for _ in 0..ATTEMPTS {
        opened = fs::openat2(upper, parent, flags, Mode::empty(), inside);
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
    }
    if matches!(opened, Err(Errno::NOSYS | Errno::PERM)) {
        opened = step_by_step(upper, parent, flags);
    }
    match opened {
        Ok(parent) => Ok(Some(parent)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The same where the kernel, or what watches over the process, does not know the call.
fn step_by_step(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut here = fs::openat(root, c".", way, Mode::empty())?;
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => here = fs::openat(&here, name, way, Mode::empty())?,
            _ => return Err(Errno::XDEV),
        }
    }
    fs::openat(here, c".", flags, Mode::empty())
}

#[cfg(test)]
#[test]
fn a_walk_stays_inside_and_follows_no_link() {
    let temp = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temp.path().join("root/a/b")).unwrap();
    std::os::unix::fs::symlink("a", temp.path().join("root/link")).unwrap();
    let root = std::fs::File::open(temp.path().join("root")).unwrap();
    let open = |path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        step_by_step(std::os::fd::AsFd::as_fd(&root), Path::new(path), flags).map(drop)
    };
    assert_eq!(open("a/b"), Ok(()));
    assert_eq!(open("."), Ok(()));
    assert_eq!(open("a/c"), Err(Errno::NOENT));
    assert_eq!(open("link/b"), Err(Errno::NOTDIR));
    assert_eq!(open("a/../../root"), Err(Errno::XDEV));
    assert_eq!(open("/"), Err(Errno::XDEV));
}
