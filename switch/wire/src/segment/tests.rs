//! Superframes of every shape are cut, and each segment is read by etherparse, which knows nothing of us.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::frame::Offload;
use crate::layout::Addresses;

/// What a superframe is made of. Lengths in bytes, options in words.
#[derive(Clone, Debug)]
struct Shape {
    tags: usize,
    v6: bool,
    udp: bool,
    ip_options: usize,
    extensions: usize,
    tcp_options: usize,
    payload: usize,
    size: u16,
    flags: u8,
    ecn: bool,
    id: u16,
    sequence: u32,
    seed: u8,
}

fn shapes() -> impl Strategy<Value = Shape> {
    let headers = (
        0usize..3,
        any::<bool>(),
        any::<bool>(),
        0usize..=10,
        0usize..4,
        0usize..=10,
    );
    let cut = (0usize..20_000, 16u16..2000, any::<u8>(), any::<bool>());
    let values = (any::<u16>(), any::<u32>(), any::<u8>());
    (headers, cut, values).prop_map(|(headers, cut, (id, sequence, seed))| {
        let (tags, v6, udp, ip_options, extensions, tcp_options) = headers;
        let (payload, size, flags, ecn) = cut;
        let ecn = ecn && !udp;
        Shape {
            tags,
            v6,
            udp,
            ip_options,
            extensions,
            tcp_options,
            payload,
            size,
            flags,
            ecn,
            id,
            sequence,
            seed,
        }
    })
}

/// A superframe as a container's kernel leaves it, and where its headers are.
struct Built {
    bytes: Vec<u8>,
    offload: Offload,
    network: usize,
    transport: usize,
    header_len: usize,
}

