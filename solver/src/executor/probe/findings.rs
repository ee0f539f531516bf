//! One look at the machine.
//!
//! Each attempt starts a process whose program does not exist: whoever gets as far as not finding
//! it has made every namespace, mount and credential on the way.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use ashlar_sandbox::{IdMap, Network, Root, SandboxError, Source, Spawner, Spec, Stdio, Step};
use rustix::fs::{Mode, OFlags};

use crate::executor::cgroup;

/// The kernel's answers that are told apart.
pub(super) mod errno {
    use rustix::io::Errno;

    pub(in super::super) const EPERM: i32 = Errno::PERM.raw_os_error();
    pub(in super::super) const ENOENT: i32 = Errno::NOENT.raw_os_error();
    pub(in super::super) const EACCES: i32 = Errno::ACCESS.raw_os_error();
    pub(in super::super) const ENODEV: i32 = Errno::NODEV.raw_os_error();
    pub(in super::super) const EINVAL: i32 = Errno::INVAL.raw_os_error();
    pub(in super::super) const ENOSPC: i32 = Errno::NOSPC.raw_os_error();
    pub(in super::super) const ENOSYS: i32 = Errno::NOSYS.raw_os_error();
    pub(in super::super) const EUSERS: i32 = Errno::USERS.raw_os_error();
}

/// The step that makes the process, in the words of [`SandboxError::Clone`].
pub(super) const CLONE: &str = "create the process with its namespaces";

/// The step that maps ids, in the words of [`Step::IdMap`].
pub(super) const ID_MAP: &str = "write the id map";

/// Bytes of a small file of the kernel that are read at most.
const MAX_KERNEL_FILE: u64 = 64 << 10;

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Attempt {
    /// It works.
    Works,
    /// It was refused.
    Refused {
        /// The step that failed.
        step: String,
        /// What it was about; may be empty.
        object: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// It was not attempted, because something it needs was refused.
    Skipped,
}

impl Attempt {
    /// An attempt that was refused.
    #[must_use]
    pub fn refused(step: impl Into<String>, object: impl Into<String>, errno: i32) -> Self {
        Self::Refused {
            step: step.into(),
            object: object.into(),
            errno,
        }
    }

    /// Whether it works.
    #[must_use]
    pub fn works(&self) -> bool {
        *self == Self::Works
    }

    fn of_io(step: &str, object: &str, result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Works,
            Err(error) => Self::refused(step, object, error.raw_os_error().unwrap_or(0)),
        }
    }
}

/// What was found on a machine; plain data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Findings {
    /// Effective user id of the host process.
    pub uid: u32,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// A process with all namespaces but that of the network: ids mapped, `/proc` and `/dev`
    /// mounted, a file system written to, filter and capabilities taken on.
    pub processes: Attempt,
    /// The same on an overlay whose upper directory is written to.
    pub overlay: Attempt,
    /// The same with a network namespace and the `/sys` that belongs to it.
    pub network_namespace: Attempt,
    /// Opening `/dev/net/tun`.
    pub tunnel_device: Attempt,
    /// Making a control group.
    pub control_groups: Attempt,
    /// `kernel.apparmor_restrict_unprivileged_userns` is set.
    pub apparmor_restricts_namespaces: bool,
    /// `kernel.unprivileged_userns_clone` is not 0, or there is no such switch.
    pub unprivileged_namespaces: bool,
    /// `user.max_user_namespaces`.
    pub max_user_namespaces: Option<u64>,
    /// The host process runs under a system call filter.
    pub has_seccomp: bool,
    /// Where the attempts were made.
    pub directory: PathBuf,
}

impl Findings {
    /// What a machine answers that lacks nothing, for user `uid`. A start for findings that are
    /// injected.
    #[must_use]
    pub fn all_works(uid: u32) -> Self {
        Self {
            uid,
            kernel: (6, 1),
            processes: Attempt::Works,
            overlay: Attempt::Works,
            network_namespace: Attempt::Works,
            tunnel_device: Attempt::Works,
            control_groups: Attempt::Works,
            apparmor_restricts_namespaces: false,
            unprivileged_namespaces: true,
            max_user_namespaces: Some(1 << 16),
            has_seccomp: false,
            directory: PathBuf::from("/"),
        }
    }

