//! A packet that a container sent for the outside, parsed once, and refused where it is not well-formed.

use std::net::{IpAddr, SocketAddr};

use weft_wire::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use weft_wire::ethernet::ETHERNET_HEADER_LEN;
use weft_wire::ipv6::UpperLayer;
use weft_wire::{
    EtherType, EthernetFrame, FrameRef, GsoKind, IpProtocol, Ipv4, Ipv6, MacAddr, Tcp, Udp,
};

use super::refusal::Refusal;

/// An IP packet with a whole upper layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The container's MAC.
    pub(super) mac: MacAddr,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// Hops it may take yet.
    pub(super) ttl: u8,
    pub(super) protocol: IpProtocol,
    /// From the IP header on: what an ICMP error quotes.
    pub(super) ip: &'a [u8],
    /// From the transport header on.
    pub(super) upper: &'a [u8],
    /// Payload bytes of each datagram, when these are several (UDP segmentation).
    pub(super) datagram: Option<usize>,
    /// The transport checksum was left to be finished: nothing to verify.
    pub(super) unfinished: bool,
}

/// Why a frame is no [`Packet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoPacket<'a> {
    /// Not IP: nothing for the way out.
    NotIp,
    /// Refused without an answer.
    Refused(Refusal),
    /// Part of a larger packet.
    Fragment(Fragment<'a>),
}

