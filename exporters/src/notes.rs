//! What a state root notes of outputs, so that those which nobody changed are left alone.
//!
//! Owns [`Notes`] and [`Note`]: a hash of what a file has, of which file it is, and of the boot id of
//! the machine, for the bytes may get lost when it goes down.
//!
//! Invariant: **losing what is noted loses time, never an output**. A damaged note is that of no file.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use ashlar_solver::result::Store;
use ashlar_solver::root::StateRoot;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, mkdirat, openat, renameat, unlinkat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

use crate::target::random;

/// Their directory in the state root.
const FOLDER: &str = "outputs";

/// What is noted of one file.
pub(crate) type Note = [u8; 32];

/// The notes of a state root.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    root: Arc<StateRoot>,
}

impl Notes {
    pub(crate) fn of(store: &Store) -> Self {
        let root = store.layers().root().clone();
        Self { root }
    }

    /// That of a file which has this content; `None` if a change of it might not show. One sets the
    /// time of the last change of its bytes to that of the clock, which is not before that of the last
    /// change of anything: it shows if the one was before the other. Where they are always the same,
    /// as on sshfs, it can be hidden.
    pub(crate) fn note(&self, content: &[u8; 32], file: &Stat) -> Option<Note> {
        let changed = (file.st_mtime, file.st_mtime_nsec);
        let touched = (file.st_ctime, file.st_ctime_nsec);
        (changed < touched).then(|| note(content, file, self.root.boot_id()))
    }

    /// Opens one of the files with notes; with [`OFlags::CREATE`] it is made if it is missing.
    pub(crate) fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<File> {
        let folder = self.folder(flags.contains(OFlags::CREATE))?;
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(file.into())
    }

    /// Replaces one of the files.
    pub(crate) fn replace(&self, name: &str, notes: &[u8]) -> io::Result<()> {
        let folder = self.folder(true)?;
        let temporary = random()?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(&folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let written = File::from(file)
            .write_all(notes)
            .and_then(|()| Ok(renameat(&folder, &temporary, &folder, name)?));
        if written.is_err() {
            let _gone = unlinkat(&folder, &temporary, AtFlags::empty());
        }
        written
    }

    fn folder(&self, make: bool) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match openat(self.root.dir(), FOLDER, flags, Mode::empty()) {
            Err(Errno::NOENT) if make => {}
            done => return done,
        }
        match mkdirat(self.root.dir(), FOLDER, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
        openat(self.root.dir(), FOLDER, flags, Mode::empty())
    }
}

fn note(content: &[u8; 32], file: &Stat, boot_id: &str) -> Note {
    let mut hasher = Sha256::new_with_prefix(content);
    add_stat(&mut hasher, file);
    hasher.update(boot_id);
    hasher.finalize().into()
}

/// Begins the hash of all that the bytes of an output are made of. Another version of this crate
/// may make others of it.
pub(crate) fn content_of(kind: &str) -> Sha256 {
    let version = env!("CARGO_PKG_VERSION");
    Sha256::new_with_prefix(format!("{version} {kind}\0"))
}

/// Adds which file it is, as long as nobody changes it.
pub(crate) fn add_file(hasher: &mut Sha256, file: impl AsFd) -> rustix::io::Result<()> {
    add_stat(hasher, &fstat(file)?);
    Ok(())
}

fn add_stat(hasher: &mut Sha256, file: &Stat) {
    for number in [file.st_dev, file.st_ino] {
        hasher.update(number.to_le_bytes());
    }
    for number in [file.st_size, file.st_mtime, file.st_ctime] {
        hasher.update(number.to_le_bytes());
    }
    for number in [file.st_mtime_nsec, file.st_ctime_nsec] {
        hasher.update(number.to_le_bytes());
    }
}

/// Which of so many places belongs to a path. Paths that share one take it from each other.
pub(crate) fn place(path: &Path, places: u64) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let hash = Sha256::digest(path.as_os_str().as_bytes());
    let (first, _) = hash.split_first_chunk()?;
    Some(u64::from_le_bytes(*first) % places)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::FileTimes;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use ashlar_llb::{self as llb, Constraints, Platform};
    use ashlar_solver::solver::{SolveRequest, Solver};

    use super::*;

    /// The stores of a new root.
    pub(crate) async fn store(root: PathBuf) -> Store {
        let solver = Solver::builder().root(root).build().unwrap();
        let nothing = llb::scratch().marshal(&Constraints::new(Platform::of_target()));
        let nothing = solver.solve(SolveRequest::new(nothing.unwrap()));
        nothing.result().await.unwrap().result.store
    }

    #[test]
    fn a_note_is_of_one_content_in_one_file_since_one_start_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a")).unwrap();
        let other = File::create(folder.path().join("b")).unwrap();
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        file.set_times(times).unwrap();
        other.set_times(times).unwrap();
        let [file, other] = [file, other].map(|file| fstat(file).unwrap());
        let mut longer = file;
        longer.st_size += 1;
        let mut changed = file;
        changed.st_mtime_nsec += 1;
        let mut touched = file;
        touched.st_ctime_nsec += 1;
        let all = [
            note(&[0; 32], &file, "one"),
            note(&[1; 32], &file, "one"),
            note(&[0; 32], &other, "one"),
            note(&[0; 32], &longer, "one"),
            note(&[0; 32], &changed, "one"),
            note(&[0; 32], &touched, "one"),
            note(&[0; 32], &file, "two"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
        assert_eq!(all[0], note(&[0; 32], &file, "one"));
    }

    #[test]
    fn there_is_no_place_beyond_the_last() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let at = place(Path::new(&format!("/out/{number}.tar")), 4096).unwrap();
            assert!(at < 4096, "{at}");
            seen.insert(at);
        }
        assert!(seen.len() > 800, "{}", seen.len());
    }
}
