//! The switch with its threads, on real TAPs. These need root, `/dev/net/tun` and the `ip` program; traffic stays in
//! namespaces they make. One at a time: they look at the process's file descriptors and processor time.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use weft_switch::port::{PortKind, Queue, TapDevice, create_tap};
use weft_switch::{
    FdbKind, NetworkMode, NetworkSpec, Place, PortEvent, PortSpec, Switch, SwitchConfig, TooBig,
    Uplink,
};
use weft_wire::{EtherType, EthernetFrame, FrameRef, MacAddr, Mtu, PeerId, PortId, Vni};

fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
    guard
}

fn ip(args: &[&str]) {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("these tests need the ip program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "ip {args:?} failed (these tests need root): {stderr}"
    );
}

/// A container's namespace that goes with the test.
struct Container(String);

impl Container {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-tw{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self(name)
    }

    /// Moves a TAP in as `eth0`, with an address, up.
    fn plug(&self, tap: &TapDevice, address: &str) {
        ip(&["link", "set", &tap.name, "netns", &self.0, "name", "eth0"]);
        ip(&["-n", &self.0, "addr", "add", address, "dev", "eth0"]);
        ip(&["-n", &self.0, "link", "set", "eth0", "up"]);
    }

    fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.0)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// A tunnel whose far end the test holds: a datagram is a frame of network blue, to or from peer 3.
struct Wire(UnixDatagram);

const FAR: PeerId = PeerId(3);
/// The longest frame that gets there.
const NARROW: usize = 1014;

impl Uplink for Wire {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.0.as_fd()]
    }

    fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TooBig> {
        assert_eq!((peer, vni), (FAR, blue()));
        if frame.bytes.len() > NARROW {
            return Err(TooBig {
                mtu: Mtu::new(1000).unwrap(),
            });
        }
        self.0.send(frame.bytes).unwrap();
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, _: usize, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        let mut buffer = [0; 2048];
        let Ok(len) = self.0.recv(&mut buffer) else {
            return 0;
        };
        sink(FAR, blue(), FrameRef::plain(&buffer[..len]));
        1
    }
}

/// A host without tunnels.
struct NoUplink;

impl Uplink for NoUplink {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn send(&mut self, _: PeerId, _: Vni, _: FrameRef<'_>) -> Result<(), TooBig> {
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, _: usize, _: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        0
    }
}

fn blue() -> Vni {
    Vni::new(100).unwrap()
}

fn switch(workers: usize) -> (Switch, Receiver<PortEvent>) {
    switch_with(
        (0..workers)
            .map(|_| Box::new(NoUplink) as Box<dyn Uplink>)
            .collect(),
    )
}

fn switch_with(uplinks: Vec<Box<dyn Uplink>>) -> (Switch, Receiver<PortEvent>) {
    let workers = uplinks.len();
    let (events, received) = channel();
    let events = Mutex::new(events);
    let notify = Box::new(move |event| events.lock().unwrap().send(event).unwrap());
    let switch = Switch::start(SwitchConfig { workers }, uplinks, notify).unwrap();
    switch.set_network(NetworkSpec {
        vni: blue(),
        name: "blue".to_owned(),
        mtu: Mtu::ETHERNET,
        ageing: Duration::from_secs(300),
        mode: NetworkMode::Routed,
        flood_peers: vec![FAR],
        gateways: Vec::new(),
        routes: Arc::default(),
        internal: false,
        isolate: false,
    });
    (switch, received)
}

fn add(switch: &Switch, tap: &mut TapDevice) -> PortId {
    let queues = tap
        .queues
        .drain(..)
        .map(|fd| Queue::from_fd(fd, tap.kind).unwrap())
        .collect();
    let (name, network) = (tap.name.clone(), blue());
    switch
        .add_port(PortSpec {
            name,
            network,
            guard: None,
            queues,
        })
        .unwrap()
}

/// Sends `bytes` from one container to the other by TCP.
fn transfer(from: &Container, to: &Container, bytes: usize) {
    thread::scope(|scope| {
        let (ready, listening) = channel();
        let server = scope.spawn(move || {
            to.enter();
            let listener = TcpListener::bind("10.9.0.2:700").unwrap();
            ready.send(()).unwrap();
            let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            assert_eq!(
                poll(&mut ready, PollTimeout::from(10_000u16)),
                Ok(1),
                "nobody connects"
            );
            let mut stream = listener.accept().unwrap().0;
            stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            received.len()
        });
        listening.recv().unwrap();
        scope.spawn(move || {
            from.enter();
            let address = "10.9.0.2:700".parse().unwrap();
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(10)).unwrap();
            stream.write_all(&vec![0x5a; bytes]).unwrap();
        });
        assert_eq!(server.join().unwrap(), bytes);
    });
}

