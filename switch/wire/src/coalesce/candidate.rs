//! What a frame is to a coalescer: found in its headers, without looking at payload but to verify its checksum.

use std::ops::Range;

use super::length16;
use crate::checksum::Sum;
use crate::error::be16;
use crate::ethernet::{ETHERNET_HEADER_LEN, EtherType};
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol};
use crate::ipv6::IPV6_HEADER_LEN;
use crate::tcp::{TCP_HEADER_LEN, TcpFlags};
use crate::{ipv4, ipv6, tcp};

/// First byte of an IPv4 header without options.
const IPV4_PLAIN: u8 = 0x45;

/// A TCP segment with payload, where it lies in the batch's buffer.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The whole frame.
    pub(super) frame: Range<usize>,
    /// Offsets from the start of the frame.
    pub(super) transport: usize,
    pub(super) payload: usize,
    pub(super) family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// What a frame is to a coalescer.
pub(super) enum Class {
    /// May be merged.
    Candidate(Segment),
    /// TCP of a flow whose run it ends: no payload, or flags that stand alone.
    Alone(Segment),
    /// Another protocol, not of any flow that is merged.
    Foreign,
    /// May be of any flow: fragments, options.
    Odd,
}

impl Segment {
    pub(super) const fn payload_len(&self) -> usize {
        self.frame.end - self.frame.start - self.payload
    }

    pub(super) fn network<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        let start = self.frame.start;
        &buffer[start + ETHERNET_HEADER_LEN..start + self.transport]
    }

    /// TCP header with options.
    pub(super) fn tcp<'b>(&self, buffer: &'b [u8]) -> &'b [u8] {
        let start = self.frame.start;
        &buffer[start + self.transport..start + self.payload]
    }

    pub(super) fn sequence(&self, buffer: &[u8]) -> u32 {
        let at = &self.tcp(buffer)[tcp::field::SEQUENCE..];
        at.first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
    }

    /// That of IPv4; 0 for IPv6.
    pub(super) fn identification(&self, buffer: &[u8]) -> u16 {
        match self.family {
            Family::V4 => get16(self.network(buffer), ipv4::field::IDENTIFICATION),
            Family::V6 => 0,
        }
    }

    pub(super) fn flags(&self, buffer: &[u8]) -> TcpFlags {
        TcpFlags(self.tcp(buffer)[tcp::field::FLAGS])
    }

    /// FIN and PSH: with one of them a segment is the last of its run.
    pub(super) fn ending_flags(&self, buffer: &[u8]) -> u8 {
        self.flags(buffer).0 & TcpFlags::FIN.with(TcpFlags::PSH).0
    }

    /// Same addresses and ports.
    #[inline]
    pub(super) fn same_flow(&self, buffer: &[u8], other: &Self) -> bool {
        if self.family != other.family {
            return false;
        }
        let addresses = match self.family {
            Family::V4 => ipv4::field::SOURCE..IPV4_HEADER_LEN,
            Family::V6 => ipv6::field::SOURCE..IPV6_HEADER_LEN,
        };
        const PORTS: usize = 4;
        self.tcp(buffer)[..PORTS] == other.tcp(buffer)[..PORTS]
            && self.network(buffer)[addresses.clone()] == other.network(buffer)[addresses]
    }

    /// Of two segments of a flow: whether all else is equal that must be equal in a run.
    #[inline]
    pub(super) fn same_header(&self, buffer: &[u8], other: &Self) -> bool {
        let ethernet = |segment: &Self| {
            let start = segment.frame.start;
            &buffer[start..start + ETHERNET_HEADER_LEN]
        };
        let (a, b) = (self.network(buffer), other.network(buffer));
        let network = match self.family {
            Family::V4 => {
                a[..ipv4::field::TOTAL_LENGTH] == b[..ipv4::field::TOTAL_LENGTH]
                    && a[ipv4::field::FRAGMENT..ipv4::field::CHECKSUM]
                        == b[ipv4::field::FRAGMENT..ipv4::field::CHECKSUM]
            }
            Family::V6 => {
                a[..ipv6::field::PAYLOAD_LENGTH] == b[..ipv6::field::PAYLOAD_LENGTH]
                    && a[ipv6::field::NEXT_HEADER..ipv6::field::SOURCE]
                        == b[ipv6::field::NEXT_HEADER..ipv6::field::SOURCE]
            }
        };
        let (a, b) = (self.tcp(buffer), other.tcp(buffer));
        let but_ending = !TcpFlags::FIN.with(TcpFlags::PSH).0;
        network
            && ethernet(self) == ethernet(other)
            && a.len() == b.len()
            && a[tcp::field::ACKNOWLEDGMENT..tcp::field::FLAGS]
                == b[tcp::field::ACKNOWLEDGMENT..tcp::field::FLAGS]
            && (a[tcp::field::FLAGS] ^ b[tcp::field::FLAGS]) & but_ending == 0
            && a[tcp::field::WINDOW..tcp::field::CHECKSUM]
                == b[tcp::field::WINDOW..tcp::field::CHECKSUM]
            && a[tcp::field::CHECKSUM + 2..] == b[tcp::field::CHECKSUM + 2..]
    }

    /// Whether its checksums are right.
    #[inline]
    pub(super) fn is_right(&self, buffer: &[u8]) -> bool {
        let network = self.network(buffer);
        // A sum of all ones may be written in two ways, of which the segmenter knows one: here, and below.
        if self.family == Family::V4
            && (Sum::of(network).finish() != 0 || get16(network, ipv4::field::CHECKSUM) == 0xffff)
        {
            return false;
        }
        let transport = &buffer[self.frame.start + self.transport..self.frame.end];
        let sum = pseudo_header(network, self.family, transport.len()).and(transport);
        sum.finish() == 0 && get16(transport, tcp::field::CHECKSUM) != 0
    }
}

