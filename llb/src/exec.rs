//! Run steps: a process on a tree.
//!
//! Owns [`Run`], the builder, and the exec vertex it makes; `exec/write.rs` writes the op.
//! Invariants: outputs refer to mounts, and become numbers only when the step is complete; an
//! output that was taken stays an output of the step as it was then, whatever is added to the
//! builder later. Running anything is the engine's.

mod lent;
mod write;

use std::net::IpAddr;
use std::sync::Arc;

pub use lent::{Secret, Ssh};

use crate::constraints::{OpConstraints, op_options};
use crate::state::{Setting, Values};
use crate::vertex::Link;
use crate::vertex::{Output, Port, Unusable, Vertex, VertexOp};
use crate::{GuestPath, Mount, Network, Platform, Security, State, UlimitName, pb};

/// An exec op in the making.
#[derive(Clone)]
pub(crate) struct ExecVertex {
    pub(crate) args: Vec<String>,
    root: Option<Output>,
    readonly_root: bool,
    values: Arc<Values>,
    valid_exit_codes: Option<Vec<i32>>,
    proxy: Option<pb::ProxyEnv>,
    /// In the order of declaration, the root not among them.
    mounts: Vec<(GuestPath, Mount)>,
    secrets: Vec<Secret>,
    ssh: Vec<Ssh>,
    devices: Vec<pb::CdiDevice>,
}

/// Position of the root among the mounts of an exec; the declared ones come after it.
const ROOT: usize = 0;

/// A step that runs a process, made by [`State::run`].
///
/// Settings of the state hold for the step; methods of the same name change them for this step
/// only. [`Run::root`] gives the changed tree, [`Run::output`] what a mount became.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Cache, Network, Tmpfs};
///
/// let installed = llb::image("debian:bookworm")
///     .run(["apt-get", "install", "-y", "gcc"])
///     .env("DEBIAN_FRONTEND", "noninteractive")
///     .network(Network::Host)
///     .mount("/var/cache/apt", Cache::locked("apt"))
///     .mount("/tmp", Tmpfs::new())
///     .custom_name("install the compiler")
///     .root();
/// # let _ = installed;
/// ```
#[derive(Clone, Debug)]
pub struct Run {
    /// The state the step was made of; its settings are those of the outputs.
    state: State,
    vertex: Arc<Vertex>,
}

impl Run {
    pub(crate) fn new(state: &State, args: Vec<String>) -> Self {
        let exec = ExecVertex {
            args,
            root: state.output.clone(),
            readonly_root: false,
            values: Arc::clone(&state.values),
            valid_exit_codes: None,
            proxy: None,
            mounts: Vec::new(),
            secrets: Vec::new(),
            ssh: Vec::new(),
            devices: Vec::new(),
        };
        let vertex = Vertex {
            op: VertexOp::Exec(Box::new(exec)),
            constraints: OpConstraints::needing("exec.meta.base"),
        };
        Self {
            state: state.clone(),
            vertex: Arc::new(vertex),
        }
    }

    fn exec(&self) -> &ExecVertex {
        match &self.vertex.op {
            VertexOp::Exec(exec) => exec,
            _ => unreachable!("BUG: the vertex of a run is an exec"),
        }
    }

    fn change(mut self, change: impl FnOnce(&mut ExecVertex)) -> Self {
        match &mut Arc::make_mut(&mut self.vertex).op {
            VertexOp::Exec(exec) => change(exec),
            _ => unreachable!("BUG: the vertex of a run is an exec"),
        }
        self
    }

    fn options_mut(&mut self) -> &mut OpConstraints {
        &mut Arc::make_mut(&mut self.vertex).constraints
    }

    fn set(self, setting: Setting) -> Self {
        self.change(|exec| Arc::make_mut(&mut exec.values).set(setting))
    }

    /// Mounts a state, a [`Cache`](crate::Cache), a [`Tmpfs`](crate::Tmpfs) or a [`Mount`] at
    /// `target`.
    #[must_use]
    pub fn mount(self, target: impl Into<GuestPath>, mount: impl Into<Mount>) -> Self {
        self.change(|exec| exec.mounts.push((target.into(), mount.into())))
    }

    /// Lends the step a secret of the client.
    #[must_use]
    pub fn secret(self, secret: Secret) -> Self {
        self.change(|exec| exec.secrets.push(secret))
    }

