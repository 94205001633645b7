//! What a router or a switch tells the sender of a packet that goes no further: the ICMP and ICMPv6 errors (RFC 792,
//! RFC 1812 section 4.3, RFC 4443 section 3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::{Sum, pseudo_header_v6};
use crate::ethernet::EthernetFrame;
use crate::icmp::{self, ICMP_HEADER_LEN};
use crate::ids::Mtu;
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol, Ipv4};
use crate::ipv6::{self, IPV6_HEADER_LEN};
use crate::layout::{Addresses, Layout};
use crate::mac::MacAddr;

/// As much of the packet as its sender gets back: an answer is never longer than what any path takes (RFC 1812 section
/// 4.3.2.3, RFC 4443 section 2.4).
pub(crate) const QUOTE_MAX_V4: usize = 576 - IPV4_HEADER_LEN - ICMP_HEADER_LEN;
pub(crate) const QUOTE_MAX_V6: usize = 1280 - IPV6_HEADER_LEN - ICMP_HEADER_LEN;
/// Time to live of an answer.
const HOPS: u8 = 64;

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// No way takes it: packets of at most so many bytes get there (RFC 1191 section 4, RFC 4443 section 3.2).
    TooBig(Mtu),
    /// It has been on its way for too long (RFC 792, RFC 4443 section 3.3).
    TimeExceeded,
    /// No route leads to where it is going.
    NoRoute,
    /// There is a route, but nobody has the address.
    AddressUnreachable,
    /// The operator doesn't want it (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1).
    Prohibited,
}

impl IcmpError {
    const fn v4(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [3, 0],
            Self::AddressUnreachable => [3, 1],
            Self::TooBig(_) => [3, 4],
            Self::Prohibited => [3, 13],
            Self::TimeExceeded => [11, 0],
        }
    }

    const fn v6(self) -> [u8; 2] {
        match self {
            Self::NoRoute => [1, 0],
            Self::Prohibited => [1, 1],
            Self::AddressUnreachable => [1, 3],
            Self::TooBig(_) => [2, 0],
            Self::TimeExceeded => [3, 0],
        }
    }
}

/// The frame that tells the sender of `frame` why it goes no further. It comes from `router`, or, where there is none,
/// from the packet's destination: a switch has no address of its own, and a sender believes whoever quotes its packet.
///
/// `None` for what is no IP packet of the router's family and for what must not be answered (RFC 1122 section 3.2.2,
/// RFC 4443 section 2.4): error messages, packets from or to groups, fragments but the first.
pub fn icmp_error(frame: &[u8], router: Option<IpAddr>, error: IcmpError) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new(frame).ok()?;
    if !ethernet.destination().is_station() || !ethernet.source().is_station() {
        return None;
    }
    let layout = Layout::of(frame).ok()??;
    let packet = frame.get(layout.network..layout.end)?;
    if is_error(&layout, frame) {
        return None;
    }
    let mut answer = frame.get(..layout.network)?.to_vec();
    let ends = [ethernet.source(), ethernet.destination()].map(MacAddr::octets);
    answer[..12].copy_from_slice(ends.as_flattened());
    match (layout.addresses, router) {
        (
            Addresses::V4 {
                source,
                destination,
            },
            None | Some(IpAddr::V4(_)),
        ) => {
            if is_group_v4(source)
                || is_group_v4(destination)
                || Ipv4::new(packet).ok()?.fragment_offset() > 0
            {
                return None;
            }
            let from = match router {
                Some(IpAddr::V4(router)) => router,
                Some(IpAddr::V6(_)) | None => destination,
            };
            write_v4(&mut answer, packet, (from, source), error)?;
        }
        (
            Addresses::V6 {
                source,
                destination,
            },
            None | Some(IpAddr::V6(_)),
        ) => {
            if source.is_unspecified() || source.is_multicast() || destination.is_multicast() {
                return None;
            }
            let from = match router {
                Some(IpAddr::V6(router)) => router,
                Some(IpAddr::V4(_)) | None => destination,
            };
            write_v6(&mut answer, packet, (from, source), error)?;
        }
        (Addresses::V4 { .. }, Some(IpAddr::V6(_)))
        | (Addresses::V6 { .. }, Some(IpAddr::V4(_))) => {
            return None;
        }
    }
    Some(answer)
}

