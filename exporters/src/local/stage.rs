//! The directory in which an export is prepared.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::root::remove_tree;
use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, mkdirat, openat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use crate::ExportError;
use crate::lock::has_none;
use crate::target::random;

/// What the name of such a directory begins and ends with.
const PREFIX: &str = ".ashlar-";
const SUFFIX: &str = ".partial";

/// The tree that is being prepared.
pub(super) const NEW: &str = "new";
/// What was at the destination and goes.
pub(super) const OLD: &str = "old";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Holds a directory in the destination, or beside it if that is not there yet: on the same file
/// system. Locked while it lives, so that others can tell what a killed process left. Dropping it
/// removes it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) destination: PathBuf,
    /// The destination, if it was there.
    pub(super) there: Option<Arc<OwnedFd>>,
    /// Where the directory is.
    pub(super) home: OwnedFd,
    name: OsString,
    /// The directory.
    pub(super) directory: OwnedFd,
    /// [`NEW`] in it.
    pub(super) tree: Arc<OwnedFd>,
    way: Way,
}

/// How often a place is looked for that somebody else removes.
const TRIES: usize = 8;

impl Stage {
    pub(super) fn new(destination: &Path) -> Result<Self, ExportError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_new(destination) {
                // Somebody else gave up the way that both go, or took this directory for one that
                // was left before it was locked.
                Err(ExportError::Io { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                done => return done,
            }
        }
    }

    fn try_new(destination: &Path) -> Result<Self, ExportError> {
        let failed = |action| ExportError::io(action, destination);
        let there = match openat(CWD, destination, DIRECTORY, Mode::empty()) {
            Ok(there) => Some(Arc::new(there)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(failed("open")(error.into())),
        };
        let mut way = Way::default();
        let home = match &there {
            Some(there) => there.try_clone().map_err(failed("open"))?,
            None => {
                let parent = match destination.parent() {
                    Some(parent) if !parent.as_os_str().is_empty() => parent,
                    _ => Path::new("."),
                };
                let made = way.make_all(parent);
                made.map_err(ExportError::io("make directory", parent))?;
                let parent = openat(CWD, parent, DIRECTORY, Mode::empty());
                parent.map_err(|error| failed("open")(error.into()))?
            }
        };
        remove_abandoned(&home);
        let name = OsString::from(format!(
            "{PREFIX}{}{SUFFIX}",
            random().map_err(failed("make"))?
        ));
        let make = || {
            mkdirat(&home, &name, Mode::RWXU)?;
            let directory = openat(&home, &name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            match retry_on_intr(|| flock(&directory, FlockOperation::LockExclusive)) {
                Err(error) if !has_none(error) => return Err(error),
                _ => {}
            }
            // What becomes the destination itself has the mode of any new directory.
            mkdirat(&directory, NEW, Mode::from_raw_mode(0o777))?;
            mkdirat(&directory, OLD, Mode::RWXU)?;
            let tree = openat(&directory, NEW, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            Ok((directory, Arc::new(tree)))
        };
        let (directory, tree) = make().map_err(|error: Errno| {
            let _gone = remove_tree(home.as_fd(), &name);
            failed("write into")(error.into())
        })?;
        Ok(Self {
            destination: destination.to_path_buf(),
            there,
            home,
            name,
            directory,
            tree,
            way,
        })
    }

    /// Keeps the directories that were made on the way to the destination.
    pub(super) fn keep_way(&mut self) {
        self.way.made.clear();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _gone = remove_tree(self.home.as_fd(), &self.name);
    }
}

/// Directories on the way to a destination that were made. Dropping it removes those that nobody
/// put anything into.
#[derive(Debug, Default)]
struct Way {
    made: Vec<PathBuf>,
}

impl Way {
    /// Makes a directory and those above it that are missing.
    fn make_all(&mut self, path: &Path) -> io::Result<()> {
        let missing = match self.make(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => error,
            done => return done,
        };
        let parent = path.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        self.make_all(parent.ok_or(missing)?)?;
        self.make(path)
    }

    /// Makes a directory, unless somebody else did.
    fn make(&mut self, path: &Path) -> io::Result<()> {
        match std::fs::create_dir(path) {
            Ok(()) => self.made.push(path.to_path_buf()),
            Err(_) if path.is_dir() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        for made in self.made.iter().rev() {
            let _kept = unlinkat(CWD, made, AtFlags::REMOVEDIR);
        }
    }
}

/// Whether a name is that of a directory like this.
pub(super) fn is_stage(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Removes what killed processes left.
fn remove_abandoned(home: &OwnedFd) {
    let Ok(entries) = Dir::read_from(home) else {
        return;
    };
    for entry in entries.flatten() {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if !is_stage(name) {
            continue;
        }
        let opened = openat(home, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        if let Ok(opened) = opened
            && flock(&opened, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _gone = remove_tree(home.as_fd(), name);
        }
    }
}