fn build(shape: &Shape) -> Built {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in 0..shape.tags {
        bytes.extend([0x81, 0x00, 0x20, u8::try_from(tag).unwrap() + 1]);
    }
    bytes.extend(if shape.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    let network = bytes.len();
    let protocol = if shape.udp { 17 } else { 6 };
    if shape.v6 {
        ipv6(&mut bytes, shape, protocol)
    } else {
        ipv4(&mut bytes, shape, protocol)
    }
    let transport = bytes.len();
    transport_header(&mut bytes, shape);
    let header_len = bytes.len();
    bytes.extend(
        (0..=u8::MAX)
            .cycle()
            .map(|at| at.wrapping_mul(31) ^ shape.seed)
            .take(shape.payload),
    );
    let total = u16::try_from(bytes.len() - network).unwrap();
    if shape.v6 {
        put16(&mut bytes, network + 4, total - 40);
    } else {
        put16(&mut bytes, network + 2, total);
    }
    let kind = match (shape.udp, shape.v6) {
        (true, _) => GsoKind::Udp,
        (false, true) => GsoKind::Tcp6,
        (false, false) => GsoKind::Tcp4,
    };
    let gso = Gso {
        kind,
        size: shape.size.try_into().unwrap(),
        ecn: shape.ecn,
    };
    let start = u16::try_from(transport).unwrap();
    let checksum = PartialChecksum {
        start,
        offset: if shape.udp { 6 } else { 16 },
    };
    let offload = Offload {
        checksum: Some(checksum),
        gso: Some(gso),
    };
    Built {
        bytes,
        offload,
        network,
        transport,
        header_len,
    }
}

fn transport_header(bytes: &mut Vec<u8>, shape: &Shape) {
    bytes.extend([0x9c, 0x40, 0x00, 0x50]);
    if shape.udp {
        bytes.extend([0xff, 0xff, 0, 0]); // a length that nobody relies on
    } else {
        bytes.extend(shape.sequence.to_be_bytes());
        let words = u8::try_from(5 + shape.tcp_options).unwrap();
        bytes.extend([0, 0, 0, 9, words << 4, shape.flags, 0x10, 0, 0, 0, 0, 0]);
        bytes.extend([1].repeat(4 * shape.tcp_options));
    }
}

fn ipv4(bytes: &mut Vec<u8>, shape: &Shape, protocol: u8) {
    let [high, low] = shape.id.to_be_bytes();
    let words = u8::try_from(5 + shape.ip_options).unwrap();
    bytes.extend([
        0x40 | words,
        2,
        0,
        0,
        high,
        low,
        0x40,
        0,
        64,
        protocol,
        0,
        0,
    ]);
    bytes.extend([10, 0, 0, 1, 10, 0, 0, shape.seed]);
    bytes.extend([1].repeat(4 * shape.ip_options));
}

fn ipv6(bytes: &mut Vec<u8>, shape: &Shape, protocol: u8) {
    let next = if shape.extensions > 0 { 60 } else { protocol };
    bytes.extend([0x60, 0x20, 0, 1, 0, 0, next, 64, 0xfd]);
    bytes.extend([0; 14]);
    bytes.extend([1, 0xfd, shape.seed]);
    bytes.extend([0; 13]);
    bytes.push(2);
    for left in (0..shape.extensions).rev() {
        let next = if left > 0 { 60 } else { protocol };
        bytes.extend([next, 1, 1, 12]);
        bytes.extend([0; 12]);
    }
}

/// All segments as a wire would see them.
fn cut(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    cut_by(&SegmentPlan::new(frame).unwrap(), frame)
}

fn cut_by(plan: &SegmentPlan, frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let segment = |i| {
        let mut bytes = vec![0xee; MAX_HEADER_LEN];
        plan.write_header(frame, i, &mut bytes);
        assert!(bytes[plan.header_len()..].iter().all(|byte| *byte == 0xee));
        bytes.truncate(plan.header_len());
        bytes.extend(&frame.bytes[plan.payload(i)]);
        assert_eq!(bytes.len(), plan.wire_len(i));
        bytes
    };
    (0..plan.count()).map(segment).collect()
}

/// The transport of a segment whose IP header and transport checksum etherparse finds right.
fn verified(bytes: &[u8]) -> TransportSlice<'_> {
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    let (net, transport) = (packet.net.unwrap(), packet.transport.unwrap());
    match (&net, &transport) {
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            let sum = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
            same_sum(tcp.checksum(), sum.unwrap());
        }
        (NetSlice::Ipv6(ip), TransportSlice::Tcp(tcp)) => {
            let sum = tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination());
            same_sum(tcp.checksum(), sum.unwrap());
        }
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let ip = ip.header().to_header();
            let sum = udp
                .to_header()
                .calc_checksum_ipv4(&ip, udp.payload())
                .unwrap();
            assert_eq!(udp.checksum(), sum);
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let ip = ip.header().to_header();
            let sum = udp
                .to_header()
                .calc_checksum_ipv6(&ip, udp.payload())
                .unwrap();
            assert_eq!(udp.checksum(), sum);
        }
        other => panic!("neither TCP nor UDP: {other:?}"),
    }
    if let NetSlice::Ipv4(ip) = &net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    transport
}

/// In a TCP checksum all ones and zero are the same number.
fn same_sum(ours: u16, theirs: u16) {
    assert_eq!(ours, if theirs == 0 { 0xffff } else { theirs });
}

fn check_tcp(shape: &Shape, segments: &[Vec<u8>]) {
    for (i, bytes) in segments.iter().enumerate() {
        let TransportSlice::Tcp(tcp) = verified(bytes) else {
            panic!("not TCP")
        };
        let advance = u32::try_from(i * usize::from(shape.size)).unwrap();
        assert_eq!(tcp.sequence_number(), shape.sequence.wrapping_add(advance));
        let last = i + 1 == segments.len();
        assert_eq!(tcp.fin(), last && shape.flags & 0x01 != 0, "FIN of {i}");
        assert_eq!(tcp.psh(), last && shape.flags & 0x08 != 0, "PSH of {i}");
        let cwr = shape.flags & 0x80 != 0 && (i == 0 || !shape.ecn);
        assert_eq!(tcp.cwr(), cwr, "CWR of {i}");
        let others = (tcp.syn(), tcp.rst(), tcp.ack(), tcp.urg(), tcp.ece());
        let set = |bit| shape.flags & bit != 0;
        assert_eq!(
            others,
            (set(0x02), set(0x04), set(0x10), set(0x20), set(0x40))
        );
        assert_eq!(tcp.options().len(), 4 * shape.tcp_options);
    }
}

