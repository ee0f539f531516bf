//! What a process gets with a device, as a specification says it.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::executor::{HookStage, NodeKind};

/// What a process gets with a device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(in crate::ops) struct ContainerEdits {
    pub(in crate::ops) env: Vec<String>,
    pub(in crate::ops) device_nodes: Vec<DeviceNode>,
    pub(in crate::ops) mounts: Vec<Mount>,
    pub(in crate::ops) additional_gids: Vec<u32>,
    pub(in crate::ops) hooks: Vec<Hook>,
    net_devices: Vec<NetDevice>,
    intel_rdt: Option<IntelRdt>,
}

/// A device node. Permissions are those of the device cgroup, which there is none of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(in crate::ops) struct DeviceNode {
    pub(in crate::ops) path: PathBuf,
    pub(in crate::ops) host_path: Option<PathBuf>,
    r#type: String,
    pub(in crate::ops) major: u32,
    pub(in crate::ops) minor: u32,
    pub(in crate::ops) file_mode: Option<u32>,
    permissions: String,
    pub(in crate::ops) uid: Option<u32>,
    pub(in crate::ops) gid: Option<u32>,
}

impl DeviceNode {
    /// What it is said to be; `None`: what the node of the host is.
    pub(in crate::ops) fn kind(&self) -> Option<NodeKind> {
        match self.r#type.as_str() {
            "c" | "u" => Some(NodeKind::Character),
            "b" => Some(NodeKind::Block),
            "p" => Some(NodeKind::Fifo),
            _ => None,
        }
    }

    /// The node of the host that it is made after.
    pub(in crate::ops) fn host(&self) -> &Path {
        let given = self.host_path.as_ref();
        given
            .filter(|it| !it.as_os_str().is_empty())
            .unwrap_or(&self.path)
    }
}

/// A file or directory of the host, or a file system.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(in crate::ops) struct Mount {
    pub(in crate::ops) host_path: PathBuf,
    pub(in crate::ops) container_path: PathBuf,
    options: Vec<String>,
    r#type: String,
}

impl Mount {
    /// Whether it is a part of the host's tree.
    pub(in crate::ops) fn is_bind(&self) -> bool {
        matches!(self.r#type.as_str(), "" | "bind" | "rbind" | "none")
            || self.has("bind")
            || self.has("rbind")
    }

    pub(in crate::ops) fn is_tmpfs(&self) -> bool {
        !self.is_bind() && self.r#type == "tmpfs"
    }

    pub(in crate::ops) fn has(&self, option: &str) -> bool {
        self.options.iter().any(|it| it == option)
    }

    /// How many bytes a tmpfs may hold; `None`: as many as the kernel lets it.
    pub(in crate::ops) fn size(&self) -> Option<u64> {
        let mut texts = self
            .options
            .iter()
            .filter_map(|it| it.strip_prefix("size="));
        let text = texts.next_back()?;
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" => 0,
            "k" | "K" => 10,
            "m" | "M" => 20,
            "g" | "G" => 30,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(1 << unit)
    }
}

/// A program of the host that has a say in how a container is made.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(in crate::ops) struct Hook {
    pub(in crate::ops) hook_name: String,
    pub(in crate::ops) path: PathBuf,
    pub(in crate::ops) args: Vec<String>,
    pub(in crate::ops) env: Vec<String>,
    /// Seconds.
    pub(in crate::ops) timeout: Option<u32>,
}

/// A network interface of the host; never moved, but noticed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct NetDevice {
    host_interface_name: String,
    name: String,
}

/// A class of the processor's caches; never used, but noticed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct IntelRdt {
    #[serde(rename = "closID")]
    clos_id: String,
    l3_cache_schema: String,
    mem_bw_schema: String,
    schemata: Option<Vec<String>>,
    enable_monitoring: bool,
}