fn two_talk(workers: usize, left: (PortKind, usize), right: (PortKind, usize)) {
    const BYTES: usize = 8 << 20;
    let _alone = alone();
    let containers = [Container::new(), Container::new()];
    let (switch, _events) = switch(workers);
    let ids = [(left, "t0", "10.9.0.1/24"), (right, "t1", "10.9.0.2/24")];
    let ids = [0, 1].map(|side| {
        let ((kind, queues), name, address) = ids[side];
        let mut tap = create_tap(name, kind, queues).unwrap();
        containers[side].plug(&tap, address);
        add(&switch, &mut tap)
    });
    transfer(&containers[0], &containers[1], BYTES);
    // A worker counts a batch after it has sent it: the last bytes may be there before they are counted.
    let counted = Instant::now() + Duration::from_secs(5);
    let [left, right] = loop {
        let [left, right] = ids.map(|id| switch.port_stats(id).unwrap());
        if left.rx_bytes > BYTES as u64 && right.tx_bytes > BYTES as u64 {
            break [left, right];
        }
        assert!(Instant::now() < counted, "{left:?} {right:?}");
        thread::sleep(Duration::from_millis(1));
    };
    assert!(right.rx_frames > 10 && left.tx_frames > 10);
    for row in switch.fdb() {
        assert!(matches!(row.kind, FdbKind::Learned { .. }));
        assert!(ids.map(Place::Port).contains(&row.place));
    }
    assert_eq!(switch.fdb().len(), 2);
    assert_eq!(switch.all_port_stats().len(), 2);
}

#[test]
fn two_containers_talk_through_two_workers() {
    two_talk(2, (PortKind::Offload, 2), (PortKind::Offload, 2));
}

#[test]
fn an_offloading_port_talks_with_a_plain_one() {
    two_talk(2, (PortKind::Offload, 2), (PortKind::Plain, 1));
}

#[test]
fn every_queue_is_read_also_when_there_are_more_than_workers() {
    two_talk(1, (PortKind::Offload, 4), (PortKind::Offload, 3));
}

/// Of this process, in hundredths of a second.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split(' ');
    // User and system time: fields 14 and 15 of proc_pid_stat(5), of which 2 are before the name's end.
    fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_deleted_namespace_is_told_once_and_costs_nothing_after() {
    let _alone = alone();
    let (switch, events) = switch(2);
    let container = Container::new();
    let mut tap = create_tap("t0", PortKind::Offload, 2).unwrap();
    container.plug(&tap, "10.9.0.1/24");
    let id = add(&switch, &mut tap);
    drop(container);
    let event = events.recv_timeout(Duration::from_secs(1)).unwrap();
    assert_eq!(event, PortEvent::Gone(id));
    let before = processor_time();
    assert!(
        events.recv_timeout(Duration::from_millis(400)).is_err(),
        "told twice"
    );
    let spent = processor_time() - before;
    assert!(
        spent < 40_000,
        "{spent} us of processor time in 400 ms: something spins"
    );
    assert!(switch.port_stats(id).is_some());
    switch.remove_port(id);
    assert!(switch.port_stats(id).is_none());
}

#[test]
fn a_port_that_was_dead_when_it_was_added_is_told_too() {
    let _alone = alone();
    let (switch, events) = switch(2);
    let container = Container::new();
    let mut tap = create_tap("t0", PortKind::Offload, 1).unwrap();
    container.plug(&tap, "10.9.0.1/24");
    let queue = Queue::from_fd(tap.queues.remove(0), tap.kind).unwrap();
    drop(container);
    let patience = Instant::now() + Duration::from_secs(2);
    let mut buffer = vec![0; weft_switch::port::RECV_BUFFER_LEN];
    while queue.recv(&mut buffer).err() != Some(weft_switch::port::RecvError::Gone) {
        assert!(Instant::now() < patience, "the TAP outlives its namespace");
        thread::sleep(Duration::from_millis(5));
    }
    let spec = PortSpec {
        name: "t0".to_owned(),
        network: blue(),
        guard: None,
        queues: vec![queue],
    };
    let id = switch.add_port(spec).unwrap();
    let event = events.recv_timeout(Duration::from_millis(200)).unwrap();
    assert_eq!(event, PortEvent::Gone(id));
}

#[test]
fn ports_that_come_and_go_leave_no_descriptor_behind_and_their_devices_die_at_once() {
    let _alone = alone();
    let (switch, _events) = switch(3);
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open();
    for round in 0..200 {
        let name = format!("t{round}");
        let mut tap = create_tap(&name, PortKind::Offload, 1 + round % 3).unwrap();
        let id = add(&switch, &mut tap);
        assert_eq!(id, PortId(0), "the number is free again");
        switch.remove_port(id);
        let gone = nix::net::if_::if_nametoindex(name.as_str()).is_err();
        assert!(gone, "somebody still holds {name}");
    }
    assert_eq!(open(), before);
}

