//! What a coalescer knows of a frame: read once, compared many times. Headers are compared whole, through masks of what
//! may differ, which compilers turn into a few wide instructions.

use std::ops::Range;

use crate::checksum::Sum;
use crate::error::be16;
use crate::ethernet::{ETHERNET_HEADER_LEN, EtherType};
use crate::frame::GsoKind;
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol};
use crate::ipv6::IPV6_HEADER_LEN;
use crate::tcp::{TCP_HEADER_LEN, TcpFlags};
use crate::udp::UDP_HEADER_LEN;
use crate::{ipv4, ipv6, tcp, udp};

/// First byte of an IPv4 header without options.
const IPV4_PLAIN: u8 = 0x45;
/// Where the transport headers are in untagged frames without options and extension headers.
const TRANSPORT_V4: usize = ETHERNET_HEADER_LEN + IPV4_HEADER_LEN;
const TRANSPORT_V6: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN;
/// FIN and PSH: with one of them a segment is the last of its run.
const ENDING: TcpFlags = TcpFlags::FIN.with(TcpFlags::PSH);
/// Flags that a segment of a run may have. CWR, which stands for an event, has its segment alone.
const MERGED: TcpFlags = ENDING.with(TcpFlags::ACK).with(TcpFlags::ECE);

/// A TCP segment or UDP datagram, where it lies in the batch's buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// Of the whole frame.
    start: usize,
    len: usize,
    pub(super) kind: Kind,
    /// Where the payload starts, from the start of the frame.
    pub(super) payload: usize,
    /// A digest of addresses and ports: of another flow if it differs.
    pub(super) tag: u64,
    /// That of TCP; 0 for UDP, where nothing but the order of arrival says what follows.
    pub(super) sequence: u32,
    /// That of IPv4; 0 for IPv6.
    pub(super) id: u16,
    flags: TcpFlags,
}

/// Protocols that are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
}

/// Which protocols are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Merged {
    /// TCP.
    #[default]
    Streams,
    /// TCP, and UDP as well.
    StreamsAndDatagrams,
}

/// What a frame is to a coalescer.
#[derive(Debug)]
pub(super) enum Class {
    /// May be merged.
    Candidate(Segment),
    /// Of a flow whose run it ends: no payload, or flags that stand alone.
    Alone(Segment),
    /// Not of any flow that is merged.
    Foreign,
    /// May be of any flow: fragments, options, tags.
    Odd,
}

impl Kind {
    /// Where the transport header starts, from the start of the frame.
    pub(super) const fn transport(self) -> usize {
        match self {
            Self::Tcp4 | Self::Udp4 => TRANSPORT_V4,
            Self::Tcp6 | Self::Udp6 => TRANSPORT_V6,
        }
    }

    pub(super) const fn is_v4(self) -> bool {
        matches!(self, Self::Tcp4 | Self::Udp4)
    }

    const fn protocol(self) -> IpProtocol {
        match self {
            Self::Tcp4 | Self::Tcp6 => IpProtocol::TCP,
            Self::Udp4 | Self::Udp6 => IpProtocol::UDP,
        }
    }

    pub(super) const fn gso(self) -> GsoKind {
        match self {
            Self::Tcp4 => GsoKind::Tcp4,
            Self::Tcp6 => GsoKind::Tcp6,
            Self::Udp4 | Self::Udp6 => GsoKind::Udp,
        }
    }

    /// Where the checksum is, from the start of the transport header.
    pub(super) const fn checksum(self) -> usize {
        match self {
            Self::Tcp4 | Self::Tcp6 => tcp::field::CHECKSUM,
            Self::Udp4 | Self::Udp6 => udp::field::CHECKSUM,
        }
    }

    /// The pseudo header before `transport_len` bytes, of a frame that starts with `header`.
    pub(super) fn pseudo_header(self, header: &[u8], transport_len: usize) -> Sum {
        // The addresses end the IP header.
        let addresses = if self.is_v4() {
            ETHERNET_HEADER_LEN + ipv4::field::SOURCE..TRANSPORT_V4
        } else {
            ETHERNET_HEADER_LEN + ipv6::field::SOURCE..TRANSPORT_V6
        };
        Sum::of(&header[addresses])
            .and_u16(u16::from(self.protocol().0))
            .and_u16(super::length16(transport_len))
    }
}

