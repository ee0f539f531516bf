//! The description of a process to start.
//!
//! Owns: plain data with BuildKit's defaults. It is checked by [`Spawner::spawn`], which answers a
//! value that cannot be started with [`SandboxError::InvalidSpec`].
//!
//! [`Spawner::spawn`]: crate::Spawner::spawn
//! [`SandboxError::InvalidSpec`]: crate::SandboxError::InvalidSpec

use crate::{CapabilitySet, Contents, Mount, Root, SeccompProfile};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// Paths that are hidden from the process, as containerd's default specification has them.
const MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
    "/proc/scsi",
];

/// Paths that are made read-only, as containerd's default specification has them.
const READONLY_PATHS: &[&str] = &[
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where [`Spec::inner`] is made ready.
pub const INNER_ROOT: &str = "/dev/inner";

/// Everything the sandbox needs to know about one process.
///
/// [`Spec::new`] gives BuildKit's sandbox: containerd's default capabilities, seccomp profile,
/// masked and read-only paths, every namespace fresh except the user namespace, and privileges
/// that set-user-id programs may still gain.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Spec {
    /// The root file system.
    pub root: Root,
    /// Mounts below the root, made in this order.
    pub mounts: Vec<Mount>,
    /// Program and arguments. A program name without `/` is looked up in the `PATH` of `env`,
    /// inside the root, as the process's user.
    pub args: Vec<OsString>,
    /// Environment as `KEY=VALUE`, passed on unchanged. Without a `PATH` in it, the program is
    /// looked up in `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`.
    pub env: Vec<OsString>,
    /// Variables whose value is secret, by name; they come after `env`. The values are kept out of
    /// debug output and of errors, and zeroed when the process has started. A name that is empty
    /// or holds `=`, and a value that holds a zero byte, are refused.
    pub secret_env: Vec<(OsString, Contents)>,
    /// Absolute working directory inside the root, created with mode 0755 and owned by the user
    /// if it is missing. One that leads through a link of `/proc` is refused.
    pub cwd: PathBuf,
    /// User id inside the sandbox.
    pub uid: u32,
    /// Group id inside the sandbox.
    pub gid: u32,
    /// Supplementary groups. Must be empty in a user namespace.
    pub additional_gids: Vec<u32>,
    /// Host name, at most 64 bytes; used only with a UTS namespace of its own.
    pub hostname: OsString,
    /// Capabilities: the bounding set, and for uid 0 also the permitted and effective sets.
    /// Capabilities that the host process lacks are left out.
    pub capabilities: CapabilitySet,
    /// Also puts `capabilities` into the inheritable and ambient sets, so that a user other than 0
    /// has them. BuildKit's insecure mode does.
    pub ambient_capabilities: bool,
    /// System call filter; `None`: none.
    pub seccomp: Option<SeccompProfile>,
    /// Keeps set-user-id programs and file capabilities from giving privileges. BuildKit leaves
    /// it off.
    pub no_new_privileges: bool,
    /// Resource limits; limits that are not named are inherited from the host process.
    pub rlimits: Vec<Rlimit>,
    /// Namespaces beside the mount and PID namespaces, which are always fresh.
    pub namespaces: Namespaces,
    /// Files and directories replaced by an empty one. Missing ones are skipped.
    pub masked_paths: Vec<PathBuf>,
    /// Files and directories made read-only in place. Missing ones are skipped.
    pub readonly_paths: Vec<PathBuf>,
    /// Leaves `/sys` and `/sys/fs/cgroup` writable. BuildKit's insecure mode does.
    pub writable_sys: bool,
    /// Lets device nodes work on every mount, as BuildKit's insecure mode does. With
    /// `CAP_MKNOD` and real root this gives the process every disk of the host. When off, a node
    /// can still be made, but not opened.
    pub host_devices: bool,
    /// File mode creation mask of the process.
    pub umask: u32,
    /// A process that the program, a container runtime, starts by itself. Its root, read-only if it
    /// has to be, with all its mounts but `/proc`, and its working directory, are ready at [`INNER_ROOT`] before the
    /// program begins; [`Child::stubs`](crate::Child::stubs) are those of this root. Of its other
    /// fields nothing is done here: the runtime has to be told. It has the namespaces of the outer
    /// process, and mounts of its own cannot have devices that the outer one has not.
    pub inner: Option<Box<Self>>,
    /// Gives the process a controlling terminal of this size, made in the `/dev/pts` of its own
    /// and owned by its user, as its standard streams, in place of those of [`Stdio`].
    /// [`Child::terminal`](crate::Child::terminal) is the other side.
    pub terminal: Option<WindowSize>,
    /// Control groups that the process is in before it does anything. Its own view of the
    /// hierarchies begins there.
    pub control_groups: ControlGroups,
    /// What connects a network namespace of its own with the outside; only with
    /// [`Network::None`].
    pub wire: Option<Wire>,
}

