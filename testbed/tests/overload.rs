//! Containers that take nothing, or can't: the agent neither grows nor keeps others waiting, and says what it dropped.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use weft_control::api::Traffic;
use weft_testbed::lab::echo::{Times, one_way_times};
use weft_testbed::lab::say;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{counts, growth, resident_kib, wait_until};
use weft_testbed::{Container, Lab, Pair};

/// Where the sink is flooded.
const SINK_PORT: u16 = 7777;

/// What an agent may grow by: nothing but what allocators keep.
const GROWTH_MAX_KIB: u64 = 8 << 10;

/// The first host's containers: two neighbours who want to talk, and two who are to make trouble.
struct Scene {
    pair: Pair,
    calm: [Container; 2],
    sender: Container,
    sink: Container,
}

impl Scene {
    fn set() -> Self {
        let pair = Pair::up(Lab::new());
        pair.host1
            .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
        let container = |name| pair.lab.quiet_container(&pair.host1, "blue", name, &[]);
        let calm = ["calm1", "calm2"].map(container);
        let (sender, sink) = (container("sender"), container("sink"));
        Self {
            pair,
            calm,
            sender,
            sink,
        }
    }

    /// Traffic counters of a container's port.
    fn traffic(&self, container: &Container) -> Traffic {
        self.pair.host1.port_of(&container.ns).traffic
    }

    /// Floods the sink while the neighbours talk: how that went for them, and how many datagrams the sender's kernel
    /// took.
    fn flooded(&self) -> (Times, u64) {
        let from = self
            .sender
            .ns
            .enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        from.connect((self.sink.ip(), SINK_PORT)).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let flood = scope.spawn(|| flood(&from, &stop));
            let [near, far] = &self.calm;
            let times = one_way_times(&near.ns, (&far.ns, far.ip()), Duration::from_secs(1));
            stop.store(true, Ordering::Relaxed);
            (times, flood.join().unwrap())
        })
    }

    /// The neighbours lost nothing and waited for no queue; the agent holds nothing more than it did.
    fn unharmed(&self, times: &Times, resident_before: u64) {
        assert_eq!(times.lost, 0);
        let worst = times.percentile(0.99);
        say(&format!(
            "neighbours: {:?} at the median, {worst:?} at the 99th percentile of {}",
            times.percentile(0.5),
            times.count()
        ));
        assert!(worst < Duration::from_millis(100), "{worst:?}");
        let resident = resident_kib(self.pair.host1.agent().pid());
        let grown = resident.saturating_sub(resident_before);
        assert!(grown < GROWTH_MAX_KIB, "the agent grew by {grown} KiB");
    }
}

fn flood(from: &UdpSocket, stop: &AtomicBool) -> u64 {
    let mut taken = 0;
    while !stop.load(Ordering::Relaxed) {
        // What the own kernel refuses is no traffic; an ICMP answer to an earlier one shows here too.
        taken += u64::from(from.send(&[0x5a; 700]).is_ok());
    }
    taken
}

#[test]
fn a_container_that_reads_nothing_keeps_nobody_waiting_and_fills_no_memory() {
    let scene = Scene::set();
    let ip = scene.sink.ip();
    let _deaf = scene
        .sink
        .ns
        .enter(|| UdpSocket::bind((ip, SINK_PORT)).unwrap());
    // One that doesn't read TCP either: its window closes.
    let listener = scene.sink.ns.enter(|| TcpListener::bind((ip, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    let mut stream = scene
        .sender
        .ns
        .enter(|| TcpStream::connect(address).unwrap());
    let _unread = listener.accept().unwrap();
    stream
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let stuck = loop {
        if let Err(error) = stream.write(&[0; 1 << 16]) {
            break error;
        }
    };
    assert_eq!(stuck.kind(), ErrorKind::WouldBlock, "{stuck}");

    // The first flood makes everything as large as it gets.
    scene.flooded();
    let before = resident_kib(scene.pair.host1.agent().pid());
    let (times, taken) = scene.flooded();
    assert!(taken > 1000, "{taken}");
    scene.unharmed(&times, before);
    // The container's kernel took them all and dropped them at the full socket: none of it is the agent's.
    assert_eq!(scene.traffic(&scene.sink).drops, BTreeMap::new());
}

#[test]
fn what_a_container_cannot_take_is_counted_by_reason_and_harms_nobody() {
    let scene = Scene::set();
    ping(&scene.sender.ns, scene.sink.ip());
    // The sender shall not ask who that is when nobody answers.
    let mac = scene.sink.mac().to_string();
    let ip = scene.sink.ip().to_string();
    scene
        .sender
        .ns
        .ip(&["neigh", "replace", &ip, "lladdr", &mac, "dev", "eth0"]);
    scene.sink.ns.ip(&["link", "set", "eth0", "down"]);
    scene.flooded();
    let resident = resident_kib(scene.pair.host1.agent().pid());
    let before = [&scene.sender, &scene.sink].map(|container| scene.traffic(container));
    let (times, taken) = scene.flooded();
    scene.unharmed(&times, resident);
    assert!(taken > 1000, "{taken}");
    // Every frame that the agent read for the sink is one that it says it dropped; no other reason.
    wait_until(
        Duration::from_secs(2),
        "every frame is accounted for",
        || {
            let after = [&scene.sender, &scene.sink].map(|container| scene.traffic(container));
            let read = after[0].rx_frames - before[0].rx_frames;
            let dropped = growth(&before[1].drops, &after[1].drops);
            read > 1000 && dropped == counts(&[("port_down", read)])
        },
    );
    assert_eq!(scene.traffic(&scene.sink).tx_frames, before[1].tx_frames);
    scene.sink.ns.ip(&["link", "set", "eth0", "up"]);
    ping(&scene.sender.ns, scene.sink.ip());
}
