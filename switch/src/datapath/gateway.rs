//! Between admission and the bridge: what a port has for its network's gateway stays on this host. What comes out of a
//! tunnel was heard by the host that it comes from.

use weft_wire::{EtherType, FrameRef, PortId};

use super::admit::Admitted;
use crate::gateway::{GATEWAY_MAC, Heard, hear};
use crate::verdict::{DropReason, Source};

/// What becomes of an admitted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The gateway answers it.
    Answer,
    /// The services behind the gateway get it.
    Services(PortId),
    /// It isn't for the gateway.
    Bridge,
}

#[inline]
pub(super) fn gateway(
    from: Source,
    admitted: &Admitted<'_, '_>,
    frame: FrameRef<'_>,
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
    let services = admitted.network.services.map(Next::Services);
    match hear(gateways, frame.bytes) {
        Heard::NotOurs => Ok(Next::Bridge),
        Heard::Answer(_) => Ok(Next::Answer),
        Heard::Nothing => Err(DropReason::NotAnswered),
        // Without services of ours somebody else may be asked.
        Heard::Asks if to_gateway => services.ok_or(DropReason::NotAnswered),
        Heard::Asks => Ok(services.unwrap_or(Next::Bridge)),
        Heard::Route => services.ok_or(DropReason::NoRoute),
    }
}
