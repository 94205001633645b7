//! What a port sends to its network's gateway for somebody else: where the router of its network sends it. It is decided
//! on the host that it comes from: from there on it is bridged in the network of its next hop, whose hosts deliver it like
//! any other frame, and each direction of a flow is routed where it begins.
//!
//! The next hop must be an endpoint that the control plane knows: nobody is asked for by ARP. A packet that goes on is
//! neither learned from nor flooded.

use std::net::IpAddr;

use weft_wire::{
    EtherType, EthernetFrame, FrameRef, Ipv4, Ipv6, Mtu, PortId, VlanId, Vni, may_fragment,
};

use super::admit::{Admitted, packet_len};
use super::transmit::to_port;
use crate::table::fdb::{Fdb, FdbKey, Place, Tick};
use crate::table::routes::Route;
use crate::table::{Exit, NetworkEntry, Tables};
use crate::verdict::{Action, DropReason, Routed, Source};

/// Where a routed packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To a gateway of the router itself, not that of its own network.
    Local,
    /// To the next hop.
    Onward(Routed),
    /// Out of the cluster, as far as the router knows.
    Out,
}

/// What a router looks at in a packet.
#[derive(Clone, Copy, Debug)]
struct Header {
    source: IpAddr,
    destination: IpAddr,
    time_to_live: u8,
}

impl Header {
    #[inline]
    fn of(ethertype: EtherType, packet: &[u8]) -> Option<Self> {
        match ethertype {
            EtherType::IPV4 => {
                let packet = Ipv4::new(packet).ok()?;
                Some(Self {
                    source: packet.source().into(),
                    destination: packet.destination().into(),
                    time_to_live: packet.ttl(),
                })
            }
            EtherType::IPV6 => {
                let packet = Ipv6::new(packet).ok()?;
                Some(Self {
                    source: packet.source().into(),
                    destination: packet.destination().into(),
                    time_to_live: packet.hop_limit(),
                })
            }
            _ => None,
        }
    }

    /// Both ends are single hosts anywhere (RFC 1812 section 5.3.7, RFC 4291 section 2.5.6).
    #[inline]
    fn may_leave_the_link(&self) -> bool {
        let stays = |ip: IpAddr| {
            let on_the_link = match ip {
                IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
                IpAddr::V6(ip) => ip.is_unicast_link_local(),
            };
            on_the_link || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback()
        };
        !stays(self.source) && !stays(self.destination)
    }
}

pub(super) fn route(
    (tables, fdb): (&Tables, &Fdb),
    from: Source,
    admitted: &Admitted<'_, '_>,
    frame: FrameRef<'_>,
    now: Tick,
) -> Result<Way, DropReason> {
    let ethernet = &admitted.ethernet;
    let header = Header::of(ethernet.ethertype(), ethernet.payload()).ok_or(DropReason::Runt)?;
    if !header.may_leave_the_link() {
        return Err(DropReason::NoRoute);
    }
    let found = admitted.network.spec.routes.lookup(header.destination);
    if found == Some(Route::Local) {
        return Ok(Way::Local);
    }
    if header.time_to_live <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let (vni, hop) = match found {
        Some(Route::Connected(vni)) => (vni, header.destination),
        Some(Route::Via(vni, hop)) => (vni, hop),
        // Another network's, which isn't on the router.
        None if tables.is_inside(header.destination) => return Err(DropReason::NoRoute),
        Some(Route::Local) | None => return Ok(Way::Out),
    };
    let network = tables.network(vni).ok_or(DropReason::NoNeighbor)?;
    if vni == admitted.vni && network.spec.isolate {
        return Err(DropReason::Isolated);
    }
    let too_long = packet_len(frame, ethernet)? > network.spec.mtu.bytes();
    if too_long && !may_be_cut(ethernet) {
        return Err(DropReason::TooBig);
    }
    let routed = Routed {
        cut: too_long.then_some(network.spec.mtu),
        ..next_hop((tables, fdb), (network, vni), hop, now)?
    };
    if let (Source::Port(port), Action::ToPort(to)) = (from, routed.delivery())
        && port == to
    {
        return Err(DropReason::RouteLoop);
    }
    Ok(Way::Onward(routed))
}

/// Its sender allows that routers cut it.
fn may_be_cut(ethernet: &EthernetFrame<'_>) -> bool {
    ethernet.ethertype() == EtherType::IPV4
        && Ipv4::new(ethernet.payload()).is_ok_and(|packet| may_fragment(&packet))
}

/// To the host's own port, whose kernel routes on.
pub(super) fn leave(
    tables: &Tables,
    from: Source,
    (exit, vni): (Exit, Vni),
) -> Result<Routed, DropReason> {
    if from == Source::Port(exit.port) {
        return Err(DropReason::RouteLoop);
    }
    to_port(tables, vni, exit.port)?;
    Ok(Routed {
        destination: exit.mac,
        place: Place::Port(exit.port),
        vni,
        cut: None,
    })
}

fn next_hop(
    (tables, fdb): (&Tables, &Fdb),
    (network, vni): (&NetworkEntry, Vni),
    hop: IpAddr,
    now: Tick,
) -> Result<Routed, DropReason> {
    let mac = tables.neighbors().get(vni, hop);
    let destination = mac.ok_or(DropReason::NoNeighbor)?;
    let station = FdbKey {
        vni,
        vlan: VlanId::UNTAGGED,
        mac: destination,
    };
    let place = fdb.lookup(station, now, network.spec.ageing);
    let place = place.ok_or(DropReason::NoNeighbor)?;
    if let Place::Port(port) = place {
        to_port(tables, vni, port)?;
    }
    Ok(Routed {
        destination,
        place,
        vni,
        cut: None,
    })
}

/// How long packets like this one of a port may be, as far as networks say: it was too long for one of them.
pub(crate) fn network_mtu(tables: &Tables, port: PortId, frame: &[u8]) -> Option<Mtu> {
    let network = tables.network(tables.port(port)?.network?)?;
    let own = network.spec.mtu;
    let next = || {
        let ethernet = EthernetFrame::new(frame).ok()?;
        let header = Header::of(ethernet.ethertype(), ethernet.payload())?;
        match network.spec.routes.lookup(header.destination)? {
            Route::Connected(vni) | Route::Via(vni, _) => Some(tables.network(vni)?.spec.mtu),
            Route::Local => None,
        }
    };
    Some(next().map_or(own, |next| next.min(own)))
}
