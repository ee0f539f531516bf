//! The executor that needs nothing installed: [`ashlar_sandbox`].

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ashlar_sandbox as sandbox;
use ashlar_sandbox::{
    Child, IdMap, Resource, Rlimit, SandboxError, SeccompProfile, Spawner, Spec, Stdio, Stub,
};
use async_trait::async_trait;
use rustix::fs::{Mode, OFlags};
use tokio::sync::oneshot;

use super::network::start_wired;
use super::network_files::{asks_only_systemd, hosts, resolv_conf};
use super::relay::Relay;
use super::starting::Starting;
use super::{
    Capabilities, Connection, ControlGroups, Dns, Executor, ExecutorError, Exit, ExitStatus, Group,
    Mount, MountSource, Network, NetworkProvider, Process, Streams, User, UserNetwork,
};
use crate::cancel::{Cancel, Cancelled};
use crate::error::{Blame as _, Failure, Fault};
use crate::progress::Usage;
use crate::session::SecretValue;

/// Bytes of the host's `/etc/resolv.conf` that are read at most.
const MAX_RESOLV_CONF: u64 = 1 << 20;

/// What is told of every step while [`SandboxExecutor::pretend_ownership`] is on.
const OWNERS_ARE_PRETENDED: &str =
    "changes of owners in this step do nothing: it has one user only";

/// Runs processes in namespaces of their own.
#[derive(Debug, Clone)]
pub struct SandboxExecutor {
    spawner: Arc<Spawner>,
    /// Whether the host process is root; if not, processes run in a user namespace in which it
    /// appears as their user.
    privileged: bool,
    /// Whether changes of owners seem to work where there is one user only.
    pretends_ownership: bool,
    groups: ControlGroups,
    provider: Arc<dyn NetworkProvider>,
    dns: Arc<Dns>,
    /// Where the machine is tried out; `None`: nowhere.
    probe_in: Option<PathBuf>,
    capabilities: Arc<OnceLock<Capabilities>>,
}

/// What is different if the process is started by a program in the sandbox, not by the sandbox.
pub(super) struct Outside {
    /// Becomes descriptor 3 of that program.
    pub(super) messages: OwnedFd,
    /// Makes the sandbox of that program from the one the process would have had.
    pub(super) translate: Box<dyn FnOnce(Spec) -> Result<Spec, ExecutorError> + Send>,
}

impl SandboxExecutor {
    /// Starts a thread that starts processes. It ends with this value, as do those that join it when
    /// there is more to start than it can do at once.
    ///
    /// # Errors
    /// [`ExecutorError::Start`] if the host process has no more threads or descriptors.
    pub fn new(privileged: bool) -> Result<Self, ExecutorError> {
        let spawner = Spawner::new().map_err(|source| ExecutorError::Start { source })?;
        Ok(Self {
            spawner: Arc::new(spawner),
            privileged,
            pretends_ownership: false,
            groups: ControlGroups::of_host(),
            provider: Arc::new(UserNetwork::new()),
            dns: Arc::default(),
            probe_in: None,
            capabilities: Arc::default(),
        })
    }

    /// Sets a directory, on the file system of the state root, in which the machine is tried out
    /// when its capabilities are asked for or a step cannot be started.
    #[must_use]
    pub fn probing_in(mut self, directory: impl Into<PathBuf>) -> Self {
        self.probe_in = Some(directory.into());
        self
    }

    /// Takes the capabilities as given instead of trying out the machine. Steps are refused if
    /// they say that none can be run.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = Arc::new(OnceLock::from(capabilities));
        self
    }

    /// Sets where control groups of steps are made. Default: below those of the host process.
    #[must_use]
    pub fn control_groups(mut self, groups: ControlGroups) -> Self {
        self.groups = groups;
        self
    }

    /// Lets changes of owners seem to work in steps of an ordinary user, which have one user and
    /// one group: they do nothing, and what a step makes belongs to its user. Each step then
    /// carries a warning. Without it they fail (EINVAL), and with them programs that unpack
    /// archives or install packages as root. Default: off. Means nothing as root.
    #[must_use]
    pub fn pretend_ownership(mut self, pretend: bool) -> Self {
        self.pretends_ownership = pretend;
        self
    }

    /// Sets what connects steps with [`Network::Sandbox`]. Default: [`UserNetwork`].
    #[must_use]
    pub fn network_provider(mut self, provider: Arc<dyn NetworkProvider>) -> Self {
        self.provider = provider;
        self
    }

    /// Sets what the resolver of steps is told. Default: what the host's is told.
    #[must_use]
    pub fn dns(mut self, dns: Dns) -> Self {
        self.dns = Arc::new(dns);
        self
    }

    /// Makes the group that a process asks for; none if it asks for nothing, and a reason to warn
    /// of if an ordinary user cannot have it. Blocks.
    fn group(&self, process: &Process) -> Result<(Option<Group>, Option<String>), ExecutorError> {
        if process.cgroup_parent.is_empty() && process.resources.is_empty() {
            return Ok((None, None));
        }
        match self.groups.make(&process.cgroup_parent, &process.resources) {
            Ok(group) => Ok((Some(group), None)),
            Err(source) if self.privileged || source.fault() == Fault::Input => {
                Err(ExecutorError::ControlGroup { source })
            }
            Err(source) => {
                let remedy = source.remedy().unwrap_or_default();
                let failure = Failure::new(source);
                let reason = failure.chain();
                let text = format!("the limits of this step are not applied: {reason}; {remedy}");
                Ok((None, Some(text)))
            }
        }
    }

    /// Why a process could not be started, if trying out the machine tells more.
    fn explained(&self, error: ExecutorError) -> ExecutorError {
        let ExecutorError::Start { source } = &error else {
            return error;
        };
        let of_the_machine = matches!(
            source,
            SandboxError::Clone { .. } | SandboxError::Setup { .. } | SandboxError::Died { .. }
        );
        let capabilities = of_the_machine.then(|| self.capabilities()).flatten();
        match capabilities.and_then(|found| found.exec_obstacle().cloned()) {
            Some(obstacle) => ExecutorError::Unavailable { obstacle },
            None => error,
        }
    }
}