/// A fragment of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment<'a> {
    pub(super) mac: MacAddr,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) ttl: u8,
    pub(super) protocol: IpProtocol,
    pub(super) identification: u32,
    /// Where it belongs in the payload.
    pub(super) offset: usize,
    /// Others follow.
    pub(super) more: bool,
    pub(super) bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// The packet whose last missing fragment was `last`; `ip` is all of it, from its header on.
    pub(super) fn reassembled(last: &Fragment<'_>, ip: &'a [u8]) -> Self {
        let header = if last.source.is_ipv4() { 20 } else { 40 };
        Self {
            mac: last.mac,
            source: last.source,
            destination: last.destination,
            ttl: last.ttl,
            protocol: last.protocol,
            ip,
            upper: ip.get(header..).unwrap_or_default(),
            datagram: None,
            unfinished: false,
        }
    }

    /// Parses a frame in one piece.
    ///
    /// # Errors
    /// [`NoPacket`].
    pub(super) fn parse(frame: &FrameRef<'a>) -> Result<Self, NoPacket<'a>> {
        let malformed = |_| NoPacket::Refused(Refusal::Malformed);
        let ethernet = EthernetFrame::new(frame.bytes).map_err(malformed)?;
        if ethernet.vlan().is_some() {
            return Err(NoPacket::NotIp);
        }
        let bytes = frame.bytes.get(ETHERNET_HEADER_LEN..).unwrap_or_default();
        let gso = frame.offload.gso;
        let mut packet = match ethernet.ethertype() {
            EtherType::IPV4 => {
                let ip = Ipv4::new(bytes).map_err(malformed)?;
                Self::of_ipv4(&ip, bytes).map_err(|no| no.sent_by(ethernet.source()))?
            }
            EtherType::IPV6 => {
                let ip = Ipv6::new(bytes).map_err(malformed)?;
                let upper = ip.upper_layer().map_err(malformed)?;
                Self::of_ipv6(&ip, &upper, bytes).map_err(|no| no.sent_by(ethernet.source()))?
            }
            _ => return Err(NoPacket::NotIp),
        };
        packet.mac = ethernet.source();
        packet.unfinished = frame.offload.checksum.is_some();
        packet.datagram = gso
            .filter(|gso| gso.kind == GsoKind::Udp)
            .map(|gso| usize::from(gso.size.get()));
        Ok(packet)
    }

    fn of_ipv4(ip: &Ipv4<'a>, bytes: &'a [u8]) -> Result<Self, NoPacket<'a>> {
        if !ip.checksum_is_valid() {
            return Err(NoPacket::Refused(Refusal::Malformed));
        }
        if ip.is_fragment() {
            return Err(NoPacket::Fragment(Fragment {
                mac: MacAddr::ZERO,
                source: ip.source().into(),
                destination: ip.destination().into(),
                ttl: ip.ttl(),
                protocol: ip.protocol(),
                identification: u32::from(ip.identification()),
                offset: ip.fragment_offset(),
                more: ip.more_fragments(),
                bytes: ip.payload(),
            }));
        }
        Ok(Self {
            mac: MacAddr::ZERO,
            source: ip.source().into(),
            destination: ip.destination().into(),
            ttl: ip.ttl(),
            protocol: ip.protocol(),
            ip: bytes.get(..ip.total_len()).unwrap_or_default(),
            upper: ip.payload(),
            datagram: None,
            unfinished: false,
        })
    }

    fn of_ipv6(ip: &Ipv6<'a>, upper: &UpperLayer, bytes: &'a [u8]) -> Result<Self, NoPacket<'a>> {
        // Where it goes is for its own header to say (RFC 5095 has done away with routing headers).
        if upper.in_transit {
            return Err(NoPacket::Refused(Refusal::Malformed));
        }
        if let Some(fragment) = upper.fragment.filter(|fragment| !fragment.is_atomic()) {
            return Err(NoPacket::Fragment(Fragment {
                mac: MacAddr::ZERO,
                source: ip.source().into(),
                destination: ip.destination().into(),
                ttl: ip.hop_limit(),
                protocol: upper.protocol,
                identification: fragment.identification,
                offset: fragment.offset,
                more: fragment.more,
                bytes: ip.upper_payload(upper),
            }));
        }
        Ok(Self {
            mac: MacAddr::ZERO,
            source: ip.source().into(),
            destination: ip.destination().into(),
            ttl: ip.hop_limit(),
            protocol: upper.protocol,
            ip: bytes.get(..ip.total_len()).unwrap_or_default(),
            upper: ip.upper_payload(upper),
            datagram: None,
            unfinished: false,
        })
    }

    /// The TCP segment.
    ///
    /// # Errors
    /// Malformed, or its checksum is wrong.
    pub(super) fn tcp(&self) -> Result<Tcp<'a>, Refusal> {
        let tcp = Tcp::new(self.upper).map_err(|_| Refusal::Malformed)?;
        self.verify(self.upper)?;
        Ok(tcp)
    }

    /// The UDP datagram, or run of datagrams; its ports and payload.
    ///
    /// # Errors
    /// Malformed, or its checksum is wrong.
    pub(super) fn udp(&self) -> Result<(u16, u16, &'a [u8]), Refusal> {
        if let Some((header, payload)) = self.upper.split_first_chunk::<8>()
            && self.datagram.is_some()
        {
            // The length field isn't meant for a run.
            let [s0, s1, d0, d1, ..] = *header;
            let ports = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
            return Ok((ports.0, ports.1, payload));
        }
        let udp = Udp::new(self.upper).map_err(|_| Refusal::Malformed)?;
        // No checksum is allowed in IPv4 only (RFC 8200 section 8.1).
        if udp.checksum() != 0 || self.source.is_ipv6() {
            let whole = weft_wire::udp::UDP_HEADER_LEN + udp.payload().len();
            self.verify(self.upper.get(..whole).unwrap_or_default())?;
        }
        Ok((udp.source_port(), udp.destination_port(), udp.payload()))
    }

    /// Verifies a checksum that covers the pseudo header.
    pub(super) fn verify(&self, covered: &[u8]) -> Result<(), Refusal> {
        if self.unfinished || self.pseudo_header(covered.len()).and(covered).finish() == 0 {
            return Ok(());
        }
        Err(Refusal::BadChecksum)
    }

    fn pseudo_header(&self, len: usize) -> Sum {
        pseudo_header(self.source, self.destination, self.protocol, len)
    }

    /// The datagram's or segment's ends, outside and inside.
    pub(super) fn flow(&self, source: u16, destination: u16) -> FlowKey {
        FlowKey {
            inside: SocketAddr::new(self.source, source),
            outside: SocketAddr::new(self.destination, destination),
        }
    }
}

/// The pseudo header of either family; addresses of both are never mixed.
pub(super) fn pseudo_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: IpProtocol,
    len: usize,
) -> Sum {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = u16::try_from(len).unwrap_or(u16::MAX);
            pseudo_header_v4(source, destination, protocol, len)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            pseudo_header_v6(source, destination, protocol, len)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Sum::ZERO,
    }
}

impl NoPacket<'_> {
    fn sent_by(mut self, mac: MacAddr) -> Self {
        if let Self::Fragment(fragment) = &mut self {
            fragment.mac = mac;
        }
        self
    }
}

/// Both ends of a flow, as the container sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    /// The container's end.
    pub(super) inside: SocketAddr,
    /// The other end.
    pub(super) outside: SocketAddr,
}
