//! What is too large, for frames as they stand and for superframes.

use std::net::IpAddr;
use std::num::NonZeroU16;

use etherparse::PacketBuilder;
use weft_switch::{DropReason, NetworkMode};
use weft_wire::{FrameRef, Gso, GsoKind, Offload, PartialChecksum};

use crate::world::*;

/// The network's MTU is 1450: with the Ethernet header 1464.
#[test]
fn the_mtu_bounds_the_packet_not_its_ethernet_header_or_tag() {
    let world = World::new(NetworkMode::PlainL2);
    let mut bytes = frame(mac(1), mac(0));
    bytes.resize(1464, 0);
    assert!(world.send(FROM_A, &bytes).len() > 1);
    assert!(world.send(FROM_A, &tagged(bytes.clone(), 0x8100, 5)).len() > 1);
    bytes.resize(1465, 0);
    assert_eq!(world.send(FROM_A, &bytes), drop_for(DropReason::TooBig));
    let tagged = tagged(bytes, 0x8100, 5);
    assert_eq!(world.send(FROM_A, &tagged), drop_for(DropReason::TooBig));
}

#[test]
fn what_came_through_a_tunnel_has_passed_the_narrow_place() {
    let world = World::new(NetworkMode::PlainL2);
    let mut bytes = frame(mac(1), mac(0));
    bytes.resize(9014, 0);
    assert!(world.send(from_peer(0), &bytes).len() > 1);
}

/// A TCP superframe over IPv4 without options: 40 bytes of headers before each segment's payload.
fn tcp_superframe(payload: usize, size: u16) -> (Vec<u8>, Offload) {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(0).octets(), mac(1).octets())
        .ipv4(ip4(0).octets(), ip4(1).octets(), 64)
        .tcp(1, 2, 3, 4)
        .ack(5)
        .write(&mut bytes, &vec![0; payload])
        .unwrap();
    let size = NonZeroU16::new(size).unwrap();
    let offload = Offload {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size,
            ecn: false,
        }),
    };
    (bytes, offload)
}

#[test]
fn a_superframe_passes_if_its_segments_fit() {
    let world = World::guarded();
    let (bytes, offload) = tcp_superframe(60_000, 1410);
    assert!(
        world
            .send_frame(
                FROM_A,
                FrameRef {
                    tail: weft_wire::Tail::NONE,
                    bytes: &bytes,
                    offload
                }
            )
            .len()
            > 1
    );
    let (bytes, offload) = tcp_superframe(60_000, 1411);
    let actions = world.send_frame(
        FROM_A,
        FrameRef {
            tail: weft_wire::Tail::NONE,
            bytes: &bytes,
            offload,
        },
    );
    assert_eq!(actions, drop_for(DropReason::TooBig));
}

#[test]
fn a_superframe_of_one_short_segment_is_as_large_as_it_is() {
    let world = World::guarded();
    let (bytes, offload) = tcp_superframe(1000, 9000);
    assert!(
        world
            .send_frame(
                FROM_A,
                FrameRef {
                    tail: weft_wire::Tail::NONE,
                    bytes: &bytes,
                    offload
                }
            )
            .len()
            > 1
    );
}

#[test]
fn a_datagram_with_an_unfinished_checksum_is_measured_whole() {
    let world = World::guarded();
    let [here, there] = [0, 1].map(|number| (number, IpAddr::V4(ip4(number))));
    let offload = Offload {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 6,
        }),
        gso: None,
    };
    let fits = udp(here, there, 1450 - 28);
    assert!(
        world
            .send_frame(
                FROM_A,
                FrameRef {
                    tail: weft_wire::Tail::NONE,
                    bytes: &fits,
                    offload
                }
            )
            .len()
            > 1
    );
    let large = udp(here, there, 1450 - 27);
    let actions = world.send_frame(
        FROM_A,
        FrameRef {
            tail: weft_wire::Tail::NONE,
            bytes: &large,
            offload,
        },
    );
    assert_eq!(actions, drop_for(DropReason::TooBig));
}
