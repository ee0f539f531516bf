//! The threads that start and reap processes.
//!
//! Owns: who starts what. Starting suspends a thread for a millisecond or two, most of which the
//! kernel works and some of which it waits, so that several threads start several processes at the
//! same time. Threads are made when there is more to start than those that are there can do at
//! once. All end with the [`Spawner`] value, after killing what is left.

mod console;
mod dumpable;
mod worker;

use crate::plan::{self, Host, Plan};
use crate::{Child, SandboxError, SpawnError, Spec, Stdio};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use worker::Handle;

#[cfg(test)]
mod tests;

/// As many threads at most, however many processors there are: the kernel lets one process at a
/// time change mounts, which is what most of a start is.
const MOST: usize = 4;

/// Magic number of the unified cgroup hierarchy.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Starts processes and reaps them, on a few threads of its own.
///
/// Dropping it kills every process it started, waits until they are gone and ends the threads.
pub struct Spawner {
    /// Guards the threads that there are, at least one.
    workers: Mutex<Vec<Handle>>,
    /// How many there may be.
    most: usize,
    unified_cgroup: bool,
    classic_overlay: bool,
}

enum Request {
    Start {
        plan: Box<Plan>,
        stdio: Stdio,
        reply: Sender<Result<Child, SpawnError>>,
    },
    Stop,
}

impl Spawner {
    /// Starts the first thread.
    ///
    /// # Errors
    /// [`SandboxError::Spawner`] if the host process has no more threads, descriptors or memory.
    pub fn new() -> Result<Self, SandboxError> {
        let unified_cgroup =
            rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2_MAGIC);
        Ok(Self {
            workers: Mutex::new(vec![Handle::new()?]),
            most: thread::available_parallelism()
                .map_or(1, |processors| processors.get().min(MOST)),
            unified_cgroup,
            classic_overlay: false,
        })
    }

    /// Starts a process. Blocks, typically one to three milliseconds, until the program runs or
    /// failed to start.
    ///
    /// # Errors
    /// [`SandboxError`] names the failed step; the mount points made until then are in
    /// [`SpawnError::stubs`]. Nothing else is left behind.
    pub fn spawn(&self, spec: Spec, stdio: Stdio) -> Result<Child, SpawnError> {
        let host = Host {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            unified_cgroup: self.unified_cgroup,
            classic_overlay: self.classic_overlay,
        };
        let plan = Box::new(plan::build(&spec, &host)?);
        drop(spec);
        let (reply, answer) = mpsc::channel();
        self.start(plan, stdio, reply)?;
        answer.recv().map_err(|_| SandboxError::SpawnerGone)?
    }

    /// Mounts overlays as on kernels without `lowerdir+`.
    #[cfg(test)]
    pub(crate) fn use_classic_overlay(&mut self) {
        self.classic_overlay = true;
    }

    /// Mounts the unified cgroup hierarchy wherever the host has it.
    #[cfg(test)]
    pub(crate) fn use_unified_cgroup(&mut self) {
        self.unified_cgroup = true;
    }

    fn workers(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the start to the thread that has the least to do, or to a new one.
    fn start(
        &self,
        plan: Box<Plan>,
        stdio: Stdio,
        reply: Sender<Result<Child, SpawnError>>,
    ) -> Result<(), SandboxError> {
        let mut workers = self.workers();
        let all_busy = workers.iter().all(|worker| worker.starting() > 0);
        if all_busy && workers.len() < self.most {
            // Those that are there will do if the host process has no more threads.
            workers.extend(Handle::new());
        }
        let idlest = workers.iter().min_by_key(|worker| worker.starting());
        let idlest = idlest.ok_or(SandboxError::SpawnerGone)?;
        idlest.start(plan, stdio, reply)
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // All at once; dropping them waits for one after the other.
        for worker in self.workers().iter() {
            worker.stop();
        }
    }
}

impl fmt::Debug for Spawner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spawner").finish_non_exhaustive()
    }
}

/// The same descriptor above 3, so that setting up streams, here or in the host, cannot overwrite
/// it.
fn high(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() > 3 {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, 4)?)
}