impl Segment {
    pub(super) const fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    pub(super) const fn payload_range(&self) -> Range<usize> {
        self.start + self.payload..self.start + self.len
    }

    pub(super) const fn payload_len(&self) -> usize {
        self.len - self.payload
    }

    pub(super) fn header<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        &buffer[self.start..self.start + self.payload]
    }

    /// FIN and PSH.
    pub(super) const fn ending_flags(&self) -> TcpFlags {
        TcpFlags(self.flags.0 & ENDING.0)
    }

    /// Same protocol, addresses and ports.
    #[inline]
    pub(super) fn same_flow(&self, buffer: &[u8], other: &Self) -> bool {
        let (a, b) = (self.header(buffer), other.header(buffer));
        self.tag == other.tag
            && self.kind == other.kind
            && match self.kind {
                Kind::Tcp4 | Kind::Udp4 => equal(a, b, &FLOW_V4),
                Kind::Tcp6 | Kind::Udp6 => equal(a, b, &FLOW_V6),
            }
    }

    /// Of two segments of a flow: whether all is equal that must be equal in a run, options included.
    #[inline]
    pub(super) fn same_header(&self, buffer: &[u8], other: &Self) -> bool {
        let (a, b) = (self.header(buffer), other.header(buffer));
        match self.kind {
            Kind::Tcp4 => equal(a, b, &TCP4) && a[TCP4.len()..] == b[TCP4.len()..],
            Kind::Tcp6 => equal(a, b, &TCP6) && a[TCP6.len()..] == b[TCP6.len()..],
            Kind::Udp4 => equal(a, b, &UDP4),
            Kind::Udp6 => equal(a, b, &UDP6),
        }
    }

    /// Whether its checksums are right.
    #[inline]
    pub(super) fn is_right(&self, buffer: &[u8]) -> bool {
        let frame = &buffer[self.range()];
        // A sum of all ones may be written in two ways, of which the segmenter knows one: here, and below.
        if self.kind.is_v4() {
            let network = &frame[ETHERNET_HEADER_LEN..TRANSPORT_V4];
            if Sum::of(network).finish() != 0 || get16(network, ipv4::field::CHECKSUM) == 0xffff {
                return false;
            }
        }
        let transport = &frame[self.kind.transport()..];
        let sum = self
            .kind
            .pseudo_header(frame, transport.len())
            .and(transport);
        // In UDP 0 means that there is none.
        sum.finish() == 0 && get16(transport, self.kind.checksum()) != 0
    }
}

/// Looks at a frame just closely enough. Only untagged frames are merged: in a plain network tagged ones are rare.
#[inline]
pub(super) fn classify(buffer: &[u8], frame: Range<usize>, merged: Merged) -> Class {
    let bytes = &buffer[frame.clone()];
    let Some(ethernet) = bytes.first_chunk::<ETHERNET_HEADER_LEN>() else {
        return Class::Odd;
    };
    let network = match EtherType(be16(ethernet, ETHERNET_HEADER_LEN - 2)) {
        EtherType::IPV4 => classify_ipv4(&bytes[ETHERNET_HEADER_LEN..], merged),
        EtherType::IPV6 => classify_ipv6(&bytes[ETHERNET_HEADER_LEN..], merged),
        tag if tag.is_tag() => Err(Class::Odd),
        _ => Err(Class::Foreign),
    };
    let (kind, tag, id) = match network {
        Ok(network) => network,
        Err(class) => return class,
    };
    let segment = Segment {
        start: frame.start,
        len: bytes.len(),
        kind,
        payload: 0,
        tag,
        sequence: 0,
        id,
        flags: TcpFlags(0),
    };
    match kind {
        Kind::Tcp4 | Kind::Tcp6 => classify_tcp(bytes, segment),
        Kind::Udp4 | Kind::Udp6 => classify_udp(bytes, segment),
    }
}

