//! States: a tree of files in the making, and the settings of the steps that follow.
//!
//! Owns [`State`], the value every constructor returns and every op is a method of. Invariants:
//! a state never changes, every method makes a new one; copying one is two reference counts,
//! however long its history; nothing is checked or written before [`State::marshal`]. The ops
//! are in modules of their own.

mod values;

use std::fmt;

pub use values::{ImageConfig, Network, Security, UlimitName};

pub(crate) use values::{Setting, Settings, Values, Variable};

use std::net::IpAddr;

use crate::caps::Cap;
use crate::constraints::OpConstraints;
use crate::vertex::{BuildVertex, Output, Vertex, VertexOp};
use crate::{
    Constraints, Definition, FileActions, GuestPath, MarshalError, OpState, Platform, Run, marshal,
};

/// A tree of files in the making, with the settings of the steps that will run on it.
///
/// A state is a cheap, immutable value: methods return a new state and leave the old one as it
/// was, so that any state can be the start of any number of others.
///
/// ```
/// use ashlar_llb as llb;
/// use llb::{Constraints, Platform};
///
/// let base = llb::image("alpine").env("CC", "gcc").dir("/src");
/// let tools = base.run(["apk", "add", "gcc"]).root();
/// let built = tools.run(["make"]).root();
/// let tested = tools.run(["make", "test"]).root();
/// assert_eq!(built.working_dir(), "/src");
/// for state in [built, tested] {
///     state.marshal(&Constraints::new(Platform::linux_amd64()))?;
/// }
/// # Ok::<(), llb::MarshalError>(())
/// ```
#[derive(Clone)]
pub struct State {
    /// What the tree is; nothing for scratch.
    pub(crate) output: Option<Output>,
    pub(crate) values: Settings,
}

/// Returns the empty tree.
///
/// ```
/// use ashlar_llb as llb;
///
/// let hello = llb::scratch().file(llb::mkfile("/hello", "Hello!\n"));
/// # let _ = hello;
/// ```
#[must_use]
pub fn scratch() -> State {
    State::new(None)
}

impl State {
    /// A state of this output with fresh settings.
    pub(crate) fn new(output: Option<Output>) -> Self {
        Self::with_settings(Settings::default(), output)
    }

    /// This state's settings with another tree.
    pub(crate) fn with_output(&self, output: Option<Output>) -> Self {
        Self::with_settings(self.values.clone(), output)
    }

    /// A tree with these settings. A platform the output knows is taken over.
    fn with_settings(mut values: Settings, output: Option<Output>) -> Self {
        if let Some(platform) = output.as_ref().and_then(|output| output.platform.as_ref())
            && values.platform.as_ref() != Some(platform)
        {
            let platform = (**platform).clone().normalised();
            if values.platform.as_deref() != Some(&platform) {
                values.set(Setting::Platform(platform));
            }
        }
        Self { output, values }
    }

    fn set(&self, setting: Setting) -> Self {
        let mut state = self.clone();
        state.values.set(setting);
        state
    }

    /// Sets an environment variable of the steps that follow. One that is set again moves to
    /// the end of the list.
    #[must_use]
    pub fn env(&self, key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        self.set(Setting::env(key, value))
    }

    /// Sets the working directory of the steps that follow, and of relative paths in file
    /// actions. A relative path is joined to the directory so far; an absolute one is kept
    /// as it is written. `/` by default.
    #[must_use]
    pub fn dir(&self, path: impl Into<GuestPath>) -> Self {
        self.set(Setting::Dir(path.into()))
    }

    /// Sets the user of the steps that follow: `user[:group]`, names or numbers. The engine
    /// decides by default.
    #[must_use]
    pub fn user(&self, user: impl AsRef<str>) -> Self {
        self.set(Setting::User(user.as_ref().into()))
    }

    /// Sets the host name the steps that follow see.
    #[must_use]
    pub fn hostname(&self, hostname: impl AsRef<str>) -> Self {
        self.set(Setting::Hostname(hostname.as_ref().into()))
    }

