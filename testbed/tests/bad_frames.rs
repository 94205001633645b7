//! What no honest neighbour sends: dropped, counted by reason where an operator looks, and nothing gets through.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::raw::{
    FrameSocket, VtepSocket, arp_request, ethernet, tagged, udp_frame, vxlan,
};
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{counts, growth, wait_for};
use weft_testbed::{Container, Lab, Pair};
use weft_wire::MacAddr;

const VNI: u32 = 4242;
const STRANGER: &str = "10.99.0.77";
/// An ethertype for experiments (IEEE 802, 88-B5).
const EXPERIMENT: u16 = 0x88b5;
const SETTLE: Duration = Duration::from_secs(1);

struct Blue {
    pair: Pair,
    c1: Container,
    c2: Container,
    c3: Container,
}

/// Silent containers: c1 and c2 on the first host, c3 on the second.
fn blue() -> Blue {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--vni",
        &VNI.to_string(),
    ]);
    let c1 = pair.lab.quiet_container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.quiet_container(&pair.host1, "blue", "c2", &[]);
    let c3 = pair.lab.quiet_container(&pair.host2, "blue", "c3", &[]);
    pair.wait_in_sync();
    for other in [&c2, &c3] {
        ping(&c1.ns, other.ip());
    }
    ping(&c2.ns, c3.ip());
    Blue { pair, c1, c2, c3 }
}

/// Runs `send`; on the first host exactly these drops are added at c1's port, at the peer and with the strangers.
#[track_caller]
fn drops(blue: &Blue, [port, peer, strangers]: [&[(&str, u64)]; 3], send: impl FnOnce()) {
    let host = &blue.pair.host1;
    let look = || {
        let peers = host.peers();
        let peer = peers
            .peers
            .iter()
            .find(|peer| peer.address == blue.pair.host2.underlay);
        let peer = peer.expect("host2 is a peer").traffic.drops.clone();
        [
            host.port_of(&blue.c1.ns).traffic.drops,
            peer,
            peers.strangers.drops,
        ]
    };
    let before = look();
    let beside = host.port_of(&blue.c2.ns).traffic.drops;
    send();
    let wanted = [port, peer, strangers].map(counts);
    wait_for(
        SETTLE,
        "the drops of port, peer and strangers",
        &wanted,
        || {
            let after = look();
            [0, 1, 2].map(|i| growth(&before[i], &after[i]))
        },
    );
    assert_eq!(
        growth(&beside, &host.port_of(&blue.c2.ns).traffic.drops),
        BTreeMap::new(),
        "c2's port is not to blame"
    );
}

/// Nothing of what `send` sends arrives at c2.
#[track_caller]
fn nothing_arrives(blue: &Blue, send: impl FnOnce()) {
    let capture = Capture::start(&blue.c2.ns, "eth0", &["-Q", "in"]);
    send();
    let seen = capture.stop();
    assert!(seen.frames.is_empty(), "{}", seen.text());
}

#[test]
fn a_container_cannot_speak_for_another() {
    let blue = blue();
    let (c1, c2, c3) = (&blue.c1, &blue.c2, &blue.c3);
    let socket = FrameSocket::open(&c1.ns, "eth0");
    let spoofed_mac = [
        udp_frame(
            (c2.mac(), c3.mac()),
            (c2.v4(), c1.v4()),
            b"another container's MAC",
        ),
        udp_frame(
            (c2.mac(), MacAddr([2, 9, 9, 9, 9, 9])),
            (c2.v4(), c1.v4()),
            b"nobody's MAC",
        ),
        // The frame is honest, the ARP in it is not.
        arp_request(c1.mac(), c3.mac(), (c1.v4(), c2.v4())),
    ];
    let spoofed_address = [
        udp_frame(
            (c2.mac(), c1.mac()),
            (c2.v4(), c3.v4()),
            b"another container's address",
        ),
        udp_frame(
            (c2.mac(), c1.mac()),
            (c2.v4(), [8, 8, 8, 8].into()),
            b"nobody's address",
        ),
        arp_request(c1.mac(), c1.mac(), (c3.v4(), c2.v4())),
        arp_request(c1.mac(), c1.mac(), ([10, 32, 0, 1].into(), c2.v4())),
    ];
    nothing_arrives(&blue, || {
        drops(
            &blue,
            [&[("spoofed_mac", 3), ("spoofed_address", 4)], &[], &[]],
            || {
                spoofed_mac
                    .iter()
                    .chain(&spoofed_address)
                    .for_each(|frame| socket.send(frame));
            },
        );
    });
    ping(&c3.ns, c2.ip());
    ping(&c1.ns, c2.ip());
}

