//! From segments back to superframes: the inverse of [`crate::segment`], applied to what comes out of a tunnel before
//! it is given to a container's kernel, for which one superframe costs little more than one segment.
//!
//! Payload is not copied. The frames of a batch lie in one buffer; a run of adjacent segments of a TCP flow becomes one
//! copy of their header and the slices of their payloads. What is merged is what Linux merges in `tcp_gro_receive` and
//! `inet_gro_receive`, less what could not be taken apart again: segments of a merged frame that are cut by
//! [`crate::SegmentPlan`] are the ones that came, byte for byte. So a run has the same MACs, addresses, ports, TOS with
//! ECN bits, TTL, DF, acknowledgment, window and options, IPv4 identifications that count up by one, sequence numbers
//! that join, segments of one size but a shorter last, and PSH or FIN on the last only. CWR goes alone.
//!
//! UDP is merged only if it is asked for: datagrams of one size but a shorter last, in the order in which they came. A
//! socket that knows nothing of UDP_GRO gets them one by one from its kernel.
//!
//! Merging tells the receiver that checksums need not be looked at. So they are verified here first, of every segment
//! that is merged; one that is wrong goes on alone, as it came, and its receiver drops it.
//!
//! Order: frames of a flow stay in order. Frames of other flows may overtake a run by at most one batch.

use std::num::NonZeroU16;
use std::ops::Range;

use crate::checksum::Sum;
use crate::ethernet::ETHERNET_HEADER_LEN;
use crate::frame::{FrameRef, Gso, GsoKind, Offload, PartialChecksum, Tail};
use crate::segment::MAX_HEADER_LEN;
use crate::tcp::TcpFlags;
use crate::{ipv4, ipv6, tcp, udp};

mod candidate;

use candidate::{Class, Merged, Segment, classify};

/// Most segments of a run: 64 KiB of 1,024 bytes each. A receiver of superframes in pieces has room for so many.
pub const MAX_COALESCED: usize = 64;
/// Runs that are open at a time; a further one ends the oldest.
const OPEN_RUNS: usize = 32;
/// What the length field of an IPv4 packet can say.
const PACKET_MAX: usize = 65_535;

/// The runs of one receiver, to be kept from batch to batch. `K` tells apart frames that must never meet, such as those
/// of different networks.
#[derive(Debug)]
pub struct Coalescer<K> {
    merged: Merged,
    /// Open runs in the order of their first segments.
    open: Vec<Open>,
    /// Runs, open or waiting to be used again with their memory; [`OPEN_RUNS`] at most.
    runs: Vec<Run<K>>,
    /// Those that wait.
    free: Vec<usize>,
}

/// What is looked through for each frame.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Of the flow.
    tag: u64,
    /// In [`Coalescer::runs`].
    run: usize,
}

/// Segments that became one frame, so far.
#[derive(Debug)]
struct Run<K> {
    key: K,
    first: Segment,
    /// Payloads of all.
    payloads: Vec<Range<usize>>,
    payload_len: usize,
    /// What the next one must have.
    next_sequence: u32,
    next_id: u16,
    /// FIN and PSH of the last.
    last_flags: TcpFlags,
    /// The checksums of the first were found right. The others' were before they were taken.
    verified: bool,
}

impl<K: Copy + Eq> Default for Coalescer<K> {
    fn default() -> Self {
        Self {
            merged: Merged::Streams,
            open: Vec::with_capacity(OPEN_RUNS),
            runs: Vec::with_capacity(OPEN_RUNS),
            free: Vec::with_capacity(OPEN_RUNS),
        }
    }
}