    /// Sets the network of the steps that follow; [`Network::Sandbox`] by default.
    #[must_use]
    pub fn network(&self, network: Network) -> Self {
        self.set(Setting::Network(network))
    }

    /// Sets how far the steps that follow are confined; [`Security::Sandbox`] by default.
    #[must_use]
    pub fn security(&self, security: Security) -> Self {
        self.set(Setting::Security(security))
    }

    /// Sets the platform of the steps that follow, normalised. Without one they take the
    /// platform of the marshal.
    #[must_use]
    pub fn platform(&self, platform: Platform) -> Self {
        self.set(Setting::Platform(platform))
    }

    /// Adds a host name to the `/etc/hosts` of the steps that follow.
    #[must_use]
    pub fn extra_host(&self, host: impl Into<String>, ip: IpAddr) -> Self {
        self.set(Setting::Host(host.into(), Some(ip)))
    }

    /// Adds a host name that has no address, as BuildKit's Go client does when it is given none:
    /// the address is written as `<nil>`, which engines refuse. [`State::extra_host`] is the
    /// one to use; this one is for graphs that have to equal that client's to the byte.
    #[must_use]
    pub fn extra_host_without_address(&self, host: impl Into<String>) -> Self {
        self.set(Setting::Host(host.into(), None))
    }

    /// Adds a limit of the processes of the steps that follow; see setrlimit. -1 means
    /// unlimited.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::UlimitName;
    ///
    /// let state = llb::image("alpine").ulimit(UlimitName::NOFILE, 1024, 4096);
    /// # let _ = state;
    /// ```
    #[must_use]
    pub fn ulimit(&self, name: UlimitName, soft: i64, hard: i64) -> Self {
        self.set(Setting::Ulimit(name.limit(soft, hard)))
    }

    /// Sets the cgroup under which the steps that follow get theirs.
    #[must_use]
    pub fn cgroup_parent(&self, parent: impl AsRef<str>) -> Self {
        self.set(Setting::CgroupParent(parent.as_ref().into()))
    }

    /// Takes environment, working directory and platform from an image's configuration.
    #[must_use]
    pub fn image_config(&self, config: &ImageConfig) -> Self {
        self.set(Setting::ImageConfig(Box::new(config.clone())))
    }

    /// Applies `change`; for settings that are kept in functions of their own.
    ///
    /// ```
    /// use ashlar_llb as llb;
    ///
    /// fn for_debian(state: llb::State) -> llb::State {
    ///     state.env("DEBIAN_FRONTEND", "noninteractive")
    /// }
    /// let base = llb::image("debian").with(for_debian);
    /// # let _ = base;
    /// ```
    #[must_use]
    pub fn with(&self, change: impl FnOnce(Self) -> Self) -> Self {
        change(self.clone())
    }

    /// Takes the tree of `other` and keeps the settings of this state.
    #[must_use]
    pub fn with_tree_of(&self, other: impl Into<Self>) -> Self {
        self.with_output(other.into().output)
    }

    /// Keeps the tree of this state and takes the settings of `other`. The working directory
    /// is `/` again, unless the tree has a platform of its own.
    #[must_use]
    pub fn reset(&self, other: impl Into<Self>) -> Self {
        let other = other.into();
        let mut state = other.with_output(self.output.clone());
        if self
            .output
            .as_ref()
            .is_none_or(|output| output.platform.is_none())
        {
            state.values.set(Setting::Dir(GuestPath::ROOT));
        }
        state
    }

    /// Prepares a step that runs a process on this tree: the program and its arguments.
    ///
    /// ```
    /// use ashlar_llb as llb;
    /// use llb::Cache;
    ///
    /// let source = llb::local("context");
    /// let built = llb::image("golang:1.23")
    ///     .run(["go", "build", "-o", "/out/app", "."])
    ///     .dir("/src")
    ///     .mount("/src", &source)
    ///     .mount("/root/.cache", Cache::shared("go"))
    ///     .mount("/out", llb::scratch());
    /// let app = built.output("/out");
    /// # let _ = app;
    /// ```
    #[must_use]
    pub fn run<T: AsRef<str>>(&self, args: impl IntoIterator<Item = T>) -> Run {
        Run::new(self, args.into_iter().collect())
    }