#[inline]
pub(super) fn pseudo_header(network: &[u8], family: Family, transport_len: usize) -> Sum {
    let addresses = match family {
        Family::V4 => &network[ipv4::field::SOURCE..IPV4_HEADER_LEN],
        Family::V6 => &network[ipv6::field::SOURCE..IPV6_HEADER_LEN],
    };
    Sum::of(addresses)
        .and_u16(u16::from(IpProtocol::TCP.0))
        .and_u16(length16(transport_len))
}

/// Looks at a frame just closely enough. Only untagged frames are merged: in a plain network tagged ones are rare.
#[inline]
pub(super) fn classify(buffer: &[u8], frame: Range<usize>) -> Class {
    let bytes = &buffer[frame.clone()];
    let Some(ethernet) = bytes.first_chunk::<ETHERNET_HEADER_LEN>() else {
        return Class::Odd;
    };
    let packet = &bytes[ETHERNET_HEADER_LEN..];
    let network = match EtherType(be16(ethernet, ETHERNET_HEADER_LEN - 2)) {
        EtherType::IPV4 => look_at_ipv4(packet),
        EtherType::IPV6 => look_at_ipv6(packet),
        tag if tag.is_tag() => return Class::Odd,
        _ => return Class::Foreign,
    };
    let (family, header_len) = match network {
        Network::Tcp(family, header_len) => (family, header_len),
        Network::Foreign => return Class::Foreign,
        Network::Odd => return Class::Odd,
    };
    let Some(header) = packet[header_len..].first_chunk::<TCP_HEADER_LEN>() else {
        return Class::Odd;
    };
    let transport = ETHERNET_HEADER_LEN + header_len;
    let payload = transport + usize::from(header[tcp::field::DATA_OFFSET] >> 4) * 4;
    if payload < transport + TCP_HEADER_LEN || payload > bytes.len() {
        return Class::Odd;
    }
    let (has_payload, flags) = (payload < bytes.len(), header[tcp::field::FLAGS]);
    let segment = Segment {
        frame,
        transport,
        payload,
        family,
    };
    let free = TcpFlags::ACK
        .with(TcpFlags::PSH)
        .with(TcpFlags::FIN)
        .with(TcpFlags::ECE);
    if has_payload && flags & !free.0 == 0 && flags & TcpFlags::ACK.0 != 0 {
        Class::Candidate(segment)
    } else {
        Class::Alone(segment)
    }
}

/// What an IP header says about what follows it.
enum Network {
    /// A whole TCP segment that ends with the frame, after a header of that many bytes.
    Tcp(Family, usize),
    Foreign,
    Odd,
}

fn look_at_ipv4(packet: &[u8]) -> Network {
    /// All of the field but DF: the reserved bit, MF and the offset.
    const FRAGMENT: u16 = 0xbfff;
    match packet.first_chunk::<IPV4_HEADER_LEN>() {
        Some(header) if header[ipv4::field::PROTOCOL] != IpProtocol::TCP.0 => Network::Foreign,
        // A length that is not the frame's is padding or a lie.
        Some(header)
            if header[0] == IPV4_PLAIN
                && be16(header, ipv4::field::FRAGMENT) & FRAGMENT == 0
                && usize::from(be16(header, ipv4::field::TOTAL_LENGTH)) == packet.len() =>
        {
            Network::Tcp(Family::V4, IPV4_HEADER_LEN)
        }
        Some(_) | None => Network::Odd,
    }
}

fn look_at_ipv6(packet: &[u8]) -> Network {
    let Some(header) = packet.first_chunk::<IPV6_HEADER_LEN>() else {
        return Network::Odd;
    };
    let next = IpProtocol(header[ipv6::field::NEXT_HEADER]);
    let len = usize::from(be16(header, ipv6::field::PAYLOAD_LENGTH));
    if header[0] >> 4 != 6 {
        Network::Odd
    } else if matches!(next, IpProtocol::UDP | IpProtocol::ICMP6) {
        Network::Foreign
    } else if next == IpProtocol::TCP && len + IPV6_HEADER_LEN == packet.len() {
        Network::Tcp(Family::V6, IPV6_HEADER_LEN)
    } else {
        Network::Odd
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}
