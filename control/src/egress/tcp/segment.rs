//! A segment to be sent: everything but addresses and ports.

use weft_wire::TcpFlags;

use super::options::OptionBytes;

/// What a segment is for, so that its sending can be noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Reset,
    Handshake,
    /// New bytes, or the same again after a timeout.
    Data,
    Repair,
    WindowProbe,
    Keepalive,
    Acknowledge,
}

/// A segment without addresses and ports.
#[derive(Clone, Copy, Debug)]
pub(in crate::egress) struct Segment {
    pub(super) purpose: Purpose,
    pub(in crate::egress) sequence: u32,
    pub(in crate::egress) acknowledgment: u32,
    pub(in crate::egress) flags: TcpFlags,
    /// As it is in the header.
    pub(in crate::egress) window: u16,
    pub(super) options: OptionBytes,
    /// Where its payload begins, counted from the first unacknowledged byte.
    pub(super) offset: usize,
    /// Bytes of payload; more than `mss` makes a superframe.
    pub(in crate::egress) len: usize,
    /// Payload bytes of one segment on a wire.
    pub(in crate::egress) mss: u16,
}

impl Segment {
    /// A reset that belongs to no connection.
    pub(in crate::egress) fn reset(sequence: u32, acknowledgment: u32, flags: TcpFlags) -> Self {
        Self {
            purpose: Purpose::Reset,
            sequence,
            acknowledgment,
            flags,
            window: 0,
            options: OptionBytes::default(),
            offset: 0,
            len: 0,
            mss: 0,
        }
    }

    /// The option bytes, whole words.
    pub(in crate::egress) fn options(&self) -> &[u8] {
        self.options.as_slice()
    }

    /// Sequence numbers it takes.
    pub(super) fn span(&self) -> u32 {
        let ends = self.flags.contains(TcpFlags::FIN) || self.flags.contains(TcpFlags::SYN);
        super::sequence::length(self.len) + u32::from(ends)
    }
}
