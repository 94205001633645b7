//! What a port sends to the gateway for somebody else goes where the router of its network says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::{
    Action, DropReason, NetworkMode, NetworkSpec, Place, PortGuard, Route, RouteSpec, Routed,
    Routes, Source, Tables,
};
use weft_wire::{
    FrameRef, Gso, GsoKind, MacAddr, Mtu, Offload, PartialChecksum, PeerId, PortId, Vni,
};

use crate::world::*;

/// The port on network red.
const RED_PORT: PortId = PortId(3);
/// Station on red behind [`RED_PORT`], and one behind peer 1.
const NEAR: u8 = 30;
const FAR: u8 = 31;

fn red() -> Vni {
    Vni::new(200).unwrap()
}

fn red4(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 33, 0, number).into()
}

fn red6(number: u16) -> IpAddr {
    Ipv6Addr::new(0xfd33, 0, 0, 0, 0, 0, 0, number).into()
}

fn routes() -> Routes {
    let route = |text: &str, route| {
        let (address, len) = text.split_once('/').unwrap();
        RouteSpec {
            address: address.parse().unwrap(),
            len: len.parse().unwrap(),
            route,
        }
    };
    let (here, there) = (Route::Connected(blue()), Route::Connected(red()));
    Routes::new([
        route("10.32.0.0/24", here),
        route("10.32.0.254/32", Route::Local),
        route("fd00::/64", here),
        route("10.33.0.0/24", there),
        route("10.33.0.254/32", Route::Local),
        route("fd33::/64", there),
        route("10.50.0.0/16", Route::Via(red(), red4(FAR))),
        route("10.51.0.0/16", Route::Via(blue(), ip4(0).into())),
        route("10.52.0.0/16", Route::Via(red(), red4(99))),
    ])
}

/// Blue and red on one router, port 3 and peer 1 with a station on red.
fn world() -> World {
    let mut world = World::guarded();
    let routes = Arc::new(routes());
    let spec = network(NetworkMode::Routed);
    world.tables.set_network(NetworkSpec {
        vni: red(),
        name: "red".to_owned(),
        gateways: vec![red4(254)],
        routes: Arc::clone(&routes),
        ..spec.clone()
    });
    world.tables.set_network(NetworkSpec { routes, ..spec });
    let guard = PortGuard {
        mac: mac(NEAR),
        ips: vec![red4(NEAR)],
    };
    let port = world.tables.add_port(red(), Some(guard), Vec::new());
    assert_eq!(port, RED_PORT);
    for (station, place) in [(NEAR, Place::Port(RED_PORT)), (FAR, Place::Peer(PeerId(1)))] {
        world.own_on(red(), station, place);
        let neighbors = world.tables.neighbors();
        neighbors.set(red(), red4(station), mac(station));
        neighbors.set(red(), red6(station.into()), mac(station));
    }
    for number in [0, 1] {
        world.own_on(blue(), number, Place::Port(PortId(number.into())));
        let neighbors = world.tables.neighbors();
        neighbors.set(blue(), ip4(number).into(), mac(number));
    }
    world
}

/// From port 0 to the gateway, for `to`.
fn packet(to: IpAddr, len: usize) -> Vec<u8> {
    let from = match to {
        IpAddr::V4(_) => ip4(0).into(),
        IpAddr::V6(_) => ip6(0).into(),
    };
    to_gateway(udp((0, from), (0, to), len))
}

fn to_gateway(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&GATEWAY_MAC.octets());
    frame
}

fn routed(station: u8, place: Place, vni: Vni) -> Vec<Action> {
    vec![Action::Routed(Routed {
        destination: mac(station),
        place,
        vni,
        cut: None,
    })]
}

#[test]
fn another_network_of_the_router_is_reached_on_this_host_and_others_by_both_families() {
    let world = world();
    for to in [red4, |number| red6(u16::from(number))] {
        let near = world.send(FROM_A, &packet(to(NEAR), 100));
        assert_eq!(near, routed(NEAR, Place::Port(RED_PORT), red()));
        let far = world.send(FROM_A, &packet(to(FAR), 100));
        assert_eq!(far, routed(FAR, Place::Peer(PeerId(1)), red()));
    }
}

#[test]
fn a_static_route_leads_to_its_next_hop() {
    let world = world();
    let behind = Ipv4Addr::new(10, 50, 7, 7).into();
    let far = routed(FAR, Place::Peer(PeerId(1)), red());
    assert_eq!(world.send(FROM_A, &packet(behind, 100)), far);
    let nobody = Ipv4Addr::new(10, 52, 0, 1).into();
    let refused = drop_for(DropReason::NoNeighbor);
    assert_eq!(world.send(FROM_A, &packet(nobody, 100)), refused);
    // Back to where it came from: a loop.
    let back = Ipv4Addr::new(10, 51, 0, 1).into();
    let refused = drop_for(DropReason::RouteLoop);
    assert_eq!(world.send(FROM_A, &packet(back, 100)), refused);
}

