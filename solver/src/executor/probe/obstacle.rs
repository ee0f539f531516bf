//! What can be missing: reason and remedy of each.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::findings::errno;

/// What an obstacle keeps from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stops {
    /// Steps cannot be run.
    Exec,
    /// Steps cannot have a network namespace of their own: neither none nor one with a way out.
    NetworkNamespace,
    /// Steps cannot have the built-in network.
    SandboxNetwork,
    /// Steps have one user and one group only: they cannot change owners or take on another user.
    OtherUsers,
    /// Limits of memory and processor cannot be set.
    ControlGroups,
}

/// Something that this machine lacks. [`fmt::Display`] tells the reason, [`Obstacle::remedy`] what
/// can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// `kernel.unprivileged_userns_clone` is 0, as on older Debian.
    UnprivilegedNamespacesOff,
    /// `kernel.apparmor_restrict_unprivileged_userns` is 1, as on Ubuntu since 23.10.
    AppArmor,
    /// `user.max_user_namespaces` is reached, or 0.
    NamespaceLimit {
        /// The limit, if it could be read.
        limit: Option<u64>,
    },
    /// The host process runs under a system call filter, as in a container, that does not let it
    /// make namespaces.
    Seccomp,
    /// The process is root but may not make namespaces, as in a container without privileges.
    RootWithoutPower {
        /// Whether a system call filter is there as well.
        seccomp: bool,
    },
    /// Parts of the host's `/proc` or `/sys` are hidden, so that the kernel refuses a new one.
    MaskedProc {
        /// `/proc` or `/sys`.
        path: String,
    },
    /// The kernel has no overlay file system.
    NoOverlay,
    /// The kernel lets only root mount overlays.
    OverlayNotForUsers {
        /// Major and minor version of the kernel.
        kernel: (u32, u32),
    },
    /// The file system of the state root cannot carry the upper directory of an overlay.
    OverlayFileSystem {
        /// Where it was tried.
        directory: PathBuf,
    },
    /// The kernel is too old.
    OldKernel {
        /// What it lacks.
        what: String,
    },
    /// A network namespace cannot be made.
    NoNetworkNamespace {
        /// The step that failed.
        step: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// `/dev/net/tun` cannot be opened.
    NoTunnelDevice {
        /// The kernel's answer.
        errno: i32,
    },
    /// An ordinary user gives steps one user and one group: its own, under whatever name.
    OneUser,
    /// Groups of processes with limits cannot be made.
    NoControlGroups {
        /// The step that failed.
        step: String,
        /// The kernel's answer.
        errno: i32,
    },
    /// Something else was refused.
    Refused {
        /// The step that failed.
        step: String,
        /// What it was about; may be empty.
        object: String,
        /// The kernel's answer.
        errno: i32,
    },
}

impl Obstacle {
    /// What it keeps from working.
    #[must_use]
    pub fn stops(&self) -> Stops {
        match self {
            Self::NoNetworkNamespace { .. } => Stops::NetworkNamespace,
            Self::NoTunnelDevice { .. } => Stops::SandboxNetwork,
            Self::OneUser => Stops::OtherUsers,
            Self::NoControlGroups { .. } => Stops::ControlGroups,
            _ => Stops::Exec,
        }
    }

