//! What the fuzz targets (testbed/fuzz) run on their input, here so that `cargo test` replays the corpus through the
//! same functions. Not for use by weft itself: a broken promise of this crate panics.

use std::collections::BTreeMap;

use crate::checksum::Sum;
use crate::error::WireError;
use crate::ethernet::EthernetFrame;
use crate::frame::{FrameRef, Gso, GsoKind, Offload, PartialChecksum};
use crate::layout::Layout;
use crate::segment::{MAX_HEADER_LEN, SegmentPlan};
use crate::vnet::{VNET_HDR_LEN, VnetHdr};
use crate::{
    Arp, Coalescer, DatagramRun, Icmp4, Icmp6, IpProtocol, Ipv4, Ipv6, Loopback, Mtu, Tcp, Udp,
    VxlanHeader, flow_hash,
};

/// Every view over the frame and over every layer it finds.
///
/// # Panics
/// If a view shows bytes that are not the frame's.
pub fn frame_views(data: &[u8]) {
    flow_hash(data);
    if let Some(answer) = crate::too_big(data, Mtu::ETHERNET) {
        assert_eq!(crate::too_big(&answer, Mtu::ETHERNET), None);
    }
    route(data);
    if let Some(clamped) = crate::clamp_mss(FrameRef::plain(data), data.len()) {
        assert_eq!(clamped.len(), data.len());
        assert_eq!(
            crate::clamp_mss(FrameRef::plain(&clamped), data.len()),
            None
        );
    }
    let _ = Arp::new(data).map(|arp| arp.message());
    let _ = Icmp4::new(data).map(|icmp| (icmp.message_type(), icmp.payload().len()));
    let _ = Icmp6::new(data).and_then(|icmp| icmp.neighbor());
    let Ok(frame) = EthernetFrame::new(data) else {
        return;
    };
    assert_eq!(frame.payload_offset() + frame.payload().len(), data.len());
    let _ = frame
        .vlan()
        .map(|tci| (tci.id(), tci.priority(), tci.drop_eligible()));
    let _ = Arp::new(frame.payload()).map(|arp| arp.message().answer(frame.source()).to_frame());
    let _ = look_at_ipv4(frame.payload());
    let _ = look_at_ipv6(frame.payload());
}

/// A router passes a frame on with a hop less to live, or leaves it as it is and says why.
fn route(data: &[u8]) {
    let rewrite = crate::Rewrite {
        source: crate::MacAddr::ZERO,
        destination: crate::MacAddr::BROADCAST,
    };
    let mut passed = data.to_vec();
    if !rewrite.apply(&mut passed) {
        assert_eq!(passed, data);
    }
    assert_eq!(passed.len(), data.len());
    for router in [None, Some([0; 4].into()), Some([0; 16].into())] {
        let answer = crate::icmp_error(data, router, crate::IcmpError::TimeExceeded);
        if let Some(answer) = answer {
            let again = crate::icmp_error(&answer, router, crate::IcmpError::NoRoute);
            assert_eq!(again, None);
        }
    }
}

fn look_at_ipv4(bytes: &[u8]) -> Result<(), WireError> {
    let ip = Ipv4::new(bytes)?;
    assert_eq!(ip.header().len() + ip.payload().len(), ip.total_len());
    ip.checksum_is_valid();
    assert_eq!(
        ip.is_fragment(),
        ip.more_fragments() || ip.fragment_offset() > 0
    );
    look_at_transport(ip.payload())
}

fn look_at_ipv6(bytes: &[u8]) -> Result<(), WireError> {
    let ip = Ipv6::new(bytes)?;
    let upper = ip.upper_layer()?;
    assert!(upper.offset <= ip.total_len());
    let payload = ip.upper_payload(&upper);
    if let Ok(icmp) = Icmp6::new(payload) {
        icmp.checksum_is_valid(ip.source(), ip.destination());
        let _ = icmp.neighbor();
    }
    look_at_transport(payload)
}

