//! Directories that several exports, also of several processes, put something into.

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
            Err(error) => return Ok(Err(error.into())),
        }
    }
}
