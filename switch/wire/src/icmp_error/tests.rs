use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

use super::*;

const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const ROUTER_4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const ROUTER_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);
const HERE_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const ERRORS: [IcmpError; 4] = [
    IcmpError::TimeExceeded,
    IcmpError::NoRoute,
    IcmpError::AddressUnreachable,
    IcmpError::Prohibited,
];

fn packet(v6: bool) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(FROM, ROUTER);
    let there = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
    let packet = match v6 {
        true => link.ipv6(HERE_6.octets(), there.octets(), 1),
        false => link.ipv4([10, 0, 0, 1], [10, 1, 0, 2], 1),
    };
    let mut frame = Vec::new();
    packet.udp(7, 33_434).write(&mut frame, &[5; 40]).unwrap();
    frame
}

fn router(v6: bool) -> IpAddr {
    match v6 {
        true => ROUTER_6.into(),
        false => ROUTER_4.into(),
    }
}

#[test]
fn a_router_tells_why_with_its_own_address_and_the_packet() {
    for v6 in [false, true] {
        let frame = packet(v6);
        for error in ERRORS {
            let answer = icmp_error(&frame, Some(router(v6)), error).unwrap();
            assert_eq!((&answer[..6], &answer[6..12]), (&FROM[..], &ROUTER[..]));
            let parsed = SlicedPacket::from_ethernet(&answer).unwrap();
            match parsed.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => {
                    let [kind, code] = error.v4();
                    assert_eq!((icmp.type_u8(), icmp.code_u8()), (kind, code));
                    assert!(!matches!(icmp.icmp_type(), Icmpv4Type::Unknown { .. }));
                    assert_eq!(icmp.payload(), &frame[14..]);
                    assert_eq!(Sum::of(icmp.slice()).finish(), 0);
                    assert_eq!(answer[26..30], ROUTER_4.octets());
                    assert_eq!(answer[30..34], [10, 0, 0, 1]);
                }
                TransportSlice::Icmpv6(icmp) => {
                    let [kind, code] = error.v6();
                    assert_eq!((icmp.type_u8(), icmp.code_u8()), (kind, code));
                    assert!(!matches!(icmp.icmp_type(), Icmpv6Type::Unknown { .. }));
                    assert_eq!(icmp.payload(), &frame[14..]);
                    assert!(icmp.is_checksum_valid(ROUTER_6.octets(), HERE_6.octets()));
                }
                TransportSlice::Udp(_) | TransportSlice::Tcp(_) | TransportSlice::Igmp(_) => {
                    panic!("no ICMP")
                }
            }
            assert_eq!(icmp_error(&answer, Some(router(v6)), error), None);
        }
    }
}

#[test]
fn a_router_without_an_address_of_the_family_is_silent() {
    for v6 in [false, true] {
        let other = Some(router(!v6));
        assert_eq!(
            icmp_error(&packet(v6), other, IcmpError::TimeExceeded),
            None
        );
    }
}

#[test]
fn groups_and_what_is_cut_off_are_not_answered() {
    for v6 in [false, true] {
        let whole = packet(v6);
        for len in 0..whole.len() {
            let answer = icmp_error(&whole[..len], Some(router(v6)), IcmpError::NoRoute);
            assert_eq!(answer, None, "{len} bytes");
        }
        let mut group = whole.clone();
        group[if v6 { 38 } else { 30 }] = if v6 { 0xff } else { 224 };
        assert_eq!(
            icmp_error(&group, Some(router(v6)), IcmpError::NoRoute),
            None
        );
    }
}
