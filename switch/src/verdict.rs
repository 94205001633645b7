//! Where a frame came from and every way it can end.

use weft_wire::{MacAddr, Mtu, PeerId, PortId, Vni};

use crate::table::fdb::Place;

/// Where a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A port of this host; the port says which network.
    Port(PortId),
    /// A tunnel.
    Peer {
        /// Its far end.
        peer: PeerId,
        /// The network, as the tunnel header says.
        vni: Vni,
    },
}

/// What is to be done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write it to that port.
    ToPort(PortId),
    /// Send it through the tunnel.
    ToPeer {
        /// To whom.
        peer: PeerId,
        /// On which network.
        vni: Vni,
    },
    /// Route it: rewrite it for its next hop, then deliver it there.
    Routed(Routed),
    /// It is the gateway's: write the answer to the port it came from.
    Answer,
    /// Count it and let it go.
    Drop(DropReason),
}

/// The next hop of a frame that is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Its MAC.
    pub destination: MacAddr,
    /// Where it is.
    pub place: Place,
    /// Its network.
    pub vni: Vni,
    /// The packet is longer than this, which is what the next network takes, and may be cut.
    pub cut: Option<Mtu>,
}

impl Routed {
    /// How the rewritten frame gets there.
    #[inline]
    pub const fn delivery(&self) -> Action {
        match self.place {
            Place::Port(port) => Action::ToPort(port),
            Place::Peer(peer) => Action::ToPeer {
                peer,
                vni: self.vni,
            },
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a frame was not delivered: the cause, and what an operator does about it (docs/drops.md).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All of them, in order of [`Self::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Stable name for JSON and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// Cause and cure, as in the type's documentation.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers. The sender is broken, or somebody plays.
    Runt = "runt",
    /// The vnet header contradicts the frame. The container's kernel or a VM in it is broken.
    BadOffload = "bad_offload",
    /// The source MAC is a group address or all zeros. The sender is broken.
    BadSource = "bad_source",
    /// The VLAN id is the reserved 4095. The sender is broken.
    BadVlan = "bad_vlan",
    /// The source MAC isn't the sender's to use. Connect with the MAC the container uses, or look for the intruder.
    SpoofedMac = "spoofed_mac",
    /// The source IP (or ARP/ND sender) isn't the sender's to use. Connect with --ip, or look for the intruder.
    SpoofedAddress = "spoofed_address",
    /// A tagged frame on a network that has subnets. Use a plain L2 network (no --subnet) for VLANs.
    VlanNotAllowed = "vlan_not_allowed",
    /// Above the network's MTU. Lower the interface's MTU to that of `weft ports`.
    TooBig = "too_big",
    /// To an IEEE 802.1D reserved address, which no bridge forwards. Nothing to do.
    LinkReserved = "link_reserved",
    /// For a network that this host doesn't have (or no longer has). Clears itself unless a VNI is set wrongly.
    UnknownVni = "unknown_vni",
    /// The destination is on the side it came from. Nothing to do.
    SameSide = "same_side",
    /// From a tunnel to an address behind a tunnel. Clears itself when the sender has learned the new place.
    SplitHorizon = "split_horizon",
    /// By an uplink, from an endpoint of another host: the LAN brought it back, the tunnel has brought it. Nothing to do.
    CameBack = "came_back",
    /// To everybody, and nobody else is there. Nothing to do.
    NoListener = "no_listener",
    /// To the gateway, for an address that it has no route to. Connect the networks to one router, or add a route.
    NoRoute = "no_route",
    /// To the gateway, which has a route, but no endpoint has the address. The sender is told.
    NoNeighbor = "no_neighbor",
    /// To the gateway after the last hop that it may make. A loop of routes, or somebody traces a route.
    TtlExceeded = "ttl_exceeded",
    /// To the gateway, whose route leads back to the sender. Take the route away, or give the sender a better one.
    RouteLoop = "route_loop",
    /// From one port of an isolated network to another. Make the network without --isolate if they are to meet.
    Isolated = "isolated",
    /// To the gateway, which has nothing to say to it or is asked too often. Nothing to do.
    NotAnswered = "not_answered",
    /// The port's ring is full: the container is slower than its senders.
    PortFull = "port_full",
    /// The container's interface is down.
    PortDown = "port_down",
    /// The container's namespace is just going.
    PortGone = "port_gone",
    /// The port can't take the frame: it couldn't be segmented, or the kernel refused it.
    PortRefused = "port_refused",
}

impl DropReason {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// As an index into counters.
    pub const fn index(self) -> usize {
        self as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_index() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(!reason.description().is_empty());
            let same = DropReason::ALL
                .iter()
                .filter(|other| other.name() == reason.name());
            assert_eq!(same.count(), 1, "{}", reason.name());
        }
    }
}
