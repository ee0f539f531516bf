//! What the destination of an export has already, and what was written for it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ashlar_solver::cancel::{Cancel, Cancelled};
use ashlar_solver::dir::{open_file, xattrs};
use ashlar_solver::tree::{Kind, Node, Timestamp, TreePath};
use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};

use super::beneath::Beneath;
use super::known::Known;
use super::stage::Stage;
use super::write::name;
use crate::ExportError;
use crate::files::{Item, Part};

/// A regular file that is to be copied.
pub(super) struct Copy {
    /// Where it is in its part.
    pub(super) path: TreePath,
    pub(super) node: Arc<Node>,
    pub(super) time: Timestamp,
}

/// Whether the destination has this file with these bytes and attributes. One that is known is not
/// read.
pub(super) fn has_file(
    there: BorrowedFd<'_>,
    copy: &Copy,
    known: Option<&Known>,
    sources: &mut Sources,
    buffers: &mut [Vec<u8>; 2],
    cancel: &Cancel,
) -> Result<io::Result<bool>, Cancelled> {
    let Some(stat) = alike(there, copy) else {
        return Ok(Ok(false));
    };
    let note = known.and_then(|known| {
        let note = known.note(copy, &stat, sources)?;
        Some((known, note))
    });
    let noted = note.is_some_and(|(known, note)| known.has(&note));
    let has = match noted {
        true => true,
        false => match sources.open(copy) {
            Ok(mut from) => match same(there, copy, &mut from, buffers, cancel)? {
                Ok(same) => same,
                Err(error) => return Ok(Err(error)),
            },
            Err(error) => return Ok(Err(error)),
        },
    };
    if let (true, Some((known, note))) = (has, note) {
        known.learn(note);
    }
    Ok(Ok(has))
}

/// Opens files of the store, directories of them once.
#[derive(Default)]
pub(super) struct Sources {
    /// Whose directory, which one, and the handle.
    open: Option<(usize, TreePath, OwnedFd)>,
}

impl Sources {
    pub(super) fn open(&mut self, copy: &Copy) -> io::Result<File> {
        let Some(files) = copy.node.files() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let layer = Arc::as_ptr(files).cast::<()>() as usize;
        let parent = copy.path.parent().unwrap_or_default();
        let known = self
            .open
            .as_ref()
            .is_some_and(|(of, path, _)| *of == layer && *path == parent);
        if !known {
            let directory = files.directory(&parent)?;
            self.open = directory.map(|directory| (layer, parent, directory));
        }
        match &self.open {
            Some((of, _, directory)) if *of == layer => {
                let name = copy.path.name().unwrap_or_default();
                open_file(directory.as_fd(), name)
            }
            _ => files.open(&copy.path),
        }
    }
}

/// A file of the destination that may be the one to be copied, as far as it shows.
pub(super) fn alike(there: BorrowedFd<'_>, copy: &Copy) -> Option<Stat> {
    let (name, entry) = (name(&copy.path), copy.node.entry());
    let stat = statat(there, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let alike = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && u64::try_from(stat.st_size) == Ok(entry.size)
        && stat.st_mode & 0o7777 == entry.attributes.mode & 0o7777
        && is_own(&stat, copy.time);
    alike.then_some(stat)
}

/// Whether the destination has this symbolic link.
pub(super) fn has_link(
    there: BorrowedFd<'_>,
    name: &OsStr,
    target: &[u8],
    time: Timestamp,
) -> bool {
    let stat = statat(there, name, AtFlags::SYMLINK_NOFOLLOW);
    let alike = stat.is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::Symlink && is_own(&stat, time)
    });
    alike && readlinkat(there, name, Vec::new()).is_ok_and(|found| found.to_bytes() == target)
}

/// Whether something of this user has one name, and this time.
fn is_own(stat: &Stat, time: Timestamp) -> bool {
    let owner = (stat.st_uid, stat.st_gid);
    let own = (rustix::process::geteuid(), rustix::process::getegid());
    stat.st_nlink == 1
        && (stat.st_mtime, stat.st_mtime_nsec) == (time.seconds, time.nanoseconds.into())
        && owner == (own.0.as_raw(), own.1.as_raw())
}

