//! Removing a tree that a build made: it may be thousands of directories deep, closed to its own
//! owner, and full of links.
//!
//! Invariants:
//! - **No recursion, few descriptors**: [`OPEN`] directories are open at most; a parent that was
//!   closed is found again through `..`, and only if it is the same directory as before.
//! - **Nothing is tried without end**: an object that cannot be removed is left, and so are the
//!   directories that lead to it.
//! - **No link is followed and no other file system entered.**
//! - Modes change only where removing was refused for them.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, fchmod, fstat, openat, seek,
    unlinkat,
};
use rustix::io::Errno;

/// How many directories of the way down are kept open.
const OPEN: usize = 16;

/// Bytes of a directory that are read at once.
const BUFFER: usize = 32 << 10;

/// How often a directory is read again that was not empty after all: files may be skipped while
/// others are removed, and somebody may still add some.
const ROUNDS: u32 = 8;

/// Removes a file or a whole directory below `dir`, following no link, making directories
/// writable where a step left them otherwise. What is mounted inside stays.
///
/// # Errors
/// The first refusal of the operating system; the rest is removed all the same.
pub fn remove_tree(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> io::Result<()> {
    let name = CString::new(name.as_ref().as_bytes())?;
    match unlinkat(dir, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        // What some file systems say for a directory.
        Err(error @ Errno::PERM) => match is_directory(dir, &name) {
            true => {}
            false => return Err(error.into()),
        },
        Err(error) => return Err(error.into()),
    }
    Remover {
        base: dir,
        way: Vec::new(),
        first: None,
        buffer: Vec::with_capacity(BUFFER),
    }
    .run(name)
}

/// A directory that is being emptied.
struct Level {
    name: CString,
    /// `None`: closed to save descriptors.
    open: Option<OwnedFd>,
    /// Device and inode.
    identity: (u64, u64),
    /// Directories below that were not empty.
    todo: Vec<CString>,
    /// Something below cannot be removed.
    stuck: bool,
    /// Whether the mode was set already.
    opened_up: bool,
    rounds: u32,
}

struct Remover<'a> {
    base: BorrowedFd<'a>,
    way: Vec<Level>,
    /// The first refusal.
    first: Option<Errno>,
    buffer: Vec<u8>,
}

