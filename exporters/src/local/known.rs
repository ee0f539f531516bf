//! Files that an export left in a directory and nobody changed since: their bytes are not compared
//! again.
//!
//! The state root notes what each of them has and which file it is. A later change shows in a time of
//! the file: it sets that of the last change to the time of the clock, which is later than the one that
//! the export set, or nothing is noted.

use std::collections::HashSet;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_solver::cancel::Cancel;
use ashlar_solver::result::Store;
use ashlar_solver::tree::{Kind, TreePath};
use rustix::fs::{CWD, Mode, OFlags, Stat, openat};
use sha2::Digest as _;

use super::beneath::Beneath;
use super::compare::{Copy, Sources, alike};
use crate::files::{Item, Part, link_group};
use crate::notes::{Note, Notes, add_file, content_of, place};

/// Directories whose notes are kept.
const PLACES: u64 = 256;

/// Largest file of notes that is read: 2 million files.
const LIMIT: u64 = 64 << 20;

/// What is known of the files of one directory.
#[derive(Debug)]
pub(super) struct Known {
    notes: Notes,
    /// The name of the file with the notes; none if they cannot be kept.
    name: Option<String>,
    /// Those that were there, in order.
    stored: Vec<Note>,
    /// Those that count from now on.
    learnt: Mutex<Vec<Note>>,
}

impl Known {
    /// What is known of the files below `path`.
    pub(super) fn of(store: &Store, path: &Path) -> Self {
        let notes = Notes::of(store);
        let name = place(path, PLACES).map(|place| format!("{place:02x}"));
        let stored = name.as_ref().and_then(|name| read(&notes, name));
        Self {
            notes,
            name,
            stored: stored.unwrap_or_default(),
            learnt: Mutex::default(),
        }
    }

    /// The note of a file of the destination that has what is to be copied, if such a thing can be
    /// told of both.
    pub(super) fn note(&self, copy: &Copy, there: &Stat, sources: &mut Sources) -> Option<Note> {
        let entry = copy.node.entry();
        let mut hasher = content_of("file");
        for (name, value) in entry.attributes.xattrs.iter() {
            hasher.update(name.len().to_le_bytes());
            hasher.update(name);
            hasher.update(value.len().to_le_bytes());
            hasher.update(value);
        }
        if let Some(digest) = entry.digest {
            hasher.update([1]);
            hasher.update(digest.as_bytes());
        } else if copy.node.files().is_some_and(|files| files.immutable()) {
            hasher.update([2]);
            add_file(&mut hasher, sources.open(copy).ok()?).ok()?;
        } else {
            return None;
        }
        self.notes.note(&hasher.finalize().into(), there)
    }

    /// Whether it was noted before.
    pub(super) fn has(&self, note: &Note) -> bool {
        self.stored.binary_search(note).is_ok()
    }

    /// Notes it, once all is in its place.
    pub(super) fn learn(&self, note: Note) {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        learnt.push(note);
    }

    /// Notes the files that were written, which are in their place now.
    pub(super) fn learn_written(
        &self,
        parts: &[Part],
        unchanged: &HashSet<TreePath>,
        path: &Path,
        cancel: &Cancel,
    ) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(there) = openat(CWD, path, flags, Mode::empty()) else {
            return;
        };
        let mut there = Beneath::new(Arc::new(there));
        let mut sources = Sources::default();
        for part in parts {
            for (path, item) in part.items() {
                let Item::Node(node) = item else { continue };
                let whole = part.prefix().join_path(&path);
                let is_alone = node.entry().kind == Kind::File && link_group(node).is_none();
                if !is_alone || unchanged.contains(&whole) {
                    continue;
                }
                if cancel.is_cancelled() {
                    return;
                }
                let copy = Copy {
                    path,
                    node: node.clone(),
                    time: part.time(node.entry().attributes.mtime),
                };
                let folder = there.find(&whole.parent().unwrap_or_default());
                let noted = folder
                    .and_then(|folder| alike(folder.as_fd(), &copy))
                    .and_then(|stat| self.note(&copy, &stat, &mut sources));
                if let Some(note) = noted {
                    self.learn(note);
                }
            }
        }
    }

    /// Keeps what was learnt, and nothing else. Where that fails the files are compared the next time.
    pub(super) fn keep(self) {
        let learnt = self.learnt.into_inner();
        let mut learnt = learnt.unwrap_or_else(PoisonError::into_inner);
        learnt.sort_unstable();
        if let Some(name) = self.name
            && learnt != self.stored
        {
            let _compared_again = self.notes.replace(&name, learnt.as_flattened());
        }
    }
}

fn read(notes: &Notes, name: &str) -> Option<Vec<Note>> {
    let mut bytes = Vec::new();
    let file = notes.open(name, OFlags::RDONLY).ok()?;
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    let (notes, _) = bytes.as_chunks();
    // What is not in order was damaged.
    notes.is_sorted().then(|| notes.to_vec())
}

#[cfg(test)]
mod tests {
    use std::fs::{File, FileTimes};
    use std::time::Duration;

    use ashlar_solver::id::ContentDigest;
    use ashlar_solver::tree::{Attributes, Entry, Node, Timestamp, Xattrs};
    use rustix::fs::fstat;

    use super::*;
    use crate::notes::tests::store;

    #[tokio::test]
    async fn only_what_would_show_a_change_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path().join("state")).await;
        let known = || Known::of(&store, folder.path());
        let file = File::create(folder.path().join("out")).unwrap();
        let copy = |digest: Option<&[u8]>, xattrs: &[(&[u8], &[u8])]| {
            let pairs = xattrs
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()));
            let attributes = Attributes {
                xattrs: Xattrs::new(pairs),
                ..Attributes::default()
            };
            let mut entry = Entry::new(Kind::File, attributes);
            entry.digest = digest.map(ContentDigest::of);
            Copy {
                path: TreePath::new("out").unwrap(),
                node: Node::leaf(entry, None),
                time: Timestamp::default(),
            }
        };
        let note = |copy: &Copy| {
            let file = fstat(&file).unwrap();
            known().note(copy, &file, &mut Sources::default())
        };
        let one = copy(Some(b"one"), &[]);
        // A change now would have the same time, or an earlier one.
        let now = file.metadata().unwrap().modified().unwrap();
        for later in [Duration::ZERO, Duration::from_secs(60)] {
            let times = FileTimes::new().set_modified(now + later);
            file.set_times(times).unwrap();
            let mut same = fstat(&file).unwrap();
            (same.st_ctime, same.st_ctime_nsec) = (same.st_mtime, same.st_mtime_nsec);
            assert_eq!(known().note(&one, &same, &mut Sources::default()), None);
        }
        let times = FileTimes::new().set_modified(now - Duration::from_nanos(1));
        file.set_times(times).unwrap();
        let all = [
            note(&one).unwrap(),
            note(&copy(Some(b"two"), &[])).unwrap(),
            note(&copy(Some(b"one"), &[(b"user.a", b"b")])).unwrap(),
            note(&copy(Some(b"one"), &[(b"user.ab", b"")])).unwrap(),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!all[at + 1..].contains(one), "{at}");
        }
        // Nobody knows what this one has.
        assert_eq!(note(&copy(None, &[])), None);

        let learning = known();
        all.iter().rev().for_each(|note| learning.learn(*note));
        learning.keep();
        assert!(all.iter().all(|note| known().has(note)));
        let fewer = known();
        fewer.learn(all[2]);
        fewer.keep();
        assert_eq!(known().stored, [all[2]]);
    }
}
