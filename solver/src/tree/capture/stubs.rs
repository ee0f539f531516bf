//! Removing what was made only as a place for mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::fs::{AtFlags, Dir, unlinkat};
use rustix::io::Errno;

use super::repair::set_mtime;
use super::upper::{kind, mtime, stat};
use super::{CaptureError, CaptureOptions, failed};
use crate::dir;
use crate::tree::{Kind, Timestamp, TreePath, View};

/// A directory whose time is that of a stub, give or take this, got it from the stub being made.
const NANOSECONDS: i128 = 20_000_000;

/// Names in a directory.
type Names = BTreeSet<Box<[u8]>>;

/// Stubs by depth, then by directory.
#[derive(Default)]
struct Levels(BTreeMap<usize, BTreeMap<TreePath, Names>>);

impl Levels {
    /// Adds what the base does not have.
    fn add(&mut self, path: &TreePath, base: &View) {
        if let (Some(parent), Some(name)) = (path.parent(), path.name())
            && base.lookup(path).is_none()
        {
            let level = self.0.entry(path.components().count()).or_default();
            level.entry(parent).or_default().insert(name.into());
        }
    }
}

/// Removes the stubs, deepest first. Whatever the process made of a stub stays: only an empty
/// directory or an empty file that the base does not have goes.
pub(super) fn remove(
    fs: BorrowedFd<'_>,
    base: &View,
    options: &CaptureOptions,
) -> Result<(), CaptureError> {
    let mut levels = Levels::default();
    for path in &options.stubs {
        levels.add(path, base);
    }
    while let Some((_, directories)) = levels.0.pop_last() {
        for (parent, names) in directories {
            options.cancel.check()?;
            remove_in(fs, base, &parent, &names)
                .map_err(failed("remove mount points in", &parent))?;
            if options.stub_parents {
                levels.add(&parent, base);
            }
        }
    }
    Ok(())
}

fn remove_in(fs: BorrowedFd<'_>, base: &View, parent: &TreePath, names: &Names) -> io::Result<()> {
    let handle = match dir::open_directory(fs, parent.as_bytes()) {
        Ok(handle) => handle,
        // Gone, or the process has put something else there.
        Err(error) => {
            let gone = [Errno::NOENT, Errno::NOTDIR, Errno::LOOP].map(|one| one.raw_os_error());
            let is_gone = error
                .raw_os_error()
                .is_some_and(|code| gone.contains(&code));
            return if is_gone { Ok(()) } else { Err(error) };
        }
    };
    let directory = handle.as_fd();
    let before = mtime(&stat(directory, b".")?);
    let mut made: Option<Timestamp> = None;
    for name in names {
        let Ok(found) = stat(directory, name) else {
            continue;
        };
        let flags = match kind(&found) {
            Some(Kind::Directory) => AtFlags::REMOVEDIR,
            Some(Kind::File) if found.stx_size == 0 => AtFlags::empty(),
            _ => continue,
        };
        match unlinkat(directory, dir::name(name), flags) {
            Ok(()) => made = made.max(Some(mtime(&found))),
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let Some(made) = made else { return Ok(()) };
    let below = base
        .lookup(parent)
        .filter(|node| node.entry().is_directory());
    let restored = match below {
        Some(below) if near(before, made) && !names_changed(directory, below)? => {
            below.entry().attributes.mtime
        }
        _ => before,
    };
    set_mtime(directory, restored)
}

fn near(a: Timestamp, b: Timestamp) -> bool {
    let nanoseconds =
        |time: Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds);
    (nanoseconds(a) - nanoseconds(b)).abs() <= NANOSECONDS
}

/// Whether a name came into the directory or went, compared with the base.
fn names_changed(directory: BorrowedFd<'_>, below: &crate::tree::Node) -> io::Result<bool> {
    for item in Dir::read_from(directory)? {
        let item = item?;
        let name = item.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let whiteout = kind(&stat(directory, name)?) == Some(Kind::Whiteout);
        if whiteout || below.child(name).is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
