//! A frame as it travels through weft: its bytes and what its sender left for offload. Read-only from the door to
//! the way out: whoever must change bytes writes a header copy beside it (see `segment`).

use std::num::NonZeroU16;

/// An Ethernet frame without FCS, borrowed from the buffer it was read into.
#[derive(Clone, Copy, Debug)]
pub struct FrameRef<'a> {
    /// From the destination MAC to the end of the payload; up to 64 KiB when `offload` says it is a superframe.
    pub bytes: &'a [u8],
    /// What the sender left to be done before the frame may appear on a wire.
    pub offload: Offload,
}

impl<'a> FrameRef<'a> {
    /// A frame that is complete as it stands: nothing to segment, checksums in place.
    pub const fn plain(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            offload: Offload::NONE,
        }
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