impl<K: Copy + Eq> Coalescer<K> {
    /// Merges datagrams of UDP as well, to be cut by whoever takes them (USO).
    #[must_use]
    pub fn with_datagrams(self) -> Self {
        Self {
            merged: Merged::StreamsAndDatagrams,
            ..self
        }
    }

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
        match classify(buffer, frame.clone(), self.merged) {
            Class::Candidate(segment) => return self.candidate(buffer, key, segment, sink),
            Class::Alone(segment) => {
                if let Some(at) = self.find(buffer, key, &segment) {
                    self.end(buffer, at, sink);
                }
            }
            Class::Foreign => {}
            Class::Odd => self.end_all_of(buffer, key, sink),
        }
        sink(key, FrameRef::plain(&buffer[frame]));
    }

    /// Gives `sink` all that is left, in the order of first segments. To be called before the buffer changes.
    #[inline]
    pub fn flush(&mut self, buffer: &[u8], sink: &mut impl FnMut(K, FrameRef<'_>)) {
        for open in self.open.drain(..) {
            self.runs[open.run].emit(buffer, sink);
            self.free.push(open.run);
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
        let run = &mut self.runs[self.open[at].run];
        if !run.takes(buffer, &segment) {
            self.end(buffer, at, sink);
            return self.start(buffer, key, segment, sink);
        }
        run.append(&segment);
        let short = segment.payload_len() < run.size();
        if short || run.last_flags.0 != 0 || run.payloads.len() == MAX_COALESCED {
            self.end(buffer, at, sink);
        }
    }

    /// The open run of a segment's flow. There is at most one.
    #[inline]
    fn find(&self, buffer: &[u8], key: K, segment: &Segment) -> Option<usize> {
        let same = |open: &Open| {
            let run = &self.runs[open.run];
            open.tag == segment.tag && run.key == key && run.first.same_flow(buffer, segment)
        };
        // Of several flows the one that came last mostly goes on.
        self.open.iter().rposition(same)
    }

    fn start(
        &mut self,
        buffer: &[u8],
        key: K,
        first: Segment,
        sink: &mut impl FnMut(K, FrameRef<'_>),
    ) {
        if first.ending_flags().0 != 0 {
            // Ends with itself.
            return sink(key, FrameRef::plain(&buffer[first.range()]));
        }
        if self.open.len() == OPEN_RUNS {
            self.end(buffer, 0, sink);
        }
        let run = self.free.pop().unwrap_or(self.runs.len());
        let tag = first.tag;
        match self.runs.get_mut(run) {
            Some(free) => free.start(key, first),
            None => self.runs.push(Run::new(key, first)),
        }
        self.open.push(Open { tag, run });
    }

    fn end(&mut self, buffer: &[u8], at: usize, sink: &mut impl FnMut(K, FrameRef<'_>)) {
        let Open { run, .. } = self.open.remove(at);
        self.runs[run].emit(buffer, sink);
        self.free.push(run);
    }

    fn end_all_of(&mut self, buffer: &[u8], key: K, sink: &mut impl FnMut(K, FrameRef<'_>)) {
        let (runs, free) = (&self.runs, &mut self.free);
        self.open.retain(|open| {
            let ends = runs[open.run].key == key;
            if ends {
                runs[open.run].emit(buffer, sink);
                free.push(open.run);
            }
            !ends
        });
    }
}

impl<K: Copy> Run<K> {
    fn new(key: K, first: Segment) -> Self {
        let mut run = Self {
            key,
            first,
            payloads: Vec::with_capacity(MAX_COALESCED),
            payload_len: 0,
            next_sequence: 0,
            next_id: 0,
            last_flags: TcpFlags(0),
            verified: false,
        };
        run.start(key, first);
        run
    }

    fn start(&mut self, key: K, first: Segment) {
        self.key = key;
        self.first = first;
        self.payloads.clear();
        self.payload_len = 0;
        self.next_sequence = first.sequence;
        self.next_id = first.id;
        self.verified = false;
        self.append(&first);
    }

    /// Payload bytes of each segment but the last.
    fn size(&self) -> usize {
        self.first.payload_len()
    }

    /// Whether a segment of the same flow is the next of this run, and both are undamaged.
    #[inline]
    fn takes(&mut self, buffer: &[u8], next: &Segment) -> bool {
        let packet = self.first.payload - ETHERNET_HEADER_LEN + self.payload_len;
        let continues = next.payload_len() <= self.size()
            && packet + next.payload_len() <= PACKET_MAX
            && next.sequence == self.next_sequence
            && (next.id == self.next_id || !next.kind.is_v4())
            && self.first.same_header(buffer, next);
        if !continues || !next.is_right(buffer) {
            return false;
        }
        self.verified = self.verified || self.first.is_right(buffer);
        self.verified
    }

    #[inline]
    fn append(&mut self, next: &Segment) {
        let len = next.payload_len();
        self.payloads.push(next.payload_range());
        self.payload_len += len;
        if matches!(next.kind.gso(), GsoKind::Tcp4 | GsoKind::Tcp6) {
            self.next_sequence = self.next_sequence.wrapping_add(length32(len));
        }
        self.next_id = self.next_id.wrapping_add(1);
        self.last_flags = next.ending_flags();
    }

    fn emit(&self, buffer: &[u8], sink: &mut impl FnMut(K, FrameRef<'_>)) {
        let size = u16::try_from(self.size()).ok().and_then(NonZeroU16::new);
        let (Some(size), true) = (size, self.payloads.len() > 1) else {
            return sink(self.key, FrameRef::plain(&buffer[self.first.range()]));
        };
        let mut head = [0; MAX_HEADER_LEN];
        let head = &mut head[..self.first.payload];
        self.write_head(buffer, head);
        let mut pieces: [&[u8]; MAX_COALESCED] = [&[]; MAX_COALESCED];
        for (piece, payload) in pieces.iter_mut().zip(&self.payloads) {
            *piece = &buffer[payload.clone()];
        }
        let kind = self.first.kind;
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: length16(kind.transport()),
                offset: length16(kind.checksum()),
            }),
            gso: Some(Gso {
                kind: kind.gso(),
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
        let kind = self.first.kind;
        head.copy_from_slice(self.first.header(buffer));
        let transport_len = head.len() - kind.transport() + self.payload_len;
        let pseudo = kind.pseudo_header(head, transport_len).folded();
        let (network, transport) = head.split_at_mut(kind.transport());
        let network = &mut network[ETHERNET_HEADER_LEN..];
        if kind.is_v4() {
            let len = length16(network.len() + transport_len);
            put16(network, ipv4::field::TOTAL_LENGTH, len);
            put16(network, ipv4::field::CHECKSUM, 0);
            let checksum = Sum::of(network).finish();
            put16(network, ipv4::field::CHECKSUM, checksum);
        } else {
            let len = length16(transport_len);
            put16(network, ipv6::field::PAYLOAD_LENGTH, len);
        }
        put16(transport, kind.checksum(), pseudo);
        match kind.gso() {
            GsoKind::Tcp4 | GsoKind::Tcp6 => {
                transport[tcp::field::FLAGS] |= self.last_flags.0;
            }
            GsoKind::Udp => {
                put16(transport, udp::field::LENGTH, length16(transport_len));
            }
        }
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
