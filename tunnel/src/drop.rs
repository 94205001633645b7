//! Every way a frame can end in the tunnel without reaching the other side. A drop is no error: it is counted, at the
//! peer it concerns or, when no peer can be blamed, with the strangers.

use std::fmt;

use weft_wire::VxlanError;

/// Why the tunnel dropped a frame. Receiving reasons come first, in the order of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum TunnelDrop {
    /// The datagram's source address is no peer: find out who sends there, or add it as a static VTEP.
    Stranger,
    /// Shorter than a VXLAN header, or cut on receipt: look for a middlebox or a program that isn't a VTEP.
    Truncated,
    /// No I flag: the sender isn't a VTEP, or speaks another protocol on this port.
    BadHeader,
    /// VNI 0: no network has it; correct the sender's configuration.
    BadVni,
    /// The peer is a static VTEP that was not added to this network: `weft network vtep add`, or correct the peer.
    NetworkNotAllowed,
    /// The inner frame is shorter than an Ethernet header: the sender is broken.
    Runt,
    /// Sent to a peer that has left meanwhile: nothing to do unless it goes on.
    UnknownPeer,
    /// The container's frame contradicts its offload: a broken or hostile sender behind the port.
    Malformed,
    /// The frame is longer than the measured path takes; its sender was told. If it goes on, see the peer's MTU and the
    /// network's.
    TooBig,
    /// The socket's send buffer is full: the underlay is slower than what is sent; TCP adapts by itself.
    SocketFull,
    /// No route to the peer or nobody there: look at the host's routes and links.
    Unreachable,
    /// The host's firewall refused the datagram: let UDP to the peer's port out.
    Filtered,
    /// The kernel refused for another reason: see the agent's kernel log.
    SendFailed,
    /// A frame of an encrypted network came in clear: somebody forges it, or the peer's agent is too old.
    InClear,
    /// Its network doesn't travel this way: nothing to do unless it goes on after a change.
    NotCarried,
    /// No encrypted session with the peer came up in time: see `weft peers` for why.
    NoSession,
    /// A datagram under a key that is no more, or never was.
    UnknownKey,
    /// A datagram came twice, or very late.
    Replayed,
    /// A datagram that isn't authentic: somebody forges, or something on the way changes datagrams.
    Forged,
    /// Congestion was marked on the way, and the frame's ends don't know the mark (RFC 6040).
    Congested,
}

impl TunnelDrop {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 20] = [
        Self::Stranger,
        Self::Truncated,
        Self::BadHeader,
        Self::BadVni,
        Self::NetworkNotAllowed,
        Self::Runt,
        Self::UnknownPeer,
        Self::Malformed,
        Self::TooBig,
        Self::SocketFull,
        Self::Unreachable,
        Self::Filtered,
        Self::SendFailed,
        Self::InClear,
        Self::NotCarried,
        Self::NoSession,
        Self::UnknownKey,
        Self::Replayed,
        Self::Forged,
        Self::Congested,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// As an index into tables of [`Self::COUNT`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name in JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Truncated => "truncated",
            Self::BadHeader => "bad_header",
            Self::BadVni => "bad_vni",
            Self::NetworkNotAllowed => "network_not_allowed",
            Self::Runt => "runt",
            Self::UnknownPeer => "unknown_peer",
            Self::Malformed => "malformed",
            Self::TooBig => "too_big",
            Self::SocketFull => "socket_full",
            Self::Unreachable => "unreachable",
            Self::Filtered => "filtered",
            Self::SendFailed => "send_failed",
            Self::InClear => "in_clear",
            Self::NotCarried => "not_carried",
            Self::NoSession => "no_session",
            Self::UnknownKey => "unknown_key",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::Congested => "congested",
        }
    }

    /// Cause and cure in one sentence.
    pub const fn description(self) -> &'static str {
        match self {
            Self::Stranger => {
                "a datagram came from an address that is no peer: find the sender, or add it with `weft network vtep add`"
            }
            Self::Truncated => {
                "a datagram was shorter than a VXLAN header: its sender is no VTEP or a middlebox cuts packets"
            }
            Self::BadHeader => {
                "a VXLAN header had no I flag: its sender speaks another protocol on this port"
            }
            Self::BadVni => "a VXLAN header had VNI 0: correct the sender's configuration",
            Self::NetworkNotAllowed => {
                "a static VTEP and a network it was not added to: add it with `weft network vtep add`, or correct the VTEP"
            }
            Self::Runt => {
                "an inner frame was shorter than an Ethernet header: the sending VTEP is broken"
            }
            Self::UnknownPeer => {
                "a frame was sent to a peer that has just left: look at `weft peers` if it goes on"
            }
            Self::Malformed => {
                "a container's frame contradicted its offload header: look at the program behind the port"
            }
            Self::TooBig => {
                "a frame was longer than the measured path takes; its sender was told (ICMP): nothing to do unless it goes on, then see the peer's MTU in `weft peers` and the network's in `weft network ls`"
            }
            Self::SocketFull => {
                "the socket's send buffer was full: the underlay is slower than what is sent"
            }
            Self::Unreachable => {
                "there was no way to the peer: look at routes and links of this host"
            }
            Self::Filtered => {
                "this host's firewall refused the datagram: allow UDP to the peer's VXLAN port"
            }
            Self::SendFailed => "the kernel refused the datagram: look at its log",
            Self::InClear => {
                "a frame of an encrypted network came in clear and was refused: somebody forges it, or that host's agent is too old"
            }
            Self::NotCarried => {
                "a frame's network doesn't travel this way: nothing to do unless it goes on after a change of networks"
            }
            Self::NoSession => {
                "no encrypted session with the peer came up in time: `weft peers` says why"
            }
            Self::UnknownKey => {
                "an encrypted datagram came under a key that is no more: nothing to do unless it goes on after the peer started anew"
            }
            Self::Replayed => {
                "an encrypted datagram came twice or very late: somebody repeats datagrams, or the underlay does"
            }
            Self::Forged => {
                "an encrypted datagram was not authentic: somebody forges, or a middlebox changes datagrams"
            }
            Self::Congested => {
                "congestion was marked on the way and the frame's ends don't know such marks (RFC 6040)"
            }
        }
    }
}

impl fmt::Display for TunnelDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<VxlanError> for TunnelDrop {
    fn from(error: VxlanError) -> Self {
        match error {
            VxlanError::Truncated { .. } => Self::Truncated,
            VxlanError::NoVniFlag => Self::BadHeader,
            VxlanError::ZeroVni => Self::BadVni,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stands_at_its_number_and_has_a_name_of_its_own() {
        let mut names = std::collections::HashSet::new();
        for (i, reason) in TunnelDrop::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(names.insert(reason.name()));
            assert!(!reason.description().is_empty());
        }
    }
}
