//! The headers of a superframe's segments: what they share is summed once, so that a segment costs its own few fields
//! and its payload.

use crate::checksum::Sum;
use crate::frame::{Gso, GsoKind};
use crate::layout::{Addresses, Layout};
use crate::tcp::TcpFlags;
use crate::{ipv4, ipv6, tcp, udp};

use super::{length16, length32, put16};

/// Made of the headers of a superframe that was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Template {
    network: usize,
    transport: usize,
    ip: Ip,
    upper: Upper,
    /// Pseudo header and transport header, but for the fields that each segment adds: length, sequence number, flags.
    sum: Sum,
}

#[derive(Clone, Copy, Debug)]
enum Ip {
    V4 {
        id: u16,
        /// The header but for length, identification and checksum.
        sum: Sum,
    },
    V6,
}

#[derive(Clone, Copy, Debug)]
enum Upper {
    Tcp {
        sequence: u32,
        /// The byte before the flags, which shares a word with them.
        data_offset: u8,
        flags: TcpFlags,
        /// See [`Gso::ecn`].
        ecn: bool,
    },
    Udp,
}

/// Where in its superframe a segment is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Which one.
    pub(super) index: usize,
    /// Its payload's first byte, from that of the superframe.
    pub(super) offset: usize,
    /// No other follows.
    pub(super) last: bool,
}

impl Template {
    /// `header` is everything before the payload, `frame_len` the superframe's length.
    pub(super) fn new(layout: &Layout, gso: Gso, header: &[u8], frame_len: usize) -> Self {
        let transport = &header[layout.transport..];
        let (upper, field, zero) = match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => (
                Upper::Tcp {
                    sequence: get32(transport, tcp::field::SEQUENCE),
                    data_offset: transport[tcp::field::DATA_OFFSET],
                    flags: TcpFlags(transport[tcp::field::FLAGS]),
                    ecn: gso.ecn,
                },
                tcp::field::CHECKSUM,
                &TCP_CHANGES[..],
            ),
            GsoKind::Udp => (Upper::Udp, udp::field::CHECKSUM, &UDP_CHANGES[..]),
        };
        let pseudo = if layout.in_transit {
            // The pseudo header has the final destination (RFC 8200 section 8.1), which only the sender's own sum in
            // the field knows: take the length out of it.
            let whole = length16(frame_len - layout.transport);
            Sum::ZERO.and_u16(get16(transport, field)).less_u16(whole)
        } else {
            layout.pseudo_header(0)
        };
        let network = &header[layout.network..layout.transport];
        Self {
            network: layout.network,
            transport: layout.transport,
            ip: match layout.addresses {
                Addresses::V4 { .. } => Ip::V4 {
                    id: get16(network, ipv4::field::IDENTIFICATION),
                    sum: without(Sum::of(network), network, &IPV4_CHANGES),
                },
                Addresses::V6 { .. } => Ip::V6,
            },
            upper,
            sum: without(pseudo.and(transport), transport, zero),
        }
    }

    /// Makes the header of a segment of `out`, which has the superframe's.
    #[inline]
    pub(super) fn write(&self, at: Position, payload: &[u8], out: &mut [u8]) {
        let packet_len = out.len() - self.network + payload.len();
        match self.ip {
            Ip::V4 { id, sum } => {
                let header = &mut out[self.network..self.transport];
                let (len, id) = (length16(packet_len), id.wrapping_add(length16(at.index)));
                put16(header, ipv4::field::TOTAL_LENGTH, len);
                put16(header, ipv4::field::IDENTIFICATION, id);
                let checksum = sum.and_u16(len).and_u16(id).finish();
                put16(header, ipv4::field::CHECKSUM, checksum);
            }
            Ip::V6 => {
                let len = length16(packet_len - ipv6::IPV6_HEADER_LEN);
                put16(out, self.network + ipv6::field::PAYLOAD_LENGTH, len);
            }
        }
        let header = &mut out[self.transport..];
        let len = length16(header.len() + payload.len());
        let sum = self.sum.and_u16(len).and(payload);
        match self.upper {
            Upper::Tcp {
                sequence,
                data_offset,
                flags,
                ecn,
            } => {
                let sequence = sequence.wrapping_add(length32(at.offset));
                let flags = flags_at(flags, ecn, at);
                let place = &mut header[tcp::field::SEQUENCE..][..4];
                place.copy_from_slice(&sequence.to_be_bytes());
                header[tcp::field::FLAGS] = flags.0;
                let sum = sum
                    .and_u32(sequence)
                    .and_u16(u16::from_be_bytes([data_offset, flags.0]));
                put16(header, tcp::field::CHECKSUM, sum.finish_nonzero());
            }
            Upper::Udp => {
                put16(header, udp::field::LENGTH, len);
                let sum = sum.and_u16(len);
                put16(header, udp::field::CHECKSUM, sum.finish_nonzero());
            }
        }
    }
}

/// Words of an IPv4 header that differ from segment to segment.
const IPV4_CHANGES: [usize; 3] = [
    ipv4::field::TOTAL_LENGTH,
    ipv4::field::IDENTIFICATION,
    ipv4::field::CHECKSUM,
];
/// Those of a TCP header.
const TCP_CHANGES: [usize; 4] = [
    tcp::field::SEQUENCE,
    tcp::field::SEQUENCE + 2,
    tcp::field::DATA_OFFSET,
    tcp::field::CHECKSUM,
];
/// Those of a UDP header.
const UDP_CHANGES: [usize; 2] = [udp::field::LENGTH, udp::field::CHECKSUM];

/// The sum as if these words of `header` were zero.
fn without(sum: Sum, header: &[u8], words: &[usize]) -> Sum {
    let less = |sum: Sum, at: &usize| sum.less_u16(get16(header, *at));
    words.iter().fold(sum, less)
}

/// FIN and PSH are on the last segment only, with ECN offload CWR on the first only. Without, CWR is no event but a bit
/// of AccECN's counter (RFC 9768): it stays on every segment.
const fn flags_at(flags: TcpFlags, ecn: bool, at: Position) -> TcpFlags {
    let flags = if at.last {
        flags
    } else {
        flags.without(TcpFlags::FIN.with(TcpFlags::PSH))
    };
    if ecn && at.index > 0 {
        flags.without(TcpFlags::CWR)
    } else {
        flags
    }
}

fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from(get16(bytes, at)) << 16 | u32::from(get16(bytes, at + 2))
}