    /// Whether the host process is root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Looks, trying things below `directory`. Blocks.
    pub(super) fn look(spawner: &Spawner, directory: &Path) -> io::Result<Self> {
        let place = Place::new(directory)?;
        let uid = rustix::process::geteuid().as_raw();
        let user = (uid != 0).then(IdMap::root);
        let processes = attempt(
            spawner,
            user,
            Network::Host,
            Source::Bind {
                path: place.folder("plain")?,
            },
        );
        let mut overlay = Attempt::Skipped;
        let mut network_namespace = Attempt::Skipped;
        if processes.works() {
            let upper = Source::Overlay {
                lower: vec![place.folder("a")?, place.folder("b")?],
                upper: place.folder("upper")?,
                work: place.folder("work")?,
            };
            overlay = attempt(spawner, user, Network::Host, upper);
            network_namespace = attempt(
                spawner,
                user,
                Network::None,
                Source::Bind {
                    path: place.folder("alone")?,
                },
            );
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let tunnel = rustix::fs::open("/dev/net/tun", flags, Mode::empty());
        Ok(Self {
            uid,
            kernel: kernel(),
            processes,
            overlay,
            network_namespace,
            tunnel_device: Attempt::of_io(
                "open",
                "/dev/net/tun",
                tunnel.map(drop).map_err(Into::into),
            ),
            control_groups: cgroup::attempt(),
            apparmor_restricts_namespaces: number(
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            ) == Some(1),
            unprivileged_namespaces: number("/proc/sys/kernel/unprivileged_userns_clone")
                != Some(0),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
            has_seccomp: has_seccomp(),
            directory: directory.to_owned(),
        })
    }
}

/// A directory for the attempts; removed on drop.
struct Place(PathBuf);

impl Place {
    fn new(directory: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let name = format!("probe-{:016x}", u64::from_ne_bytes(random));
        let path = std::path::absolute(directory)?.join(name);
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        Ok(Self(path))
    }

    fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.0.join(name);
        rustix::fs::mkdir(&path, Mode::RWXU)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.0.parent(), self.0.file_name()) else {
            return;
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(parent) = rustix::fs::open(parent, flags, Mode::empty()) {
            // What cannot be removed here is empty directories.
            let _left = crate::root::remove_tree(parent.as_fd(), name);
        }
    }
}

fn attempt(spawner: &Spawner, user: Option<IdMap>, network: Network, root: Source) -> Attempt {
    let mut spec = Spec::new(Root::new(root), ["/probe"]);
    spec.namespaces.user = user;
    spec.namespaces.network = network;
    let error = match spawner.spawn(spec, Stdio::default()) {
        // There is no such program, but if there were, all went well.
        Ok(_) => return Attempt::Works,
        Err(error) => error.error,
    };
    let code = |source: &io::Error| source.raw_os_error().unwrap_or(0);
    match error {
        SandboxError::ProgramNotFound { .. } => Attempt::Works,
        SandboxError::Clone { source } => Attempt::refused(CLONE, "", code(&source)),
        SandboxError::Setup {
            step: Step::IdMap,
            source,
            ..
        } => Attempt::refused(ID_MAP, "", code(&source)),
        SandboxError::Setup {
            step,
            object,
            source,
        } => Attempt::refused(
            step.to_string(),
            object.to_string_lossy().into_owned(),
            code(&source),
        ),
        other => Attempt::refused(other.to_string(), "", 0),
    }
}

fn read(path: &str, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    file.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

fn number(path: &str) -> Option<u64> {
    read(path, MAX_KERNEL_FILE).ok()?.trim().parse().ok()
}

fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

fn has_seccomp() -> bool {
    let status = read("/proc/self/status", MAX_KERNEL_FILE).unwrap_or_default();
    let mode = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}
