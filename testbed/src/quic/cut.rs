//! A frame becomes datagrams: each a VXLAN header, which says the network, and a frame that is complete. Pure.

use bytes::{Bytes, BytesMut};
use weft_switch::TooBig;
use weft_wire::{
    FrameRef, MAX_HEADER_LEN, Mtu, SegmentError, SegmentPlan, VXLAN_HEADER_LEN, Vni, VxlanHeader,
};

const ETHERNET_HEADER_LEN: usize = 14;

/// Makes datagrams of frames; keeps the memory.
#[derive(Debug, Default)]
pub(crate) struct Cutter {
    buffer: BytesMut,
}

impl Cutter {
    /// Gives `out` the datagrams of a frame, each of at most `limit` bytes, and says how many there were. A frame that
    /// contradicts its offload is none.
    ///
    /// # Errors
    /// [`TooBig`]: there is no datagram for it.
    pub(crate) fn cut(
        &mut self,
        vni: Vni,
        frame: FrameRef<'_>,
        limit: usize,
        mut out: impl FnMut(Bytes),
    ) -> Result<usize, TooBig> {
        let frame_max = limit.saturating_sub(VXLAN_HEADER_LEN);
        let plan = match SegmentPlan::with_limit(frame, frame_max) {
            Ok(plan) => plan,
            Err(SegmentError::TooLong { .. }) => {
                return Err(TooBig {
                    mtu: mtu(frame_max),
                });
            }
            Err(
                SegmentError::Offload(_)
                | SegmentError::ChecksumBeyondEnd { .. }
                | SegmentError::HeaderTooLong { .. }
                | SegmentError::Scattered
                | SegmentError::TooManySegments { .. },
            ) => return Ok(0),
        };
        let (count, header_len) = (plan.count(), plan.header_len());
        let all: usize = (0..count)
            .map(|i| VXLAN_HEADER_LEN + plan.wire_len(i))
            .sum();
        // What the connection has let go of is used again.
        self.buffer.reserve(all);
        let mut header = [0; MAX_HEADER_LEN];
        for i in 0..count {
            self.buffer.extend_from_slice(&VxlanHeader::to_bytes(vni));
            if header_len > 0 {
                plan.write_header(frame, i, &mut header[..header_len]);
                self.buffer.extend_from_slice(&header[..header_len]);
            }
            self.buffer.extend_from_slice(&frame.bytes[plan.payload(i)]);
            out(self.buffer.split().freeze());
        }
        Ok(count)
    }
}

/// The largest layer 3 packet in a frame of so many bytes.
fn mtu(frame_max: usize) -> Mtu {
    let packet = u32::try_from(frame_max.saturating_sub(ETHERNET_HEADER_LEN)).unwrap_or(Mtu::MAX);
    Mtu::new(packet.clamp(Mtu::MIN, Mtu::MAX)).unwrap_or(Mtu::ETHERNET)
}
