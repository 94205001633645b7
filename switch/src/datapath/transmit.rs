//! Last stage: from a destination to deliveries. Never back to where the frame came from, and never from a tunnel into
//! a tunnel (split horizon: every peer floods to all itself).

use weft_wire::{PortId, Vni};

use super::admit::Admitted;
use super::bridge::Next;
use crate::gateway::GATEWAY_MAC;
use crate::table::Tables;
use crate::table::fdb::Place;
use crate::verdict::{Action, DropReason, Source};

pub(super) fn transmit(
    tables: &Tables,
    from: Source,
    frame: &Admitted<'_, '_>,
    next: Next,
    actions: &mut Vec<Action>,
) -> Result<(), DropReason> {
    if frame.network.spec.isolate && !may_leave(from, frame, next) {
        return Err(DropReason::Isolated);
    }
    match (next, from) {
        (Next::To(Place::Port(port)), Source::Port(source)) if port == source => {
            return Err(DropReason::SameSide);
        }
        (Next::To(Place::Peer(_)), Source::Peer { .. }) => return Err(DropReason::SplitHorizon),
        // Each host reaches the LAN by a link of its own.
        (Next::To(Place::Port(port)), Source::Peer { .. })
            if frame.network.uplinks.contains(&port) =>
        {
            return Err(DropReason::SplitHorizon);
        }
        (Next::To(Place::Port(port)), _) => actions.push(to_port(tables, frame.vni, port)?),
        (Next::To(Place::Peer(peer)), _) => {
            actions.push(Action::ToPeer {
                peer,
                vni: frame.vni,
            });
        }
        (Next::Flood, _) => flood(from, frame, actions),
    }
    if actions.is_empty() {
        return Err(DropReason::NoListener);
    }
    Ok(())
}

/// Whether a frame may go to `next` although the network's ports don't reach each other.
fn may_leave(from: Source, frame: &Admitted<'_, '_>, next: Next) -> bool {
    match (from, next) {
        // What a router of another host sends comes from outside the network: it sends nothing back into it.
        (Source::Peer { .. }, _) => frame.ethernet.source() == GATEWAY_MAC,
        // The LAN is outside, too, and so is what the host's kernel routes.
        (Source::Port(source), Next::To(Place::Port(port))) => {
            let network = frame.network;
            network.uplinks.contains(&port) || network.is_exit(port) || network.is_exit(source)
        }
        (Source::Port(_), Next::To(Place::Peer(_))) => false,
        (Source::Port(_), Next::Flood) => {
            !frame.network.uplinks.is_empty() || frame.network.exit.is_some()
        }
    }
}

/// An entry may outlive its port for a moment, and its number may be of another network by then.
#[inline]
pub(super) fn to_port(tables: &Tables, vni: Vni, port: PortId) -> Result<Action, DropReason> {
    let there = tables.port(port).filter(|port| port.network == Some(vni));
    there.ok_or(DropReason::PortGone)?;
    Ok(Action::ToPort(port))
}

fn flood(from: Source, frame: &Admitted<'_, '_>, actions: &mut Vec<Action>) {
    let links = frame.network.uplinks.iter();
    let links = links.map(|link| Action::ToPort(*link));
    let apart = |port: PortId| frame.network.spec.isolate && !frame.network.is_exit(port);
    if let Source::Port(source) = from
        && apart(source)
    {
        let exit = frame.network.exit.iter();
        return actions.extend(links.chain(exit.map(|exit| Action::ToPort(exit.port))));
    }
    let others = frame
        .network
        .ports
        .iter()
        .filter(|port| from != Source::Port(**port));
    actions.extend(others.map(|port| Action::ToPort(*port)));
    if matches!(from, Source::Port(_)) {
        actions.extend(links);
        // Other hosts have an exit of their own.
        if frame.network.spec.isolate {
            return;
        }
        let peers = frame.network.spec.flood_peers.iter();
        actions.extend(peers.map(|peer| Action::ToPeer {
            peer: *peer,
            vni: frame.vni,
        }));
    }
}
