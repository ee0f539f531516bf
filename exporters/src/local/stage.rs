//! The directory in which an export is prepared.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_solver::root::remove_tree;
use ashlar_solver::tree::TreePath;
use rustix::fs::{
    AtFlags, CWD, Dir, FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::away::put_back;
use crate::ExportError;
use crate::lock::has_none;
use crate::target::random;

/// What the name of such a directory begins and ends with.
const PREFIX: &str = ".ashlar-";
const SUFFIX: &str = ".partial";
/// What the name of one ends with that still holds files of the destination.
const KEPT: &str = ".kept";

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
    /// It stays.
    kept: bool,
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
            kept: false,
        })
    }

    /// The path of something in the destination from where this directory is.
    pub(super) fn below_home(&self, path: &TreePath) -> io::Result<TreePath> {
        if self.there.is_some() {
            return Ok(path.clone());
        }
        let name = self.destination.file_name().unwrap_or_default();
        let name = TreePath::new(name.as_bytes()).map_err(io::Error::other)?;
        Ok(name.join_path(path))
    }

    /// Leaves the directory where it is, because it holds what cannot be put back, under a name by
    /// which nobody takes it for one that a killed process left. Gives its path.
    pub(super) fn keep(&mut self) -> PathBuf {
        self.kept = true;
        let mut name = self.name.as_bytes().to_vec();
        name.truncate(name.len() - SUFFIX.len());
        name.extend_from_slice(KEPT.as_bytes());
        let name = OsString::from_vec(name);
        if renameat(&self.home, &self.name, &self.home, &name).is_ok() {
            self.name = name;
        }
        match &self.there {
            Some(_) => self.destination.join(&self.name),
            None => self.destination.with_file_name(&self.name),
        }
    }

    /// Keeps the directories that were made on the way to the destination.
    pub(super) fn keep_way(&mut self) {
        self.way.made.clear();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
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
    is_ours(name, SUFFIX)
}

/// Whether a name is that of a directory like this which was kept.
pub(super) fn is_kept(name: &OsStr) -> bool {
    is_ours(name, KEPT)
}

fn is_ours(name: &OsStr, suffix: &str) -> bool {
    let name = name.as_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(suffix.as_bytes())
}

