//! Moving a prepared tree to where it belongs.
//!
//! Invariants:
//! - **Renames alone**: nothing is copied here, and each of them leaves the old or the new object.
//! - **All or nothing, short of a kill**: what was done is noted, and undone if something fails.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::dir::open_directory;
use ashlar_solver::tree::{Entry, Timestamp, TreePath};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, Stat, Timespec, Timestamps, fchmod,
    fstat, futimens, openat, renameat, renameat_with, statat,
};
use rustix::io::Errno;

use super::LocalMode;
use super::beneath::Beneath;
use super::stage::{NEW, OLD, Stage, is_stage};
use super::write::set_attributes;
use crate::ExportError;
use crate::files::{Item, Part, directory_entry};
use crate::lock::lock;

/// Moves what `stage` holds to the destination. Blocks; `cancel` ends the wait for others who do the
/// same, and nothing after it.
pub(super) fn place(
    mut stage: Stage,
    parts: &[Part],
    unchanged: &HashSet<TreePath>,
    mode: LocalMode,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let there = match &stage.there {
        Some(there) => there.clone(),
        None => match stage.appear()? {
            None => return Ok(()),
            Some(there) => there,
        },
    };
    lock(&*there, cancel)?.map_err(ExportError::io("lock", &stage.destination))?;
    let mut placing = Placing {
        stage: &stage,
        new: Beneath::new(stage.tree.clone()),
        there: Beneath::new(there.clone()),
        root: there,
        moved: None,
        met: BTreeMap::new(),
        done: Vec::new(),
        slots: 0,
    };
    let placed = placing.run(parts, unchanged, mode);
    if placed.is_err() {
        placing.undo();
    }
    placed
}

impl Stage {
    /// Makes a destination that is not there appear, in one step. Gives it if somebody else made it
    /// meanwhile.
    fn appear(&mut self) -> Result<Option<Arc<OwnedFd>>, ExportError> {
        let failed = |error: Errno| ExportError::io("make", &self.destination)(error.into());
        let renamed = renameat_with(
            &self.directory,
            NEW,
            CWD,
            &self.destination,
            RenameFlags::NOREPLACE,
        );
        match renamed {
            Ok(()) => {
                self.keep_way();
                Ok(None)
            }
            Err(Errno::EXIST) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let there = openat(CWD, &self.destination, flags, Mode::empty());
                Ok(Some(Arc::new(there.map_err(failed)?)))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Something that was done and can be undone.
enum Done {
    /// Moved to the destination, where nothing was.
    Moved(TreePath),
    /// Swapped with what was at the destination.
    Swapped(TreePath),
    /// Moved away from the destination, to this number in [`OLD`].
    Removed(TreePath, usize),
    /// A directory of the destination got other attributes; these were the old ones.
    Changed(TreePath, Box<Stat>),
}

struct Placing<'a> {
    stage: &'a Stage,
    /// What was prepared, and the destination.
    new: Beneath,
    there: Beneath,
    root: Arc<OwnedFd>,
    /// What was moved last: all below it went with it.
    moved: Option<TreePath>,
    /// Directories that both have, and the attributes they get.
    met: BTreeMap<TreePath, (Entry, Timestamp)>,
    done: Vec<Done>,
    slots: usize,
}

impl Placing<'_> {
    fn run(
        &mut self,
        parts: &[Part],
        unchanged: &HashSet<TreePath>,
        mode: LocalMode,
    ) -> Result<(), ExportError> {
        // For each directory what belongs into it.
        let mut expected: BTreeMap<TreePath, BTreeSet<Vec<u8>>> = BTreeMap::new();
        if mode == LocalMode::Delete {
            expected.insert(TreePath::root(), BTreeSet::new());
        }
        let mut expect = |path: &TreePath, is_directory: bool| {
            if mode != LocalMode::Delete {
                return;
            }
            let parent = path.parent().unwrap_or_default();
            let name = path.name().unwrap_or_default().to_vec();
            expected.entry(parent).or_default().insert(name);
            if is_directory {
                expected.entry(path.clone()).or_default();
            }
        };
        for part in parts {
            if let Some(directory) = &part.directory {
                expect(directory, true);
                let entry = directory_entry(part);
                let time = entry.attributes.mtime;
                self.object(directory, Some((&entry, time)))?;
            }
            for (path, item) in part.items() {
                let whole = part.prefix().join_path(&path);
                let directory = match item {
                    Item::Node(node) if node.entry().is_directory() => {
                        let time = part.time(node.entry().attributes.mtime);
                        Some((node.entry(), time))
                    }
                    _ => None,
                };
                expect(&whole, directory.is_some());
                if unchanged.contains(&whole) {
                    continue;
                }
                self.object(&whole, directory)?;
            }
        }
        for (directory, names) in &expected {
            self.remove_others(directory, names)?;
        }
        // Deepest first, for a rename changes the time of the directory.
        for (path, (entry, time)) in std::mem::take(&mut self.met).into_iter().rev() {
            let directory = self.open(&path)?;
            set_attributes(directory.as_fd(), &entry, time)
                .map_err(|error| self.failed("set the attributes of", &path, error))?;
        }
        Ok(())
    }

    fn failed(&self, action: &'static str, path: &TreePath, error: io::Error) -> ExportError {
        ExportError::io(action, self.stage.destination.join(path.as_relative()))(error)
    }

    fn open(&mut self, path: &TreePath) -> Result<Arc<OwnedFd>, ExportError> {
        let opened = self.there.open(path);
        opened.map_err(|error| self.failed("open", path, error))
    }

    /// Moves one object, a directory only if the destination has none there.
    fn object(
        &mut self,
        path: &TreePath,
        directory: Option<(&Entry, Timestamp)>,
    ) -> Result<(), ExportError> {
        if self
            .moved
            .as_ref()
            .is_some_and(|moved| path.starts_with(moved))
        {
            return Ok(());
        }
        let parent = path.parent().unwrap_or_default();
        let Some(new) = self.new.find(&parent) else {
            // It went with a directory of another platform.
            return Ok(());
        };
        let there = self.open(&parent)?;
        let name = OsStr::from_bytes(path.name().unwrap_or_default());
        let moved = with_write_access(&new, name, || {
            renameat_with(&*new, name, &*there, name, RenameFlags::NOREPLACE)
        });
        match moved {
            Ok(()) => self.done.push(Done::Moved(path.clone())),
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                if let Some((entry, time)) = directory {
                    let stat = statat(&*there, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_err(|error| self.failed("look at", path, error.into()))?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        return self.meet(path, entry, time);
                    }
                }
                let swapped = with_write_access(&new, name, || {
                    renameat_with(&*new, name, &*there, name, RenameFlags::EXCHANGE)
                });
                swapped.map_err(|error| self.failed("replace", path, error.into()))?;
                self.done.push(Done::Swapped(path.clone()));
            }
            Err(error) => return Err(self.failed("write", path, error.into())),
        }
        self.moved = Some(path.clone());
        Ok(())
    }

