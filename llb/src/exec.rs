//! Run steps: a process on a tree.
//!
//! Owns [`Run`], the builder, and the exec vertex it makes; `exec/write.rs` writes the op.
//! Invariants: mounts are kept in the order in which they are written, the root among them, so
//! that outputs have their numbers at once; an output that was taken stays an output of the step
//! as it was then, whatever is added to the builder later. Running anything is the engine's.

mod lent;
mod words;
mod write;

use std::net::IpAddr;
use std::sync::Arc;

pub use lent::{Secret, Ssh};

pub(crate) use words::Words;

use crate::caps::Cap;
use crate::constraints::{OpConstraints, op_options};
use crate::digest::excerpt;
use crate::state::{Setting, Settings};
use crate::vertex::{Link, Output, Port, Unusable, Vertex, VertexOp};
use crate::{GuestPath, Mount, Network, Platform, Security, State, UlimitName, pb};

/// An exec op in the making.
#[derive(Clone)]
pub(crate) struct ExecVertex {
    args: Words,
    root: Option<Output>,
    readonly_root: bool,
    values: Settings,
    /// Sorted by target, equal ones in the order of declaration. The root is not among them.
    mounts: Vec<(GuestPath, Mount)>,
    more: Option<Box<MoreOptions>>,
}

/// What few steps have.
#[derive(Clone, Default)]
struct MoreOptions {
    valid_exit_codes: Option<Vec<i32>>,
    proxy: Option<pb::ProxyEnv>,
    secrets: Vec<Secret>,
    ssh: Vec<Ssh>,
    devices: Vec<pb::CdiDevice>,
}

static NO_MORE: MoreOptions = MoreOptions {
    valid_exit_codes: None,
    proxy: None,
    secrets: Vec::new(),
    ssh: Vec::new(),
    devices: Vec::new(),
};

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
    pub(crate) fn new(state: &State, args: Words) -> Self {
        let exec = ExecVertex {
            args,
            root: state.output.clone(),
            readonly_root: false,
            values: state.values.clone(),
            mounts: Vec::new(),
            more: None,
        };
        let vertex = Vertex {
            op: VertexOp::Exec(Box::new(exec)),
            constraints: OpConstraints::needing(Cap::ExecMetaBase),
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
        self.change(|exec| exec.values.set(setting))
    }

    /// Mounts a state, a [`Cache`](crate::Cache), a [`Tmpfs`](crate::Tmpfs) or a [`Mount`] at
    /// `target`.
    #[must_use]
    pub fn mount(self, target: impl Into<GuestPath>, mount: impl Into<Mount>) -> Self {
        self.change(|exec| exec.add_mount(target.into(), mount.into()))
    }

    /// Lends the step a secret of the client.
    #[must_use]
    pub fn secret(self, secret: Secret) -> Self {
        self.change(|exec| exec.more_mut().secrets.push(secret))
    }

    /// Lends the step an ssh agent of the client.
    #[must_use]
    pub fn ssh(self, ssh: Ssh) -> Self {
        self.change(|exec| exec.more_mut().ssh.push(ssh))
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
        self.change(|exec| {
            let device = pb::CdiDevice { name, optional };
            exec.more_mut().devices.push(device);
        })
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
        self.change(|exec| exec.more_mut().valid_exit_codes = Some(codes.into_iter().collect()))
    }

    /// Sets the proxy variables of the process, which are not part of the cache key.
    #[must_use]
    pub fn proxy(self, proxy: pb::ProxyEnv) -> Self {
        self.change(|exec| exec.more_mut().proxy = Some(proxy))
    }

    /// Sets an environment variable of this step.
    #[must_use]
    pub fn env(self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.set(Setting::env(key, value))
    }

    /// Sets the working directory of this step.
    #[must_use]
    pub fn dir(self, path: impl Into<GuestPath>) -> Self {
        self.set(Setting::Dir(path.into()))
    }

    /// Sets the user of this step: `user[:group]`, names or numbers.
    #[must_use]
    pub fn user(self, user: impl AsRef<str>) -> Self {
        self.set(Setting::User(user.as_ref().into()))
    }

    /// Sets the host name this step sees.
    #[must_use]
    pub fn hostname(self, hostname: impl AsRef<str>) -> Self {
        self.set(Setting::Hostname(hostname.as_ref().into()))
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
    pub fn cgroup_parent(self, parent: impl AsRef<str>) -> Self {
        self.set(Setting::CgroupParent(parent.as_ref().into()))
    }

    /// Sets the platform of this step, as it is written. Unlike [`State::platform`], the
    /// step's outputs inherit it.
    #[must_use]
    pub fn platform(mut self, platform: Platform) -> Self {
        self.options_mut().more_mut().platform = Some(platform.into());
        self
    }

    /// Changes the state this step runs on, for this step only.
    #[must_use]
    pub fn with(self, change: impl FnOnce(State) -> State) -> Self {
        let exec = self.exec();
        let before = State {
            output: exec.root.clone(),
            values: exec.values.clone(),
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
            Some(self.output_of(exec.root_place()))
        };
        self.state.with_output(output)
    }

    /// Returns the program and its arguments.
    pub fn args(&self) -> impl Iterator<Item = &str> {
        self.exec().args.iter()
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
                self.output_at(Port::Unusable(Box::new(Unusable::NoMount { target }))),
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
        let exec = self.exec();
        let target = exec.mounts[position].0.to_string();
        let reason = if mount.readonly {
            return State::new(mount.source.output.clone());
        } else if mount.tmpfs_opt().is_some() {
            Unusable::Tmpfs { target }
        } else if mount.no_output {
            Unusable::NoOutput { target }
        } else if mount.is_cache() {
            Unusable::Cache { target }
        } else {
            let place = position + usize::from(position >= exec.root_place());
            return State::new(Some(self.output_of(place)));
        };
        State::new(Some(self.output_at(Port::Unusable(Box::new(reason)))))
    }

    /// The output of what is mounted at this place, counted in the order of writing.
    fn output_of(&self, place: usize) -> Output {
        let before = self.exec().all_mounts().take(place);
        let outputs = before.filter(|mount| mount.has_output()).count();
        self.output_at(Port::Index(u32::try_from(outputs).unwrap_or(u32::MAX)))
    }

    fn output_at(&self, port: Port) -> Output {
        Output {
            vertex: Arc::clone(&self.vertex),
            port,
            platform: self.vertex.constraints.more().platform.clone(),
        }
    }
}

op_options!(impl Run);

/// One of the mounts of a step, its root among them.
#[derive(Clone, Copy)]
enum AnyMount<'a> {
    Root(&'a ExecVertex),
    Declared(&'a GuestPath, &'a Mount),
}

impl<'a> AnyMount<'a> {
    fn declared((target, mount): &'a (GuestPath, Mount)) -> Self {
        Self::Declared(target, mount)
    }

    fn source(self) -> Option<&'a Output> {
        match self {
            Self::Root(exec) => exec.root.as_ref(),
            Self::Declared(_, mount) => mount.source.output.as_ref(),
        }
    }

    fn has_output(self) -> bool {
        match self {
            Self::Root(exec) => !exec.readonly_root,
            Self::Declared(_, mount) => mount.has_output(),
        }
    }
}

