//! Frames for a container: segments, datagrams, echo replies and ICMP errors, as they are written to the inside port.
//! Transport checksums of TCP and UDP are left to the container's kernel, which knows that nothing was on a wire.

use std::net::IpAddr;
use std::num::NonZeroU16;

use weft_wire::checksum::Sum;
use weft_wire::ethernet::{ETHERNET_HEADER_LEN, ethernet_header};
use weft_wire::ipv4::IPV4_HEADER_LEN;
use weft_wire::ipv6::IPV6_HEADER_LEN;
use weft_wire::tcp::TCP_HEADER_LEN;
use weft_wire::udp::UDP_HEADER_LEN;
use weft_wire::{EtherType, Gso, GsoKind, IpProtocol, MacAddr, Offload, PartialChecksum};

use super::packet::{FlowKey, pseudo_header};
use super::tcp::Segment;

/// Ethernet, IPv6 and the longest TCP header.
const MAX_HEAD: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + 60;
/// Hops of what is sent into a network. It takes none.
const TTL: u8 = 64;
/// IPv4's "don't fragment" and "more fragments".
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
/// What announces a fragment in IPv6 (RFC 8200 section 4.5).
const FRAGMENT_HEADER: IpProtocol = IpProtocol(44);
/// RFC 1812 section 4.3.2.3, RFC 4443 section 2.4 (c): an error quotes as much as keeps it below these sizes.
const MAX_ERROR_V4: usize = 576;
const MAX_ERROR_V6: usize = 1280;

/// Who speaks to whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends {
    /// The network's gateway.
    pub(super) source_mac: MacAddr,
    /// The container.
    pub(super) mac: MacAddr,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
}

impl Ends {
    /// From the outside end of a flow to the container that has `mac`.
    pub(super) fn inward(key: &FlowKey, mac: MacAddr) -> Self {
        Self {
            source_mac: weft_switch::gateway::GATEWAY_MAC,
            mac,
            source: key.outside.ip(),
            destination: key.inside.ip(),
        }
    }
}

/// Headers of a frame; its payload lies elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    bytes: [u8; MAX_HEAD],
    len: usize,
    pub(super) offload: Offload,
}

impl Head {
    const EMPTY: Self = Self {
        bytes: [0; MAX_HEAD],
        len: 0,
        offload: Offload::NONE,
    };

    /// The header bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// Ethernet and IP header for `len` bytes of payload.
    fn ip(ends: &Ends, protocol: IpProtocol, len: usize) -> Self {
        let mut head = Self::EMPTY;
        let ethertype = match ends.destination {
            IpAddr::V4(_) => EtherType::IPV4,
            IpAddr::V6(_) => EtherType::IPV6,
        };
        head.push(&ethernet_header(ends.mac, ends.source_mac, ethertype));
        head.push_ip(ends, protocol, len, (DONT_FRAGMENT, 0));
        head
    }

    /// `fragment`: IPv4's flags with offset, and identification.
    fn push_ip(&mut self, ends: &Ends, protocol: IpProtocol, len: usize, fragment: (u16, u16)) {
        match (ends.source, ends.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0; IPV4_HEADER_LEN];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&be16(IPV4_HEADER_LEN + len));
                header[4..6].copy_from_slice(&fragment.1.to_be_bytes());
                header[6..8].copy_from_slice(&fragment.0.to_be_bytes());
                header[8] = TTL;
                header[9] = protocol.0;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                let checksum = Sum::of(&header).finish().to_be_bytes();
                header[10..12].copy_from_slice(&checksum);
                self.push(&header);
            }
            (source, destination) => {
                let mut header = [0; IPV6_HEADER_LEN];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&be16(len));
                header[6] = protocol.0;
                header[7] = TTL;
                header[8..24].copy_from_slice(&v6(source));
                header[24..40].copy_from_slice(&v6(destination));
                self.push(&header);
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.len..end) {
            room.copy_from_slice(bytes);
            self.len = end;
        }
    }

    /// A TCP segment whose payload follows.
    pub(super) fn tcp(ends: &Ends, key: &FlowKey, segment: &Segment) -> Self {
        let header_len = TCP_HEADER_LEN + segment.options().len();
        let whole = header_len + segment.len;
        let mut head = Self::ip(ends, IpProtocol::TCP, whole);
        let start = head.len;
        let mut header = [0; TCP_HEADER_LEN];
        header[0..2].copy_from_slice(&key.outside.port().to_be_bytes());
        header[2..4].copy_from_slice(&key.inside.port().to_be_bytes());
        header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
        header[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
        header[12] = u8::try_from(header_len * 4).unwrap_or(0xf0) & 0xf0;
        header[13] = segment.flags.0;
        header[14..16].copy_from_slice(&segment.window.to_be_bytes());
        let pseudo = pseudo_header(ends.source, ends.destination, IpProtocol::TCP, whole);
        header[16..18].copy_from_slice(&pseudo.folded().to_be_bytes());
        head.push(&header);
        head.push(segment.options());
        let kind = match ends.destination {
            IpAddr::V4(_) => GsoKind::Tcp4,
            IpAddr::V6(_) => GsoKind::Tcp6,
        };
        let size = NonZeroU16::new(segment.mss).filter(|mss| segment.len > usize::from(mss.get()));
        head.offload = Offload {
            checksum: partial(start, 16),
            gso: size.map(|size| Gso {
                kind,
                size,
                ecn: false,
            }),
        };
        head
    }

    /// A UDP datagram whose payload of `len` bytes follows; a run of datagrams of `size` bytes each if that is less.
    pub(super) fn udp(ends: &Ends, key: &FlowKey, len: usize, size: Option<NonZeroU16>) -> Self {
        let whole = UDP_HEADER_LEN + len;
        let mut head = Self::ip(ends, IpProtocol::UDP, whole);
        let start = head.len;
        let pseudo = pseudo_header(ends.source, ends.destination, IpProtocol::UDP, whole);
        head.push(&udp_header(key, whole, pseudo.folded()));
        let size = size.filter(|size| len > usize::from(size.get()));
        head.offload = Offload {
            checksum: partial(start, 6),
            gso: size.map(|size| Gso {
                kind: GsoKind::Udp,
                size,
                ecn: false,
            }),
        };
        head
    }
}