impl Spec {
    /// A process with BuildKit's sandbox defaults, working directory `/` and an environment that
    /// is empty.
    pub fn new<A: Into<OsString>>(root: Root, args: impl IntoIterator<Item = A>) -> Self {
        let capabilities = CapabilitySet::containerd_default();
        Self {
            root,
            mounts: Vec::new(),
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            secret_env: Vec::new(),
            cwd: PathBuf::from("/"),
            uid: 0,
            gid: 0,
            additional_gids: Vec::new(),
            hostname: OsString::from("buildkitsandbox"),
            capabilities,
            ambient_capabilities: false,
            seccomp: Some(SeccompProfile::containerd_default(capabilities)),
            no_new_privileges: false,
            rlimits: Vec::new(),
            namespaces: Namespaces::default(),
            masked_paths: MASKED_PATHS.iter().map(PathBuf::from).collect(),
            readonly_paths: READONLY_PATHS.iter().map(PathBuf::from).collect(),
            writable_sys: false,
            host_devices: false,
            umask: 0o022,
            inner: None,
            terminal: None,
            control_groups: ControlGroups::default(),
            wire: None,
        }
    }

    /// Tells whether the values can be used at all, as [`Spawner::spawn`] does.
    ///
    /// # Errors
    /// [`SandboxError::InvalidSpec`] names the field.
    ///
    /// [`Spawner::spawn`]: crate::Spawner::spawn
    /// [`SandboxError::InvalidSpec`]: crate::SandboxError::InvalidSpec
    pub fn check(&self) -> Result<(), crate::SandboxError> {
        crate::plan::check(self)
    }
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

impl WindowSize {
    /// A size.
    #[must_use]
    pub const fn new(rows: u16, columns: u16) -> Self {
        Self { rows, columns }
    }
}

/// Control groups for one process. The descriptors are those of groups that the caller made and
/// removes.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ControlGroups {
    /// The directory of a group of the unified hierarchy: the process is born in it.
    pub unified: Option<Arc<OwnedFd>>,
    /// `cgroup.procs` of groups of other hierarchies, open for writing: the process joins them
    /// first of all.
    pub procs: Vec<Arc<OwnedFd>>,
}

impl ControlGroups {
    pub(crate) fn is_empty(&self) -> bool {
        self.unified.is_none() && self.procs.is_empty()
    }
}

/// The end of a wire into the network namespace of a process.
///
/// The process sends descriptors through `socket` as soon as its namespace is there: of the
/// network namespace, then, if it has one, of its user namespace, then of the device, if one was
/// asked for. With `wait` it then waits for one byte; the end of the stream makes the start fail.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Wire {
    /// A connected Unix stream socket; the caller keeps the other end.
    pub socket: Arc<OwnedFd>,
    /// A device that the process makes in its namespace.
    pub tunnel: Option<Tunnel>,
    /// Waits until the other end is ready.
    pub wait: bool,
}

impl Wire {
    /// A wire without a device, whose other end makes the process wait.
    #[must_use]
    pub fn new(socket: impl Into<OwnedFd>) -> Self {
        Self {
            socket: Arc::new(socket.into()),
            tunnel: None,
            wait: true,
        }
    }

    /// A wire whose other end reads and writes the packets of a device.
    #[must_use]
    pub fn with_tunnel(socket: impl Into<OwnedFd>, tunnel: Tunnel) -> Self {
        Self {
            socket: Arc::new(socket.into()),
            tunnel: Some(tunnel),
            wait: false,
        }
    }
}

/// A layer 3 device (`tun`) with an address and a default route through it. Needs `/dev/net/tun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tunnel {
    /// Its address.
    pub address: Ipv4Addr,
    /// The mask of its network.
    pub mask: Ipv4Addr,
    /// Bytes of the largest packet.
    pub mtu: u16,
}

impl Tunnel {
    /// A device with this address.
    #[must_use]
    pub const fn new(address: Ipv4Addr, mask: Ipv4Addr, mtu: u16) -> Self {
        Self { address, mask, mtu }
    }
}

