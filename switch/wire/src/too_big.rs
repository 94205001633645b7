//! Both ways to tell a sender how long its packets may be: the answer to a packet that doesn't fit ([`too_big`]), and
//! the largest segment that a TCP connection begins with ([`clamp_mss`]).

use crate::checksum::{Sum, pseudo_header_v6};
use crate::ethernet::EthernetFrame;
use crate::frame::FrameRef;
use crate::icmp::{self, ICMP_HEADER_LEN};
use crate::ids::Mtu;
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol};
use crate::ipv6::{self, IPV6_HEADER_LEN};
use crate::layout::{Addresses, Layout};
use crate::mac::MacAddr;
use crate::tcp::{self, TCP_HEADER_LEN, Tcp, TcpFlags};

/// As much of the packet as its sender gets back: an answer is never longer than what any path takes (RFC 1812 section
/// 4.3.2.3, RFC 4443 section 2.4).
const QUOTE_MAX_V4: usize = 576 - IPV4_HEADER_LEN - ICMP_HEADER_LEN;
const QUOTE_MAX_V6: usize = 1280 - IPV6_HEADER_LEN - ICMP_HEADER_LEN;
/// Destination unreachable, fragmentation needed (RFC 792, RFC 1191 section 4).
const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
/// Packet too big (RFC 4443 section 3.2).
const PACKET_TOO_BIG: u8 = 2;
/// Time to live of an answer.
const HOPS: u8 = 64;
/// The option that says which segments its sender takes (RFC 9293 section 3.7.1).
const MSS: u8 = 2;
const MSS_LEN: usize = 4;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The frame that tells the sender of `frame` that packets of at most `mtu` bytes get to where it is going. It comes from
/// that destination: a switch has no address of its own, and a sender believes whoever quotes its packet.
///
/// `None` for what is no IP packet and for what must not be answered (RFC 1122 section 3.2.2, RFC 4443 section 2.4): error
/// messages, packets from or to groups, fragments but the first.
pub fn too_big(frame: &[u8], mtu: Mtu) -> Option<Vec<u8>> {
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
    match layout.addresses {
        Addresses::V4 {
            source,
            destination,
        } => {
            let group = |ip: std::net::Ipv4Addr| {
                ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback()
            };
            let view = crate::ipv4::Ipv4::new(packet).ok()?;
            if group(source) || group(destination) || view.fragment_offset() > 0 {
                return None;
            }
            let quote = &packet[..packet.len().min(QUOTE_MAX_V4)];
            let mut message = [0; ICMP_HEADER_LEN];
            [message[0], message[1]] = [UNREACHABLE, FRAGMENTATION_NEEDED];
            let told = u16::try_from(mtu.value()).unwrap_or(u16::MAX);
            message[6..].copy_from_slice(&told.to_be_bytes());
            let sum = Sum::of(&message).and(quote).finish();
            message[icmp::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            let len = u16::try_from(IPV4_HEADER_LEN + ICMP_HEADER_LEN + quote.len()).ok()?;
            answer.extend(header_v4(len, destination.octets(), source.octets()));
            answer.extend(message);
            answer.extend(quote);
        }
        Addresses::V6 {
            source,
            destination,
        } => {
            if source.is_unspecified() || source.is_multicast() || destination.is_multicast() {
                return None;
            }
            let quote = &packet[..packet.len().min(QUOTE_MAX_V6)];
            let mut message = [0; ICMP_HEADER_LEN];
            message[0] = PACKET_TOO_BIG;
            message[4..].copy_from_slice(&mtu.value().to_be_bytes());
            let len = u16::try_from(ICMP_HEADER_LEN + quote.len()).ok()?;
            let sum = pseudo_header_v6(destination, source, IpProtocol::ICMP6, len.into());
            let sum = sum.plus(Sum::of(&message).and(quote)).finish();
            message[icmp::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            answer.extend(header_v6(len, destination.octets(), source.octets()));
            answer.extend(message);
            answer.extend(quote);
        }
    }
    Some(answer)
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

/// A copy of a TCP SYN that asks for segments no longer than a way takes on which frames have at most `frame_max` bytes
/// (Ethernet header included); `None` for everything else, and if it asks for no more anyway. A finished checksum stays
/// right, an unfinished one stays unfinished.
pub fn clamp_mss(frame: FrameRef<'_>, frame_max: usize) -> Option<Vec<u8>> {
    if !frame.tail.is_empty() || frame.offload.gso.is_some() {
        return None;
    }
    let bytes = frame.bytes;
    let layout = Layout::of(bytes).ok()??;
    if layout.protocol != IpProtocol::TCP || layout.fragment {
        return None;
    }
    let segment = bytes.get(layout.transport..layout.end)?;
    let tcp = Tcp::new(segment).ok()?;
    if !tcp.flags().contains(TcpFlags::SYN) {
        return None;
    }
    let at = TCP_HEADER_LEN + mss_at(tcp.options())?;
    let room = frame_max.checked_sub(layout.transport + TCP_HEADER_LEN)?;
    let (asked, fits) = (
        u16::from_be_bytes(*segment.get(at..)?.first_chunk()?),
        u16::try_from(room).ok()?,
    );
    if asked <= fits || fits == 0 {
        return None;
    }
    let mut clamped = bytes.to_vec();
    let (at, sum_at) = (
        layout.transport + at,
        layout.transport + tcp::field::CHECKSUM,
    );
    clamped[at..at + 2].copy_from_slice(&fits.to_be_bytes());
    if frame.offload.checksum.is_none() {
        // RFC 1624; an option may begin anywhere, the words that are summed don't.
        let word = |value: u16| match (at - layout.transport) % 2 {
            0 => value,
            _ => value.swap_bytes(),
        };
        let sum = Sum::ZERO.and_u16(!tcp.checksum());
        let sum = sum.less_u16(word(asked)).and_u16(word(fits)).finish();
        clamped[sum_at..sum_at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    Some(clamped)
}

/// Where the value of the option is among the options.
fn mss_at(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*options.get(at + 1)?);
                if kind == MSS && len == MSS_LEN {
                    return Some(at + 2);
                }
                // One without a length would never end.
                at += (len >= 2).then_some(len)?;
            }
        }
    }
}

#[cfg(test)]
mod tests;
