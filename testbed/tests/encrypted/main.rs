//! Encrypted networks: what crosses, what is seen on the wire (nothing), and what happens when hosts start in any order,
//! move, hide behind NAT, are too old, or are thrown out.

#![expect(
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

mod packets;
mod sessions;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use weft_control::api;
use weft_testbed::lab::Process;
use weft_testbed::lab::capture::{Capture, Captured};
use weft_testbed::lab::raw::{VtepSocket, udp_frame, vxlan};
use weft_testbed::lab::traffic::{Prober, answers, ping, ping_full, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::layout::Routed;
use weft_testbed::{Container, Host, Hosts, Lab, Namespace, Pair};

/// What containers say all the time: none of it may be seen between the hosts.
const MARK: &[u8; 16] = b"weft-clear-mark!";
const VNI: u32 = 4711;
/// Inner MTU where the underlay has 1500.
const MTU: u32 = 1424;
const PORT: u16 = 4788;
/// From nothing to a session, on a busy machine.
const SESSION_PATIENCE: Duration = Duration::from_secs(15);
const TRANSFER_LEN: usize = 3_000_017;

fn create(host: &Host, name: &str) {
    create_with(host, name, &[]);
}

fn create_with(host: &Host, name: &str, more: &[&str]) {
    let vni = VNI.to_string();
    let words = ["network", "create", name, "--encrypted", "--vni", &vni];
    host.weft(&[&words[..], &["--subnet", "10.32.0.0/16"], more].concat());
}

/// Network dark with a container on each host.
fn dark(pair: &Pair) -> [Container; 2] {
    create(&pair.host1, "dark");
    let containers = [
        pair.lab.container(&pair.host1, "dark", "c1", &[]),
        pair.lab.container(&pair.host2, "dark", "c2", &[]),
    ];
    pair.wait_in_sync();
    containers
}

/// Says [`MARK`] to a container for ever, many times a second.
fn chatter(from: &Container, to: &Container) -> Arc<Process> {
    let pattern: String = MARK.iter().map(|byte| format!("{byte:02x}")).collect();
    let to_ip = to.ip().to_string();
    let words = ["-q", "-i", "0.02", "-s", "400", "-p", &pattern, &to_ip];
    let log = format!("chatter-{}", from.port.name);
    from.ns.spawn(&log, "ping", &words)
}

fn tunnel(host: &Host, other: &Host) -> Option<api::EncryptedTunnel> {
    let peers = host.peers().peers.into_iter();
    let mut peers = peers.filter(|peer| peer.address == other.underlay);
    peers.next()?.encrypted
}

fn is_up(host: &Host, other: &Host) -> bool {
    tunnel(host, other).is_some_and(|tunnel| tunnel.state == "up")
}

fn wait_for_session(host: &Host, other: &Host) -> api::EncryptedTunnel {
    let what = format!("{} has a session", host.name);
    wait_until(SESSION_PATIENCE, &what, || is_up(host, other));
    tunnel(host, other).unwrap()
}

fn wait_for_answers(from: &Container, to: &Container) {
    let what = format!("{} reaches {}", from.port.name, to.port.name);
    wait_until(SESSION_PATIENCE, &what, || answers(&from.ns, to.ip()));
}

/// Nothing of what containers said, nor their hardware addresses, is in any frame of the underlay.
#[track_caller]
fn assert_dark(seen: &Captured, containers: &[&Container]) {
    let macs: Vec<[u8; 6]> = containers.iter().map(|c| c.mac().octets()).collect();
    for frame in &seen.frames {
        let holds = |part: &[u8]| frame.windows(part.len()).any(|window| window == part);
        // Whatever byte of the pattern a packet begins with.
        assert!(
            !holds(&MARK[..8]) && !holds(&MARK[8..]),
            "in clear: {frame:02x?}"
        );
        for mac in &macs {
            assert!(!holds(mac), "a container's address in clear: {frame:02x?}");
        }
    }
    let clear = seen
        .vxlan()
        .into_iter()
        .filter(|datagram| datagram.vni != 0);
    assert_eq!(clear.count(), 0, "VXLAN frames of a network");
}

/// Frames between the hosts on the port of encrypted tunnels.
fn sealed(seen: &Captured) -> usize {
    let port = PORT.to_be_bytes();
    let is = |frame: &&Vec<u8>| {
        frame.len() > 42
            && frame[12..14] == [8, 0]
            && frame[23] == 17
            && frame[34..36] == port
            && frame[36..38] == port
    };
    seen.frames.iter().filter(is).count()
}

#[test]
fn frames_cross_and_no_byte_of_them_is_seen() {
    let pair = Pair::cold(Lab::new());
    let capture = Capture::start(&pair.host2.ns, "u0", &[]);
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    let [c1, c2] = dark(&pair);
    // The first frame waits for the session, and isn't lost.
    ping(&c1.ns, c2.ip());
    let talk = [chatter(&c1, &c2), chatter(&c2, &c1)];
    for (from, to) in [(&c1, &c2), (&c2, &c1)] {
        ping_full(&from.ns, to.ip(), MTU);
        transfer(&from.ns, &to.ns, to.ip(), TRANSFER_LEN);
    }
    for (host, other) in [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)] {
        let tunnel = tunnel(host, other).unwrap();
        assert_eq!((tunnel.state.as_str(), tunnel.mtu.value()), ("up", MTU));
        assert_eq!(
            tunnel.remote.map(|remote| remote.ip()),
            Some(other.underlay)
        );
        assert!(tunnel.cipher.is_some() && tunnel.rtt_us.is_some() && tunnel.why.is_none());
        assert!(tunnel.sealed_packets > 1000, "{tunnel:?}");
        let peer = host.peer_at(other.underlay);
        let drops: u64 = peer.traffic.drops.values().sum();
        assert_eq!(drops, 0, "{peer:?}");
        let table = host.weft(&["peers"]);
        assert!(table.contains("ENCR_AES_GCM_16_IIV"), "{table}");
    }
    let by: Vec<_> = [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)]
        .map(|(host, other)| tunnel(host, other).unwrap().opened_by.unwrap())
        .into();
    assert_ne!(by[0], by[1], "both use the same session");
    let network = pair.host2.network("dark").network;
    assert!(network.encrypted);
    assert_eq!(network.mtu.value(), MTU);
    talk.iter().for_each(|talk| talk.kill());
    let seen = capture.stop();
    assert_dark(&seen, &[&c1, &c2]);
    assert!(sealed(&seen) > 2 * TRANSFER_LEN / 65_000, "{}", seen.text());
}

