//! The files of a directory that the caller lends: they may change at any time.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use rustix::fs::{AtFlags, Stat, statat};

use super::known::{Inode, Known, Record, Stamp};
use crate::dir;
use crate::id::ContentDigest;
use crate::tree::{Entry, Files, Timestamp, TreePath};

/// A lent directory, and what is known of the files in it.
#[derive(Debug)]
pub(super) struct LocalFiles {
    root: OwnedFd,
    /// What was found out by reading files, kept for the next scan.
    pub(super) known: RwLock<Known>,
    /// Files that a checksum would be worth remembering of, by a hash of their path: what they
    /// were when they were scanned. Left out are those that changed so shortly before that
    /// another change might not show.
    pending: Mutex<HashMap<u64, (Inode, Stamp)>>,
    hasher: RandomState,
    opened: AtomicU64,
    bytes: AtomicU64,
}

impl LocalFiles {
    pub(super) fn new(root: OwnedFd, known: Known) -> Self {
        Self {
            root,
            known: RwLock::new(known),
            pending: Mutex::default(),
            hasher: RandomState::new(),
            opened: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn hash(&self, path: &[u8]) -> u64 {
        self.hasher.hash_one(path)
    }

    pub(super) fn expect(&self, pending: Vec<(u64, (Inode, Stamp))>) {
        if !pending.is_empty() {
            self.pending
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend(pending);
        }
    }

    /// Files opened and bytes in them so far.
    pub(super) fn read(&self) -> (u64, u64) {
        (
            self.opened.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }
}

impl Files for LocalFiles {
    fn open(&self, path: &TreePath) -> io::Result<File> {
        let file = dir::open_file(&self.root, path.as_bytes())?;
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.bytes
            .fetch_add(file.metadata()?.len(), Ordering::Relaxed);
        Ok(file)
    }

    fn immutable(&self) -> bool {
        false
    }

    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        dir::open_directory(&self.root, path.as_bytes()).map(Some)
    }

    fn computed(&self, path: &TreePath, entry: &Entry, digest: ContentDigest) {
        let hash = self.hash(path.as_bytes());
        let pending = self
            .pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&hash);
        let Some((inode, stamp)) = pending else {
            return;
        };
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return;
        };
        let now = dir::open_directory(&self.root, parent.as_bytes())
            .ok()
            .and_then(|parent| statat(&parent, dir::name(name), AtFlags::SYMLINK_NOFOLLOW).ok());
        // As it was when it was scanned: so it was while it was read.
        if now.is_some_and(|stat| inode_of(&stat) == inode && stamp_of(&stat) == stamp) {
            let xattrs = entry.attributes.xattrs.clone();
            let record = Record {
                stamp,
                digest,
                xattrs,
                age: 0,
            };
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.records.insert(inode, record);
            known.new = true;
        }
    }
}

pub(super) fn inode_of(stat: &Stat) -> Inode {
    (stat.st_dev, stat.st_ino)
}

pub(super) fn stamp_of(stat: &Stat) -> Stamp {
    Stamp {
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode,
    }
}

fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> Timestamp {
    Timestamp {
        seconds,
        nanoseconds: nanoseconds.try_into().unwrap_or_default(),
    }
}