#[test]
fn a_switch_that_is_dropped_ends_its_threads_and_closes_its_ports() {
    let _alone = alone();
    let (switch, _events) = switch(2);
    let mut tap = create_tap("t0", PortKind::Offload, 2).unwrap();
    add(&switch, &mut tap);
    drop(switch);
    assert!(
        nix::net::if_::if_nametoindex("t0").is_err(),
        "somebody still holds t0"
    );
}

#[test]
fn a_container_and_a_station_behind_a_tunnel_find_each_other() {
    let _alone = alone();
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (switch, _events) = switch_with(vec![Box::new(Wire(near))]);
    let container = Container::new();
    let mut tap = create_tap("t0", PortKind::Plain, 1).unwrap();
    container.plug(&tap, "10.9.0.1/24");
    let id = add(&switch, &mut tap);

    let sender = || {
        container.enter();
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        socket.send_to(b"over there", "10.9.0.2:9").unwrap();
    };
    thread::scope(|scope| scope.spawn(sender).join().unwrap());
    let station = MacAddr([2, 0, 0, 0, 0, 9]);
    let mut buffer = [0; 2048];
    let datagram = loop {
        let len = far.recv(&mut buffer).unwrap();
        let frame = EthernetFrame::new(&buffer[..len]).unwrap();
        match frame.ethertype() {
            EtherType::ARP => {
                let request = weft_wire::Arp::new(frame.payload()).unwrap().message();
                assert_eq!(request.target_ip.to_string(), "10.9.0.2");
                far.send(&request.answer(station).to_frame()).unwrap();
            }
            EtherType::IPV4 if frame.destination() == station => break buffer[..len].to_vec(),
            // The container's kernel introduces itself to everybody.
            _ => {}
        }
    };
    assert!(datagram.ends_with(b"over there"));

    // The worker counts when it has sent.
    let patience = Instant::now() + Duration::from_secs(2);
    while switch.peer_stats(FAR).tx_frames < 2 && Instant::now() < patience {
        thread::sleep(Duration::from_millis(1));
    }
    let stats = switch.peer_stats(FAR);
    assert!(stats.rx_frames >= 1 && stats.tx_frames >= 2, "{stats:?}");
    assert_eq!(
        (
            stats.drops.total(),
            switch.port_stats(id).unwrap().drops.total()
        ),
        (0, 0)
    );
    let there = |row: &weft_switch::FdbRow| row.place == Place::Peer(FAR);
    assert!(
        switch
            .fdb()
            .iter()
            .any(|row| there(row) && row.mac == station)
    );
    switch.flush_peer(FAR);
    assert!(!switch.fdb().iter().any(there));
    assert_eq!(switch.peer_stats(FAR).rx_frames, 0);
}

#[test]
fn who_sends_more_than_gets_there_is_told_how_much_does() {
    let _alone = alone();
    let (near, far) = UnixDatagram::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (switch, _events) = switch_with(vec![Box::new(Wire(near))]);
    let container = Container::new();
    let mut tap = create_tap("t0", PortKind::Offload, 1).unwrap();
    container.plug(&tap, "10.9.0.1/24");
    ip(&[
        "-n",
        &container.0,
        "neigh",
        "add",
        "10.9.0.2",
        "lladdr",
        "02:00:00:00:00:09",
        "dev",
        "eth0",
    ]);
    add(&switch, &mut tap);
    let sender = || {
        container.enter();
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        // The first is too long; when that was said the kernel cuts the others.
        for _ in 0..3 {
            socket.send_to(&[7; 1200], "10.9.0.2:9").unwrap();
            thread::sleep(Duration::from_millis(100));
        }
    };
    thread::scope(|scope| scope.spawn(sender).join().unwrap());
    let mut buffer = [0; 2048];
    let mut fragments = Vec::new();
    while fragments.len() < 4 {
        let len = far.recv(&mut buffer).unwrap();
        let frame = EthernetFrame::new(&buffer[..len]).unwrap();
        if frame.ethertype() == EtherType::IPV4 {
            let packet = weft_wire::Ipv4::new(frame.payload()).unwrap();
            fragments.push((packet.is_fragment(), packet.payload().len()));
        }
    }
    // 1000 bytes with a header take 976 of a fragment, a multiple of eight.
    let datagram = [(true, 976), (true, 8 + 1200 - 976)];
    assert_eq!(fragments, [datagram, datagram].concat());
}
