use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use weft_wire::{FrameRef, SegmentPlan, TcpFlags};

use super::super::packet::Packet;
use super::*;

fn flow(v6: bool) -> (Ends, FlowKey) {
    let (inside, outside) = match v6 {
        false => ("10.1.0.2:4000", "192.0.2.7:53"),
        true => ("[fd00::2]:4000", "[2001:db8::7]:53"),
    };
    let key = FlowKey {
        inside: inside.parse().unwrap(),
        outside: outside.parse().unwrap(),
    };
    (Ends::inward(&key, MacAddr([2, 0, 0, 0, 0, 9])), key)
}

/// The frame as its container's kernel would see it: cut, checksums finished.
fn finished(head: &Head, payload: &[u8]) -> Vec<Vec<u8>> {
    let bytes = [head.bytes(), payload].concat();
    let frame = FrameRef::new(&bytes, head.offload);
    let plan = SegmentPlan::new(frame).unwrap();
    let frames = (0..plan.count()).map(|i| {
        let mut header = vec![0; plan.header_len()];
        plan.write_header(frame, i, &mut header);
        [&header, &bytes[plan.payload(i)]].concat()
    });
    frames.collect()
}

#[test]
fn datagrams_are_what_another_stack_takes() {
    for v6 in [false, true] {
        let (ends, key) = flow(v6);
        let payload = vec![7; 3000];
        let head = Head::udp(&ends, &key, payload.len(), NonZeroU16::new(1000));
        let frames = finished(&head, &payload);
        assert_eq!(frames.len(), 3);
        for frame in frames {
            // The parser verifies addresses, ports, lengths and checksum.
            let mut packet = Packet::parse(&FrameRef::plain(&frame)).unwrap();
            packet.unfinished = false;
            assert_eq!(packet.udp(), Ok((53, 4000, &payload[..1000])));
            assert_eq!(
                (packet.source, packet.destination),
                (ends.source, ends.destination)
            );
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            assert!(matches!(sliced.transport, Some(TransportSlice::Udp(_))));
        }
    }
}

#[test]
fn fragments_are_put_together_to_the_datagram() {
    for v6 in [false, true] {
        let (ends, key) = flow(v6);
        let payload: Vec<u8> = (0..4000u32)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let datagram = datagram(&ends, &key, &payload);
        let frames = fragments(&ends, IpProtocol::UDP, &datagram, 1280, 77);
        assert_eq!(frames.len(), 4);
        let mut upper = vec![0; 8 + payload.len()];
        let (mut seen, mut last) = (0, false);
        for frame in &frames {
            assert!(frame.len() <= 14 + 1280);
            let sliced = SlicedPacket::from_ethernet(frame).unwrap();
            let net = sliced.net.unwrap();
            let payload = net.ip_payload_ref().unwrap().payload;
            let (offset, more) = match &net {
                NetSlice::Ipv4(ip) => (
                    usize::from(ip.header().fragments_offset().byte_offset()),
                    ip.header().more_fragments(),
                ),
                NetSlice::Ipv6(_) => {
                    let place = u16::from_be_bytes([frame[14 + 42], frame[14 + 43]]);
                    (usize::from(place & !7), place & 1 == 1)
                }
                NetSlice::Arp(_) => unreachable!(),
            };
            upper[offset..offset + payload.len()].copy_from_slice(payload);
            seen += payload.len();
            last |= !more;
        }
        assert!(last);
        assert_eq!(seen, upper.len());
        let whole = whole_frame(&ends, IpProtocol::UDP, &upper);
        let packet = Packet::parse(&FrameRef::plain(&whole)).unwrap();
        assert_eq!(packet.udp(), Ok((53, 4000, &payload[..])));
    }
}

#[test]
fn an_error_quotes_what_was_sent_and_is_not_too_long() {
    for v6 in [false, true] {
        let (ends, key) = flow(v6);
        let quoted = quote(&key, IpProtocol::UDP, ports(&key, 0), 5000);
        assert_eq!(quoted.len(), if v6 { 48 } else { 28 });
        let error = IcmpError::port_unreachable(ends.destination);
        let frame = error.frame(&ends, &quoted);
        let packet = Packet::parse(&FrameRef::plain(&frame)).unwrap();
        let expected: &[u8] = if v6 { &[1, 4] } else { &[3, 3] };
        assert_eq!(&packet.upper[..2], expected);
        assert_eq!(&packet.upper[8..], quoted);
        let checked = match v6 {
            true => packet.verify(packet.upper).is_ok(),
            false => Sum::of(packet.upper).finish() == 0,
        };
        assert!(checked);
        let long = error.frame(&ends, &[0; 9000]);
        assert_eq!(long.len(), 14 + if v6 { 1280 } else { 576 });
    }
}

#[test]
fn an_echo_reply_keeps_identifier_and_data() {
    let (ends, _) = flow(true);
    let (protocol, message) = echo_reply(&ends, &[1, 2, 0, 9, b'x']);
    let frame = whole_frame(&ends, protocol, &message);
    let packet = Packet::parse(&FrameRef::plain(&frame)).unwrap();
    assert_eq!(packet.upper[0], 129);
    assert_eq!(&packet.upper[4..], [1, 2, 0, 9, b'x']);
    assert_eq!(packet.verify(packet.upper), Ok(()));
}

#[test]
fn a_reset_without_payload_is_complete() {
    let (ends, key) = flow(false);
    let segment = Segment::reset(7, 9, TcpFlags::RST);
    let head = Head::tcp(&ends, &key, &segment);
    let frames = finished(&head, &[]);
    let packet = Packet::parse(&FrameRef::plain(&frames[0])).unwrap();
    let tcp = packet.tcp().unwrap();
    assert_eq!((tcp.sequence(), tcp.acknowledgment()), (7, 9));
    assert_eq!((tcp.source_port(), tcp.flags()), (53, TcpFlags::RST));
}
