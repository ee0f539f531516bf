//! The files of a directory that the caller lends: they may change at any time.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use rustix::fs::{AtFlags, Stat, statat};

use super::known::{Inode, Known, Record, Stamp};
use crate::dir;
use crate::id::ContentDigest;
use crate::tree::{Entry, Files, Timestamp, TreePath};

/// A file whose checksum is not known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    /// A hash of what it was when it was scanned.
    was: u64,
    /// Whether what was opened under its path was that.
    opened: bool,
}

/// A lent directory, and what is known of the files in it.
#[derive(Debug)]
pub(super) struct LocalFiles {
    root: OwnedFd,
    /// A hash of where the directory is and how its attributes are counted.
    identity: [u8; 32],
    /// What was found out by reading files, kept for the next scan.
    pub(super) known: RwLock<Known>,
    /// Files that a checksum would be worth remembering of, by a hash of their path. Left out are
    /// those that changed so shortly before the scan that another change might not show.
    pending: Mutex<HashMap<u64, Pending>>,
    hasher: RandomState,
    opened: AtomicU64,
    bytes: AtomicU64,
}

impl LocalFiles {
    pub(super) fn new(root: OwnedFd, identity: [u8; 32], known: Known) -> Self {
        Self {
            root,
            identity,
            known: RwLock::new(known),
            pending: Mutex::default(),
            hasher: RandomState::new(),
            opened: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    /// What is known of files now. Nothing new is noted while it is held.
    pub(super) fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What [`LocalFiles::expect`] takes for a file.
    pub(super) fn pending(&self, path: &[u8], inode: Inode, stamp: &Stamp) -> (u64, Pending) {
        let was = self.hasher.hash_one((inode, stamp));
        (self.hasher.hash_one(path), Pending { was, opened: false })
    }

    pub(super) fn expect(&self, pending: Vec<(u64, Pending)>) {
        if !pending.is_empty() {
            self.lock().extend(pending);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (file, stat) = dir::open_file_and_stat(&self.root, path.as_bytes())?;
        let stamp = stamp_of(&stat);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(stamp.size, Ordering::Relaxed);
        let (hash, found) = self.pending(path.as_bytes(), inode_of(&stat), &stamp);
        if let MapEntry::Occupied(mut expected) = self.lock().entry(hash) {
            if expected.get().was == found.was {
                expected.get_mut().opened = true;
            } else {
                // Not the file that was scanned: its bytes say nothing about that.
                expected.remove();
            }
        }
        Ok(file)
    }

    fn immutable(&self) -> bool {
        false
    }

    fn directory(&self, path: &TreePath) -> io::Result<Option<OwnedFd>> {
        dir::open_directory(&self.root, path.as_bytes()).map(Some)
    }

    fn lent(&self) -> Option<[u8; 32]> {
        Some(self.identity)
    }

    fn computed(&self, path: &TreePath, entry: &Entry, digest: ContentDigest) {
        let hash = self.hasher.hash_one(path.as_bytes());
        let Some(expected) = self.lock().remove(&hash).filter(|expected| expected.opened) else {
            return;
        };
        // Whatever the path leads through by now: only the very inode that was scanned counts.
        let Ok(now) = statat(&self.root, path.as_relative(), AtFlags::SYMLINK_NOFOLLOW) else {
            return;
        };
        let (inode, stamp) = (inode_of(&now), stamp_of(&now));
        // As it was when it was scanned and when it was opened: so it was while it was read.
        if self.hasher.hash_one((inode, &stamp)) == expected.was {
            let xattrs = entry.attributes.xattrs.clone();
            let record = Record {
                stamp,
                digest,
                xattrs,
                age: 0,
            };
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.learn(inode, record);
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
