//! Where the bytes of regular files are read from.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::ptr;

use super::{Entry, TreePath};
use crate::dir;
use crate::id::ContentDigest;

/// The bytes behind the entries of a tree: a layer of the store, or a directory lent by the
/// caller. Every node of a view knows its own.
pub trait Files: Send + Sync + fmt::Debug {
    /// Opens the regular file at `path` for reading, never following a symbolic link in any
    /// component, never blocking on a pipe.
    ///
    /// # Errors
    /// As the operating system says; something that is not a regular file is
    /// [`io::ErrorKind::InvalidData`].
    fn open(&self, path: &TreePath) -> io::Result<File>;

    /// Whether the bytes can never change. If not, a copy must hash what it reads and compare.
    fn immutable(&self) -> bool;

    /// Opens the directory at `path`, if the files are in directories: regular files directly in it
    /// have the names and bytes they have here, and may be hard linked from there if they are
    /// [`immutable`](Files::immutable). `None` by default: each file is then opened by its path.
    ///
    /// # Errors
    /// As the operating system says.
    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        let _unused = path;
        Ok(None)
    }

    /// If the files are those of a directory that a caller lends: what stands for that directory,
    /// the same each time it is lent the same way. Who looks at the files may remember by it what
    /// it made of them. `None` by default.
    fn lent(&self) -> Option<[u8; 32]> {
        None
    }

    /// Hears the checksum of an entry once it was computed from bytes read through
    /// [`Files::open`], so that it need not be computed again. Does nothing by default.
    fn computed(&self, path: &TreePath, entry: &Entry, digest: ContentDigest) {
        let _unused = (path, entry, digest);
    }
}

/// Opens files one after the other: those that stand together in a directory through a handle of
/// it, so that the way to it is not walked for each. Files that can change are opened by their whole
/// path: who lends them may want to know.
#[derive(Debug, Default)]
pub struct Opener<'a> {
    last: Option<Place<'a>>,
}

/// Where a file was opened.
#[derive(Debug)]
struct Place<'a> {
    files: &'a dyn Files,
    parent: Vec<u8>,
    /// Opened for the second file.
    directory: Option<OwnedFd>,
}

impl<'a> Opener<'a> {
    /// Opens a file as [`Files::open`] does.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(&mut self, files: &'a dyn Files, path: &TreePath) -> io::Result<File> {
        let bytes = path.as_bytes();
        let (parent, name) = match bytes.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
            None => (&b""[..], bytes),
        };
        let there = |place: &&mut Place<'_>| {
            ptr::addr_eq(ptr::from_ref(place.files), ptr::from_ref(files)) && place.parent == parent
        };
        let Some(place) = self.last.as_mut().filter(there) else {
            self.last = Some(Place {
                files,
                parent: parent.to_vec(),
                directory: None,
            });
            return files.open(path);
        };
        if place.directory.is_none() && files.immutable() {
            let parent = path.parent().unwrap_or_default();
            place.directory = files.directory(&parent)?;
        }
        match &place.directory {
            Some(directory) => dir::open_file(directory, name),
            None => files.open(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Read as _;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Files below a directory, which count what is opened by its whole path.
    #[derive(Debug)]
    struct Below {
        root: PathBuf,
        directories: bool,
        walked: AtomicUsize,
    }

    impl Files for Below {
        fn open(&self, path: &TreePath) -> io::Result<File> {
            self.walked.fetch_add(1, Ordering::Relaxed);
            dir::open_file(File::open(&self.root)?, path.as_bytes())
        }

        fn immutable(&self) -> bool {
            true
        }

        fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
            let root = File::open(&self.root)?;
            match (self.directories, path.is_root()) {
                (false, _) => Ok(None),
                (true, true) => Ok(Some(root.into())),
                (true, false) => dir::open_directory(root, path.as_bytes()).map(Some),
            }
        }
    }

    fn below(name: &str, directories: bool) -> (tempfile::TempDir, Below) {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("d/e")).unwrap();
        for file in ["a", "b", "c", "d/a", "d/b", "d/e/a", "d/e/b"] {
            fs::write(temp.path().join(file), format!("{name} {file}")).unwrap();
        }
        let root = temp.path().to_path_buf();
        let walked = AtomicUsize::new(0);
        let files = Below {
            root,
            directories,
            walked,
        };
        (temp, files)
    }

    #[test]
    fn files_that_stand_together_are_opened_through_their_directory() {
        for (directories, walked) in [(true, [4, 2]), (false, [8, 3])] {
            let (_one, one) = below("one", directories);
            let (_two, two) = below("two", directories);
            let mut opener = Opener::default();
            for (files, path) in [
                (&one, "a"),
                (&one, "b"),
                (&one, "c"),
                (&two, "a"),
                (&one, "d/a"),
                (&one, "d/b"),
                (&one, "d/e/a"),
                (&one, "d/e/b"),
                (&two, "d/a"),
                (&two, "d/b"),
                (&one, "a"),
            ] {
                let mut text = String::new();
                let path = TreePath::new(path).unwrap();
                let mut file = opener.open(files, &path).unwrap();
                file.read_to_string(&mut text).unwrap();
                let name = if ptr::eq(files, &one) { "one" } else { "two" };
                assert_eq!(text, format!("{name} {}", &path.to_string()[1..]));
            }
            let found = [&one, &two].map(|files| files.walked.load(Ordering::Relaxed));
            assert_eq!(found, walked);
            let missing = TreePath::new("d/e/c").unwrap();
            let error = opener.open(&one, &missing).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }
}