#[test]
fn in_no_order_of_starts_does_a_frame_leave_in_clear() {
    let pair = Pair::up(Lab::new());
    let capture = Capture::start(&pair.host2.ns, "u0", &[]);
    let [c1, c2] = dark(&pair);
    let talk = [chatter(&c1, &c2), chatter(&c2, &c1)];
    wait_for_answers(&c1, &c2);
    let (host1, host2) = (&pair.host1, &pair.host2);
    // An agent alone, with and without a controller.
    host1.kill_agent();
    host1.restart_agent();
    wait_for_answers(&c2, &c1);
    // The map is saved once a second: from here on no controller has another.
    thread::sleep(Duration::from_millis(1500));
    pair.controller.kill();
    host2.kill_agent();
    host2.spawn_agent(&[]);
    host2.wait_up();
    wait_for_answers(&c1, &c2);
    // Everything, and the controller last.
    host1.kill_agent();
    host2.kill_agent();
    for host in [host2, host1] {
        host.spawn_agent(&[]);
        host.wait_up();
    }
    wait_for_answers(&c1, &c2);
    pair.controller.start();
    pair.wait_in_sync();
    wait_for_answers(&c2, &c1);
    // The network goes under its containers' feet on one host, and comes back under the same VNI in clear, then encrypted.
    talk.iter().for_each(|talk| talk.kill());
    for (host, container) in [(host1, &c1), (host2, &c2)] {
        host.disconnect("dark", &container.ns);
    }
    host1.weft(&["network", "rm", "dark"]);
    let vni = VNI.to_string();
    host1.weft(&[
        "network",
        "create",
        "light",
        "--vni",
        &vni,
        "--subnet",
        "10.33.0.0/16",
    ]);
    host1.weft(&["network", "rm", "light"]);
    create(host1, "dark");
    let again = [
        pair.lab.container(host1, "dark", "c3", &[]),
        pair.lab.container(host2, "dark", "c4", &[]),
    ];
    let [c3, c4] = &again;
    let talk = [chatter(c3, c4), chatter(c4, c3)];
    pair.wait_in_sync();
    wait_for_answers(c3, c4);
    talk.iter().for_each(|talk| talk.kill());
    assert_dark(&capture.stop(), &[&c1, &c2, c3, c4]);
}