    /// A directory that both have: it stays, and gets the attributes of the new one.
    fn meet(&mut self, path: &TreePath, entry: &Entry, time: Timestamp) -> Result<(), ExportError> {
        self.met.insert(path.clone(), (entry.clone(), time));
        let directory = self.open(path)?;
        let failed = |error: Errno| self.failed("open", path, error.into());
        let stat = fstat(&*directory).map_err(failed)?;
        let mode = stat.st_mode & 0o7777;
        if mode & 0o700 != 0o700 {
            // Without this its owner, if it is not root, could not write into it.
            fchmod(&*directory, Mode::from_raw_mode(mode | 0o700)).map_err(failed)?;
        }
        self.done.push(Done::Changed(path.clone(), Box::new(stat)));
        Ok(())
    }

    /// Moves away what does not belong into a directory.
    fn remove_others(
        &mut self,
        path: &TreePath,
        names: &BTreeSet<Vec<u8>>,
    ) -> Result<(), ExportError> {
        // One that was moved here as a whole has nothing else in it.
        if !path.is_root() && !self.met.contains_key(path) {
            return Ok(());
        }
        let directory = self.open(path)?;
        let failed = |error: Errno| self.failed("read", path, error.into());
        let mut others = Vec::new();
        for entry in Dir::read_from(&*directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            let is_ours = path.is_root() && is_stage(OsStr::from_bytes(name));
            if !matches!(name, b"." | b"..") && !names.contains(name) && !is_ours {
                others.push(name.to_vec());
            }
        }
        for name in others {
            let whole = path.join(&name).expect("BUG: a directory holds names only");
            let slot = self.slots;
            self.slots += 1;
            let name = OsStr::from_bytes(&name);
            let moved = with_write_access(&directory, name, || {
                let old = format!("{OLD}/{slot}");
                renameat(&*directory, name, &self.stage.directory, old)
            });
            moved.map_err(|error| self.failed("remove", &whole, error.into()))?;
            self.done.push(Done::Removed(whole, slot));
        }
        Ok(())
    }

    /// Undoes what was done, as far as that goes.
    fn undo(&mut self) {
        let stage = self.stage;
        let split = |path: &TreePath| {
            let parent = path.parent().unwrap_or_default();
            let directory = open_directory(self.root.as_fd(), parent.as_bytes());
            let new = open_directory(stage.tree.as_fd(), parent.as_bytes());
            let name = OsStr::from_bytes(path.name().unwrap_or_default()).to_owned();
            Some((directory.ok()?, new.ok(), name))
        };
        for done in std::mem::take(&mut self.done).into_iter().rev() {
            let path = match &done {
                Done::Moved(path) | Done::Swapped(path) => path,
                Done::Removed(path, _) | Done::Changed(path, _) => path,
            };
            let Some((directory, new, name)) = split(path) else {
                continue;
            };
            let undone = match (&done, &new) {
                (Done::Moved(_), Some(new)) => with_write_access(&directory, &name, || {
                    renameat_with(&directory, &name, new, &name, RenameFlags::NOREPLACE)
                }),
                (Done::Swapped(_), Some(new)) => with_write_access(&directory, &name, || {
                    renameat_with(&directory, &name, new, &name, RenameFlags::EXCHANGE)
                }),
                (Done::Removed(_, slot), _) => {
                    let old = format!("{OLD}/{slot}");
                    renameat(&stage.directory, old, &directory, &name)
                }
                (Done::Changed(_, stat), _) => restore(&directory, &name, stat),
                _ => Ok(()),
            };
            let _as_far_as_it_goes = undone;
        }
    }
}

/// Gives a directory of the destination its mode and time back.
fn restore(parent: &OwnedFd, name: &OsStr, stat: &Stat) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(parent, name, flags, Mode::empty())?;
    fchmod(&directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    futimens(&directory, &times)
}

/// Renames; a directory that its owner may not write to is made writable meanwhile, because its
/// entry of the directory above changes.
fn with_write_access(
    parent: &OwnedFd,
    name: &OsStr,
    rename: impl Fn() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match rename() {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = openat(parent, name, flags, Mode::empty()) else {
        return Err(Errno::ACCESS);
    };
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode & 0o7777);
    fchmod(&directory, mode | Mode::RWXU)?;
    let renamed = rename();
    fchmod(&directory, mode)?;
    renamed
}
