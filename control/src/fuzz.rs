//! What the fuzz targets (testbed/fuzz) run on their input, here so that `cargo test` replays the corpus through the same
//! functions. Not for use by weft itself: a broken promise panics.

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use weft_wire::{MacAddr, Mtu};

use crate::agent::services::demux::{Class, classify};
use crate::agent::services::dns::tcp::TcpStack;
use crate::agent::services::dns::{NameServer, Outcome, Room};
use crate::agent::services::{dhcp4, dhcp6, frames};
use crate::api::PublishRange;
use crate::model::NetworkId;

const MTU: usize = 1450;
/// The shortest answer that is taken for one: less than any asker's limit.
const ROOM: u16 = 512;

/// A message to the name server, over UDP and over TCP.
///
/// # Panics
/// If an answer is longer than the asker takes.
pub fn dns(data: &[u8]) {
    let server = NameServer::new(Vec::new(), Path::new("/nowhere"));
    let asker = (NetworkId(String::new()), MacAddr::ZERO);
    for (room, limit) in [(Room::Udp(ROOM), ROOM), (Room::Tcp, u16::MAX)] {
        match server.handle(&asker, data, room) {
            Outcome::Answer(answer) => assert!(answer.len() <= usize::from(limit)),
            Outcome::Nothing => {}
            Outcome::Wait(_) => panic!("there is nobody to ask"),
        }
    }
}

/// A frame to the gateway: whose it is, and if it is a segment, the stack that hears it.
///
/// # Panics
/// If what is answered to a single segment is more than one frame, or longer than the network's packets.
pub fn demux(data: &[u8]) {
    let gateways: [IpAddr; 2] = [[10, 1, 0, 1].into(), [0xfd01, 0, 0, 0, 0, 0, 0, 1].into()];
    let Class::DnsTcp(mac, packet) = classify(data, &gateways) else {
        return;
    };
    let now = Instant::now();
    let mut stack = TcpStack::new(MTU, 0, now);
    stack.take(mac, packet, now);
    assert!(stack.poll(now).is_empty(), "nobody is connected yet");
    let frames = stack.frames();
    assert!(frames.len() <= 1 && frames.iter().all(|frame| frame.len() <= 14 + MTU));
}

/// A message to DHCP from a port that has an address.
///
/// # Panics
/// If an answer can't be sent as a frame.
pub fn dhcp4(data: &[u8]) {
    let mac = MacAddr([2, 0x57, 10, 1, 0, 2]);
    let lease = dhcp4::Lease {
        ip: [10, 1, 0, 2].into(),
        subnet: "10.1.0.0/24".parse().expect("a constant"),
        gateway: [10, 1, 0, 1].into(),
        routes: true,
        mtu: Mtu::ETHERNET,
        name: "c1".to_owned(),
    };
    if let Some(answer) = dhcp4::handle(mac, data, &lease) {
        assert!(frames::datagram(mac, answer.from, answer.to, &answer.bytes).is_some());
    }
}

/// A message to DHCPv6 from a port that has an address.
///
/// # Panics
/// If an answer is longer than a packet.
pub fn dhcp6(data: &[u8]) {
    let lease = dhcp6::Lease {
        ips: vec![[0xfd01, 0, 0, 0, 0, 0, 0, 2].into()],
        subnets: vec!["fd01::/64".parse().expect("a constant")],
        gateway: [0xfd01, 0, 0, 0, 0, 0, 0, 1].into(),
    };
    if let Some(answer) = dhcp6::handle(data, &lease) {
        assert!(answer.len() < usize::from(u16::MAX));
    }
}

/// A frame for the way out, with what the switch says of it.
///
/// # Panics
/// If what is said of a packet contradicts it, or an error about it is no packet or too long.
pub fn egress_packet(data: &[u8]) {
    crate::egress::fuzz::packet(data);
}

/// Fragments for the way out.
///
/// # Panics
/// If what is put together isn't what was sent.
pub fn egress_fragments(data: &[u8]) {
    crate::egress::fuzz::fragments(data);
}

/// Segments of a container, and what else happens to its connection to the outside.
///
/// # Panics
/// If what goes outside isn't what the container said, or anything grows without end.
pub fn egress_tcp(data: &[u8]) {
    crate::egress::fuzz::segments(data);
}

/// What the outside answers to a ping.
///
/// # Panics
/// If a reply is longer than what came.
pub fn egress_echo(data: &[u8]) {
    crate::egress::fuzz::echo_answer(data);
}

/// A port to be published, as it is written.
///
/// # Panics
/// If what was read is written otherwise than it is read.
pub fn publish(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(PublishRange(ports)) = text.parse() else {
        return;
    };
    // A range has many that are alike.
    for port in ports.iter().take(2).chain(ports.last()) {
        let written = port.to_string();
        let read: Result<PublishRange, String> = written.parse();
        assert_eq!(read, Ok(PublishRange(vec![port.clone()])), "{written}");
        assert!(port.clashes(port) && port.check().is_ok());
    }
}