#[test]
fn the_own_network_is_reached_by_the_gateway_too() {
    let world = world();
    let there = routed(1, Place::Port(PortId(1)), blue());
    assert_eq!(world.send(FROM_A, &packet(ip4(1).into(), 100)), there);
}

#[test]
fn networks_without_a_common_router_stay_apart() {
    let mut world = world();
    world.tables.set_network(network(NetworkMode::Routed));
    let refused = drop_for(DropReason::NoRoute);
    assert_eq!(world.send(FROM_A, &packet(red4(NEAR), 100)), refused);
}

#[test]
fn what_is_inside_never_goes_out() {
    let mut world = world();
    let services = world.tables.add_services(blue(), Vec::new());
    let strange = packet(Ipv4Addr::new(10, 34, 0, 9).into(), 10);
    let out = [Action::ToPort(services)];
    assert_eq!(world.send(FROM_A, &strange), out);
    let inside = RouteSpec {
        address: Ipv4Addr::new(10, 34, 0, 0).into(),
        len: 16,
        route: Route::Local,
    };
    world.tables.set_subnets(Arc::new(Routes::new([inside])));
    let refused = drop_for(DropReason::NoRoute);
    assert_eq!(world.send(FROM_A, &strange), refused);
    let elsewhere = packet(Ipv4Addr::new(10, 35, 0, 9).into(), 10);
    assert_eq!(world.send(FROM_A, &elsewhere), out);
}

#[test]
fn who_nobody_is_and_what_has_no_route_is_told() {
    let world = world();
    for (to, reason) in [
        (red4(77), DropReason::NoNeighbor),
        (red6(77), DropReason::NoNeighbor),
        (Ipv4Addr::new(10, 99, 0, 1).into(), DropReason::NoRoute),
        (ip6(77).into(), DropReason::NoNeighbor),
    ]
    .map(|(to, reason): (IpAddr, _)| (to, reason))
    {
        assert_eq!(world.send(FROM_A, &packet(to, 10)), drop_for(reason));
    }
}

#[test]
fn the_last_hop_is_the_last() {
    let world = world();
    for (time, passes) in [(0, false), (1, false), (2, true), (255, true)] {
        for to in [red4(NEAR), red6(NEAR.into())] {
            let mut frame = packet(to, 10);
            frame[if to.is_ipv4() { 22 } else { 21 }] = time;
            let actions = world.send(FROM_A, &frame);
            let expired = actions == drop_for(DropReason::TtlExceeded);
            assert_eq!(expired, !passes, "{to} {time}");
        }
    }
    // Also on the way out of the cluster, before anybody else hears of it.
    let mut frame = packet(Ipv4Addr::new(8, 8, 8, 8).into(), 10);
    frame[22] = 1;
    let expired = drop_for(DropReason::TtlExceeded);
    assert_eq!(world.send(FROM_A, &frame), expired);
}

#[test]
fn a_narrower_network_takes_what_fits_and_segments_that_do() {
    let mut world = world();
    let narrow = NetworkSpec {
        vni: red(),
        name: "red".to_owned(),
        mtu: Mtu::new(1300).unwrap(),
        gateways: vec![red4(254)],
        ..network(NetworkMode::Routed)
    };
    world.tables.set_network(narrow);
    let there = routed(NEAR, Place::Port(RED_PORT), red());
    let fits = packet(red4(NEAR), 1300 - 28);
    assert_eq!(world.send(FROM_A, &fits), there);
    let more = packet(red4(NEAR), 1300 - 27);
    assert_eq!(world.send(FROM_A, &more), drop_for(DropReason::TooBig));
    for (size, fits) in [(1272, true), (1273, false)] {
        let bytes = packet(red4(NEAR), 20_000);
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 6,
            }),
            gso: Some(Gso {
                kind: GsoKind::Udp,
                size: size.try_into().unwrap(),
                ecn: false,
            }),
        };
        let actions = world.send_frame(FROM_A, FrameRef::new(&bytes, offload));
        assert_eq!(actions == there, fits, "segments of {size}");
    }
    // Whose sender allows it is cut where it is carried out.
    let mut loose = more;
    loose[20] &= !0x40;
    loose[24..26].copy_from_slice(&[0, 0]);
    let checksum = weft_wire::checksum::Sum::of(&loose[14..34]).finish();
    loose[24..26].copy_from_slice(&checksum.to_be_bytes());
    let [Action::Routed(routed)] = there[..] else {
        panic!("{there:?}")
    };
    let cut = Routed {
        cut: Mtu::new(1300).ok(),
        ..routed
    };
    assert_eq!(world.send(FROM_A, &loose), [Action::Routed(cut)]);
}

