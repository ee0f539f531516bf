//! The executor that needs nothing installed: [`ashlar_sandbox`].

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ashlar_sandbox as sandbox;
use ashlar_sandbox::{Child, IdMap, Resource, Rlimit, SandboxError, Spawner, Spec, Stdio, Stub};
use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};
use tokio::sync::oneshot;

use super::network_files::{hosts, resolv_conf};
use super::relay::Relay;
use super::starting::Starting;
use super::{
    Executor, ExecutorError, Exit, ExitStatus, Mount, MountSource, Network, Process, Streams,
};
use crate::cancel::{Cancel, Cancelled};
use crate::progress::Usage;

/// Bytes of the host's `/etc/resolv.conf` that are read at most.
const MAX_RESOLV_CONF: u64 = 1 << 20;

/// Runs processes in namespaces of their own.
#[derive(Debug)]
pub struct SandboxExecutor {
    spawner: Arc<Spawner>,
    /// Whether the host process is root; if not, processes run in a user namespace in which it
    /// appears as their user.
    privileged: bool,
}

impl SandboxExecutor {
    /// Starts the thread that starts processes; it ends with this value.
    ///
    /// # Errors
    /// [`ExecutorError::Start`] if the host process has no more threads or descriptors.
    pub fn new(privileged: bool) -> Result<Self, ExecutorError> {
        let spawner = Spawner::new().map_err(|source| ExecutorError::Start { source })?;
        Ok(Self {
            spawner: Arc::new(spawner),
            privileged,
        })
    }
}

#[async_trait]
impl Executor for SandboxExecutor {
    async fn run(
        &self,
        process: Process,
        streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        cancel.check()?;
        let failed = |source| ExecutorError::Streams { source };
        let (pipes, stdio) = match streams.terminal {
            Some(_) => (None, Stdio::default()),
            None => {
                let (relay, ends) = Relay::pipes(streams.stdin.is_some()).map_err(failed)?;
                let mut stdio = Stdio::default().stdout(ends.stdout).stderr(ends.stderr);
                stdio.stdin = ends.stdin;
                (Some(relay), stdio)
            }
        };
        let terminal = streams
            .terminal
            .map(|size| sandbox::WindowSize::new(size.rows, size.columns));
        let upper = upper_directory(&process);
        let (spawner, privileged) = (self.spawner.clone(), self.privileged);
        let place = upper.clone();
        let starting = Arc::new(Starting::default());
        let _kill = cancel.on_cancel({
            let starting = starting.clone();
            move || starting.kill()
        });
        let started = tokio::task::spawn_blocking(move || {
            let mut spec = spec(process, privileged)?;
            spec.terminal = terminal;
            starting.start(|| {
                spawner.spawn(spec, stdio).map_err(|error| {
                    // The first error says more than one of the clean-up would.
                    let _second = remove_stubs(place.as_deref(), &error.stubs);
                    ExecutorError::Start {
                        source: error.error,
                    }
                })
            })
        });
        let child = started.await.map_err(|_| ExecutorError::Interrupted)??;
        let relay = match (pipes, child.terminal()) {
            (Some(relay), _) => relay,
            (None, Some(master)) => Relay::terminal(master).map_err(failed)?,
            (None, None) => unreachable!("BUG: the sandbox makes the terminal it is asked for"),
        };

        let (sender, exit) = oneshot::channel();
        child.on_exit(move |status| {
            let _unheard = sender.send(status);
        });
        let ended = Cancel::new();
        let work = async {
            let exit = async {
                let status = exit.await.unwrap_or(sandbox::ExitStatus::Lost);
                ended.cancel();
                Ok(status)
            };
            let carried = relay.carry(streams, &ended, |signal| child.signal(signal));
            futures::try_join!(exit, carried).map(|(status, ())| status)
        };
        let status = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Cancelled.into()),
            status = work => status.map_err(failed)?,
        };
        cancel.check()?;
        let status = match status {
            sandbox::ExitStatus::Exited(code) => ExitStatus::Exited(code),
            sandbox::ExitStatus::Signaled(signal) => ExitStatus::Signaled(signal),
            _ => return Err(ExecutorError::StatusLost),
        };
        let usage = child.usage().map(usage);
        finish(child, upper).await?;
        Ok(Exit::new(status).usage(usage))
    }
}

fn usage(used: sandbox::ResourceUsage) -> Usage {
    Usage {
        user: used.user,
        system: used.system,
        peak_memory: Some(used.max_resident),
        read: Some(used.read),
        written: Some(used.written),
    }
}

