//! Both ways to tell a sender how long its packets may be: the answer to a packet that doesn't fit ([`too_big`]), and
//! the largest segment that a TCP connection begins with ([`clamp_mss`]).

use crate::checksum::Sum;
use crate::frame::FrameRef;
use crate::icmp_error::{IcmpError, icmp_error};
use crate::ids::Mtu;
use crate::ipv4::IpProtocol;
use crate::layout::Layout;
use crate::tcp::{self, TCP_HEADER_LEN, Tcp, TcpFlags};

/// The option that says which segments its sender takes (RFC 9293 section 3.7.1).
const MSS: u8 = 2;
const MSS_LEN: usize = 4;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The frame that tells the sender of `frame` that packets of at most `mtu` bytes get to where it is going. It comes from
/// that destination; `None` as in [`icmp_error`].
pub fn too_big(frame: &[u8], mtu: Mtu) -> Option<Vec<u8>> {
    icmp_error(frame, None, IcmpError::TooBig(mtu))
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