#[async_trait]
impl Executor for SandboxExecutor {
    fn network_provider(&self) -> Option<&dyn NetworkProvider> {
        Some(&*self.provider)
    }

    fn capabilities(&self) -> Option<&Capabilities> {
        if let Some(found) = self.capabilities.get() {
            return Some(found);
        }
        let directory = self.probe_in.as_ref()?;
        let found = Capabilities::probe_with(&self.spawner, directory).ok()?;
        Some(self.capabilities.get_or_init(|| found))
    }

    async fn run(
        &self,
        process: Process,
        streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        if let Some(hook) = process.hooks.first() {
            let path = hook.path.clone();
            return Err(ExecutorError::Hooks { path });
        }
        self.run_in(process, None, streams, cancel).await
    }
}

impl SandboxExecutor {
    /// Runs a process, or a program that starts it.
    pub(super) async fn run_in(
        &self,
        process: Process,
        outside: Option<Outside>,
        streams: Streams,
        cancel: &Cancel,
    ) -> Result<Exit, ExecutorError> {
        cancel.check()?;
        let known = self.capabilities.get();
        if let Some(obstacle) = known.and_then(Capabilities::exec_obstacle) {
            let obstacle = obstacle.clone();
            return Err(ExecutorError::Unavailable { obstacle });
        }
        let failed = |source| ExecutorError::Streams { source };
        let (pipes, mut stdio) = match streams.terminal {
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
        let this = self.clone();
        let place = upper.clone();
        let starting = Arc::new(Starting::default());
        let _kill = cancel.on_cancel({
            let starting = starting.clone();
            move || starting.kill()
        });
        let started = tokio::task::spawn_blocking(move || {
            let (group, warning) = this.group(&process)?;
            let wired = process.network == Network::Sandbox;
            let mut spec = spec(process, this.privileged, &this.dns)?;
            spec.terminal = terminal;
            let mut warnings: Vec<String> = warning.into_iter().collect();
            if this.pretends_ownership && !this.privileged {
                let pretending = |it: &SeccompProfile| it.pretending_ownership();
                spec.seccomp = spec.seccomp.as_ref().map(pretending);
                warnings.push(OWNERS_ARE_PRETENDED.to_owned());
            }
            if let Some(group) = &group {
                let lent = group.lend();
                spec.control_groups =
                    lent.map_err(|source| ExecutorError::ControlGroup { source })?;
            }
            if let Some(outside) = outside {
                spec = (outside.translate)(spec)?;
                stdio = stdio.messages(outside.messages);
            }
            let start = |spec| {
                this.spawner.spawn(spec, stdio).map_err(|error| {
                    // The first error says more than one of the clean-up would.
                    let _second = remove_stubs(place.as_deref(), &error.stubs);
                    this.explained(ExecutorError::Start {
                        source: error.error,
                    })
                })
            };
            let mut connection = None;
            let child = starting.start(|| {
                if !wired {
                    return start(spec);
                }
                let (child, connected) = start_wired(&*this.provider, spec, start)?;
                connection = Some(connected);
                Ok(child)
            })?;
            Ok::<_, ExecutorError>((child, group, warnings, connection))
        });
        let (child, group, warnings, connection) =
            started.await.map_err(|_| ExecutorError::Interrupted)??;
        // Whatever happens: the process ends before its group is removed.
        let child = InGroup {
            child,
            group,
            connection,
        };
        let output = streams.output.clone();
        for warning in warnings {
            output.warn(warning);
        }
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
        let killed = child.out_of_memory_kills();
        if killed > 0 {
            output.warn(format!(
                "the kernel killed {killed} processes of this step: its memory ran out"
            ));
        }
        let usage = child.used();
        finish(child, upper).await?;
        Ok(Exit::new(status).usage(usage).out_of_memory(killed > 0))
    }
}

/// A process with the control group that it is in and its way out.
struct InGroup {
    child: Arc<Child>,
    group: Option<Group>,
    /// Its way out, cut when it has ended.
    connection: Option<Box<dyn Connection>>,
}

impl InGroup {
    /// How many processes of the group the kernel killed because memory ran out.
    fn out_of_memory_kills(&self) -> u64 {
        let group = self.group.as_ref();
        group.and_then(Group::out_of_memory_kills).unwrap_or(0)
    }