fn udp_header(key: &FlowKey, whole: usize, checksum: u16) -> [u8; UDP_HEADER_LEN] {
    let mut header = [0; UDP_HEADER_LEN];
    header[0..2].copy_from_slice(&key.outside.port().to_be_bytes());
    header[2..4].copy_from_slice(&key.inside.port().to_be_bytes());
    header[4..6].copy_from_slice(&be16(whole));
    header[6..8].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn partial(start: usize, offset: u16) -> Option<PartialChecksum> {
    let start = u16::try_from(start).ok()?;
    Some(PartialChecksum { start, offset })
}

fn be16(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Ethernet and IP header and `upper`, complete in one piece.
pub(super) fn whole_frame(ends: &Ends, protocol: IpProtocol, upper: &[u8]) -> Vec<u8> {
    let head = Head::ip(ends, protocol, upper.len());
    [head.bytes(), upper].concat()
}

/// An IP header and `upper`, as a container sent it in fragments.
pub(super) fn whole_packet(
    (source, destination): (IpAddr, IpAddr),
    protocol: IpProtocol,
    upper: &[u8],
) -> Vec<u8> {
    let ends = Ends {
        source_mac: MacAddr::ZERO,
        mac: MacAddr::ZERO,
        source,
        destination,
    };
    let mut head = Head::EMPTY;
    head.push_ip(&ends, protocol, upper.len(), (0, 0));
    [head.bytes(), upper].concat()
}

/// A UDP datagram with its checksum, without an IP header.
pub(super) fn datagram(ends: &Ends, key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    let whole = UDP_HEADER_LEN + payload.len();
    let pseudo = pseudo_header(ends.source, ends.destination, IpProtocol::UDP, whole);
    let header = udp_header(key, whole, 0);
    let checksum = pseudo.and(&header).and(payload).finish_nonzero();
    [&udp_header(key, whole, checksum)[..], payload].concat()
}

/// The payload of a packet that is longer than `mtu` as fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
pub(super) fn fragments(
    ends: &Ends,
    protocol: IpProtocol,
    upper: &[u8],
    mtu: usize,
    id: u32,
) -> Vec<Vec<u8>> {
    let headers = match ends.destination {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN + 8,
    };
    let size = (mtu.saturating_sub(headers) & !7).max(8);
    let count = upper.len().div_ceil(size);
    let pieces = upper.chunks(size).enumerate();
    pieces
        .map(|(i, piece)| {
            let more = if i + 1 < count { MORE_FRAGMENTS } else { 0 };
            let units = u16::try_from(i * size / 8).unwrap_or(u16::MAX);
            fragment(ends, protocol, piece, units | more, id)
        })
        .collect()
}

/// `place`: offset in units of eight bytes, with IPv4's flag for "more".
fn fragment(ends: &Ends, protocol: IpProtocol, piece: &[u8], place: u16, id: u32) -> Vec<u8> {
    let mut head = Head::EMPTY;
    match ends.destination {
        IpAddr::V4(_) => {
            head.push(&ethernet_header(ends.mac, ends.source_mac, EtherType::IPV4));
            let [_, _, high, low] = id.to_be_bytes();
            let id = u16::from_be_bytes([high, low]);
            head.push_ip(ends, protocol, piece.len(), (place, id));
        }
        IpAddr::V6(_) => {
            head.push(&ethernet_header(ends.mac, ends.source_mac, EtherType::IPV6));
            head.push_ip(ends, FRAGMENT_HEADER, piece.len() + 8, (0, 0));
            let more = u16::from(place & MORE_FRAGMENTS != 0);
            head.push(&[protocol.0, 0]);
            head.push(&((place << 3) | more).to_be_bytes());
            head.push(&id.to_be_bytes());
        }
    }
    [head.bytes(), piece].concat()
}

/// An ICMP or ICMPv6 error, as the family of the ends has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IcmpError {
    pub(super) kind: u8,
    pub(super) code: u8,
    /// Bytes 4 to 8: an MTU, or zero.
    pub(super) rest: u32,
}

impl IcmpError {
    /// The codes of (RFC 792 and RFC 1812, RFC 4443), for the family of `address`.
    fn of(address: IpAddr, v4: (u8, u8), v6: (u8, u8)) -> Self {
        let (kind, code) = if address.is_ipv4() { v4 } else { v6 };
        Self {
            kind,
            code,
            rest: 0,
        }
    }

    /// Communication administratively prohibited.
    pub(super) fn prohibited(address: IpAddr) -> Self {
        Self::of(address, (3, 13), (1, 1))
    }

    /// No route to the destination.
    pub(super) fn no_route(address: IpAddr) -> Self {
        Self::of(address, (3, 0), (1, 0))
    }

    /// The host doesn't answer.
    pub(super) fn unreachable(address: IpAddr) -> Self {
        Self::of(address, (3, 1), (1, 3))
    }

    /// Nobody listens.
    pub(super) fn port_unreachable(address: IpAddr) -> Self {
        Self::of(address, (3, 3), (1, 4))
    }

    /// The gateway doesn't carry the protocol.
    pub(super) fn protocol_unreachable(address: IpAddr) -> Self {
        Self::of(address, (3, 2), (1, 1))
    }

    /// The last hop was here.
    pub(super) fn time_exceeded(address: IpAddr) -> Self {
        Self::of(address, (11, 0), (3, 0))
    }

    /// The frame that says so about the packet `quoted` (from its IP header on).
    pub(super) fn frame(self, ends: &Ends, quoted: &[u8]) -> Vec<u8> {
        let (protocol, room) = match ends.destination {
            IpAddr::V4(_) => (IpProtocol::ICMP4, MAX_ERROR_V4 - IPV4_HEADER_LEN - 8),
            IpAddr::V6(_) => (IpProtocol::ICMP6, MAX_ERROR_V6 - IPV6_HEADER_LEN - 8),
        };
        let quoted = quoted.get(..room.min(quoted.len())).unwrap_or_default();
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend_from_slice(&self.rest.to_be_bytes());
        message.extend_from_slice(quoted);
        finish_icmp(ends, protocol, &mut message);
        whole_frame(ends, protocol, &message)
    }
}

/// An echo reply to a container, without an IP header: `rest` is identifier, sequence number and data.
pub(super) fn echo_reply(ends: &Ends, rest: &[u8]) -> (IpProtocol, Vec<u8>) {
    let (protocol, kind) = match ends.destination {
        IpAddr::V4(_) => (IpProtocol::ICMP4, 0),
        IpAddr::V6(_) => (IpProtocol::ICMP6, 129),
    };
    let mut message = vec![kind, 0, 0, 0];
    message.extend_from_slice(rest);
    finish_icmp(ends, protocol, &mut message);
    (protocol, message)
}

fn finish_icmp(ends: &Ends, protocol: IpProtocol, message: &mut [u8]) {
    let sum = match ends.destination {
        IpAddr::V4(_) => Sum::ZERO,
        IpAddr::V6(_) => pseudo_header(ends.source, ends.destination, protocol, message.len()),
    };
    let checksum = sum.and(message).finish().to_be_bytes();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum);
    }
}

/// The beginning of a packet that a container sent some time ago, to be quoted: its IP header and the first eight bytes
/// behind it. `len` is of transport header and payload.
pub(super) fn quote(
    key: &FlowKey,
    protocol: IpProtocol,
    transport: [u8; 8],
    len: usize,
) -> Vec<u8> {
    let mut head = Head::EMPTY;
    let ends = Ends {
        source_mac: MacAddr::ZERO,
        mac: MacAddr::ZERO,
        source: key.inside.ip(),
        destination: key.outside.ip(),
    };
    head.push_ip(&ends, protocol, len, (DONT_FRAGMENT, 0));
    head.push(&transport);
    head.bytes().to_vec()
}

/// The first eight bytes of a transport header: ports, and four more.
pub(super) fn ports(key: &FlowKey, rest: u32) -> [u8; 8] {
    let [s0, s1] = key.inside.port().to_be_bytes();
    let [d0, d1] = key.outside.port().to_be_bytes();
    let [r0, r1, r2, r3] = rest.to_be_bytes();
    [s0, s1, d0, d1, r0, r1, r2, r3]
}

#[cfg(test)]
mod tests;
