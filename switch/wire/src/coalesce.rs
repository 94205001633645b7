//! From segments back to superframes: the inverse of [`crate::segment`], applied to what comes out of a tunnel before
//! it is given to a container's kernel, for which one superframe costs little more than one segment.
//!
//! Payload is not copied. The frames of a batch lie in one buffer; a run of adjacent segments of a TCP flow becomes one
//! copy of their header and the slices of their payloads. What is merged is what Linux merges in `tcp_gro_receive` and
//! `inet_gro_receive`, less what could not be taken apart again: segments of a merged frame that are cut by
//! [`crate::SegmentPlan`] are the ones that came, byte for byte. So a run has the same MACs, tags, addresses, ports, TOS
//! with ECN bits, TTL, DF, acknowledgment, window and options, IPv4 identifications that count up by one, sequence
//! numbers that join, segments of one size but a shorter last, and PSH or FIN on the last only.
//!
//! Merging tells the receiver that checksums need not be looked at. So they are verified here first, of every segment
//! that is merged; one that is wrong goes on alone, as it came, and its receiver drops it.
//!
//! Order: frames of a flow stay in order. Frames of other flows may overtake a run by at most one batch.

mod candidate;

use std::num::NonZeroU16;
use std::ops::Range;

use self::candidate::{Class, Family, Segment, classify, pseudo_header};
use crate::checksum::Sum;
use crate::ethernet::ETHERNET_HEADER_LEN;
use crate::frame::{FrameRef, Gso, GsoKind, Offload, PartialChecksum, Tail};
use crate::ipv4::IPV4_HEADER_LEN;
use crate::segment::MAX_HEADER_LEN;
use crate::{ipv4, ipv6, tcp};

/// Most segments of a run: 64 KiB of 1,024 bytes each. A receiver of superframes in pieces has room for so many.
pub const MAX_COALESCED: usize = 64;
/// Runs that are open at a time; a further one ends the oldest.
const OPEN_RUNS: usize = 16;
/// What the length field of an IPv4 packet can say.
const PACKET_MAX: usize = 65_535;

/// The runs of one receiver, to be kept from batch to batch. `K` tells apart frames that must never meet, such as those
/// of different networks.
#[derive(Debug)]
pub struct Coalescer<K> {
    /// In the order of their first segments.
    runs: Vec<Run<K>>,
    /// Memory of ended runs.
    spare: Vec<Vec<Range<usize>>>,
}

/// Segments that became one frame, so far.
#[derive(Debug)]
struct Run<K> {
    key: K,
    /// The first segment.
    first: Segment,
    /// Payloads of all.
    payloads: Vec<Range<usize>>,
    payload_len: usize,
    /// What the next one must have.
    next_sequence: u32,
    next_id: u16,
    /// FIN and PSH of the last.
    last_flags: u8,
    /// The checksums of the first were found right. The others' were before they were taken.
    verified: bool,
}

impl<K: Copy + Eq> Default for Coalescer<K> {
    fn default() -> Self {
        Self {
            runs: Vec::with_capacity(OPEN_RUNS),
            spare: (0..OPEN_RUNS)
                .map(|_| Vec::with_capacity(MAX_COALESCED))
                .collect(),
        }
    }
}

