//! A port of the host by which what has no route leaves: the host's kernel routes on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::{Action, DropReason, NetworkMode, NetworkSpec, Place, Routed};
use weft_wire::{ArpMessage, NeighborEnds, NeighborMessage, PortId, Vni};

use crate::world::*;

/// Whose port is the exit.
const HOST: u8 = 2;

fn outside4() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 2).into()
}

fn outside6() -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into()
}

/// Port 2 is the host's, and the network has services, too.
fn world() -> World {
    let mut world = World::guarded();
    world.tables.add_services(blue(), Vec::new());
    assert!(world.tables.set_exit(PortId(HOST.into()), Some(mac(HOST))));
    world.own(0, Place::Port(PortId(0)), 1);
    world.own(HOST, Place::Port(PortId(HOST.into())), 1);
    world
}

fn out_from(number: u8, to: IpAddr) -> Vec<u8> {
    let from = match to {
        IpAddr::V4(_) => ip4(number).into(),
        IpAddr::V6(_) => ip6(number.into()).into(),
    };
    let mut frame = udp((number, from), (0, to), 10);
    frame[..6].copy_from_slice(&GATEWAY_MAC.octets());
    frame
}

fn leaves() -> Vec<Action> {
    vec![Action::Routed(Routed {
        destination: mac(HOST),
        place: Place::Port(PortId(HOST.into())),
        vni: blue(),
        cut: None,
    })]
}

#[test]
fn what_has_no_route_leaves_by_it_and_what_is_for_the_services_does_not() {
    let world = world();
    for to in [outside4(), outside6()] {
        assert_eq!(world.send(FROM_A, &out_from(0, to)), leaves(), "{to}");
    }
    // A name server's port at the gateway itself.
    let ask = out_from(0, ip4(254).into());
    assert_eq!(world.send(FROM_A, &ask), [to_port(3)]);
    // Its last hop was the gateway: not even to the host.
    let mut spent = out_from(0, outside4());
    spent[22] = 1;
    assert_eq!(
        world.send(FROM_A, &spent),
        drop_for(DropReason::TtlExceeded)
    );
}

#[test]
fn it_may_send_from_anywhere_but_only_as_itself_and_never_as_the_router() {
    let world = world();
    let host = from_port(HOST.into());
    for (from, to) in [
        (outside4(), IpAddr::from(ip4(0))),
        (outside6(), ip6(0).into()),
    ] {
        let back = udp((HOST, from), (0, to), 10);
        assert_eq!(world.send(host, &back), [to_port(0)]);
        let mut forged = back.clone();
        forged[6..12].copy_from_slice(&mac(0).octets());
        assert_eq!(world.send(host, &forged), drop_for(DropReason::SpoofedMac));
        // Others may not.
        let lie = udp((0, from), (HOST, to), 10);
        assert_eq!(
            world.send(FROM_A, &lie),
            drop_for(DropReason::SpoofedAddress)
        );
    }
    for kind in [134, 137] {
        let message = NeighborMessage::solicitation(ip6(0), mac(HOST));
        let mut speaks = message.to_frame(&NeighborEnds {
            source_mac: mac(HOST),
            destination_mac: mac(0),
            source: ip6(HOST.into()),
            destination: ip6(0),
        });
        speaks[54] = kind;
        let refused = drop_for(DropReason::SpoofedAddress);
        assert_eq!(world.send(host, &speaks), refused, "{kind}");
    }
}

#[test]
fn what_it_sends_to_the_gateway_does_not_come_back_to_it() {
    let world = world();
    let around = out_from(HOST, outside4());
    assert_eq!(
        world.send(from_port(HOST.into()), &around),
        drop_for(DropReason::RouteLoop)
    );
}

#[test]
fn without_it_the_services_are_asked_and_a_guard_holds_again() {
    let mut world = world();
    let out = out_from(0, outside4());
    let lie = udp((HOST, outside4()), (0, ip4(0).into()), 10);
    assert!(world.tables.set_exit(PortId(HOST.into()), None));
    assert_eq!(world.send(FROM_A, &out), [to_port(3)]);
    assert_eq!(
        world.send(from_port(HOST.into()), &lie),
        drop_for(DropReason::SpoofedAddress)
    );
    assert!(world.tables.set_exit(PortId(HOST.into()), Some(mac(HOST))));
    assert_eq!(world.send(FROM_A, &out), leaves());
    // A network that is changed keeps it; one that its port left doesn't.
    world.tables.set_network(network(NetworkMode::Routed));
    assert_eq!(world.send(FROM_A, &out), leaves());
    let elsewhere = Vni::new(4_000).unwrap();
    world.tables.move_port(PortId(HOST.into()), Some(elsewhere));
    assert_eq!(world.send(FROM_A, &out), [to_port(3)]);
    assert!(!world.tables.set_exit(PortId(77), None));
}

#[test]
fn isolated_ports_reach_it_and_not_each_other() {
    let mut world = world();
    world.own(1, Place::Port(PortId(1)), 1);
    world.tables.set_network(NetworkSpec {
        isolate: true,
        ..network(NetworkMode::Routed)
    });
    let host = from_port(HOST.into());
    assert_eq!(world.send(FROM_A, &out_from(0, outside4())), leaves());
    let back = udp((HOST, outside4()), (0, ip4(0).into()), 10);
    assert_eq!(world.send(host, &back), [to_port(0)]);
    // The host asks who has an address: its own containers, which answer.
    let ask = ArpMessage::request(mac(HOST), ip4(HOST), ip4(0)).to_frame();
    assert_eq!(world.send(host, &ask), [to_port(0), to_port(1)]);
    let answer = udp((0, ip4(0).into()), (HOST, ip4(HOST).into()), 10);
    assert_eq!(world.send(FROM_A, &answer), [to_port(HOST.into())]);
    let ask = ArpMessage::request(mac(0), ip4(0), ip4(HOST)).to_frame();
    assert_eq!(world.send(FROM_A, &ask), [to_port(HOST.into())]);
    let other = udp((0, ip4(0).into()), (1, ip4(1).into()), 10);
    assert_eq!(world.send(FROM_A, &other), drop_for(DropReason::Isolated));
}
