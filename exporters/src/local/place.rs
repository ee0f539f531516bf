//! Moving a prepared tree to where it belongs.
//!
//! Invariants:
//! - **Renames alone**: nothing is copied here, and each of them leaves the old or the new object.
//! - **All or nothing, short of a kill**: what was done is noted, and undone if something fails.
//! - **Nobody's file is lost**: what cannot be undone keeps the old objects in the stage, which stays
//!   then.
//!
//! On file systems that know plain renames alone (`moves`) a regular file is still replaced in one
//! step, if a hard link can keep the old one. Otherwise, and where a directory takes the place of a
//! file or a file that of a directory, the name is missing for a moment: the old object is moved
//! away, then the new one in. What a kill leaves away then, the next export puts back (`away`).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use ashlar_solver::cancel::Cancel;
use ashlar_solver::dir::open_directory;
use ashlar_solver::solver::Durability;
use ashlar_solver::tree::{Entry, Timestamp, TreePath};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, fchmod, fstat, futimens,
    openat, renameat, statat,
};
use rustix::io::Errno;

use super::LocalMode;
use super::away::Away;
use super::beneath::Beneath;
use super::moves::{At, Moves, replace};
use super::stage::{NEW, OLD, Stage, is_kept, is_stage};
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
    durability: Durability,
    cancel: &Cancel,
) -> Result<(), ExportError> {
    let moves = Moves::default();
    let there = match &stage.there {
        Some(there) => there.clone(),
        None => match stage.appear(&moves)? {
            None => return Ok(()),
            Some(there) => there,
        },
    };
    lock(&*there, cancel)?.map_err(ExportError::io("lock", &stage.destination))?;
    let mut placing = Placing::new(&stage, there, moves, durability);
    let placed = placing.run(parts, unchanged, mode);
    match placed {
        Err(error) if !placing.undo() => {
            drop(placing);
            Err(with_kept(error, &stage.keep()))
        }
        placed => placed,
    }
}

/// Says where what could not be put back is.
fn with_kept(error: ExportError, kept: &Path) -> ExportError {
    let kept = kept.display();
    match error {
        ExportError::Io {
            action,
            path,
            source,
        } => {
            let text = format!("{source}; what could not be put back is in {kept}");
            ExportError::io(action, path)(io::Error::new(source.kind(), text))
        }
        error => error,
    }
}

impl Stage {
    /// Makes a destination that is not there appear, in one step. Gives it if somebody else made it
    /// meanwhile.
    fn appear(&mut self, moves: &Moves) -> Result<Option<Arc<OwnedFd>>, ExportError> {
        let failed = |error: Errno| ExportError::io("make", &self.destination)(error.into());
        let new = At(&self.directory, OsStr::new(NEW));
        let appeared = match self.destination.file_name() {
            Some(name) => moves.to_free(new, At(&self.home, name)),
            // `..` is there if what it is in is.
            None => Err(Errno::EXIST),
        };
        match appeared {
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
    /// Moved to the destination; what was there is at this number in [`OLD`].
    Replaced(TreePath, usize),
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
    /// How many names in [`OLD`] were given out.
    slots: usize,
    moves: Moves,
    durability: Durability,
    away: Option<Away>,
}

impl<'a> Placing<'a> {
    fn new(stage: &'a Stage, there: Arc<OwnedFd>, moves: Moves, durability: Durability) -> Self {
        Self {
            stage,
            new: Beneath::new(stage.tree.clone()),
            there: Beneath::new(there.clone()),
            root: there,
            moved: None,
            met: BTreeMap::new(),
            done: Vec::new(),
            slots: 0,
            moves,
            durability,
            away: None,
        }
    }

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
                let is_there = unchanged.contains(directory);
                self.object(directory, Some((&entry, time)), is_there)?;
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
                let is_there = unchanged.contains(&whole);
                if is_there && directory.is_none() {
                    continue;
                }
                self.object(&whole, directory, is_there)?;
            }
        }
        for (directory, names) in &expected {
            self.remove_others(directory, names)?;
        }
        // Deepest first, for a rename changes the time of the directory.
        for (path, (entry, time)) in std::mem::take(&mut self.met).into_iter().rev() {
            let directory = self.open(&path)?;
            if !has_attributes(&directory, &entry, time) {
                set_attributes(directory.as_fd(), &entry, time)
                    .map_err(|error| self.failed("set the attributes of", &path, error))?;
            }
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

    /// Moves one object, a directory only if the destination has none there. One that `is_there` may not
    /// have been made at all.
    fn object(
        &mut self,
        path: &TreePath,
        directory: Option<(&Entry, Timestamp)>,
        is_there: bool,
    ) -> Result<(), ExportError> {
        if self
            .moved
            .as_ref()
            .is_some_and(|moved| path.starts_with(moved))
        {
            return Ok(());
        }
        if let (true, Some((entry, time))) = (is_there, directory)
            && self.new.find(path).is_none()
        {
            return self.meet(path, entry, time);
        }
        let parent = path.parent().unwrap_or_default();
        let Some(new) = self.new.find(&parent) else {
            // It went with a directory of another platform.
            return Ok(());
        };
        let there = self.open(&parent)?;
        let name = OsStr::from_bytes(path.name().unwrap_or_default());
        let (from, to) = (At(&new, name), At(&there, name));
        let moved = with_write_access(from, || self.moves.to_free(from, to));
        match moved {
            Ok(()) => self.done.push(Done::Moved(path.clone())),
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                if let Some((entry, time)) = directory {
                    let kind = to
                        .kind()
                        .map_err(|error| self.failed("look at", path, error.into()))?;
                    if kind == Some(FileType::Directory) {
                        return self.meet(path, entry, time);
                    }
                }
                self.replace(path, from, to)
                    .map_err(|error| self.failed("replace", path, error))?;
            }
            Err(error) => return Err(self.failed("write", path, error.into())),
        }
        self.moved = Some(path.clone());
        Ok(())
    }

