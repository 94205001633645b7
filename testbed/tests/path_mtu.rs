//! The path MTU is measured: the underlay narrows and widens in mid-transfer, and nobody set anything.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use weft_testbed::lab::traffic::{ping_full, transfer};
use weft_testbed::lab::verdict::wait_until;
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

/// Waits until both containers' interfaces have that MTU, and `weft peers` says so.
fn wait_mtu(pair: &Pair, (near, far): (&Container, &Container), mtu: u32) {
    let has = |container: &Container| container.ns.link("eth0")["mtu"] == mtu;
    let what = format!("both containers have MTU {mtu}");
    wait_until(20 * SECOND, &what, || has(near) && has(far));
    assert_eq!(pair.host1.peer_at(pair.host2.underlay).mtu.value(), mtu);
}

#[test]
fn a_path_that_narrows_in_mid_transfer_stalls_nobody_for_a_second_and_is_used_whole_afterwards() {
    let pair = Pair::up(Lab::alone());
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
    wait_mtu(&pair, (&near, &far), 1250);
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
}
