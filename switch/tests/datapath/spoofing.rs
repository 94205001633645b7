//! Who may send from which address. Port `n` is guarded for `mac(n)`, `ip4(n)` and `ip6(n)`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_switch::{Action, DropReason, NetworkMode, Place};
use weft_wire::{
    AdvertisementFlags, ArpMessage, ArpOperation, Icmp6, MacAddr, NeighborEnds, NeighborMessage,
    PeerId, PortId,
};

use crate::world::*;

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

fn passes(actions: &[Action]) -> bool {
    !actions
        .iter()
        .any(|action| matches!(action, Action::Drop(_)))
}

#[test]
fn the_own_mac_is_the_only_one() {
    let world = World::guarded();
    assert!(passes(&world.send(FROM_A, &frame(mac(1), mac(0)))));
    let spoofed = world.send(FROM_A, &frame(mac(2), mac(1)));
    assert_eq!(spoofed, drop_for(DropReason::SpoofedMac));
}

#[test]
fn ip_packets_come_from_own_addresses_or_none() {
    let world = World::guarded();
    let v4 = [
        (ip4(0), true),
        (ip4(1), false),
        (Ipv4Addr::UNSPECIFIED, true),
    ];
    let v6 = [
        (ip6(0), true),
        (ip6(1), false),
        (LINK_LOCAL, true),
        (Ipv6Addr::UNSPECIFIED, true),
        (Ipv6Addr::LOCALHOST, false),
    ];
    let v4 = v4.map(|(ip, fine)| (IpAddr::V4(ip), IpAddr::V4(ip4(1)), fine));
    let v6 = v6.map(|(ip, fine)| (IpAddr::V6(ip), IpAddr::V6(ip6(1)), fine));
    for (source, to, fine) in v4.into_iter().chain(v6) {
        let actions = world.send(FROM_A, &udp((0, source), (1, to), 10));
        assert_eq!(passes(&actions), fine, "{source}");
        assert!(fine || actions == drop_for(DropReason::SpoofedAddress));
    }
}

#[test]
fn arp_tells_the_truth_about_mac_and_address() {
    let world = World::guarded();
    let arp = |mac_of, sender_ip, operation| {
        let message = ArpMessage {
            operation,
            sender_mac: mac(mac_of),
            sender_ip,
            target_mac: mac(1),
            target_ip: ip4(1),
        };
        let mut bytes = message.to_frame();
        bytes[6..12].copy_from_slice(&mac(0).octets());
        world.send(FROM_A, &bytes)
    };
    for operation in [ArpOperation::Request, ArpOperation::Reply] {
        assert!(passes(&arp(0, ip4(0), operation)));
        assert!(passes(&arp(0, Ipv4Addr::UNSPECIFIED, operation)));
        assert_eq!(
            arp(0, ip4(2), operation),
            drop_for(DropReason::SpoofedAddress)
        );
        assert_eq!(arp(2, ip4(0), operation), drop_for(DropReason::SpoofedMac));
    }
}

fn ends(source: Ipv6Addr) -> NeighborEnds {
    let destination_mac = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    NeighborEnds {
        source_mac: mac(0),
        destination_mac,
        source,
        destination: ALL_NODES,
    }
}

#[test]
fn neighbor_discovery_claims_own_addresses_only() {
    let world = World::guarded();
    let send =
        |message: NeighborMessage, source| world.send(FROM_A, &message.to_frame(&ends(source)));
    let claim =
        |target, link| NeighborMessage::advertisement(target, link, AdvertisementFlags::OVERRIDE);
    assert!(passes(&send(claim(ip6(0), mac(0)), ip6(0))));
    assert!(passes(&send(claim(LINK_LOCAL, mac(0)), LINK_LOCAL)));
    let theirs = send(claim(ip6(1), mac(0)), ip6(0));
    assert_eq!(theirs, drop_for(DropReason::SpoofedAddress));
    let unspecified = send(claim(Ipv6Addr::UNSPECIFIED, mac(0)), ip6(0));
    assert_eq!(unspecified, drop_for(DropReason::SpoofedAddress));
    let link = send(claim(ip6(0), mac(1)), ip6(0));
    assert_eq!(link, drop_for(DropReason::SpoofedMac));
}

#[test]
fn asking_for_others_is_fine_but_testing_their_address_is_a_claim() {
    let world = World::guarded();
    let question = |target, source| {
        let message = NeighborMessage::solicitation(target, mac(0));
        world.send(FROM_A, &message.to_frame(&ends(source)))
    };
    assert!(passes(&question(ip6(1), ip6(0))));
    assert!(passes(&question(ip6(0), Ipv6Addr::UNSPECIFIED)));
    assert!(passes(&question(LINK_LOCAL, Ipv6Addr::UNSPECIFIED)));
    let denial = question(ip6(1), Ipv6Addr::UNSPECIFIED);
    assert_eq!(denial, drop_for(DropReason::SpoofedAddress));
}

#[test]
fn an_endpoint_is_no_router() {
    let world = World::guarded();
    let message = NeighborMessage::solicitation(ip6(1), mac(0));
    let mut bytes = message.to_frame(&ends(LINK_LOCAL));
    assert_eq!(Icmp6::new(&bytes[54..]).unwrap().message_type(), 135);
    for router in [134, 137] {
        bytes[54] = router;
        let actions = world.send(FROM_A, &bytes);
        assert_eq!(actions, drop_for(DropReason::SpoofedAddress));
    }
}

#[test]
fn what_cannot_be_checked_does_not_pass() {
    let world = World::guarded();
    for ethertype in [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd]] {
        let mut bytes = frame(mac(1), mac(0));
        bytes[12..14].copy_from_slice(&ethertype);
        assert_eq!(
            world.send(FROM_A, &bytes),
            drop_for(DropReason::Runt),
            "{ethertype:?}"
        );
    }
}

#[test]
fn a_second_tag_hides_nothing_from_a_guard() {
    let mut world = World::guarded();
    world.tables.set_network(network(NetworkMode::PlainL2));
    let [other, there] = [1, 2].map(|number| (0, IpAddr::V4(ip4(number))));
    let hidden = tagged(tagged(udp(other, there, 10), 0x8100, 6), 0x88a8, 5);
    assert_eq!(
        world.send(FROM_A, &hidden),
        drop_for(DropReason::VlanNotAllowed)
    );
}

#[test]
fn a_peer_cannot_speak_for_stations_of_others() {
    let world = World::guarded();
    world.own(0, Place::Port(PortId(0)), 1);
    world.own(9, Place::Peer(PeerId(1)), 1);
    for station in [0, 9] {
        let actions = world.send(from_peer(0), &frame(MacAddr::BROADCAST, mac(station)));
        assert_eq!(actions, drop_for(DropReason::SpoofedMac));
    }
    assert!(passes(
        &world.send(from_peer(1), &frame(MacAddr::BROADCAST, mac(9)))
    ));
}

#[test]
fn without_a_guard_any_address_may_be_behind_a_port() {
    let world = World::new(NetworkMode::PlainL2);
    world.own(8, Place::Peer(PeerId(1)), 1);
    for station in [7, 8] {
        let ends = [(station, IpAddr::V4(ip4(1))), (1, IpAddr::V4(ip4(2)))];
        assert!(passes(&world.send(FROM_A, &udp(ends[0], ends[1], 10))));
    }
    // What is owned stays where it is, all the same.
    assert_eq!(world.place_of(8), Some(Place::Peer(PeerId(1))));
}
