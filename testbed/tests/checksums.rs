//! Whatever a container sends, what goes over the underlay has right checksums: whole packets, segments of superframes,
//! fragments, what is sent again.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use etherparse::{Ethernet2Slice, IpFragOffset, Ipv4Slice};
use weft_testbed::lab::capture::{Capture, Captured, checksum_fault};
use weft_testbed::lab::say;
use weft_testbed::lab::traffic::{iperf_start, ping, ping_full, transfer};
use weft_testbed::{Container, Lab, Pair};

/// Payload lengths of UDP datagrams, even and odd: whole ones, and ones that their sender's kernel has to fragment.
const UDP_LENS: [usize; 6] = [1, 18, 1422, 1423, 4001, 20_000];
/// How often each is sent.
const UDP_ROUNDS: usize = 40;

/// Sends UDP datagrams of all lengths; nobody need answer.
fn send_udp(from: &Container, to: &Container) {
    let addresses = [to.ip(), to.v6()];
    from.ns.enter(|| {
        for to in addresses {
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            for round in 0..UDP_ROUNDS {
                for len in UDP_LENS {
                    let byte = u8::try_from((round * 31 + len) % 256).unwrap();
                    // A port that is closed answers with an ICMP error, which the socket then tells.
                    let _ = socket.send_to(&vec![byte; len], SocketAddr::new(to, 9));
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
    });
}

/// Puts the IPv4 fragments together again: whole packets with a whole header, in Ethernet frames.
fn reassembled(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut parts: BTreeMap<_, Vec<(usize, bool, Vec<u8>)>> = BTreeMap::new();
    let mut heads = BTreeMap::new();
    for frame in frames {
        let Ok(ethernet) = Ethernet2Slice::from_slice_without_fcs(frame) else {
            continue;
        };
        let Ok(ip) = Ipv4Slice::from_slice(ethernet.payload_slice()) else {
            continue;
        };
        if !ip.is_payload_fragmented() {
            continue;
        }
        let head = ip.header().to_header();
        let key = (head.source, head.destination, head.identification);
        let offset = usize::from(head.fragment_offset.value()) * 8;
        let part = (offset, head.more_fragments, ip.payload().payload.to_vec());
        let parts = parts.entry(key).or_default();
        // Captured once going out and once coming in: the same.
        if !parts.contains(&part) {
            parts.push(part);
        }
        heads.insert(key, (frame[..14].to_vec(), head));
    }
    parts
        .into_iter()
        .filter_map(|(key, mut parts)| {
            parts.sort();
            let mut payload = Vec::new();
            for (offset, _, part) in &parts {
                if *offset != payload.len() {
                    return None;
                }
                payload.extend_from_slice(part);
            }
            if parts.last()?.1 {
                return None;
            }
            let (ethernet, mut head) = heads.remove(&key)?;
            head.more_fragments = false;
            head.fragment_offset = IpFragOffset::ZERO;
            head.set_payload_len(payload.len()).ok()?;
            head.header_checksum = head.calc_header_checksum();
            Some([ethernet, head.to_bytes().to_vec(), payload].concat())
        })
        .collect()
}

#[test]
fn nothing_with_a_wrong_checksum_is_ever_sent() {
    let pair = Pair::up(Lab::alone());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c3 = pair.lab.container(&pair.host2, "blue", "c3", &[]);
    pair.wait_in_sync();
    for host in [&pair.host1, &pair.host2] {
        // What is captured where it is sent isn't finished yet when the device finishes checksums.
        host.ns
            .run("ethtool", &["-K", "u0", "tx", "off"])
            .expect_done();
    }
    let capture = Capture::start(&pair.host2.ns, "u0", &["udp", "port", "4789"]);
    for to in [c3.ip(), c3.v6()] {
        ping(&c1.ns, to);
        ping_full(&c1.ns, to, 1450);
        transfer(&c1.ns, &c3.ns, to, 2_000_003);
    }
    send_udp(&c1, &c3);
    send_udp(&c3, &c1);
    let mixed = inner(&capture.stop());
    let whole = reassembled(&mixed);
    // Killed in the middle: what was lost meanwhile is sent again. tcpdump doesn't get all of it.
    let capture = Capture::start(&pair.host2.ns, "u0", &["udp", "port", "4789"]);
    let iperf = iperf_start(&c1.ns, &c3.ns, c3.ip(), 2);
    thread::sleep(Duration::from_millis(500));
    pair.host1.kill_agent();
    // Longer than TCP waits (200 ms) before it sends again.
    thread::sleep(Duration::from_millis(400));
    pair.host1.restart_agent();
    let measured = iperf.finish();
    let again = inner(&capture.stop());
    say(&format!(
        "datagrams with right checksums: {} of a mix, {} over a restart ({} TCP retransmits); {} packets reassembled",
        mixed.len(),
        again.len(),
        measured.retransmits,
        whole.len()
    ));
    for frame in mixed.iter().chain(&whole).chain(&again) {
        assert_eq!(checksum_fault(frame), None, "{frame:02x?}");
    }
    // The three longest datagrams are fragmented, in each direction.
    let (fewest, fragmented) = (2 * 2 * 2_000_003 / 1450, 3 * 2 * UDP_ROUNDS);
    assert!(mixed.len() > fewest, "{} datagrams", mixed.len());
    assert!(again.len() > fewest, "{} datagrams", again.len());
    assert!(
        whole.len() > fragmented / 2 && whole.len() <= fragmented,
        "{} of {fragmented} packets reassembled",
        whole.len()
    );
    assert!(measured.retransmits > 0, "the restart lost something");
}

/// The frames in the tunnel; all that was captured must be of it.
fn inner(seen: &Captured) -> Vec<Vec<u8>> {
    let datagrams = seen.vxlan();
    assert_eq!(datagrams.len(), seen.frames.len());
    datagrams.into_iter().map(|one| one.frame).collect()
}