    /// Lends the step an ssh agent of the client.
    #[must_use]
    pub fn ssh(self, ssh: Ssh) -> Self {
        self.change(|exec| exec.ssh.push(ssh))
    }

    /// Gives the step a device by its CDI name, such as `vendor.com/gpu=0`.
    #[must_use]
    pub fn device(self, name: impl Into<String>) -> Self {
        self.add_device(name.into(), false)
    }

    /// Gives the step a device by its CDI name if the engine has it.
    #[must_use]
    pub fn optional_device(self, name: impl Into<String>) -> Self {
        self.add_device(name.into(), true)
    }

    fn add_device(self, name: String, optional: bool) -> Self {
        self.change(|exec| exec.devices.push(pb::CdiDevice { name, optional }))
    }

    /// Keeps the step from writing to the root; its root output is the tree it started from,
    /// so the step runs only if another of its outputs is used.
    #[must_use]
    pub fn readonly_root(self) -> Self {
        self.change(|exec| exec.readonly_root = true)
    }

    /// Sets the exit codes that count as success; 0 alone by default.
    #[must_use]
    pub fn valid_exit_codes(self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.change(|exec| exec.valid_exit_codes = Some(codes.into_iter().collect()))
    }

    /// Sets the proxy variables of the process, which are not part of the cache key.
    #[must_use]
    pub fn proxy(self, proxy: pb::ProxyEnv) -> Self {
        self.change(|exec| exec.proxy = Some(proxy))
    }

    /// Sets an environment variable of this step.
    #[must_use]
    pub fn env(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.set(Setting::Env(key.into(), value.into()))
    }

    /// Sets the working directory of this step.
    #[must_use]
    pub fn dir(self, path: impl Into<GuestPath>) -> Self {
        self.set(Setting::Dir(path.into()))
    }

    /// Sets the user of this step: `user[:group]`, names or numbers.
    #[must_use]
    pub fn user(self, user: impl Into<String>) -> Self {
        self.set(Setting::User(user.into()))
    }

    /// Sets the host name this step sees.
    #[must_use]
    pub fn hostname(self, hostname: impl Into<String>) -> Self {
        self.set(Setting::Hostname(hostname.into()))
    }

    /// Sets the network of this step.
    #[must_use]
    pub fn network(self, network: Network) -> Self {
        self.set(Setting::Network(network))
    }

    /// Sets how far this step is confined.
    #[must_use]
    pub fn security(self, security: Security) -> Self {
        self.set(Setting::Security(security))
    }

    /// Adds a host name to the `/etc/hosts` of this step.
    #[must_use]
    pub fn extra_host(self, host: impl Into<String>, ip: IpAddr) -> Self {
        self.set(Setting::Host(host.into(), Some(ip)))
    }

    /// Adds a host name that has no address; see [`State::extra_host_without_address`].
    #[must_use]
    pub fn extra_host_without_address(self, host: impl Into<String>) -> Self {
        self.set(Setting::Host(host.into(), None))
    }

    /// Adds a limit of the processes of this step; see [`State::ulimit`].
    #[must_use]
    pub fn ulimit(self, name: UlimitName, soft: i64, hard: i64) -> Self {
        self.set(Setting::Ulimit(name.limit(soft, hard)))
    }

    /// Sets the cgroup under which this step gets its own.
    #[must_use]
    pub fn cgroup_parent(self, parent: impl Into<String>) -> Self {
        self.set(Setting::CgroupParent(parent.into()))
    }

