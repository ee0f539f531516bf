//! Networks of steps: a namespace of their own with a way out.
//!
//! Owns the [`NetworkProvider`] seam and its implementations. A step with
//! [`Network::Sandbox`](super::Network::Sandbox) gets an empty network namespace, as with no network
//! at all; a provider connects that namespace with the outside while the process is being started.
//!
//! | provider | needs | for whom | speed | leaves on the host |
//! |---|---|---|---|---|
//! | [`UserNetwork`] | `/dev/net/tun` | everyone | through this process | nothing |
//! | [`SlirpNetwork`] | slirp4netns 1.0 or newer | everyone | through another process | nothing |
//!
//! The default is [`UserNetwork`]: TCP, UDP and pings over IPv4 end in this process and go on in sockets
//! of its own. It asks for no privilege and no program, changes nothing of the host (forwarding,
//! address translation and its rules are settings of the whole machine, which a library does not
//! change), and cannot leave anything behind, since the device dies with the namespace and the rest
//! with the process. Packets are handled by the TCP of the smoltcp crate. Pings are answered where the
//! host lets its users ping (`net.ipv4.ping_group_range`). The price is speed, and that there is no
//! IPv6.
//!
//! Invariants:
//! - Two steps never share a namespace: each has its own loopback interface.
//! - The loopback interface of the host cannot be reached, whatever a step sends.
//! - Dropping a [`Connection`] ends what works for it. Memory for a connection is bounded.
//!
//! Leaves to others: `/etc/resolv.conf` (`network_files`), and making the namespace and the device
//! (`ashlar_sandbox`).

mod device;
mod packet;
mod slirp;
mod stack;
mod tcp;
mod udp;
mod user;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

pub use ashlar_sandbox::Tunnel;
pub use slirp::SlirpNetwork;
pub use user::UserNetwork;
pub(super) use wire::start_wired;

use crate::error::{Blame, Fault};

/// The namespaces of a process that is being started.
#[derive(Debug)]
#[non_exhaustive]
pub struct Namespace {
    /// Its network namespace.
    pub network: OwnedFd,
    /// The user namespace that owns it, unless that is the host's.
    pub user: Option<OwnedFd>,
    /// The device that [`NetworkProvider::tunnel`] asked for: packets can be read from it and
    /// written to it, without waiting.
    pub tunnel: Option<OwnedFd>,
}

/// A way out of one namespace. Dropping it cuts the way and ends what worked for it.
pub trait Connection: Send + Sync + Debug {}

/// Connects the network namespaces of steps with the outside.
pub trait NetworkProvider: Send + Sync + Debug {
    /// A short name, for events.
    fn name(&self) -> &'static str;

    /// The device that the process makes in its namespace; `None`: the provider makes its own,
    /// and the process waits for [`NetworkProvider::connect`] to return.
    fn tunnel(&self) -> Option<Tunnel>;

    /// Tells whether it can work on this machine, without connecting anything.
    ///
    /// # Errors
    /// [`NetworkError`] says what is missing.
    fn check(&self) -> Result<(), NetworkError>;

    /// Connects a namespace. Called on a thread that may block, inside the solver's runtime, for
    /// many namespaces at the same time.
    ///
    /// # Errors
    /// [`NetworkError`]; the step fails then.
    ///
    /// # Cancellation
    /// It should not take longer than a second: a cancelled solve waits for it.
    fn connect(&self, namespace: Namespace) -> Result<Box<dyn Connection>, NetworkError>;
}

/// A step cannot be connected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// A device of the host cannot be used.
    #[error("cannot use {}", path.display())]
    Device {
        /// The device.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A program that the provider is made of is missing or fails.
    #[error("cannot run {}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The program ended instead of connecting the namespace.
    #[error("{} did not connect the network: {message}", program.display())]
    NotReady {
        /// The program.
        program: PathBuf,
        /// What it wrote, or what is known.
        message: String,
    },
    /// The process did not hand over its namespace.
    #[error("cannot reach the network namespace of the process")]
    Wire {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Blame for NetworkError {
    fn fault(&self) -> Fault {
        Fault::Environment
    }

    fn remedy(&self) -> Option<String> {
        match self {
            Self::Device { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some(format!(
                    "make {} readable and writable for everyone, as most distributions have it",
                    path.display()
                ))
            }
            Self::Device { path, .. } => Some(format!(
                "load the kernel module `tun`, and inside a container pass `--device {}`",
                path.display()
            )),
            Self::Program { program, .. } => Some(format!("install {}", program.display())),
            _ => None,
        }
    }
}
