//! What the fuzz targets of the way out run on their input; see [`crate::fuzz`]. A broken promise panics.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use weft_switch::gateway::GATEWAY_MAC;
use weft_wire::{FrameRef, Gso, GsoKind, IpProtocol, MacAddr, Offload, PartialChecksum};

use super::answer::{Ends, IcmpError, whole_packet};
use super::echo::{self, Echo};
use super::packet::{Fragment, NoPacket, Packet};
use super::reassembly::Reassembly;
pub(crate) use super::tcp::fuzz_segments as segments;

/// The longest frame of an ICMP error: those of IPv6 fill 1,280 bytes.
const MAX_ERROR: usize = 14 + 1280;
/// Packets that a container sends in fragments at once.
const PACKETS: u8 = 4;
/// More than any reassembly waits.
const LONG: Duration = Duration::from_secs(60);

/// A frame to the way out: the first byte says what the switch says of it.
pub(crate) fn packet(data: &[u8]) {
    let [about, bytes @ ..] = data else { return };
    let checksum = (about & 1 != 0).then_some(PartialChecksum {
        start: 34,
        offset: 6,
    });
    let size = NonZeroU16::new(u16::from(*about) + 1);
    let gso = size.filter(|_| about & 2 != 0).map(|size| Gso {
        kind: GsoKind::Udp,
        size,
        ecn: false,
    });
    let frame = FrameRef {
        offload: Offload { checksum, gso },
        ..FrameRef::plain(bytes)
    };
    match Packet::parse(&frame) {
        Ok(packet) => inspect(&packet),
        Err(NoPacket::Fragment(fragment)) => {
            // Alone it is never a whole packet, unless it ends where it begins.
            let whole = Reassembly::default().handle(1, &fragment, Instant::now());
            if let Ok(Some(upper)) = whole {
                assert!(!fragment.more && fragment.offset == 0);
                let ends = (fragment.source, fragment.destination);
                let ip = whole_packet(ends, fragment.protocol, &upper);
                inspect(&Packet::reassembled(&fragment, &ip));
            }
        }
        Err(NoPacket::NotIp | NoPacket::Refused(_)) => {}
    }
}

/// All that anybody looks at, and every error that may be said about it.
fn inspect(packet: &Packet<'_>) {
    assert_eq!(packet.source.is_ipv4(), packet.destination.is_ipv4());
    assert!(packet.upper.len() <= packet.ip.len());
    if let Ok(tcp) = packet.tcp() {
        assert!(tcp.payload().len() <= packet.upper.len());
        segments(packet.upper);
    }
    if let Ok((_, _, payload)) = packet.udp() {
        assert!(payload.len() <= packet.upper.len());
    }
    if Echo::is_request(packet) {
        assert!(!packet.upper.is_empty());
    }
    let about = packet.destination;
    for error in [
        IcmpError::prohibited(about),
        IcmpError::port_unreachable(about),
        IcmpError::time_exceeded(about),
    ] {
        let ends = Ends {
            source_mac: GATEWAY_MAC,
            mac: packet.mac,
            source: packet.destination,
            destination: packet.source,
        };
        let bytes = error.frame(&ends, packet.ip);
        assert!(bytes.len() <= MAX_ERROR, "{} bytes", bytes.len());
        let frame = FrameRef::plain(&bytes);
        let told = Packet::parse(&frame).expect("what is sent can be read");
        assert!(!Echo::is_request(&told));
    }
}

/// What the outside says to a raw socket: an answer to a ping, or an error about one.
pub(crate) fn echo_answer(data: &[u8]) {
    if let [family, bytes @ ..] = data {
        echo::hear_any(family % 2 == 0, bytes);
    }
}

/// Fragments of a few packets, in records of five bytes: which packet, where (two bytes, in eights), how many eights, and
/// whether others follow. A model that keeps single bytes says what has to come of it.
pub(crate) fn fragments(data: &[u8]) {
    let (now, mut reassembly) = (Instant::now(), Reassembly::default());
    let mut models: BTreeMap<u8, BTreeMap<usize, u8>> = BTreeMap::new();
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(256 * 8 + 8).collect();
    for (&[id, at, at_high, len, last], turn) in data.as_chunks::<5>().0.iter().zip(0u8..=255) {
        let id = id % PACKETS;
        let offset = usize::from(u16::from_le_bytes([at, at_high % 32])) * 8;
        // The last one needs no multiple of eight.
        let more = last & 1 != 0;
        let len = usize::from(len) * 8 + if more { 0 } else { usize::from(last >> 5) };
        let from = usize::from(turn % 8);
        let piece = bytes.get(from..from + len).unwrap_or_default();
        let fragment = Fragment {
            mac: MacAddr::ZERO,
            source: IpAddr::from([10, 0, 0, 2]),
            destination: IpAddr::from([192, 0, 2, 2]),
            ttl: 64,
            protocol: IpProtocol::UDP,
            identification: id.into(),
            offset,
            more,
            bytes: piece,
        };
        let model = models.entry(id).or_default();
        match reassembly.handle(1, &fragment, now) {
            Err(_) => model.clear(),
            Ok(whole) => {
                for (at, byte) in (offset..).zip(piece) {
                    let before = model.insert(at, *byte);
                    assert!(
                        before.is_none_or(|before| before == *byte),
                        "overlap at {at}"
                    );
                }
                let Some(whole) = whole else { continue };
                let model = std::mem::take(model);
                assert!(model.keys().copied().eq(0..whole.len()), "a hole");
                assert!(model.into_values().eq(whole), "another byte");
            }
        }
    }
    // What never ends is forgotten.
    reassembly.expire(now + LONG);
    assert_eq!(reassembly.next_timeout(), None);
}
