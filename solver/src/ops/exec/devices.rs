//! CDI devices of a process: which it may have, and what it gets with them.
//!
//! Owns the entitlement check, which is BuildKit's: a device needs the entitlement `device`, for
//! all devices or by its name, unless its specification says that everybody may have it.

use ashlar_llb::pb;

use super::ExecError;
use crate::executor::{Mount, MountSource, Process};
use crate::ops::cdi::Registry;
use crate::ops::{DeviceGrant, Engine};

/// Replaces the devices of an op by those it may have, with their full names. Blocks, if the op
/// asks for any.
pub(super) fn admit(op: &mut pb::ExecOp, engine: &Engine) -> Result<(), ExecError> {
    if op.cdi_devices.is_empty() || engine.entitlements.devices == DeviceGrant::All {
        return Ok(());
    }
    let registry = Registry::read(&engine.cdi_directories);
    let mut admitted = Vec::new();
    let mut granted = Vec::new();
    if let DeviceGrant::Named(names) = &engine.entitlements.devices {
        for (name, stands_for) in names {
            if stands_for.is_none() {
                granted.extend(registry.find(name));
            }
        }
    }
    for device in &op.cdi_devices {
        if let DeviceGrant::Named(names) = &engine.entitlements.devices
            && let Some(Some(real)) = names.get(&device.name)
        {
            let optional = device.optional;
            let name = real.clone();
            admitted.push(pb::CdiDevice { name, optional });
            continue;
        }
        for name in find(&registry, device)? {
            if !granted.contains(&name) && !registry.is_free(&name) {
                return Err(ExecError::DeviceNotAllowed { name });
            }
            if admitted.iter().all(|it| it.name != name) {
                let optional = false;
                admitted.push(pb::CdiDevice { name, optional });
            }
        }
    }
    op.cdi_devices = admitted;
    Ok(())
}

fn find(registry: &Registry, device: &pb::CdiDevice) -> Result<Vec<String>, ExecError> {
    let found = registry.find(&device.name);
    if found.is_empty() && !device.optional {
        return Err(ExecError::DeviceNotFound {
            name: device.name.clone(),
            problems: registry.problems.clone(),
        });
    }
    Ok(found)
}

/// What a process gets with its devices.
#[derive(Debug, Default)]
pub(super) struct Edits(Vec<crate::ops::cdi::ContainerEdits>);

/// Looks up what the devices of an admitted op need. Blocks, if it has any.
pub(super) fn look_up(op: &pb::ExecOp, engine: &Engine) -> Result<Edits, ExecError> {
    if op.cdi_devices.is_empty() {
        return Ok(Edits::default());
    }
    let registry = Registry::read(&engine.cdi_directories);
    let mut names: Vec<String> = Vec::new();
    for device in &op.cdi_devices {
        for name in find(&registry, device)? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let edits = registry.edits(&names);
    match edits.iter().find_map(|edits| edits.unsupported()) {
        Some(what) => Err(ExecError::NotSupported {
            what: format!("{what} of the devices {}", names.join(", ")),
        }),
        None => Ok(Edits(edits)),
    }
}

impl Edits {
    /// Gives a process what comes with its devices.
    pub(super) fn apply(self, process: &mut Process) {
        for edits in self.0 {
            for entry in edits.env {
                let same = |it: &String| it.split('=').next() == entry.split('=').next();
                process.env.retain(|it| !same(it));
                process.env.push(entry);
            }
            let nodes = edits.device_nodes.into_iter().map(|node| Mount {
                source: MountSource::Device {
                    path: node.host_path.unwrap_or_else(|| node.path.clone()),
                },
                target: node.path,
                selector: None,
                readonly: false,
            });
            process.mounts.extend(nodes);
            let mounts = edits.mounts.into_iter().map(|mount| Mount {
                readonly: mount.readonly(),
                target: mount.container_path,
                source: MountSource::Bind {
                    path: mount.host_path,
                },
                selector: None,
            });
            process.mounts.extend(mounts);
            let groups = &mut process.user.groups;
            for group in edits
                .additional_gids
                .into_iter()
                .filter(|&group| group != 0)
            {
                if !groups.contains(&group) {
                    groups.push(group);
                }
            }
        }
        // Parents first, as they were.
        let mounts = &mut process.mounts;
        mounts.sort_by(|a, b| a.target.as_os_str().cmp(b.target.as_os_str()));
    }
}
