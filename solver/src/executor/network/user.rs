//! The built-in network: packets end in this process.

use std::io;
use std::net::Ipv4Addr;

use ashlar_sandbox::Tunnel;
use rustix::fs::{Mode, OFlags};
use tokio::task::JoinHandle;

use super::stack::Stack;
use super::{Connection, Namespace, NetworkError, NetworkProvider};

/// Where devices for packets come from.
const TUN: &str = "/dev/net/tun";

/// The address of a step, from a range that is kept for documentation: nobody has it, and with a
/// mask of all ones no address in use is hidden by it. Every step has the same, in a network of its
/// own.
pub(super) const STEP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// The address of the other end, with which nobody can speak.
pub(super) const END: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Nearly the largest packet there is: what is not a real wire needs no small ones.
pub(super) const MTU: u16 = 65_520;

/// TCP, UDP and pings over IPv4 through sockets of this process. Needs `/dev/net/tun` and no
/// privilege; for pings the host has to have its group in `net.ipv4.ping_group_range`.
///
/// A step reaches what this process reaches, but no loopback address. Each step may have 256 TCP
/// connections and 256 UDP flows and pings at a time; more connections are refused, and of flows the one that
/// was idle longest makes room.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct UserNetwork;

impl UserNetwork {
    /// The built-in network.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// The task that works for one step.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Connection for Task {}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl NetworkProvider for UserNetwork {
    fn name(&self) -> &'static str {
        "user"
    }

    fn tunnel(&self) -> Option<Tunnel> {
        Some(Tunnel::new(STEP, Ipv4Addr::BROADCAST, MTU))
    }

    fn check(&self) -> Result<(), NetworkError> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = rustix::fs::open(TUN, flags, Mode::empty());
        opened.map(drop).map_err(|errno| NetworkError::Device {
            path: TUN.into(),
            source: errno.into(),
        })
    }

    fn connect(&self, namespace: Namespace) -> Result<Box<dyn Connection>, NetworkError> {
        let failed = |source: io::Error| NetworkError::Wire { source };
        let device = namespace
            .tunnel
            .ok_or_else(|| failed(io::ErrorKind::NotConnected.into()))?;
        let stack = Stack::new(device).map_err(failed)?;
        Ok(Box::new(Task(tokio::spawn(stack))))
    }
}
