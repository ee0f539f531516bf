//! Packets on their own; the networks as a whole are tested with real processes.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::wire::{Icmpv4Packet, Ipv4Packet, TcpPacket};

use super::packet::{Flow, Packet, datagram, echo, is_reachable, read, refusal};
use super::user::{END, STEP};

fn flow(to: Ipv4Addr) -> Flow {
    Flow {
        from: SocketAddrV4::new(STEP, 40_000),
        to: SocketAddrV4::new(to, 80),
    }
}

/// The same flow from the other side: packets for the step turned into packets of it.
fn turned(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    for at in 12..16 {
        packet.swap(at, at + 4);
    }
    packet.swap(20, 22);
    packet.swap(21, 23);
    packet
}

const PEER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);

#[test]
fn addresses_of_the_host_itself_are_out_of_reach() {
    for (address, expected) in [
        ("127.0.0.1", false),
        ("127.8.9.10", false),
        ("0.0.0.0", false),
        ("0.1.2.3", false),
        ("224.0.0.1", false),
        ("255.255.255.255", false),
        ("192.0.2.1", false),
        ("192.0.2.2", false),
        ("10.0.0.1", true),
        ("8.8.8.8", true),
    ] {
        assert_eq!(
            is_reachable(address.parse().unwrap()),
            expected,
            "{address}"
        );
    }
    let to_loopback = turned(&datagram(flow(Ipv4Addr::LOCALHOST), b"x").unwrap());
    assert_eq!(read(&to_loopback), None);
    assert_eq!(read(&turned(&datagram(flow(END), b"x").unwrap())), None);
}

#[test]
fn datagrams_are_read_as_written() {
    let packet = turned(&datagram(flow(PEER), b"hello").unwrap());
    let expected = Packet::Udp {
        flow: flow(PEER),
        payload: b"hello",
    };
    assert_eq!(read(&packet), Some(expected));
    assert_eq!(datagram(flow(PEER), &[0; 65_507]), None);
    // From somebody else.
    let mut foreign = packet.clone();
    foreign[15] ^= 1;
    assert_eq!(read(&foreign), None);
    // A fragment.
    let mut part = packet.clone();
    part[6] |= 0x20;
    assert_eq!(read(&part), None);
}

#[test]
fn a_refusal_answers_the_number_of_the_question() {
    let reset = refusal(&turned(&refusal(&syn(), flow(PEER)).unwrap()), flow(PEER)).unwrap();
    let ip = Ipv4Packet::new_checked(&reset).unwrap();
    assert_eq!((ip.src_addr(), ip.dst_addr()), (PEER, STEP));
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    assert!(tcp.rst() && tcp.ack() && tcp.verify_checksum(&PEER.into(), &STEP.into()));
    assert_eq!(tcp.ack_number().0, 1);
}

/// A packet that opens a connection, made of one that refuses it.
fn syn() -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    bytes.extend(STEP.octets());
    bytes.extend(PEER.octets());
    bytes.extend([
        0x9c, 0x40, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 1, 0, 0, 0, 0, 0,
    ]);
    bytes
}

#[test]
fn what_opens_a_connection_is_told_from_what_does_not() {
    let opens = Packet::Tcp {
        flow: flow(PEER),
        opens: true,
        resets: false,
    };
    assert_eq!(read(&syn()), Some(opens));
    let refused = refusal(&syn(), flow(PEER)).unwrap();
    let ip = Ipv4Packet::new_checked(&refused).unwrap();
    assert_eq!(
        TcpPacket::new_checked(ip.payload()).unwrap().ack_number().0,
        10
    );
    let resets = Packet::Tcp {
        flow: flow(PEER),
        opens: false,
        resets: true,
    };
    assert_eq!(read(&turned(&refused)), Some(resets));
}

#[test]
fn damaged_packets_are_nothing() {
    let whole = syn();
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length]), None, "{length}");
    }
    // Every byte, every value: nothing panics, and nobody gets where he may not.
    for at in 0..whole.len() {
        for value in 0..=u8::MAX {
            let mut bytes = whole.clone();
            bytes[at] = value;
            match read(&bytes) {
                Some(
                    Packet::Tcp { flow, .. } | Packet::Udp { flow, .. } | Packet::Echo { flow, .. },
                ) => {
                    assert!(is_reachable(*flow.to.ip()) && *flow.from.ip() == STEP);
                    let _answer = refusal(&bytes, flow);
                }
                Some(Packet::Forbidden { flow }) => assert!(!is_reachable(*flow.to.ip())),
                None => {}
            }
        }
    }
}

#[test]
fn pings_are_read_and_echoes_get_their_number() {
    // Type, code, checksum, number, sequence, data.
    let request = [8, 0, 0, 0, 0x12, 0x34, 0, 7, b'x'];
    let of_step = |message: &[u8], to: Ipv4Addr| {
        let mut packet = turned(&datagram(flow(to), &[0; 32]).unwrap());
        packet.truncate(20);
        packet.extend_from_slice(message);
        let length = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet[9] = 1;
        packet
    };
    let packet = of_step(&request, PEER);
    let Some(Packet::Echo { flow, message }) = read(&packet) else {
        panic!("{:?}", read(&packet));
    };
    assert_eq!(message, request);
    assert_eq!(
        (flow.from.port(), flow.to),
        (0x1234, SocketAddrV4::new(PEER, 0))
    );
    assert_eq!(read(&of_step(&request, Ipv4Addr::LOCALHOST)), None);
    // Neither an answer nor an error of the step goes on.
    for kind in [0, 3, 5, 13] {
        let mut other = request;
        other[0] = kind;
        assert_eq!(read(&of_step(&other, PEER)), None, "{kind}");
    }
    for length in 0..8 {
        assert_eq!(read(&of_step(&request[..length], PEER)), None, "{length}");
    }

    let mut answer = request;
    (answer[0], answer[4], answer[5]) = (0, 0xab, 0xcd);
    let packet = echo(flow, &answer).unwrap();
    let ip = Ipv4Packet::new_checked(&packet[..]).unwrap();
    assert!(ip.verify_checksum());
    assert_eq!((ip.src_addr(), ip.dst_addr()), (PEER, STEP));
    let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
    assert!(icmp.verify_checksum());
    assert_eq!(
        (icmp.echo_ident(), icmp.echo_seq_no(), icmp.data()),
        (0x1234, 7, &b"x"[..])
    );
    assert_eq!(echo(flow, &request), None);
    assert_eq!(echo(flow, &answer[..3]), None);
    assert_eq!(echo(flow, &[0; 65_510]), None);
}