    /// Puts one object in the place of another.
    fn replace(&mut self, path: &TreePath, from: At<'_>, to: At<'_>) -> io::Result<()> {
        let mut exchanged = None;
        with_write_access(from, || {
            exchanged = self.moves.exchange(from, to);
            exchanged.unwrap_or(Ok(()))
        })?;
        if exchanged.is_some() {
            self.done.push(Done::Swapped(path.clone()));
            return Ok(());
        }
        let (stage, slot) = (self.stage, self.slot());
        let name = old(slot);
        let kept = At(&stage.directory, OsStr::new(&name));
        if let Some(replaced) = replace(from, to, kept) {
            replaced?;
            self.done.push(Done::Replaced(path.clone(), slot));
            return Ok(());
        }
        self.note(path, slot)?;
        with_write_access(to, || renameat(to.0, to.1, kept.0, kept.1))?;
        self.done.push(Done::Removed(path.clone(), slot));
        with_write_access(from, || self.moves.to_free(from, to))?;
        self.done.pop();
        self.done.push(Done::Replaced(path.clone(), slot));
        self.settled()
    }

    /// A number for one more object in [`OLD`].
    fn slot(&mut self) -> usize {
        self.slots += 1;
        self.slots - 1
    }

    /// Notes that what is at `path` will be away.
    fn note(&mut self, path: &TreePath, slot: usize) -> io::Result<()> {
        let away = match self.away.take() {
            Some(away) => away,
            None => Away::new(&self.stage.directory, self.durability)?,
        };
        self.away
            .insert(away)
            .note(&self.stage.below_home(path)?, slot)
    }

    fn settled(&self) -> io::Result<()> {
        self.away.as_ref().map_or(Ok(()), Away::settled)
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
        let mut absent = names.clone();
        for entry in Dir::read_from(&*directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            absent.remove(name);
            let is_ours = |name| is_stage(name) || is_kept(name);
            let is_ours = path.is_root() && is_ours(OsStr::from_bytes(name));
            if !matches!(name, b"." | b"..") && !names.contains(name) && !is_ours {
                others.push(name.to_vec());
            }
        }
        // Where case does not count, what was there has kept its spelling.
        let spelled: Vec<_> = absent
            .iter()
            .filter_map(|name| Some((name, inode(&directory, name)?)))
            .collect();
        let is_ours = |other: &[u8]| {
            spelled.iter().any(|(name, inode_of_name)| {
                differ_in_case(name, other) || inode(&directory, other) == Some(*inode_of_name)
            })
        };
        others.retain(|name| !is_ours(name));
        for name in others {
            let whole = path.join(&name).expect("BUG: a directory holds names only");
            let slot = self.slot();
            let other = At(&directory, OsStr::from_bytes(&name));
            let stage = &self.stage.directory;
            match with_write_access(other, || renameat(other.0, other.1, stage, old(slot))) {
                Ok(()) => self.done.push(Done::Removed(whole, slot)),
                // Somebody else removed it.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(self.failed("remove", &whole, error.into())),
            }
        }
        Ok(())
    }