    /// Sets the platform of this step, as it is written. Unlike [`State::platform`], the
    /// step's outputs inherit it.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.options_mut().platform = Some(platform);
        self
    }

    /// Changes the state this step runs on, for this step only.
    #[must_use]
    pub fn with(self, change: impl FnOnce(State) -> State) -> Self {
        let exec = self.exec();
        let before = State {
            output: exec.root.clone(),
            values: Arc::clone(&exec.values),
        };
        let after = change(before);
        self.change(|exec| {
            exec.root = after.output;
            exec.values = after.values;
        })
    }

    /// Returns the tree as the step leaves it, with the settings of the state it started from.
    #[must_use]
    pub fn root(&self) -> State {
        let exec = self.exec();
        let output = if exec.readonly_root {
            exec.root.clone()
        } else {
            Some(self.output_at(Port::Mount(ROOT)))
        };
        self.state.with_output(output)
    }

    /// Returns the program and its arguments.
    #[must_use]
    pub fn args(&self) -> &[String] {
        &self.exec().args
    }

    /// Tells whether there is a mount at `target`; the root always is one.
    #[must_use]
    pub fn has_mount(&self, target: &str) -> bool {
        target == pb::ROOT_MOUNT
            || self
                .exec()
                .mounts
                .iter()
                .any(|(known, _)| known.as_str() == target)
    }

    /// Returns what the step leaves at the mount `target`, as a state with fresh settings; the
    /// first of several such mounts. For a read-only mount that is what was mounted. If there
    /// is no such mount, or it has no result, marshalling the state fails.
    ///
    /// BuildKit's Go client gives scratch for a mount that does not exist; whoever wants that
    /// asks [`Run::has_mount`].
    #[must_use]
    pub fn output(&self, target: &str) -> State {
        let outputs = self.outputs(target);
        outputs.into_iter().next().unwrap_or_else(|| {
            let target = target.to_owned();
            State::new(Some(
                self.output_at(Port::Unusable(Unusable::NoMount { target })),
            ))
        })
    }

    /// Returns what the step leaves at each of the mounts at `target`, in the order in which
    /// they were added; see [`Run::output`].
    #[must_use]
    pub fn outputs(&self, target: &str) -> Vec<State> {
        let root = (target == pb::ROOT_MOUNT).then(|| State::new(self.root().output));
        let mounts = self.exec().mounts.iter().enumerate();
        let mounts = mounts.filter(|(_, (known, _))| known.as_str() == target);
        let outputs = mounts.map(|(position, (_, mount))| self.mount_output(position, mount));
        root.into_iter().chain(outputs).collect()
    }

    fn mount_output(&self, position: usize, mount: &Mount) -> State {
        let target = self.exec().mounts[position].0.to_string();
        let port = if mount.readonly {
            return State::new(mount.source.output.clone());
        } else if mount.tmpfs_opt().is_some() {
            Port::Unusable(Unusable::Tmpfs { target })
        } else if mount.no_output {
            Port::Unusable(Unusable::NoOutput { target })
        } else if mount.is_cache() {
            Port::Unusable(Unusable::Cache { target })
        } else {
            Port::Mount(position + 1)
        };
        State::new(Some(self.output_at(port)))
    }

    fn output_at(&self, port: Port) -> Output {
        Output {
            vertex: Arc::clone(&self.vertex),
            port,
            platform: self.vertex.constraints.platform.clone(),
        }
    }
}

op_options!(impl Run);

impl ExecVertex {
    /// Positions of root and mounts in the order in which they are written: by target.
    fn sorted(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..=self.mounts.len()).collect();
        order.sort_by(|a, b| self.target(*a).cmp(self.target(*b)));
        order
    }

    fn target(&self, position: usize) -> &str {
        match position.checked_sub(1) {
            Some(declared) => self.mounts[declared].0.as_str(),
            None => pb::ROOT_MOUNT,
        }
    }

    fn source(&self, position: usize) -> Option<&Output> {
        match position.checked_sub(1) {
            Some(declared) => self.mounts[declared].1.source.output.as_ref(),
            None => self.root.as_ref(),
        }
    }

    fn has_output(&self, position: usize) -> bool {
        match position.checked_sub(1) {
            Some(declared) => self.mounts[declared].1.has_output(),
            None => !self.readonly_root,
        }
    }

    pub(crate) fn inputs(&self) -> Vec<&Output> {
        let sorted = self.sorted();
        sorted
            .into_iter()
            .filter_map(|position| self.source(position))
            .collect()
    }

    /// The output number of a mount.
    pub(crate) fn output_index(&self, mount: usize) -> i64 {
        let sorted = self.sorted();
        let before = sorted.into_iter().take_while(|position| *position != mount);
        let outputs = before.filter(|position| self.has_output(*position)).count();
        i64::try_from(outputs).unwrap_or(i64::MAX)
    }

    /// Moves everything the step keeps alive to `links`.
    pub(crate) fn unlink(&mut self, links: &mut Vec<Link>) {
        Values::unlink(&mut self.values, links);
        links.extend(self.root.take().map(|output| Link::Vertex(output.vertex)));
        for (_, mount) in self.mounts.drain(..) {
            mount.source.unlink(links);
        }
    }
}
