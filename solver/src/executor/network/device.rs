//! The queue of packets between the TCP implementation and the device of a step.

use std::collections::VecDeque;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::user::MTU;

/// Packets that may wait to be written; more are lost, and sent again by TCP.
const MAX_WAITING: usize = 256;

/// Packets on their way in both directions.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// From the step.
    pub(super) incoming: VecDeque<Vec<u8>>,
    /// To the step.
    pub(super) outgoing: VecDeque<Vec<u8>>,
}

pub(super) struct Incoming(Vec<u8>);

pub(super) struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl Queue {
    /// Lets a packet wait to be written.
    pub(super) fn send(&mut self, packet: Vec<u8>) {
        if self.outgoing.len() < MAX_WAITING {
            self.outgoing.push_back(packet);
        }
    }
}

impl Device for Queue {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (self.outgoing.len() < MAX_WAITING).then_some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = usize::from(MTU);
        // What comes was never on a wire; what goes is checked by the kernel of the step.
        capabilities.checksum.ipv4 = Checksum::Tx;
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut packet = vec![0; length];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}
