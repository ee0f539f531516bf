//! What is not at its place for a moment, because it could not be replaced in one step.
//!
//! Invariant: **a kill in that moment loses nothing**. Before an object is moved away, a file in the
//! stage says where it belongs: the number of its slot in [`OLD`], a line feed, its path from where
//! the stage is, and another. The next export puts it back.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;

use ashlar_solver::dir::{open_directory, open_file};
use ashlar_solver::solver::Durability;
use ashlar_solver::tree::TreePath;
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::moves::{At, Moves};
use super::stage::OLD;

/// The file that says it.
const AWAY: &str = "away";

/// Far more than the longest path has.
const LIMIT: u64 = 1 << 20;

/// Writes that file.
#[derive(Debug)]
pub(super) struct Away {
    file: File,
    durability: Durability,
}

impl Away {
    pub(super) fn new(stage: &OwnedFd, durability: Durability) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(stage, AWAY, flags, Mode::RUSR | Mode::WUSR)?;
        if durability == Durability::Synced {
            rustix::fs::fsync(stage)?;
        }
        Ok(Self {
            file: file.into(),
            durability,
        })
    }

    /// Says that what is at `path` will be in a slot.
    pub(super) fn note(&self, path: &TreePath, slot: usize) -> io::Result<()> {
        self.settled()?;
        let number = slot.to_string();
        let text = [number.as_bytes(), b"\n", path.as_bytes(), b"\n"].concat();
        self.file.write_all_at(&text, 0)?;
        match self.durability {
            Durability::Synced => self.file.sync_data(),
            _ => Ok(()),
        }
    }

    /// Says that nothing is away.
    pub(super) fn settled(&self) -> io::Result<()> {
        self.file.set_len(0)
    }
}

/// Puts back what a killed process left away, unless something else is there by now. It is noted in
/// its stage, a directory in `home`. True if nothing is away any more.
///
/// What is exported may have a directory of such a name. Then it can get no further than to where it
/// was exported.
pub(super) fn put_back(home: &OwnedFd, stage: &OwnedFd) -> bool {
    let text = match read(stage) {
        Ok(text) => text,
        Err(error) => return error.kind() == io::ErrorKind::NotFound,
    };
    // One that is not complete was not acted on.
    let Some((slot, path)) = parse(&text) else {
        return true;
    };
    let parent = path.parent().unwrap_or_default();
    let there = match open_directory(home, parent.as_bytes()) {
        Ok(there) => there,
        // Somebody removed that with all that was in it.
        Err(error) => {
            return matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            );
        }
    };
    // No link is followed: the stage may be one that was planted.
    let Ok(old) = open_directory(stage, OLD.as_bytes()) else {
        return true;
    };
    let slot = slot.to_string();
    let slot = At(&old, OsStr::new(&slot));
    let place = At(&there, OsStr::from_bytes(path.name().unwrap_or_default()));
    match Moves::default().to_free(slot, place) {
        // It was not moved away; or it is back, or something new is there.
        Ok(()) | Err(Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY) => true,
        Err(_) => false,
    }
}

fn read(stage: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    open_file(stage, AWAY.as_bytes())?
        .take(LIMIT)
        .read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Option<(usize, TreePath)> {
    let text = text.strip_suffix(b"\n")?;
    let at = text.iter().position(|&byte| byte == b'\n')?;
    let slot = std::str::from_utf8(&text[..at]).ok()?.parse().ok()?;
    let path = TreePath::new(&text[at + 1..]).ok()?;
    (!path.is_root()).then_some((slot, path))
}
