//! What is remembered of lent directories: in the process, and in the state root.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fstat, openat, readlinkat, renameat, unlinkat};
use sha2::{Digest as _, Sha256};

use super::files::{LocalFiles, inode_of};
use super::folder::Folder;
use super::known::{Inode, Known};
use crate::dir;

/// Directories that are remembered in the process.
const DIRECTORIES: usize = 16;

/// Trees of one directory, each with other patterns, that are remembered in the process.
const TREES: usize = 4;

/// Largest file of records that is read: ten million files.
const MAX_FILE: u64 = 1 << 30;

/// Include patterns, with follow paths resolved, and exclude patterns.
pub(super) type Filters = (Vec<String>, Vec<String>);

/// What is remembered of lent directories, so that unchanged files are not read again. One for
/// all solves of a process.
///
/// With a directory to store it in, other processes and later times have it too: one file per
/// lent directory, named by a hash of its path. A file that is damaged is ignored.
#[derive(Debug, Default)]
pub struct LocalCache {
    store: Option<OwnedFd>,
    /// The latest last.
    directories: Mutex<Vec<Arc<Shared>>>,
}

/// One lent directory.
#[derive(Debug)]
pub(super) struct Shared {
    /// The name of the stored file.
    name: String,
    inode: Inode,
    pub(super) files: Arc<LocalFiles>,
    /// The latest last.
    trees: Mutex<Vec<(Filters, Arc<Folder>)>>,
}

impl Shared {
    /// The last tree with these patterns.
    pub(super) fn tree(&self, filters: &Filters) -> Option<Arc<Folder>> {
        let trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees
            .iter()
            .find(|(other, _)| other == filters)
            .map(|(_, tree)| tree.clone())
    }

    pub(super) fn remember(&self, filters: Filters, tree: &Arc<Folder>) {
        let mut trees = self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        trees.retain(|(other, _)| *other != filters);
        if trees.len() >= TREES {
            trees.remove(0);
        }
        trees.push((filters, tree.clone()));
    }
}

impl LocalCache {
    /// Remembers in `store`, a directory of the state root that holds nothing else; without one,
    /// only as long as this value lives.
    pub fn new(store: Option<OwnedFd>) -> Self {
        Self {
            store,
            directories: Mutex::default(),
        }
    }

    /// What is remembered of an open directory. `counting`: how its attributes are counted, which
    /// checksums depend on.
    pub(super) fn shared(
        &self,
        root: OwnedFd,
        path: &Path,
        counting: [bool; 2],
    ) -> io::Result<Arc<Shared>> {
        let inode = inode_of(&fstat(&root)?);
        // The path without links; as it was given where /proc cannot tell.
        let link = format!("/proc/self/fd/{}", root.as_raw_fd());
        let path = match readlinkat(CWD, link, Vec::new()) {
            Ok(real) => real.into_bytes(),
            Err(_) => path.as_os_str().as_bytes().to_vec(),
        };
        let mut hash = Sha256::new();
        hash.update(counting.map(u8::from));
        hash.update(&path);
        let identity: [u8; 32] = hash.finalize().into();
        let name: String = identity.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut directories = self
            .directories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = directories.iter().position(|shared| shared.name == name) {
            let shared = directories.remove(at);
            if shared.inode == inode {
                directories.push(shared.clone());
                return Ok(shared);
            }
        }
        let files = Arc::new(LocalFiles::new(root, identity, self.load(&name)));
        let shared = Arc::new(Shared {
            name,
            inode,
            files,
            trees: Mutex::default(),
        });
        if directories.len() >= DIRECTORIES {
            directories.remove(0);
        }
        directories.push(shared.clone());
        Ok(shared)
    }

    fn load(&self, name: &str) -> Known {
        let read = || -> io::Result<Vec<u8>> {
            let Some(store) = &self.store else {
                return Ok(Vec::new());
            };
            let file = dir::open_file(store, name.as_bytes())?;
            let length = file.metadata()?.len().min(MAX_FILE);
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            file.take(MAX_FILE).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        Known::decode(read().unwrap_or_default())
    }

    /// Writes what is known of a directory, if there is something new.
    /// `seen` makes the set of inodes that are there; only then is it needed.
    pub(super) fn store<S: Fn(Inode) -> bool>(
        &self,
        shared: &Shared,
        seen: impl FnOnce() -> S,
    ) -> io::Result<()> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(store) = &self.store else {
            return Ok(());
        };
        let bytes = {
            let mut known = shared
                .files
                .known
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if !known.new {
                return Ok(());
            }
            known.encode(&seen())
        };
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let new = format!("{}.{}.{count}", shared.name, std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let write = || -> io::Result<()> {
            let file = openat(
                store.as_fd(),
                &new,
                flags | OFlags::NOFOLLOW,
                Mode::from(0o600),
            )?;
            std::fs::File::from(file).write_all(&bytes)?;
            Ok(renameat(store, &new, store, &shared.name)?)
        };
        write().inspect_err(|_| {
            let _may_not_be_there = unlinkat(store, &new, AtFlags::empty());
        })
    }
}
