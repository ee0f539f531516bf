//! Finds and creates paths inside the root, one component at a time.
//!
//! Owns: the resolution of mount points and of the working directory, on fixed buffers, which are
//! used again for the next process. The walk starts when the sandbox's root already is `/` of the
//! process, never follows a link by itself but reads it and walks on, so that it can create what
//! is missing and knows the canonical path of what it created. It refuses links of procfs: those
//! lead anywhere.

use crate::plan::REFUSED;
use crate::sys::{self, Result, Stat};
use std::alloc::Layout;
use std::ffi::{CStr, c_int};

const PATH: usize = 8192;
const NAME: usize = 256;
const ARENA: usize = 64 * 1024;
const RECORDS: usize = 512;
/// As many as the kernel follows.
const MAX_LINKS: u32 = 40;
const PROC_MAGIC: i64 = 0x9fa0;

/// What to do about missing components.
#[derive(Clone, Copy)]
pub(crate) struct Create {
    /// The last component becomes a regular file instead of a directory.
    pub(crate) file: bool,
    /// Owner of what is created; `None`: the creating user.
    pub(crate) owner: Option<(u32, u32)>,
    /// Whether it is recorded as a stub (only on the mount that is the root).
    pub(crate) record: bool,
}

/// One created entry. The path is in the arena.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) start: usize,
    pub(crate) length: usize,
    pub(crate) file: bool,
    pub(crate) before: (i64, u32),
    pub(crate) after: (i64, u32),
}

/// The buffers of a walk and the log of what walks created.
pub(crate) struct Walker {
    /// What is still to be walked.
    rest: [u8; PATH],
    rest_length: usize,
    link: [u8; PATH],
    name: [u8; NAME],
    /// The canonical path of where the walk is, without a leading slash.
    here: [u8; PATH],
    here_length: usize,
    arena: [u8; ARENA],
    arena_length: usize,
    records: [Record; RECORDS],
    record_count: usize,
    /// Whether the last walk had to create something.
    pub(crate) created: bool,
    /// Where walks start and stay.
    root: c_int,
    /// Mount id of the root; creations elsewhere are not recorded.
    root_mount: u64,
}

impl Walker {
    pub(crate) fn new() -> Box<Self> {
        let layout = Layout::new::<Self>();
        // SAFETY: the type has a size, is made of integers and booleans, for which zero is a
        // value, and is owned by the box that is made of the allocation.
        unsafe {
            let memory = std::alloc::alloc_zeroed(layout).cast::<Self>();
            if memory.is_null() {
                std::alloc::handle_alloc_error(layout);
            }
            Box::from_raw(memory)
        }
    }

    /// Forgets what earlier walks created, for another process.
    pub(crate) fn reset(&mut self) {
        (self.arena_length, self.record_count) = (0, 0);
        (self.root, self.root_mount) = (-1, 0);
    }

    /// What was created, with paths relative to the root.
    pub(crate) fn records(&self) -> impl Iterator<Item = (&[u8], &Record)> {
        self.records.iter().take(self.record_count).map(|r| {
            (
                self.arena
                    .get(r.start..r.start + r.length)
                    .unwrap_or_default(),
                r,
            )
        })
    }

    /// Opens `path` inside the root as an `O_PATH` descriptor, creating what is missing. It may be
    /// that of the root: [`Walker::close`] leaves that one open.
    pub(crate) fn open(&mut self, path: &CStr, create: Create) -> Result<c_int> {
        self.start(path.to_bytes())?;
        let mut dir = self.root;
        let mut links = 0;
        while let Some(last) = self.next_name()? {
            let next = match self.step(dir, last, create, &mut links) {
                Ok(next) => next,
                Err(errno) => {
                    self.close(dir);
                    return Err(errno);
                }
            };
            if next != dir {
                self.close(dir);
            }
            dir = next;
        }
        Ok(dir)
    }

    /// Closes a descriptor that [`Walker::open`] gave.
    pub(crate) fn close(&self, fd: c_int) {
        if fd != self.root {
            sys::close(fd);
        }
    }

    /// Lets walks start at and stay in the directory `root`, and notes what they create on the
    /// mount of that id.
    pub(crate) fn enter_root(&mut self, root: c_int, mount: u64) {
        (self.root, self.root_mount) = (root, mount);
    }

    /// The directory that walks start at.
    pub(crate) const fn root(&self) -> c_int {
        self.root
    }

    fn start(&mut self, path: &[u8]) -> Result<()> {
        self.here_length = 0;
        self.rest_length = 0;
        self.created = false;
        let target = self.rest.get_mut(..path.len()).ok_or(libc::ENAMETOOLONG)?;
        target.copy_from_slice(path);
        self.rest_length = path.len();
        Ok(())
    }

    /// Takes the next component into `name`, zero-terminated. Says whether it is the last one, or
    /// `None` at the end.
    fn next_name(&mut self) -> Result<Option<bool>> {
        let rest = self.rest.get(..self.rest_length).unwrap_or_default();
        let Some(start) = rest.iter().position(|&b| b != b'/') else {
            return Ok(None);
        };
        let tail = rest.get(start..).unwrap_or_default();
        let length = tail.iter().position(|&b| b == b'/').unwrap_or(tail.len());
        let name = self.name.get_mut(..length).ok_or(libc::ENAMETOOLONG)?;
        name.copy_from_slice(tail.get(..length).unwrap_or_default());
        *self.name.get_mut(length).ok_or(libc::ENAMETOOLONG)? = 0;
        let last = tail.iter().skip(length).all(|&b| b == b'/');
        self.rest.copy_within(start + length..self.rest_length, 0);
        self.rest_length -= start + length;
        Ok(Some(last))
    }

    fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or(c"")
    }

    /// One component: gives the descriptor to go on with, which may be `dir` itself.
    fn step(&mut self, dir: c_int, last: bool, create: Create, links: &mut u32) -> Result<c_int> {
        match self.name().to_bytes() {
            b"." => return Ok(dir),
            // Above the root is the root.
            b".." if self.here_length == 0 => return Ok(dir),
            b".." => {
                let parent = sys::open_at(dir, c"..", libc::O_PATH | libc::O_DIRECTORY, 0)?;
                let here = self.here.get(..self.here_length).unwrap_or_default();
                self.here_length = here.iter().rposition(|&b| b == b'/').unwrap_or(0);
                return Ok(parent);
            }
            _ => {}
        }
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        let found = match sys::open_at(dir, self.name(), flags, 0) {
            Err(libc::ENOENT) => {
                self.create(dir, last, create)?;
                sys::open_at(dir, self.name(), flags, 0)?
            }
            other => other?,
        };
        let stat = match sys::stat(found) {
            Ok(stat) => stat,
            Err(errno) => {
                sys::close(found);
                return Err(errno);
            }
        };
        if stat.is(libc::S_IFLNK) {
            *links += 1;
            let followed = self.follow(found, *links);
            sys::close(found);
            return followed.map(|absolute| if absolute { self.root } else { dir });
        }
        if !last && !stat.is(libc::S_IFDIR) {
            sys::close(found);
            return Err(libc::ENOTDIR);
        }
        self.enter()?;
        Ok(found)
    }

    /// Appends `name` to the canonical path.
    fn enter(&mut self) -> Result<()> {
        let length = self.name().to_bytes().len();
        let slash = usize::from(self.here_length > 0);
        let end = self.here_length + slash + length;
        let room = self
            .here
            .get_mut(self.here_length..end)
            .ok_or(libc::ENAMETOOLONG)?;
        if let Some(first) = room.first_mut() {
            *first = b'/';
        }
        if let (Some(to), Some(from)) = (room.get_mut(slash..), self.name.get(..length)) {
            to.copy_from_slice(from);
        }
        self.here_length = end;
        Ok(())
    }

    /// Puts the target of a link before what is left. True: the target is absolute.
    fn follow(&mut self, link: c_int, links: u32) -> Result<bool> {
        if links > MAX_LINKS {
            return Err(libc::ELOOP);
        }
        if sys::file_system(link)? == PROC_MAGIC {
            return Err(REFUSED);
        }
        let length = sys::read_link(link, &mut self.link)?;
        if length == 0 {
            return Err(libc::ENOENT);
        }
        let end = length + 1 + self.rest_length;
        let tail = self.link.get_mut(length..end).ok_or(libc::ENAMETOOLONG)?;
        if let (Some(slash), Some(rest)) = (tail.first_mut(), self.rest.get(..self.rest_length)) {
            *slash = b'/';
            if let Some(room) = tail.get_mut(1..) {
                room.copy_from_slice(rest);
            }
        }
        if self.rest_length == 0 {
            // A trailing slash would only say that the link leads to a directory.
            self.rest_length = length;
        } else {
            self.rest_length = end;
        }
        self.rest.copy_from_slice(&self.link);
        let absolute = self.rest.first() == Some(&b'/');
        if absolute {
            self.here_length = 0;
        }
        Ok(absolute)
    }

    fn create(&mut self, dir: c_int, last: bool, create: Create) -> Result<()> {
        self.created = true;
        let before = sys::stat(dir)?;
        let file = last && create.file;
        if file {
            sys::mknod_at(dir, self.name(), libc::S_IFREG | 0o644, 0)?;
        } else {
            sys::mkdir_at(dir, self.name(), 0o755)?;
        }
        if let Some((uid, gid)) = create.owner {
            let made = sys::open_at(dir, self.name(), libc::O_PATH | libc::O_NOFOLLOW, 0)?;
            let changed = sys::chown(made, uid, gid);
            sys::close(made);
            changed?;
        }
        if create.record && before.mount == self.root_mount {
            self.record(file, &before, &sys::stat(dir)?)?;
        }
        Ok(())
    }

    fn record(&mut self, file: bool, before: &Stat, after: &Stat) -> Result<()> {
        let kept = self.here_length;
        self.enter()?;
        let length = self.here_length;
        self.here_length = kept;
        let start = self.arena_length;
        let room = self
            .arena
            .get_mut(start..start + length)
            .ok_or(libc::ENOSPC)?;
        room.copy_from_slice(self.here.get(..length).unwrap_or_default());
        let slot = self
            .records
            .get_mut(self.record_count)
            .ok_or(libc::ENOSPC)?;
        *slot = Record {
            start,
            length,
            file,
            before: before.modified,
            after: after.modified,
        };
        self.arena_length += length;
        self.record_count += 1;
        Ok(())
    }
}
