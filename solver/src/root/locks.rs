//! Locks between processes that work on one root.
//!
//! A lock is a file below `locks/` that its holder has locked (`flock`): the kernel lets go of it
//! when the holder dies, whatever kills it. The file goes away with the lock.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, fstat, openat, unlinkat};

use super::{StateRoot, lock_existing, names};
use crate::cancel::{Cancel, Cancelled};

/// The first wait for a lock that somebody else has; each further one takes twice as long.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(1);

/// The longest wait between two looks. A lock is held for as long as a step runs.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// A lock that this process has; others get it when this is dropped.
#[derive(Debug)]
pub struct RootLock {
    locks: Arc<OwnedFd>,
    name: String,
    /// Held for its lock; closed after the file is gone.
    _file: OwnedFd,
}

impl Drop for RootLock {
    fn drop(&mut self) {
        let _gone = unlinkat(self.locks.as_fd(), &*self.name, AtFlags::empty());
    }
}

impl StateRoot {
    /// Takes the lock `name`, which must be a file name, unless another process or another open
    /// root of this one has it: then `None`. Never waits.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn try_lock(&self, name: &str) -> io::Result<Option<RootLock>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            let file = openat(&*self.locks, name, flags, Mode::from(0o600))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            // Whoever had it before may have removed the file after it was opened here.
            if fstat(&file)?.st_nlink > 0 {
                return Ok(Some(RootLock {
                    locks: self.locks.clone(),
                    name: name.to_owned(),
                    _file: file,
                }));
            }
        }
    }

    /// Waits for the lock `name` and takes it. Blocks. `None` if there can be no locks: what is
    /// done then may be done twice, which costs time alone.
    ///
    /// # Errors
    /// [`Cancelled`], soon after `cancel` was raised.
    pub fn lock(&self, name: &str, cancel: &Cancel) -> Result<Option<RootLock>, Cancelled> {
        let mut wait = FIRST_WAIT;
        loop {
            cancel.check()?;
            match self.try_lock(name) {
                Ok(Some(lock)) => return Ok(Some(lock)),
                Ok(None) => std::thread::sleep(wait),
                Err(_) => return Ok(None),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Removes the files of locks whose holders were killed.
    pub(super) fn clear_locks(&self) {
        for name in names(self.locks.as_fd()) {
            if let Some(file) = lock_existing(self.locks.as_fd(), &name) {
                let _gone = unlinkat(self.locks.as_fd(), &*name, AtFlags::empty());
                drop(file);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn files(folder: &std::path::Path) -> usize {
        std::fs::read_dir(folder.join("locks")).unwrap().count()
    }

    #[test]
    fn a_lock_is_one_roots_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (
            StateRoot::open(folder.path()).unwrap(),
            StateRoot::open(folder.path()).unwrap(),
        );
        let held = one.try_lock("a").unwrap().unwrap();
        assert!(two.try_lock("a").unwrap().is_none());
        assert!(one.try_lock("a").unwrap().is_none());
        let other = two.try_lock("b").unwrap().unwrap();
        drop(held);
        let held = two.try_lock("a").unwrap().unwrap();
        assert!(one.try_lock("a").unwrap().is_none());
        drop((held, other));
        assert_eq!(files(folder.path()), 0);
    }

    #[test]
    fn many_threads_have_it_one_by_one() {
        let folder = tempfile::tempdir().unwrap();
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let root = StateRoot::open(folder.path()).unwrap();
                    for _ in 0..50 {
                        let lock = root.lock("a", &Cancel::new()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn waiting_ends_when_it_is_cancelled() {
        let folder = tempfile::tempdir().unwrap();
        let root = StateRoot::open(folder.path()).unwrap();
        let _held = root.try_lock("a").unwrap().unwrap();
        let cancel = Cancel::new();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| root.lock("a", &cancel).map(drop));
            std::thread::sleep(Duration::from_millis(20));
            cancel.cancel();
            assert_eq!(waiting.join().unwrap(), Err(Cancelled));
        });
    }

    #[test]
    fn what_a_killed_process_leaves_is_cleared_and_locks_in_use_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = StateRoot::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("locks/left"), "").unwrap();
        let held = root.try_lock("held").unwrap().unwrap();
        let left = root.try_lock("left").unwrap().unwrap();
        std::mem::forget(left);
        // As if its process had died: the handle is closed and the file stays.
        std::fs::write(folder.path().join("locks/dead"), "").unwrap();
        let later = StateRoot::open(folder.path()).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(folder.path().join("locks"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["held", "left"]);
        assert!(later.try_lock("held").unwrap().is_none());
        drop(held);
        assert!(later.try_lock("held").unwrap().is_some());
    }
}