impl ContainerEdits {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            env,
            device_nodes,
            mounts,
            additional_gids,
            hooks,
            net_devices,
            intel_rdt,
        } = self;
        env.is_empty()
            && device_nodes.is_empty()
            && mounts.is_empty()
            && additional_gids.is_empty()
            && hooks.is_empty()
            && net_devices.is_empty()
            && intel_rdt.is_none()
    }

    /// The first thing it asks for that no executor does.
    pub(in crate::ops) fn unsupported(&self) -> Option<&'static str> {
        let other = |it: &Mount| !it.is_bind() && !it.is_tmpfs();
        [
            (!self.net_devices.is_empty(), "moving network devices"),
            (self.intel_rdt.is_some(), "Intel RDT"),
            (self.mounts.iter().any(other), "mounting a file system"),
        ]
        .into_iter()
        .find_map(|(asked, what)| asked.then_some(what))
    }

    /// The first version of CDI that has all that is used.
    pub(super) fn needed_version(&self) -> &'static str {
        let rdt = self.intel_rdt.as_ref();
        let newer = rdt.is_some_and(|it| it.schemata.is_some() || it.enable_monitoring);
        if newer || !self.net_devices.is_empty() {
            "1.1.0"
        } else if rdt.is_some() || !self.additional_gids.is_empty() {
            "0.7.0"
        } else if self.device_nodes.iter().any(|it| it.host_path.is_some()) {
            "0.5.0"
        } else if self.mounts.iter().any(|it| !it.r#type.is_empty()) {
            "0.4.0"
        } else {
            "0.3.0"
        }
    }

    /// Whether it keeps the rules.
    pub(super) fn check(&self) -> Result<(), String> {
        check_env(&self.env)?;
        for node in &self.device_nodes {
            let DeviceNode {
                path,
                r#type,
                permissions,
                ..
            } = node;
            absolute(path)?;
            absolute(node.host())?;
            if node.kind().is_none() && !r#type.is_empty() {
                return Err(format!("{type:?} is no type of a device node"));
            }
            if !permissions.chars().all(|it| "rwm".contains(it)) {
                return Err(format!("{permissions:?} are no permissions"));
            }
        }
        for mount in &self.mounts {
            absolute(&mount.container_path)?;
            match mount.is_bind() {
                true => absolute(&mount.host_path)?,
                false if mount.host_path.as_os_str().is_empty() => {
                    return Err("a mount has no path of the host".to_owned());
                }
                false => {}
            }
        }
        for hook in &self.hooks {
            if HookStage::from_name(&hook.hook_name).is_none() {
                return Err(format!("{:?} is no name of a hook", hook.hook_name));
            }
            absolute(&hook.path)?;
            check_env(&hook.env)?;
        }
        let mut names: Vec<&str> = Vec::new();
        for device in &self.net_devices {
            for name in [&device.host_interface_name, &device.name] {
                if name.is_empty() {
                    return Err("a network device has no name".to_owned());
                }
            }
            names.push(&device.name);
        }
        names.sort_unstable();
        if names.windows(2).any(|two| two[0] == two[1]) {
            return Err("there are several network devices of one name".to_owned());
        }
        match &self.intel_rdt {
            Some(IntelRdt { clos_id, .. })
                if clos_id != "/"
                    && (clos_id.len() >= 4096
                        || clos_id == "."
                        || clos_id == ".."
                        || clos_id.contains(['/', '\n'])) =>
            {
                Err(format!("{clos_id:?} is no class of service"))
            }
            _ => Ok(()),
        }
    }
}

fn check_env(env: &[String]) -> Result<(), String> {
    match env.iter().find(|it| it.find('=').is_none_or(|at| at == 0)) {
        Some(entry) => Err(format!("{entry:?} is no variable with a value")),
        None => Ok(()),
    }
}

fn absolute(path: &Path) -> Result<(), String> {
    match path.is_absolute() {
        true => Ok(()),
        false => Err(format!("{:?} is not absolute", path.display().to_string())),
    }
}
