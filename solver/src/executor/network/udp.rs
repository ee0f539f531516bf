//! The UDP flows of a step: one connected socket of the host for each pair of addresses.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

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

struct Peer {
    socket: UdpSocket,
    used: Instant,
}

/// All flows of a step.
#[derive(Default)]
pub(super) struct Flows {
    peers: HashMap<Flow, Peer>,
    buffer: Vec<u8>,
}

impl Flows {
    /// Sends a datagram of the step on. What cannot be sent is lost, as datagrams are.
    pub(super) fn send(&mut self, flow: Flow, payload: &[u8]) {
        if !self.peers.contains_key(&flow) {
            let Ok(socket) = connect(flow) else {
                return;
            };
            if self.peers.len() >= MAX_FLOWS {
                let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.used);
                if let Some(oldest) = oldest.map(|(flow, _)| *flow) {
                    self.peers.remove(&oldest);
                }
            }
            let used = Instant::now();
            self.peers.insert(flow, Peer { socket, used });
        }
        if let Some(peer) = self.peers.get_mut(&flow) {
            peer.used = Instant::now();
            let _lost = peer.socket.try_send(payload);
        }
    }

    /// Takes answers; the task is woken when more come. Whether there were any.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, queue: &mut Queue) -> bool {
        let mut any = false;
        self.buffer.resize(MAX_DATAGRAM, 0);
        let buffer = &mut self.buffer;
        self.peers.retain(|flow, peer| {
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
                        if let Some(packet) = packet::datagram(*flow, &buffer[..length]) {
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

fn connect(flow: Flow) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_nonblocking(true)?;
    socket.connect(flow.to)?;
    let socket = UdpSocket::from_std(socket)?;
    Ok(socket)
}
