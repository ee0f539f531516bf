//! The other end of the device of one step: a future that moves packets until the device is gone.
//!
//! One task does all of it, so that nothing is shared and nothing has to be locked. Each round reads
//! packets of the step, moves bytes between both sides of every connection, lets the TCP
//! implementation answer, and writes the answers. Rounds go on while there is something to do, up to
//! a limit after which other tasks have their turn.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::net::unix::pipe::Receiver;
use tokio::time::Sleep;

use super::device::Queue;
use super::packet::{self, Flow, Packet};
use super::tcp::{self, Connection, Open};
use super::udp::{Flows, Kind};
use super::user::{END, MTU};

/// TCP connections that a step may have at a time: with their buffers at most 64 MiB.
const MAX_CONNECTIONS: usize = 256;

/// Packets that are read in one round.
const BATCH: usize = 64;

/// Rounds before other tasks have their turn.
const ROUNDS: usize = 16;

/// The end of one step's network.
pub(super) struct Stack {
    /// To the runtime a device is a pipe that can also be written to.
    device: Receiver,
    queue: Queue,
    interface: Interface,
    sockets: SocketSet<'static>,
    connections: HashMap<Flow, Connection>,
    flows: Flows,
    began: tokio::time::Instant,
    timer: Pin<Box<Sleep>>,
    buffer: Vec<u8>,
}

impl Stack {
    /// Takes over a device. Must be called in a runtime.
    pub(super) fn new(device: OwnedFd) -> io::Result<Self> {
        let mut queue = Queue::default();
        let mut config = Config::new(HardwareAddress::Ip);
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        config.random_seed = u64::from_ne_bytes(seed);
        let mut interface = Interface::new(config, &mut queue, Instant::ZERO);
        let full = |error| io::Error::other(format!("{error:?}"));
        let mut pushed = Ok(());
        interface.update_ip_addrs(|addresses| {
            pushed = addresses.push(IpCidr::new(END.into(), 32)).map_err(full);
        });
        pushed?;
        // Packets to every address are for this end: it is the router to all of them.
        interface.set_any_ip(true);
        let routes = interface.routes_mut();
        routes
            .add_default_ipv4_route(END)
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
        Ok(Self {
            device: Receiver::from_owned_fd_unchecked(device)?,
            queue,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: HashMap::new(),
            flows: Flows::default(),
            began: tokio::time::Instant::now(),
            timer: Box::pin(tokio::time::sleep(std::time::Duration::ZERO)),
            buffer: vec![0; usize::from(MTU)],
        })
    }

    fn now(&self) -> Instant {
        let passed = self.began.elapsed().as_micros();
        Instant::from_micros(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// One round. Whether anything was done; an error when the device is gone.
    fn round(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut busy = self.connect(context);
        busy |= self.read(context)?;
        busy |= self.flows.receive(context, &mut self.queue);
        self.answer();
        for connection in self.connections.values_mut() {
            if let Connection::Open(open) = connection {
                let socket = self.sockets.get_mut::<Socket<'_>>(open.step);
                busy |= open.pump(socket, context);
            }
        }
        self.answer();
        self.forget();
        self.write();
        Ok(busy)
    }

    /// Lets the TCP implementation work off what has come.
    fn answer(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.queue, &mut self.sockets);
    }

    /// Goes on with connections whose peer has answered, or could not be reached.
    fn connect(&mut self, context: &mut Context<'_>) -> bool {
        let mut done = Vec::new();
        for (flow, connection) in &mut self.connections {
            if let Connection::Connecting { host, .. } = connection
                && let Poll::Ready(connected) = host.as_mut().poll(context)
            {
                done.push((*flow, connected));
            }
        }
        let any = !done.is_empty();
        for (flow, connected) in done {
            let Some(Connection::Connecting { syn, .. }) = self.connections.remove(&flow) else {
                continue;
            };
            match (connected, tcp::listener(flow)) {
                (Ok(host), Some(socket)) => {
                    let step = self.sockets.add(socket);
                    self.queue.incoming.push_back(syn);
                    self.answer();
                    let open = Connection::Open(Open::new(step, host));
                    self.connections.insert(flow, open);
                }
                _ => self.refuse(&syn, flow),
            }
        }
        any
    }

    fn refuse(&mut self, syn: &[u8], flow: Flow) {
        if let Some(packet) = packet::refusal(syn, flow) {
            self.queue.send(packet);
        }
    }

    /// Reads packets of the step.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        for _ in 0..BATCH {
            match self.device.poll_read_ready(context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(ready) => ready?,
            }
            match self.device.try_read(&mut self.buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    let packet = self.buffer[..length].to_vec();
                    self.take(packet);
                }
                // Nothing there after all.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn take(&mut self, bytes: Vec<u8>) {
        match packet::read(&bytes) {
            Some(Packet::Udp { flow, payload }) => self.flows.send(Kind::Udp, flow, payload),
            Some(Packet::Echo { flow, message }) => self.flows.send(Kind::Echo, flow, message),
            Some(Packet::Forbidden { flow }) => self.refuse(&bytes, flow),
            Some(Packet::Tcp {
                flow,
                opens,
                resets,
            }) => match self.connections.get(&flow) {
                Some(Connection::Open(_)) => self.queue.incoming.push_back(bytes),
                Some(Connection::Connecting { .. }) if resets => {
                    self.connections.remove(&flow);
                }
                // Sent again, because the answer takes long.
                Some(Connection::Connecting { .. }) => {}
                None if opens && self.connections.len() < MAX_CONNECTIONS => {
                    self.connections.insert(flow, Connection::new(flow, bytes));
                }
                None if opens => self.refuse(&bytes, flow),
                // Of a connection that is over: the answer is a reset.
                None => self.queue.incoming.push_back(bytes),
            },
            None => {}
        }
    }

    /// Drops connections that both sides have ended.
    fn forget(&mut self) {
        let sockets = &mut self.sockets;
        self.connections.retain(|_, connection| {
            let Connection::Open(open) = connection else {
                return true;
            };
            let state = sockets.get::<Socket<'_>>(open.step).state();
            let over = matches!(state, State::Closed | State::TimeWait);
            if over {
                sockets.remove(open.step);
            }
            !over
        });
    }

    /// Writes what waits. What the device does not take is lost.
    fn write(&mut self) {
        while let Some(packet) = self.queue.outgoing.pop_front() {
            let _lost = rustix::io::write(&self.device, &packet);
        }
    }

    /// Waits for the time at which TCP has something to do by itself. Whether it has come.
    fn wait(&mut self, context: &mut Context<'_>) -> bool {
        let now = self.now();
        let Some(delay) = self.interface.poll_delay(now, &self.sockets) else {
            return false;
        };
        // A socket that wants to send what the queue had no room for.
        let delay = std::time::Duration::from_micros(delay.total_micros().max(100));
        self.timer
            .as_mut()
            .reset(tokio::time::Instant::now() + delay);
        self.timer.as_mut().poll(context).is_ready()
    }
}

impl Future for Stack {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            match self.round(context) {
                Ok(true) => {}
                Ok(false) if self.wait(context) => {}
                Ok(false) => return Poll::Pending,
                Err(_) => return Poll::Ready(()),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}
