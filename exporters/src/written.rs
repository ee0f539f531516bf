//! Files that an export wrote and nobody changed since: what they have is not written again.
//!
//! Owns [`Written`]. A file that was changed, moved or replaced is another one. Before it is put in
//! its place the time of its last change is set back by a nanosecond, so that a change in the same
//! tick of the clock shows too.

use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use ashlar_solver::result::Store;
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use sha2::{Digest as _, Sha256};

use crate::notes::{Note, Notes, place};

/// The file with the notes, one after the other.
const NAME: &str = "archives";

/// How many there are.
const PLACES: u64 = 4096;

/// What a file is to have, and the notes of the files that had it.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    notes: Notes,
    /// None if what is to be written cannot be told before.
    content: Option<[u8; 32]>,
}

/// A file that shows every change from now on.
#[derive(Debug)]
pub(crate) struct Marked {
    written: Written,
    file: File,
}

impl Written {
    /// `content`: of all that the bytes are made of, from [`content_of`](crate::notes::content_of);
    /// `None` if they cannot be told before they are written, and always are.
    pub(crate) fn new(store: &Store, content: Option<Sha256>) -> Self {
        Self {
            notes: Notes::of(store),
            content: content.map(|hasher| hasher.finalize().into()),
        }
    }

    /// Whether the file at `path` has it already.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.noted(path).is_some()
    }

    fn noted(&self, path: &Path) -> Option<()> {
        let content = self.content.as_ref()?;
        let mut noted = Note::default();
        let notes = self.notes.open(NAME, OFlags::RDONLY).ok()?;
        notes.read_exact_at(&mut noted, offset(path)?).ok()?;
        // Some file systems tell the truth only of files that were opened since.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty()).ok()?;
        let file = fstat(file).ok()?;
        let is_file = FileType::from_raw_mode(file.st_mode) == FileType::RegularFile;
        (is_file && noted == self.notes.note(content, &file)?).then_some(())
    }

    /// Makes every change of a complete file show; `None` if its file system cannot.
    pub(crate) fn mark(self, file: &File) -> Option<Marked> {
        self.content?;
        let file = file.try_clone().ok()?;
        let written = file.metadata().ok()?.modified().ok()?;
        let earlier = written.checked_sub(Duration::from_nanos(1))?;
        let times = FileTimes::new().set_modified(earlier);
        file.set_times(times).ok()?;
        let told = file.metadata().ok()?.modified().ok()?;
        let written = self;
        (told <= earlier).then_some(Marked { written, file })
    }
}

impl Marked {
    /// Notes that the file is at `path` now. Where that fails it is written again the next time.
    pub(crate) fn note(self, path: &Path) {
        let _written_again = self.try_note(path);
    }

    fn try_note(self, path: &Path) -> Option<()> {
        let Written { notes, content } = self.written;
        let note = notes.note(&content?, &fstat(&self.file).ok()?)?;
        let file = notes.open(NAME, OFlags::WRONLY | OFlags::CREATE).ok()?;
        file.write_all_at(&note, offset(path)?).ok()
    }
}

/// Where the note of the file at a path is.
fn offset(path: &Path) -> Option<u64> {
    Some(place(path, PLACES)? * 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notes::content_of;
    use crate::notes::tests::store;

    #[tokio::test]
    async fn a_change_in_the_same_tick_of_the_clock_shows() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path().join("state")).await;
        let written = Written::new(&store, Some(content_of("test")));
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
}
