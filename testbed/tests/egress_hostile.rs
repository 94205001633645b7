//! Packets for the outside that no kernel sends: fragments that overlap, are tiny or never end, last hops, and what a fuzzer
//! made. Bounded, counted, and nobody else notices.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::Duration;

use weft_control::api::NetworkEgress;
use weft_testbed::lab::raw::{FrameSocket, ethernet};
use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Container, Host, Lab, Outside, Pair};
use weft_wire::MacAddr;
use weft_wire::checksum::Sum;

/// Longer than the rest of a packet may take.
const GIVEN_UP: Duration = Duration::from_secs(30);
/// How long something that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);
/// UDP's.
const PORT: u16 = 5_353;

fn refused(host: &Host, why: &str) -> u64 {
    let ways: Vec<NetworkEgress> = host.json(&["egress", "--network", "blue"]);
    ways[0].refused.get(why).copied().unwrap_or(0)
}

/// A container that sends what it likes to its gateway.
struct Hostile {
    socket: FrameSocket,
    macs: (MacAddr, MacAddr),
    ips: (Ipv4Addr, Ipv4Addr),
}

/// Where a fragment belongs.
#[derive(Clone, Copy)]
struct Place {
    id: u16,
    /// In bytes.
    offset: u16,
    more: bool,
    ttl: u8,
}

impl Hostile {
    fn new(container: &Container, to: Ipv4Addr) -> Self {
        let gateway = Ipv4Addr::new(10, 32, 0, 1);
        ping(&container.ns, gateway.into());
        let neighbors = container.ns.ip(&["-json", "neigh", "show"]);
        let neighbors: serde_json::Value = serde_json::from_str(&neighbors).unwrap();
        let entry = neighbors.as_array().unwrap().iter();
        let mac = entry
            .filter(|entry| entry["dst"] == gateway.to_string())
            .find_map(|entry| entry["lladdr"].as_str());
        Self {
            socket: FrameSocket::open(&container.ns, "eth0"),
            macs: (mac.unwrap().parse().unwrap(), container.mac()),
            ips: (to, container.v4()),
        }
    }

    fn send(&self, place: Place, bytes: &[u8]) {
        let len = u16::try_from(20 + bytes.len()).unwrap();
        let fragment = (place.offset / 8) | (u16::from(place.more) << 13);
        let mut packet = vec![0x45, 0];
        packet.extend(len.to_be_bytes());
        packet.extend(place.id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([place.ttl, 17, 0, 0]);
        packet.extend(self.ips.1.octets());
        packet.extend(self.ips.0.octets());
        let checksum = Sum::ZERO.and(&packet).finish();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(bytes);
        let frame = ethernet(self.macs.0, self.macs.1, 0x0800, &packet);
        // It may be faster than its interface.
        while !self.socket.offer(&frame) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A UDP datagram without checksum, which IPv4 allows.
fn datagram(payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = Vec::new();
    for word in [4_000, PORT, len, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(payload);
    bytes
}

#[test]
fn odd_packets_are_bounded_counted_and_harm_nobody() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    let outside = Outside::of(&pair.lab, host, "outside");
    host.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let bad = pair.lab.container(host, "blue", "bad", &[]);
    let good = pair.lab.container(host, "blue", "good", &[]);
    let to = outside.addresses()[0];
    let IpAddr::V4(to4) = to else { unreachable!() };
    let server = outside.ns.enter(|| UdpSocket::bind((to, PORT)).unwrap());
    let hostile = Hostile::new(&bad, to4);
    let agent = host.agent().pid();
    let hears = |patience| {
        server.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 2_000];
        match server.recv(&mut buffer) {
            Ok(len) => Some(buffer[..len].to_vec()),
            Err(error) => {
                let silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(silent, "{error}");
                None
            }
        }
    };
    let place = |id, offset, more| Place {
        id,
        offset,
        more,
        ttl: 64,
    };
    // Eight bytes each, the last one first: odd, and whole.
    let payload: Vec<u8> = (0..200).collect();
    let whole = datagram(&payload);
    let last = whole.len().div_ceil(8) - 1;
    for (at, piece) in whole.chunks(8).enumerate().rev() {
        let offset = u16::try_from(at * 8).unwrap();
        hostile.send(place(1, offset, at != last), piece);
    }
    assert_eq!(hears(SOON), Some(payload));
    // Bytes twice, two ends, beyond the end of all packets: the packet is given up, and what is left of it isn't one.
    let before = refused(host, "fragment");
    let overlapping = datagram(&[7; 40]);
    hostile.send(place(2, 0, true), &overlapping[..24]);
    hostile.send(place(2, 16, false), &overlapping[16..]);
    hostile.send(place(3, 16, false), &overlapping[16..]);
    hostile.send(place(3, 24, true), &overlapping[24..]);
    hostile.send(place(4, 65_528, false), &[0; 64]);
    wait_until(SOON, "contradictions are counted", || {
        refused(host, "fragment") >= before + 3
    });
    // As many unfinished ones as there may be, and more.
    let before = refused(host, "fragment");
    for id in 100..200 {
        hostile.send(place(id, 0, true), &overlapping[..8]);
    }
    wait_until(SOON, "there is no room for more", || {
        refused(host, "fragment") >= before + 60
    });
    // Their last hop is the gateway, thousands of times.
    for id in 0..5_000 {
        let spent = Place {
            ttl: 1,
            ..place(id, 0, false)
        };
        hostile.send(spent, &overlapping);
    }
    // What fuzzers made, from this container's addresses, so that it gets as far as it can.
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/egress_packet");
    for file in fs::read_dir(corpus).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        let Some(packet) = bytes.get(15..).filter(|packet| packet.len() >= 20) else {
            continue;
        };
        let mut frame = ethernet(hostile.macs.0, hostile.macs.1, 0, packet);
        frame[12..14].copy_from_slice(&bytes[13..15]);
        hostile.socket.send(&frame);
    }
    assert_eq!(hears(SILENCE), None);
    // Another container notices nothing, and what never ended is forgotten.
    ping(&good.ns, to);
    transfer(&good.ns, &outside.ns, to, 3_000_000);
    wait_until(GIVEN_UP, "unfinished packets are given up", || {
        refused(host, "reassembly_timeout") >= 32
    });
    let drops = host.port_of(&bad.ns).traffic.drops;
    assert!(drops["ttl_exceeded"] >= 5_000, "{drops:?}");
    assert_eq!(host.agent().pid(), agent);
    ping(&bad.ns, to);
}