fn look_at_transport(bytes: &[u8]) -> Result<(), WireError> {
    if let Ok(udp) = Udp::new(bytes) {
        assert!(udp.payload().len() + 8 <= bytes.len());
    }
    let tcp = Tcp::new(bytes)?;
    assert_eq!(20 + tcp.options().len() + tcp.payload().len(), bytes.len());
    Ok(())
}

/// The input is a vnet header and a frame: what is accepted can be cut, and what is cut is right.
///
/// # Panics
/// If an accepted frame can't be written back as it came, or a segment's lengths or checksum are wrong.
pub fn vnet_segment(data: &[u8]) {
    let Some((header, bytes)) = data.split_first_chunk::<VNET_HDR_LEN>() else {
        return;
    };
    let header = VnetHdr::parse(header);
    unchecked_offload(header, bytes);
    let Ok(offload) = header.offload(bytes) else {
        return;
    };
    let written = VnetHdr::from_offload(&offload, bytes);
    assert_eq!(written.offload(bytes), Ok(offload));
    assert!(usize::from(written.hdr_len) <= bytes.len());
    let frame = FrameRef {
        tail: crate::Tail::NONE,
        bytes,
        offload,
    };
    for limit in [usize::MAX, 1514, 576] {
        if let Ok(plan) = SegmentPlan::with_limit(frame, limit) {
            check_segments(frame, &plan);
            assert!(plan.wire_len(0) <= limit, "longer than {limit}");
        }
    }
}

/// An offload that nobody checked is refused or survived.
fn unchecked_offload(header: VnetHdr, bytes: &[u8]) {
    let kind = [GsoKind::Tcp4, GsoKind::Tcp6, GsoKind::Udp][usize::from(header.gso_type % 3)];
    let gso = header.gso_size.try_into().ok().map(|size| Gso {
        kind,
        size,
        ecn: false,
    });
    let checksum = PartialChecksum {
        start: header.csum_start,
        offset: header.csum_offset,
    };
    for (checksum, gso) in [(Some(checksum), gso), (Some(checksum), None), (None, gso)] {
        let frame = FrameRef {
            tail: crate::Tail::NONE,
            bytes,
            offload: Offload { checksum, gso },
        };
        let Ok(plan) = SegmentPlan::new(frame) else {
            continue;
        };
        plan.write_header(frame, plan.count() - 1, &mut [0; MAX_HEADER_LEN]);
    }
}

fn check_segments(frame: FrameRef<'_>, plan: &SegmentPlan) {
    let mut next = plan.header_len();
    for i in 0..plan.count() {
        let payload = plan.payload(i);
        assert_eq!(payload.start, next);
        assert_eq!(plan.wire_len(i), plan.header_len() + payload.len());
        next = payload.end;
        let mut header = [0; MAX_HEADER_LEN];
        plan.write_header(frame, i, &mut header);
        if frame.offload.gso.is_some() {
            let header = &header[..plan.header_len()];
            check_segment(frame, header, &frame.bytes[payload]);
        }
    }
    assert_eq!(next, frame.bytes.len());
    assert!(plan.payload(plan.count()).is_empty());
}

/// Lengths and checksum, as the receiver would verify them. With a routing header under way the sum is the sender's.
fn check_segment(frame: FrameRef<'_>, header: &[u8], payload: &[u8]) {
    let Ok(Some(layout)) = Layout::of(frame.bytes) else {
        unreachable!("the plan found one")
    };
    let transport_len = header.len() - layout.transport + payload.len();
    let packet_len = header.len() - layout.network + payload.len();
    let ip = &header[layout.network..layout.transport];
    let stated = if ip[0] >> 4 == 4 {
        assert_eq!(Sum::of(ip).finish(), 0, "IPv4 header checksum");
        usize::from(u16::from_be_bytes([ip[2], ip[3]]))
    } else {
        usize::from(u16::from_be_bytes([ip[4], ip[5]])) + 40
    };
    assert_eq!(stated, packet_len, "IP length");
    if layout.protocol == IpProtocol::UDP {
        let udp = &header[layout.transport..];
        assert_eq!(
            usize::from(u16::from_be_bytes([udp[4], udp[5]])),
            transport_len
        );
    }
    let Ok(len) = u16::try_from(transport_len) else {
        unreachable!("below the superframe's")
    };
    if !layout.in_transit {
        let sum = layout
            .pseudo_header(len)
            .and(&header[layout.transport..])
            .and(payload);
        assert_eq!(sum.finish(), 0, "transport checksum");
    }
}

