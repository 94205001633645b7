use std::sync::Arc;

use proptest::prelude::*;
use weft_switch::port::{Queue, RECV_BUFFER_LEN, service_pair};
use weft_wire::{FrameRef, Mtu};

use super::super::answer::{fragments, whole_packet};
use super::super::inside::NetworkSpec;
use super::super::packet::NoPacket;
use super::super::reassembly::Reassembly;
use super::*;
use crate::model::Egress;

#[test]
fn replies_and_errors_are_told_apart() {
    let mut reply = vec![
        0x45, 0, 0, 31, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 10, 0, 0, 1,
    ];
    reply.extend([0, 0, 0, 0, 0x12, 0x34, 0, 7, b'a', b'b', b'c']);
    let rest: &[u8] = &[0, 7, b'a', b'b', b'c'];
    assert_eq!(
        hear(V4, &reply),
        Some(Heard::Reply {
            identifier: 0x1234,
            rest
        })
    );
    let mut quoted = vec![0; 40];
    quoted[6] = 58;
    quoted[39] = 9;
    quoted.extend([128, 0, 0, 0, 0x12, 0x34, 0, 1]);
    let error = [&[3, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    let expected = Heard::Error {
        identifier: 0x1234,
        sequence: [0, 1],
        error: IcmpError {
            kind: 3,
            code: 0,
            rest: 0,
        },
        to: "::9".parse().unwrap(),
    };
    assert_eq!(hear(V6, &error), Some(expected));
    quoted[40] = 129;
    let error = [&[3, 0, 0, 0, 0, 0, 0, 0][..], &quoted].concat();
    assert_eq!(hear(V6, &error), None, "about a reply");
}

proptest! {
    #[test]
    fn any_bytes_are_survived(v6: bool, bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
        hear(if v6 { V6 } else { V4 }, &bytes);
    }
}

const MTU: usize = 1280;

/// A network that has no way out, and what its gateway sends.
fn network(gateway: IpAddr) -> (Inside, Queue) {
    let (ours, theirs) = service_pair().unwrap();
    let spec = NetworkSpec {
        gateways: vec![gateway],
        mtu: Mtu::new(1280).unwrap(),
        way: Egress::Off,
    };
    let inside = Inside::new(ours, spec, Arc::default(), Instant::now());
    (inside, theirs)
}

/// A request of a container to its gateway, with the checksum that it should have plus `off`.
fn request(ends: &Ends, data: &[u8], off: u16) -> (IpProtocol, Vec<u8>) {
    let rest = [&[0x12, 0x34, 0, 7][..], data].concat();
    let (protocol, mut message) = echo_reply(ends, &rest);
    message[0] = if protocol == IpProtocol::ICMP4 {
        8
    } else {
        128
    };
    message[2..4].copy_from_slice(&[0, 0]);
    let sum =
        super::super::packet::pseudo_header(ends.source, ends.destination, protocol, message.len());
    let sum = if ends.source.is_ipv4() {
        Sum::ZERO
    } else {
        sum
    };
    let checksum = sum.and(&message).finish().wrapping_add(off).to_be_bytes();
    message[2..4].copy_from_slice(&checksum);
    (protocol, message)
}

/// The packet in `frames`, once it is whole.
fn put_together(frames: &[Vec<u8>]) -> Option<(IpProtocol, Vec<u8>)> {
    let mut reassembly = Reassembly::default();
    let mut whole = None;
    for frame in frames {
        assert!(frame.len() <= 14 + MTU, "{} bytes", frame.len());
        match Packet::parse(&FrameRef::plain(frame)) {
            Err(NoPacket::Fragment(part)) => {
                let upper = reassembly.handle(1, &part, Instant::now()).unwrap();
                whole = upper.map(|upper| (part.protocol, upper));
            }
            other => panic!("{other:?}"),
        }
    }
    whole
}

fn sent(queue: &Queue) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; RECV_BUFFER_LEN];
    let mut frames = Vec::new();
    while let Ok(frame) = queue.recv(&mut buffer) {
        frames.push(frame.bytes.to_vec());
    }
    frames
}

#[test]
fn a_ping_in_fragments_is_answered_in_fragments() {
    for (container, gateway) in [("10.1.0.2", "10.1.0.1"), ("fd00::2", "fd00::1")] {
        let (inside, queue) = network(gateway.parse().unwrap());
        let asks = Ends {
            source_mac: MacAddr([2, 0, 0, 0, 0, 9]),
            mac: GATEWAY_MAC,
            source: container.parse().unwrap(),
            destination: gateway.parse().unwrap(),
        };
        let data: Vec<u8> = (0..3000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut echo = Echo::default();
        let mut ask = |off: u16| {
            let (protocol, message) = request(&asks, &data, off);
            // As it comes: one frame after the other.
            let frames = fragments(&asks, protocol, &message, MTU, 5);
            let (protocol, upper) = put_together(&frames).unwrap();
            let ip = whole_packet((asks.source, asks.destination), protocol, &upper);
            let last = match Packet::parse(&FrameRef::plain(frames.last().unwrap())) {
                Err(NoPacket::Fragment(last)) => last,
                other => panic!("{other:?}"),
            };
            let packet = Packet::reassembled(&last, &ip);
            assert!(Echo::is_request(&packet));
            echo.answer(&inside, &packet);
            sent(&queue)
        };
        let frames = ask(0);
        assert_eq!(frames.len(), 3);
        let back = Ends {
            source_mac: GATEWAY_MAC,
            mac: asks.source_mac,
            source: asks.destination,
            destination: asks.source,
        };
        let rest = [&[0x12, 0x34, 0, 7][..], &data].concat();
        assert_eq!(put_together(&frames), Some(echo_reply(&back, &rest)));
        let head = Packet::parse(&FrameRef::plain(&frames[0]));
        let Err(NoPacket::Fragment(first)) = head else {
            panic!("{head:?}")
        };
        assert_eq!(
            (first.source, first.destination),
            (back.source, back.destination)
        );
        assert_eq!(frames[0][..6], back.mac.octets());
        // A wrong one is counted and not answered.
        assert_eq!(ask(1), Vec::<Vec<u8>>::new());
        let refused: Vec<_> = inside.counters.refused().collect();
        assert_eq!(refused, [("bad_checksum", 1)]);
    }
}
