//! A frame as it travels through weft: its bytes and what its sender left for offload. Read-only from the door to
//! the way out: whoever must change bytes writes a header copy beside it (see `segment`).

use std::num::NonZeroU16;

/// An Ethernet frame without FCS, borrowed from the buffer it was read into.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    /// From the destination MAC to the end of the payload, or, of a superframe that was coalesced, to the end of its
    /// transport header; up to 64 KiB when `offload` says it is a superframe.
    pub bytes: &'a [u8],
    /// What follows, where it lies.
    pub tail: Tail<'a>,
    /// What the sender left to be done before the frame may appear on a wire.
    pub offload: Offload,
}

/// The end of a coalesced superframe: slices of the buffers that its segments were received into. Mostly there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tail<'a> {
    pieces: &'a [&'a [u8]],
    len: usize,
}

impl<'a> Tail<'a> {
    /// No tail: the frame is in one piece.
    pub const NONE: Self = Self {
        pieces: &[],
        len: 0,
    };

    /// These pieces, one after the other.
    #[inline]
    pub fn new(pieces: &'a [&'a [u8]]) -> Self {
        let len = pieces.iter().map(|piece| piece.len()).sum();
        Self { pieces, len }
    }

    /// The pieces.
    #[inline]
    pub const fn pieces(&self) -> &'a [&'a [u8]] {
        self.pieces
    }

    /// Bytes of all pieces.
    #[inline]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<'a> FrameRef<'a> {
    /// A frame in one piece.
    pub const fn new(bytes: &'a [u8], offload: Offload) -> Self {
        Self {
            bytes,
            tail: Tail::NONE,
            offload,
        }
    }

    /// A frame that is complete as it stands: nothing to segment, checksums in place.
    pub const fn plain(bytes: &'a [u8]) -> Self {
        Self::new(bytes, Offload::NONE)
    }

    /// Bytes of the whole frame.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.bytes.len() + self.tail.len
    }

    /// The same frame in one piece: itself, or a copy in `room`, whatever was in there.
    pub fn gathered<'r>(&self, room: &'r mut Vec<u8>) -> FrameRef<'r>
    where
        'a: 'r,
    {
        if self.tail.is_empty() {
            return *self;
        }
        room.clear();
        room.extend_from_slice(self.bytes);
        for piece in self.tail.pieces {
            room.extend_from_slice(piece);
        }
        FrameRef::new(room, self.offload)
    }
}

/// Work that was left undone in a frame (the meaning of a `virtio_net_hdr`, checked against the frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Offload {
    /// The transport checksum holds only the pseudo-header sum.
    pub checksum: Option<PartialChecksum>,
    /// The frame is a superframe: to be cut into segments. Implies `checksum`.
    pub gso: Option<Gso>,
}

impl Offload {
    /// Nothing is left to do.
    pub const NONE: Self = Self {
        checksum: None,
        gso: None,
    };

    /// Whether the frame may go on a wire as it stands.
    pub const fn is_none(&self) -> bool {
        self.checksum.is_none() && self.gso.is_none()
    }
}

/// Where an unfinished checksum is (offsets in bytes; the sum runs from `start` to the end of the frame).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// First summed byte, from the start of the frame.
    pub start: u16,
    /// Where the 16-bit field is, from `start`.
    pub offset: u16,
}

/// Generic segmentation offload: how a superframe is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Which protocol's rules apply.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last, which may be shorter.
    pub size: NonZeroU16,
    /// TCP with CWR on the first segment only (VIRTIO_NET_HDR_GSO_ECN).
    pub ecn: bool,
}

/// What a superframe carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (TSO).
    Tcp4,
    /// TCP over IPv6 (TSO).
    Tcp6,
    /// UDP datagrams of equal size over IPv4 or IPv6 (USO).
    Udp,
}
