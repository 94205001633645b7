//! What comes in by a link of this host. It is heard by the ports of this host alone, as on macvlan: into tunnels it would
//! come out of the uplink of another host on the same LAN, and go round.

use super::admit::Admitted;
use super::transmit::to_port;
use crate::gateway::GATEWAY_MAC;
use crate::table::fdb::{Fdb, FdbKey, Learned, Place, Tick};
use crate::table::{NetworkMode, Tables};
use crate::verdict::{Action, DropReason};
use weft_wire::PortId;

pub(super) fn uplink(
    (tables, fdb): (&Tables, &Fdb),
    port: PortId,
    frame: &Admitted<'_, '_>,
    now: Tick,
    actions: &mut Vec<Action>,
) -> Result<(), DropReason> {
    let station = |mac| FdbKey {
        vni: frame.vni,
        vlan: frame.vlan,
        mac,
    };
    let (ageing, here) = (frame.network.spec.ageing, Place::Port(port));
    let source = station(frame.ethernet.source());
    // An endpoint of ours that the LAN brought back: other hosts have uplinks there too.
    let ours = matches!(fdb.lookup(source, now, ageing), Some(Place::Peer(_)));
    if ours
        || source.mac == GATEWAY_MAC
        || matches!(fdb.learn(source, here, now), Learned::OwnedAt(_))
    {
        return Err(DropReason::CameBack);
    }
    let everybody = || frame.network.ports.iter().map(|port| Action::ToPort(*port));
    let destination = frame.ethernet.destination();
    if destination.is_multicast() {
        actions.extend(everybody());
    } else {
        match fdb.lookup(station(destination), now, ageing) {
            Some(Place::Port(to)) if to == port => return Err(DropReason::SameSide),
            Some(Place::Port(to)) if frame.network.ports.contains(&to) => {
                actions.push(to_port(tables, frame.vni, to)?);
            }
            Some(Place::Peer(_)) => return Err(DropReason::SplitHorizon),
            // Where endpoints are only learned it may be one that hasn't spoken since this agent started.
            None if frame.network.spec.mode == NetworkMode::PlainL2 => actions.extend(everybody()),
            // Stations of the LAN are none of ours, and the link is promiscuous.
            Some(Place::Port(_)) | None => return Err(DropReason::NoListener),
        }
    }
    if actions.is_empty() {
        return Err(DropReason::NoListener);
    }
    Ok(())
}
