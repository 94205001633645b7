//! Second stage: learn where the source is, look up where the destination is.

use std::time::Duration;

use super::admit::Admitted;
use crate::gateway::GATEWAY_MAC;
use crate::table::fdb::{Fdb, FdbKey, Learned, Place, Tick};
use crate::verdict::{DropReason, Source};

/// Where an admitted frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To the one station's place.
    To(Place),
    /// To everybody: multicast, broadcast, or nobody knows.
    Flood,
}

pub(super) fn bridge(
    fdb: &Fdb,
    from: Source,
    frame: &Admitted<'_, '_>,
    now: Tick,
) -> Result<Next, DropReason> {
    let station = |mac| FdbKey {
        vni: frame.vni,
        vlan: frame.vlan,
        mac,
    };
    let source = station(frame.ethernet.source());
    let learned = if source.mac == GATEWAY_MAC && !frame.network.spec.gateways.is_empty() {
        // The gateway is on every host.
        match from {
            Source::Port(_) => return Err(DropReason::SpoofedMac),
            Source::Peer { .. } => Learned::Known,
        }
    } else {
        fdb.learn(source, place_of(from), now)
    };
    match (learned, from) {
        // The control plane knows where this station is, and it isn't at that peer.
        (Learned::OwnedAt(_), Source::Peer { .. }) => return Err(DropReason::SpoofedMac),
        // A port without guard may send from any address; what is owned stays where it is. Without room the frame
        // still goes its way; answers to it are flooded.
        (Learned::OwnedAt(_), Source::Port(_))
        | (Learned::Known | Learned::New | Learned::Moved | Learned::Refused, _) => {}
    }
    let destination = frame.ethernet.destination();
    if destination.is_multicast() {
        return Ok(Next::Flood);
    }
    let ageing: Duration = frame.network.spec.ageing;
    Ok(fdb
        .lookup(station(destination), now, ageing)
        .map_or(Next::Flood, Next::To))
}

fn place_of(from: Source) -> Place {
    match from {
        Source::Port(port) => Place::Port(port),
        Source::Peer { peer, .. } => Place::Peer(peer),
    }
}
