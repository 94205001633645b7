use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket, TcpOptionElement,
    TransportSlice, icmpv4, icmpv6,
};
use proptest::prelude::*;

use super::*;
use crate::frame::{Offload, PartialChecksum};
use crate::icmp_error::{QUOTE_MAX_V4, QUOTE_MAX_V6};

const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TO: [u8; 6] = [2, 0, 0, 0, 0, 2];
const FROM4: [u8; 4] = [10, 0, 0, 1];
const TO4: [u8; 4] = [10, 0, 0, 2];

fn from6() -> [u8; 16] {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets()
}

fn to6() -> [u8; 16] {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets()
}

fn mtu(value: u32) -> Mtu {
    Mtu::new(value).unwrap()
}

fn udp(v6: bool, len: usize) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(FROM, TO);
    let packet = if v6 {
        link.ipv6(from6(), to6(), 64)
    } else {
        link.ipv4(FROM4, TO4, 64)
    };
    let mut bytes = Vec::new();
    packet
        .udp(7, 9)
        .write(&mut bytes, &vec![0x5a; len])
        .unwrap();
    bytes
}

#[test]
fn an_ipv4_packet_is_answered_with_the_mtu_and_what_it_was() {
    let frame = udp(false, 1400);
    let answer = too_big(&frame, mtu(1250)).unwrap();
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        panic!("IPv4")
    };
    assert_eq!(ip.header().source_addr(), Ipv4Addr::from(TO4));
    assert_eq!(ip.header().destination_addr(), Ipv4Addr::from(FROM4));
    assert_eq!(
        ip.header().header_checksum(),
        ip.header().to_header().calc_header_checksum()
    );
    let Some(TransportSlice::Icmpv4(icmp)) = packet.transport else {
        panic!("ICMP")
    };
    let header = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1250 };
    assert_eq!(icmp.icmp_type(), Icmpv4Type::DestinationUnreachable(header));
    assert_eq!(icmp.payload(), &frame[14..14 + QUOTE_MAX_V4]);
    let whole: Icmpv4Slice<'_> = icmp;
    assert_eq!(Sum::of(whole.slice()).finish(), 0);
    assert_eq!((&answer[..6], &answer[6..12]), (&FROM[..], &TO[..]));
}

#[test]
fn an_ipv6_packet_is_answered_too_and_behind_a_tag_its_tag_stays() {
    let mut frame = udp(true, 1400);
    frame.splice(12..12, [0x81, 0x00, 0x20, 0x07]);
    let answer = too_big(&frame, mtu(1280)).unwrap();
    assert_eq!(answer[12..18], frame[12..18]);
    let packet = SlicedPacket::from_ethernet(&answer).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = packet.transport else {
        panic!("ICMPv6")
    };
    assert_eq!(icmp.icmp_type(), Icmpv6Type::PacketTooBig { mtu: 1280 });
    assert!(icmp.is_checksum_valid(to6(), from6()));
    assert_eq!(icmp.payload(), &frame[18..18 + QUOTE_MAX_V6]);
    assert_eq!(answer.len(), 18 + 1280);
}

#[test]
fn what_must_not_be_answered_is_not() {
    let mut arp = udp(false, 100);
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut to_all = udp(false, 100);
    to_all[..6].copy_from_slice(&[0xff; 6]);
    let mut to_group = udp(false, 100);
    to_group[30] = 224;
    let mut second_fragment = udp(false, 100);
    second_fragment[21] = 1;
    let error = too_big(&udp(false, 100), mtu(576)).unwrap();
    let error6 = too_big(&udp(true, 100), mtu(1280)).unwrap();
    for frame in [arp, to_all, to_group, second_fragment, error, error6] {
        assert_eq!(too_big(&frame, mtu(576)), None, "{frame:02x?}");
    }
    let mut echo = Vec::new();
    let packet = PacketBuilder::ethernet2(FROM, TO).ipv6(from6(), to6(), 64);
    packet
        .icmpv6(Icmpv6Type::EchoRequest(etherparse::IcmpEchoHeader {
            id: 1,
            seq: 1,
        }))
        .write(&mut echo, &[0; 2000])
        .unwrap();
    assert!(too_big(&echo, mtu(1280)).is_some());
    assert_eq!(icmpv6::TYPE_ECHO_REQUEST, 128);
}

