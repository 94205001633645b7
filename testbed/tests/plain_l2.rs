//! A network without a subnet: a plain learning switch across hosts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;
use std::time::Duration;

use weft_testbed::lab::capture::{Capture, Captured};
use weft_testbed::lab::raw::{FrameSocket, ethernet, tagged};
use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::lab::verdict::{counts, growth, wait_for, wait_until};
use weft_testbed::{Container, Lab, Pair};
use weft_wire::MacAddr;

/// An ethertype for experiments (IEEE 802, 88-B5): no kernel answers it.
const EXPERIMENT: u16 = 0x88b5;

struct L2 {
    pair: Pair,
    c1: Container,
    c2: Container,
    c3: Container,
}

/// Three containers that are silent by themselves: c1 and c2 on the first host, c3 on the second.
fn l2(create: &[&str]) -> L2 {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&[&["network", "create", "lab"], create].concat());
    let c1 = pair.lab.quiet_container(&pair.host1, "lab", "c1", &[]);
    let c2 = pair.lab.quiet_container(&pair.host1, "lab", "c2", &[]);
    let c3 = pair.lab.quiet_container(&pair.host2, "lab", "c3", &[]);
    pair.wait_in_sync();
    L2 { pair, c1, c2, c3 }
}

fn address(container: &Container, cidr: &str) -> IpAddr {
    container.ns.ip(&["addr", "add", cidr, "dev", "eth0"]);
    cidr.split('/').next().unwrap().parse().unwrap()
}

fn has(seen: &Captured, frame: &[u8]) -> bool {
    seen.frames.iter().any(|other| other == frame)
}

#[test]
fn hosts_learn_from_what_containers_with_addresses_of_their_own_say() {
    let l2 = l2(&[]);
    assert_eq!(l2.c1.port.addresses, vec![]);
    assert_eq!(l2.c1.ns.addresses("eth0"), Vec::<IpAddr>::new());
    let one = address(&l2.c1, "192.168.7.1/24");
    let two = address(&l2.c2, "192.168.7.2/24");
    let three = address(&l2.c3, "192.168.7.3/24");
    for (from, to) in [(&l2.c1, three), (&l2.c3, two), (&l2.c2, one)] {
        ping(&from.ns, to);
    }
    transfer(&l2.c1.ns, &l2.c3.ns, three, 1_000_003);
    let fdb = l2.pair.host1.fdb();
    for (container, via) in [(&l2.c1, "port"), (&l2.c2, "port"), (&l2.c3, "peer")] {
        let row = fdb.iter().find(|row| row.mac == container.mac());
        let row = row.unwrap_or_else(|| panic!("{} is not in {fdb:?}", container.port.name));
        assert_eq!((row.via.as_str(), row.kind.as_str()), (via, "learned"));
    }
}

#[test]
fn any_mac_may_appear_behind_a_port() {
    let l2 = l2(&[]);
    let three = address(&l2.c3, "192.168.7.3/24");
    // A second station behind c1's interface, as a VM or a nested container has it.
    let guest = l2.pair.lab.namespace("guest").without_ipv6();
    l2.c1.ns.ip(&["link", "add", "br0", "type", "bridge"]);
    l2.c1.ns.ip(&["link", "set", "eth0", "master", "br0"]);
    l2.c1.ns.veth("p0", &guest, "eth0");
    l2.c1.ns.ip(&["link", "set", "p0", "master", "br0", "up"]);
    l2.c1.ns.ip(&["link", "set", "br0", "up"]);
    guest.ip(&["addr", "add", "192.168.7.9/24", "dev", "eth0"]);
    guest.ip(&["link", "set", "eth0", "mtu", "1450", "up"]);
    ping(&guest, three);
    ping(&l2.c3.ns, "192.168.7.9".parse().unwrap());
    transfer(&l2.c3.ns, &guest, "192.168.7.9".parse().unwrap(), 1_000_003);
    let mac: MacAddr = guest.link("eth0")["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    for (host, via, name) in [
        (&l2.pair.host1, "port", "c1"),
        (&l2.pair.host2, "peer", "host1"),
    ] {
        let fdb = host.fdb();
        let row = fdb
            .iter()
            .find(|row| row.mac == mac)
            .unwrap_or_else(|| panic!("{mac} is not in {fdb:?}"));
        assert_eq!(
            (row.via.as_str(), row.name.as_str(), row.kind.as_str()),
            (via, name, "learned")
        );
    }
}

#[test]
fn a_station_that_moves_to_the_other_host_is_followed_at_once() {
    let l2 = l2(&[]);
    let station = MacAddr([2, 0, 0, 0, 7, 7]);
    let hello = ethernet(
        MacAddr::BROADCAST,
        station,
        EXPERIMENT,
        b"here I am, long enough to need no padding at all",
    );
    for (speaker, via) in [(&l2.c1, "port"), (&l2.c3, "peer"), (&l2.c2, "port")] {
        FrameSocket::open(&speaker.ns, "eth0").send(&hello);
        wait_until(
            Duration::from_secs(1),
            "the first host knows where the station is",
            || {
                l2.pair
                    .host1
                    .fdb()
                    .iter()
                    .any(|row| row.mac == station && row.via == via)
            },
        );
    }
}