#[test]
fn malformed_frames_of_a_container_are_dropped_by_reason() {
    let blue = blue();
    let (c1, c2) = (&blue.c1, &blue.c2);
    c1.ns.ip(&["link", "set", "eth0", "mtu", "3000"]);
    let socket = FrameSocket::open(&c1.ns, "eth0");
    let group = MacAddr([3, 0, 0, 0, 0, 1]);
    let frames = [
        (
            "runt",
            ethernet(c2.mac(), c1.mac(), 0x0800, &[0x45, 0, 0, 20]),
        ),
        ("runt", ethernet(c2.mac(), c1.mac(), 0x0806, &[0, 1, 8, 0])),
        ("runt", ethernet(c2.mac(), c1.mac(), 0x86dd, &[0x60; 39])),
        (
            "bad_source",
            ethernet(c2.mac(), group, EXPERIMENT, &[0; 60]),
        ),
        (
            "bad_source",
            ethernet(c2.mac(), MacAddr::ZERO, EXPERIMENT, &[0; 60]),
        ),
        (
            "link_reserved",
            ethernet(
                MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]),
                c1.mac(),
                0x88cc,
                &[0; 60],
            ),
        ),
        (
            "vlan_not_allowed",
            tagged(c2.mac(), c1.mac(), (5, EXPERIMENT), &[0; 60]),
        ),
        (
            "too_big",
            ethernet(c2.mac(), c1.mac(), EXPERIMENT, &[0; 1451]),
        ),
        (
            "same_side",
            ethernet(c1.mac(), c1.mac(), EXPERIMENT, &[0; 60]),
        ),
    ];
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, _) in &frames {
        *wanted.entry(reason).or_default() += 1;
    }
    let wanted: Vec<(&str, u64)> = wanted.into_iter().collect();
    nothing_arrives(&blue, || {
        drops(&blue, [&wanted, &[], &[]], || {
            frames.iter().for_each(|(_, frame)| socket.send(frame))
        });
    });
}

#[test]
fn vxlan_from_a_stranger_does_not_come_in() {
    let blue = blue();
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    host2
        .ns
        .ip(&["addr", "add", &format!("{STRANGER}/24"), "dev", "u0"]);
    let stranger: IpAddr = STRANGER.parse().unwrap();
    let socket = VtepSocket::open(&host2.ns, stranger, host1.underlay);
    let frame = udp_frame(
        (blue.c2.mac(), blue.c3.mac()),
        (blue.c2.v4(), blue.c3.v4()),
        b"let me in",
    );
    nothing_arrives(&blue, || {
        drops(&blue, [&[], &[], &[("stranger", 3)]], || {
            socket.send(&vxlan(8, VNI, &frame));
            socket.send(&vxlan(8, 7, &frame));
            socket.send(b"?");
        });
    });
    assert_eq!(host1.peers().strangers.last, Some(stranger));
    let table = host1.weft(&["peers"]);
    assert!(
        table.contains("stranger") && table.contains(STRANGER),
        "{table}"
    );
}

