use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use weft_wire::{ArpMessage, MacAddr, Vni};

use super::*;
use crate::table::{NetworkMode, NetworkSpec};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HERE_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// Two ports on a network with a gateway.
fn tables() -> Tables {
    let vni = Vni::new(7).unwrap();
    let mut tables = Tables::new(1);
    tables.set_network(NetworkSpec {
        vni,
        name: "blue".to_owned(),
        mtu: Mtu::new(1250).unwrap(),
        ageing: Duration::from_secs(300),
        mode: NetworkMode::Routed,
        flood_peers: Vec::new(),
        gateways: vec![GATEWAY.into()],
        routes: Arc::default(),
        internal: false,
        isolate: false,
    });
    for _ in 0..2 {
        tables.add_port(vni, None, Vec::new());
    }
    tables
}

fn datagram(to: MacAddr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(HERE_MAC.octets(), to.octets())
        .ipv4(HERE.octets(), THERE.octets(), 64)
        .udp(1, 2)
        .write(&mut frame, &[0; 1400])
        .unwrap();
    frame
}

fn source_of(answer: &[u8]) -> Ipv4Addr {
    match SlicedPacket::from_ethernet(answer).unwrap().net {
        Some(NetSlice::Ipv4(ip)) => ip.header().source_addr(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_port_is_told_a_burst_of_errors_then_one_a_millisecond_and_others_beside_it() {
    let (tables, mut answers) = (tables(), Answers::new());
    let frame = datagram(MacAddr([2, 0, 0, 0, 0, 2]));
    let mut ask = |id, now| {
        let from = Asker {
            tables: &tables,
            id: PortId(id),
            now: Tick(now),
        };
        answers
            .dropped(from, &frame, DropReason::TooBig)
            .map(|answer| source_of(&answer))
    };
    for _ in 0..ERRORS {
        assert_eq!(ask(0, 5), Some(THERE));
    }
    assert_eq!(ask(0, 5), None);
    assert_eq!(ask(1, 5), Some(THERE));
    assert_eq!((ask(0, 6), ask(0, 6)), (Some(THERE), None));
    // It doesn't fill above its brim.
    let later = 10_000;
    assert_eq!(
        (0..100).filter(|_| ask(0, later).is_some()).count(),
        usize::try_from(ERRORS).unwrap()
    );
}

#[test]
fn about_what_it_was_to_route_the_gateway_speaks_itself() {
    let (tables, mut answers) = (tables(), Answers::new());
    let from = Asker {
        tables: &tables,
        id: PortId(0),
        now: Tick(1),
    };
    let frame = datagram(GATEWAY_MAC);
    for reason in [
        DropReason::TooBig,
        DropReason::NoRoute,
        DropReason::NoNeighbor,
        DropReason::TtlExceeded,
        DropReason::RouteLoop,
        DropReason::Isolated,
    ] {
        let answer = answers.dropped(from, &frame, reason).unwrap();
        assert_eq!(source_of(&answer), GATEWAY);
    }
    assert_eq!(
        answers.dropped(from, &frame, DropReason::SpoofedAddress),
        None
    );
}

#[test]
fn the_gateway_answers_a_port_so_many_times_a_millisecond() {
    let (tables, mut answers) = (tables(), Answers::new());
    let request = ArpMessage::request(HERE_MAC, HERE, GATEWAY).to_frame();
    let mut ask = |id, now| {
        let from = Asker {
            tables: &tables,
            id: PortId(id),
            now: Tick(now),
        };
        answers.gateway(from, &request).is_some()
    };
    assert!((0..GATEWAY_ANSWERS).all(|_| ask(0, 5)));
    assert!(!ask(0, 5));
    assert!(ask(1, 5) && ask(0, 6));
}

#[test]
fn who_says_it_has_anothers_address_is_told_of_once_a_second() {
    let (tables, mut answers) = (tables(), Answers::new());
    let owner = MacAddr([2, 0, 0, 0, 0, 2]);
    let vni = Vni::new(7).unwrap();
    tables.neighbors().set(vni, THERE.into(), owner);
    tables.neighbors().set(vni, HERE.into(), HERE_MAC);
    let mut hear = |frame: &[u8], now| {
        let from = Asker {
            tables: &tables,
            id: PortId(0),
            now: Tick(now),
        };
        answers.overhear(from, frame);
        answers.take_claim(from)
    };
    let theft = ArpMessage::request(HERE_MAC, THERE, THERE).to_frame();
    let claim = Claim {
        ip: THERE.into(),
        mac: HERE_MAC,
    };
    assert_eq!(hear(&theft, 5), Some(claim));
    assert_eq!(hear(&theft, 6), None);
    assert_eq!(hear(&theft, 1_005), Some(claim));
    // Of its own, of nobody's, and what isn't said of neighbors.
    let mine = ArpMessage::request(HERE_MAC, HERE, THERE).to_frame();
    let free = ArpMessage::request(HERE_MAC, Ipv4Addr::new(10, 0, 0, 9), THERE).to_frame();
    for frame in [&mine[..], &free, &datagram(owner)] {
        assert_eq!(hear(frame, 9_000), None);
    }
}

#[test]
fn who_tries_a_taken_address_is_told_that_it_is_and_so_are_people() {
    let (tables, mut answers) = (tables(), Answers::new());
    let (vni, owner) = (Vni::new(7).unwrap(), MacAddr([2, 0, 0, 0, 0, 2]));
    tables.neighbors().set(vni, THERE.into(), owner);
    let from = Asker {
        tables: &tables,
        id: PortId(0),
        now: Tick(5),
    };
    let claim = Claim {
        ip: THERE.into(),
        mac: HERE_MAC,
    };
    // A probe claims nothing yet (RFC 5227); a guard refuses what does.
    let probe = ArpMessage::request(HERE_MAC, Ipv4Addr::UNSPECIFIED, THERE).to_frame();
    let told = answers.answer(from, &probe, (None, &[Action::Answer]));
    assert_eq!(told.unwrap()[6..12], owner.octets());
    assert_eq!(answers.take_claim(from), Some(claim));
    let theft = ArpMessage::request(HERE_MAC, THERE, THERE).to_frame();
    let refused = [Action::Drop(DropReason::SpoofedAddress)];
    assert_eq!(answers.answer(from, &theft, (None, &refused)), None);
    let later = Asker {
        now: Tick(2_000),
        ..from
    };
    assert_eq!(answers.take_claim(later), Some(claim));
}
