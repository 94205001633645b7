//! Containers on a physical LAN, by a link of their host.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::net::IpAddr;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::raw::{FrameSocket, ethernet, tagged};
use weft_testbed::lab::traffic::{answers, ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Namespace, Pair};
use weft_wire::MacAddr;

/// A LAN: a bridge with a cable to each host (`lan0` there) and a station on it.
///
/// ```text
///   host1 lan0 ---+
///                 | br0 --- station 192.168.7.1/24, fd07::1/64
///   host2 lan0 ---+
/// ```
fn lan(pair: &Pair) -> Namespace {
    let lan = pair.lab.namespace("lan");
    lan.ip(&["link", "add", "br0", "type", "bridge"]);
    lan.ip(&["addr", "add", "192.168.7.1/24", "dev", "br0"]);
    lan.ip(&["addr", "add", "fd07::1/64", "dev", "br0", "nodad"]);
    lan.ip(&["link", "set", "br0", "up"]);
    for (host, end) in [(&pair.host1, "p1"), (&pair.host2, "p2")] {
        lan.veth(end, &host.ns, "lan0");
        lan.ip(&["link", "set", end, "master", "br0", "up"]);
        host.ns.ip(&["link", "set", "lan0", "up"]);
    }
    lan
}

fn station() -> IpAddr {
    "192.168.7.1".parse().unwrap()
}

#[test]
fn containers_are_on_the_lan_of_their_host_with_their_own_macs() {
    let pair = Pair::up(Lab::new());
    let lan = lan(&pair);
    // The LAN's addresses; its router is the gateway, and weft isn't.
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "192.168.7.0/24",
        "--ip-range",
        "192.168.7.128/25",
        "--gateway",
        "192.168.7.1",
        "--subnet",
        "fd07::/64",
        "--gateway",
        "fd07::1",
        "--mtu",
        "1450",
    ]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    let before = lan.ip(&["neigh", "show"]);
    assert!(!answers(&lan, c1.ip()), "no cable yet; {before}");
    for host in [&pair.host1, &pair.host2] {
        host.weft(&["uplink", "add", "blue", "--dev", "lan0"]);
    }
    lan.ip(&["neigh", "flush", "all"]);
    for container in [&c1, &c2] {
        let mac = container.mac().to_string();
        ping(&lan, container.ip());
        ping(&lan, container.v6());
        ping(&container.ns, station());
        let neighbour = lan.ip(&["neigh", "show", &container.ip().to_string()]);
        assert!(neighbour.contains(&mac), "{neighbour}");
        // The router of the LAN is the router of the LAN.
        let router = container.ns.ip(&["neigh", "show", "192.168.7.1"]);
        assert!(!router.contains("02:77:65:66:74:01"), "{router}");
        transfer(&container.ns, &lan, station(), 3_000_017);
        transfer(&lan, &container.ns, container.v6(), 3_000_017);
    }
    // Between each other they still use the tunnel, and nothing comes twice.
    let capture = Capture::start(&c2.ns, "eth0", &["ether", "proto", "0x88b5"]);
    ping(&c1.ns, c2.ip());
    let socket = FrameSocket::open(&c1.ns, "eth0");
    for number in 0..3 {
        socket.send(&ethernet(
            MacAddr::BROADCAST,
            c1.mac(),
            0x88b5,
            &[number; 50],
        ));
    }
    let heard: Vec<u8> = capture
        .stop()
        .frames
        .iter()
        .map(|frame| frame[14])
        .collect();
    assert_eq!(heard, [0, 1, 2]);
    assert!(pair.host2.peer_at(pair.host1.underlay).traffic.rx_frames > 0);
    let list = pair.host2.weft(&["uplink", "ls"]);
    assert!(
        list.contains("came_back") && list.contains("lan0"),
        "{list}"
    );
    // A station of the LAN that has an endpoint's address is named.
    let taken = c1.ip().to_string();
    let address = format!("{taken}/24");
    lan.ip(&["addr", "add", &address, "dev", "br0"]);
    lan.run("arping", &["-U", "-I", "br0", "-c", "1", "-w", "2", &taken]);
    let told = || {
        let warnings = pair.host1.status().warnings;
        let says = |warning: &String, what: &str| warning.contains(what);
        warnings.iter().any(|warning| {
            says(warning, &taken) && says(warning, "c1") && says(warning, "behind lan0")
        })
    };
    wait_until(SOON, "both holders are named", told);
}

#[test]
fn an_uplink_comes_back_with_its_link_and_with_a_new_agent() {
    let pair = Pair::up(Lab::new());
    let lan = lan(&pair);
    pair.host1.weft(&["network", "create", "lab"]);
    let c1 = pair.lab.quiet_container(&pair.host1, "lab", "c1", &[]);
    c1.ns.ip(&["addr", "add", "192.168.7.9/24", "dev", "eth0"]);
    let ours: IpAddr = "192.168.7.9".parse().unwrap();
    pair.host1.weft(&["uplink", "add", "lab", "--dev", "lan0"]);
    ping(&lan, ours);
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    pair.host1.wait_in_sync();
    ping(&lan, ours);
    pair.host1.ns.ip(&["link", "set", "lan0", "down"]);
    let up = || pair.host1.weft(&["uplink", "ls"]).contains(" up ");
    wait_until(SOON, "the link is seen to be down", || !up());
    pair.host1.ns.ip(&["link", "set", "lan0", "up"]);
    wait_until(SOON, "the link is seen to be up", up);
    wait_until(SOON, "the LAN is reached", || answers(&lan, ours));
    // Gone and made again is another link of the same name.
    lan.ip(&["link", "del", "p1"]);
    wait_until(SOON, "the link is seen to be gone", || !up());
    lan.veth("p1", &pair.host1.ns, "lan0");
    lan.ip(&["link", "set", "p1", "master", "br0", "up"]);
    pair.host1.ns.ip(&["link", "set", "lan0", "up"]);
    wait_until(SOON, "the LAN is reached again", || answers(&lan, ours));
    let again = ["uplink", "add", "lab", "--dev", "lan0"];
    assert_eq!(pair.host1.refused(&again).code, "link_taken");
    let nothing = ["uplink", "add", "lab", "--dev", "nothing0"];
    assert_eq!(pair.host1.refused(&nothing).code, "no_such_link");
    pair.host1.weft(&["uplink", "rm", "lab", "--dev", "lan0"]);
    assert!(!answers(&lan, ours));
    let gone = ["uplink", "rm", "lab", "--dev", "lan0"];
    assert_eq!(pair.host1.refused(&gone).code, "no_such_uplink");
}

#[test]
fn tagged_frames_keep_their_tags_both_ways() {
    let pair = Pair::up(Lab::new());
    let lan = lan(&pair);
    pair.host1.weft(&["network", "create", "lab"]);
    let c1 = pair.lab.quiet_container(&pair.host1, "lab", "c1", &[]);
    pair.host1.weft(&["uplink", "add", "lab", "--dev", "lan0"]);
    for (number, from, to, dev, seen_at) in [
        (1, &lan, &c1.ns, "br0", "eth0"),
        (2, &c1.ns, &lan, "eth0", "br0"),
    ] {
        let source = MacAddr([2, 0, 0, 0, 0x70, number]);
        let frame = tagged(MacAddr::BROADCAST, source, (0x2007, 0x88b5), &[0x5a; 60]);
        let capture = Capture::start(to, seen_at, &["-e"]);
        FrameSocket::open(from, dev).send(&frame);
        let seen = capture.stop().frames;
        assert!(seen.contains(&frame), "{seen:02x?}");
    }
}
