//! The law: what comes out of a coalescer, cut again, is what went in: byte for byte, each flow in order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::segment::SegmentPlan;
use crate::tcp::{TCP_HEADER_LEN, TcpFlags};

/// A TCP stream of one direction, as a container's kernel hands it over.
#[derive(Clone, Debug)]
struct Stream {
    v6: bool,
    port: u16,
    options: usize,
    payload: usize,
    size: u16,
    flags: u8,
    id: u16,
    sequence: u32,
}

impl Stream {
    fn superframe(&self) -> (Vec<u8>, Offload) {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let len = TCP_HEADER_LEN + 4 * self.options + self.payload;
        if self.v6 {
            bytes.extend([0x60, 0x20, 0, 7]);
            bytes.extend(length16(len).to_be_bytes());
            bytes.extend([6, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend([0x45, 2]);
            bytes.extend(length16(IPV4_HEADER_LEN + len).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = Sum::of(&bytes[14..]).finish();
            put16(&mut bytes, 24, checksum);
        }
        let start = bytes.len();
        bytes.extend(self.port.to_be_bytes());
        bytes.extend([0, 80]);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend([0, 0, 1, 2]);
        let offset = u8::try_from((5 + self.options) << 4).unwrap();
        bytes.extend([offset, self.flags, 1, 0, 0, 0, 0, 0]);
        bytes.extend((0..4 * self.options).map(|i| u8::try_from(i).unwrap()));
        bytes.extend((0..self.payload).map(|i| u8::try_from(i * 7 % 251).unwrap()));
        let family = if self.v6 { Family::V6 } else { Family::V4 };
        let pseudo = pseudo_header(&bytes[14..start], family, len).folded();
        put16(&mut bytes, start + 16, pseudo);
        let gso = Gso {
            kind: if self.v6 {
                GsoKind::Tcp6
            } else {
                GsoKind::Tcp4
            },
            size: NonZeroU16::new(self.size).unwrap(),
            ecn: false,
        };
        let checksum = Some(PartialChecksum {
            start: length16(start),
            offset: 16,
        });
        let gso = (self.payload > usize::from(self.size)).then_some(gso);
        (bytes, Offload { checksum, gso })
    }

    fn segments(&self) -> Vec<Vec<u8>> {
        let (bytes, offload) = self.superframe();
        cut(FrameRef::new(&bytes, offload))
    }
}

fn cut(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let mut room = Vec::new();
    let frame = frame.gathered(&mut room);
    let plan = SegmentPlan::new(frame).unwrap();
    let segment = |i| {
        let mut bytes = vec![0; plan.header_len()];
        plan.write_header(frame, i, &mut bytes);
        bytes.extend_from_slice(&frame.bytes[plan.payload(i)]);
        bytes
    };
    (0..plan.count()).map(segment).collect()
}

/// What a coalescer makes of frames of one key: of each its bytes in one piece and its offload.
fn coalesced(frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Offload)> {
    let keyed: Vec<_> = frames.iter().map(|frame| (0u8, frame.clone())).collect();
    let out = coalesced_by_key(&keyed);
    out.into_iter()
        .map(|(_, bytes, offload)| (bytes, offload))
        .collect()
}

fn coalesced_by_key(frames: &[(u8, Vec<u8>)]) -> Vec<(u8, Vec<u8>, Offload)> {
    let buffer: Vec<u8> = frames
        .iter()
        .flat_map(|(_, frame)| frame)
        .copied()
        .collect();
    let mut out = Vec::new();
    let mut sink = |key, frame: FrameRef<'_>| {
        let mut room = Vec::new();
        let whole = frame.gathered(&mut room);
        assert_eq!(whole.bytes.len(), frame.len());
        out.push((key, whole.bytes.to_vec(), whole.offload));
    };
    let mut coalescer = Coalescer::default();
    let mut start = 0;
    for (key, frame) in frames {
        coalescer.push(&buffer, *key, start..start + frame.len(), &mut sink);
        start += frame.len();
    }
    coalescer.flush(&buffer, &mut sink);
    assert_eq!(
        coalescer.spare.len(),
        OPEN_RUNS,
        "memory of runs comes back"
    );
    out
}

fn cut_all(frames: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    let cut = |(bytes, offload): &(Vec<u8>, Offload)| cut(FrameRef::new(bytes, *offload));
    frames.iter().flat_map(cut).collect()
}

fn stream() -> impl Strategy<Value = Stream> {
    let shape = (any::<bool>(), 1u16..4, 0usize..=10, 1usize..30_000);
    let values = (500u16..2000, any::<bool>(), any::<u16>(), any::<u32>());
    (shape, values).prop_map(|(shape, (size, push, id, sequence))| Stream {
        v6: shape.0,
        port: shape.1,
        options: shape.2,
        payload: shape.3,
        size,
        flags: if push { 0x18 } else { 0x10 },
        id,
        sequence,
    })
}

fn example() -> Stream {
    Stream {
        v6: false,
        port: 1,
        options: 3,
        payload: 5000,
        size: 1398,
        flags: 0x18,
        id: 65_534,
        sequence: u32::MAX - 2000,
    }
}

/// Sums of a frame that was changed are made right again, so that only the change tells.
fn finish(frame: &mut [u8]) {
    put16(frame, 24, 0);
    let checksum = Sum::of(&frame[14..34]).finish();
    put16(frame, 24, checksum);
    put16(frame, 50, 0);
    let len = frame.len() - 34;
    let sum = pseudo_header(&frame[14..34], Family::V4, len).and(&frame[34..]);
    put16(frame, 50, sum.finish_nonzero());
}

#[test]
fn segments_of_a_superframe_become_that_superframe() {
    for v6 in [false, true] {
        let stream = Stream { v6, ..example() };
        let (bytes, offload) = stream.superframe();
        assert_eq!(coalesced(&stream.segments()), [(bytes, offload)]);
    }
}

#[test]
fn a_frame_that_stays_alone_is_as_it_came() {
    let frame = &example().segments()[0];
    assert_eq!(
        coalesced(std::slice::from_ref(frame)),
        [(frame.clone(), Offload::NONE)]
    );
}

#[test]
fn every_difference_that_matters_ends_a_run() {
    // Offsets in an untagged IPv4 frame: what differs in the second of two segments.
    let changes: [(&str, usize, u8); 14] = [
        ("destination MAC", 5, 0x10),
        ("source MAC", 11, 0x10),
        ("ECN", 15, 0x03),
        ("identification", 19, 0x10),
        ("DF", 20, 0x40),
        ("TTL", 22, 0x01),
        ("source address", 29, 0x10),
        ("port", 35, 0x10),
        ("sequence", 41, 0x01),
        ("acknowledgment", 45, 0x01),
        ("reserved bits", 46, 0x01),
        ("ECE", 47, 0x40),
        ("window", 49, 0x01),
        ("option", 60, 0x01),
    ];
    let segments = example().segments();
    assert_eq!(coalesced(&segments[..2]).len(), 1);
    for (name, at, bits) in changes {
        let mut second = segments[1].clone();
        second[at] ^= bits;
        finish(&mut second);
        let frames = [segments[0].clone(), second];
        let out: Vec<_> = coalesced(&frames)
            .into_iter()
            .map(|(bytes, _)| bytes)
            .collect();
        assert_eq!(out, frames, "{name}");
    }
}

#[test]
fn flags_that_stand_alone_end_a_run_and_join_none() {
    let segments = example().segments();
    for flag in [TcpFlags::SYN, TcpFlags::RST, TcpFlags::URG, TcpFlags::CWR] {
        let mut frames = segments[..3].to_vec();
        frames[1][47] |= flag.0;
        finish(&mut frames[1]);
        let out = coalesced(&frames);
        assert_eq!(out.len(), 3, "{flag:?}");
        assert_eq!(cut_all(&out), frames);
    }
}

#[test]
fn an_acknowledgment_without_payload_does_not_overtake() {
    let mut frames = example().segments();
    let mut ack = frames[2][..66].to_vec();
    put16(&mut ack, 16, 52);
    finish(&mut ack);
    frames.insert(2, ack);
    let out = coalesced(&frames);
    assert_eq!(cut_all(&out), frames);
    assert_eq!(out.len(), 3);
}

#[test]
fn a_run_ends_where_the_packet_is_full() {
    let mut segments = Stream {
        size: 1000,
        payload: 60_000,
        ..example()
    }
    .segments();
    let mut next = Stream {
        size: 1000,
        payload: 60_000,
        id: example().id.wrapping_add(60),
        sequence: example().sequence.wrapping_add(60_000),
        ..example()
    }
    .segments();
    segments[59][47] &= !0x08;
    finish(&mut segments[59]);
    segments.append(&mut next);
    let out = coalesced(&segments);
    assert_eq!(cut_all(&out), segments);
    assert_eq!(out.len(), 2);
    assert!(out.iter().all(|(bytes, _)| bytes.len() <= 14 + PACKET_MAX));
}

#[test]
fn frames_of_other_keys_never_meet() {
    let segments = example().segments();
    let frames: Vec<_> = (0u8..)
        .zip(segments)
        .map(|(i, frame)| (i % 2, frame))
        .collect();
    let out = coalesced_by_key(&frames);
    assert_eq!(out.len(), frames.len());
}

#[test]
fn more_flows_than_there_is_room_for_lose_nothing() {
    let streams: Vec<_> = (0..40)
        .map(|port| Stream { port, ..example() }.segments())
        .collect();
    let frames: Vec<_> = (0..4)
        .flat_map(|i| streams.iter().map(move |segments| segments[i].clone()))
        .collect();
    let mut out = cut_all(&coalesced(&frames));
    let mut frames = frames;
    out.sort();
    frames.sort();
    assert_eq!(out, frames);
}

#[test]
fn short_and_hostile_frames_pass_as_they_are() {
    let good = example().segments()[0].clone();
    for len in 0..good.len() {
        let frame = good[..len].to_vec();
        assert_eq!(
            coalesced(std::slice::from_ref(&frame)),
            [(frame, Offload::NONE)]
        );
    }
}

proptest! {
    #[test]
    fn cutting_undoes_merging_and_merging_undoes_cutting(stream in stream()) {
        let (bytes, offload) = stream.superframe();
        let segments = stream.segments();
        let out = coalesced(&segments);
        prop_assert_eq!(cut_all(&out), &segments[..]);
        if (2..=MAX_COALESCED).contains(&segments.len()) {
            prop_assert_eq!(out, vec![(bytes, offload)]);
        }
    }

    /// Several flows interleaved, some bytes changed anywhere, frames lost and cut short.
    #[test]
    fn nothing_is_lost_doubled_reordered_or_laundered(
        streams in prop::collection::vec(stream(), 1..4),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1u8..), 0..6),
        short in prop::collection::vec((any::<prop::sample::Index>(), 1usize..100), 0..3),
    ) {
        let mut queues: Vec<_> = streams.iter().map(|stream| stream.segments().into_iter()).collect();
        let mut frames: Vec<Vec<u8>> = Vec::new();
        for index in order {
            let queue = index.index(queues.len());
            frames.extend(queues[queue].next());
        }
        for queue in queues {
            frames.extend(queue);
        }
        for (frame, at, bits) in &damage {
            let frame = frame.index(frames.len());
            let at = at.index(frames[frame].len());
            frames[frame][at] ^= bits;
        }
        for (frame, less) in &short {
            let frame = frame.index(frames.len());
            let len = frames[frame].len().saturating_sub(*less);
            frames[frame].truncate(len);
        }
        let out = cut_all(&coalesced(&frames));
        prop_assert_eq!(by_flow(&out), by_flow(&frames));
    }
}

/// Frames of each flow in order: of those that have ports, by addresses and ports.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&[u8]>> {
    let mut flows: BTreeMap<_, Vec<&[u8]>> = BTreeMap::new();
    for frame in frames {
        // Where the protocol is, and addresses with ports.
        let places = match frame.get(12..14) {
            Some([0x08, 0x00]) => Some((23, 26..38)),
            Some([0x86, 0xdd]) => Some((20, 22..58)),
            Some(_) | None => None,
        };
        let flow = places.and_then(|(protocol, ends)| {
            Some([&[*frame.get(protocol)?], frame.get(ends)?].concat())
        });
        flows
            .entry(flow.unwrap_or_default())
            .or_default()
            .push(frame);
    }
    flows
}
