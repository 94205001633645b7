//! Frames that end here, each for its one reason.

use weft_switch::{DropReason, NetworkMode, Place, Source};
use weft_wire::{MacAddr, PeerId, PortId, Vni};

use crate::world::*;

#[test]
fn runts_are_refused_whatever_their_length() {
    let world = World::new(NetworkMode::PlainL2);
    let whole = frame(mac(1), mac(0));
    for len in 0..14 {
        assert_eq!(
            world.send(FROM_A, &whole[..len]),
            drop_for(DropReason::Runt)
        );
        assert_eq!(
            world.send(from_peer(0), &whole[..len]),
            drop_for(DropReason::Runt)
        );
    }
    assert_eq!(world.send(FROM_A, &whole[..14]).len(), 4);
    let cut_tag = tagged(whole, 0x8100, 5);
    assert_eq!(
        world.send(FROM_A, &cut_tag[..17]),
        drop_for(DropReason::Runt)
    );
}

#[test]
fn group_and_zero_addresses_send_nothing() {
    let world = World::new(NetworkMode::PlainL2);
    for source in [
        MacAddr::BROADCAST,
        MacAddr::ZERO,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
    ] {
        let actions = world.send(FROM_A, &frame(MacAddr::BROADCAST, source));
        assert_eq!(actions, drop_for(DropReason::BadSource));
    }
}

#[test]
fn link_local_protocols_of_bridges_stay_on_their_link() {
    let world = World::new(NetworkMode::PlainL2);
    for last in 0..=0x0f {
        let to = MacAddr([0x01, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(
            world.send(FROM_A, &frame(to, mac(0))),
            drop_for(DropReason::LinkReserved)
        );
    }
    let beyond = MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]);
    assert_eq!(world.send(FROM_A, &frame(beyond, mac(0))).len(), 4);
}

#[test]
fn a_network_that_is_not_here_takes_nothing() {
    let mut world = World::new(NetworkMode::Routed);
    let vni = Vni::new(4711).unwrap();
    let stranger = Source::Peer {
        peer: PeerId(0),
        vni,
    };
    let broadcast = frame(MacAddr::BROADCAST, mac(9));
    assert_eq!(
        world.send(stranger, &broadcast),
        drop_for(DropReason::UnknownVni)
    );
    world.tables.remove_network(blue());
    assert_eq!(
        world.send(FROM_A, &broadcast),
        drop_for(DropReason::UnknownVni)
    );
}

#[test]
fn a_port_that_is_not_there_neither_sends_nor_receives() {
    let world = World::new(NetworkMode::Routed);
    let nobody = world.send(from_port(77), &frame(mac(1), mac(9)));
    assert_eq!(nobody, drop_for(DropReason::PortGone));
    world.own(9, Place::Port(PortId(77)), 1);
    let actions = world.send(FROM_A, &frame(mac(9), mac(0)));
    assert_eq!(actions, drop_for(DropReason::PortGone));
}

#[test]
fn an_entry_that_points_to_a_port_of_another_network_delivers_nothing() {
    let mut world = World::new(NetworkMode::Routed);
    let other = world
        .tables
        .add_port(Vni::new(200).unwrap(), None, Vec::new());
    world.own(9, Place::Port(other), 1);
    let actions = world.send(FROM_A, &frame(mac(9), mac(0)));
    assert_eq!(actions, drop_for(DropReason::PortGone));
}

#[test]
fn a_port_on_no_network_neither_sends_nor_receives_until_it_is_put_back() {
    let mut world = World::new(NetworkMode::Routed);
    let broadcast = frame(MacAddr::BROADCAST, mac(9));
    assert!(world.tables.move_port(PORTS[1], None));
    assert_eq!(
        world.send(from_port(1), &broadcast),
        drop_for(DropReason::UnknownVni)
    );
    let flooded = world.send(FROM_A, &broadcast);
    assert!(!flooded.contains(&to_port(1)), "{flooded:?}");
    world.own(1, Place::Port(PORTS[1]), 1);
    assert_eq!(
        world.send(FROM_A, &frame(mac(1), mac(9))),
        drop_for(DropReason::PortGone)
    );
    assert!(world.tables.move_port(PORTS[1], Some(blue())));
    assert_eq!(world.send(FROM_A, &frame(mac(1), mac(9))), [to_port(1)]);
}