    /// What the process used, with the memory of all of its group where there is one.
    fn used(&self) -> Option<Usage> {
        let mut used = self.child.usage().map(usage)?;
        let together = self.group.as_ref().and_then(Group::peak_memory);
        used.peak_memory = together.or(used.peak_memory);
        Some(used)
    }
}

impl Deref for InGroup {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl Drop for InGroup {
    fn drop(&mut self) {
        let (group, connection) = (self.group.take(), self.connection.take());
        if group.is_some() || connection.is_some() {
            // The kill of a cancelled step may still be under way.
            self.child.kill();
            let _status = self.child.wait();
        }
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
async fn finish(child: InGroup, upper: Option<PathBuf>) -> Result<(), ExecutorError> {
    if child.stubs().is_empty() && child.group.is_none() && child.connection.is_none() {
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

/// Reads the host's resolver configuration; a host without one has none. In another network the
/// resolver of systemd cannot be asked, but those that it asks can, as in BuildKit.
fn host_resolv_conf(network: Network) -> String {
    let host = read_resolv_conf("/etc/resolv.conf");
    if network == Network::Host || !asks_only_systemd(&host) {
        return host;
    }
    match read_resolv_conf("/run/systemd/resolve/resolv.conf") {
        none if none.is_empty() => host,
        found => found,
    }
}

fn read_resolv_conf(path: &str) -> String {
    use io::Read as _;
    let mut text = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(MAX_RESOLV_CONF).read_to_end(&mut text));
    if read.is_err() {
        text.clear();
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Translates a process into the sandbox's words. Blocks.
fn spec(mut process: Process, privileged: bool, dns: &Dns) -> Result<Spec, ExecutorError> {
    if !privileged {
        belong_to(&process.user, &mut process.mounts);
    }
    let root = sandbox::Root::new(source(process.root.source)).readonly(process.root.readonly);
    let mut spec = Spec::new(root, process.args);
    let network_file = |target: &str, text: String| {
        let source = sandbox::Source::File {
            contents: text.into(),
            mode: 0o644,
            uid: if privileged { 0 } else { process.user.uid },
            gid: if privileged { 0 } else { process.user.gid },
        };
        sandbox::Mount::new(target, source).readonly(true)
    };
    spec.mounts = vec![
        network_file("/etc/hosts", hosts(&process.hostname, &process.extra_hosts)),
        network_file(
            "/etc/resolv.conf",
            resolv_conf(
                &dns.over(&host_resolv_conf(process.network)),
                process.network,
            ),
        ),
    ];
    spec.mounts.extend(process.mounts.into_iter().map(mount));
    spec.env = process.env.into_iter().map(Into::into).collect();
    let secret = |(name, value): (String, SecretValue)| (name.into(), value.shared().into());
    spec.secret_env = process.secret_env.into_iter().map(secret).collect();
    spec.cwd = process.cwd;
    spec.uid = process.user.uid;
    spec.gid = process.user.gid;
    spec.hostname = process.hostname.into();
    spec.namespaces.network = match process.network {
        Network::Host => sandbox::Network::Host,
        Network::None | Network::Sandbox => sandbox::Network::None,
    };
    if privileged {
        spec.additional_gids = process.user.groups;
        // As in BuildKit: a program that is setgid must not shed the group for good.
        if !spec.additional_gids.contains(&spec.gid) {
            spec.additional_gids.insert(0, spec.gid);
        }
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

/// Where one user is all there is, files belong to it whoever they were asked for.
fn belong_to(user: &User, mounts: &mut [Mount]) {
    for mount in mounts {
        if let MountSource::File { uid, gid, .. } = &mut mount.source {
            (*uid, *gid) = (user.uid, user.gid);
        }
    }
}

fn mount(mount: Mount) -> sandbox::Mount {
    let mut out = sandbox::Mount::new(mount.target, source(mount.source)).readonly(mount.readonly);
    out = out.nosuid(mount.nosuid).noexec(mount.noexec);
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
        MountSource::Device { path } => sandbox::Source::Device { path },
        MountSource::Node(node) => sandbox::Source::Node(node),
        MountSource::Tmpfs { size } => sandbox::Source::Tmpfs { size },
        MountSource::File {
            contents,
            mode,
            uid,
            gid,
        } => sandbox::Source::File {
            contents: contents.shared().into(),
            mode,
            uid,
            gid,
        },
    }
}