    /// Prepares a step that runs a process, given as one line that is split into words the way
    /// a shell would, without running one: see [`shlex`](crate::shlex()).
    ///
    /// ```
    /// use ashlar_llb as llb;
    ///
    /// let run = llb::image("alpine").run_line("sh -c 'make check'");
    /// assert!(run.args().eq(["sh", "-c", "make check"]));
    /// ```
    #[must_use]
    pub fn run_line(&self, line: &str) -> Run {
        Run::new(self, crate::shlex(line).into_iter().collect())
    }

    /// Changes the tree without running a process.
    ///
    /// ```
    /// use ashlar_llb as llb;
    ///
    /// let site = llb::image("nginx").file(
    ///     llb::mkdir("/srv/www").parents().copy(llb::local("site"), "/", "/srv/www/").contents_only(),
    /// );
    /// # let _ = site;
    /// ```
    #[must_use]
    pub fn file(&self, actions: impl Into<FileActions>) -> Self {
        let output = actions.into().into_output(self);
        self.with_output(Some(output))
    }

    /// Builds the definition that the file `filename` of this tree holds
    /// (`buildkit.llb.definition` if it is empty).
    ///
    /// ```
    /// use ashlar_llb as llb;
    ///
    /// let frontend = llb::image("frontend").run(["generate"]).mount("/out", llb::scratch());
    /// let built = frontend.output("/out").build("graph");
    /// # let _ = built;
    /// ```
    #[must_use]
    pub fn build(&self, filename: impl Into<GuestPath>) -> OpState {
        let vertex = Vertex {
            op: VertexOp::Build(Box::new(BuildVertex {
                input: self.output.clone(),
                filename: filename.into(),
            })),
            constraints: OpConstraints::needing(Cap::SourceBuildopLlbfilename),
        };
        OpState::new(self.with_output(Some(Output::first(vertex))))
    }

    /// Returns the value of an environment variable.
    ///
    /// This and the other methods that ask for settings know of a deferred state
    /// ([`State::defer`]) only what was set after it; [`State::resolve`] finds out the rest.
    #[must_use]
    pub fn env_value(&self, key: &str) -> Option<&str> {
        self.values.env_value(key)
    }

    /// Returns the environment in the order in which steps get it.
    pub fn env_values(&self) -> impl Iterator<Item = (&str, &str)> {
        let env = self.values.env.iter();
        env.map(|variable| (variable.key(), variable.value()))
    }

    /// Returns the working directory.
    #[must_use]
    pub fn working_dir(&self) -> &str {
        self.values.dir.as_str()
    }

    /// Returns the platform that was set or inherited, normalised.
    #[must_use]
    pub fn own_platform(&self) -> Option<&Platform> {
        self.values.platform.as_deref()
    }

    /// Returns the user, empty if none was set.
    #[must_use]
    pub fn user_value(&self) -> &str {
        &self.values.user
    }

    /// Returns the host name, empty if none was set.
    #[must_use]
    pub fn hostname_value(&self) -> &str {
        &self.values.hostname
    }

    /// Returns the network of the steps that follow.
    #[must_use]
    pub fn network_value(&self) -> Network {
        self.values.network
    }

    /// Returns how far the steps that follow are confined.
    #[must_use]
    pub fn security_value(&self) -> Security {
        self.values.security
    }

    /// Tells whether this is the empty tree. A deferred state is not, whatever it turns out to
    /// be.
    #[must_use]
    pub fn is_scratch(&self) -> bool {
        self.output.is_none()
    }

    /// Writes the graph that leads to this state. Scratch is an empty definition.
    ///
    /// # Errors
    /// The first step, in the order of the definition, that cannot be written.
    pub fn marshal(&self, constraints: &Constraints) -> Result<Definition, MarshalError> {
        marshal::definition(self.output.as_ref(), constraints)
    }
}

impl From<&Self> for State {
    fn from(state: &Self) -> Self {
        state.clone()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("output", &self.output)
            .field("values", &self.values)
            .finish()
    }
}

#[cfg(test)]
mod tests;
