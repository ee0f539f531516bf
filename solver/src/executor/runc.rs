//! The executor that starts processes with runc or crun.
//!
//! Owns: what a runtime is told, and what its answers mean.
//!
//! A runtime leaves traces where it is used as usual: directories of state, cgroups, mounts, and
//! containers that go on when it is killed. Here it runs in a sandbox of its own: in namespaces
//! that [`ashlar_sandbox`] makes, as their first process, with a root in memory that holds the
//! runtime, its libraries, `config.json` and the state. The mounts of the process, made by the
//! same code as for [`SandboxExecutor`], are ready before the runtime begins.
//!
//! Invariants:
//! - When the runtime ends, however it does, its PID namespace ends, with the container in it. It
//!   ends with the thread that started it, so with the host process, even one that is killed.
//! - Nothing of it is on the host's disk, in the host's mount namespace or cgroups.
//! - The runtime gets the same [`Spec`] that the sandbox would.

mod config;
mod failure;
mod runtime;

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ashlar_sandbox as sandbox;
use ashlar_sandbox::{CapabilitySet, SandboxError, Spec};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::net::unix::pipe::Receiver;

pub use runtime::Runtime;

use super::sandbox::{Outside, SandboxExecutor};
use super::{
    Capabilities, Executor, ExecutorError, Exit, Hook, NetworkProvider, Output, Process, Streams,
};
use crate::cancel::Cancel;
use crate::progress::Stream;

/// Where the runtime finds what it needs, in the memory that is its `/dev`.
const BUNDLE: &str = "/dev/bundle";
const STATE: &str = "/dev/state";

/// What programs of the usual distributions are linked with. What is not there is left out.
const LIBRARIES: [&str; 10] = [
    "/etc/ld.so.cache",
    "/gnu/store",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix/store",
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/usr/local/lib",
];

/// Bytes of messages that are kept at most.
const MAX_MESSAGES: usize = 64 << 10;

/// Bytes of output that are kept at most, to see whether it is but one message.
const MAX_LAST_WORDS: usize = 4096;

/// Runs processes with a container runtime of the host.
///
/// It gives a process what [`SandboxExecutor`] gives; a test compares the two. What differs:
/// - It takes some ten times as long to start one.
/// - A program of the `PATH` that may not be executed is one that is not found.
/// - Ids end at 2147483647.
/// - A process that a signal killed is reported with the code 128 and the signal.
/// - A program that cannot be started leaves the message of the runtime on standard error too.
/// - Hooks of CDI devices are run, by the runtime. They see the files of the host, read-only, and no
///   process of it. A cancelled step ends without those that come last.
#[derive(Debug)]
pub struct RuncExecutor {
    sandbox: SandboxExecutor,
    runtime: Runtime,
}

impl RuncExecutor {
    /// Uses `runtime`, started in sandboxes of `sandbox`, which also makes mounts, control groups
    /// and networks.
    ///
    /// # Errors
    /// [`ExecutorError::NoRuntime`] if it is not there.
    pub fn new(sandbox: SandboxExecutor, runtime: Runtime) -> Result<Self, ExecutorError> {
        if !runtime.is_there() {
            return Err(ExecutorError::NoRuntime {
                path: runtime.path().to_owned(),
            });
        }
        Ok(Self { sandbox, runtime })
    }

    /// What it uses.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }
}

#[async_trait]
impl Executor for RuncExecutor {
    fn capabilities(&self) -> Option<&Capabilities> {
        self.sandbox.capabilities()
    }

    fn network_provider(&self) -> Option<&dyn NetworkProvider> {
        Executor::network_provider(&self.sandbox)
    }

    async fn run(
        &self,
        mut process: Process,
        mut streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        let program = process.args.first().cloned().unwrap_or_default();
        let (read, write) = pipe().map_err(|source| ExecutorError::Streams { source })?;
        let runtime = self.runtime.clone();
        let hooks = std::mem::take(&mut process.hooks);
        let outside = Outside {
            messages: write,
            translate: Box::new(move |spec| outer(spec, &runtime, &hooks)),
        };
        let first = Arc::new(First::of(streams.output));
        streams.output = first.clone();
        let ended = Cancel::new();
        let run = async {
            let process = self.sandbox.run_in(process, Some(outside), streams, cancel);
            let ran = process.await;
            ended.cancel();
            ran
        };
        let (exit, messages) = tokio::join!(run, messages(&read, &ended));
        let exit = exit?;
        if exit.status.code() == 0 {
            return Ok(exit);
        }
        let failure = failure::failure(self.runtime.name(), &program, &messages)
            .or_else(|| failure::last_words(&program, &first.take()));
        failure.map_or(Ok(exit), Err)
    }
}