/// Removes the mount points that were made in the root.
async fn finish(child: Arc<Child>, upper: Option<PathBuf>) -> Result<(), ExecutorError> {
    if child.stubs().is_empty() {
        return Ok(());
    }
    tokio::task::spawn_blocking(move || remove_stubs(upper.as_deref(), child.stubs()))
        .await
        .map_err(|_| ExecutorError::Interrupted)?
        .map_err(|source| ExecutorError::Start { source })
}

fn remove_stubs(upper: Option<&Path>, stubs: &[Stub]) -> Result<(), SandboxError> {
    let Some(upper) = upper.filter(|_| !stubs.is_empty()) else {
        return Ok(());
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let upper = rustix::fs::open(upper, flags, Mode::empty()).map_err(|error| {
        SandboxError::RemoveStub {
            path: upper.to_owned(),
            source: error.into(),
        }
    })?;
    sandbox::remove_stubs(upper.as_fd(), stubs).map(drop)
}

fn upper_directory(process: &Process) -> Option<PathBuf> {
    match &process.root.source {
        MountSource::Overlay { upper, .. } => Some(upper.clone()),
        _ => None,
    }
}

/// Reads the host's resolver configuration; a host without one has none.
fn host_resolv_conf() -> String {
    use io::Read as _;
    let mut text = Vec::new();
    let read = std::fs::File::open("/etc/resolv.conf")
        .and_then(|file| file.take(MAX_RESOLV_CONF).read_to_end(&mut text));
    if read.is_err() {
        text.clear();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Translates a process into the sandbox's words. Blocks.
fn spec(process: Process, privileged: bool) -> Result<Spec, ExecutorError> {
    let root = sandbox::Root::new(source(process.root.source)).readonly(process.root.readonly);
    let mut spec = Spec::new(root, process.args);
    let network_file = |target: &str, text: String| {
        let source = sandbox::Source::File {
            contents: text.into_bytes(),
            mode: 0o644,
            uid: 0,
            gid: 0,
        };
        sandbox::Mount::new(target, source).readonly(true)
    };
    spec.mounts = vec![
        network_file("/etc/hosts", hosts(&process.hostname, &process.extra_hosts)),
        network_file(
            "/etc/resolv.conf",
            resolv_conf(&host_resolv_conf(), process.network),
        ),
    ];
    spec.mounts.extend(process.mounts.into_iter().map(mount));
    spec.env = process.env.into_iter().map(Into::into).collect();
    spec.cwd = process.cwd;
    spec.uid = process.user.uid;
    spec.gid = process.user.gid;
    spec.hostname = process.hostname.into();
    spec.namespaces.network = match process.network {
        Network::Host => sandbox::Network::Host,
        Network::None => sandbox::Network::None,
    };
    if privileged {
        spec.additional_gids = process.user.groups;
    } else {
        // One user and one group are all there is.
        spec.namespaces.user = Some(IdMap::new(process.user.uid, process.user.gid));
    }
    for limit in process.limits {
        let resource = Resource::from_name(&limit.name)
            .ok_or(ExecutorError::UnknownLimit { name: limit.name })?;
        spec.rlimits
            .push(Rlimit::new(resource, limit.soft, limit.hard));
    }
    if process.insecure {
        spec.capabilities = sandbox::CapabilitySet::ALL;
        spec.ambient_capabilities = true;
        spec.seccomp = None;
        spec.masked_paths.clear();
        spec.readonly_paths.clear();
        spec.writable_sys = true;
        spec.host_devices = true;
    }
    Ok(spec)
}

fn mount(mount: Mount) -> sandbox::Mount {
    let mut out = sandbox::Mount::new(mount.target, source(mount.source)).readonly(mount.readonly);
    out.selector = mount.selector;
    out
}

fn source(source: MountSource) -> sandbox::Source {
    match source {
        MountSource::Overlay { lower, upper, work } => {
            sandbox::Source::Overlay { lower, upper, work }
        }
        MountSource::Layers { lower } => sandbox::Source::ReadOnlyOverlay { lower },
        MountSource::Bind { path } => sandbox::Source::Bind { path },
        MountSource::Tmpfs { size } => sandbox::Source::Tmpfs { size },
        MountSource::File {
            contents,
            mode,
            uid,
            gid,
        } => sandbox::Source::File {
            contents,
            mode,
            uid,
            gid,
        },
    }
}
