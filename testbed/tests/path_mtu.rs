//! The path MTU is measured: the underlay narrows and widens in mid-transfer, and nobody set anything.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_testbed::lab::traffic::{ping_full, transfer};
use weft_testbed::lab::verdict::{wait_for, wait_until};
use weft_testbed::layout::Routed;
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Container, Host, Lab, Pair};

const SECOND: Duration = Duration::from_secs(1);

/// A TCP stream that never ends by itself, and the longest time in which nothing of it arrived.
struct Stream {
    stop: Arc<AtomicBool>,
    gap_micros: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    fn start(from: &Container, to: &Container) -> Self {
        let listener = to.ns.enter(|| TcpListener::bind((to.ip(), 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut sender = from.ns.enter(|| TcpStream::connect(address).unwrap());
        let (mut receiver, _) = listener.accept().unwrap();
        sender.set_write_timeout(Some(10 * SECOND)).unwrap();
        receiver.set_read_timeout(Some(10 * SECOND)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let gap_micros = Arc::new(AtomicU64::new(0));
        let longest = Arc::clone(&gap_micros);
        let sending = thread::spawn(move || {
            let block = [7; 64 << 10];
            while !stopped.load(Ordering::Relaxed) {
                sender.write_all(&block).unwrap();
                // Some 100 Mb/s: the machine has other things to do.
                thread::sleep(Duration::from_millis(5));
            }
        });
        let receiving = thread::spawn(move || {
            let (mut block, mut last) = ([0; 64 << 10], Instant::now());
            while receiver.read(&mut block).unwrap() > 0 {
                let gap = u64::try_from(last.elapsed().as_micros()).unwrap();
                longest.fetch_max(gap, Ordering::Relaxed);
                last = Instant::now();
            }
        });
        Self {
            stop,
            gap_micros,
            threads: vec![sending, receiving],
        }
    }

    /// The longest gap since this was asked last.
    fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.gap_micros.swap(0, Ordering::Relaxed))
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn blue(pair: &Pair) -> (Container, Container) {
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    (near, far)
}

fn set_underlay(host: &Host, mtu: u32) {
    let mtu = mtu.to_string();
    host.ns.ip(&["link", "set", UNDERLAY_IFNAME, "mtu", &mtu]);
}

/// Waits until both containers' interfaces have these MTUs, and `weft peers` says so.
fn wait_mtus(pair: &Pair, ends: [&Container; 2], mtus: [u32; 2]) {
    let hosts = [&pair.host1, &pair.host2];
    let there = [pair.host2.underlay, pair.host1.underlay];
    let seen = || -> Vec<(u64, u32)> {
        let each = ends.iter().zip(hosts).zip(there);
        each.map(|((container, host), peer)| {
            let mtu = container.ns.link("eth0")["mtu"].as_u64().unwrap();
            (mtu, host.peer_at(peer).mtu.value())
        })
        .collect()
    };
    let wanted: Vec<_> = mtus.into_iter().map(|mtu| (mtu.into(), mtu)).collect();
    wait_for(
        20 * SECOND,
        "MTU of each container and of its host's path",
        &wanted,
        seen,
    );
}

fn wait_mtu(pair: &Pair, (near, far): (&Container, &Container), mtu: u32) {
    wait_mtus(pair, [near, far], [mtu; 2]);
}

/// Real segments on the underlay: a veth passes a train whole, however long it is.
fn without_trains(host: &Host) {
    let off = ["-K", UNDERLAY_IFNAME, "tx-udp-segmentation", "off"];
    host.ns.run("ethtool", &off).expect_done();
}

/// What a veth takes beyond the MTU of its other end: room for a tag.
const VETH_SLACK: u32 = 4;

#[test]
fn a_path_that_narrows_in_mid_transfer_stalls_nobody_for_a_second_and_is_used_whole_afterwards() {
    let pair = Pair::up(Lab::alone());
    without_trains(&pair.host1);
    without_trains(&pair.host2);
    let (near, far) = blue(&pair);
    wait_mtu(&pair, (&near, &far), 1450);
    let (there, back) = (Stream::start(&near, &far), Stream::start(&far, &near));
    thread::sleep(SECOND);
    let _ = (there.longest_gap(), back.longest_gap());
    // From host1 it is a black hole: what is longer than the other end of the veth takes vanishes. From host2 it is
    // the local link that was lowered.
    set_underlay(&pair.host2, 1300);
    thread::sleep(3 * SECOND);
    let gaps = [there.longest_gap(), back.longest_gap()];
    weft_testbed::lab::say(&format!("longest gaps after the drop to 1300: {gaps:?}"));
    assert!(gaps.iter().all(|gap| *gap < SECOND), "{gaps:?}");
    wait_mtus(&pair, [&near, &far], [1250 + VETH_SLACK, 1250]);
    set_underlay(&pair.host2, 1500);
    wait_mtu(&pair, (&near, &far), 1450);
    let gaps = [there.longest_gap(), back.longest_gap()];
    weft_testbed::lab::say(&format!("longest gaps on the way back to 1500: {gaps:?}"));
    assert!(gaps.iter().all(|gap| *gap < SECOND), "{gaps:?}");
    ping_full(&near.ns, far.ip(), 1450);
    there.finish();
    back.finish();
}

#[test]
fn jumbo_frames_of_the_underlay_are_used_without_a_setting_also_when_they_come_later() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair);
    wait_mtu(&pair, (&near, &far), 1450);
    set_underlay(&pair.host1, 9000);
    set_underlay(&pair.host2, 9000);
    wait_mtu(&pair, (&near, &far), 8950);
    ping_full(&near.ns, far.ip(), 8950);
    ping_full(&far.ns, near.ip(), 8950);
    transfer(&near.ns, &far.ns, far.ip(), 4_000_037);
    let late = pair.lab.container(&pair.host1, "blue", "late", &[]);
    assert_eq!(late.ns.link("eth0")["mtu"], 8950);
    // A new agent has to measure first; nobody notices.
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    let until = Instant::now() + 5 * SECOND;
    while Instant::now() < until {
        assert_eq!(near.ns.link("eth0")["mtu"], 8950);
        thread::sleep(SECOND / 50);
    }
    ping_full(&near.ns, far.ip(), 8950);
}

/// Sends datagrams until one arrives: a sender's kernel that was told what is too big cuts the next ones.
fn datagram_arrives(from: &Container, to: &Container, len: usize) {
    let receiver = to.ns.enter(|| UdpSocket::bind((to.ip(), 0)).unwrap());
    let sender = from.ns.enter(|| UdpSocket::bind((from.ip(), 0)).unwrap());
    receiver.set_read_timeout(Some(SECOND / 5)).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let arrived = (0..10).any(|_| {
        sender
            .send_to(&vec![7; len], receiver.local_addr().unwrap())
            .unwrap();
        receiver.recv(&mut buffer).ok() == Some(len)
    });
    assert!(arrived, "{len} bytes from {} to {}", from.ip(), to.ip());
}

#[test]
fn a_router_in_between_that_narrows_is_followed_whether_it_says_so_or_not() {
    for silent in [false, true] {
        let routed = Routed::up(Lab::alone());
        let pair = &routed.pair;
        if silent {
            routed.silence();
        }
        without_trains(&pair.host1);
        let (near, far) = blue(pair);
        wait_mtu(pair, (&near, &far), 1450);
        let there = Stream::start(&near, &far);
        thread::sleep(SECOND);
        let _ = there.longest_gap();
        routed.narrow(1300);
        thread::sleep(3 * SECOND);
        let gap = there.longest_gap();
        weft_testbed::lab::say(&format!(
            "longest gap after a router's link narrowed (silent: {silent}): {gap:?}"
        ));
        assert!(gap < SECOND, "{gap:?}");
        wait_mtus(pair, [&near, &far], [1250, 1250 + VETH_SLACK]);
        routed.narrow(1500);
        wait_mtu(pair, (&near, &far), 1450);
        ping_full(&near.ns, far.ip(), 1450);
        there.finish();
    }
}

#[test]
fn a_network_whose_mtu_was_set_too_high_tells_its_senders_what_fits() {
    let routed = Routed::up(Lab::new());
    let pair = &routed.pair;
    routed.narrow(1300);
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
        "--mtu",
        "1450",
    ]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    wait_until(10 * SECOND, "the path was measured", || {
        pair.host1.peer_at(pair.host2.underlay).mtu.value() == 1250
    });
    assert_eq!(near.ns.link("eth0")["mtu"], 1450);
    datagram_arrives(&near, &far, 1400);
    let drops = pair.host1.peer_at(pair.host2.underlay).traffic.drops;
    assert!(drops["too_big"] > 0, "{drops:?}");
    // Connections begin with segments that fit, both ways.
    transfer(&near.ns, &far.ns, far.ip(), 1_000_003);
    transfer(&far.ns, &near.ns, near.ip(), 1_000_003);
}