#[test]
fn one_udp_port_suffices() {
    let pair = Pair::up(Lab::new());
    let rules = "add table ip shut; \
                 add chain ip shut in { type filter hook input priority 0; }; \
                 add rule ip shut in iif u0 udp dport 4789 drop; \
                 add rule ip shut in iif u0 udp dport 49152-65535 udp sport != { 6783, 4788 } drop";
    for host in [&pair.host1, &pair.host2] {
        host.ns.run("nft", &[rules]).expect_done();
    }
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    transfer(&c1.ns, &c2.ns, c2.ip(), TRANSFER_LEN);
    assert_eq!(tunnel(&pair.host1, &pair.host2).unwrap().mtu.value(), MTU);
}

#[test]
fn it_works_over_ipv6() {
    let pair = Pair::up_over_ipv6(Lab::new());
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    ping_full(&c1.ns, c2.ip(), MTU - 20);
    transfer(&c1.ns, &c2.ns, c2.ip(), TRANSFER_LEN);
}

/// Host 2 is behind the router's address, and nobody can call it.
fn masquerade(router: &Namespace) {
    let rules = "add table ip nat; \
                 add chain ip nat post { type nat hook postrouting priority 100; }; \
                 add rule ip nat post oif r1 ip saddr 10.99.2.0/24 masquerade random; \
                 add chain ip nat shut { type filter hook forward priority 0; }; \
                 add rule ip nat shut iif r1 oif r2 ct state new drop";
    router.run("nft", &[rules]).expect_done();
}

#[test]
fn a_host_behind_nat_is_reached_by_the_session_that_it_opens() {
    let routed = Routed::up(Lab::new());
    let pair = &routed.pair;
    masquerade(&routed.router);
    // What was there before goes through the NAT too.
    pair.host2.kill_agent();
    pair.host2.restart_agent();
    pair.wait_in_sync();
    let [c1, c2] = dark(pair);
    let theirs = wait_for_session(&pair.host1, &pair.host2);
    let remote = theirs.remote.unwrap();
    assert_eq!(remote.ip().to_string(), "10.99.1.254", "{theirs:?}");
    assert_eq!(theirs.opened_by.as_deref(), Some("peer"));
    wait_for_answers(&c1, &c2);
    transfer(&c1.ns, &c2.ns, c2.ip(), TRANSFER_LEN);
    transfer(&c2.ns, &c1.ns, c1.ip(), TRANSFER_LEN);
    // The host behind it is restarted: the first to speak may be the other side, and must wait.
    pair.host2.kill_agent();
    pair.host2.restart_agent();
    wait_for_answers(&c1, &c2);
}

#[test]
fn a_host_whose_address_changes_stays_reachable() {
    let pair = Pair::up(Lab::new());
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    let prober = Prober::start(&c2.ns, &c1.ns, c1.ip());
    thread::sleep(Duration::from_millis(500));
    let u0 = |words: &[&str]| pair.host2.ns.ip(&[words, &["dev", "u0"]].concat());
    u0(&["addr", "del", "10.99.0.2/24"]);
    u0(&["addr", "add", "10.99.0.77/24"]);
    let moved = || {
        let tunnel = tunnel(&pair.host1, &pair.host2)?;
        Some(tunnel.remote?.ip().to_string())
    };
    wait_until(SESSION_PATIENCE, "host1 follows", || {
        moved().as_deref() == Some("10.99.0.77")
    });
    wait_for_answers(&c1, &c2);
    thread::sleep(Duration::from_millis(500));
    let probe = prober.finish();
    assert!(probe.longest_gap < Duration::from_secs(5), "{probe:?}");
}

#[test]
fn keys_are_replaced_under_traffic_without_a_gap() {
    let lab = Lab::new();
    lab.give_agents(&["--rekey-after".to_owned(), "20s".to_owned()]);
    let pair = Pair::up(lab);
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    let before = wait_for_session(&pair.host1, &pair.host2);
    let prober = Prober::start(&c1.ns, &c2.ns, c2.ip());
    let age = || {
        tunnel(&pair.host1, &pair.host2)
            .unwrap()
            .key_age_secs
            .unwrap()
    };
    wait_until(Duration::from_secs(40), "the key is an old one", || {
        age() >= 15
    });
    wait_until(Duration::from_secs(40), "the key is a new one", || {
        age() < 5
    });
    // The old one goes after its overlap.
    thread::sleep(Duration::from_secs(12));
    let probe = prober.finish();
    assert!(probe.longest_gap < Duration::from_millis(500), "{probe:?}");
    let peer = pair.host1.peer_at(pair.host2.underlay);
    let drops: u64 = peer.traffic.drops.values().sum();
    assert_eq!(drops, 0, "before {before:?}, now {peer:?}");
}