proptest! {
    #[test]
    fn every_superframe_becomes_the_frames_it_stands_for(shape in shapes()) {
        let built = build(&shape);
        let frame = FrameRef { tail: crate::Tail::NONE, bytes: &built.bytes, offload: built.offload };
        let segments = cut(frame);
        let whole: Vec<u8> =
            segments.iter().flat_map(|bytes| &bytes[built.header_len..]).copied().collect();
        prop_assert_eq!(&whole[..], &built.bytes[built.header_len..]);
        let size = usize::from(shape.size);
        for (i, bytes) in segments.iter().enumerate() {
            let payload = bytes.len() - built.header_len;
            prop_assert!(payload == size || (i + 1 == segments.len() && payload <= size));
            prop_assert_eq!(&bytes[..built.network], &built.bytes[..built.network]);
            if !shape.v6 {
                let id = u16::from_be_bytes([bytes[built.network + 4], bytes[built.network + 5]]);
                prop_assert_eq!(id, shape.id.wrapping_add(u16::try_from(i).unwrap()));
            }
        }
        if shape.udp {
            for bytes in &segments {
                let TransportSlice::Udp(udp) = verified(bytes) else { panic!("not UDP") };
                prop_assert_eq!(usize::from(udp.length()), bytes.len() - built.transport);
            }
        } else {
            check_tcp(&shape, &segments);
        }
    }

    /// The same as if its sender had asked for smaller segments, where that is his to leave to us.
    #[test]
    fn a_narrow_way_gets_smaller_segments_of_tcp_and_a_refusal_of_others(
        shape in shapes(),
        limit in 0usize..2200,
    ) {
        let built = build(&shape);
        let frame = FrameRef::new(&built.bytes, built.offload);
        let size = usize::from(shape.size).min(shape.payload);
        let (len, room) = (built.header_len + size, limit.saturating_sub(built.header_len));
        match SegmentPlan::with_limit(frame, limit) {
            Err(error) => {
                prop_assert_eq!(error, SegmentError::TooLong { len, limit });
                prop_assert!(len > limit);
                prop_assert!(shape.udp || room == 0 || shape.payload.div_ceil(room) > MAX_SEGMENTS);
            }
            Ok(plan) if len <= limit => prop_assert_eq!(cut_by(&plan, frame), cut(frame)),
            Ok(plan) => {
                prop_assert!(!shape.udp);
                let size = u16::try_from(room).unwrap();
                let asked = Shape { size, ..shape };
                let same = build(&asked);
                let segments = cut_by(&plan, frame);
                check_tcp(&asked, &segments);
                prop_assert_eq!(segments, cut(FrameRef::new(&same.bytes, same.offload)));
            }
        }
    }

    #[test]
    fn an_unfinished_checksum_is_finished(shape in shapes()) {
        let mut built = build(&shape);
        let transport_len = u16::try_from(built.bytes.len() - built.transport).unwrap();
        if shape.udp {
            put16(&mut built.bytes, built.transport + 4, transport_len);
        }
        if !shape.v6 {
            let header = &mut built.bytes[built.network..built.transport];
            let checksum = Sum::of(header).finish();
            put16(header, 10, checksum);
        }
        let layout = Layout::of(&built.bytes).unwrap().unwrap();
        let field = built.transport + if shape.udp { 6 } else { 16 };
        put16(&mut built.bytes, field, layout.pseudo_header(transport_len).folded());
        let offload = Offload { gso: None, ..built.offload };
        let frames = cut(FrameRef { tail: crate::Tail::NONE, bytes: &built.bytes, offload });
        prop_assert_eq!(frames.len(), 1);
        verified(&frames[0]);
        built.bytes[field..field + 2].copy_from_slice(&frames[0][field..field + 2]);
        prop_assert_eq!(&frames[0], &built.bytes);
    }
}

