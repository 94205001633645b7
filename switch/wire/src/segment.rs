//! From any frame to frames that may go on a wire: the one place where superframes are cut and unfinished checksums
//! are finished. Comes last on a frame's way, before a plain port or a tunnel writes it.
//!
//! Payload is not copied. A plan says for each segment which header bytes to write beside it ([`MAX_HEADER_LEN`] at
//! most, into a buffer of the caller's) and which slice of the superframe follows. It follows what Linux does in
//! `tcp_gso_segment`, `__udp_gso_segment` and `inet_gso_segment`, so that the receiver can't tell who did the cutting:
//! IPv4 identification counts up, FIN and PSH are on the last segment only, CWR (with ECN offload) on the first only.
//!
//! A superframe whose IP packet does not end where the frame ends is refused, not trimmed: nobody pads a frame of
//! more than 60 bytes, and an IPv4 total length of 0 (BIG TCP) says nothing that could be trusted. In a frame that
//! only lacks its checksum, padding is summed like the rest, as Linux does: it is zeros.

use std::num::NonZeroU16;
use std::ops::Range;

use crate::checksum::Sum;
use crate::error::WireError;
use crate::frame::{FrameRef, Gso, GsoKind, PartialChecksum};
use crate::ipv4::IpProtocol;
use crate::layout::{Addresses, Layout};
use crate::vnet::{VnetError, check_superframe};
use crate::{tcp, udp};

mod template;

use template::{Position, Template};

/// The longest header copy of a segment: Ethernet 18 + IP with options or extension headers + TCP 60.
pub const MAX_HEADER_LEN: usize = 256;

/// The most segments a superframe is cut into: 64 KiB of 16 bytes each, what TCP with timestamps has left of the
/// smallest MTU there is (68). A sender that asks for more wants to make us work.
pub const MAX_SEGMENTS: usize = 4096;

/// A frame that cannot be made ready for a wire; it is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// A superframe needs both a gso and a checksum offload, which must fit it.
    #[error("the frame contradicts its offload: {0}")]
    Offload(#[from] VnetError),
    /// The field of an unfinished checksum lies beyond the frame.
    #[error("checksum at {at} lies beyond the frame of {len} bytes")]
    ChecksumBeyondEnd {
        /// Where the field starts.
        at: usize,
        /// Bytes of the frame.
        len: usize,
    },
    /// More than [`MAX_HEADER_LEN`] bytes before the payload.
    #[error("headers of {len} bytes, 256 is the most that is written")]
    HeaderTooLong {
        /// Bytes of all headers.
        len: usize,
    },
    /// The frame is in pieces: gather it first.
    #[error("the frame is in pieces")]
    Scattered,
    /// A single frame, or a datagram of a superframe, is longer than its way takes.
    #[error("frame of {len} bytes where {limit} is the most")]
    TooLong {
        /// Bytes of the frame, or of a datagram's.
        len: usize,
        /// The most there may be.
        limit: usize,
    },
    /// More than [`MAX_SEGMENTS`].
    #[error("superframe of {count} segments, 4096 is the most it is cut into")]
    TooManySegments {
        /// How many it would be.
        count: usize,
    },
}

impl From<WireError> for SegmentError {
    fn from(error: WireError) -> Self {
        Self::Offload(error.into())
    }
}

/// How a frame becomes one or more frames ready for a wire. Small, made on the stack for each frame.
#[derive(Clone, Copy, Debug)]
pub struct SegmentPlan {
    work: Work,
    header_len: usize,
    frame_len: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    /// Goes out as it is.
    Nothing,
    /// Sum from `start`, result at `field`.
    Checksum { start: usize, field: usize },
    /// Cut into segments.
    Segment(Template),
}

impl SegmentPlan {
    /// Looks at the frame and decides how it is to be cut.
    ///
    /// # Errors
    /// [`SegmentError`] if the frame contradicts its offload, or if there is more to do than there are limits.
    #[inline]
    pub fn new(frame: FrameRef<'_>) -> Result<Self, SegmentError> {
        Self::with_limit(frame, usize::MAX)
    }

    /// The same for a way that takes at most `limit` bytes of a frame, Ethernet header included, such as a path whose MTU
    /// fell. A TCP superframe is cut into smaller segments than its sender asked for, which its receiver can't tell from
    /// others, and so is a single segment whose checksum is unfinished (a retransmission); what else is too long stays
    /// so.
    ///
    /// # Errors
    /// As [`Self::new`], and [`SegmentError::TooLong`].
    #[inline]
    pub fn with_limit(frame: FrameRef<'_>, limit: usize) -> Result<Self, SegmentError> {
        if !frame.tail.is_empty() {
            return Err(SegmentError::Scattered);
        }
        let plan = match (frame.offload.gso, frame.offload.checksum) {
            (None, None) => Self::single(frame, Work::Nothing, 0),
            (None, Some(checksum)) if frame.len() > limit => Self::shorten(frame, checksum, limit)?,
            (None, Some(checksum)) => Self::checksum(frame, checksum)?,
            (Some(gso), Some(checksum)) => Self::superframe(frame, gso, checksum, limit)?,
            (Some(_), None) => return Err(VnetError::GsoWithoutChecksum.into()),
        };
        let len = plan.wire_len(0);
        if len > limit {
            return Err(SegmentError::TooLong { len, limit });
        }
        Ok(plan)
    }