    /// Undoes what was done, as far as that goes. True if all that was at the destination is there
    /// again.
    fn undo(&mut self) -> bool {
        let mut complete = true;
        for done in std::mem::take(&mut self.done).into_iter().rev() {
            let lost = !matches!(done, Done::Moved(_) | Done::Changed(..));
            if self.undo_one(&done).is_err() && lost {
                complete = false;
            }
        }
        complete
    }

    fn undo_one(&mut self, done: &Done) -> io::Result<()> {
        let (Done::Moved(path)
        | Done::Swapped(path)
        | Done::Replaced(path, _)
        | Done::Removed(path, _)
        | Done::Changed(path, _)) = done;
        let stage = self.stage;
        let parent = path.parent().unwrap_or_default();
        let directory = open_directory(self.root.as_fd(), parent.as_bytes())?;
        let name = OsStr::from_bytes(path.name().unwrap_or_default());
        let place = At(&directory, name);
        match done {
            Done::Moved(_) | Done::Swapped(_) => {
                let new = open_directory(stage.tree.as_fd(), parent.as_bytes())?;
                let new = At(&new, name);
                with_write_access(place, || match done {
                    Done::Moved(_) => self.moves.to_free(place, new),
                    _ => self.moves.exchange(place, new).unwrap_or(Err(Errno::INVAL)),
                })?;
            }
            Done::Removed(_, slot) => {
                let name = old(*slot);
                let kept = At(&stage.directory, OsStr::new(&name));
                with_write_access(kept, || self.moves.to_free(kept, place))?;
            }
            Done::Replaced(_, slot) => self.put_back(path, *slot, place)?,
            Done::Changed(_, stat) => restore(&directory, name, stat)?,
        }
        Ok(())
    }

    /// Puts what was replaced back in the place of what replaced it.
    fn put_back(&mut self, path: &TreePath, slot: usize, place: At<'_>) -> io::Result<()> {
        let stage = self.stage;
        let name = old(slot);
        let kept = At(&stage.directory, OsStr::new(&name));
        let directory = Some(FileType::Directory);
        match (kept.kind()?, place.kind()?) {
            (_, None) => return Ok(with_write_access(kept, || self.moves.to_free(kept, place))?),
            (old, new) if old != directory && new != directory => {
                return Ok(renameat(kept.0, kept.1, place.0, place.1)?);
            }
            _ => {}
        }
        self.note(path, slot)?;
        let new = old(self.slot());
        with_write_access(place, || renameat(place.0, place.1, &stage.directory, &new))?;
        with_write_access(kept, || self.moves.to_free(kept, place))?;
        self.settled()
    }
}

/// Where the object of a number is in a stage.
fn old(slot: usize) -> String {
    format!("{OLD}/{slot}")
}

/// Whether a directory has these attributes already, as far as that can be told at once.
fn has_attributes(directory: &OwnedFd, entry: &Entry, time: Timestamp) -> bool {
    entry.attributes.xattrs.is_empty()
        && fstat(directory).is_ok_and(|stat| {
            stat.st_mode & 0o7777 == entry.attributes.mode & 0o7777
                && (stat.st_mtime, stat.st_mtime_nsec)
                    == (time.seconds, u64::from(time.nanoseconds))
        })
}

