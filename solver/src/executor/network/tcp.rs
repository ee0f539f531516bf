//! One TCP connection of a step: on its side a socket of the TCP implementation, on the other one of
//! the host.
//!
//! The step's first packet is kept until the host is connected, so that a peer that refuses or
//! cannot be reached looks like that to the step.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::Shutdown;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{IpAddress, IpListenEndpoint};
use tokio::net::TcpStream;

use super::packet::Flow;

/// Bytes that wait in each direction: enough for some Gbit/s over a wire without delay.
const BUFFER: usize = 128 << 10;

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// How far a connection is.
pub(super) enum Connection {
    /// The host connects to the peer; the step's first packet waits.
    Connecting { host: Connecting, syn: Vec<u8> },
    /// Both sides speak.
    Open(Open),
}

/// A connection that both sides have.
pub(super) struct Open {
    pub(super) step: SocketHandle,
    host: TcpStream,
    /// The peer was told that the step has said everything.
    step_finished: bool,
    /// The step was told that the peer has said everything.
    host_finished: bool,
}

impl Connection {
    /// Begins to connect to the peer.
    pub(super) fn new(flow: Flow, syn: Vec<u8>) -> Self {
        let host = Box::pin(TcpStream::connect(flow.to));
        Self::Connecting { host, syn }
    }
}

impl Open {
    pub(super) fn new(step: SocketHandle, host: TcpStream) -> Self {
        // Small answers should not wait; an error costs speed only.
        let _slower = host.set_nodelay(true);
        Self {
            step,
            host,
            step_finished: false,
            host_finished: false,
        }
    }

    /// Moves bytes in both directions until nothing more can be moved; the task is woken when that
    /// changes. Whether anything was done.
    pub(super) fn pump(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        match self.send(socket, context).and_then(|sent| {
            moved |= sent;
            self.receive(socket, context)
        }) {
            Ok(received) => moved | received,
            Err(_) => {
                // The step learns what became of it: a reset.
                socket.abort();
                true
            }
        }
    }

    fn send(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while socket.can_recv() {
            match self.host.poll_write_ready(context) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(ready) => ready?,
            }
            let written = socket.recv(|data| match self.host.try_write(data) {
                Ok(length) => (length, Ok(())),
                Err(error) => (0, Err(error)),
            });
            match written {
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(done) => {
                    done?;
                    moved = true;
                }
                Err(_) => break,
            }
        }
        let over = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        if over && !self.step_finished && !socket.can_recv() {
            self.step_finished = true;
            moved = true;
            rustix::net::shutdown(&self.host, Shutdown::Write)?;
        }
        Ok(moved)
    }

    fn receive(&mut self, socket: &mut Socket<'_>, context: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        while !self.host_finished && socket.can_send() {
            match self.host.poll_read_ready(context) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(ready) => ready?,
            }
            let read = socket.send(|free| match self.host.try_read(free) {
                Ok(length) => (length, Ok(length)),
                Err(error) => (0, Err(error)),
            });
            match read {
                Ok(Ok(0)) => {
                    self.host_finished = true;
                    socket.close();
                    moved = true;
                }
                Ok(Ok(_)) => moved = true,
                Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => break,
            }
        }
        Ok(moved)
    }
}

/// A socket that takes the one connection of `flow`.
pub(super) fn listener(flow: Flow) -> Option<Socket<'static>> {
    let buffer = || SocketBuffer::new(vec![0; BUFFER]);
    let mut socket = Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    let here = IpListenEndpoint {
        addr: Some(IpAddress::Ipv4(*flow.to.ip())),
        port: flow.to.port(),
    };
    socket.listen(here).ok()?;
    Some(socket)
}