#[test]
fn vlan_tags_pass_and_vlans_are_learned_apart() {
    let l2 = l2(&[]);
    let station = MacAddr([2, 0, 0, 0, 7, 7]);
    let frame = |vlan| {
        tagged(
            MacAddr::BROADCAST,
            station,
            (vlan, EXPERIMENT),
            b"tagged, and long enough to need no padding",
        )
    };
    let capture = Capture::start(&l2.c3.ns, "eth0", &["-Q", "in"]);
    let beside = Capture::start(&l2.c2.ns, "eth0", &["-Q", "in"]);
    let socket = FrameSocket::open(&l2.c1.ns, "eth0");
    socket.send(&frame(12));
    socket.send(&frame(34));
    for (seen, name) in [(capture.stop(), "c3"), (beside.stop(), "c2")] {
        assert!(
            has(&seen, &frame(12)) && has(&seen, &frame(34)),
            "{name}: {}",
            seen.text()
        );
    }
    let vlans = |via: &str| {
        let fdb = if via == "port" {
            l2.pair.host1.fdb()
        } else {
            l2.pair.host2.fdb()
        };
        let mut vlans: Vec<u16> = fdb
            .iter()
            .filter(|row| row.mac == station && row.via == via)
            .map(|row| row.vlan)
            .collect();
        vlans.sort_unstable();
        vlans
    };
    assert_eq!(vlans("port"), [12, 34]);
    assert_eq!(vlans("peer"), [12, 34]);
    // Where payload and tag together fill the MTU, the datagram just fills the underlay's 1500 bytes.
    let fits = tagged(MacAddr::BROADCAST, station, (12, EXPERIMENT), &[0x41; 1446]);
    let capture = Capture::start(&l2.c3.ns, "eth0", &["-Q", "in"]);
    // But for probes of the path, which have VNI 0.
    let frames = ["udp", "port", "4789", "and", "udp[12:4] & 0xffffff00 != 0"];
    let wire = Capture::start(&l2.pair.host2.ns, "u0", &frames);
    socket.send(&fits);
    let (seen, wire) = (capture.stop(), wire.stop());
    assert_eq!(
        wire.frames.iter().map(Vec::len).collect::<Vec<_>>(),
        [1514],
        "{}",
        wire.text()
    );
    assert!(has(&seen, &fits), "{}", seen.text());
    // A full frame with its tag is four bytes more than the underlay can carry: here it passes, there it's counted.
    let full = tagged(MacAddr::BROADCAST, station, (12, EXPERIMENT), &[0x42; 1450]);
    let capture = Capture::start(&l2.c2.ns, "eth0", &["-Q", "in"]);
    let drops = || l2.pair.host1.peer_at(l2.pair.host2.underlay).traffic.drops;
    let before = drops();
    socket.send(&full);
    let seen = capture.stop();
    assert!(has(&seen, &full), "{}", seen.text());
    assert_eq!(growth(&before, &drops()), counts(&[("too_big", 1)]));
}

#[test]
fn reserved_addresses_and_frames_above_the_mtu_are_refused_and_counted() {
    let l2 = l2(&[]);
    let mac = l2.c1.mac();
    // The interface would take them now; the network does not.
    l2.c1.ns.ip(&["link", "set", "eth0", "mtu", "3000"]);
    let captures =
        [&l2.c2, &l2.c3].map(|container| Capture::start(&container.ns, "eth0", &["-Q", "in"]));
    let before = l2.pair.host1.port_of(&l2.c1.ns).traffic;
    let socket = FrameSocket::open(&l2.c1.ns, "eth0");
    let reserved = (0..=0x0f_u8).map(|last| MacAddr([0x01, 0x80, 0xc2, 0, 0, last]));
    for destination in reserved {
        socket.send(&ethernet(destination, mac, EXPERIMENT, &[0x55; 60]));
    }
    socket.send(&ethernet(
        MacAddr::BROADCAST,
        mac,
        EXPERIMENT,
        &[0x66; 1451],
    ));
    let fits = ethernet(MacAddr::BROADCAST, mac, EXPERIMENT, &[0x77; 1450]);
    socket.send(&fits);
    for capture in captures {
        let seen = capture.stop();
        assert_eq!(seen.frames, [fits.as_slice()], "only what fits passes");
    }
    let wanted = (18, counts(&[("link_reserved", 16), ("too_big", 1)]));
    wait_for(
        Duration::from_secs(1),
        "the port's counters show it",
        &wanted,
        || {
            let after = l2.pair.host1.port_of(&l2.c1.ns).traffic;
            (
                after.rx_frames - before.rx_frames,
                growth(&before.drops, &after.drops),
            )
        },
    );
}

#[test]
fn learned_addresses_age_and_the_time_can_be_changed() {
    let l2 = l2(&["--ageing", "300"]);
    let one = address(&l2.c1, "192.168.7.1/24");
    address(&l2.c3, "192.168.7.3/24");
    ping(&l2.c3.ns, one);
    let known = |l2: &L2| l2.pair.host1.fdb().iter().any(|row| row.mac == l2.c3.mac());
    assert!(known(&l2));
    l2.pair
        .host2
        .weft(&["network", "set", "lab", "--ageing", "1"]);
    // Nothing of c3 is sent any more: its interface goes down.
    l2.c3.ns.ip(&["link", "set", "eth0", "down"]);
    wait_until(Duration::from_secs(4), "c3 is forgotten", || !known(&l2));
}