fn plain_shape() -> Shape {
    Shape {
        tags: 0,
        v6: false,
        udp: false,
        ip_options: 0,
        extensions: 0,
        tcp_options: 3,
        payload: 4000,
        size: 1448,
        flags: 0x99,
        ecn: true,
        id: 0xffff,
        sequence: u32::MAX - 5,
        seed: 3,
    }
}

#[test]
fn a_finished_frame_goes_out_as_it_is() {
    for bytes in [&[][..], &[1, 2, 3], &build(&plain_shape()).bytes] {
        let frame = FrameRef::plain(bytes);
        let plan = SegmentPlan::new(frame).unwrap();
        assert_eq!((plan.count(), plan.header_len()), (1, 0));
        assert_eq!(
            (plan.payload(0), plan.wire_len(0)),
            (0..bytes.len(), bytes.len())
        );
        assert!(plan.payload(1).is_empty());
        plan.write_header(frame, 0, &mut []);
    }
}

#[test]
fn a_superframe_that_fits_in_one_segment_is_one() {
    for (payload, count) in [(0, 1), (1, 1), (1448, 1), (1449, 2)] {
        for udp in [false, true] {
            let shape = Shape {
                payload,
                udp,
                ecn: false,
                ..plain_shape()
            };
            let built = build(&shape);
            let frames = cut(FrameRef {
                tail: crate::Tail::NONE,
                bytes: &built.bytes,
                offload: built.offload,
            });
            assert_eq!(frames.len(), count, "{payload}");
            for bytes in &frames {
                verified(bytes);
            }
        }
    }
}

#[test]
fn the_largest_superframe_with_the_longest_headers_is_cut() {
    let (ip_options, tcp_options, payload, tags) = (10, 10, 65_535 - 120, 3);
    let shape = Shape {
        ip_options,
        tcp_options,
        payload,
        tags,
        ..plain_shape()
    };
    let built = build(&shape);
    let frames = cut(FrameRef {
        tail: crate::Tail::NONE,
        bytes: &built.bytes,
        offload: built.offload,
    });
    check_tcp(&shape, &frames);
    assert_eq!(frames.len(), 46);
}

