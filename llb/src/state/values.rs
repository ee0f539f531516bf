//! The settings a state carries to the steps that follow.
//!
//! Owns what they are, their defaults and how they change. Invariants: the working directory is
//! never empty; settings made on a deferred state are kept in order, to be made again on what it
//! turns out to be. How a step writes them is for [`exec`](crate::exec).

use std::net::IpAddr;
use std::sync::Arc;

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

/// One change of the settings.
#[derive(Clone, Debug)]
pub(crate) enum Setting {
    Env(String, String),
    Dir(GuestPath),
    User(String),
    Hostname(String),
    CgroupParent(String),
    Host(String, Option<IpAddr>),
    Ulimit(pb::Ulimit),
    Network(Network),
    Security(Security),
    /// Is normalised when it is set.
    Platform(Platform),
    ImageConfig(ImageConfig),
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
    pub(crate) later: Option<Later>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) dir: GuestPath,
    pub(crate) user: String,
    pub(crate) hostname: String,
    pub(crate) cgroup_parent: String,
    pub(crate) extra_hosts: Vec<pb::HostIp>,
    pub(crate) ulimits: Vec<pb::Ulimit>,
    pub(crate) network: Network,
    pub(crate) security: Security,
    /// Normalised.
    pub(crate) platform: Option<Platform>,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            later: None,
            env: Vec::new(),
            dir: "/".into(),
            user: String::new(),
            hostname: String::new(),
            cgroup_parent: String::new(),
            extra_hosts: Vec::new(),
            ulimits: Vec::new(),
            network: Network::default(),
            security: Security::default(),
            platform: None,
        }
    }
}

impl Values {
    pub(crate) fn env_value(&self, key: &str) -> Option<&str> {
        let found = self.env.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The settings that a deferred vertex turns out to have.
    pub(crate) fn of_deferred(origin: Arc<Vertex>) -> Self {
        Self {
            later: Some(Later {
                origin,
                changes: Vec::new(),
            }),
            ..Self::default()
        }
    }

    pub(crate) fn set(&mut self, setting: Setting) {
        if let Some(later) = &mut self.later {
            later.changes.push(setting.clone());
        }
        match setting {
            Setting::Env(key, value) => self.set_env(key, value),
            Setting::Dir(path) => self.set_dir(path.as_str()),
            Setting::User(user) => self.user = user,
            Setting::Hostname(hostname) => self.hostname = hostname,
            Setting::CgroupParent(parent) => self.cgroup_parent = parent,
            Setting::Host(host, ip) => self.add_host(host, ip),
            Setting::Ulimit(limit) => self.ulimits.push(limit),
            Setting::Network(network) => self.network = network,
            Setting::Security(security) => self.security = security,
            Setting::Platform(platform) => self.platform = Some(platform.normalised()),
            Setting::ImageConfig(config) => self.apply_image_config(config),
        }
    }

    fn set_env(&mut self, key: String, value: String) {
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value));
    }

    fn set_dir(&mut self, path: &str) {
        self.dir = if path.starts_with('/') {
            path.into()
        } else {
            path::join(&[self.dir.as_str(), path]).into()
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
                self.set_env(key.to_owned(), value.to_owned());
            }
        }
        self.set_dir(&config.working_dir);
        if let Some(platform) = config.platform {
            self.platform = Some(platform.normalised());
        }
    }

    /// Moves the deferred vertex these settings keep alive to `links`, if only they do.
    pub(crate) fn unlink(values: &mut Arc<Self>, links: &mut Vec<Link>) {
        if let Some(later) = Arc::get_mut(values).and_then(|values| values.later.take()) {
            links.push(Link::Vertex(later.origin));
        }
    }
}