#[test]
fn gateways_of_other_networks_answer_pings_and_nothing_else() {
    let world = world();
    let mut echo = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac(0).octets(), GATEWAY_MAC.octets())
        .ipv4(ip4(0).octets(), [10, 33, 0, 254], 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut echo, &[7; 20])
        .unwrap();
    assert_eq!(world.send(FROM_A, &echo), [Action::Answer]);
    let silent = drop_for(DropReason::NotAnswered);
    assert_eq!(world.send(FROM_A, &packet(red4(254), 10)), silent);
}

#[test]
fn what_belongs_to_the_link_stays_there() {
    let world = world();
    let no_route = drop_for(DropReason::NoRoute);
    for to in [
        "169.254.1.1",
        "224.0.0.5",
        "127.0.0.1",
        "fe80::1",
        "ff02::5",
        "::1",
    ] {
        let frame = packet(to.parse().unwrap(), 10);
        assert_eq!(world.send(FROM_A, &frame), no_route, "{to}");
    }
    // Link-local addresses are everybody's own choice, and nobody's elsewhere.
    let from = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9);
    let frame = to_gateway(udp((0, from.into()), (0, red6(NEAR.into())), 10));
    assert_eq!(world.send(FROM_A, &frame), no_route);
}

#[test]
fn a_spoofed_source_is_refused_before_it_is_routed() {
    let world = world();
    let frame = to_gateway(udp((0, ip4(1).into()), (0, red4(NEAR)), 10));
    let spoofed = drop_for(DropReason::SpoofedAddress);
    assert_eq!(world.send(FROM_A, &frame), spoofed);
}

#[test]
fn what_another_host_routed_is_delivered_and_teaches_nothing() {
    let world = world();
    let from = Source::Peer {
        peer: PeerId(0),
        vni: red(),
    };
    let mut frame = udp((0, ip4(9).into()), (NEAR, red4(NEAR)), 10);
    frame[6..12].copy_from_slice(&GATEWAY_MAC.octets());
    let delivered = [Action::ToPort(RED_PORT)];
    assert_eq!(world.send(from, &frame), delivered);
    assert_eq!(world.place_on(red(), GATEWAY_MAC), None);
    // To the gateway: each host routes for its own ports.
    let hairpin = to_gateway(udp((9, ip4(9).into()), (0, red4(FAR)), 10));
    let actions = world.send(from_peer(0), &hairpin);
    assert!(
        !actions
            .iter()
            .any(|action| matches!(action, Action::Routed(_) | Action::ToPeer { .. })),
        "{actions:?}"
    );
}

#[test]
fn an_internal_network_reaches_its_router_and_nothing_beyond() {
    let mut world = world();
    let services = world.tables.add_services(blue(), Vec::new());
    let outside = packet(Ipv4Addr::new(8, 8, 8, 8).into(), 10);
    let out = [Action::ToPort(services)];
    assert_eq!(world.send(FROM_A, &outside), out);
    set(&mut world.tables, |spec| spec.internal = true);
    let inside = routed(NEAR, Place::Port(RED_PORT), red());
    assert_eq!(world.send(FROM_A, &packet(red4(NEAR), 10)), inside);
    let refused = drop_for(DropReason::NoRoute);
    assert_eq!(world.send(FROM_A, &outside), refused);
    // Its services are its own.
    let asks = packet(ip4(254).into(), 10);
    assert_eq!(world.send(FROM_A, &asks), out);
}

/// Changes network blue.
fn set(tables: &mut Tables, change: impl FnOnce(&mut NetworkSpec)) {
    let mut spec = NetworkSpec {
        routes: Arc::new(routes()),
        ..network(NetworkMode::Routed)
    };
    change(&mut spec);
    tables.set_network(spec);
}

#[test]
fn a_mac_that_is_nowhere_is_nobody() {
    let world = world();
    let lost = MacAddr([2, 0, 0, 0, 1, 1]);
    world.tables.neighbors().set(red(), red4(40), lost);
    let refused = drop_for(DropReason::NoNeighbor);
    assert_eq!(world.send(FROM_A, &packet(red4(40), 10)), refused);
}
