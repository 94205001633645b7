//! What a network's gateway says for itself, the same on every host: who has its addresses, and that it is there. Pure:
//! a frame in, the frame that answers it out.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv6Addr};

use weft_wire::{
    AdvertisementFlags, Arp, ArpOperation, EtherType, EthernetFrame, Icmp6, IpProtocol, Ipv4, Ipv6,
    MacAddr, Udp, echo_reply,
};

use crate::neighbor::{advertise, solicited};

/// The MAC of every network's gateway on every host, so that a container that moves keeps a neighbour that is right.
/// Locally administered (IEEE 802c).
pub const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x77, 0x65, 0x66, 0x74, 0x01]);

/// The gateway's link-local address, made from its MAC (RFC 4291 appendix A): what it says as a router is from there.
pub const GATEWAY_LINK_LOCAL: Ipv6Addr =
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0x0077, 0x65ff, 0xfe66, 0x7401);

/// All routers of the link (RFC 4291 section 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// All DHCPv6 relay agents and servers of the link (RFC 9915 section 7.1).
const ALL_DHCP_AGENTS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// UDP ports that DHCP servers listen at (RFC 2131 section 4.1, RFC 9915 section 7.2).
const DHCP_SERVER: u16 = 67;
const DHCP6_SERVER: u16 = 547;
/// ICMPv6 type (RFC 4861 section 4.1).
const ROUTER_SOLICITATION: u8 = 133;
/// Hop limit that proves that a message was not routed (RFC 4861 section 7.1.1).
const NOT_ROUTED: u8 = 255;

/// What the gateway makes of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It isn't the gateway's: others may have it.
    NotOurs,
    /// It asks for the gateway, and this is the answer, for whom the frame came from.
    Answer(Vec<u8>),
    /// It is for one of the gateway's own addresses, which has nothing to say to it.
    Nothing,
    /// It asks the services behind the gateway: a packet for one of its own addresses, a DHCP client, or who solicits
    /// routers.
    Asks,
    /// It is for the gateway to route.
    Route,
}

/// Hears a frame without unfinished checksums from a port of a network whose gateway has `addresses`.
pub fn hear(addresses: &[IpAddr], frame: &[u8]) -> Heard {
    let Ok(ethernet) = EthernetFrame::new(frame) else {
        return Heard::NotOurs;
    };
    let destination = ethernet.destination();
    if ethernet.vlan().is_some() || !(destination == GATEWAY_MAC || destination.is_multicast()) {
        return Heard::NotOurs;
    }
    let to_us = destination == GATEWAY_MAC;
    let heard = match ethernet.ethertype() {
        EtherType::ARP => hear_arp(addresses, &ethernet),
        EtherType::IPV4 => hear_ipv4(addresses, &ethernet, frame),
        EtherType::IPV6 => hear_ipv6(addresses, &ethernet, frame),
        _ => Heard::NotOurs,
    };
    // Nobody else has this MAC.
    if to_us && heard == Heard::NotOurs {
        return Heard::Nothing;
    }
    heard
}

fn hear_arp(addresses: &[IpAddr], ethernet: &EthernetFrame<'_>) -> Heard {
    let Ok(arp) = Arp::new(ethernet.payload()) else {
        return Heard::NotOurs;
    };
    if !addresses.contains(&IpAddr::V4(arp.target_ip())) {
        return Heard::NotOurs;
    }
    match arp.operation() {
        ArpOperation::Request => {
            Heard::Answer(arp.message().answer(GATEWAY_MAC).to_frame().to_vec())
        }
        ArpOperation::Reply | ArpOperation::Other(_) => Heard::Nothing,
    }
}

fn hear_ipv4(addresses: &[IpAddr], ethernet: &EthernetFrame<'_>, frame: &[u8]) -> Heard {
    let Ok(packet) = Ipv4::new(ethernet.payload()) else {
        return Heard::NotOurs;
    };
    if addresses.contains(&IpAddr::V4(packet.destination())) {
        return echo_reply(frame).map_or(Heard::Asks, Heard::Answer);
    }
    let asks = || {
        packet.protocol() == IpProtocol::UDP
            && !packet.is_fragment()
            && is_for_port(packet.payload(), DHCP_SERVER)
    };
    if packet.destination().is_broadcast() {
        return if asks() { Heard::Asks } else { Heard::NotOurs };
    }
    if ethernet.destination() != GATEWAY_MAC {
        return Heard::NotOurs;
    }
    Heard::Route
}

fn hear_ipv6(addresses: &[IpAddr], ethernet: &EthernetFrame<'_>, frame: &[u8]) -> Heard {
    let Ok(packet) = Ipv6::new(ethernet.payload()) else {
        return Heard::NotOurs;
    };
    if let Some(target) = solicited(&packet) {
        if !addresses.contains(&IpAddr::V6(target)) {
            return Heard::NotOurs;
        }
        let flags = AdvertisementFlags::ROUTER.with(AdvertisementFlags::OVERRIDE);
        let asker = (packet.source(), ethernet.source());
        return Heard::Answer(advertise((target, GATEWAY_MAC), flags, asker));
    }
    if asks_services(&packet) {
        return Heard::Asks;
    }
    if ethernet.destination() != GATEWAY_MAC {
        return Heard::NotOurs;
    }
    if addresses.contains(&IpAddr::V6(packet.destination())) {
        return echo_reply(frame).map_or(Heard::Asks, Heard::Answer);
    }
    Heard::Route
}

/// A DHCPv6 client (RFC 9915 section 7.1), or a host that solicits routers (RFC 4861 section 6.3.7).
fn asks_services(packet: &Ipv6<'_>) -> bool {
    let Ok(upper) = packet.upper_layer() else {
        return false;
    };
    let payload = || packet.upper_payload(&upper);
    match (packet.destination(), upper.fragment) {
        (ALL_DHCP_AGENTS, None) => {
            upper.protocol == IpProtocol::UDP && is_for_port(payload(), DHCP6_SERVER)
        }
        (ALL_ROUTERS, None) => {
            upper.protocol == IpProtocol::ICMP6
                && packet.hop_limit() == NOT_ROUTED
                && Icmp6::new(payload())
                    .is_ok_and(|message| message.message_type() == ROUTER_SOLICITATION)
        }
        _ => false,
    }
}

fn is_for_port(datagram: &[u8], port: u16) -> bool {
    Udp::new(datagram).is_ok_and(|udp| udp.destination_port() == port)
}

#[cfg(test)]
mod tests;