/// Kind, tag without ports and identification; or what it is instead.
#[inline]
fn classify_ipv4(packet: &[u8], merged: Merged) -> Result<(Kind, u64, u16), Class> {
    let Some(header) = packet.first_chunk::<IPV4_HEADER_LEN>() else {
        return Err(Class::Odd);
    };
    let kind = match (IpProtocol(header[ipv4::field::PROTOCOL]), merged) {
        (IpProtocol::TCP, _) => Kind::Tcp4,
        (IpProtocol::UDP, Merged::StreamsAndDatagrams) => Kind::Udp4,
        _ => return Err(Class::Foreign),
    };
    // MF and the offset, not DF; a length that is not the frame's is padding or a lie.
    if header[0] != IPV4_PLAIN
        || be16(header, ipv4::field::FRAGMENT) & 0xbfff != 0
        || usize::from(be16(header, ipv4::field::TOTAL_LENGTH)) != packet.len()
    {
        return Err(Class::Odd);
    }
    let tag = word(header, ipv4::field::SOURCE);
    Ok((kind, tag, be16(header, ipv4::field::IDENTIFICATION)))
}

/// The same of IPv6.
#[inline]
fn classify_ipv6(packet: &[u8], merged: Merged) -> Result<(Kind, u64, u16), Class> {
    let Some(header) = packet.first_chunk::<IPV6_HEADER_LEN>() else {
        return Err(Class::Odd);
    };
    if header[0] >> 4 != 6 {
        return Err(Class::Odd);
    }
    let kind = match (IpProtocol(header[ipv6::field::NEXT_HEADER]), merged) {
        (IpProtocol::TCP, _) => Kind::Tcp6,
        (IpProtocol::UDP, Merged::StreamsAndDatagrams) => Kind::Udp6,
        (IpProtocol::UDP | IpProtocol::ICMP6, _) => return Err(Class::Foreign),
        // Extension headers, behind which may be anything.
        _ => return Err(Class::Odd),
    };
    let len = usize::from(be16(header, ipv6::field::PAYLOAD_LENGTH));
    if len + IPV6_HEADER_LEN != packet.len() {
        return Err(Class::Odd);
    }
    let words = (0..4).map(|i| word(header, ipv6::field::SOURCE + 8 * i));
    let tag = words.fold(0, |tag: u64, word| tag.rotate_left(23) ^ word);
    Ok((kind, tag, 0))
}

#[inline]
fn classify_tcp(bytes: &[u8], segment: Segment) -> Class {
    let transport = segment.kind.transport();
    let Some(header) = bytes[transport..].first_chunk::<TCP_HEADER_LEN>() else {
        return Class::Odd;
    };
    let payload = transport + usize::from(header[tcp::field::DATA_OFFSET] >> 4) * 4;
    if payload < transport + TCP_HEADER_LEN || payload > bytes.len() {
        return Class::Odd;
    }
    let flags = TcpFlags(header[tcp::field::FLAGS]);
    let [.., a, b, c, d] = word(header, 0).to_be_bytes();
    let segment = Segment {
        payload,
        tag: segment.tag ^ ports(header),
        sequence: u32::from_be_bytes([a, b, c, d]),
        flags,
        ..segment
    };
    let plain = flags.contains(TcpFlags::ACK) && flags.without(MERGED).0 == 0;
    if plain && payload < bytes.len() {
        Class::Candidate(segment)
    } else {
        Class::Alone(segment)
    }
}

#[inline]
fn classify_udp(bytes: &[u8], segment: Segment) -> Class {
    let transport = &bytes[segment.kind.transport()..];
    let Some(header) = transport.first_chunk::<UDP_HEADER_LEN>() else {
        return Class::Odd;
    };
    let segment = Segment {
        payload: segment.kind.transport() + UDP_HEADER_LEN,
        tag: segment.tag ^ ports(header),
        ..segment
    };
    let whole = usize::from(be16(header, udp::field::LENGTH)) == transport.len();
    if whole && transport.len() > UDP_HEADER_LEN && be16(header, udp::field::CHECKSUM) != 0 {
        Class::Candidate(segment)
    } else {
        Class::Alone(segment)
    }
}

