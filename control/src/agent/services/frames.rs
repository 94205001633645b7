//! What the services say, as frames: complete, with checksums, from the gateway's MAC. Pure.

#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;
use weft_switch::gateway::GATEWAY_MAC;
use weft_wire::MacAddr;

/// Time to live of what the gateway says itself.
pub(crate) const HOPS: u8 = 64;

/// A UDP datagram of the gateway's; `None` if both ends are not of one family or the payload is too long for a packet.
pub(crate) fn datagram(
    to_mac: MacAddr,
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Option<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(GATEWAY_MAC.0, to_mac.0);
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), HOPS),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let udp = ip.udp(from.port(), to.port());
    let mut frame = Vec::with_capacity(udp.size(payload.len()));
    udp.write(&mut frame, payload).ok()?;
    Some(frame)
}

/// An IP packet in an Ethernet frame from the gateway; `None` if it is neither IPv4 nor IPv6.
pub(crate) fn packet(to_mac: MacAddr, packet: &[u8]) -> Option<Vec<u8>> {
    let ethertype: [u8; 2] = match packet.first()? >> 4 {
        4 => [0x08, 0x00],
        6 => [0x86, 0xdd],
        _ => return None,
    };
    Some([&to_mac.0[..], &GATEWAY_MAC.0, &ethertype, packet].concat())
}

#[cfg(test)]
mod tests {
    use super::super::demux::{Class, classify};
    use super::*;

    #[test]
    fn what_is_said_can_be_read() {
        for (from, to) in [
            ("10.1.0.1:53", "10.1.0.2:5000"),
            ("[fd01::1]:53", "[fd01::2]:5000"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mac = MacAddr([2, 0x57, 10, 1, 0, 2]);
            let frame = datagram(mac, from, to, b"answer").unwrap();
            assert_eq!(frame[..6], mac.0);
            let parsed = etherparse::PacketHeaders::from_ethernet_slice(&frame).unwrap();
            let udp = parsed.transport.unwrap().udp().unwrap();
            assert_eq!((udp.source_port, udp.destination_port), (53, 5000));
            let expected = match parsed.net.unwrap() {
                etherparse::NetHeaders::Ipv4(ip, _) => {
                    assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                    udp.calc_checksum_ipv4(&ip, b"answer").unwrap()
                }
                etherparse::NetHeaders::Ipv6(ip, _) => {
                    udp.calc_checksum_ipv6(&ip, b"answer").unwrap()
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(udp.checksum, expected);
            assert_eq!(packet(mac, &frame[14..]).unwrap(), frame);
        }
    }

    #[test]
    fn what_cannot_be_said_is_not() {
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        let (v4, v6) = (
            "10.1.0.1:53".parse().unwrap(),
            "[fd01::1]:53".parse().unwrap(),
        );
        assert_eq!(datagram(mac, v4, v6, b""), None);
        assert_eq!(datagram(mac, v6, v4, b""), None);
        assert_eq!(datagram(mac, v4, v4, &vec![0; 65_600]), None);
        assert_eq!(packet(mac, &[]), None);
        assert_eq!(packet(mac, &[0x50]), None);
    }

    #[test]
    fn an_answer_goes_the_way_of_the_question() {
        let mac = MacAddr([2, 0x57, 10, 1, 0, 2]);
        let (from, to) = (
            "10.1.0.2:99".parse().unwrap(),
            "10.1.0.1:53".parse().unwrap(),
        );
        let frame = datagram(mac, from, to, b"x").unwrap();
        let Class::DnsUdp(question) = classify(&frame, &["10.1.0.1".parse().unwrap()]) else {
            panic!();
        };
        assert_eq!((question.source, question.destination), (from, to));
    }
}