/// Removes what killed processes left, once all of the destination is at its place again.
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
            && put_back(home, &opened)
        {
            let _gone = remove_tree(home.as_fd(), name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use ashlar_solver::solver::Durability;

    use super::super::away::Away;
    use super::*;

    /// The names in a directory.
    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Leaves a stage as a killed process does that has moved `d/e/f` away.
    fn killed(out: &Path) {
        let mut stage = Stage::new(out).unwrap();
        if stage.there.is_none() {
            // Somebody else made it meanwhile.
            fill(out);
        }
        let path = stage.below_home(&TreePath::new("d/e/f").unwrap()).unwrap();
        let away = Away::new(&stage.directory, Durability::Synced).unwrap();
        // One before it was longer, and has its place.
        away.note(&TreePath::new("d/another/long/path").unwrap(), 7)
            .unwrap();
        away.settled().unwrap();
        away.note(&path, 3).unwrap();
        let home = stage.home.try_clone().unwrap();
        let old = format!("{OLD}/3");
        renameat(&home, path.as_relative(), &stage.directory, old).unwrap();
        stage.kept = true;
    }

    fn fill(out: &Path) {
        fs::create_dir_all(out.join("d/e")).unwrap();
        fs::write(out.join("d/e/f"), "old").unwrap();
    }

    #[test]
    fn what_a_killed_process_moved_away_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, there) in [("there", true), ("new", false)] {
            let out = folder.path().join(name);
            if there {
                fill(&out);
            }
            killed(&out);
            assert!(!out.join("d/e/f").exists());
            // One that goes beside the stage, and one that goes elsewhere.
            let other = match there {
                true => out.clone(),
                false => folder.path().join("other"),
            };
            drop(Stage::new(&other).unwrap());
            assert_eq!(fs::read(out.join("d/e/f")).unwrap(), b"old", "{name}");
            assert_eq!(names(&out), ["d"], "{name}");
        }
        assert_eq!(names(folder.path()), ["new", "there"]);
    }

    #[test]
    fn nothing_is_put_back_where_something_is_or_nothing_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fill(out);
        killed(out);
        fs::write(out.join("d/e/f"), "newer").unwrap();
        drop(Stage::new(out).unwrap());
        assert_eq!(fs::read(out.join("d/e/f")).unwrap(), b"newer");
        assert_eq!(names(out), ["d"]);
        killed(out);
        fs::remove_dir_all(out.join("d")).unwrap();
        drop(Stage::new(out).unwrap());
        assert_eq!(names(out), [""; 0], "whoever removed it wanted it gone");
    }

    #[test]
    fn what_cannot_be_put_back_yet_stays() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        fill(out);
        killed(out);
        fs::rename(out.join("d"), out.join("real")).unwrap();
        // No link is followed.
        std::os::unix::fs::symlink("real", out.join("d")).unwrap();
        drop(Stage::new(out).unwrap());
        let [stage, rest @ ..] = &names(out)[..] else {
            panic!("nothing is there")
        };
        assert!(is_stage(stage.as_ref()), "{stage}");
        assert_eq!(rest, ["d", "real"]);
        assert_eq!(names(&out.join("real/e")), [""; 0]);
        fs::remove_file(out.join("d")).unwrap();
        fs::rename(out.join("real"), out.join("d")).unwrap();
        drop(Stage::new(out).unwrap());
        assert_eq!(fs::read(out.join("d/e/f")).unwrap(), b"old");
        assert_eq!(names(out), ["d"]);
    }

    #[test]
    fn a_note_is_taken_for_what_it_says_alone() {
        // A stage may have been planted by what was exported here before.
        for text in [
            "",
            "0\n",
            "0\n\n",
            "0\nf",
            "x\nf\n",
            "0\n../f\n",
            "0\n/f\n",
            "0\nd/../../f\n",
            "-1\nf\n",
            "../x\nf\n",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("out");
            let stage = out.join(format!("{PREFIX}planted{SUFFIX}"));
            fs::create_dir_all(stage.join(OLD)).unwrap();
            fs::write(stage.join(OLD).join("0"), "planted").unwrap();
            fs::write(stage.join("x"), "planted").unwrap();
            fs::write(stage.join("away"), text).unwrap();
            drop(Stage::new(&out).unwrap());
            assert_eq!(names(&out), [""; 0], "{text:?}");
            assert_eq!(names(folder.path()), ["out"], "{text:?}");
        }
    }

    #[test]
    fn a_planted_link_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (out, outside) = (folder.path().join("out"), folder.path().join("outside"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("0"), "not of the export").unwrap();
        let link = std::os::unix::fs::symlink::<&Path, PathBuf>;
        for (old, away) in [(true, "0\nf\n"), (false, "0\nto/f\n")] {
            let stage = out.join(format!("{PREFIX}planted{SUFFIX}"));
            fs::create_dir_all(&stage).unwrap();
            match old {
                true => link(&outside, stage.join(OLD)).unwrap(),
                false => {
                    fs::create_dir(stage.join(OLD)).unwrap();
                    fs::write(stage.join(OLD).join("0"), "planted").unwrap();
                    link(&outside, out.join("to")).unwrap();
                }
            }
            fs::write(stage.join("away"), away).unwrap();
            drop(Stage::new(&out).unwrap());
            assert_eq!(names(&outside), ["0"], "{away:?}");
            assert!(!out.join("f").exists());
        }
        assert_eq!(names(&out), ["to"]);
    }

    #[test]
    fn one_that_is_kept_is_not_taken_for_an_abandoned_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut stage = Stage::new(folder.path()).unwrap();
        let kept = stage.keep();
        drop(stage);
        assert!(is_kept(kept.file_name().unwrap()));
        drop(Stage::new(folder.path()).unwrap());
        assert_eq!(names(&kept), [NEW, OLD]);
    }
}