impl<K: Copy + Eq> Coalescer<K> {
    /// Takes the next frame: whole, complete, at `frame` in `buffer`. Gives `sink` what is finished by that. Until
    /// [`Self::flush`] every call is about the same `buffer`.
    ///
    /// # Panics
    /// If `frame` is not within `buffer`.
    #[inline]
    pub fn push(
        &mut self,
        buffer: &[u8],
        key: K,
        frame: Range<usize>,
        sink: &mut impl FnMut(K, FrameRef<'_>),
    ) {
        match classify(buffer, frame.clone()) {
            Class::Candidate(segment) => self.candidate(buffer, key, segment, sink),
            Class::Alone(segment) => {
                if let Some(at) = self.find(buffer, key, &segment) {
                    self.end(buffer, at, sink);
                }
                sink(key, FrameRef::plain(&buffer[frame]));
            }
            Class::Foreign => sink(key, FrameRef::plain(&buffer[frame])),
            Class::Odd => {
                self.flush(buffer, sink);
                sink(key, FrameRef::plain(&buffer[frame]));
            }
        }
    }

    /// Gives `sink` all that is left, in the order of first segments. To be called before the buffer changes.
    #[inline]
    pub fn flush(&mut self, buffer: &[u8], sink: &mut impl FnMut(K, FrameRef<'_>)) {
        for run in self.runs.drain(..) {
            run.emit(buffer, sink);
            self.spare.push(run.payloads);
        }
    }

    fn candidate(
        &mut self,
        buffer: &[u8],
        key: K,
        segment: Segment,
        sink: &mut impl FnMut(K, FrameRef<'_>),
    ) {
        let Some(at) = self.find(buffer, key, &segment) else {
            return self.start(buffer, key, segment, sink);
        };
        let run = &mut self.runs[at];
        if !run.continues(buffer, &segment) || !segment.is_right(buffer) {
            self.end(buffer, at, sink);
            return self.start(buffer, key, segment, sink);
        }
        if !run.verified {
            if !run.first.is_right(buffer) {
                self.end(buffer, at, sink);
                return self.start(buffer, key, segment, sink);
            }
            run.verified = true;
        }
        let full = segment.payload_len() < run.size();
        run.append(buffer, &segment);
        if full || run.last_flags != 0 || run.payloads.len() == MAX_COALESCED {
            self.end(buffer, at, sink);
        }
    }

    /// The open run of a segment's flow. There is at most one.
    #[inline]
    fn find(&self, buffer: &[u8], key: K, segment: &Segment) -> Option<usize> {
        let same = |run: &Run<K>| run.key == key && run.first.same_flow(buffer, segment);
        // Of several flows the one that came last mostly goes on.
        self.runs.iter().rposition(same)
    }

    fn start(
        &mut self,
        buffer: &[u8],
        key: K,
        segment: Segment,
        sink: &mut impl FnMut(K, FrameRef<'_>),
    ) {
        let last_flags = segment.ending_flags(buffer);
        if last_flags != 0 {
            // Ends with itself.
            return sink(key, FrameRef::plain(&buffer[segment.frame]));
        }
        if self.runs.len() == OPEN_RUNS {
            self.end(buffer, 0, sink);
        }
        let mut payloads = self.spare.pop().unwrap_or_default();
        payloads.clear();
        let mut run = Run {
            key,
            next_sequence: segment.sequence(buffer),
            next_id: segment.identification(buffer),
            payloads,
            payload_len: 0,
            last_flags: 0,
            verified: false,
            first: segment.clone(),
        };
        run.append(buffer, &segment);
        self.runs.push(run);
    }

    fn end(&mut self, buffer: &[u8], at: usize, sink: &mut impl FnMut(K, FrameRef<'_>)) {
        let run = self.runs.remove(at);
        run.emit(buffer, sink);
        self.spare.push(run.payloads);
    }
}

impl<K: Copy> Run<K> {
    /// Payload bytes of each segment but the last.
    fn size(&self) -> usize {
        self.first.payload_len()
    }

    /// Whether a segment of the same flow is the next of this run, as far as its header says.
    fn continues(&self, buffer: &[u8], next: &Segment) -> bool {
        let packet = self.first.payload - ETHERNET_HEADER_LEN + self.payload_len;
        next.payload_len() <= self.size()
            && packet + next.payload_len() <= PACKET_MAX
            && next.sequence(buffer) == self.next_sequence
            && (next.family == Family::V6 || next.identification(buffer) == self.next_id)
            && self.first.same_header(buffer, next)
    }

    fn append(&mut self, buffer: &[u8], next: &Segment) {
        let len = next.payload_len();
        self.payloads
            .push(next.frame.start + next.payload..next.frame.end);
        self.payload_len += len;
        self.next_sequence = self.next_sequence.wrapping_add(length32(len));
        self.next_id = self.next_id.wrapping_add(1);
        self.last_flags = next.ending_flags(buffer);
    }

    fn emit(&self, buffer: &[u8], sink: &mut impl FnMut(K, FrameRef<'_>)) {
        let size = u16::try_from(self.size()).ok().and_then(NonZeroU16::new);
        let (Some(size), true) = (size, self.payloads.len() > 1) else {
            return sink(self.key, FrameRef::plain(&buffer[self.first.frame.clone()]));
        };
        let mut head = [0; MAX_HEADER_LEN];
        let head = &mut head[..self.first.payload];
        self.write_head(buffer, head);
        let mut pieces: [&[u8]; MAX_COALESCED] = [&[]; MAX_COALESCED];
        for (piece, payload) in pieces.iter_mut().zip(&self.payloads) {
            *piece = &buffer[payload.clone()];
        }
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: length16(self.first.transport),
                offset: length16(tcp::field::CHECKSUM),
            }),
            gso: Some(Gso {
                kind: match self.first.family {
                    Family::V4 => GsoKind::Tcp4,
                    Family::V6 => GsoKind::Tcp6,
                },
                size,
                ecn: false,
            }),
        };
        let frame = FrameRef {
            bytes: head,
            tail: Tail::new(&pieces[..self.payloads.len()]),
            offload,
        };
        sink(self.key, frame);
    }

    /// The first segment's header as that of the whole.
    fn write_head(&self, buffer: &[u8], head: &mut [u8]) {
        let first = &self.first;
        head.copy_from_slice(&buffer[first.frame.start..][..first.payload]);
        let transport_len = first.payload - first.transport + self.payload_len;
        let network = &mut head[ETHERNET_HEADER_LEN..first.transport];
        match first.family {
            Family::V4 => {
                let len = length16(IPV4_HEADER_LEN + transport_len);
                put16(network, ipv4::field::TOTAL_LENGTH, len);
                put16(network, ipv4::field::CHECKSUM, 0);
                let checksum = Sum::of(network).finish();
                put16(network, ipv4::field::CHECKSUM, checksum);
            }
            Family::V6 => put16(
                network,
                ipv6::field::PAYLOAD_LENGTH,
                length16(transport_len),
            ),
        }
        let pseudo = pseudo_header(network, first.family, transport_len).folded();
        let transport = &mut head[first.transport..];
        put16(transport, tcp::field::CHECKSUM, pseudo);
        transport[tcp::field::FLAGS] |= self.last_flags;
    }
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length within a packet, whose own length field has 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a run is at most PACKET_MAX long"
)]
const fn length16(len: usize) -> u16 {
    len as u16
}

/// A payload's length.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a run is at most PACKET_MAX long"
)]
const fn length32(len: usize) -> u32 {
    len as u32
}

#[cfg(test)]
mod tests;
