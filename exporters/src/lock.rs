//! Directories that several exports, also of several processes, put something into.
//!
//! Some file systems have no locks. There nothing keeps exports apart that go to one directory at the
//! same time, and what a killed process left stays.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use ashlar_solver::cancel::{Cancel, Cancelled};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// How long is waited between two tries: first, and at most. Others hold a lock while they rename.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Takes the lock of something that is open, and waits for who has it, who may be anybody: raising
/// the flag ends the wait. Blocks. The lock is given up when what is open is closed.
pub(crate) fn lock(open: impl AsFd, cancel: &Cancel) -> Result<io::Result<()>, Cancelled> {
    let mut wait = FIRST_WAIT;
    loop {
        match flock(&open, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Ok(())),
            Err(Errno::WOULDBLOCK) => {
                cancel.check()?;
                std::thread::sleep(wait);
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            Err(Errno::INTR) => {}
            Err(error) if has_none(error) => return Ok(Ok(())),
            Err(error) => return Ok(Err(error.into())),
        }
    }
}

/// Whether the error of a lock says that the file system has none: that of Lustre without the option
/// `flock`, of NFS without the daemon that it needs, and of others.
pub(crate) fn has_none(error: Errno) -> bool {
    matches!(error, Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_system_without_locks_has_none() {
        let none = [Errno::NOSYS, Errno::OPNOTSUPP, Errno::NOLCK];
        assert!(none.into_iter().all(has_none));
        let others = [
            Errno::IO,
            Errno::BADF,
            Errno::STALE,
            Errno::INTR,
            Errno::WOULDBLOCK,
        ];
        assert!(!others.into_iter().any(has_none));
    }
}