/// Which namespaces are fresh. Mount and PID namespaces always are: without them neither mounts
/// nor processes could be kept from leaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Namespaces {
    /// A user namespace with this map; `None`: the host's. Needed when the host process is not
    /// root.
    pub user: Option<IdMap>,
    /// Own System V IPC and message queues. Without it `/dev/mqueue` is not mounted.
    pub ipc: bool,
    /// Own host name.
    pub uts: bool,
    /// Own view of the cgroup hierarchy.
    pub cgroup: bool,
    /// Network.
    pub network: Network,
}

impl Default for Namespaces {
    /// Everything fresh but the user namespace; no network.
    fn default() -> Self {
        Self {
            user: None,
            ipc: true,
            uts: true,
            cgroup: true,
            network: Network::None,
        }
    }
}

/// Maps one user and one group: the ones the host process runs as appear under these ids.
///
/// Every other id shows as 65534 and cannot be taken on; `setgroups` is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdMap {
    /// The host process's effective user id, seen from inside.
    pub uid: u32,
    /// The host process's effective group id, seen from inside.
    pub gid: u32,
}

impl IdMap {
    /// The host process's user and group appear as `uid` and `gid`.
    #[must_use]
    pub const fn new(uid: u32, gid: u32) -> Self {
        Self { uid, gid }
    }

    /// The host process's user appears as root.
    #[must_use]
    pub const fn root() -> Self {
        Self { uid: 0, gid: 0 }
    }
}

/// The network of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Network {
    /// An empty network namespace with the loopback interface up.
    #[default]
    None,
    /// The host's network.
    Host,
}

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rlimit {
    /// What is limited.
    pub resource: Resource,
    /// The limit in force; `u64::MAX`: none.
    pub soft: u64,
    /// The highest value the process may set itself; `u64::MAX`: none.
    pub hard: u64,
}

impl Rlimit {
    /// A limit for `resource`.
    #[must_use]
    pub const fn new(resource: Resource, soft: u64, hard: u64) -> Self {
        Self {
            resource,
            soft,
            hard,
        }
    }
}

/// What an [`Rlimit`] limits; see setrlimit(2). [`Resource::from_name`] takes the lower-case names
/// of `docker run --ulimit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the variants are the names of setrlimit(2)")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    const NAMES: [(&'static str, Self); 16] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    /// The resource called `name` (`nofile`, `nproc`, ...), whatever the case; `None` if there is
    /// no such resource.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|&(_, r)| r)
    }

    /// The name that [`Resource::from_name`] takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|&&(_, known)| known == self);
        found.map_or("", |&(name, _)| name)
    }

    pub(crate) fn number(self) -> libc::c_long {
        libc::c_long::from(match self {
            Self::As => libc::RLIMIT_AS,
            Self::Core => libc::RLIMIT_CORE,
            Self::Cpu => libc::RLIMIT_CPU,
            Self::Data => libc::RLIMIT_DATA,
            Self::Fsize => libc::RLIMIT_FSIZE,
            Self::Locks => libc::RLIMIT_LOCKS,
            Self::Memlock => libc::RLIMIT_MEMLOCK,
            Self::Msgqueue => libc::RLIMIT_MSGQUEUE,
            Self::Nice => libc::RLIMIT_NICE,
            Self::Nofile => libc::RLIMIT_NOFILE,
            Self::Nproc => libc::RLIMIT_NPROC,
            Self::Rss => libc::RLIMIT_RSS,
            Self::Rtprio => libc::RLIMIT_RTPRIO,
            Self::Rttime => libc::RLIMIT_RTTIME,
            Self::Sigpending => libc::RLIMIT_SIGPENDING,
            Self::Stack => libc::RLIMIT_STACK,
        })
    }
}

/// The standard streams of a process.
///
/// The sandbox closes its copies as soon as the process runs, so that the other end of a pipe sees
/// the end of the stream when the last process of the sandbox is gone.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Stdio {
    /// Standard input; `None`: `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Standard output; `None`: `/dev/null`.
    pub stdout: Option<OwnedFd>,
    /// Standard error; `None`: `/dev/null`.
    pub stderr: Option<OwnedFd>,
    /// Becomes descriptor 3; `None`: there is none. For programs that are told about it.
    pub messages: Option<OwnedFd>,
}

impl Stdio {
    /// Standard input.
    #[must_use]
    pub fn stdin(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdin = Some(fd.into());
        self
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(fd.into());
        self
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(fd.into());
        self
    }

    /// Descriptor 3.
    #[must_use]
    pub fn messages(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.messages = Some(fd.into());
        self
    }
}
