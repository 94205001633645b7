//! First stage: parse once, and refuse what is broken, too big, not for a bridge to forward, or not the sender's to
//! send. What passes is an [`Admitted`] frame, and only from such is learned.

use std::net::Ipv6Addr;

use weft_wire::{
    Arp, EtherType, EthernetFrame, FrameRef, GsoKind, Icmp6, IpProtocol, Ipv4, Ipv6, MacAddr,
    NeighborKind, NeighborMessage, PortId, VlanId, Vni,
};

use crate::table::{NetworkEntry, NetworkMode, PortGuard, PortRole, Tables};
use crate::verdict::{DropReason, Source};

/// Bytes of a UDP header.
const UDP_HEADER_LEN: usize = 8;
/// Where in a TCP header the data offset is (RFC 9293 section 3.1): the upper four bits, in words.
const TCP_DATA_OFFSET: usize = 12;
/// ICMPv6 types by which a router speaks for the link (RFC 4861): no endpoint is one.
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

/// A frame that may be forwarded.
#[derive(Debug)]
pub(super) struct Admitted<'t, 'f> {
    pub(super) network: &'t NetworkEntry,
    pub(super) vni: Vni,
    pub(super) vlan: VlanId,
    pub(super) ethernet: EthernetFrame<'f>,
    /// It comes from the services of this host.
    pub(super) from_services: bool,
    /// It came in by this link of the host.
    pub(super) from_uplink: Option<PortId>,
}

pub(super) fn admit<'t, 'f>(
    tables: &'t Tables,
    from: Source,
    frame: FrameRef<'f>,
) -> Result<Admitted<'t, 'f>, DropReason> {
    let (vni, guard, role, exit) = match from {
        Source::Port(id) => {
            let port = tables.port(id).ok_or(DropReason::PortGone)?;
            let network = port.network.ok_or(DropReason::UnknownVni)?;
            let (guard, role) = (port.guard.as_ref(), Some((id, port.role)));
            (network, guard, role, port.exit)
        }
        Source::Peer { vni, .. } => (vni, None, None, None),
    };
    let network = tables.network(vni).ok_or(DropReason::UnknownVni)?;
    let ethernet = EthernetFrame::new(frame.bytes).map_err(|_| DropReason::Runt)?;
    if !ethernet.source().is_station() {
        return Err(DropReason::BadSource);
    }
    if ethernet.destination().is_link_reserved() {
        return Err(DropReason::LinkReserved);
    }
    let vlan = match ethernet.vlan() {
        None => VlanId::UNTAGGED,
        Some(_) if network.spec.mode == NetworkMode::Routed => {
            return Err(DropReason::VlanNotAllowed);
        }
        Some(tag) => tag.id().ok_or(DropReason::BadVlan)?,
    };
    // What came through a tunnel has passed the narrow place; the other host's MTU may be ahead of ours.
    let len = packet_len(frame, &ethernet)?;
    if matches!(from, Source::Port(_)) && len > network.spec.mtu.bytes() {
        return Err(DropReason::TooBig);
    }
    match (exit, guard) {
        (Some(mac), _) => check_exit(mac, &ethernet)?,
        (None, Some(guard)) => check_sender(guard, &ethernet)?,
        (None, None) => {}
    }
    Ok(Admitted {
        network,
        vni,
        vlan,
        ethernet,
        from_services: matches!(role, Some((_, PortRole::Services))),
        from_uplink: role.and_then(|(id, role)| (role == PortRole::Uplink).then_some(id)),
    })
}

/// Bytes of the layer 3 packet; of a superframe, of its largest segment.
pub(super) fn packet_len(
    frame: FrameRef<'_>,
    ethernet: &EthernetFrame<'_>,
) -> Result<usize, DropReason> {
    let payload = ethernet.payload_offset();
    let (Some(gso), Some(checksum)) = (frame.offload.gso, frame.offload.checksum) else {
        return Ok(frame.len() - payload);
    };
    let transport = usize::from(checksum.start);
    let header_len = match gso.kind {
        GsoKind::Udp => UDP_HEADER_LEN,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let offset = frame
                .bytes
                .get(transport + TCP_DATA_OFFSET)
                .ok_or(DropReason::Runt)?;
            usize::from(offset >> 4) * 4
        }
    };
    let headers = (transport + header_len).saturating_sub(payload);
    Ok((headers + usize::from(gso.size.get())).min(frame.len() - payload))
}

