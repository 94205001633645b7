use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use weft_wire::{ArpMessage, NeighborEnds, NeighborKind, NeighborMessage};

use super::*;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 9);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 1);
const HERE_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
const GATEWAY_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

fn told(frame: &[u8]) -> Heard {
    hear(&[IpAddr::V4(GATEWAY), IpAddr::V6(GATEWAY_6)], frame)
}

fn answer(frame: &[u8]) -> Vec<u8> {
    let heard = told(frame);
    let Heard::Answer(answer) = heard else {
        panic!("{heard:?}")
    };
    answer
}

fn solicitation(target: Ipv6Addr, source: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let ends = NeighborEnds {
        source_mac: ASKER,
        destination_mac: MacAddr([0x33, 0x33, 0xff, a, b, c]),
        source,
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), {
            u16::from_be_bytes([b, c])
        }),
    };
    NeighborMessage::solicitation(target, ASKER)
        .to_frame(&ends)
        .to_vec()
}

fn echo(mac: MacAddr, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(ASKER.octets(), mac.octets())
        .ipv4(HERE.octets(), to.octets(), 64)
        .icmpv4_echo_request(1, 2)
        .write(&mut frame, b"hello")
        .unwrap();
    frame
}

#[test]
fn arp_for_the_gateway_is_answered_and_for_others_left_to_them() {
    let reply = answer(&ArpMessage::request(ASKER, HERE, GATEWAY).to_frame());
    let ethernet = EthernetFrame::new(&reply).unwrap();
    assert_eq!(
        (ethernet.destination(), ethernet.source()),
        (ASKER, GATEWAY_MAC)
    );
    let arp = Arp::new(ethernet.payload()).unwrap();
    assert_eq!(arp.operation(), ArpOperation::Reply);
    assert_eq!((arp.sender_ip(), arp.sender_mac()), (GATEWAY, GATEWAY_MAC));
    let other = ArpMessage::request(ASKER, HERE, Ipv4Addr::new(10, 32, 0, 2));
    assert_eq!(told(&other.to_frame()), Heard::NotOurs);
}

#[test]
fn an_arp_reply_is_not_answered() {
    let request = ArpMessage::request(ASKER, GATEWAY, HERE);
    let reply = request.answer(ASKER);
    let mut frame = reply.to_frame();
    frame[..6].copy_from_slice(&GATEWAY_MAC.octets());
    assert_eq!(told(&frame), Heard::Nothing);
}

#[test]
fn a_solicitation_is_answered_by_a_router() {
    let reply = answer(&solicitation(GATEWAY_6, HERE_6));
    let ethernet = EthernetFrame::new(&reply).unwrap();
    assert_eq!(ethernet.destination(), ASKER);
    let packet = Ipv6::new(ethernet.payload()).unwrap();
    assert_eq!((packet.source(), packet.destination()), (GATEWAY_6, HERE_6));
    assert_eq!(packet.hop_limit(), 255);
    let message = Icmp6::new(packet.payload()).unwrap();
    assert!(message.checksum_is_valid(GATEWAY_6, HERE_6));
    let neighbor = message.neighbor().unwrap().unwrap();
    assert_eq!(neighbor.target_link, Some(GATEWAY_MAC));
    let NeighborKind::Advertisement(flags) = neighbor.kind else {
        panic!("a question")
    };
    assert!(flags.contains(AdvertisementFlags::ROUTER.with(AdvertisementFlags::SOLICITED)));
    assert_eq!(told(&solicitation(HERE_6, HERE_6)), Heard::NotOurs);
}

#[test]
fn a_routed_or_damaged_solicitation_is_not_answered() {
    let whole = solicitation(GATEWAY_6, HERE_6);
    let mut routed = whole.clone();
    routed[14 + 7] = 254;
    assert_eq!(told(&routed), Heard::NotOurs);
    let mut damaged = whole;
    damaged[14 + 40 + 2] ^= 1;
    assert_eq!(told(&damaged), Heard::NotOurs);
}

#[test]
fn echo_at_the_gateway_is_answered_and_beyond_it_routed() {
    let reply = answer(&echo(GATEWAY_MAC, GATEWAY));
    let ethernet = EthernetFrame::new(&reply).unwrap();
    assert_eq!(
        (ethernet.destination(), ethernet.source()),
        (ASKER, GATEWAY_MAC)
    );
    let packet = Ipv4::new(ethernet.payload()).unwrap();
    assert_eq!((packet.source(), packet.destination()), (GATEWAY, HERE));
    let beyond = Ipv4Addr::new(10, 33, 0, 5);
    assert_eq!(told(&echo(GATEWAY_MAC, beyond)), Heard::Route);
    assert_eq!(told(&echo(ASKER, GATEWAY)), Heard::NotOurs);
}

#[test]
fn short_frames_are_never_answered() {
    let frames = [
        ArpMessage::request(ASKER, HERE, GATEWAY)
            .to_frame()
            .to_vec(),
        solicitation(GATEWAY_6, HERE_6),
        echo(GATEWAY_MAC, GATEWAY),
    ];
    for frame in frames {
        for len in 0..frame.len() {
            let heard = told(&frame[..len]);
            assert!(!matches!(heard, Heard::Answer(_)), "{len} bytes");
        }
    }
}