/// Device and inode of what has this name.
fn inode(directory: &OwnedFd, name: &[u8]) -> Option<(u64, u64)> {
    let name = OsStr::from_bytes(name);
    let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Whether two names are one where case does not count. Not all such file systems have numbers that
/// tell.
fn differ_in_case(one: &[u8], other: &[u8]) -> bool {
    let lower = |name| String::from_utf8_lossy(name).to_lowercase();
    lower(one) == lower(other)
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
    object: At<'_>,
    mut rename: impl FnMut() -> rustix::io::Result<()>,
) -> rustix::io::Result<()> {
    match rename() {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let Ok(directory) = openat(object.0, object.1, flags, Mode::empty()) else {
        return Err(Errno::ACCESS);
    };
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode & 0o7777);
    fchmod(&directory, mode | Mode::RWXU)?;
    let renamed = rename();
    fchmod(&directory, mode)?;
    renamed
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn placing<'a>(stage: &'a Stage, moves: Moves) -> Placing<'a> {
        let there = stage.there.clone().unwrap();
        Placing::new(stage, there, moves, Durability::Synced)
    }

    fn moves(plain: bool) -> Moves {
        match plain {
            true => Moves::plain(),
            false => Moves::default(),
        }
    }

    fn path(text: &str) -> TreePath {
        TreePath::new(text).unwrap()
    }

    /// Makes a file, or a directory with one in it.
    fn make(at: &Path, is_directory: bool, text: &str) {
        match is_directory {
            false => fs::write(at, text).unwrap(),
            true => {
                fs::create_dir(at).unwrap();
                fs::write(at.join("in"), text).unwrap();
            }
        }
    }

    fn text(at: &Path) -> (bool, String) {
        match fs::read_to_string(at.join("in")) {
            Ok(text) => (true, text),
            Err(_) => (false, fs::read_to_string(at).unwrap()),
        }
    }

    #[test]
    fn what_was_replaced_comes_back_with_flags_and_without() {
        for plain in [false, true] {
            for old in [false, true] {
                for new in [false, true] {
                    let folder = tempfile::tempdir().unwrap();
                    let place = folder.path().join("x");
                    make(&place, old, "old");
                    let stage = Stage::new(folder.path()).unwrap();
                    let mut placing = placing(&stage, moves(plain));
                    let tree = format!(
                        "/proc/self/fd/{}",
                        std::os::fd::AsRawFd::as_raw_fd(&*stage.tree)
                    );
                    make(&Path::new(&tree).join("x"), new, "new");
                    let name = OsStr::new("x");
                    let there = placing.root.clone();
                    let (from, to) = (At(&stage.tree, name), At(&there, name));
                    placing.replace(&path("x"), from, to).unwrap();
                    assert_eq!(text(&place), (new, "new".to_owned()));
                    assert!(placing.undo());
                    assert_eq!(text(&place), (old, "old".to_owned()), "{plain} {old} {new}");
                    // The note of what is away says nothing any more.
                    let noted = statat(&stage.directory, "away", AtFlags::empty());
                    assert!(noted.is_ok_and(|noted| noted.st_size == 0) == (plain && (old || new)));
                }
            }
        }
    }

    #[test]
    fn what_is_away_comes_back_if_the_new_one_cannot_be_had() {
        let folder = tempfile::tempdir().unwrap();
        make(&folder.path().join("x"), true, "old");
        let stage = Stage::new(folder.path()).unwrap();
        let mut placing = placing(&stage, Moves::plain());
        let there = placing.root.clone();
        let name = OsStr::new("x");
        let replaced = placing.replace(&path("x"), At(&stage.tree, name), At(&there, name));
        assert_eq!(replaced.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!folder.path().join("x").exists());
        assert!(placing.undo());
        assert_eq!(text(&folder.path().join("x")), (true, "old".to_owned()));
    }

    #[test]
    fn what_cannot_be_put_back_is_kept_and_named() {
        for plain in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let place = folder.path().join("x");
            fs::write(&place, "old").unwrap();
            let mut stage = Stage::new(folder.path()).unwrap();
            let mut placing = placing(&stage, moves(plain));
            placing
                .remove_others(&TreePath::root(), &BTreeSet::new())
                .unwrap();
            // Somebody else makes one.
            fs::write(&place, "of somebody else").unwrap();
            assert!(!placing.undo());
            drop(placing);
            let kept = stage.keep();
            drop(stage);
            assert_eq!(fs::read(&place).unwrap(), b"of somebody else");
            assert_eq!(fs::read(kept.join("old/0")).unwrap(), b"old");
            let error = ExportError::io("write", "y")(io::ErrorKind::StorageFull.into());
            let ExportError::Io { source, .. } = with_kept(error, &kept) else {
                panic!("it is another error")
            };
            assert_eq!(source.kind(), io::ErrorKind::StorageFull);
            assert!(
                source.to_string().contains(kept.to_str().unwrap()),
                "{source}"
            );
            // Later exports leave it alone, those that mirror too.
            let stage = Stage::new(folder.path()).unwrap();
            let mut placing = self::placing(&stage, Moves::default());
            placing
                .remove_others(&TreePath::root(), &BTreeSet::new())
                .unwrap();
            assert!(kept.exists() && !place.exists());
        }
    }
}
