//! Files that an export wrote and nobody changed since: what they have is not written again.
//!
//! Owns [`Written`]. The state root notes of a file what it has, by a hash of all that its bytes are
//! made of, and which file it is: device, inode, size and both times. A file that was changed, moved
//! or replaced is another one. Before it is put in its place the time of its last change is set back
//! by a nanosecond, so that a change in the same tick of the clock shows too. What was noted before
//! the machine was started is worth nothing: the bytes may have got lost when it went down.
//!
//! Invariant: **losing what is noted loses time, never an output**. A damaged note is that of no file.

use std::fs::{File, FileTimes, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ashlar_solver::result::Store;
use ashlar_solver::root::StateRoot;
use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest as _, Sha256};

/// The file of the state root with the notes, one after the other.
const NOTES: &str = "outputs";

/// How many there are. Paths that share one take it from each other.
const PLACES: u64 = 4096;

/// What a file is to have, and the notes of the files that had it.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    root: Arc<StateRoot>,
    /// None if what is to be written cannot be told before.
    content: Option<[u8; 32]>,
}

/// A file that shows every change from now on.
#[derive(Debug)]
pub(crate) struct Marked {
    written: Written,
    file: File,
}

/// Begins the hash of all that the bytes of an output are made of. Another version of this crate
/// may make others of it.
pub(crate) fn content_of(kind: &str) -> Sha256 {
    let version = env!("CARGO_PKG_VERSION");
    Sha256::new_with_prefix(format!("{version} {kind}\0"))
}

/// Adds which file it is, as long as nobody changes it.
pub(crate) fn add_file(hasher: &mut Sha256, file: &File) -> io::Result<()> {
    add_metadata(hasher, &file.metadata()?);
    Ok(())
}

fn add_metadata(hasher: &mut Sha256, file: &Metadata) {
    for number in [file.dev(), file.ino(), file.size()] {
        hasher.update(number.to_le_bytes());
    }
    let (changed, looked_at) = (file.mtime_nsec(), file.ctime_nsec());
    for number in [file.mtime(), changed, file.ctime(), looked_at] {
        hasher.update(number.to_le_bytes());
    }
}

impl Written {
    /// `content`: of all that the bytes are made of, from [`content_of`]; `None` if they cannot be
    /// told before they are written, and always are.
    pub(crate) fn new(store: &Store, content: Option<Sha256>) -> Self {
        Self {
            root: store.layers().root().clone(),
            content: content.map(|hasher| hasher.finalize().into()),
        }
    }

    /// Whether the file at `path` has it already.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.noted(path).is_some()
    }

    fn noted(&self, path: &Path) -> Option<()> {
        let mut noted = [0; 32];
        let notes = self.notes(OFlags::RDONLY).ok()?;
        notes.read_exact_at(&mut noted, place(path)?).ok()?;
        // Some file systems tell the truth only of files that were opened since.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
        let file = file.metadata().ok()?;
        (file.is_file() && noted == self.note(&file)?).then_some(())
    }

    /// Makes every change of a complete file show; `None` if its file system cannot.
    pub(crate) fn mark(self, file: &File) -> Option<Marked> {
        self.content.as_ref()?;
        let file = file.try_clone().ok()?;
        let written = file.metadata().ok()?.modified().ok()?;
        let earlier = written.checked_sub(Duration::from_nanos(1))?;
        let times = FileTimes::new().set_modified(earlier);
        file.set_times(times).ok()?;
        let told = file.metadata().ok()?.modified().ok()?;
        let written = self;
        (told <= earlier).then_some(Marked { written, file })
    }

    /// What is noted of a file that has it.
    fn note(&self, file: &Metadata) -> Option<[u8; 32]> {
        Some(note(&self.content?, file, self.root.boot_id()))
    }

    fn notes(&self, flags: OFlags) -> rustix::io::Result<File> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let notes = openat(self.root.dir(), NOTES, flags, mode)?;
        Ok(notes.into())
    }
}

impl Marked {
    /// Notes that the file is at `path` now. Where that fails it is written again the next time.
    pub(crate) fn note(self, path: &Path) {
        let _written_again = self.try_note(path);
    }

    fn try_note(self, path: &Path) -> Option<()> {
        let note = self.written.note(&self.file.metadata().ok()?)?;
        let notes = self.written.notes(OFlags::WRONLY | OFlags::CREATE).ok()?;
        notes.write_all_at(&note, place(path)?).ok()
    }
}

/// What is noted of a file that has this content, until the machine goes down.
fn note(content: &[u8; 32], file: &Metadata, boot_id: &str) -> [u8; 32] {
    let mut hasher = Sha256::new_with_prefix(content);
    add_metadata(&mut hasher, file);
    hasher.update(boot_id);
    hasher.finalize().into()
}

/// Where the note of the file at a path is.
fn place(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let hash = Sha256::digest(path.as_os_str().as_bytes());
    let (first, _) = hash.split_first_chunk()?;
    Some(u64::from_le_bytes(*first) % PLACES * 32)
}

#[cfg(test)]
mod tests {
    use ashlar_llb::{self as llb, Constraints, Platform};
    use ashlar_solver::solver::{SolveRequest, Solver};

    use super::*;

    #[test]
    fn a_note_is_of_one_content_in_one_file_since_one_start_of_the_machine() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a")).unwrap();
        let other = File::create(folder.path().join("b")).unwrap();
        let times = FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        file.set_times(times).unwrap();
        other.set_times(times).unwrap();
        let [file, other] = [file, other].map(|file| file.metadata().unwrap());
        let all = [
            note(&[0; 32], &file, "one"),
            note(&[1; 32], &file, "one"),
            note(&[0; 32], &other, "one"),
            note(&[0; 32], &file, "two"),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
        assert_eq!(all[0], note(&[0; 32], &file, "one"));
    }

    #[tokio::test]
    async fn a_change_in_the_same_tick_of_the_clock_shows() {
        let folder = tempfile::tempdir().unwrap();
        let solver = Solver::builder().root(folder.path().join("state")).build();
        let nothing = Constraints::new(Platform::of_target());
        let nothing = SolveRequest::new(llb::scratch().marshal(&nothing).unwrap());
        let result = solver
            .unwrap()
            .solve(nothing)
            .result()
            .await
            .unwrap()
            .result;
        let written = Written::new(&result.store, Some(content_of("test")));
        let path = folder.path().join("out");
        let file = File::create(&path).unwrap();
        let modified = || file.metadata().unwrap().modified().unwrap();
        let before = modified();
        written.clone().mark(&file).unwrap().note(&path);
        // What is written has the time of the clock, which is not earlier.
        assert_eq!(modified(), before - Duration::from_nanos(1));
        assert!(written.is_at(&path));
        file.set_times(FileTimes::new().set_modified(before))
            .unwrap();
        assert!(!written.is_at(&path));
    }

    #[test]
    fn there_is_no_place_beyond_the_last() {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..1000 {
            let at = place(Path::new(&format!("/out/{number}.tar"))).unwrap();
            assert!(at.is_multiple_of(32) && at < PLACES * 32, "{at}");
            seen.insert(at);
        }
        assert!(seen.len() > 800, "{}", seen.len());
    }
}
