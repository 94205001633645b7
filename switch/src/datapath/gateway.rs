//! Between admission and the bridge: what a port has for its network's gateway stays on this host. What comes out of a
//! tunnel was heard by the host that it comes from.

use weft_wire::{EtherType, FrameRef};

use super::admit::Admitted;
use crate::gateway::{GATEWAY_MAC, Heard, hear};
use crate::verdict::{DropReason, Source};

/// What becomes of an admitted frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The gateway answers it.
    Answer,
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
        ethertype == EtherType::ARP || ethertype == EtherType::IPV6
    };
    if destination != GATEWAY_MAC && !(destination.is_multicast() && asks()) {
        return Ok(Next::Bridge);
    }
    match hear(gateways, frame.bytes) {
        Heard::NotOurs => Ok(Next::Bridge),
        Heard::Answer(_) => Ok(Next::Answer),
        Heard::Nothing => Err(DropReason::NotAnswered),
        Heard::Route => Err(DropReason::NoRoute),
    }
}