/// Bytes of [`coalesce`]'s input for each change: frame, place, what is flipped.
const CHANGE_LEN: usize = 4;

/// The segments of an input that says how many changes follow, then has what [`vnet_segment`] takes; `None` if it is too
/// short for that.
fn changed_segments(data: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (count, rest) = data.split_first()?;
    let (changes, rest) = rest.split_at_checked(usize::from(*count) * CHANGE_LEN)?;
    let (header, bytes) = rest.split_first_chunk::<VNET_HDR_LEN>()?;
    let offload = VnetHdr::parse(header).offload(bytes);
    let frame = FrameRef::new(bytes, offload.unwrap_or_default());
    let mut frames = cut(frame).unwrap_or_else(|| vec![bytes.to_vec()]);
    for change in changes.as_chunks::<CHANGE_LEN>().0 {
        change_frame(&mut frames, *change);
    }
    Some(frames)
}

/// The input says how many changes follow, then comes what [`vnet_segment`] takes: its segments arrive changed, in two
/// networks by turns, and are merged. What comes out is cut again.
///
/// # Panics
/// If a frame is lost, doubled, changed or overtaken by one of its own flow and network.
pub fn coalesce(data: &[u8]) {
    let Some(frames) = changed_segments(data) else {
        return;
    };
    let keyed: Vec<_> = (0..).map(|i| i % 2).zip(frames).collect();
    for coalescer in [Coalescer::default(), Coalescer::default().with_datagrams()] {
        assert_eq!(by_flow(&merged(coalescer, &keyed)), by_flow(&keyed));
    }
}

/// The same input: its segments, changed, leave a container one after the other, those that are datagrams with
/// unfinished checksums. What is joined on the way is cut again.
///
/// # Panics
/// If a frame is lost, doubled, changed or overtaken.
pub fn datagrams(data: &[u8]) {
    let Some(frames) = changed_segments(data) else {
        return;
    };
    let frames: Vec<_> = frames.into_iter().map(unfinished).collect();
    let (mut run, mut out, mut wanted) = (DatagramRun::default(), Vec::new(), Vec::new());
    for (bytes, offload) in &frames {
        let frame = FrameRef::new(bytes, *offload);
        wanted.extend(on_the_wire(frame));
        if run.append(frame) {
            continue;
        }
        out.extend(run.frame().into_iter().flat_map(on_the_wire));
        run.clear();
        if !run.start(frame) {
            out.extend(on_the_wire(frame));
        }
    }
    out.extend(run.frame().into_iter().flat_map(on_the_wire));
    assert_eq!(out, wanted);
}

/// A datagram as the kernel that made it hands it over: its checksum is that of the pseudo header.
fn unfinished(mut bytes: Vec<u8>) -> (Vec<u8>, Offload) {
    let Ok(Some(layout)) = Layout::of(&bytes) else {
        return (bytes, Offload::default());
    };
    let len = u16::try_from(layout.end - layout.transport);
    let header = VnetHdr {
        flags: 1,
        csum_start: u16::try_from(layout.transport).unwrap_or(u16::MAX),
        csum_offset: 6,
        ..VnetHdr::default()
    };
    let (Ok(len), IpProtocol::UDP, Ok(offload)) = (len, layout.protocol, header.offload(&bytes))
    else {
        return (bytes, Offload::default());
    };
    let sum = layout.pseudo_header(len).folded();
    bytes[layout.transport + 6..][..2].copy_from_slice(&sum.to_be_bytes());
    (bytes, offload)
}

