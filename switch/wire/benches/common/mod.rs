//! A superframe as a container's kernel hands it over, and its segments.

use std::num::NonZeroU16;

use weft_wire::{FrameRef, Gso, GsoKind, MAX_HEADER_LEN, Offload, PartialChecksum, SegmentPlan};

/// Ethernet, IPv4 or IPv6.
const ETHERNET: usize = 14;

/// TCP with timestamps from source port `port`.
pub(crate) fn tcp(v6: bool, port: u16, payload: usize, size: u16) -> (Vec<u8>, Offload) {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let len = 32 + payload;
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 7]);
        bytes.extend(number(len).to_be_bytes());
        bytes.extend([6, 64]);
        bytes.extend([0xfd; 32]);
    } else {
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend(number(20 + len).to_be_bytes());
        bytes.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    let start = number(bytes.len());
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 80, 0, 0, 0, 1, 0, 0, 0, 9, 0x80, 0x18, 1, 0, 0, 0, 0, 0]);
    bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    bytes.extend((0..=u8::MAX).cycle().take(payload));
    let gso = Gso {
        kind: if v6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 },
        size: NonZeroU16::new(size).expect("a size"),
        ecn: false,
    };
    let checksum = PartialChecksum { start, offset: 16 };
    let offload = Offload {
        checksum: Some(checksum),
        gso: Some(gso),
    };
    assert!(bytes.len() > ETHERNET + usize::from(size));
    (bytes, offload)
}

/// What the superframe is cut into.
#[allow(dead_code, reason = "not every bench cuts beforehand")]
pub(crate) fn segments(bytes: &[u8], offload: Offload) -> Vec<Vec<u8>> {
    let frame = FrameRef::new(bytes, offload);
    let plan = SegmentPlan::new(frame).expect("a superframe");
    let segment = |i| {
        let mut header = [0; MAX_HEADER_LEN];
        plan.write_header(frame, i, &mut header);
        [&header[..plan.header_len()], &bytes[plan.payload(i)]].concat()
    };
    (0..plan.count()).map(segment).collect()
}

fn number(len: usize) -> u16 {
    u16::try_from(len).expect("a length within a packet")
}