/// Anti-spoofing: the sender uses its own MAC and addresses, in the frame's header as well as in ARP and neighbour
/// discovery, by which others would be misled.
#[inline]
fn check_sender(guard: &PortGuard, ethernet: &EthernetFrame<'_>) -> Result<(), DropReason> {
    if ethernet.source() != guard.mac {
        return Err(DropReason::SpoofedMac);
    }
    match ethernet.ethertype() {
        EtherType::ARP => check_arp(guard, ethernet.payload()),
        EtherType::IPV4 => {
            let packet = Ipv4::new(ethernet.payload()).map_err(|_| DropReason::Runt)?;
            allow(guard.allows_v4(packet.source()))
        }
        EtherType::IPV6 => check_ipv6(guard, ethernet.payload()),
        // A second tag would hide a packet from the check.
        inner if inner.is_tag() => Err(DropReason::VlanNotAllowed),
        _ => Ok(()),
    }
}

/// A host that routes sends from any address, but as itself, and not as the link's router: that is the gateway.
fn check_exit(mac: MacAddr, ethernet: &EthernetFrame<'_>) -> Result<(), DropReason> {
    if ethernet.source() != mac {
        return Err(DropReason::SpoofedMac);
    }
    if ethernet.ethertype() != EtherType::IPV6 {
        return Ok(());
    }
    let packet = Ipv6::new(ethernet.payload()).map_err(|_| DropReason::Runt)?;
    let upper = packet.upper_layer().map_err(|_| DropReason::Runt)?;
    if upper.protocol != IpProtocol::ICMP6 || upper.fragment.is_some() {
        return Ok(());
    }
    match Icmp6::new(packet.upper_payload(&upper)) {
        Ok(message) if is_routers(&message) => Err(DropReason::SpoofedAddress),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn is_routers(message: &Icmp6<'_>) -> bool {
    matches!(message.message_type(), ROUTER_ADVERTISEMENT | REDIRECT)
}

fn check_arp(guard: &PortGuard, payload: &[u8]) -> Result<(), DropReason> {
    let arp = Arp::new(payload).map_err(|_| DropReason::Runt)?;
    if arp.sender_mac() != guard.mac {
        return Err(DropReason::SpoofedMac);
    }
    allow(guard.allows_v4(arp.sender_ip()))
}

#[inline]
fn check_ipv6(guard: &PortGuard, payload: &[u8]) -> Result<(), DropReason> {
    let packet = Ipv6::new(payload).map_err(|_| DropReason::Runt)?;
    allow(guard.allows_v6(packet.source()))?;
    let upper = packet.upper_layer().map_err(|_| DropReason::Runt)?;
    if upper.protocol != IpProtocol::ICMP6 || upper.fragment.is_some() {
        // A fragmented neighbour message is ignored by its receivers (RFC 6980).
        return Ok(());
    }
    let Ok(message) = Icmp6::new(packet.upper_payload(&upper)) else {
        return Ok(());
    };
    if is_routers(&message) {
        return Err(DropReason::SpoofedAddress);
    }
    match message.neighbor().map_err(|_| DropReason::Runt)? {
        Some(neighbor) => check_neighbor(guard, packet.source(), &neighbor),
        None => Ok(()),
    }
}

/// An advertisement claims its target. So does a solicitation from `::`: by duplicate address detection (RFC 4862
/// section 5.4) it would keep the rightful owner from using it.
fn check_neighbor(
    guard: &PortGuard,
    source: Ipv6Addr,
    message: &NeighborMessage,
) -> Result<(), DropReason> {
    let claims = match message.kind {
        NeighborKind::Advertisement(_) => true,
        NeighborKind::Solicitation => source.is_unspecified(),
    };
    allow(!claims || guard.may_claim(message.target))?;
    let links = [message.source_link, message.target_link];
    if links.into_iter().flatten().any(|link| link != guard.mac) {
        return Err(DropReason::SpoofedMac);
    }
    Ok(())
}

#[inline]
fn allow(allowed: bool) -> Result<(), DropReason> {
    if allowed {
        Ok(())
    } else {
        Err(DropReason::SpoofedAddress)
    }
}
