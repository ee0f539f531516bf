//! A running process and how it ended.

use crate::Stub;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Exited(i32),
    /// This signal killed it.
    Signaled(i32),
    /// It is gone, but the host process took the status away: it reaps children that are not its
    /// own, or ignores SIGCHLD on a kernel older than 6.15.
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
    /// Bytes read from storage, not from the page cache.
    pub read: u64,
    /// Bytes for storage that they made.
    pub written: u64,
}

/// A process in its sandbox. Dropping it kills the whole tree and waits until it is gone.
pub struct Child {
    shared: Arc<Shared>,
    stubs: Vec<Stub>,
    terminal: Option<OwnedFd>,
}

/// What the handle and the thread that started it both know.
pub(crate) struct Shared {
    pid: u32,
    pidfd: OwnedFd,
    /// Guards the outcome and who waits for it.
    state: Mutex<State>,
    ended: Condvar,
}

type Callback = Box<dyn FnOnce(ExitStatus) + Send>;

#[derive(Default)]
struct State {
    outcome: Option<(ExitStatus, Option<ResourceUsage>)>,
    callbacks: Vec<Callback>,
}

impl Shared {
    pub(crate) fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            state: Mutex::default(),
            ended: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// SIGKILL to the init process of the PID namespace ends every process in it.
    pub(crate) fn kill(&self) {
        let signal = rustix::process::Signal::KILL;
        // The only error there can be is that the process has ended.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    fn signal(&self, number: i32) {
        // SAFETY: the call takes no pointer but that to the information, which may be null.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                number,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }

    /// Publishes the outcome; called once, by the thread that started it.
    pub(crate) fn finish(&self, status: ExitStatus, usage: Option<ResourceUsage>) {
        let callbacks = {
            let mut state = self.state();
            state.outcome = Some((status, usage));
            std::mem::take(&mut state.callbacks)
        };
        self.ended.notify_all();
        for callback in callbacks {
            // A callback that panics must not end the thread that reaps everyone else.
            drop(catch_unwind(AssertUnwindSafe(|| callback(status))));
        }
    }
}

impl Child {
    pub(crate) fn new(shared: Arc<Shared>, stubs: Vec<Stub>, terminal: Option<OwnedFd>) -> Self {
        Self {
            shared,
            stubs,
            terminal,
        }
    }

    /// The master side of the terminal, if [`Spec::terminal`](crate::Spec::terminal) asked for one.
    /// Reading from it fails with EIO once no process has the terminal open.
    #[must_use]
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// The process id in the host's PID namespace. It may name another process once this one has
    /// ended; use [`Child::pidfd`] or [`Child::kill`] to act on it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// A descriptor that becomes readable when the whole tree is gone; it stays valid after that.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.shared.pidfd()
    }

    /// The mount points that were created in the root; see [`remove_stubs`](crate::remove_stubs).
    #[must_use]
    pub fn stubs(&self) -> &[Stub] {
        &self.stubs
    }

    /// Kills the process and everything it started with SIGKILL. Does nothing if it has ended.
    pub fn kill(&self) {
        self.shared.kill();
    }

    /// Sends a signal, by the kernel's number, to the process alone. Does nothing if it has ended or
    /// there is no such signal. To the init process of a PID namespace the kernel passes only
    /// signals it has a handler for, SIGKILL and SIGSTOP.
    pub fn signal(&self, number: i32) {
        self.shared.signal(number);
    }

    /// Waits until the process and everything it started is gone. May be called from many threads
    /// and again.
    #[must_use]
    pub fn wait(&self) -> ExitStatus {
        let mut state = self.shared.state();
        loop {
            if let Some((status, _)) = state.outcome {
                return status;
            }
            state = self
                .shared
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The status if the process has ended.
    #[must_use]
    pub fn try_wait(&self) -> Option<ExitStatus> {
        self.shared.state().outcome.map(|(status, _)| status)
    }

    /// The resources used; `None` while the process runs and when the host process took its status
    /// away.
    #[must_use]
    pub fn usage(&self) -> Option<ResourceUsage> {
        self.shared.state().outcome.and_then(|(_, usage)| usage)
    }

    /// Calls `f` once with the status when the process ends, on the thread that started it, or at once
    /// on the current thread if it has ended.
    ///
    /// `f` must not block, and must not drop a [`Child`] that still runs: it holds up other
    /// starts and exits. A panic in it is caught and dropped.
    pub fn on_exit(&self, f: impl FnOnce(ExitStatus) + Send + 'static) {
        let mut state = self.shared.state();
        match state.outcome {
            Some((status, _)) => {
                drop(state);
                f(status);
            }
            None => state.callbacks.push(Box::new(f)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            self.kill();
            let _ = self.wait();
        }
    }
}

impl fmt::Debug for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Child")
            .field("pid", &self.shared.pid)
            .field("status", &self.try_wait())
            .finish_non_exhaustive()
    }
}
