//! Router advertisements (RFC 4861) for ports that configure themselves: the default route and the on-link prefixes, which
//! DHCPv6 can't tell, and that the addresses are to be had by DHCPv6. No autoconfiguration from prefixes: an address that
//! IPAM didn't give would be refused by the switch. Pure.

#![deny(clippy::disallowed_methods)]

use std::net::Ipv6Addr;
use std::time::Duration;

use etherparse::PacketBuilder;
use ipnet::Ipv6Net;
use weft_switch::gateway::{GATEWAY_LINK_LOCAL, GATEWAY_MAC};
use weft_wire::{MacAddr, Mtu};

/// ICMPv6 type (RFC 4861 section 4.2).
const ROUTER_ADVERTISEMENT: u8 = 134;
/// Hop limit that proves that a message was not routed (RFC 4861 section 7.1.2).
const NOT_ROUTED: u8 = 255;
/// Managed address configuration, other configuration (RFC 4861 section 4.2): ask DHCPv6.
const MANAGED: u8 = 0b1100_0000;
/// The prefix is on the link (RFC 4861 section 4.6.2); without 0x40 no address is made from it.
const ON_LINK: u8 = 0x80;
/// Hops of packets that a host sends.
const HOPS: u8 = 64;
/// How long what is said holds, in seconds, and how often it is said again.
const LIFETIME_SECS: u16 = 1800;
pub(crate) const AGAIN: Duration = Duration::from_secs(600);
/// All nodes of the link (RFC 4291 section 2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a router says of its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// What is on it.
    pub(crate) prefixes: Vec<Ipv6Net>,
    /// The router leads out.
    pub(crate) routes: bool,
    /// Of the network.
    pub(crate) mtu: Mtu,
    /// The name server.
    pub(crate) name_server: Ipv6Addr,
}

/// The advertisement to one station, as a frame.
pub(crate) fn advertise(to_mac: MacAddr, to: Ipv6Addr, link: &Link) -> Option<Vec<u8>> {
    let lifetime = if link.routes { LIFETIME_SECS } else { 0 };
    let [high, low] = lifetime.to_be_bytes();
    // Reachable time and retransmission timer: the host's own.
    let mut rest = vec![0; 8];
    rest.extend([1, 1]);
    rest.extend(GATEWAY_MAC.0);
    rest.extend([5, 1, 0, 0]);
    rest.extend(link.mtu.value().to_be_bytes());
    let holds = u32::from(LIFETIME_SECS).to_be_bytes();
    for prefix in &link.prefixes {
        rest.extend([3, 4, prefix.prefix_len(), ON_LINK]);
        rest.extend(holds);
        rest.extend(holds);
        rest.extend([0; 4]);
        rest.extend(prefix.network().octets());
    }
    // RFC 8106 section 5.1.
    rest.extend([25, 3, 0, 0]);
    rest.extend(holds);
    rest.extend(link.name_server.octets());
    let packet = PacketBuilder::ethernet2(GATEWAY_MAC.0, to_mac.0)
        .ipv6(GATEWAY_LINK_LOCAL.octets(), to.octets(), NOT_ROUTED)
        .icmpv6_raw(ROUTER_ADVERTISEMENT, 0, [HOPS, MANAGED, high, low]);
    let mut frame = Vec::with_capacity(packet.size(rest.len()));
    packet.write(&mut frame, &rest).ok()?;
    Some(frame)
}

#[cfg(test)]
mod tests {
    use weft_wire::{Icmp6, Ipv6};

    use super::*;

    fn link() -> Link {
        Link {
            prefixes: vec!["fd01::/64".parse().unwrap()],
            routes: true,
            mtu: Mtu::new(1450).unwrap(),
            name_server: "fd01::1".parse().unwrap(),
        }
    }

    #[test]
    fn an_advertisement_is_what_hosts_take() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let frame = advertise(mac, ALL_NODES, &link()).unwrap();
        assert_eq!(
            (&frame[..6], &frame[6..12]),
            (&mac.0[..], &GATEWAY_MAC.0[..])
        );
        let packet = Ipv6::new(&frame[14..]).unwrap();
        assert_eq!((packet.hop_limit(), packet.destination()), (255, ALL_NODES));
        assert!(packet.source().is_unicast_link_local());
        let message = Icmp6::new(packet.payload()).unwrap();
        assert!(message.checksum_is_valid(packet.source(), packet.destination()));
        let bytes = packet.payload();
        assert_eq!((bytes[0], bytes[4], bytes[5]), (134, 64, MANAGED));
        assert_eq!(bytes[6..8], 1800_u16.to_be_bytes());
        // Every option says its length in units of 8 bytes, and they fill the message.
        let (mut at, mut kinds) = (16, Vec::new());
        while at < bytes.len() {
            kinds.push(bytes[at]);
            assert!(bytes[at + 1] > 0);
            at += usize::from(bytes[at + 1]) * 8;
        }
        assert_eq!((at, kinds), (bytes.len(), vec![1, 5, 3, 25]));
        assert_eq!(bytes[16 + 8 + 4..16 + 16], 1450_u32.to_be_bytes());
        // On the link, and no address from it.
        assert_eq!((bytes[34], bytes[35]), (64, ON_LINK));
    }

    #[test]
    fn an_internal_network_has_no_default_router() {
        let inside = Link {
            routes: false,
            ..link()
        };
        let frame = advertise(MacAddr([2, 0, 0, 0, 0, 9]), ALL_NODES, &inside).unwrap();
        assert_eq!(frame[14 + 40 + 6..14 + 40 + 8], [0, 0]);
    }

    #[test]
    fn the_link_local_address_is_the_macs() {
        // RFC 4291 appendix A.
        let [a, b, c, d, e, f] = GATEWAY_MAC.0;
        let made = [
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            a ^ 2,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ];
        assert_eq!(GATEWAY_LINK_LOCAL.octets(), made);
    }
}
