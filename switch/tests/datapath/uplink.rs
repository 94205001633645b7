//! A link of the host in a network: this host's endpoints are on its LAN, and nothing goes round.

use weft_switch::{Action, DropReason, NetworkMode, Place, Source};
use weft_wire::{MacAddr, PeerId, PortId};

use crate::world::{FROM_A, PORTS, World, blue, drop_for, frame, from_peer, mac, to_peer, to_port};

const LINK: PortId = PortId(3);
const FROM_LINK: Source = Source::Port(LINK);
const TO_LINK: Action = Action::ToPort(LINK);
/// A station of the LAN.
const STRANGER: u8 = 0x77;

fn linked() -> World {
    let mut world = World::new(NetworkMode::PlainL2);
    assert_eq!(world.tables.add_uplink(blue(), Vec::new()), LINK);
    world
}

#[test]
fn endpoints_of_this_host_and_the_lan_hear_each_other() {
    let world = linked();
    world.own(0, Place::Port(PORTS[0]), 1);
    let everybody = [to_port(1), to_port(2), TO_LINK, to_peer(0), to_peer(1)];
    assert_eq!(
        world.send(FROM_A, &frame(MacAddr::BROADCAST, mac(0))),
        everybody
    );
    let here = [to_port(0), to_port(1), to_port(2)];
    let greeting = frame(MacAddr::BROADCAST, mac(STRANGER));
    assert_eq!(world.send(FROM_LINK, &greeting), here);
    assert_eq!(world.send(FROM_A, &frame(mac(STRANGER), mac(0))), [TO_LINK]);
    assert_eq!(
        world.send(FROM_LINK, &frame(mac(0), mac(STRANGER))),
        [to_port(0)]
    );
}

#[test]
fn tunnels_and_the_lan_never_hear_each_other() {
    let world = linked();
    world.own(9, Place::Peer(PeerId(0)), 1);
    let to_peer = frame(mac(9), mac(STRANGER));
    assert_eq!(
        world.send(FROM_LINK, &to_peer),
        drop_for(DropReason::SplitHorizon)
    );
    let to_lan = frame(mac(STRANGER), mac(9));
    assert_eq!(
        world.send(from_peer(0), &to_lan),
        drop_for(DropReason::SplitHorizon)
    );
    let here = [to_port(0), to_port(1), to_port(2)];
    let greeting = frame(MacAddr::BROADCAST, mac(9));
    assert_eq!(world.send(from_peer(0), &greeting), here);
}

#[test]
fn what_the_lan_brings_back_is_not_heard_twice() {
    let world = linked();
    // One is known from the control plane, one was learned.
    world.own(9, Place::Peer(PeerId(0)), 1);
    world.send(from_peer(1), &frame(MacAddr::BROADCAST, mac(10)));
    world.own(0, Place::Port(PORTS[0]), 1);
    for station in [9, 10, 0] {
        let again = frame(MacAddr::BROADCAST, mac(station));
        assert_eq!(
            world.send(FROM_LINK, &again),
            drop_for(DropReason::CameBack)
        );
    }
    assert_eq!(world.place_of(10), Some(Place::Peer(PeerId(1))));
}

#[test]
fn an_isolated_network_reaches_the_lan_and_nothing_else() {
    let mut world = linked();
    world.tables.set_network(weft_switch::NetworkSpec {
        isolate: true,
        ..crate::world::network(NetworkMode::PlainL2)
    });
    world.own(1, Place::Port(PORTS[1]), 1);
    let broadcast = frame(MacAddr::BROADCAST, mac(0));
    assert_eq!(world.send(FROM_A, &broadcast), [TO_LINK]);
    assert_eq!(
        world.send(FROM_A, &frame(mac(1), mac(0))),
        drop_for(DropReason::Isolated)
    );
    world.send(FROM_LINK, &frame(MacAddr::BROADCAST, mac(STRANGER)));
    assert_eq!(world.send(FROM_A, &frame(mac(STRANGER), mac(0))), [TO_LINK]);
}

#[test]
fn what_is_for_other_stations_of_the_lan_is_not_ours() {
    let world = linked();
    world.send(FROM_LINK, &frame(MacAddr::BROADCAST, mac(STRANGER)));
    let between = frame(mac(STRANGER), mac(STRANGER + 1));
    assert_eq!(
        world.send(FROM_LINK, &between),
        drop_for(DropReason::SameSide)
    );
    let unknown = frame(mac(STRANGER + 2), mac(STRANGER));
    // Where the control plane knows every endpoint, this is none; else it may be one.
    let here = [to_port(0), to_port(1), to_port(2)];
    assert_eq!(world.send(FROM_LINK, &unknown), here);
    let mut world = World::new(NetworkMode::Routed);
    world.tables.add_uplink(blue(), Vec::new());
    assert_eq!(
        world.send(FROM_LINK, &unknown),
        drop_for(DropReason::NoListener)
    );
}