impl Remover<'_> {
    fn run(mut self, name: CString) -> io::Result<()> {
        self.descend(name);
        while let Some(level) = self.way.last_mut() {
            match level.todo.pop() {
                Some(child) => self.descend(child),
                None => self.ascend()?,
            }
        }
        self.first.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Notes that something cannot be removed.
    fn refuse(&mut self, error: Errno) {
        self.first.get_or_insert(error);
        if let Some(level) = self.way.last_mut() {
            level.stuck = true;
        }
    }

    /// Opens a directory and removes what is not one from it.
    fn descend(&mut self, name: CString) {
        let opened = {
            let parent = self.way.last().and_then(|level| level.open.as_ref());
            open_or_unlock(parent.map_or(self.base, |fd| fd.as_fd()), &name)
        };
        let level = opened.and_then(|fd| {
            let data = fstat(&fd)?;
            let identity = (data.st_dev, data.st_ino);
            let (todo, open) = (Vec::new(), Some(fd));
            let (stuck, opened_up, rounds) = (false, false, 0);
            Ok(Level {
                name,
                open,
                identity,
                todo,
                stuck,
                opened_up,
                rounds,
            })
        });
        match level {
            Ok(level) => {
                if let Some(far) = self.way.len().checked_sub(OPEN - 1) {
                    self.way[far].open = None;
                }
                self.way.push(level);
                self.empty();
            }
            // Somebody else was faster.
            Err(Errno::NOENT) => {}
            Err(error) => self.refuse(error),
        }
    }

    /// Removes everything from the last level that is not a directory with something in it.
    fn empty(&mut self) {
        let Some(level) = self.way.last_mut() else {
            return;
        };
        let Some(fd) = &level.open else { return };
        let mut first = seek(fd, SeekFrom::Start(0)).err();
        self.buffer.clear();
        let space: &mut [MaybeUninit<u8>] = self.buffer.spare_capacity_mut();
        let mut entries = RawDir::new(fd, space);
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    first.get_or_insert(error);
                    break;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let known = entry.file_type() == FileType::Directory;
            match remove_one(fd, name, known, &mut level.opened_up) {
                Ok(true) => {}
                Ok(false) => level.todo.push(name.to_owned()),
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        if let Some(error) = first {
            self.refuse(error);
        }
    }

    /// Leaves the last level, removing it if nothing in it was refused.
    ///
    /// Only being lost ends the work: the directory above is not where it was.
    fn ascend(&mut self) -> io::Result<()> {
        let Some(level) = self.way.pop() else {
            return Ok(());
        };
        if let Some(parent) = self.way.last_mut()
            && parent.open.is_none()
            && let Some(fd) = &level.open
        {
            let open = parent_of(fd)?;
            let data = fstat(&open)?;
            if (data.st_dev, data.st_ino) != parent.identity {
                return Err(self.first.unwrap_or(Errno::STALE).into());
            }
            parent.open = Some(open);
        }
        if level.stuck {
            if let Some(parent) = self.way.last_mut() {
                parent.stuck = true;
            }
            return Ok(());
        }
        let mut unused = true;
        let (parent, opened_up) = match self.way.last_mut() {
            Some(Level {
                open: Some(fd),
                opened_up,
                ..
            }) => {
                let fd: &OwnedFd = fd;
                (fd.as_fd(), opened_up)
            }
            // The mode of the directory that the caller gave is the caller's.
            _ => (self.base, &mut unused),
        };
        match remove_one(parent, &level.name, true, opened_up) {
            Ok(true) => {}
            Ok(false) if level.rounds < ROUNDS => {
                let rounds = level.rounds + 1;
                self.way.push(Level { rounds, ..level });
                self.empty();
            }
            Ok(false) => self.refuse(Errno::NOTEMPTY),
            Err(error) => self.refuse(error),
        }
        Ok(())
    }
}

/// Removes `name` from `dir`, which is made writable once if that is what it takes. False: a
/// directory that is not empty.
fn remove_one(
    dir: impl std::os::fd::AsFd,
    name: &CStr,
    directory: bool,
    opened_up: &mut bool,
) -> Result<bool, Errno> {
    let dir = dir.as_fd();
    let mut flags = if directory {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    loop {
        match unlinkat(dir, name, flags) {
            Ok(()) | Err(Errno::NOENT) => return Ok(true),
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
            Err(Errno::ACCESS) if !*opened_up => {
                *opened_up = true;
                fchmod(dir, Mode::RWXU)?;
            }
            // The kind of the entry was not known, or it changed.
            Err(Errno::ISDIR) if flags.is_empty() => flags = AtFlags::REMOVEDIR,
            Err(Errno::PERM) if flags.is_empty() && is_directory(dir, name) => {
                flags = AtFlags::REMOVEDIR;
            }
            Err(Errno::NOTDIR) if !flags.is_empty() && !is_directory(dir, name) => {
                flags = AtFlags::empty();
            }
            Err(error) => return Err(error),
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Opens a directory for reading, and for the owner if its mode does not allow that.
fn open_or_unlock(dir: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let open = |flags| match crate::dir::openat2_again(dir, name, flags, inside) {
        Err(Errno::NOSYS | Errno::PERM) => openat(dir, name, flags, Mode::empty()),
        other => other,
    };
    match open(DIRECTORY) {
        Err(Errno::ACCESS) => {
            let way = open(DIRECTORY | OFlags::PATH)?;
            let link = format!("/proc/self/fd/{}", way.as_raw_fd());
            rustix::fs::chmod(link, Mode::RWXU)?;
            open(DIRECTORY)
        }
        other => other,
    }
}

fn parent_of(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    match openat(dir, c"..", DIRECTORY, Mode::empty()) {
        // It may not be searched.
        Err(Errno::ACCESS) => {
            fchmod(dir, Mode::RWXU)?;
            openat(dir, c"..", DIRECTORY, Mode::empty())
        }
        other => other,
    }
}

fn is_directory(dir: BorrowedFd<'_>, name: &CStr) -> bool {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|data| FileType::from_raw_mode(data.st_mode) == FileType::Directory)
}

#[cfg(test)]
mod tests;
