//! CDI devices of a process: which it may have, and what it gets with them.
//!
//! Owns the entitlement check, which is BuildKit's: a device needs the entitlement `device`, for
//! all devices or by its name, unless its specification says that everybody may have it. And the
//! rule of what a node is: as the specification says, and for the rest as the node of the host.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use ashlar_llb::pb;

use super::ExecError;
use crate::executor::{self, Hook, HookStage, Mount, MountSource, NodeKind, Process};
use crate::ops::cdi::{self, ContainerEdits, DeviceNode, Registry};
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
pub(super) struct Edits {
    edits: Vec<(ContainerEdits, Vec<Node>)>,
    /// Whether nodes can be made.
    privileged: bool,
}

/// A node that a process gets.
#[derive(Debug)]
struct Node {
    target: PathBuf,
    /// Where the host has one, and what it is.
    host: Option<(PathBuf, Kind)>,
    /// What it is to be, but for its owner.
    wanted: Kind,
    /// `None`: the user of the process.
    uid: Option<u32>,
    /// `None`: the group of the process.
    gid: Option<u32>,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    kind: NodeKind,
    /// Of its driver, and among those of the driver.
    number: (u32, u32),
    mode: u32,
    owner: (u32, u32),
}

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
    if let Some(what) = edits.iter().find_map(ContainerEdits::unsupported) {
        let what = format!("{what} for the devices {}", names.join(", "));
        return Err(ExecError::NotSupported { what });
    }
    let privileged = engine.is_privileged();
    let with_nodes = |edits: ContainerEdits| {
        let nodes = edits.device_nodes.iter().map(|it| node(it, privileged));
        let nodes = nodes.collect::<Result<_, _>>()?;
        Ok((edits, nodes))
    };
    let edits = edits.into_iter().map(with_nodes);
    let edits = edits.collect::<Result<_, ExecError>>()?;
    Ok(Edits { edits, privileged })
}

/// Completes what is said of a node by what the one of the host is.
fn node(node: &DeviceNode, privileged: bool) -> Result<Node, ExecError> {
    let path = node.host();
    let failed = |source| ExecError::DeviceNode {
        path: path.to_owned(),
        source,
    };
    let kind = node.kind();
    // Then the host need not have it.
    let complete = kind.is_some_and(|it| node.major != 0 || it == NodeKind::Fifo);
    let found = match host_node(path) {
        Ok(found) => Some(found),
        Err(_) if complete && privileged => None,
        Err(source) => return Err(failed(source)),
    };
    if let (Some(kind), Some(found), false) = (kind, found, complete)
        && kind != found.kind
    {
        let told = format!(
            "it is a {:?} node, and its specification says {kind:?}",
            found.kind
        );
        return Err(failed(io::Error::other(told)));
    }
    let unknown = Kind {
        kind: NodeKind::Character,
        number: (node.major, node.minor),
        // As runc has it.
        mode: 0o666,
        owner: (0, 0),
    };
    let like = found.unwrap_or(unknown);
    let wanted = Kind {
        kind: kind.unwrap_or(like.kind),
        number: match kind {
            Some(NodeKind::Fifo) => (0, 0),
            _ if node.major != 0 => (node.major, node.minor),
            _ => like.number,
        },
        mode: node.file_mode.map_or(like.mode, |mode| mode & 0o7777),
        owner: (0, 0),
    };
    Ok(Node {
        target: node.path.clone(),
        host: found.map(|found| (path.to_owned(), found)),
        wanted,
        uid: node.uid,
        gid: node.gid,
    })
}

/// What a node of the host is. Links are not followed, as BuildKit does not.
fn host_node(path: &Path) -> io::Result<Kind> {
    let data = path.symlink_metadata()?;
    let (kind, number) = match data.file_type() {
        it if it.is_char_device() => (NodeKind::Character, data.rdev()),
        it if it.is_block_device() => (NodeKind::Block, data.rdev()),
        it if it.is_fifo() => (NodeKind::Fifo, 0),
        _ => return Err(io::Error::other("it is no device node")),
    };
    Ok(Kind {
        kind,
        number: (rustix::fs::major(number), rustix::fs::minor(number)),
        mode: data.mode() & 0o7777,
        owner: (data.uid(), data.gid()),
    })
}

impl Node {
    /// What is mounted for a process of that user. The node of the host is mounted if it is as it
    /// has to be, or if no other can be made.
    fn source(self, privileged: bool, (uid, gid): (u32, u32)) -> MountSource {
        let wanted = Kind {
            owner: (self.uid.unwrap_or(uid), self.gid.unwrap_or(gid)),
            ..self.wanted
        };
        match self.host {
            Some((path, found)) if found == wanted || !privileged => match found.kind {
                NodeKind::Fifo => MountSource::Bind { path },
                _ => MountSource::Device { path },
            },
            _ => MountSource::Node(executor::Node {
                kind: wanted.kind,
                major: wanted.number.0,
                minor: wanted.number.1,
                mode: wanted.mode,
                uid: wanted.owner.0,
                gid: wanted.owner.1,
            }),
        }
    }
}

impl Edits {
    /// Gives a process what comes with its devices.
    pub(super) fn apply(self, process: &mut Process) {
        let user = (process.user.uid, process.user.gid);
        for (edits, nodes) in self.edits {
            for entry in edits.env {
                let same = |it: &String| it.split('=').next() == entry.split('=').next();
                process.env.retain(|it| !same(it));
                process.env.push(entry);
            }
            let nodes = nodes.into_iter().map(|node| Mount {
                target: node.target.clone(),
                source: node.source(self.privileged, user),
                selector: None,
                readonly: false,
                nosuid: true,
                noexec: true,
            });
            let mounts = edits.mounts.into_iter().map(mount);
            // What a device brings takes the place of what the op has there.
            for mount in nodes.chain(mounts) {
                process.mounts.retain(|it| it.target != mount.target);
                process.mounts.push(mount);
            }
            let groups = &mut process.user.groups;
            for group in edits.additional_gids {
                if group != 0 && !groups.contains(&group) {
                    groups.push(group);
                }
            }
            process
                .hooks
                .extend(edits.hooks.into_iter().filter_map(hook));
        }
        // Parents first, as they were.
        let mounts = &mut process.mounts;
        mounts.sort_by(|a, b| a.target.as_os_str().cmp(b.target.as_os_str()));
    }
}

fn mount(mount: cdi::Mount) -> Mount {
    Mount {
        readonly: mount.has("ro"),
        nosuid: mount.has("nosuid"),
        noexec: mount.has("noexec"),
        source: match mount.is_bind() {
            true => MountSource::Bind {
                path: mount.host_path,
            },
            false => MountSource::Tmpfs { size: mount.size() },
        },
        target: mount.container_path,
        selector: None,
    }
}

/// Names of stages were checked when the specification was read.
fn hook(hook: cdi::Hook) -> Option<Hook> {
    Some(Hook {
        stage: HookStage::from_name(&hook.hook_name)?,
        path: hook.path,
        args: hook.args,
        env: hook.env,
        timeout: hook.timeout,
    })
}
