//! The law: what comes out of a coalescer, cut again, is what went in: byte for byte, each flow in order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::candidate::Kind;
use super::*;
use crate::segment::SegmentPlan;
use crate::tcp::TCP_HEADER_LEN;
use crate::udp::UDP_HEADER_LEN;

/// A TCP stream of one direction, or datagrams, as a container's kernel hands it over.
#[derive(Clone, Debug)]
struct Stream {
    v6: bool,
    udp: bool,
    port: u16,
    options: usize,
    payload: usize,
    size: u16,
    flags: u8,
    id: u16,
    sequence: u32,
}

impl Stream {
    fn kind(&self) -> Kind {
        match (self.udp, self.v6) {
            (false, false) => Kind::Tcp4,
            (false, true) => Kind::Tcp6,
            (true, false) => Kind::Udp4,
            (true, true) => Kind::Udp6,
        }
    }

    fn superframe(&self) -> (Vec<u8>, Offload) {
        let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        bytes.extend(if self.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let header = if self.udp {
            UDP_HEADER_LEN
        } else {
            TCP_HEADER_LEN + 4 * self.options
        };
        let (len, protocol) = (header + self.payload, if self.udp { 17 } else { 6 });
        if self.v6 {
            bytes.extend([0x60, 0x20, 0, 7]);
            bytes.extend(length16(len).to_be_bytes());
            bytes.extend([protocol, 64]);
            bytes.extend([0xfd; 32]);
        } else {
            bytes.extend([0x45, 2]);
            bytes.extend(length16(20 + len).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = Sum::of(&bytes[14..]).finish();
            put16(&mut bytes, 24, checksum);
        }
        let start = bytes.len();
        bytes.extend(self.port.to_be_bytes());
        bytes.extend([0, 80]);
        if self.udp {
            bytes.extend(length16(len).to_be_bytes());
            bytes.extend([0, 0]);
        } else {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend([0, 0, 1, 2]);
            let offset = u8::try_from((5 + self.options) << 4).unwrap();
            bytes.extend([offset, self.flags, 1, 0, 0, 0, 0, 0]);
            bytes.extend((0..4 * self.options).map(|i| u8::try_from(i).unwrap()));
        }
        bytes.extend((0..self.payload).map(|i| u8::try_from(i * 7 % 251).unwrap()));
        let kind = self.kind();
        let pseudo = kind.pseudo_header(&bytes, len).folded();
        put16(&mut bytes, start + kind.checksum(), pseudo);
        let gso = Gso {
            kind: kind.gso(),
            size: NonZeroU16::new(self.size).unwrap(),
            ecn: false,
        };
        let checksum = Some(PartialChecksum {
            start: length16(start),
            offset: length16(kind.checksum()),
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
    let out = coalesced_by_key(&mut Coalescer::default().with_datagrams(), &keyed);
    out.into_iter()
        .map(|(_, bytes, offload)| (bytes, offload))
        .collect()
}

fn coalesced_by_key(
    coalescer: &mut Coalescer<u8>,
    frames: &[(u8, Vec<u8>)],
) -> Vec<(u8, Vec<u8>, Offload)> {
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
    let mut start = 0;
    for (key, frame) in frames {
        coalescer.push(&buffer, *key, start..start + frame.len(), &mut sink);
        start += frame.len();
    }
    coalescer.flush(&buffer, &mut sink);
    assert!(coalescer.open.is_empty() && coalescer.runs.len() <= OPEN_RUNS);
    assert_eq!(
        coalescer.free.len(),
        coalescer.runs.len(),
        "memory of runs comes back"
    );
    out
}

fn cut_all(frames: &[(Vec<u8>, Offload)]) -> Vec<Vec<u8>> {
    let cut = |(bytes, offload): &(Vec<u8>, Offload)| cut(FrameRef::new(bytes, *offload));
    frames.iter().flat_map(cut).collect()
}

fn stream() -> impl Strategy<Value = Stream> {
    let shape = (
        any::<bool>(),
        any::<bool>(),
        1u16..4,
        0usize..=10,
        1usize..30_000,
    );
    let values = (500u16..2000, any::<bool>(), any::<u16>(), any::<u32>());
    (shape, values).prop_map(|(shape, (size, push, id, sequence))| Stream {
        v6: shape.0,
        udp: shape.1,
        port: shape.2,
        options: shape.3,
        payload: shape.4,
        size,
        flags: if push { 0x18 } else { 0x10 },
        id,
        sequence,
    })
}

fn example() -> Stream {
    Stream {
        v6: false,
        udp: false,
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
    let sum = Kind::Tcp4.pseudo_header(frame, len).and(&frame[34..]);
    put16(frame, 50, sum.finish_nonzero());
}

#[test]
fn segments_of_a_superframe_become_that_superframe() {
    for (v6, udp) in [(false, false), (true, false), (false, true), (true, true)] {
        let stream = Stream {
            v6,
            udp,
            ..example()
        };
        let (bytes, offload) = stream.superframe();
        assert_eq!(coalesced(&stream.segments()), [(bytes, offload)]);
    }
}

#[test]
fn datagrams_are_merged_only_where_that_is_asked_for() {
    for v6 in [false, true] {
        let stream = Stream {
            v6,
            udp: true,
            ..example()
        };
        let frames: Vec<_> = stream.segments().into_iter().map(|f| (0, f)).collect();
        let out = coalesced_by_key(&mut Coalescer::default(), &frames);
        assert_eq!(out.len(), frames.len());
        let asked = &mut Coalescer::default().with_datagrams();
        assert_eq!(coalesced_by_key(asked, &frames).len(), 1);
    }
}

#[test]
fn a_datagram_without_checksum_or_payload_is_not_merged_nor_overtaken() {
    let segments = Stream {
        udp: true,
        ..example()
    }
    .segments();
    let mut unchecked = segments[1].clone();
    put16(&mut unchecked, 40, 0);
    let mut empty = segments[1][..42].to_vec();
    put16(&mut empty, 16, 28);
    put16(&mut empty, 38, 8);
    put16(&mut empty, 24, 0);
    let checksum = Sum::of(&empty[14..34]).finish();
    put16(&mut empty, 24, checksum);
    for odd in [unchecked, empty] {
        let frames = [segments[0].clone(), odd, segments[2].clone()];
        let out: Vec<_> = coalesced(&frames).into_iter().map(|(f, _)| f).collect();
        assert_eq!(out, frames);
    }
}

#[test]
fn a_fragment_overtakes_nothing_of_its_network_and_ends_nothing_of_another() {
    let segments = example().segments();
    let mut fragment = segments[1].clone();
    fragment[20] |= 0x20;
    finish(&mut fragment);
    let frames = [
        (0, segments[0].clone()),
        (1, segments[0].clone()),
        (0, fragment.clone()),
        (0, segments[1].clone()),
        (1, segments[1].clone()),
    ];
    let out = coalesced_by_key(&mut Coalescer::default(), &frames);
    let whole =
        |(key, bytes, offload): &(u8, Vec<u8>, Offload)| (*key, bytes.len(), offload.gso.is_some());
    let out: Vec<_> = out.iter().map(whole).collect();
    let (one, two) = (segments[0].len(), segments[0].len() + 1398);
    let wanted = [
        (0, one, false),
        (0, fragment.len(), false),
        (1, two, true),
        (0, one, false),
    ];
    assert_eq!(out, wanted);
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
    let out = coalesced_by_key(&mut Coalescer::default(), &frames);
    assert_eq!(out.len(), frames.len());
}

#[test]
fn more_flows_than_there_is_room_for_lose_nothing() {
    let streams: Vec<_> = (0..100)
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

/// Frames of each flow in order: of those that have ports, by protocol, addresses and ports.
fn by_flow(frames: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<&[u8]>> {
    let mut flows: BTreeMap<_, Vec<&[u8]>> = BTreeMap::new();
    for frame in frames {
        let flow = match frame.get(12..14) {
            Some([0x08, 0x00]) => frame.get(23).zip(frame.get(26..38)),
            Some([0x86, 0xdd]) => frame.get(20).zip(frame.get(22..58)),
            Some(_) | None => None,
        };
        flows
            .entry(
                flow.map(|(protocol, rest)| [&[*protocol], rest].concat())
                    .unwrap_or_default(),
            )
            .or_default()
            .push(frame);
    }
    flows
}
