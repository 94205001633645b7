//! Between admission and the bridge: what a port has for its network's gateway stays on this host. What comes out of a
//! tunnel was heard by the host that it comes from.

use weft_wire::{EtherType, FrameRef, echo_reply};

use super::admit::Admitted;
use super::route::{self, Way};
use crate::gateway::{GATEWAY_MAC, Heard, hear};
use crate::neighbor::Question;
use crate::table::Tables;
use crate::table::fdb::{Fdb, Tick};
use crate::verdict::{Action, DropReason, Source};

/// What becomes of an admitted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The gateway has dealt with it.
    Done(Action),
    /// It isn't for the gateway.
    Bridge,
}

/// Asks everybody for an address whose owner the control plane knows, and that isn't the asker.
fn is_known(tables: &Tables, admitted: &Admitted<'_, '_>) -> bool {
    let ethernet = &admitted.ethernet;
    // Who isolates ports doesn't tell them of each other.
    let question = (ethernet.destination().is_multicast() && !admitted.network.spec.isolate)
        .then(|| Question::of(ethernet))
        .flatten();
    let owner = question.and_then(|question| tables.neighbors().get(admitted.vni, question.target));
    owner.is_some_and(|owner| owner != ethernet.source())
}

#[inline]
pub(super) fn gateway(
    known: (&Tables, &Fdb),
    from: Source,
    admitted: &Admitted<'_, '_>,
    frame: FrameRef<'_>,
    now: Tick,
) -> Result<Next, DropReason> {
    let gateways = &admitted.network.spec.gateways;
    if gateways.is_empty() || matches!(from, Source::Peer { .. }) {
        return Ok(Next::Bridge);
    }
    let destination = admitted.ethernet.destination();
    let asks = || {
        let ethertype = admitted.ethernet.ethertype();
        matches!(
            ethertype,
            EtherType::ARP | EtherType::IPV4 | EtherType::IPV6
        )
    };
    let to_gateway = destination == GATEWAY_MAC;
    if !(to_gateway || destination.is_multicast() && asks()) {
        return Ok(Next::Bridge);
    }
    let services = admitted.network.services.map(Action::ToPort);
    let done = match hear(gateways, frame.bytes) {
        Heard::NotOurs if is_known(known.0, admitted) => Action::Answer,
        Heard::NotOurs => return Ok(Next::Bridge),
        Heard::Answer(_) => Action::Answer,
        Heard::Nothing => return Err(DropReason::NotAnswered),
        // Without services of ours somebody else may be asked.
        Heard::Asks => match services {
            Some(services) => services,
            None if to_gateway => return Err(DropReason::NotAnswered),
            None => return Ok(Next::Bridge),
        },
        Heard::Route => match route::route(known, from, admitted, frame, now)? {
            Way::Onward(routed) => Action::Routed(routed),
            // Behind the addresses of other networks' gateways are no services for this one.
            Way::Local if echo_reply(frame.bytes).is_some() => Action::Answer,
            Way::Local => return Err(DropReason::NotAnswered),
            Way::Out if admitted.network.spec.internal => return Err(DropReason::NoRoute),
            Way::Out => match admitted.network.exit {
                Some(exit) => Action::Routed(route::leave(known.0, from, (exit, admitted.vni))?),
                None => services.ok_or(DropReason::NoRoute)?,
            },
        },
    };
    Ok(Next::Done(done))
}