    fn single(frame: FrameRef<'_>, work: Work, header_len: usize) -> Self {
        let frame_len = frame.bytes.len();
        Self {
            work,
            header_len,
            frame_len,
            size: frame_len - header_len,
            count: 1,
        }
    }

    fn checksum(frame: FrameRef<'_>, checksum: PartialChecksum) -> Result<Self, SegmentError> {
        let start = usize::from(checksum.start);
        let field = start + usize::from(checksum.offset);
        let header_len = field + 2;
        if header_len > frame.bytes.len() {
            let len = frame.bytes.len();
            return Err(SegmentError::ChecksumBeyondEnd { at: field, len });
        }
        if header_len > MAX_HEADER_LEN {
            return Err(SegmentError::HeaderTooLong { len: header_len });
        }
        Ok(Self::single(
            frame,
            Work::Checksum { start, field },
            header_len,
        ))
    }

    /// A frame that is too long for its way as it stands: a TCP segment is cut like a superframe of that one segment.
    fn shorten(
        frame: FrameRef<'_>,
        checksum: PartialChecksum,
        limit: usize,
    ) -> Result<Self, SegmentError> {
        let len = frame.len();
        let too_long = SegmentError::TooLong { len, limit };
        let layout = Layout::of(frame.bytes)?.ok_or(too_long)?;
        let kind = match layout.addresses {
            _ if layout.protocol != IpProtocol::TCP || layout.fragment => return Err(too_long),
            Addresses::V4 { .. } => GsoKind::Tcp4,
            Addresses::V6 { .. } => GsoKind::Tcp6,
        };
        let gso = Gso {
            kind,
            size: NonZeroU16::MAX,
            ecn: false,
        };
        // Padding or an unusual layout: leave it alone.
        Self::superframe(frame, gso, checksum, limit).map_err(|_| too_long)
    }

    fn superframe(
        frame: FrameRef<'_>,
        gso: Gso,
        checksum: PartialChecksum,
        limit: usize,
    ) -> Result<Self, SegmentError> {
        let layout = Layout::of(frame.bytes)?.ok_or(VnetError::NotIp)?;
        check_superframe(frame.bytes, &layout, gso, checksum)?;
        let header_len = layout.transport
            + match gso.kind {
                GsoKind::Tcp4 | GsoKind::Tcp6 => {
                    usize::from(frame.bytes[layout.transport + tcp::field::DATA_OFFSET] >> 4) * 4
                }
                GsoKind::Udp => udp::UDP_HEADER_LEN,
            };
        if header_len > MAX_HEADER_LEN {
            return Err(SegmentError::HeaderTooLong { len: header_len });
        }
        let frame_len = frame.bytes.len();
        let count = |size| (frame_len - header_len).div_ceil(size).max(1);
        let asked = usize::from(gso.size.get());
        if count(asked) > MAX_SEGMENTS {
            let count = count(asked);
            return Err(SegmentError::TooManySegments { count });
        }
        let size = match gso.kind {
            GsoKind::Tcp4 | GsoKind::Tcp6 => asked.min(limit.saturating_sub(header_len)),
            GsoKind::Udp => asked,
        };
        // A way on which a segment has hardly room beside its header is none.
        if size == 0 || count(size) > MAX_SEGMENTS {
            let len = header_len + asked.min(frame_len - header_len);
            return Err(SegmentError::TooLong { len, limit });
        }
        let count = count(size);
        Ok(Self {
            work: Work::Segment(Template::new(
                &layout,
                gso,
                &frame.bytes[..header_len],
                frame_len,
            )),
            header_len,
            frame_len,
            size,
            count,
        })
    }

    /// How many frames it becomes, at least 1.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes that [`Self::write_header`] writes before each segment's payload, the same for all; 0 if the frame goes
    /// out as it is.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The bytes of the frame that follow segment `i`'s header; empty for an `i` that is none.
    #[inline]
    pub fn payload(&self, i: usize) -> Range<usize> {
        let start = self.size.saturating_mul(i).saturating_add(self.header_len);
        let start = start.min(self.frame_len);
        start..start.saturating_add(self.size).min(self.frame_len)
    }

    /// Bytes of segment `i` on the wire, Ethernet header included.
    #[inline]
    pub fn wire_len(&self, i: usize) -> usize {
        self.header_len + self.payload(i).len()
    }

    /// Writes the header of segment `i` of `frame` to the first [`Self::header_len`] bytes of `out`.
    ///
    /// # Panics
    /// If `frame` is not the one the plan was made of, or `out` is shorter than [`Self::header_len`].
    #[inline]
    pub fn write_header(&self, frame: FrameRef<'_>, i: usize, out: &mut [u8]) {
        let out = &mut out[..self.header_len];
        out.copy_from_slice(&frame.bytes[..self.header_len]);
        match &self.work {
            Work::Nothing => {}
            Work::Checksum { start, field } => {
                put16(
                    out,
                    *field,
                    Sum::of(&frame.bytes[*start..]).finish_nonzero(),
                );
            }
            Work::Segment(template) => {
                let position = Position {
                    index: i,
                    offset: i * self.size,
                    last: i + 1 >= self.count,
                };
                template.write(position, &frame.bytes[self.payload(i)], out);
            }
        }
    }
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A length within a superframe, whose own length field has 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a segment is never longer than its superframe"
)]
const fn length16(len: usize) -> u16 {
    len as u16
}

/// An offset within a superframe.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a superframe is below 2^17 bytes"
)]
const fn length32(len: usize) -> u32 {
    len as u32
}

#[cfg(test)]
mod tests;