/// Whether a file that is alike has these bytes and attributes. `from` is at its start before and afterwards.
fn same(
    there: BorrowedFd<'_>,
    copy: &Copy,
    from: &mut File,
    buffers: &mut [Vec<u8>; 2],
    cancel: &Cancel,
) -> Result<io::Result<bool>, Cancelled> {
    let (name, entry) = (copy.path.name().unwrap_or_default(), copy.node.entry());
    let Ok(mut file) = open_file(there, name) else {
        return Ok(Ok(false));
    };
    let attributes = xattrs(there, name).unwrap_or_default();
    let expected = entry.attributes.xattrs.iter();
    if !attributes
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .eq(expected)
    {
        return Ok(Ok(false));
    }
    same_bytes(&mut file, from, entry.size, buffers, cancel)
}

/// Whether `file` begins with `size` bytes that are those of `from`, which is at its start before and
/// afterwards. The error is of `from`.
fn same_bytes(
    file: &mut File,
    from: &mut File,
    size: u64,
    [left, right]: &mut [Vec<u8>; 2],
    cancel: &Cancel,
) -> Result<io::Result<bool>, Cancelled> {
    right.resize(left.len(), 0);
    let mut remaining = size;
    let mut equal = true;
    while remaining > 0 && equal {
        cancel.check()?;
        let wanted = usize::try_from(remaining).unwrap_or(usize::MAX);
        let length = left.len().min(wanted);
        if let Err(error) = from.read_exact(&mut left[..length]) {
            return Ok(Err(error));
        }
        equal = file.read_exact(&mut right[..length]).is_ok() && left[..length] == right[..length];
        remaining -= length as u64;
    }
    Ok(io::Seek::rewind(from).map(|()| equal))
}

/// Reads what was written and compares it with the result. Blocks.
pub(super) fn verify(
    stage: &Stage,
    parts: &[Part],
    unchanged: &HashSet<TreePath>,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let mut buffers = [vec![0; 128 << 10], Vec::new()];
    let mut written = Beneath::new(stage.tree.clone());
    for part in parts {
        for (path, item) in part.items() {
            cancel.check()?;
            let whole = part.prefix().join_path(&path);
            let damaged = || ExportError::verify(&whole, &stage.destination);
            if unchanged.contains(&whole) {
                continue;
            }
            let parent = whole.parent().unwrap_or_default();
            let directory = written.open(&parent).map_err(|_| damaged())?;
            let equal = match item {
                Item::Statement(text) => {
                    let mut found = Vec::new();
                    let read = open_file(&directory, whole.name().unwrap_or_default())
                        .and_then(|mut file| file.read_to_end(&mut found));
                    read.is_ok() && found == **text
                }
                Item::Node(node) if node.entry().kind == Kind::File => {
                    let copy = Copy {
                        time: part.time(node.entry().attributes.mtime),
                        path,
                        node: node.clone(),
                    };
                    let mut from = Sources::default()
                        .open(&copy)
                        .map_err(|error| stage.failed("read", &whole, error))?;
                    let file = open_file(&directory, whole.name().unwrap_or_default());
                    let size = node.entry().size;
                    let length = |file: &File| file.metadata().map_or(0, |data| data.len());
                    match file {
                        Ok(mut file) if length(&file) == size => {
                            let same =
                                same_bytes(&mut file, &mut from, size, &mut buffers, cancel)?;
                            same.map_err(|error| stage.failed("read", &whole, error))?
                        }
                        _ => false,
                    }
                }
                Item::Node(_) => {
                    statat(&*directory, name(&whole), AtFlags::SYMLINK_NOFOLLOW).is_ok()
                }
            };
            if !equal {
                return Err(damaged());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_compared_until_it_is_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("one"), [1; 1000]).unwrap();
        std::fs::write(at("two"), [&[1; 999][..], b"x"].concat()).unwrap();
        let mut buffers = [vec![0; 100], Vec::new()];
        let cancel = Cancel::new();
        let mut compare = |name: &str| {
            let mut file = File::open(at(name)).unwrap();
            let mut from = File::open(at("one")).unwrap();
            let same = same_bytes(&mut file, &mut from, 1000, &mut buffers, &cancel);
            same.map(|same| {
                assert_eq!(io::Seek::stream_position(&mut from).unwrap(), 0);
                same.unwrap()
            })
        };
        assert_eq!((compare("one"), compare("two")), (Ok(true), Ok(false)));
        cancel.cancel();
        assert_eq!(compare("one"), Err(Cancelled));
    }
}