/// An address that is nobody's alone.
fn is_group_v4(ip: Ipv4Addr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback()
}

fn write_v4(
    answer: &mut Vec<u8>,
    packet: &[u8],
    (from, to): (Ipv4Addr, Ipv4Addr),
    error: IcmpError,
) -> Option<()> {
    let quote = &packet[..packet.len().min(QUOTE_MAX_V4)];
    let mut message = [0; ICMP_HEADER_LEN];
    [message[0], message[1]] = error.v4();
    if let IcmpError::TooBig(mtu) = error {
        let told = u16::try_from(mtu.value()).unwrap_or(u16::MAX);
        message[6..].copy_from_slice(&told.to_be_bytes());
    }
    let sum = Sum::of(&message).and(quote).finish();
    message[icmp::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    let len = u16::try_from(IPV4_HEADER_LEN + ICMP_HEADER_LEN + quote.len()).ok()?;
    answer.extend(header_v4(len, from.octets(), to.octets()));
    answer.extend(message);
    answer.extend(quote);
    Some(())
}

fn write_v6(
    answer: &mut Vec<u8>,
    packet: &[u8],
    (from, to): (Ipv6Addr, Ipv6Addr),
    error: IcmpError,
) -> Option<()> {
    let quote = &packet[..packet.len().min(QUOTE_MAX_V6)];
    let mut message = [0; ICMP_HEADER_LEN];
    [message[0], message[1]] = error.v6();
    if let IcmpError::TooBig(mtu) = error {
        message[4..].copy_from_slice(&mtu.value().to_be_bytes());
    }
    let len = u16::try_from(ICMP_HEADER_LEN + quote.len()).ok()?;
    let sum = pseudo_header_v6(from, to, IpProtocol::ICMP6, len.into());
    let sum = sum.plus(Sum::of(&message).and(quote)).finish();
    message[icmp::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    answer.extend(header_v6(len, from.octets(), to.octets()));
    answer.extend(message);
    answer.extend(quote);
    Some(())
}

/// The IPv4 header of an ICMP message of ours; `len` is of the whole packet.
pub(crate) fn header_v4(len: u16, source: [u8; 4], destination: [u8; 4]) -> [u8; IPV4_HEADER_LEN] {
    let mut header = [0; IPV4_HEADER_LEN];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&len.to_be_bytes());
    // Don't fragment.
    header[6] = 0x40;
    [header[8], header[9]] = [HOPS, IpProtocol::ICMP4.0];
    header[12..16].copy_from_slice(&source);
    header[16..].copy_from_slice(&destination);
    let sum = Sum::of(&header).finish();
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// The IPv6 header of an ICMPv6 message of ours; `len` is of the message.
pub(crate) fn header_v6(
    len: u16,
    source: [u8; 16],
    destination: [u8; 16],
) -> [u8; IPV6_HEADER_LEN] {
    let mut header = [0; IPV6_HEADER_LEN];
    header[ipv6::field::VERSION_CLASS_FLOW] = 0x60;
    header[ipv6::field::PAYLOAD_LENGTH..][..2].copy_from_slice(&len.to_be_bytes());
    header[ipv6::field::NEXT_HEADER] = IpProtocol::ICMP6.0;
    header[ipv6::field::HOP_LIMIT] = HOPS;
    header[ipv6::field::SOURCE..ipv6::field::DESTINATION].copy_from_slice(&source);
    header[ipv6::field::DESTINATION..].copy_from_slice(&destination);
    header
}

/// Whether a packet is an ICMP error, or might be one.
fn is_error(layout: &Layout, frame: &[u8]) -> bool {
    let kind = frame.get(layout.transport).copied();
    match layout.protocol {
        // Echo, echo reply, timestamps and the like are questions and answers.
        IpProtocol::ICMP4 => kind.is_none_or(|kind| matches!(kind, 3..=5 | 11 | 12)),
        IpProtocol::ICMP6 => kind.is_none_or(|kind| kind < 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
