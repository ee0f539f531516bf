//! Whether the host process may be dumped and traced, kept as it was.
//!
//! Owns: the mark of the memory that every new process shares with the host until it executes a
//! program. A change of user takes the mark away, for the host too. It comes back when no
//! new process shares the memory any more, and not before: whoever may trace such a process
//! could read the memory of the host.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Guards how many processes are being started, by all spawners of the host process together.
static STARTING: Mutex<Starting> = Mutex::new(Starting {
    count: 0,
    before: 0,
});

struct Starting {
    count: usize,
    /// The mark when there was none.
    before: i32,
}

/// Held while a new process shares the memory of the host.
pub(super) struct KeptDumpable(());

impl KeptDumpable {
    pub(super) fn new() -> Self {
        let mut starting = starting();
        if starting.count == 0 {
            starting.before = dumpable();
        }
        starting.count += 1;
        Self(())
    }
}

impl Drop for KeptDumpable {
    fn drop(&mut self) {
        let mut starting = starting();
        starting.count -= 1;
        if starting.count == 0 && starting.before == 1 && dumpable() != 1 {
            // SAFETY: the option takes an integer.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
        }
    }
}

fn starting() -> MutexGuard<'static, Starting> {
    STARTING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dumpable() -> i32 {
    // SAFETY: the option takes no pointer.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}
