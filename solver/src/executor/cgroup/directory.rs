//! A directory of a hierarchy: making groups in it, reading and writing their files.
//!
//! Works through a handle and knows nothing of where it is, so that a plain directory can play the
//! part of a hierarchy in tests. Files that a kernel would have made are made by writing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::CgroupError;

/// Bytes of a file of a group that are read at most.
const MAX_FILE: usize = 64 << 10;

/// An open group, or the top of a hierarchy.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) fd: OwnedFd,
    /// For messages.
    pub(super) path: PathBuf,
}

fn failed(action: &'static str, path: PathBuf) -> impl FnOnce(Errno) -> CgroupError {
    move |errno| CgroupError::Io {
        action,
        path,
        source: errno.into(),
    }
}

const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

impl Directory {
    /// Opens `path`, which is trusted.
    pub(super) fn open(path: &Path) -> Result<Self, CgroupError> {
        let fd = openat(CWD, path, OPEN, Mode::empty());
        let fd = fd.map_err(failed("open", path.to_owned()))?;
        let path = path.to_owned();
        Ok(Self { fd, path })
    }

    /// Opens a directory in this one. `name` is one component.
    pub(super) fn child(&self, name: &str) -> Result<Self, CgroupError> {
        let path = self.path.join(name);
        let fd = openat(&self.fd, name, OPEN, Mode::empty());
        let fd = fd.map_err(failed("open", path.clone()))?;
        Ok(Self { fd, path })
    }

    /// The same; made if it is missing.
    pub(super) fn child_or_new(&self, name: &str) -> Result<Self, CgroupError> {
        match mkdirat(&self.fd, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => self.child(name),
            Err(errno) => Err(failed("make", self.path.join(name))(errno)),
        }
    }

    pub(super) fn remove(&self, name: &str) -> rustix::io::Result<()> {
        unlinkat(&self.fd, name, AtFlags::REMOVEDIR)
    }

    /// Takes a lock that others can see; `false` if somebody has it.
    pub(super) fn lock(&self, operation: FlockOperation) -> bool {
        flock(&self.fd, operation).is_ok()
    }

    pub(super) fn write(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        let open = self.open_for_writing(file)?;
        let written = rustix::io::write(&open, value.as_bytes());
        match written.map_err(failed("write", self.path.join(file)))? {
            length if length == value.len() => Ok(()),
            _ => Err(failed("write", self.path.join(file))(Errno::IO)),
        }
    }

    /// Opens a file of the group, such as `cgroup.procs`.
    pub(super) fn open_for_writing(&self, file: &str) -> Result<OwnedFd, CgroupError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let open = openat(&self.fd, file, flags, Mode::from_raw_mode(0o644));
        open.map_err(failed("write", self.path.join(file)))
    }

    /// A file's text; `None` if it cannot be read.
    pub(super) fn read(&self, file: &str) -> Option<String> {
        read(self.fd.as_fd(), file).ok()
    }

    /// The names of what is in it.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    }
}

fn read(dir: std::os::fd::BorrowedFd<'_>, file: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat(dir, file, flags, Mode::empty())?;
    let mut text = vec![0; MAX_FILE];
    let mut filled = 0;
    while filled < text.len() {
        match rustix::io::read(&file, &mut text[filled..])? {
            0 => break,
            length => filled += length,
        }
    }
    text.truncate(filled);
    Ok(String::from_utf8_lossy(&text).into_owned())
}