/// All segments of a frame, without identifications that mean nothing (RFC 6864 section 4.1: with DF, no fragment).
fn on_the_wire(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let mut segments = cut(frame).unwrap_or_else(|| vec![frame.bytes.to_vec()]);
    for bytes in &mut segments {
        let Ok(Some(layout)) = Layout::of(bytes) else {
            continue;
        };
        let header = &mut bytes[layout.network..layout.transport];
        let atomic = header[0] >> 4 == 4 && !layout.fragment && header[6] & 0x40 != 0;
        if atomic && Sum::of(header).finish() == 0 {
            header[4..6].fill(0);
            header[10..12].fill(0);
        }
    }
    segments
}

/// Flips bits of a byte; none mean that the frame comes twice, the highest of the place that the frame ends there.
fn change_frame(frames: &mut Vec<Vec<u8>>, [frame, high, low, bits]: [u8; CHANGE_LEN]) {
    let index = usize::from(frame) % frames.len();
    let place = usize::from(u16::from_be_bytes([high & 0x7f, low]));
    if bits == 0 {
        let again = frames[index].clone();
        frames.insert(index, again);
    } else if high & 0x80 != 0 {
        frames[index].truncate(place);
    } else if let Some(byte) = frames[index].get_mut(place) {
        *byte ^= bits;
    }
}

fn merged(mut coalescer: Coalescer<u8>, frames: &[(u8, Vec<u8>)]) -> Vec<(u8, Vec<u8>)> {
    let buffer: Vec<u8> = frames
        .iter()
        .flat_map(|(_, bytes)| bytes)
        .copied()
        .collect();
    let mut out = Vec::new();
    let mut sink = |key, frame: FrameRef<'_>| {
        let mut room = Vec::new();
        let segments = cut(frame.gathered(&mut room));
        out.extend(segments.into_iter().flatten().map(|bytes| (key, bytes)));
    };
    let mut start = 0;
    for (key, bytes) in frames {
        coalescer.push(&buffer, *key, start..start + bytes.len(), &mut sink);
        start += bytes.len();
    }
    coalescer.flush(&buffer, &mut sink);
    out
}

/// All segments of a frame.
fn cut(frame: FrameRef<'_>) -> Option<Vec<Vec<u8>>> {
    let plan = SegmentPlan::new(frame).ok()?;
    let segment = |i| {
        let mut header = [0; MAX_HEADER_LEN];
        plan.write_header(frame, i, &mut header);
        [&header[..plan.header_len()], &frame.bytes[plan.payload(i)]].concat()
    };
    Some((0..plan.count()).map(segment).collect())
}

type Flows<'f> = BTreeMap<(u8, u32), Vec<&'f [u8]>>;

fn by_flow(frames: &[(u8, Vec<u8>)]) -> Flows<'_> {
    let mut flows = Flows::new();
    for (key, bytes) in frames {
        let flow = flows.entry((*key, flow_hash(bytes))).or_default();
        flow.push(bytes);
    }
    flows
}

/// A UDP payload from a stranger.
///
/// # Panics
/// If an accepted header, written again, is not read the same.
pub fn vxlan(data: &[u8]) {
    if let Some(Loopback::Message { id }) = Loopback::parse(data) {
        let reply = Loopback::reply(id);
        assert_eq!(Loopback::parse(&reply), Some(Loopback::Reply { id }));
        assert!(reply.len() <= data.len() + 1);
    }
    let Ok((vni, inner)) = VxlanHeader::parse(data) else {
        return;
    };
    let again = VxlanHeader::to_bytes(vni);
    assert_eq!(VxlanHeader::parse(&again), Ok((vni, &[][..])));
    frame_views(inner);
}