#[test]
fn with_segments_left_the_sender_s_own_sum_is_carried_on() {
    let shape = Shape {
        v6: true,
        extensions: 1,
        ..plain_shape()
    };
    let mut built = build(&shape);
    // A type 2 routing header (RFC 6275) in place of the options, with the final destination fd00::77.
    built.bytes[built.network + 6] = 43;
    let routing = built.network + 40;
    let mut header = vec![6, 2, 2, 1, 0, 0, 0, 0, 0xfd];
    header.extend([0; 14]);
    header.push(0x77);
    built.bytes.splice(routing..routing + 16, header);
    let (transport, header_len) = (built.transport + 8, built.header_len + 8);
    put16(
        &mut built.bytes,
        built.network + 4,
        u16::try_from(transport - routing + 32 + 4000).unwrap(),
    );
    let end = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x77);
    let layout = Layout::of(&built.bytes).unwrap().unwrap();
    assert!(layout.in_transit);
    let Addresses::V6 { source, .. } = layout.addresses else {
        panic!("not IPv6")
    };
    let pseudo = |len: usize| {
        let len = u32::try_from(len).unwrap();
        crate::checksum::pseudo_header_v6(source, end, layout.protocol, len)
    };
    let whole = pseudo(built.bytes.len() - transport).folded();
    put16(&mut built.bytes, transport + 16, whole);
    let start = u16::try_from(transport).unwrap();
    let checksum = Some(PartialChecksum { start, offset: 16 });
    let offload = Offload {
        checksum,
        ..built.offload
    };
    let frames = cut(FrameRef {
        tail: crate::Tail::NONE,
        bytes: &built.bytes,
        offload,
    });
    assert_eq!(frames.len(), 3);
    for bytes in frames {
        assert!(bytes.len() > header_len);
        let sum = pseudo(bytes.len() - transport).and(&bytes[transport..]);
        assert_eq!(sum.finish(), 0);
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_all_ones() {
    let shape = Shape {
        udp: true,
        ecn: false,
        payload: 2,
        ..plain_shape()
    };
    let Built {
        mut bytes,
        offload,
        network,
        transport,
        header_len,
    } = build(&shape);
    put16(&mut bytes, transport + 4, 10);
    let checksum = Sum::of(&bytes[network..transport]).finish();
    put16(&mut bytes, network + 10, checksum);
    let pseudo = Layout::of(&bytes).unwrap().unwrap().pseudo_header(10);
    put16(&mut bytes, transport + 6, pseudo.folded());
    // What is missing to the sum being all ones, as payload.
    put16(&mut bytes, header_len, 0);
    let missing = Sum::of(&bytes[transport..]).finish();
    put16(&mut bytes, header_len, missing);
    for offload in [
        offload,
        Offload {
            gso: None,
            ..offload
        },
    ] {
        let frames = cut(FrameRef {
            tail: crate::Tail::NONE,
            bytes: &bytes,
            offload,
        });
        assert_eq!(frames[0][transport + 6..][..2], [0xff, 0xff]);
        verified(&frames[0]);
    }
}

#[test]
fn headers_beyond_the_limit_are_refused() {
    let shape = Shape {
        v6: true,
        extensions: 8,
        tcp_options: 10,
        ..plain_shape()
    };
    let Built {
        mut bytes,
        offload,
        network,
        transport,
        header_len,
    } = build(&shape);
    assert!(
        SegmentPlan::new(FrameRef {
            tail: crate::Tail::NONE,
            bytes: &bytes,
            offload
        })
        .is_ok()
    );
    // The first extension header grows by 16 bytes.
    let extension = network + 40;
    bytes[extension + 1] += 2;
    bytes.splice(extension + 16..extension + 16, [0; 16]);
    let payload_len = u16::try_from(bytes.len() - extension).unwrap();
    put16(&mut bytes, network + 4, payload_len);
    let start = u16::try_from(transport + 16).unwrap();
    let checksum = Some(PartialChecksum { start, offset: 16 });
    let offload = Offload {
        checksum,
        ..offload
    };
    let plan = SegmentPlan::new(FrameRef {
        tail: crate::Tail::NONE,
        bytes: &bytes,
        offload,
    });
    let len = header_len + 16;
    assert_eq!(plan.map(|_| ()), Err(SegmentError::HeaderTooLong { len }));
}

#[test]
fn a_single_frame_beyond_the_limit_is_refused() {
    let bytes = [0; 1514];
    let frame = FrameRef::plain(&bytes);
    assert!(SegmentPlan::with_limit(frame, 1514).is_ok());
    let (len, limit) = (1514, 1513);
    let refused = SegmentPlan::with_limit(frame, limit).err();
    assert_eq!(refused, Some(SegmentError::TooLong { len, limit }));
}

#[test]
fn a_single_unfinished_segment_beyond_the_limit_is_cut_like_a_superframe() {
    let built = build(&Shape {
        payload: 1448,
        ..plain_shape()
    });
    let offload = Offload {
        gso: None,
        ..built.offload
    };
    let (frame, len) = (FrameRef::new(&built.bytes, offload), built.bytes.len());
    let limit = len - 100;
    let plan = SegmentPlan::with_limit(frame, limit).unwrap();
    assert_eq!(plan.count(), 2);
    let headers = len - 1448;
    let mut stream = Vec::new();
    for index in 0..plan.count() {
        let mut segment = vec![0; plan.header_len()];
        plan.write_header(frame, index, &mut segment);
        segment.extend_from_slice(&built.bytes[plan.payload(index)]);
        assert!(segment.len() <= limit, "{}", segment.len());
        stream.extend_from_slice(&segment[headers..]);
    }
    assert_eq!(stream, built.bytes[headers..]);
}
