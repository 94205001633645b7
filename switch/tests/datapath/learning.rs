//! What the switch remembers of source addresses, and for how long.

use std::time::Duration;

use weft_switch::{DropReason, NetworkMode, Place};
use weft_wire::{MacAddr, PeerId, PortId};

use crate::world::*;

#[test]
fn an_answer_goes_to_the_port_the_question_came_from_only() {
    let world = World::new(NetworkMode::Routed);
    world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(0)));
    let answer = world.send(from_port(1), &frame(mac(0), mac(1)));
    assert_eq!(answer, [to_port(0)]);
    assert_eq!(world.send(FROM_A, &frame(mac(1), mac(0))), [to_port(1)]);
}

#[test]
fn a_station_behind_a_peer_is_answered_through_that_tunnel_only() {
    let world = World::new(NetworkMode::Routed);
    world.send(from_peer(1), &frame(MacAddr::BROADCAST, mac(9)));
    assert_eq!(world.send(FROM_A, &frame(mac(9), mac(0))), [to_peer(1)]);
}

#[test]
fn a_station_that_shows_elsewhere_has_moved_at_once() {
    let world = World::new(NetworkMode::PlainL2);
    world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(7)));
    world.send(from_peer(0), &frame(MacAddr::BROADCAST, mac(7)));
    assert_eq!(world.place_of(7), Some(Place::Peer(PeerId(0))));
    world.send(from_port(2), &frame(MacAddr::BROADCAST, mac(7)));
    assert_eq!(world.send(FROM_A, &frame(mac(7), mac(0))), [to_port(2)]);
}

#[test]
fn an_address_is_forgotten_when_it_was_silent_for_the_ageing_time() {
    let mut world = World::new(NetworkMode::Routed);
    world.send(from_port(1), &frame(MacAddr::BROADCAST, mac(1)));
    world.pass(Duration::from_millis(299_999));
    assert_eq!(world.send(FROM_A, &frame(mac(1), mac(0))), [to_port(1)]);
    world.pass(Duration::from_millis(1));
    let flood = [to_port(1), to_port(2), to_peer(0), to_peer(1)];
    assert_eq!(world.send(FROM_A, &frame(mac(1), mac(0))), flood);
    // Speaking again keeps it.
    world.send(from_port(1), &frame(mac(0), mac(1)));
    world.pass(Duration::from_secs(200));
    world.send(from_port(1), &frame(mac(0), mac(1)));
    world.pass(Duration::from_secs(200));
    assert_eq!(world.send(FROM_A, &frame(mac(1), mac(0))), [to_port(1)]);
}

#[test]
fn refused_frames_teach_nothing() {
    let world = World::guarded();
    let spoofed = world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(7)));
    assert_eq!(spoofed, drop_for(DropReason::SpoofedMac));
    world.send(
        from_peer(0),
        &tagged(frame(MacAddr::BROADCAST, mac(8)), 0x8100, 5),
    );
    let mut large = frame(MacAddr::BROADCAST, mac(0));
    large.resize(1465, 0);
    assert_eq!(world.send(FROM_A, &large), drop_for(DropReason::TooBig));
    assert_eq!([0, 7, 8].map(|station| world.place_of(station)), [None; 3]);
    assert_eq!(world.fdb.counts().entries, 0);
}

#[test]
fn what_the_control_plane_owns_is_neither_aged_nor_moved_by_frames() {
    let mut world = World::new(NetworkMode::PlainL2);
    world.own(9, Place::Peer(PeerId(1)), 4);
    world.send(from_port(2), &frame(MacAddr::BROADCAST, mac(9)));
    world.pass(Duration::from_secs(1_000_000));
    assert_eq!(world.place_of(9), Some(Place::Peer(PeerId(1))));
    world.own(9, Place::Port(PortId(2)), 3);
    assert_eq!(world.place_of(9), Some(Place::Peer(PeerId(1))));
    world.own(9, Place::Port(PortId(2)), 5);
    assert_eq!(world.send(FROM_A, &frame(mac(9), mac(0))), [to_port(2)]);
}

#[test]
fn a_network_that_forgets_at_once_floods_everything() {
    let mut world = World::new(NetworkMode::PlainL2);
    let mut spec = network(NetworkMode::PlainL2);
    (spec.ageing, spec.flood_peers) = (Duration::ZERO, Vec::new());
    world.tables.set_network(spec);
    world.send(from_port(1), &frame(MacAddr::BROADCAST, mac(1)));
    assert_eq!(
        world.send(FROM_A, &frame(mac(1), mac(0))),
        [to_port(1), to_port(2)]
    );
}
