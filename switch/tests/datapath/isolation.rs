//! Ports of an isolated network reach the gateway, the outside and other networks, not each other.

use std::net::Ipv4Addr;
use std::sync::Arc;

use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::{Action, DropReason, NetworkMode, NetworkSpec, Place, Route, RouteSpec, Routes};
use weft_wire::{ArpMessage, PeerId, PortId};

use crate::world::*;

fn isolated() -> World {
    let mut world = World::guarded();
    let own = RouteSpec {
        address: ip4(0).into(),
        len: 24,
        route: Route::Connected(blue()),
    };
    world.tables.set_network(NetworkSpec {
        isolate: true,
        routes: Arc::new(Routes::new([own])),
        ..network(NetworkMode::Routed)
    });
    for (number, place) in [
        (0, Place::Port(PortId(0))),
        (1, Place::Port(PortId(1))),
        (9, Place::Peer(PeerId(0))),
    ] {
        world.own(number, place, 1);
        let neighbors = world.tables.neighbors();
        neighbors.set(blue(), ip4(number).into(), mac(number));
    }
    world
}

#[test]
fn ports_do_not_reach_each_other_directly_by_flooding_or_by_the_gateway() {
    let world = isolated();
    let refused = drop_for(DropReason::Isolated);
    for to in [1, 9, 77] {
        let direct = udp((0, ip4(0).into()), (to, ip4(to).into()), 10);
        assert_eq!(world.send(FROM_A, &direct), refused, "{to}");
        let mut hairpin = direct.clone();
        hairpin[..6].copy_from_slice(&GATEWAY_MAC.octets());
        assert_eq!(world.send(FROM_A, &hairpin), refused, "{to}");
    }
    let question = ArpMessage::request(mac(0), ip4(0), ip4(1)).to_frame();
    assert_eq!(world.send(FROM_A, &question), refused);
}

#[test]
fn nor_do_ports_of_other_hosts_reach_them() {
    let world = isolated();
    let frame = udp((9, ip4(9).into()), (0, ip4(0).into()), 10);
    let refused = drop_for(DropReason::Isolated);
    assert_eq!(world.send(from_peer(0), &frame), refused);
    // What a router sends there is from another network.
    let mut routed = udp(
        (0, Ipv4Addr::new(10, 33, 0, 5).into()),
        (0, ip4(0).into()),
        10,
    );
    routed[6..12].copy_from_slice(&GATEWAY_MAC.octets());
    assert_eq!(world.send(from_peer(0), &routed), [to_port(0)]);
}

#[test]
fn the_gateway_and_the_outside_are_reached_and_reach_them() {
    let mut world = isolated();
    let services = world.tables.add_services(blue(), Vec::new());
    let question = ArpMessage::request(mac(0), ip4(0), ip4(254)).to_frame();
    assert_eq!(world.send(FROM_A, &question), [Action::Answer]);
    let mut outside = udp(
        (0, ip4(0).into()),
        (0, Ipv4Addr::new(8, 8, 8, 8).into()),
        10,
    );
    outside[..6].copy_from_slice(&GATEWAY_MAC.octets());
    let out = [Action::ToPort(services)];
    assert_eq!(world.send(FROM_A, &outside), out);
    let mut back = udp(
        (0, Ipv4Addr::new(8, 8, 8, 8).into()),
        (0, ip4(0).into()),
        10,
    );
    back[6..12].copy_from_slice(&GATEWAY_MAC.octets());
    let service_port = from_port(services.0);
    assert_eq!(world.send(service_port, &back), [to_port(0)]);
}
