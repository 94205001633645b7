//! Who gets a frame that is for everybody, or for somebody nobody knows.

use weft_switch::{Action, DropReason, NetworkMode, Place};
use weft_wire::{MacAddr, PeerId, PortId, Vni};

use crate::world::*;

#[test]
fn broadcast_multicast_and_unknown_unicast_go_to_every_other_port_and_every_peer() {
    let world = World::new(NetworkMode::Routed);
    for to in [
        MacAddr::BROADCAST,
        MacAddr([0x33, 0x33, 0, 0, 0, 1]),
        mac(99),
    ] {
        let actions = world.send(from_port(1), &frame(to, mac(1)));
        assert_eq!(actions, [to_port(0), to_port(2), to_peer(0), to_peer(1)]);
    }
}

#[test]
fn what_came_from_a_tunnel_is_flooded_to_ports_only() {
    let world = World::new(NetworkMode::Routed);
    let actions = world.send(from_peer(0), &frame(MacAddr::BROADCAST, mac(9)));
    assert_eq!(actions, [to_port(0), to_port(1), to_port(2)]);
}

#[test]
fn a_frame_never_goes_from_a_tunnel_to_a_tunnel_nor_back_to_its_port() {
    let world = World::new(NetworkMode::Routed);
    world.own(9, Place::Peer(PeerId(1)), 1);
    let onwards = world.send(from_peer(0), &frame(mac(9), mac(8)));
    assert_eq!(onwards, drop_for(DropReason::SplitHorizon));
    let back = world.send(from_peer(1), &frame(mac(9), mac(7)));
    assert_eq!(back, drop_for(DropReason::SplitHorizon));
    world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(5)));
    let hairpin = world.send(FROM_A, &frame(mac(5), mac(0)));
    assert_eq!(hairpin, drop_for(DropReason::SameSide));
}

#[test]
fn networks_are_apart() {
    let mut world = World::new(NetworkMode::Routed);
    let green = Vni::new(200).unwrap();
    let mut spec = network(NetworkMode::Routed);
    (spec.vni, spec.flood_peers) = (green, vec![PeerId(1)]);
    let id = world.tables.add_port(green, None, Vec::new());
    // The network comes after its port.
    world.tables.set_network(spec);
    assert_eq!(id, PortId(3));
    let second = world.tables.add_port(green, None, Vec::new());
    world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(0)));
    let green_peer = Action::ToPeer {
        peer: PeerId(1),
        vni: green,
    };
    let actions = world.send(from_port(3), &frame(mac(0), mac(3)));
    assert_eq!(actions, [Action::ToPort(second), green_peer]);
    let blue = world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(0)));
    assert_eq!(blue, [to_port(1), to_port(2), to_peer(0), to_peer(1)]);
}

#[test]
fn alone_in_a_network_there_is_nobody_to_flood_to() {
    let mut world = World::new(NetworkMode::Routed);
    let red = Vni::new(300).unwrap();
    let mut spec = network(NetworkMode::Routed);
    (spec.vni, spec.flood_peers) = (red, Vec::new());
    world.tables.set_network(spec);
    let id = world.tables.add_port(red, None, Vec::new());
    let actions = world.send(
        weft_switch::Source::Port(id),
        &frame(MacAddr::BROADCAST, mac(1)),
    );
    assert_eq!(actions, drop_for(DropReason::NoListener));
}
