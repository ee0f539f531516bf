//! Packets of a step, read as hostile, and packets made for it.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr, TcpSeqNumber, UdpPacket, UdpRepr,
};

use super::user::STEP;

/// Routers that a packet may still pass; there are none.
const HOP_LIMIT: u8 = 64;

/// A conversation, from the step's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Flow {
    /// The step.
    pub(super) from: SocketAddrV4,
    /// The peer.
    pub(super) to: SocketAddrV4,
}

/// A packet that something can be done with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Tcp {
        flow: Flow,
        /// It asks for a connection.
        opens: bool,
        /// It ends one at once.
        resets: bool,
    },
    Udp {
        flow: Flow,
        payload: &'a [u8],
    },
    /// It asks for an echo: a ping.
    Echo {
        /// The number of the conversation is the port of the step.
        flow: Flow,
        /// With its header.
        message: &'a [u8],
    },
    /// It asks for a connection to where a step may not go.
    Forbidden {
        flow: Flow,
    },
}

/// Whether a step may reach an address. Loopback addresses, and the one that stands for them, are
/// the host's own; no conversation is possible with the others.
pub(super) fn is_reachable(address: Ipv4Addr) -> bool {
    address.octets()[0] != 0
        && !address.is_loopback()
        && !address.is_broadcast()
        && !address.is_multicast()
        && address != STEP
        && address != super::user::END
}

/// Reads a packet that a step sent; `None` if it is damaged, a fragment, from somebody else, of
/// another protocol, or to where a step may not go without asking for an answer.
pub(super) fn read(bytes: &[u8]) -> Option<Packet<'_>> {
    let ip = Ipv4Packet::new_checked(bytes).ok()?;
    let whole = ip.version() == 4 && !ip.more_frags() && ip.frag_offset() == 0;
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    if !whole || from != STEP {
        return None;
    }
    let start = usize::from(ip.header_len());
    let end = usize::from(ip.total_len());
    let payload = bytes.get(start..end)?;
    let flow = |source, destination| Flow {
        from: SocketAddrV4::new(from, source),
        to: SocketAddrV4::new(to, destination),
    };
    match ip.next_header() {
        IpProtocol::Tcp => {
            let tcp = TcpPacket::new_checked(payload).ok()?;
            if tcp.src_port() == 0 || tcp.dst_port() == 0 {
                return None;
            }
            let flow = flow(tcp.src_port(), tcp.dst_port());
            let opens = tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin();
            if !is_reachable(to) {
                return opens.then_some(Packet::Forbidden { flow });
            }
            let resets = tcp.rst();
            Some(Packet::Tcp {
                flow,
                opens,
                resets,
            })
        }
        IpProtocol::Udp if is_reachable(to) => {
            let udp = UdpPacket::new_checked(payload).ok()?;
            if udp.src_port() == 0 || udp.dst_port() == 0 {
                return None;
            }
            let length = usize::from(udp.len());
            Some(Packet::Udp {
                flow: flow(udp.src_port(), udp.dst_port()),
                payload: payload.get(8..length)?,
            })
        }
        IpProtocol::Icmp if is_reachable(to) => {
            let icmp = Icmpv4Packet::new_checked(payload).ok()?;
            let asks = icmp.msg_type() == Icmpv4Message::EchoRequest && icmp.msg_code() == 0;
            asks.then(|| Packet::Echo {
                flow: flow(icmp.echo_ident(), 0),
                message: payload,
            })
        }
        _ => None,
    }
}

fn ip(flow: Flow, protocol: IpProtocol, length: usize) -> (Ipv4Repr, Vec<u8>) {
    let repr = Ipv4Repr {
        src_addr: *flow.to.ip(),
        dst_addr: *flow.from.ip(),
        next_header: protocol,
        payload_len: length,
        hop_limit: HOP_LIMIT,
    };
    let bytes = vec![0; repr.buffer_len() + length];
    (repr, bytes)
}

fn addresses(repr: &Ipv4Repr) -> (IpAddress, IpAddress) {
    (
        IpAddress::Ipv4(repr.src_addr),
        IpAddress::Ipv4(repr.dst_addr),
    )
}

/// The answer "refused" to a packet that asks for a connection; `None` if it is not one.
pub(super) fn refusal(syn: &[u8], flow: Flow) -> Option<Vec<u8>> {
    let asked = Ipv4Packet::new_checked(syn).ok()?;
    let number = TcpPacket::new_checked(asked.payload()).ok()?.seq_number();
    let tcp = TcpRepr {
        src_port: flow.to.port(),
        dst_port: flow.from.port(),
        control: TcpControl::Rst,
        seq_number: TcpSeqNumber(0),
        ack_number: Some(number + 1),
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    let (repr, mut bytes) = ip(flow, IpProtocol::Tcp, tcp.buffer_len());
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    repr.emit(&mut packet, &checksums);
    let (from, to) = addresses(&repr);
    let mut packet = TcpPacket::new_unchecked(packet.payload_mut());
    tcp.emit(&mut packet, &from, &to, &checksums);
    Some(bytes)
}

/// A datagram from the peer of a flow to the step; `None` if it does not fit into a packet.
pub(super) fn datagram(flow: Flow, data: &[u8]) -> Option<Vec<u8>> {
    let udp = UdpRepr {
        src_port: flow.to.port(),
        dst_port: flow.from.port(),
    };
    let length = udp.header_len() + data.len();
    let (repr, mut bytes) = ip(flow, IpProtocol::Udp, length);
    if bytes.len() > usize::from(super::user::MTU) {
        return None;
    }
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    repr.emit(&mut packet, &checksums);
    let (from, to) = addresses(&repr);
    let mut packet = UdpPacket::new_unchecked(packet.payload_mut());
    let fill = |buffer: &mut [u8]| buffer.copy_from_slice(data);
    udp.emit(&mut packet, &from, &to, data.len(), fill, &checksums);
    Some(bytes)
}

/// The echo that the step asked for, as the host got it: under a number of its own. `None` if it is
/// none, or does not fit into a packet.
pub(super) fn echo(flow: Flow, message: &[u8]) -> Option<Vec<u8>> {
    let icmp = Icmpv4Packet::new_checked(message).ok()?;
    if icmp.msg_type() != Icmpv4Message::EchoReply {
        return None;
    }
    let (repr, mut bytes) = ip(flow, IpProtocol::Icmp, message.len());
    if bytes.len() > usize::from(super::user::MTU) {
        return None;
    }
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[..]);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(message);
    let mut packet = Icmpv4Packet::new_unchecked(packet.payload_mut());
    packet.set_echo_ident(flow.from.port());
    packet.fill_checksum();
    Some(bytes)
}
