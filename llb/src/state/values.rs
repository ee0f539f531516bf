//! The settings a state carries to the steps that follow.
//!
//! Owns what they are, their defaults and how they change. Invariants: the working directory is
//! never empty; settings made on a deferred state are kept in order, to be made again on what it
//! turns out to be. How a step writes them is for [`exec`](crate::exec).

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use smol_str::{SmolStr, format_smolstr};

use crate::vertex::{Link, Vertex};
use crate::{GuestPath, Platform, path, pb};

/// Which network a step sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Network {
    /// What the engine provides to all steps.
    #[default]
    Sandbox,
    /// The host's network. Engines ask for an entitlement.
    Host,
    /// Nothing but a loopback interface.
    None,
}

/// How far a step is confined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Security {
    /// The engine's usual confinement.
    #[default]
    Sandbox,
    /// None. Engines ask for an entitlement.
    Insecure,
}

/// A limit of a process, by the name that `setrlimit` has for it without `RLIMIT_`.
///
/// ```
/// use ashlar_llb::UlimitName;
///
/// assert_eq!(UlimitName::NOFILE.as_str(), "nofile");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UlimitName(std::borrow::Cow<'static, str>);

impl UlimitName {
    /// Size of a core dump.
    pub const CORE: Self = Self::known("core");
    /// Processor time in seconds.
    pub const CPU: Self = Self::known("cpu");
    /// Size of the data segment.
    pub const DATA: Self = Self::known("data");
    /// Size of files.
    pub const FSIZE: Self = Self::known("fsize");
    /// File locks.
    pub const LOCKS: Self = Self::known("locks");
    /// Memory that is kept from being swapped.
    pub const MEMLOCK: Self = Self::known("memlock");
    /// Bytes in message queues.
    pub const MSGQUEUE: Self = Self::known("msgqueue");
    /// Ceiling of the nice value.
    pub const NICE: Self = Self::known("nice");
    /// Open files.
    pub const NOFILE: Self = Self::known("nofile");
    /// Processes of the user.
    pub const NPROC: Self = Self::known("nproc");
    /// Resident memory.
    pub const RSS: Self = Self::known("rss");
    /// Ceiling of the real-time priority.
    pub const RTPRIO: Self = Self::known("rtprio");
    /// Microseconds of real-time work without a blocking call.
    pub const RTTIME: Self = Self::known("rttime");
    /// Pending signals.
    pub const SIGPENDING: Self = Self::known("sigpending");
    /// Size of the stack.
    pub const STACK: Self = Self::known("stack");

    const fn known(name: &'static str) -> Self {
        Self(std::borrow::Cow::Borrowed(name))
    }

    /// A limit that has no constant here. Engines refuse those they do not know.
    #[must_use]
    pub fn other(name: impl Into<String>) -> Self {
        Self(std::borrow::Cow::Owned(name.into()))
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn limit(self, soft: i64, hard: i64) -> pb::Ulimit {
        let name = self.0.into_owned();
        pb::Ulimit { name, soft, hard }
    }
}

/// The parts of an image's configuration that a state takes over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "plain data the caller fills in")]
pub struct ImageConfig {
    /// Environment, each `KEY=value`. Entries without a key are skipped.
    pub env: Vec<String>,
    /// Working directory; a relative or empty one is joined to the state's.
    pub working_dir: String,
    /// Platform of the image, if the configuration names both system and architecture.
    pub platform: Option<Platform>,
}

/// Address of a host name whose address is missing, as BuildKit's Go client writes it.
const NO_ADDRESS: &str = "<nil>";

/// A variable, in the form in which steps get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    /// `KEY=value`.
    text: SmolStr,
    key: usize,
}

