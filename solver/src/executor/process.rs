//! What a process is given.

use std::fmt;
use std::path::PathBuf;

pub use ashlar_sandbox::{Node, NodeKind};

use super::{Resources, User};
use crate::session::SecretValue;

/// A process to run.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct Process {
    /// Its root file system.
    pub root: Root,
    /// What is mounted below the root, parents first.
    pub mounts: Vec<Mount>,
    /// Program and arguments; the program is looked up in `PATH` inside the root.
    pub args: Vec<String>,
    /// Environment as `KEY=value`.
    pub env: Vec<String>,
    /// Variables whose value is secret, by name, after those of `env`, which has none of these
    /// names. No value holds a zero byte. An executor must not write them to a disk, nor to the
    /// arguments of a helper that others on the host can see.
    pub secret_env: Vec<(String, SecretValue)>,
    /// Working directory, absolute; made if it is missing.
    pub cwd: PathBuf,
    /// Who it runs as.
    pub user: User,
    /// Host name.
    pub hostname: String,
    /// Lines added to `/etc/hosts`: address and name.
    pub extra_hosts: Vec<(String, String)>,
    /// Its network.
    pub network: Network,
    /// Whether it gets all capabilities and devices.
    pub insecure: bool,
    /// Its limits.
    pub limits: Vec<ResourceLimit>,
    /// The control group that its own is made below; empty: none in particular.
    pub cgroup_parent: String,
    /// Limits on it and all it starts, together.
    pub resources: Resources,
    /// Programs of the host that are run on the way. An executor that does not run them must refuse
    /// the process.
    pub hooks: Vec<Hook>,
}

/// The root file system of a process.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct Root {
    /// What it is made of.
    pub source: MountSource,
    /// Whether the process may not write to it.
    pub readonly: bool,
}

/// Something mounted below the root.
#[derive(Debug, Clone)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct Mount {
    /// Where, absolute; made if it is missing.
    pub target: PathBuf,
    /// What.
    pub source: MountSource,
    /// The part of the source that is mounted, resolved inside it; `None`: all of it.
    pub selector: Option<PathBuf>,
    /// Whether the process may not write to it.
    pub readonly: bool,
    /// Whether set-user-id programs on it give no privileges.
    pub nosuid: bool,
    /// Whether programs on it cannot be executed.
    pub noexec: bool,
}

/// What a mount is made of.
#[derive(Clone)]
#[non_exhaustive]
pub enum MountSource {
    /// Layers with a writable one on top.
    Overlay {
        /// The directories below, topmost first.
        lower: Vec<PathBuf>,
        /// What is changed goes here.
        upper: PathBuf,
        /// An empty directory beside `upper`.
        work: PathBuf,
    },
    /// Layers alone.
    Layers {
        /// The directories, topmost first; at least one.
        lower: Vec<PathBuf>,
    },
    /// A directory or file of the host.
    Bind {
        /// Where it is.
        path: PathBuf,
    },
    /// A device node of the host, the one source on which devices work. An executor with a device
    /// control group lets the process use it.
    Device {
        /// The node.
        path: PathBuf,
    },
    /// A node that is made for the process; devices work on it too. Not where steps have a user
    /// namespace.
    Node(Node),
    /// Memory.
    Tmpfs {
        /// Bytes at most; `None`: the kernel's default.
        size: Option<u64>,
    },
    /// A file that exists in memory only: a secret. An executor must not write it to a disk; it
    /// is mounted `nosuid` and `nodev`, and `noexec` unless `mode` lets somebody execute it.
    File {
        /// Its content.
        contents: SecretValue,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

impl fmt::Debug for MountSource {
    /// Leaves out the content of files, which may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlay { lower, upper, work } => {
                let mut f = f.debug_struct("Overlay");
                f.field("lower", lower)
                    .field("upper", upper)
                    .field("work", work)
                    .finish()
            }
            Self::Layers { lower } => f.debug_struct("Layers").field("lower", lower).finish(),
            Self::Bind { path } => f.debug_struct("Bind").field("path", path).finish(),
            Self::Device { path } => f.debug_struct("Device").field("path", path).finish(),
            Self::Node(node) => f.debug_tuple("Node").field(node).finish(),
            Self::Tmpfs { size } => f.debug_struct("Tmpfs").field("size", size).finish(),
            Self::File {
                contents,
                mode,
                uid,
                gid,
            } => {
                let mut f = f.debug_struct("File");
                f.field("contents", contents).field("mode", mode);
                f.field("uid", uid)
                    .field("gid", gid)
                    .finish_non_exhaustive()
            }
        }
    }
}

/// A program of the host that a container runtime runs, as the OCI runtime specification says: it
/// gets the state of the container on its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct Hook {
    /// When.
    pub stage: HookStage,
    /// The program, absolute, on the host.
    pub path: PathBuf,
    /// Its arguments, its name first; none: its path.
    pub args: Vec<String>,
    /// Its environment as `KEY=value`.
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout: Option<u32>,
}

/// When a [`Hook`] is run, as the OCI runtime specification says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum HookStage {
    /// As [`HookStage::CreateRuntime`]; an older name.
    Prestart,
    /// When namespaces and mounts are there, in those of the runtime.
    CreateRuntime,
    /// Then, in the namespaces of the container, before its root becomes the root.
    CreateContainer,
    /// Before the process begins, in the container.
    StartContainer,
    /// When the process has begun.
    Poststart,
    /// When the container is gone.
    Poststop,
}

impl HookStage {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    /// Its name in the specification: `createRuntime`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// The stage of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

/// The network of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Network {
    /// That of the host.
    Host,
    /// One of its own with nothing but a loopback interface.
    None,
    /// One of its own, which a provider connects with the outside.
    Sandbox,
}

/// A limit on what a process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "made by the engine alone")]
pub struct ResourceLimit {
    /// What is limited, as ulimit names it: `nofile`.
    pub name: String,
    /// The limit in force; `u64::MAX`: none.
    pub soft: u64,
    /// How far the process may raise it; `u64::MAX`: no limit.
    pub hard: u64,
}