#[test]
fn who_can_not_protect_a_network_is_refused() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    pair.host2.stop_agent();
    pair.host2.spawn_agent(&["--encrypted-port", "0"]);
    pair.host2.wait_up();
    pair.wait_in_sync();
    let words = [
        "network",
        "create",
        "dark",
        "--encrypted",
        "--subnet",
        "10.32.0.0/16",
    ];
    let refusal = pair.host1.refused(&words);
    assert!(refusal.message.contains("host2"), "{refusal:?}");
    assert!(refusal.hint.contains("--encrypted-port"), "{refusal:?}");
    // It remembers; a flag makes it able.
    pair.host2.stop_agent();
    pair.host2
        .spawn_agent(&["--encrypted-port", &PORT.to_string()]);
    pair.host2.wait_up();
    pair.wait_in_sync();
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    // And unable again: its port is cut off, and nothing leaves in clear.
    pair.host2.stop_agent();
    let capture = Capture::start(&pair.host1.ns, "u0", &[]);
    let talk = [chatter(&c1, &c2), chatter(&c2, &c1)];
    pair.host2.spawn_agent(&["--encrypted-port", "0"]);
    pair.host2.wait_up();
    let ns = pair.lab.namespace("late");
    let refused = pair
        .host2
        .refused(&["network", "connect", "dark", "--netns", ns.name()]);
    assert!(refused.message.contains("encrypted"), "{refused:?}");
    thread::sleep(Duration::from_secs(1));
    assert!(!answers(&c1.ns, c2.ip()));
    talk.iter().for_each(|talk| talk.kill());
    assert_dark(&capture.stop(), &[&c1, &c2]);
}

#[test]
fn frames_in_clear_are_refused_and_counted() {
    let pair = Pair::up(Lab::new());
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    let frame = udp_frame((c1.mac(), c2.mac()), (c2.v4(), c1.v4()), MARK);
    let capture = Capture::start(&c1.ns, "eth0", &["udp"]);
    let socket = VtepSocket::open(&pair.host2.ns, pair.host2.underlay, pair.host1.underlay);
    for _ in 0..3 {
        socket.send(&vxlan(8, VNI, &frame));
    }
    let refused = || {
        let drops = pair.host1.peer_at(pair.host2.underlay).traffic.drops;
        drops.get("in_clear").copied()
    };
    wait_until(SOON, "they are counted", || refused() == Some(3));
    assert_eq!(capture.stop().frames.len(), 0);
    let refusal = pair
        .host1
        .refused(&["network", "vtep", "add", "dark", "10.99.0.9"]);
    assert!(refusal.message.contains("encrypted"), "{refusal:?}");
}

#[test]
fn a_node_that_is_removed_is_cut_off_at_once() {
    let hosts = Hosts::up(Lab::new(), 3);
    let [host1, host2, host3] = &hosts.hosts[..] else {
        panic!("three hosts")
    };
    create(host1, "dark");
    let containers = [host1, host2, host3].map(|host| {
        let name = format!("c-{}", host.name);
        hosts.lab.container(host, "dark", &name, &[])
    });
    hosts.wait_in_sync();
    let [c1, c2, c3] = &containers;
    wait_for_answers(c1, c3);
    wait_for_answers(c2, c3);
    host1.weft(&["nodes", "rm", "host3"]);
    let patience = Duration::from_secs(1);
    for host in [host1, host2] {
        wait_until(patience, "the session is closed", || {
            tunnel(host, host3).is_none()
        });
    }
    assert!(!answers(&c1.ns, c3.ip()) && !answers(&c3.ns, c1.ip()));
    wait_for_answers(c1, c2);
}

#[test]
fn the_path_mtu_of_encrypted_networks_is_measured_and_followed() {
    let routed = Routed::up(Lab::new());
    let pair = &routed.pair;
    let [c1, c2] = dark(pair);
    wait_for_answers(&c1, &c2);
    ping_full(&c1.ns, c2.ip(), MTU);
    routed.silence();
    routed.narrow(1300);
    let inner = MTU - 200;
    let what = "containers follow the narrow path";
    wait_until(Duration::from_secs(20), what, || {
        let ports = pair.host1.ports();
        // Probes are sent where frames are.
        let _ = answers(&c1.ns, c2.ip());
        ports.iter().all(|port| port.mtu.value() == inner)
    });
    ping_full(&c1.ns, c2.ip(), inner);
    transfer(&c1.ns, &c2.ns, c2.ip(), TRANSFER_LEN);
}
