//! What is answered for endpoints, so that nobody asks the whole network: who has an address of the control plane's map
//! (ARP, neighbor discovery), and that an address is taken (RFC 5227, RFC 4862 section 5.4). Pure: a frame in, the frame
//! that answers it out.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_wire::{
    AdvertisementFlags, Arp, ArpMessage, ArpOperation, EtherType, EthernetFrame, Icmp6, IpProtocol,
    Ipv4, Ipv6, MacAddr, NeighborEnds, NeighborKind, NeighborMessage,
};

/// Everybody on the link (RFC 4291 section 2.7.1) and their MAC (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: MacAddr = MacAddr([0x33, 0x33, 0, 0, 0, 1]);

/// Somebody has an address, or wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is to be.
    pub mac: MacAddr,
}

/// A question for the owner of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The address.
    pub(crate) target: IpAddr,
    /// The asker has no address yet and wants this one: it asks whether somebody else has it.
    pub(crate) is_probe: bool,
    /// The asker's address; unspecified in a probe.
    asker: IpAddr,
}

impl Question {
    /// The question that a frame asks, to everybody or to one. An announcement of the asker's own address is none.
    pub(crate) fn of(ethernet: &EthernetFrame<'_>) -> Option<Self> {
        let (asker, target): (IpAddr, IpAddr) = match ethernet.ethertype() {
            EtherType::ARP => {
                let arp = Arp::new(ethernet.payload()).ok()?;
                let asks = arp.operation() == ArpOperation::Request;
                asks.then(|| (arp.sender_ip().into(), arp.target_ip().into()))?
            }
            EtherType::IPV6 => {
                let packet = Ipv6::new(ethernet.payload()).ok()?;
                let target = solicited(&packet)?;
                (packet.source().into(), target.into())
            }
            _ => return None,
        };
        (asker != target).then_some(Self {
            target,
            is_probe: asker.is_unspecified(),
            asker,
        })
    }

    /// The answer, in the name of the owner, for the asker with that MAC.
    pub(crate) fn answer(&self, owner: MacAddr, asker: MacAddr) -> Option<Vec<u8>> {
        match (self.asker, self.target) {
            (IpAddr::V4(from), IpAddr::V4(target)) => {
                let question = ArpMessage::request(asker, from, target);
                Some(question.answer(owner).to_frame().to_vec())
            }
            (IpAddr::V6(from), IpAddr::V6(target)) => {
                let flags = AdvertisementFlags::OVERRIDE;
                Some(advertise((target, owner), flags, (from, asker)))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }
}

/// Whom a valid solicitation asks for (RFC 4861 section 7.1.1; RFC 6980: not in a fragment).
pub(crate) fn solicited(packet: &Ipv6<'_>) -> Option<Ipv6Addr> {
    let (kind, neighbor) = neighbor_message(packet)?;
    // Without an address of its own the sender has no link-layer address to tell.
    let probe_ok = !packet.source().is_unspecified() || neighbor.source_link.is_none();
    (kind == NeighborKind::Solicitation && probe_ok).then_some(neighbor.target)
}

fn neighbor_message(packet: &Ipv6<'_>) -> Option<(NeighborKind, NeighborMessage)> {
    let upper = packet.upper_layer().ok()?;
    let routed = packet.hop_limit() != weft_wire::icmp::NEIGHBOR_HOP_LIMIT;
    if upper.protocol != IpProtocol::ICMP6 || upper.fragment.is_some() || routed {
        return None;
    }
    let message = Icmp6::new(packet.upper_payload(&upper)).ok()?;
    let neighbor = message.neighbor().ok()??;
    let valid = message.checksum_is_valid(packet.source(), packet.destination());
    valid.then_some((neighbor.kind, neighbor))
}

/// The advertisement of a target with its MAC for who asked (RFC 4861 section 7.2.4): for who has no address yet, to
/// everybody, so that it takes another.
pub(crate) fn advertise(
    (target, mac): (Ipv6Addr, MacAddr),
    flags: AdvertisementFlags,
    (asker, asker_mac): (Ipv6Addr, MacAddr),
) -> Vec<u8> {
    let (flags, destination, destination_mac) = if asker.is_unspecified() {
        (flags, ALL_NODES, ALL_NODES_MAC)
    } else {
        (flags.with(AdvertisementFlags::SOLICITED), asker, asker_mac)
    };
    let ends = NeighborEnds {
        source_mac: mac,
        destination_mac,
        source: target,
        destination,
    };
    let message = NeighborMessage::advertisement(target, mac, flags);
    message.to_frame(&ends).to_vec()
}

/// What tells a network's stations that an address has another MAC now (RFC 5227 section 2.3, RFC 4861 section 7.2.6).
pub(crate) fn announcement(ip: IpAddr, mac: MacAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ArpMessage::request(mac, ip, ip).to_frame().to_vec(),
        IpAddr::V6(ip) => advertise(
            (ip, mac),
            AdvertisementFlags::OVERRIDE,
            (Ipv6Addr::UNSPECIFIED, MacAddr::ZERO),
        ),
    }
}

/// The address that the sender of a frame uses, or wants: where it isn't its to use, whose it is must be told to people.
pub(crate) fn claimed(ethernet: &EthernetFrame<'_>) -> Option<IpAddr> {
    let source = || -> Option<IpAddr> {
        Some(match ethernet.ethertype() {
            EtherType::IPV4 => Ipv4::new(ethernet.payload()).ok()?.source().into(),
            EtherType::IPV6 => Ipv6::new(ethernet.payload()).ok()?.source().into(),
            _ => return None,
        })
    };
    said(ethernet)
        .or_else(source)
        .filter(|ip| !ip.is_unspecified())
}

/// The address that the sender of a frame says in ARP or neighbor discovery that it has, or wants.
pub(crate) fn said(ethernet: &EthernetFrame<'_>) -> Option<IpAddr> {
    let said: IpAddr = match ethernet.ethertype() {
        EtherType::ARP => {
            let arp = Arp::new(ethernet.payload()).ok()?;
            match arp.sender_ip() {
                Ipv4Addr::UNSPECIFIED => arp.target_ip().into(),
                sender => sender.into(),
            }
        }
        EtherType::IPV6 => {
            let packet = Ipv6::new(ethernet.payload()).ok()?;
            let (kind, neighbor) = neighbor_message(&packet)?;
            match kind {
                NeighborKind::Solicitation if !packet.source().is_unspecified() => {
                    packet.source().into()
                }
                NeighborKind::Solicitation | NeighborKind::Advertisement(_) => {
                    neighbor.target.into()
                }
            }
        }
        _ => return None,
    };
    (!said.is_unspecified()).then_some(said)
}

#[cfg(test)]
mod tests;