/// A pipe whose read end belongs to the runtime.
fn pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

/// Passes output on and keeps the first of it.
#[derive(Debug)]
struct First {
    output: Arc<dyn Output>,
    /// Guards what is kept.
    kept: Mutex<Vec<u8>>,
}

impl First {
    fn of(output: Arc<dyn Output>) -> Self {
        let kept = Mutex::default();
        Self { output, kept }
    }

    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Output for First {
    fn warn(&self, message: String) {
        self.output.warn(message);
    }

    async fn write(&self, stream: Stream, data: Bytes) {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let room = MAX_LAST_WORDS.saturating_sub(kept.len());
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
        self.output.write(stream, data).await;
    }
}

/// What the runtime said. More than is kept is read all the same, so that it never waits.
async fn messages(from: &Receiver, ended: &Cancel) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let over = tokio::select! {
            biased;
            ready = from.readable() => ready.is_err(),
            () = ended.cancelled() => true,
        };
        loop {
            let read = if over {
                rustix::io::read(from, &mut buffer).map_err(io::Error::from)
            } else {
                from.try_read(&mut buffer)
            };
            match read {
                Ok(0) => return kept,
                Ok(length) => {
                    let room = MAX_MESSAGES.saturating_sub(kept.len());
                    kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !over => break,
                Err(_) => return kept,
            }
        }
    }
}

/// All of the host that hooks may want: what is in `/`, without what the sandbox has of its own.
fn host_trees() -> Vec<PathBuf> {
    let own = ["/proc", "/dev", "/sys"].map(Path::new);
    let entries = std::fs::read_dir("/").into_iter().flatten().flatten();
    let mut trees: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    trees.retain(|path| !own.contains(&&**path));
    trees.sort();
    trees
}

/// The sandbox in which `runtime` starts the process `inner`.
fn outer(mut inner: Spec, runtime: &Runtime, hooks: &[Hook]) -> Result<Spec, ExecutorError> {
    let start = |source: SandboxError| ExecutorError::Start { source };
    inner.check().map_err(start)?;
    let config = config::config(&inner, runtime, hooks).map_err(start)?;
    let program = Path::new("/").join(runtime.path().file_name().unwrap_or_default());
    let root = sandbox::Root::new(sandbox::Source::Tmpfs { size: None });
    let mut spec = Spec::new(root, runtime.arguments(&program, STATE, BUNDLE));
    let bind = |path: &Path, target: &Path| {
        let path = path.to_owned();
        sandbox::Mount::new(target, sandbox::Source::Bind { path }).readonly(true)
    };
    spec.mounts.push(bind(runtime.path(), &program));
    let trees = match hooks {
        [] => LIBRARIES.iter().map(PathBuf::from).collect(),
        _ => host_trees(),
    };
    let trees = trees.iter().filter(|path| path.exists());
    spec.mounts.extend(trees.map(|path| bind(path, path)));
    let file = sandbox::Source::File {
        contents: config.into(),
        mode: 0o600,
        uid: 0,
        gid: 0,
    };
    let config = PathBuf::from(BUNDLE).join("config.json");
    spec.mounts.push(sandbox::Mount::new(config, file));
    let memory = sandbox::Source::Tmpfs { size: None };
    spec.mounts.push(sandbox::Mount::new(STATE, memory));
    // Both runtimes look for the unified hierarchy even if they are not to use it.
    let cgroup = sandbox::Mount::new("/sys/fs/cgroup", sandbox::Source::Cgroup);
    spec.mounts.push(cgroup);
    // The runtime passes on between this terminal and the one it makes in the container.
    spec.terminal = inner.terminal.take();
    spec.control_groups = std::mem::take(&mut inner.control_groups);
    spec.wire = inner.wire.take();
    spec.hostname.clone_from(&inner.hostname);
    spec.namespaces = inner.namespaces;
    if let Some(map) = inner.namespaces.user
        && (map.uid, map.gid) != (0, 0)
    {
        // It would take a further namespace: runc makes none without root in it, and crun one whose
        // `/dev` has no devices.
        return Err(ExecutorError::RuntimeUser {
            runtime: runtime.name(),
            uid: map.uid,
            gid: map.gid,
        });
    }
    spec.capabilities = CapabilitySet::ALL;
    spec.seccomp = None;
    spec.masked_paths.clear();
    spec.readonly_paths.clear();
    spec.inner = Some(Box::new(inner));
    Ok(spec)
}