fn syn(v6: bool, options: &[TcpOptionElement]) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(FROM, TO);
    let packet = if v6 {
        link.ipv6(from6(), to6(), 64)
    } else {
        link.ipv4(FROM4, TO4, 64)
    };
    let mut bytes = Vec::new();
    packet
        .tcp(1, 2, 3, 4)
        .syn()
        .options(options)
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

fn checksum_is_right(frame: &[u8]) -> bool {
    let layout = Layout::of(frame).unwrap().unwrap();
    let segment = &frame[layout.transport..layout.end];
    let len = u16::try_from(segment.len()).unwrap();
    layout.pseudo_header(len).plus(Sum::of(segment)).finish() == 0
}

fn asked(frame: &[u8]) -> u16 {
    let layout = Layout::of(frame).unwrap().unwrap();
    let tcp = Tcp::new(&frame[layout.transport..layout.end]).unwrap();
    let at = mss_at(tcp.options()).unwrap();
    u16::from_be_bytes(*tcp.options()[at..].first_chunk().unwrap())
}

#[test]
fn a_connection_begins_with_segments_that_fit() {
    use TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
    for (v6, headers) in [(false, 40), (true, 60)] {
        // At an even and at an odd place.
        for options in [
            vec![MaximumSegmentSize(1410), WindowScale(7)],
            vec![Noop, MaximumSegmentSize(1410)],
        ] {
            let frame = syn(v6, &options);
            let clamped = clamp_mss(FrameRef::plain(&frame), 14 + 1250).unwrap();
            assert_eq!(asked(&clamped), 1250 - headers);
            assert!(checksum_is_right(&clamped));
            assert_eq!(clamp_mss(FrameRef::plain(&clamped), 14 + 1250), None);
            // Unfinished, it stays as it was.
            let partial = Offload {
                gso: None,
                checksum: Some(PartialChecksum {
                    start: 34,
                    offset: 16,
                }),
            };
            let unfinished = clamp_mss(FrameRef::new(&frame, partial), 14 + 1250).unwrap();
            let layout = Layout::of(&frame).unwrap().unwrap();
            let at = layout.transport + tcp::field::CHECKSUM;
            assert_eq!(unfinished[at..at + 2], frame[at..at + 2]);
        }
    }
}

#[test]
fn only_syns_that_ask_for_too_much_are_touched() {
    let small = syn(false, &[TcpOptionElement::MaximumSegmentSize(500)]);
    let silent = syn(false, &[]);
    let datagram = udp(false, 100);
    let mut broken = syn(false, &[TcpOptionElement::MaximumSegmentSize(1410)]);
    // An option of no length.
    broken[54..56].copy_from_slice(&[9, 0]);
    for frame in [small, silent, datagram, broken] {
        assert_eq!(clamp_mss(FrameRef::plain(&frame), 14 + 1250), None);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_them_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        limit in 0usize..2000,
        syn_of in prop::option::of(any::<bool>()),
        cut in 0usize..120,
        at in 0usize..100,
        value: u8,
    ) {
        let mut frame = match syn_of {
            Some(v6) => syn(v6, &[TcpOptionElement::MaximumSegmentSize(1410)]),
            None => bytes,
        };
        if let Some(byte) = frame.get_mut(at) {
            *byte = value;
        }
        frame.truncate(cut);
        let _ = too_big(&frame, mtu(576));
        let _ = clamp_mss(FrameRef::plain(&frame), limit);
    }
}
