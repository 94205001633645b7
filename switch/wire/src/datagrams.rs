//! Short datagrams of one flow that follow each other on their way to a container of the same host, joined into one
//! superframe: writing a frame costs its receiver's kernel as much as cutting ten off a superframe (USO). They come with
//! unfinished checksums, and so does what they become; nothing is summed.
//!
//! What is joined is what Linux's UDP GRO would join: same addresses, ports, TOS, TTL and fragmentation bits, datagrams
//! of one size but a shorter last. A socket that knows nothing of UDP_GRO gets them one by one.

use std::num::NonZeroU16;

use crate::checksum::Sum;
use crate::frame::{FrameRef, Gso, GsoKind, Offload, PartialChecksum};
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol};
use crate::ipv6::IPV6_HEADER_LEN;
use crate::layout::{Addresses, Layout};
use crate::udp::UDP_HEADER_LEN;
use crate::{ipv4, ipv6, udp};

/// The longest frame that is joined: copying a longer one costs more than it saves.
const FRAME_MAX: usize = 512;
/// Most datagrams of a run (UDP_MAX_SEGMENTS before Linux 6.9).
const DATAGRAMS_MAX: usize = 64;

/// A run of datagrams; empty at first.
#[derive(Debug, Default)]
pub struct DatagramRun {
    /// The first frame, and the payloads of the others.
    bytes: Vec<u8>,
    shape: Option<Shape>,
    count: usize,
    /// A shorter one was the last.
    ended: bool,
}

/// Of the first frame.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: Layout,
    checksum: PartialChecksum,
    /// Payload bytes.
    size: usize,
}

impl Shape {
    fn of(frame: FrameRef<'_>) -> Option<Self> {
        if frame.bytes.len() > FRAME_MAX || !frame.tail.is_empty() || frame.offload.gso.is_some() {
            return None;
        }
        let checksum = frame.offload.checksum?;
        let layout = Layout::of(frame.bytes).ok()??;
        let header_len = match layout.addresses {
            Addresses::V4 { .. } => IPV4_HEADER_LEN,
            Addresses::V6 { .. } => IPV6_HEADER_LEN,
        };
        let starts_at = usize::from(checksum.start) == layout.transport;
        let field = usize::from(checksum.offset) == udp::field::CHECKSUM;
        let plain = layout.protocol == IpProtocol::UDP
            && !layout.fragment
            && !layout.in_transit
            && layout.transport == layout.network + header_len
            && layout.end == frame.bytes.len()
            && starts_at
            && field;
        // Cutting makes this sum anew, which must not mend one that was wrong.
        let sum_is_right = match layout.addresses {
            Addresses::V4 { .. } => {
                let header = frame.bytes.get(layout.network..layout.transport)?;
                Sum::of(header).finish() == 0
            }
            Addresses::V6 { .. } => true,
        };
        let size = layout.end.checked_sub(layout.transport + UDP_HEADER_LEN)?;
        let told = frame.bytes.get(layout.transport + udp::field::LENGTH..)?;
        let told = usize::from(u16::from_be_bytes(*told.first_chunk()?));
        let whole = told == size + UDP_HEADER_LEN;
        (plain && sum_is_right && whole && size > 0).then_some(Self {
            layout,
            checksum,
            size,
        })
    }

    const fn payload(&self) -> usize {
        self.layout.transport + UDP_HEADER_LEN
    }
}

