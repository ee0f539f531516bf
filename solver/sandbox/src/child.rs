//! A running process and how it ended.

use crate::{SandboxError, Stub};
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It is gone, but another part of the host process, or its ignoring SIGCHLD on a kernel older
    /// than 6.15, took the status away.
    Lost,
}

/// What a process and the descendants it waited for used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ResourceUsage {
    /// Processor time in user mode.
    pub user: Duration,
    /// Processor time in the kernel.
    pub system: Duration,
    /// Largest resident set of one process, in bytes.
    pub max_resident: u64,
}

/// A process in its sandbox. Dropping it kills the whole tree and waits until it is gone.
#[derive(Debug)]
pub struct Child {
    _private: (),
}

impl Child {
    /// The process id in the host's PID namespace. It may name another process once this one has
    /// ended; use [`Child::pidfd`] or [`Child::kill`] to act on it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        0
    }
    /// A descriptor that becomes readable when the whole tree is gone; it stays valid after that.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        unimplemented!()
    }
    /// The mount points that were created in the root; see [`remove_stubs`](crate::remove_stubs).
    #[must_use]
    pub fn stubs(&self) -> &[Stub] {
        &[]
    }
    /// Kills the process and everything it started with SIGKILL. Does nothing if it has ended.
    pub fn kill(&self) {}
    /// Waits until the process and everything it started is gone. May be called from many threads
    /// and again.
    #[must_use]
    pub fn wait(&self) -> ExitStatus {
        ExitStatus::Lost
    }
    /// The status if the process has ended.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        None
    }
    /// The resources used; `None` while the process runs and when its status was
    /// [`ExitStatus::Lost`].
    #[must_use]
    pub fn usage(&self) -> Option<ResourceUsage> {
        None
    }
    /// Calls `f` once with the status when the process ends, on the spawner's thread, or at once
    /// on the current thread if it has ended. `f` must not block and must not drop the
    /// [`Spawner`](crate::Spawner).
    pub fn on_exit(&self, f: impl FnOnce(ExitStatus) + Send + 'static) {
        drop(f);
    }
}
#[allow(dead_code, reason = "x")]
fn _x() -> Option<SandboxError> {
    None
}