    /// What the administrator of the machine, or the caller, can do about it, as one sentence.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::UnprivilegedNamespacesOff => {
                "run `sysctl -w kernel.unprivileged_userns_clone=1` as root".to_owned()
            }
            Self::AppArmor => "give the program an AppArmor profile with `userns,` in it, or run \
                 `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0` as root"
                .to_owned(),
            Self::NamespaceLimit { .. } => {
                "raise the limit, for example `sysctl -w user.max_user_namespaces=15000` as root"
                    .to_owned()
            }
            Self::Seccomp => "start the surrounding container with a system call filter that \
                 allows user namespaces, for example `--security-opt seccomp=unconfined`"
                .to_owned(),
            Self::RootWithoutPower { .. } => {
                "start the surrounding container with `--privileged`, or run as an ordinary user \
                 where user namespaces are allowed"
                    .to_owned()
            }
            Self::MaskedProc { .. } => "start the surrounding container with \
                 `--security-opt systempaths=unconfined`"
                .to_owned(),
            Self::NoOverlay => "load the kernel module `overlay` as root".to_owned(),
            Self::OverlayNotForUsers { .. } => "use Linux 5.11 or newer, or run as root".to_owned(),
            Self::OverlayFileSystem { .. } => "put the state root on ext4, xfs, btrfs or tmpfs, \
                 not on an overlay (inside a container: on a volume) or a network file system"
                .to_owned(),
            Self::OldKernel { .. } => "use Linux 5.12 or newer".to_owned(),
            Self::NoNetworkNamespace { .. } => {
                "give steps the network of the host in the builder of the solver".to_owned()
            }
            Self::NoTunnelDevice {
                errno: errno::ENOENT,
            } => {
                "load the kernel module `tun`, and inside a container pass `--device /dev/net/tun`"
                    .to_owned()
            }
            Self::NoTunnelDevice { .. } => {
                "make /dev/net/tun readable and writable for everyone (mode 0666), as most \
                 distributions have it"
                    .to_owned()
            }
            Self::OneUser => "run as root, or let changes of owners seem to work \
                 (pretend_ownership in the builder of the solver)"
                .to_owned(),
            Self::NoControlGroups { .. } => {
                "run in a delegated group, for example with `systemd-run --user --scope -p \
                 Delegate=yes`, or name one in the builder of the solver"
                    .to_owned()
            }
            Self::Refused { .. } => {
                "look into the log of the kernel and of its security modules".to_owned()
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = |errno: i32| io::Error::from_raw_os_error(errno);
        match self {
            Self::UnprivilegedNamespacesOff => f.write_str(
                "user namespaces are for root only (kernel.unprivileged_userns_clone is 0)",
            ),
            Self::AppArmor => f.write_str(
                "AppArmor restricts user namespaces of ordinary users \
                 (kernel.apparmor_restrict_unprivileged_userns is 1)",
            ),
            Self::NamespaceLimit { limit: Some(limit) } => {
                write!(f, "user.max_user_namespaces is {limit}")
            }
            Self::NamespaceLimit { limit: None } => {
                f.write_str("the limit of user namespaces is reached")
            }
            Self::Seccomp => {
                f.write_str("a system call filter keeps this process from making namespaces")
            }
            Self::RootWithoutPower { seccomp } => {
                f.write_str("this process is root without CAP_SYS_ADMIN")?;
                if *seccomp {
                    f.write_str(", under a system call filter")?;
                }
                Ok(())
            }
            Self::MaskedProc { path } => write!(
                f,
                "parts of the host's {path} are hidden, so that the kernel refuses a new one"
            ),
            Self::NoOverlay => f.write_str("the kernel has no overlay file system"),
            Self::OverlayNotForUsers {
                kernel: (major, minor),
            } => write!(f, "Linux {major}.{minor} lets only root mount overlays"),
            Self::OverlayFileSystem { directory } => write!(
                f,
                "the file system of {} cannot carry an overlay",
                directory.display()
            ),
            Self::OldKernel { what } => write!(f, "the kernel has no {what}"),
            Self::NoNetworkNamespace { step, errno } => {
                write!(f, "no network namespace: {step}: {}", error(*errno))
            }
            Self::NoTunnelDevice { errno } => {
                write!(f, "/dev/net/tun cannot be opened: {}", error(*errno))
            }
            Self::OneUser => f.write_str("steps of an ordinary user have one user and one group"),
            Self::NoControlGroups { step, errno } => {
                write!(f, "no control groups: {step}: {}", error(*errno))
            }
            Self::Refused {
                step,
                object,
                errno,
            } => {
                f.write_str(step)?;
                if !object.is_empty() {
                    write!(f, " {object}")?;
                }
                write!(f, ": {}", error(*errno))
            }
        }
    }
}
