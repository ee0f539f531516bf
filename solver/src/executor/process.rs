//! What a process is given.

use std::fmt;
use std::path::PathBuf;

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
