//! Who has an address of the control plane's is answered where it is asked.

use std::net::Ipv4Addr;

use weft_switch::{Action, DropReason, NetworkMode};
use weft_wire::{ArpMessage, MacAddr, NeighborEnds, NeighborMessage};

use crate::world::*;

/// Stations 1 (here) and 9 (behind a peer) are known.
fn world() -> World {
    let world = World::guarded();
    for number in [0, 1, 9] {
        let neighbors = world.tables.neighbors();
        neighbors.set(blue(), ip4(number).into(), mac(number));
        neighbors.set(blue(), ip6(number.into()).into(), mac(number));
    }
    world
}

fn everybody() -> [Action; 4] {
    [to_port(1), to_port(2), to_peer(0), to_peer(1)]
}

fn solicitation(target: u16) -> Vec<u8> {
    let ends = NeighborEnds {
        source_mac: mac(0),
        destination_mac: MacAddr([0x33, 0x33, 0xff, 0, 0, 1]),
        source: ip6(0),
        destination: std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, target),
    };
    NeighborMessage::solicitation(ip6(target), mac(0))
        .to_frame(&ends)
        .to_vec()
}

#[test]
fn questions_for_known_endpoints_are_answered_and_others_flooded() {
    let world = world();
    for (number, known) in [(1, true), (9, true), (77, false)] {
        let arp = ArpMessage::request(mac(0), ip4(0), ip4(number)).to_frame();
        for question in [arp.to_vec(), solicitation(number.into())] {
            let actions = world.send(FROM_A, &question);
            if known {
                assert_eq!(actions, [Action::Answer], "{number}");
            } else {
                assert_eq!(actions, everybody(), "{number}");
            }
        }
    }
}

#[test]
fn announcements_probes_of_the_own_address_and_what_is_meant_for_one_go_their_way() {
    let world = world();
    let announcement = ArpMessage::request(mac(0), ip4(0), ip4(0)).to_frame();
    let probe = ArpMessage::request(mac(0), Ipv4Addr::UNSPECIFIED, ip4(0)).to_frame();
    for frame in [announcement, probe] {
        assert_eq!(world.send(FROM_A, &frame), everybody());
    }
    // To see whether a neighbor is still there.
    let mut question = ArpMessage::request(mac(0), ip4(0), ip4(1)).to_frame();
    question[..6].copy_from_slice(&mac(1).octets());
    assert_eq!(world.send(FROM_A, &question), everybody());
    // Asked behind a tunnel: answered there.
    let asked = ArpMessage::request(mac(9), ip4(9), ip4(1)).to_frame();
    let ports = [to_port(0), to_port(1), to_port(2)];
    assert_eq!(world.send(from_peer(0), &asked), ports);
}

#[test]
fn who_wants_anothers_address_is_answered_and_who_takes_it_refused() {
    let world = world();
    let probe = ArpMessage::request(mac(0), Ipv4Addr::UNSPECIFIED, ip4(9)).to_frame();
    assert_eq!(world.send(FROM_A, &probe), [Action::Answer]);
    let taken = ArpMessage::request(mac(0), ip4(9), ip4(9)).to_frame();
    let refused = drop_for(DropReason::SpoofedAddress);
    assert_eq!(world.send(FROM_A, &taken), refused);
}

#[test]
fn networks_that_isolate_or_have_no_gateway_answer_for_nobody() {
    let mut world = world();
    let question = ArpMessage::request(mac(0), ip4(0), ip4(1)).to_frame();
    let mut spec = network(NetworkMode::Routed);
    spec.isolate = true;
    world.tables.set_network(spec);
    let refused = drop_for(DropReason::Isolated);
    assert_eq!(world.send(FROM_A, &question), refused);
    world.tables.set_network(network(NetworkMode::PlainL2));
    assert_eq!(world.send(FROM_A, &question), everybody());
}