/// Both ports, spread over the word.
#[inline]
fn ports<const N: usize>(header: &[u8; N]) -> u64 {
    // An odd constant, the fraction of the golden ratio: neighbouring ports are far apart.
    (word(header, 0) >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// 64 bits at a constant place of a header.
#[inline(always)]
fn word<const N: usize>(header: &[u8; N], at: usize) -> u64 {
    u64::from_be_bytes(std::array::from_fn(|i| header[at + i]))
}

/// Whether two headers are equal where the mask has ones.
#[inline]
fn equal<const N: usize>(a: &[u8], b: &[u8], mask: &[u8; N]) -> bool {
    let (Some(a), Some(b)) = (a.first_chunk::<N>(), b.first_chunk::<N>()) else {
        return false;
    };
    let bytes = a.iter().zip(b).zip(mask);
    bytes.fold(0, |differ, ((a, b), mask)| differ | ((a ^ b) & mask)) == 0
}

/// A mask over the headers of a frame: zeros where `ignored` says, which has places and numbers of bytes.
const fn all_but<const N: usize>(ignored: &[(usize, usize)]) -> [u8; N] {
    let mut mask = [0xff; N];
    let mut i = 0;
    while i < ignored.len() {
        let (at, len) = ignored[i];
        let mut j = 0;
        while j < len {
            mask[at + j] = 0;
            j += 1;
        }
        i += 1;
    }
    mask
}

/// A TCP mask that does not see FIN and PSH either, which end a run.
const fn but_ending<const N: usize>(mut mask: [u8; N], transport: usize) -> [u8; N] {
    mask[transport + tcp::field::FLAGS] = !ENDING.0;
    mask
}

const IP4: usize = ETHERNET_HEADER_LEN;
const IP6: usize = ETHERNET_HEADER_LEN;
const LENGTH_V4: (usize, usize) = (IP4 + ipv4::field::TOTAL_LENGTH, 2);
const ID_V4: (usize, usize) = (IP4 + ipv4::field::IDENTIFICATION, 2);
const CHECKSUM_V4: (usize, usize) = (IP4 + ipv4::field::CHECKSUM, 2);
const LENGTH_V6: (usize, usize) = (IP6 + ipv6::field::PAYLOAD_LENGTH, 2);

const TCP4: [u8; TRANSPORT_V4 + TCP_HEADER_LEN] = but_ending(
    all_but(&[
        LENGTH_V4,
        ID_V4,
        CHECKSUM_V4,
        (TRANSPORT_V4 + tcp::field::SEQUENCE, 4),
        (TRANSPORT_V4 + tcp::field::CHECKSUM, 2),
    ]),
    TRANSPORT_V4,
);
const TCP6: [u8; TRANSPORT_V6 + TCP_HEADER_LEN] = but_ending(
    all_but(&[
        LENGTH_V6,
        (TRANSPORT_V6 + tcp::field::SEQUENCE, 4),
        (TRANSPORT_V6 + tcp::field::CHECKSUM, 2),
    ]),
    TRANSPORT_V6,
);
const UDP4: [u8; TRANSPORT_V4 + UDP_HEADER_LEN] = all_but(&[
    LENGTH_V4,
    ID_V4,
    CHECKSUM_V4,
    (TRANSPORT_V4 + udp::field::LENGTH, 2),
    (TRANSPORT_V4 + udp::field::CHECKSUM, 2),
]);
const UDP6: [u8; TRANSPORT_V6 + UDP_HEADER_LEN] = all_but(&[
    LENGTH_V6,
    (TRANSPORT_V6 + udp::field::LENGTH, 2),
    (TRANSPORT_V6 + udp::field::CHECKSUM, 2),
]);
/// Ports, the same place in TCP and UDP.
const PORTS: usize = 4;
const FLOW_V4: [u8; TRANSPORT_V4 + PORTS] = all_but(&[(0, IP4 + ipv4::field::SOURCE)]);
const FLOW_V6: [u8; TRANSPORT_V6 + PORTS] = all_but(&[(0, IP6 + ipv6::field::SOURCE)]);

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
