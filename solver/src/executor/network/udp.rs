//! The UDP flows of a step, and its pings: one connected socket of the host for each pair of
//! addresses.
//!
//! Whether the host has sockets for pings that need no privilege is a setting of it
//! (`net.ipv4.ping_group_range`). Where it has none, pings get no answer.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::device::Queue;
use super::packet::{self, Flow};

/// Flows that a step may have.
const MAX_FLOWS: usize = 256;

/// Datagrams of one flow that are taken before others have their turn.
const BATCH: usize = 16;

/// The largest datagram there is.
const MAX_DATAGRAM: usize = 65_507;

/// What is said in a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Udp,
    Echo,
}

struct Peer {
    socket: UdpSocket,
    used: Instant,
}

/// All flows of a step.
#[derive(Default)]
pub(super) struct Flows {
    peers: HashMap<(Kind, Flow), Peer>,
    buffer: Vec<u8>,
}

impl Flows {
    /// Sends a datagram of the step on. What cannot be sent is lost, as datagrams are.
    pub(super) fn send(&mut self, kind: Kind, flow: Flow, payload: &[u8]) {
        let key = (kind, flow);
        if !self.peers.contains_key(&key) {
            let Ok(socket) = connect(kind, flow) else {
                return;
            };
            if self.peers.len() >= MAX_FLOWS {
                let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.used);
                if let Some(oldest) = oldest.map(|(key, _)| *key) {
                    self.peers.remove(&oldest);
                }
            }
            let used = Instant::now();
            self.peers.insert(key, Peer { socket, used });
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.used = Instant::now();
            // Not through the runtime: it has not been told yet that a new socket can be written to,
            // and the first datagram, a question to a name server, would be lost.
            let _lost = rustix::net::send(&peer.socket, payload, SendFlags::DONTWAIT);
        }
    }

    /// Takes answers; the task is woken when more come. Whether there were any.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, queue: &mut Queue) -> bool {
        let mut any = false;
        self.buffer.resize(MAX_DATAGRAM, 0);
        let buffer = &mut self.buffer;
        self.peers.retain(|&(kind, flow), peer| {
            for _ in 0..BATCH {
                match peer.socket.poll_recv_ready(context) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return false,
                }
                match peer.socket.try_recv(buffer) {
                    Ok(length) => {
                        any = true;
                        peer.used = Instant::now();
                        let packet = match kind {
                            Kind::Udp => packet::datagram(flow, &buffer[..length]),
                            Kind::Echo => packet::echo(flow, &buffer[..length]),
                        };
                        if let Some(packet) = packet {
                            queue.send(packet);
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // Nobody listens there. The step waits in vain, as for any lost datagram.
                    Err(_) => return false,
                }
            }
            any = true;
            true
        });
        any
    }
}

fn connect(kind: Kind, flow: Flow) -> io::Result<UdpSocket> {
    let socket = match kind {
        Kind::Udp => std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?,
        // To the runtime it is the same.
        Kind::Echo => {
            let (family, kind) = (AddressFamily::INET, SocketType::DGRAM);
            let flags = SocketFlags::CLOEXEC;
            socket_with(family, kind, flags, Some(ipproto::ICMP))?.into()
        }
    };
    socket.set_nonblocking(true)?;
    socket.connect(flow.to)?;
    let socket = UdpSocket::from_std(socket)?;
    Ok(socket)
}