#[test]
fn broken_vxlan_and_wrong_vnis_of_a_peer_are_dropped_by_reason() {
    let blue = blue();
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    let socket = VtepSocket::open(&host2.ns, host2.underlay, host1.underlay);
    let station = MacAddr([2, 0, 0, 0, 7, 7]);
    let frame = ethernet(blue.c2.mac(), station, EXPERIMENT, &[0; 60]);
    let datagrams = [
        ("truncated", vec![]),
        ("truncated", vxlan(8, VNI, &[])[..7].to_vec()),
        ("bad_header", vxlan(0, VNI, &frame)),
        ("bad_vni", vxlan(8, 0, &frame)),
        ("runt", vxlan(8, VNI, &[])),
        ("runt", vxlan(8, VNI, &frame[..13])),
        ("unknown_vni", vxlan(8, VNI + 1, &frame)),
        (
            "bad_source",
            vxlan(
                8,
                VNI,
                &ethernet(blue.c2.mac(), MacAddr::BROADCAST, EXPERIMENT, &[0; 60]),
            ),
        ),
        (
            "link_reserved",
            vxlan(
                8,
                VNI,
                &ethernet(
                    MacAddr([1, 0x80, 0xc2, 0, 0, 0]),
                    station,
                    EXPERIMENT,
                    &[0; 60],
                ),
            ),
        ),
        (
            "vlan_not_allowed",
            vxlan(
                8,
                VNI,
                &tagged(blue.c2.mac(), station, (5, EXPERIMENT), &[0; 60]),
            ),
        ),
        // The MAC of a container of this very host, as a source out there.
        (
            "spoofed_mac",
            vxlan(
                8,
                VNI,
                &udp_frame(
                    (blue.c2.mac(), blue.c1.mac()),
                    (blue.c2.v4(), blue.c1.v4()),
                    b"I am c1",
                ),
            ),
        ),
        // From a tunnel to an address behind a tunnel.
        (
            "split_horizon",
            vxlan(
                8,
                VNI,
                &ethernet(blue.c3.mac(), station, EXPERIMENT, &[0; 60]),
            ),
        ),
    ];
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for (reason, _) in &datagrams {
        *wanted.entry(reason).or_default() += 1;
    }
    let wanted: Vec<(&str, u64)> = wanted.into_iter().collect();
    nothing_arrives(&blue, || {
        drops(&blue, [&[], &wanted, &[]], || {
            datagrams
                .iter()
                .for_each(|(_, datagram)| socket.send(datagram))
        });
    });
    ping(&blue.c1.ns, blue.c3.ip());
    ping(&blue.c3.ns, blue.c1.ip());
}

#[test]
fn reserved_bits_of_a_vxlan_header_are_ignored() {
    let blue = blue();
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    let socket = VtepSocket::open(&host2.ns, host2.underlay, host1.underlay);
    let frame = udp_frame(
        (blue.c2.mac(), blue.c3.mac()),
        (blue.c2.v4(), blue.c3.v4()),
        b"odd but right",
    );
    let mut datagram = vxlan(0xff, VNI, &frame);
    datagram[1..4].fill(0xff);
    datagram[7] = 0xff;
    let capture = Capture::start(&blue.c2.ns, "eth0", &["-Q", "in"]);
    socket.send(&datagram);
    assert_eq!(capture.stop().frames, [frame]);
}

#[test]
fn a_static_vtep_sends_for_its_own_networks_only_and_for_no_container() {
    let blue = blue();
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    host2
        .ns
        .ip(&["addr", "add", &format!("{STRANGER}/24"), "dev", "u0"]);
    let stranger: IpAddr = STRANGER.parse().unwrap();
    host1.weft(&["network", "create", "lab", "--vni", "5"]);
    host1.weft(&["network", "vtep", "add", "lab", STRANGER]);
    // A host that doesn't have the network takes nothing from its VTEPs.
    let _lab1 = blue.pair.lab.container(host1, "lab", "lab1", &[]);
    let socket = VtepSocket::open(&host2.ns, stranger, host1.underlay);
    let before = host1.peer_at(stranger).traffic.drops;
    let frame = udp_frame(
        (blue.c2.mac(), blue.c3.mac()),
        (blue.c2.v4(), blue.c3.v4()),
        b"wrong network",
    );
    nothing_arrives(&blue, || {
        socket.send(&vxlan(8, VNI, &frame));
        wait_for(
            SETTLE,
            "the static VTEP's drops",
            &counts(&[("network_not_allowed", 1)]),
            || growth(&before, &host1.peer_at(stranger).traffic.drops),
        );
    });
    // Once it may, it still can't speak for a container of host2.
    host1.weft(&["network", "vtep", "add", "blue", STRANGER]);
    nothing_arrives(&blue, || {
        socket.send(&vxlan(8, VNI, &frame));
        wait_for(
            SETTLE,
            "the static VTEP's drops",
            &counts(&[("network_not_allowed", 1), ("spoofed_mac", 1)]),
            || growth(&before, &host1.peer_at(stranger).traffic.drops),
        );
    });
    ping(&blue.c3.ns, blue.c2.ip());
}
