//! The inside port of a network: what the gateway can't answer itself goes there, and what comes from there stays here.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::{Action, DropReason, NetworkMode, Place, Source};
use weft_wire::{MacAddr, PeerId, PortId};

use crate::world::{
    FROM_A, PORTS, World, blue, drop_for, frame, from_peer, from_port, ip4, mac, to_peer, to_port,
};

const SERVICES: PortId = PortId(3);
const FROM_SERVICES: Source = Source::Port(SERVICES);
const TO_SERVICES: Action = Action::ToPort(SERVICES);

fn served() -> World {
    let mut world = World::guarded();
    assert_eq!(world.tables.add_services(blue(), Vec::new()), SERVICES);
    world
}

fn datagram(to: (MacAddr, Ipv4Addr), from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(0).octets(), to.0.octets())
        .ipv4(from.octets(), to.1.octets(), 64)
        .udp(68, port)
        .write(&mut bytes, b"?")
        .unwrap();
    bytes
}

#[test]
fn a_packet_for_the_outside_goes_to_the_services() {
    let outside = (GATEWAY_MAC, Ipv4Addr::new(192, 0, 2, 1));
    let packet = datagram(outside, ip4(0), 443);
    assert_eq!(served().send(FROM_A, &packet), [TO_SERVICES]);
    let without = World::guarded();
    assert_eq!(without.send(FROM_A, &packet), drop_for(DropReason::NoRoute));
}

#[test]
fn a_packet_for_the_gateways_own_address_goes_to_the_services() {
    let query = datagram((GATEWAY_MAC, ip4(254)), ip4(0), 53);
    assert_eq!(served().send(FROM_A, &query), [TO_SERVICES]);
    let without = World::guarded();
    assert_eq!(
        without.send(FROM_A, &query),
        drop_for(DropReason::NotAnswered)
    );
}

#[test]
fn a_dhcp_client_is_heard_by_the_services_alone() {
    let everybody = (MacAddr::BROADCAST, Ipv4Addr::BROADCAST);
    let discover = datagram(everybody, Ipv4Addr::UNSPECIFIED, 67);
    assert_eq!(served().send(FROM_A, &discover), [TO_SERVICES]);
    let flooded = [to_port(1), to_port(2), to_peer(0), to_peer(1)];
    assert_eq!(World::guarded().send(FROM_A, &discover), flooded);
    let other = datagram(everybody, Ipv4Addr::UNSPECIFIED, 1967);
    assert_eq!(served().send(FROM_A, &other), flooded);
}

#[test]
fn a_flood_leaves_the_services_out() {
    let world = served();
    let broadcast = frame(MacAddr::BROADCAST, mac(0));
    let others = [to_port(1), to_port(2), to_peer(0), to_peer(1)];
    assert_eq!(world.send(FROM_A, &broadcast), others);
    let ports = [to_port(0), to_port(1), to_port(2)];
    assert_eq!(
        world.send(from_peer(0), &frame(MacAddr::BROADCAST, mac(9))),
        ports
    );
}

#[test]
fn what_the_services_say_stays_on_this_host() {
    let world = served();
    world.own(1, Place::Port(PORTS[1]), 1);
    world.own(9, Place::Peer(PeerId(0)), 1);
    let to = |station| world.send(FROM_SERVICES, &frame(mac(station), GATEWAY_MAC));
    assert_eq!(to(1), [to_port(1)]);
    assert_eq!(to(9), drop_for(DropReason::SplitHorizon));
    assert_eq!(to(77), drop_for(DropReason::NoListener));
    let all = world.send(FROM_SERVICES, &frame(MacAddr::BROADCAST, GATEWAY_MAC));
    assert_eq!(all, [to_port(0), to_port(1), to_port(2)]);
}

#[test]
fn the_gateways_mac_is_never_learned() {
    let world = served();
    world.send(FROM_SERVICES, &frame(MacAddr::BROADCAST, GATEWAY_MAC));
    world.send(from_peer(0), &frame(MacAddr::BROADCAST, GATEWAY_MAC));
    assert!(world.fdb.rows(world.now, |_| None).is_empty());
}

#[test]
fn no_port_is_the_gateway() {
    let world = World::new(NetworkMode::Routed);
    let forged = frame(MacAddr::BROADCAST, GATEWAY_MAC);
    assert_eq!(
        world.send(from_port(1), &forged),
        drop_for(DropReason::SpoofedMac)
    );
}

#[test]
fn services_that_leave_get_nothing() {
    let mut world = served();
    assert!(world.tables.move_port(SERVICES, None));
    let outside = datagram((GATEWAY_MAC, Ipv4Addr::new(192, 0, 2, 1)), ip4(0), 443);
    assert_eq!(world.send(FROM_A, &outside), drop_for(DropReason::NoRoute));
}
