//! One thread that starts and reaps processes.
//!
//! Owns: the order of life and death of what it starts. The death signal of a child is bound to
//! the thread that made it, so that the same thread reaps it and outlives it.

use super::console::Console;
use super::dumpable::KeptDumpable;
use super::{Request, high};
use crate::child::Shared;
use crate::clone::{Stack, clone_and_wait_for_exec};
use crate::plan::{self, Plan};
use crate::reap::{Reaped, reap};
use crate::setup::walk::Walker;
use crate::setup::{Work, child_main};
use crate::{Child, SandboxError, SpawnError, Stdio};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

/// Enough for the callbacks of exits; children have a stack of their own.
const THREAD_STACK: usize = 512 * 1024;

/// The way to the thread. Dropping it kills what the thread started, waits until that is gone and
/// ends the thread.
pub(super) struct Handle {
    requests: Sender<Request>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    /// Starts that were asked for and have no answer yet.
    starting: Arc<AtomicUsize>,
}

impl Handle {
    pub(super) fn new() -> Result<Self, SandboxError> {
        let failed = |what| move |source: io::Error| SandboxError::Spawner { what, source };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = eventfd(0, flags).map_err(io::Error::from).and_then(high);
        let wake = Arc::new(wake.map_err(failed("event descriptor"))?);
        let host = pidfd_open(getpid(), PidfdFlags::empty()).map_err(io::Error::from);
        let host = host.and_then(high).map_err(failed("process descriptor"))?;
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(io::Error::from);
        let poll = poll.and_then(high).map_err(failed("poll descriptor"))?;
        let (data, events) = (epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        epoll::add(&poll, &wake, data, events)
            .map_err(|errno| failed("poll descriptor")(errno.into()))?;
        let stack = Stack::new().map_err(failed("stack"))?;
        let (requests, inbox) = mpsc::channel();
        let starting = Arc::new(AtomicUsize::new(0));
        let worker = Worker {
            inbox,
            starting: Arc::clone(&starting),
            wake: Arc::clone(&wake),
            host,
            poll,
            stack,
            walker: Walker::new(),
            children: HashMap::new(),
            next: 1,
            stopping: false,
        };
        let thread = thread::Builder::new()
            .name("ashlar-spawner".into())
            .stack_size(THREAD_STACK)
            .spawn(move || worker.run())
            .map_err(failed("thread"))?;
        Ok(Self {
            requests,
            wake,
            thread: Some(thread),
            starting,
        })
    }

    /// How many starts are ahead of the next one.
    pub(super) fn starting(&self) -> usize {
        self.starting.load(Ordering::Relaxed)
    }

    /// Asks for a start.
    pub(super) fn start(
        &self,
        plan: Box<Plan>,
        stdio: Stdio,
        reply: Sender<Result<Child, SpawnError>>,
    ) -> Result<(), SandboxError> {
        self.starting.fetch_add(1, Ordering::Relaxed);
        self.send(Request::Start { plan, stdio, reply })
    }

    fn send(&self, request: Request) -> Result<(), SandboxError> {
        self.requests
            .send(request)
            .map_err(|_| SandboxError::SpawnerGone)?;
        // A full counter wakes the thread as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }

    /// Lets the thread kill what it started and end, without waiting for that.
    pub(super) fn stop(&self) {
        // An error means that the thread has ended already.
        drop(self.send(Request::Stop));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take() {
            // The last owner may be a callback on the thread itself, which cannot wait for itself;
            // it ends after the callback.
            if thread.thread().id() != thread::current().id() {
                drop(thread.join());
            }
        }
    }
}

/// What runs on the thread.
struct Worker {
    inbox: Receiver<Request>,
    /// See [`Handle`].
    starting: Arc<AtomicUsize>,
    wake: Arc<OwnedFd>,
    /// A pidfd of the host process, above 3.
    host: OwnedFd,
    poll: OwnedFd,
    stack: Stack,
    walker: Box<Walker>,
    children: HashMap<u64, Arc<Shared>>,
    /// Number of the next child; 0 stands for the inbox.
    next: u64,
    stopping: bool,
}

impl Worker {
    fn run(mut self) {
        block_signals();
        let mut events = Vec::with_capacity(64);
        while !(self.stopping && self.children.is_empty()) {
            events.clear();
            let buffer = rustix::buffer::spare_capacity(&mut events);
            match epoll::wait(&self.poll, buffer, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => break,
            }
            for event in &events {
                match event.data.u64() {
                    0 => self.serve(),
                    number => self.collect(number),
                }
            }
        }
    }

    fn serve(&mut self) {
        let mut count = [0; 8];
        // Nothing to read means that the requests were served on an earlier wake-up.
        let _ = rustix::io::read(&self.wake, &mut count);
        loop {
            match self.inbox.try_recv() {
                Ok(Request::Start { plan, stdio, reply }) if !self.stopping => {
                    let started = self.start(plan, stdio);
                    self.starting.fetch_sub(1, Ordering::Relaxed);
                    // A receiver that is gone drops the child, which waits for this thread.
                    if let Err(mpsc::SendError(Ok(child))) = reply.send(started) {
                        child.kill();
                        std::mem::forget(child);
                    }
                }
                Ok(Request::Start { reply, .. }) => {
                    drop(reply.send(Err(SandboxError::SpawnerGone.into())));
                }
                Ok(Request::Stop) | Err(mpsc::TryRecvError::Disconnected) => {
                    self.stopping = true;
                    self.children.values().for_each(|child| child.kill());
                    return;
                }
                Err(mpsc::TryRecvError::Empty) => return,
            }
        }
    }

    fn start(&mut self, mut plan: Box<Plan>, stdio: Stdio) -> Result<Child, SpawnError> {
        let streams = [stdio.stdin, stdio.stdout, stdio.stderr];
        let mut kept = Vec::with_capacity(3);
        for (slot, stream) in plan.stdio.iter_mut().zip(streams) {
            if let Some(fd) = stream {
                let fd = high(fd).map_err(|source| SandboxError::Clone { source })?;
                *slot = fd.as_raw_fd();
                kept.push(fd);
            }
        }
        if let Some(fd) = stdio.messages {
            let fd = high(fd).map_err(|source| SandboxError::Clone { source })?;
            plan.messages = fd.as_raw_fd();
            kept.push(fd);
        }
        plan.host = self.host.as_raw_fd();
        let console = match plan.terminal {
            Some(_) => Some(Console::new().map_err(|source| SandboxError::Clone { source })?),
            None => None,
        };
        if let Some(console) = &console {
            plan.console = console.theirs.as_raw_fd();
        }
        let (namespaces, cgroup) = (plan.namespaces, plan.cgroup);
        self.walker.reset();
        let mut work = Work {
            plan: &mut plan,
            walker: &mut self.walker,
        };
        let argument = (&raw mut work).cast();
        let dumpable = KeptDumpable::new();
        // SAFETY: `child_main` expects its work and follows the rules of a shared-memory child;
        // this thread has blocked every signal, and nothing touches the work until the call
        // returns.
        let cloned = unsafe {
            clone_and_wait_for_exec(namespaces, cgroup, &mut self.stack, child_main, argument)
        };
        drop(dumpable);
        drop(kept);
        let (pid, pidfd) = cloned.map_err(|source| SandboxError::Clone { source })?;
        let stubs = plan::stubs(&self.walker);
        // Sent before the program started, if it did.
        let terminal = console.map(Console::terminal).transpose();
        let shared = Arc::new(Shared::new(pid, pidfd));
        if let Some(error) = plan.failure() {
            shared.kill();
            wait_for(&shared);
            return Err(SpawnError { error, stubs });
        }
        let terminal = match terminal {
            Ok(terminal) => terminal,
            Err(source) => {
                shared.kill();
                wait_for(&shared);
                let what = "terminal";
                let error = SandboxError::Spawner { what, source };
                return Err(SpawnError { error, stubs });
            }
        };
        let number = self.next;
        let (data, events) = (epoll::EventData::new_u64(number), epoll::EventFlags::IN);
        if let Err(errno) = epoll::add(&self.poll, shared.pidfd(), data, events) {
            shared.kill();
            wait_for(&shared);
            return Err(SandboxError::Spawner {
                what: "poll",
                source: errno.into(),
            }
            .into());
        }
        self.next += 1;
        self.children.insert(number, Arc::clone(&shared));
        Ok(Child::new(shared, stubs, terminal))
    }

    fn collect(&mut self, number: u64) {
        let Some(child) = self.children.get(&number) else {
            return;
        };
        if let Reaped::Ended(status, usage) = reap(child.pidfd()) {
            let _ = epoll::delete(&self.poll, child.pidfd());
            if let Some(child) = self.children.remove(&number) {
                child.finish(status, usage);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Only after an unforeseen end of the loop: nobody may wait for ever.
        for child in self.children.values() {
            child.kill();
            wait_for(child);
            child.finish(crate::ExitStatus::Lost, None);
        }
    }
}

/// Reaps a child that nobody else knows of.
fn wait_for(child: &Shared) {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        if let Reaped::Ended(..) = reap(child.pidfd()) {
            return;
        }
        let pidfd = child.pidfd();
        let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
    }
}

/// Signals meant for the host process are handled on its other threads.
fn block_signals() {
    // SAFETY: the set is filled before it is used; the call changes the mask of this thread only.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}