impl Variable {
    fn new(key: &str, value: &str) -> Self {
        Self {
            text: format_smolstr!("{key}={value}"),
            key: key.len(),
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.text[..self.key]
    }

    pub(crate) fn value(&self) -> &str {
        &self.text[self.key + 1..]
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// One change of the settings.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    Env(Variable),
    Dir(GuestPath),
    User(SmolStr),
    Hostname(SmolStr),
    CgroupParent(SmolStr),
    Host(String, Option<IpAddr>),
    Ulimit(pb::Ulimit),
    Network(Network),
    Security(Security),
    /// Is normalised when it is set.
    Platform(Platform),
    ImageConfig(Box<ImageConfig>),
}

impl Setting {
    pub(crate) fn env(key: impl AsRef<str>, value: impl AsRef<str>) -> Self {
        Self::Env(Variable::new(key.as_ref(), value.as_ref()))
    }
}

/// Settings of a deferred state: those it turns out to have, with later changes.
#[derive(Clone, Debug)]
pub(crate) struct Later {
    /// The deferred vertex.
    pub(crate) origin: Arc<Vertex>,
    /// What was set since, in order.
    pub(crate) changes: Vec<Setting>,
}

/// Settings of the steps that follow a state.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// If the settings are not known yet: where they come from. The other fields then have
    /// what was set since.
    pub(crate) later: Option<Box<Later>>,
    pub(crate) env: Vec<Variable>,
    pub(crate) dir: GuestPath,
    pub(crate) user: SmolStr,
    pub(crate) hostname: SmolStr,
    pub(crate) cgroup_parent: SmolStr,
    pub(crate) extra_hosts: Vec<pb::HostIp>,
    pub(crate) ulimits: Vec<pb::Ulimit>,
    pub(crate) network: Network,
    pub(crate) security: Security,
    /// Normalised.
    pub(crate) platform: Option<Arc<Platform>>,
}

/// What states start with.
static FRESH: Values = Values {
    later: None,
    env: Vec::new(),
    dir: GuestPath::ROOT,
    user: SmolStr::new_static(""),
    hostname: SmolStr::new_static(""),
    cgroup_parent: SmolStr::new_static(""),
    extra_hosts: Vec::new(),
    ulimits: Vec::new(),
    network: Network::Sandbox,
    security: Security::Sandbox,
    platform: None,
};

impl Values {
    pub(crate) fn env_value(&self, key: &str) -> Option<&str> {
        let found = self.env.iter().find(|known| known.key() == key);
        found.map(Variable::value)
    }

    fn set(&mut self, setting: Setting) {
        if let Some(later) = &mut self.later {
            later.changes.push(setting.clone());
        }
        match setting {
            Setting::Env(variable) => self.set_env(variable),
            Setting::Dir(path) => self.set_dir(path),
            Setting::User(user) => self.user = user,
            Setting::Hostname(hostname) => self.hostname = hostname,
            Setting::CgroupParent(parent) => self.cgroup_parent = parent,
            Setting::Host(host, ip) => self.add_host(host, ip),
            Setting::Ulimit(limit) => self.ulimits.push(limit),
            Setting::Network(network) => self.network = network,
            Setting::Security(security) => self.security = security,
            Setting::Platform(platform) => self.platform = Some(platform.normalised().into()),
            Setting::ImageConfig(config) => self.apply_image_config(*config),
        }
    }

    fn set_env(&mut self, variable: Variable) {
        self.env.retain(|known| known.key() != variable.key());
        self.env.push(variable);
    }

    fn set_dir(&mut self, path: GuestPath) {
        self.dir = if path.as_str().starts_with('/') {
            path
        } else {
            path::join(&[self.dir.as_str(), path.as_str()]).into()
        };
    }

    fn add_host(&mut self, host: String, ip: Option<IpAddr>) {
        // IPv4 addresses in IPv6 clothes are written as IPv4, as Go does.
        let ip = ip.map_or_else(|| NO_ADDRESS.to_owned(), |ip| ip.to_canonical().to_string());
        self.extra_hosts.push(pb::HostIp { host, ip });
    }

    fn apply_image_config(&mut self, config: ImageConfig) {
        for variable in config.env {
            let (key, value) = variable.split_once('=').unwrap_or((&variable, ""));
            if !key.is_empty() {
                self.set_env(Variable::new(key, value));
            }
        }
        self.set_dir(config.working_dir.into());
        if let Some(platform) = config.platform {
            self.platform = Some(platform.normalised().into());
        }
    }
}

/// Settings, shared by all states that have the same. Nothing for what states start with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings(Option<Arc<Values>>);

impl Settings {
    /// The settings that a deferred vertex turns out to have.
    pub(crate) fn of_deferred(origin: Arc<Vertex>) -> Self {
        let later = Later {
            origin,
            changes: Vec::new(),
        };
        Self(Some(Arc::new(Values {
            later: Some(Box::new(later)),
            ..FRESH.clone()
        })))
    }

    /// Changes these settings, and no others that were the same.
    pub(crate) fn set(&mut self, setting: Setting) {
        let values = self.0.get_or_insert_with(|| Arc::new(FRESH.clone()));
        Arc::make_mut(values).set(setting);
    }

    /// Tells whether both are one.
    #[cfg(test)]
    pub(crate) fn shares(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    /// Moves the deferred vertex these settings keep alive to `links`, if only they do.
    pub(crate) fn unlink(&mut self, links: &mut Vec<Link>) {
        let values = self.0.as_mut().and_then(Arc::get_mut);
        if let Some(later) = values.and_then(|values| values.later.take()) {
            links.push(Link::Vertex(later.origin));
        }
    }
}

impl Deref for Settings {
    type Target = Values;

    fn deref(&self) -> &Values {
        self.0.as_deref().unwrap_or(&FRESH)
    }
}
