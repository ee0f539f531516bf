//! The settings a state carries to the steps that follow.
//!
//! Owns what they are, their defaults and how they change. Invariant: the working directory is
//! never empty. How a step writes them is for [`exec`](crate::exec).

use std::net::IpAddr;

use crate::{Platform, path, pb};

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

/// Settings of the steps that follow a state.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) env: Vec<(String, String)>,
    pub(crate) dir: String,
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
            env: Vec::new(),
            dir: "/".to_owned(),
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

    pub(crate) fn set_env(&mut self, key: String, value: String) {
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value));
    }

    pub(crate) fn set_dir(&mut self, path: &str) {
        self.dir = if path.starts_with('/') {
            path.to_owned()
        } else {
            path::join(&[&self.dir, path])
        };
    }

    pub(crate) fn add_host(&mut self, host: String, ip: IpAddr) {
        // IPv4 addresses in IPv6 clothes are written as IPv4, as Go does.
        let ip = ip.to_canonical().to_string();
        self.extra_hosts.push(pb::HostIp { host, ip });
    }

    pub(crate) fn add_ulimit(&mut self, name: String, soft: i64, hard: i64) {
        self.ulimits.push(pb::Ulimit { name, soft, hard });
    }

    pub(crate) fn apply_image_config(&mut self, config: &ImageConfig) {
        for variable in &config.env {
            let (key, value) = variable.split_once('=').unwrap_or((variable, ""));
            if !key.is_empty() {
                self.set_env(key.to_owned(), value.to_owned());
            }
        }
        self.set_dir(&config.working_dir);
        if let Some(platform) = &config.platform {
            self.platform = Some(platform.clone().normalised());
        }
    }
}
