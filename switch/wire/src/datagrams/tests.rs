use proptest::prelude::*;

use super::*;
use crate::segment::SegmentPlan;

const UDP: usize = 34;

/// A datagram as a container's kernel gives it: its checksum is that of the pseudo header.
fn datagram(v6: bool, (id, ports): (u16, [u8; 4]), payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let len = u16::try_from(payload.len() + UDP_HEADER_LEN).unwrap();
    if v6 {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend(len.to_be_bytes());
        bytes.extend([17, 64]);
        bytes.extend([0xfd; 32]);
    } else {
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend((len + 20).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = Sum::of(&bytes[14..34]).finish();
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    bytes.extend(ports);
    bytes.extend(len.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let layout = Layout::of(&bytes).unwrap().unwrap();
    let pseudo = layout.pseudo_header(len).folded();
    let field = layout.transport + udp::field::CHECKSUM;
    bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
    bytes
}

fn unfinished(bytes: &[u8]) -> FrameRef<'_> {
    let layout = Layout::of(bytes).unwrap().unwrap();
    let checksum = Some(PartialChecksum {
        start: u16::try_from(layout.transport).unwrap(),
        offset: 6,
    });
    let offload = Offload {
        checksum,
        gso: None,
    };
    FrameRef::new(bytes, offload)
}

/// Sums an IPv4 header anew.
fn finish_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// What a wire would carry.
fn cut(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let plan = SegmentPlan::new(frame).unwrap();
    let one = |i| {
        let mut bytes = vec![0; plan.header_len()];
        plan.write_header(frame, i, &mut bytes);
        bytes.extend_from_slice(&frame.bytes[plan.payload(i)]);
        bytes
    };
    (0..plan.count()).map(one).collect()
}

const PORTS: [u8; 4] = [1, 2, 3, 4];

#[test]
fn only_what_goes_on_is_taken() {
    let first = datagram(false, (7, PORTS), &[1; 64]);
    let mut run = DatagramRun::default();
    assert!(run.frame().is_none() && !run.append(unfinished(&first)));
    assert!(run.start(unfinished(&first)));
    assert!(!run.start(unfinished(&first)));
    let longer = datagram(false, (8, PORTS), &[1; 65]);
    let elsewhere = datagram(false, (8, [1, 2, 3, 5]), &[1; 64]);
    let skipping = datagram(false, (9, PORTS), &[1; 64]);
    let other_family = datagram(true, (8, PORTS), &[1; 64]);
    let mut marked = datagram(false, (8, PORTS), &[1; 64]);
    marked[15] = 3;
    finish_header(&mut marked);
    let mut fragment = datagram(false, (8, PORTS), &[1; 64]);
    fragment[20] = 0x20;
    finish_header(&mut fragment);
    for frame in [
        &longer,
        &elsewhere,
        &skipping,
        &other_family,
        &marked,
        &fragment,
    ] {
        assert!(!run.append(unfinished(frame)), "{frame:02x?}");
    }
    // One that is finished needs no more of us.
    assert!(!run.append(FrameRef::plain(&datagram(false, (8, PORTS), &[1; 64]))));
    assert!(run.append(unfinished(&datagram(false, (8, PORTS), &[1; 64]))));
    assert!(run.append(unfinished(&datagram(false, (9, PORTS), &[1; 9]))));
    // A shorter one was the last.
    assert!(!run.append(unfinished(&datagram(false, (10, PORTS), &[1; 9]))));
    assert_eq!(run.count(), 3);
    run.clear();
    assert!(run.is_empty() && run.frame().is_none());
}

#[test]
fn one_alone_goes_on_as_it_came() {
    let only = datagram(true, (0, PORTS), b"x");
    let mut run = DatagramRun::default();
    assert!(run.start(unfinished(&only)));
    let frame = run.frame().unwrap();
    assert_eq!(
        (frame.bytes, frame.offload),
        (&only[..], unfinished(&only).offload)
    );
}

#[test]
fn a_wrong_header_checksum_is_not_mended() {
    let good = datagram(false, (7, PORTS), &[1; 64]);
    let mut bad = datagram(false, (8, PORTS), &[1; 64]);
    bad[25] ^= 1;
    let mut run = DatagramRun::default();
    assert!(!run.start(unfinished(&bad)));
    assert!(run.start(unfinished(&good)));
    assert!(!run.append(unfinished(&bad)));
}

#[test]
fn identifications_of_packets_with_df_mean_nothing() {
    let with_df = |id| {
        let mut frame = datagram(false, (id, PORTS), &[1; 64]);
        frame[20] = 0x40;
        finish_header(&mut frame);
        frame
    };
    let mut run = DatagramRun::default();
    assert!(run.start(unfinished(&with_df(5))));
    assert!(run.append(unfinished(&with_df(5))));
}

#[test]
fn padding_long_frames_and_other_protocols_are_left_alone() {
    let mut run = DatagramRun::default();
    let mut padded = datagram(false, (7, PORTS), &[1; 4]);
    padded.resize(60, 0);
    let long = datagram(false, (7, PORTS), &[1; 600]);
    let mut tcp = datagram(false, (7, PORTS), &[1; 64]);
    tcp[23] = 6;
    let mut lying = datagram(false, (7, PORTS), &[1; 64]);
    lying[UDP + 5] += 1;
    let empty = datagram(false, (7, PORTS), &[]);
    for frame in [&padded, &long, &tcp, &lying, &empty] {
        assert!(!run.start(unfinished(frame)), "{frame:02x?}");
    }
    let many = datagram(true, (0, PORTS), &[1; 8]);
    assert!(run.start(unfinished(&many)));
    let taken = (0..100).filter(|_| run.append(unfinished(&many))).count();
    assert_eq!(taken + 1, DATAGRAMS_MAX);
}

proptest! {
    #[test]
    fn cutting_undoes_joining(
        v6: bool,
        id: u16,
        count in 1usize..64,
        size in 1usize..400,
        last in 1usize..400,
        seed: u8,
    ) {
        let frames: Vec<Vec<u8>> = (0..count)
            .map(|i| {
                let len = if i > 0 && i + 1 == count { last.min(size) } else { size };
                let payload: Vec<u8> = (seed..=u8::MAX).cycle().skip(i).take(len).collect();
                datagram(v6, (id.wrapping_add(u16::try_from(i).unwrap()), PORTS), &payload)
            })
            .collect();
        let mut run = DatagramRun::default();
        prop_assert!(run.start(unfinished(&frames[0])));
        for frame in &frames[1..] {
            prop_assert!(run.append(unfinished(frame)));
        }
        let wanted: Vec<Vec<u8>> = frames.iter().flat_map(|frame| cut(unfinished(frame))).collect();
        prop_assert_eq!(cut(run.frame().unwrap()), wanted);
        // Asked again it says the same.
        prop_assert_eq!(run.count(), count);
        prop_assert_eq!(cut(run.frame().unwrap()), frames.iter().flat_map(|frame| cut(unfinished(frame))).collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_make_it_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        start in 0u16..60,
        offset in 0u16..20,
        at in 0usize..60,
        value: u8,
    ) {
        let offload = Offload { checksum: Some(PartialChecksum { start, offset }), gso: None };
        let mut run = DatagramRun::default();
        let mut near = datagram(false, (7, PORTS), &[1; 18]);
        near[at] = value;
        finish_header(&mut near);
        for frame in [FrameRef::new(&bytes, offload), FrameRef::new(&near, offload), unfinished(&datagram(false, (8, PORTS), &[1; 18]))] {
            let _ = run.start(frame);
            let _ = run.append(frame);
            let _ = run.frame();
        }
    }
}
