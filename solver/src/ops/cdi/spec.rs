//! A CDI specification as its JSON has it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    /// `vendor/class`.
    pub(super) kind: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) devices: Vec<Device>,
    pub(super) container_edits: ContainerEdits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) container_edits: ContainerEdits,
}

/// What a process gets with a device.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::ops) struct ContainerEdits {
    pub(in crate::ops) env: Vec<String>,
    pub(in crate::ops) device_nodes: Vec<DeviceNode>,
    pub(in crate::ops) mounts: Vec<Mount>,
    pub(in crate::ops) additional_gids: Vec<u32>,
    /// Programs to run on the host; never run, but noticed.
    hooks: Vec<serde::de::IgnoredAny>,
    net_devices: Vec<serde::de::IgnoredAny>,
    intel_rdt: Option<serde::de::IgnoredAny>,
}

impl ContainerEdits {
    /// The first thing it asks for that is not done.
    pub(in crate::ops) fn unsupported(&self) -> Option<&'static str> {
        [
            (!self.hooks.is_empty(), "hooks"),
            (!self.net_devices.is_empty(), "network devices"),
            (self.intel_rdt.is_some(), "Intel RDT"),
            (self.mounts.iter().any(|it| !it.is_bind()), "a file system"),
        ]
        .into_iter()
        .find_map(|(asked, what)| asked.then_some(what))
    }
}

/// A device node.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::ops) struct DeviceNode {
    pub(in crate::ops) path: PathBuf,
    pub(in crate::ops) host_path: Option<PathBuf>,
}

/// A file or directory of the host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::ops) struct Mount {
    pub(in crate::ops) host_path: PathBuf,
    pub(in crate::ops) container_path: PathBuf,
    options: Vec<String>,
    r#type: String,
}

impl Mount {
    fn is_bind(&self) -> bool {
        matches!(self.r#type.as_str(), "" | "bind" | "none")
    }

    pub(in crate::ops) fn readonly(&self) -> bool {
        self.options.iter().any(|option| option == "ro")
    }
}

impl Spec {
    /// Whether names can lead to its devices, and paths to what they need.
    pub(super) fn check(&self) -> Result<(), String> {
        let parts = self.kind.split_once('/');
        if parts.is_none_or(|(vendor, class)| vendor.is_empty() || class.is_empty()) {
            return Err(format!("{:?} is no kind of device", self.kind));
        }
        if self.devices.iter().any(|device| device.name.is_empty()) {
            return Err("a device has no name".to_owned());
        }
        let all = self.devices.iter().map(|device| &device.container_edits);
        for edits in all.chain([&self.container_edits]) {
            let nodes = edits.device_nodes.iter();
            let nodes = nodes.flat_map(|node| [Some(&node.path), node.host_path.as_ref()]);
            let mounts = edits.mounts.iter();
            let mounts = mounts.flat_map(|it| [Some(&it.host_path), Some(&it.container_path)]);
            if let Some(path) = nodes.chain(mounts).flatten().find(|it| !it.is_absolute()) {
                return Err(format!("{} is not absolute", path.display()));
            }
        }
        Ok(())
    }
}