impl ExecVertex {
    fn more(&self) -> &MoreOptions {
        self.more.as_deref().unwrap_or(&NO_MORE)
    }

    fn more_mut(&mut self) -> &mut MoreOptions {
        self.more.get_or_insert_default()
    }

    fn add_mount(&mut self, target: GuestPath, mount: Mount) {
        let place = self.mounts.partition_point(|(known, _)| *known <= target);
        // Most steps have few, and there may be very many steps.
        if self.mounts.len() < 4 {
            self.mounts.reserve_exact(1);
        }
        self.mounts.insert(place, (target, mount));
    }

    /// The place of the root among all mounts: before what is mounted over it.
    fn root_place(&self) -> usize {
        let before = |(target, _): &(GuestPath, Mount)| target.as_str() < pb::ROOT_MOUNT;
        self.mounts.partition_point(before)
    }

    /// All mounts in the order in which they are written: by target.
    fn all_mounts(&self) -> impl Iterator<Item = AnyMount<'_>> {
        let (before, after) = self.mounts.split_at(self.root_place());
        let root = [AnyMount::Root(self)];
        before
            .iter()
            .map(AnyMount::declared)
            .chain(root)
            .chain(after.iter().map(AnyMount::declared))
    }

    pub(crate) fn each_input<'a>(&'a self, visit: impl FnMut(&'a Output)) {
        self.all_mounts()
            .filter_map(AnyMount::source)
            .for_each(visit);
    }

    /// Name in error messages: the command line, cut to a readable length.
    pub(crate) fn name(&self) -> String {
        if self.args.is_empty() {
            return "run without arguments".to_owned();
        }
        excerpt(&self.args.iter().collect::<Vec<_>>().join(" "))
    }

    /// Moves everything the step keeps alive to `links`.
    pub(crate) fn unlink(&mut self, links: &mut Vec<Link>) {
        self.values.unlink(links);
        links.extend(self.root.take().map(|output| Link::Vertex(output.vertex)));
        for (_, mount) in self.mounts.drain(..) {
            mount.source.unlink(links);
        }
    }
}
