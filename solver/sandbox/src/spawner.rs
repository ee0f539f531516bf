//! The thread that starts and reaps processes.
//!
//! Owns: the order of life and death. One thread starts every child, because the death signal of
//! a child is bound to the thread that made it, and because starting suspends the thread for about
//! a millisecond. The same thread reaps. It ends with the [`Spawner`] value, after killing what is
//! left.

use crate::child::Shared;
use crate::clone::{Stack, clone_and_wait_for_exec};
use crate::plan::{self, Host, Plan};
use crate::reap::{Reaped, reap};
use crate::setup::child_main;
use crate::{Child, SandboxError, SpawnError, Spec, Stdio};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
    recvmsg, socketpair,
};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

#[cfg(test)]
mod tests;

/// Enough for the callbacks of exits; children have a stack of their own.
const THREAD_STACK: usize = 512 * 1024;

/// Magic number of the unified cgroup hierarchy.
const CGROUP2_MAGIC: i64 = 0x6367_7270;

/// Starts processes and reaps them, on one thread of its own.
///
/// Dropping it kills every process it started, waits until they are gone and ends the thread.
pub struct Spawner {
    /// Guards the way to the thread.
    requests: Mutex<Sender<Request>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
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
    /// Starts the thread.
    ///
    /// # Errors
    /// [`SandboxError::Spawner`] if the host process has no more threads, descriptors or memory.
    pub fn new() -> Result<Self, SandboxError> {
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
        let worker = Worker {
            inbox,
            wake: Arc::clone(&wake),
            host,
            poll,
            stack,
            children: HashMap::new(),
            next: 1,
            stopping: false,
        };
        let thread = thread::Builder::new()
            .name("ashlar-spawner".into())
            .stack_size(THREAD_STACK)
            .spawn(move || worker.run())
            .map_err(failed("thread"))?;
        let unified_cgroup =
            rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|found| found.f_type == CGROUP2_MAGIC);
        let thread = Some(thread);
        let requests = Mutex::new(requests);
        Ok(Self {
            requests,
            wake,
            thread,
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
        self.send(Request::Start { plan, stdio, reply })?;
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

    fn send(&self, request: Request) -> Result<(), SandboxError> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests
            .send(request)
            .map_err(|_| SandboxError::SpawnerGone)?;
        // A full counter wakes the thread as well.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        Ok(())
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        drop(self.send(Request::Stop));
        if let Some(thread) = self.thread.take() {
            // The last owner may be a callback on the thread itself, which cannot wait for itself;
            // it ends after the callback.
            if thread.thread().id() != thread::current().id() {
                drop(thread.join());
            }
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

/// The way of the master side of a terminal from the new process to the host.
struct Console {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Console {
    fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok(Self {
            ours: high(ours)?,
            theirs: high(theirs)?,
        })
    }

    /// What was sent.
    fn terminal(self) -> io::Result<OwnedFd> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let data = &mut [io::IoSliceMut::new(&mut byte)];
        recvmsg(&self.ours, data, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        let fd = fds.next().and_then(|mut fds| fds.next());
        high(fd.ok_or(io::ErrorKind::UnexpectedEof)?)
    }
}

/// What runs on the thread.
struct Worker {
    inbox: Receiver<Request>,
    wake: Arc<OwnedFd>,
    /// A pidfd of the host process, above 3.
    host: OwnedFd,
    poll: OwnedFd,
    stack: Stack,
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
        let dumpable = dumpable();
        let argument = (&raw mut *plan).cast();
        let (namespaces, cgroup) = (plan.namespaces, plan.cgroup);
        // SAFETY: `child_main` expects a plan and follows the rules of a shared-memory child; this
        // thread has blocked every signal, and the plan is not touched until the call returns.
        let cloned = unsafe {
            clone_and_wait_for_exec(namespaces, cgroup, &mut self.stack, child_main, argument)
        };
        // A change of user in the child marks the shared memory, and with it the host process, as
        // not dumpable.
        restore_dumpable(dumpable);
        drop(kept);
        let (pid, pidfd) = cloned.map_err(|source| SandboxError::Clone { source })?;
        let stubs = plan.stubs();
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

fn dumpable() -> i32 {
    // SAFETY: the option takes no pointer.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

fn restore_dumpable(before: i32) {
    if before == 1 && dumpable() != 1 {
        // SAFETY: the option takes an integer.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1) };
    }
}
