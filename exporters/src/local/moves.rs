//! Renames that replace nothing, and exchanges.
//!
//! File systems such as NFS and most on FUSE know plain renames alone. There a name is free if it was
//! free just before; only a regular file, where it can have two names, takes it as safely as
//! elsewhere.

use std::cell::Cell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, Result};

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a>(pub(super) &'a OwnedFd, pub(super) &'a OsStr);

impl At<'_> {
    /// What is there, if anything is.
    pub(super) fn kind(self) -> Result<Option<FileType>> {
        match statat(self.0, self.1, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Moves objects of one file system.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Whether the file system has refused anything but plain renames.
    plain: Cell<bool>,
}

impl Moves {
    /// Moves to a name that nobody has. Fails with `EEXIST` if somebody has it: but where there are
    /// plain renames alone, a directory takes the place of an empty one that is made at the same
    /// moment, and all but a regular file that of anything so made that is no directory.
    pub(super) fn to_free(&self, from: At<'_>, to: At<'_>) -> Result<()> {
        match self.with(from, to, RenameFlags::NOREPLACE) {
            Some(done) => done,
            None => plainly_to_free(from, to),
        }
    }

    /// Exchanges two objects in one step; `None` if this file system cannot.
    pub(super) fn exchange(&self, one: At<'_>, other: At<'_>) -> Option<Result<()>> {
        self.with(one, other, RenameFlags::EXCHANGE)
    }

    fn with(&self, from: At<'_>, to: At<'_>, flags: RenameFlags) -> Option<Result<()>> {
        if self.plain.get() {
            return None;
        }
        match renameat_with(from.0, from.1, to.0, to.1, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                self.plain.set(true);
                None
            }
            done => Some(done),
        }
    }

    /// One that knows plain renames alone.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self {
            plain: Cell::new(true),
        }
    }
}

fn plainly_to_free(from: At<'_>, to: At<'_>) -> Result<()> {
    let kind = from.kind()?.ok_or(Errno::NOENT)?;
    // A link to a symbolic link is one to what that leads to on some.
    if kind == FileType::RegularFile {
        match linkat(from.0, from.1, to.0, to.1, AtFlags::empty()) {
            Ok(()) => {
                let gone = unlinkat(from.0, from.1, AtFlags::empty());
                if gone.is_err() {
                    let _back = unlinkat(to.0, to.1, AtFlags::empty());
                }
                return gone;
            }
            Err(Errno::EXIST) => return Err(Errno::EXIST),
            // There are no hard links; or the rename says what is wrong.
            Err(_) => {}
        }
    }
    if to.kind()?.is_some() {
        return Err(Errno::EXIST);
    }
    match renameat(from.0, from.1, to.0, to.1) {
        // Somebody made it since. What the system says of that differs.
        Err(_) if to.kind()?.is_some() => Err(Errno::EXIST),
        done => done,
    }
}

/// Replaces an object by another in one step, and keeps what was there under a third name. `None` if
/// that cannot be had, and then nothing was done.
pub(super) fn replace(from: At<'_>, to: At<'_>, old: At<'_>) -> Option<Result<()>> {
    let is = |at: At<'_>, wanted: fn(FileType) -> bool| matches!(at.kind(), Ok(Some(kind)) if wanted(kind));
    if !is(from, |kind| kind != FileType::Directory)
        || !is(to, |kind| kind == FileType::RegularFile)
    {
        return None;
    }
    linkat(to.0, to.1, old.0, old.1, AtFlags::empty()).ok()?;
    Some(renameat(from.0, from.1, to.0, to.1))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn handle(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    /// Makes an object of each kind under its name, and one with something in it.
    fn objects(folder: &Path) {
        fs::write(folder.join("file"), folder.as_os_str().as_bytes()).unwrap();
        symlink("file", folder.join("link")).unwrap();
        fs::create_dir(folder.join("empty")).unwrap();
        fs::create_dir(folder.join("full")).unwrap();
        fs::write(folder.join("full/x"), "x").unwrap();
    }

    const KINDS: [&str; 4] = ["file", "link", "empty", "full"];

    #[test]
    fn what_has_a_name_keeps_it() {
        for moves in [Moves::default(), Moves::plain()] {
            for from in KINDS {
                for to in KINDS {
                    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
                    folders.iter().for_each(|folder| objects(folder.path()));
                    let handles = folders.each_ref().map(|folder| handle(folder.path()));
                    let there = folders[1].path().join(to);
                    let inode = |path: &Path| {
                        let data = fs::symlink_metadata(path).unwrap();
                        (std::os::unix::fs::MetadataExt::ino(&data), data.is_dir())
                    };
                    let before = inode(&there);
                    let [one, other] = [(&handles[0], from), (&handles[1], to)]
                        .map(|(handle, name)| At(handle, OsStr::new(name)));
                    assert_eq!(moves.to_free(one, other), Err(Errno::EXIST), "{from} {to}");
                    assert_eq!(inode(&there), before);
                    let own = folders[0].path().join(from);
                    let moved = inode(&own);
                    moves
                        .to_free(one, At(&handles[1], OsStr::new("free")))
                        .unwrap();
                    assert_eq!(inode(&folders[1].path().join("free")), moved);
                    assert!(fs::symlink_metadata(own).is_err());
                    let gone = moves.to_free(one, At(&handles[1], OsStr::new("more")));
                    assert_eq!(gone, Err(Errno::NOENT));
                }
            }
        }
    }

    #[test]
    fn a_file_is_replaced_in_one_step_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        objects(folder.path());
        let handle = handle(folder.path());
        let at = |name| At(&handle, OsStr::new(name));
        // A directory cannot be, and only a regular file can be kept so.
        for (from, to) in [
            ("empty", "file"),
            ("file", "empty"),
            ("file", "link"),
            ("file", "no"),
        ] {
            assert!(
                replace(at(from), at(to), at("old")).is_none(),
                "{from} {to}"
            );
            assert_eq!(at("old").kind(), Ok(None), "{from} {to}");
        }
        fs::write(folder.path().join("new"), "new").unwrap();
        // Where a link cannot be made nothing is done.
        assert!(replace(at("new"), at("file"), at("full")).is_none());
        replace(at("new"), at("file"), at("old")).unwrap().unwrap();
        let read = |name| fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("file"), b"new");
        assert_eq!(read("old"), folder.path().as_os_str().as_bytes());
        assert_eq!(at("new").kind(), Ok(None));
    }
}