impl DatagramRun {
    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many datagrams it has.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Begins a run with a copy of this frame; false if it is none to begin with, or there is a run already.
    #[inline]
    pub fn start(&mut self, frame: FrameRef<'_>) -> bool {
        if self.count > 0 {
            return false;
        }
        let Some(shape) = Shape::of(frame) else {
            return false;
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(frame.bytes);
        self.shape = Some(shape);
        self.count = 1;
        self.ended = false;
        true
    }

    /// Goes on with this frame; false if it doesn't belong to the run.
    #[inline]
    pub fn append(&mut self, frame: FrameRef<'_>) -> bool {
        let Some(first) = self.shape else {
            return false;
        };
        if self.count == 0 || self.ended || self.count == DATAGRAMS_MAX {
            return false;
        }
        let fits = frame.offload.checksum == Some(first.checksum)
            && Shape::of(frame)
                .is_some_and(|next| next.size <= first.size && self.same_flow(&first, frame.bytes));
        if !fits {
            return false;
        }
        self.bytes
            .extend_from_slice(&frame.bytes[first.payload()..]);
        self.count += 1;
        self.ended = frame.bytes.len() < first.layout.end;
        true
    }

    /// Headers but for lengths and checksums, which were looked at already or are unfinished.
    fn same_flow(&self, first: &Shape, next: &[u8]) -> bool {
        let at = first.layout.network;
        let same = |range: std::ops::Range<usize>| self.bytes.get(range.clone()) == next.get(range);
        let ports = first.layout.transport..first.layout.transport + udp::field::LENGTH;
        let network = match first.layout.addresses {
            Addresses::V4 { .. } => {
                same(at..at + ipv4::field::TOTAL_LENGTH)
                    && same(at + ipv4::field::FRAGMENT..at + ipv4::field::CHECKSUM)
                    && same(at + ipv4::field::SOURCE..at + IPV4_HEADER_LEN)
                    && self.identification_follows(at, next)
            }
            Addresses::V6 { .. } => {
                same(at..at + ipv6::field::PAYLOAD_LENGTH)
                    && same(at + ipv6::field::NEXT_HEADER..at + IPV6_HEADER_LEN)
            }
        };
        same(0..at) && network && same(ports)
    }

    /// Who cuts the superframe counts identifications up from the first. With DF they mean nothing (RFC 6864).
    fn identification_follows(&self, at: usize, next: &[u8]) -> bool {
        let flags = self.bytes[at + ipv4::field::FRAGMENT];
        let id = |bytes: &[u8]| {
            let field = at + ipv4::field::IDENTIFICATION;
            u16::from_be_bytes([bytes[field], bytes[field + 1]])
        };
        let count = u16::try_from(self.count).unwrap_or(u16::MAX);
        flags & 0x40 != 0 || id(next) == id(&self.bytes).wrapping_add(count)
    }

    /// The frame that all became; `None` if there is nothing. The run is empty when the next one is started, after
    /// [`Self::clear`].
    #[inline]
    pub fn frame(&mut self) -> Option<FrameRef<'_>> {
        let shape = self.shape.filter(|_| self.count > 0)?;
        let mut offload = Offload {
            checksum: Some(shape.checksum),
            gso: None,
        };
        if self.count > 1 {
            let size = u16::try_from(shape.size).ok().and_then(NonZeroU16::new);
            offload.gso = size.map(|size| Gso {
                kind: GsoKind::Udp,
                size,
                ecn: false,
            });
            self.write_lengths(&shape);
        }
        Some(FrameRef::new(&self.bytes, offload))
    }

    fn write_lengths(&mut self, shape: &Shape) {
        let layout = &shape.layout;
        let (at, end) = (layout.network, self.bytes.len());
        let length = |from: usize| u16::try_from(end - from).expect("a run is below 64 KiB");
        let mut put = |at: usize, value: u16| {
            self.bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
        };
        let datagram = length(layout.transport);
        put(layout.transport + udp::field::LENGTH, datagram);
        let pseudo = layout.pseudo_header(datagram).folded();
        put(layout.transport + udp::field::CHECKSUM, pseudo);
        match layout.addresses {
            Addresses::V4 { .. } => {
                put(at + ipv4::field::TOTAL_LENGTH, length(at));
                put(at + ipv4::field::CHECKSUM, 0);
                let sum = Sum::of(&self.bytes[at..at + IPV4_HEADER_LEN]).finish();
                self.bytes[at + ipv4::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
            }
            Addresses::V6 { .. } => {
                put(at + ipv6::field::PAYLOAD_LENGTH, datagram);
            }
        }
    }

    /// Forgets the run.
    #[inline]
    pub fn clear(&mut self) {
        self.count = 0;
    }
}

#[cfg(test)]
mod tests;
