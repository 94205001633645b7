//! With real TAPs: these need root, `/dev/net/tun` and the `ip` program. Each test has a network namespace of its own
//! for a host (its thread's), and named ones for containers.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZeroU16;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use weft_wire::{Gso, GsoKind, Offload, PartialChecksum};

use super::*;

/// A container's namespace that goes with the test.
struct Container {
    name: String,
}

impl Container {
    fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("weft-ts{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        Self { name }
    }

    /// Moves a TAP in as `eth0`, with an address, up.
    fn plug(&self, tap: &TapDevice, address: &str) {
        ip(&[
            "link", "set", &tap.name, "netns", &self.name, "name", "eth0",
        ]);
        ip(&["-n", &self.name, "addr", "add", address, "dev", "eth0"]);
        ip(&["-n", &self.name, "link", "set", "eth0", "up"]);
    }

    fn delete(&self) {
        ip(&["netns", "del", &self.name]);
    }

    /// For a thread that ends with its work.
    fn enter(&self) {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .output();
    }
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

/// A fresh network namespace for the calling test's thread: what it makes goes with it.
fn own_host() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
}

fn tap(name: &str, kind: PortKind, queues: usize) -> (TapDevice, Vec<Queue>) {
    let device = create_tap(name, kind, queues).unwrap();
    let queues = device.queues.iter();
    let queues = queues
        .map(|fd| Queue::from_fd(fd.try_clone().unwrap(), kind).unwrap())
        .collect();
    (device, queues)
}

fn ready(queue: &Queue, patience: Duration) -> Option<PollFlags> {
    let mut fds = [PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(patience).unwrap();
    (poll(&mut fds, timeout).unwrap() > 0).then(|| fds[0].revents().unwrap())
}

/// Carries frames both ways until told to stop; says how long the longest was.
fn forward(a: &Queue, b: &Queue, stop: &AtomicBool) -> usize {
    let mut buffer = vec![0; RECV_BUFFER_LEN];
    let mut longest = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (from, to) in [(a, b), (b, a)] {
            if let Ok(frame) = from.recv(&mut buffer) {
                idle = false;
                longest = longest.max(frame.bytes.len());
                let _ = to.send(frame);
            }
        }
        if idle {
            thread::sleep(Duration::from_micros(50));
        }
    }
    longest
}

/// One TCP transfer between two containers through the two ports; returns the longest frame seen.
fn transfer(ports: [(PortKind, &str); 2]) -> usize {
    const BYTES: usize = 4 << 20;
    own_host();
    let containers = [Container::new(), Container::new()];
    let [(left, _left_fds), (right, _right_fds)] = [0, 1].map(|side| {
        let (kind, address) = ports[side];
        let (device, mut queues) = tap(&format!("t{side}"), kind, 1);
        containers[side].plug(&device, address);
        (queues.remove(0), device)
    });
    let stop = AtomicBool::new(false);
    let data: Vec<u8> = (0..BYTES)
        .map(|i| (i * 7 + i / 251).to_le_bytes()[0])
        .collect();
    thread::scope(|scope| {
        let forwarder = scope.spawn(|| forward(&left, &right, &stop));
        let server = scope.spawn(|| {
            containers[1].enter();
            let listener = TcpListener::bind("10.9.0.2:700").unwrap();
            let mut received = Vec::new();
            listener
                .accept()
                .unwrap()
                .0
                .read_to_end(&mut received)
                .unwrap();
            received
        });
        let client = scope.spawn(|| {
            containers[0].enter();
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut stream = loop {
                match TcpStream::connect("10.9.0.2:700") {
                    Ok(stream) => break stream,
                    Err(error) if Instant::now() > deadline => panic!("{error}"),
                    Err(_) => thread::sleep(Duration::from_millis(10)),
                }
            };
            stream.write_all(&data).unwrap();
        });
        client.join().unwrap();
        assert!(server.join().unwrap() == data, "the data arrived changed");
        stop.store(true, Ordering::Relaxed);
        forwarder.join().unwrap()
    })
}

#[test]
fn superframes_cross_two_offloading_ports_whole() {
    let longest = transfer([
        (PortKind::Offload, "10.9.0.1/24"),
        (PortKind::Offload, "10.9.0.2/24"),
    ]);
    assert!(longest > 20_000, "longest frame: {longest} bytes");
}

#[test]
fn a_plain_port_takes_what_an_offloading_one_gives_and_gives_frames_back() {
    let longest = transfer([
        (PortKind::Offload, "10.9.0.1/24"),
        (PortKind::Plain, "10.9.0.2/24"),
    ]);
    assert!(longest > 20_000, "longest frame: {longest} bytes");
    let longest = transfer([
        (PortKind::Plain, "10.9.0.1/24"),
        (PortKind::Offload, "10.9.0.2/24"),
    ]);
    assert!(longest <= 1514, "longest frame: {longest} bytes");
}

/// A TCP superframe of `len` payload bytes for segments of 1,448.
fn superframe(len: usize) -> (Vec<u8>, Offload) {
    let payload: Vec<u8> = (0..len).map(|i| i.to_le_bytes()[0]).collect();
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64)
        .tcp(4000, 80, 1_000_000, 1024)
        .ack(7)
        .psh()
        .write(&mut bytes, &payload)
        .unwrap();
    let offload = Offload {
        checksum: Some(PartialChecksum {
            start: 34,
            offset: 16,
        }),
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size: NonZeroU16::new(1448).unwrap(),
            ecn: false,
        }),
    };
    (bytes, offload)
}

#[test]
fn a_superframe_leaves_a_plain_port_as_complete_frames() {
    own_host();
    // What one plain port is sent comes out of the other through the kernel's bridge.
    let (into, from) = (
        tap("p0", PortKind::Plain, 1).1,
        tap("p1", PortKind::Plain, 1).1,
    );
    ip(&[
        "link",
        "add",
        "br0",
        "type",
        "bridge",
        "mcast_snooping",
        "0",
        "forward_delay",
        "0",
    ]);
    for link in ["p0", "p1"] {
        ip(&["link", "set", link, "master", "br0", "up"]);
    }
    ip(&["link", "set", "br0", "up"]);
    thread::sleep(Duration::from_millis(50));
    let (bytes, offload) = superframe(5000);
    into[0]
        .send(FrameRef {
            tail: weft_wire::Tail::NONE,
            bytes: &bytes,
            offload,
        })
        .unwrap();

    let mut buffer = vec![0; RECV_BUFFER_LEN];
    let mut payload = Vec::new();
    while payload.len() < 5000 {
        ready(&from[0], Duration::from_secs(2)).expect("all segments arrive");
        let frame = from[0].recv(&mut buffer).unwrap();
        assert!(frame.offload.is_none());
        let packet = SlicedPacket::from_ethernet(frame.bytes).unwrap();
        // The interfaces have something to say for themselves: IPv6.
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            continue;
        };
        let (Some(net), false) = (&packet.net, tcp.source_port() != 4000) else {
            continue;
        };
        let ipv4 = net.ipv4_ref().unwrap().header();
        assert!(frame.bytes.len() <= 1514);
        assert_eq!(
            ipv4.header_checksum(),
            ipv4.to_header().calc_header_checksum()
        );
        let expected = tcp
            .calc_checksum_ipv4(ipv4.source(), ipv4.destination())
            .unwrap();
        assert_eq!(tcp.checksum(), expected);
        assert_eq!(tcp.sequence_number() as usize, 1_000_000 + payload.len());
        payload.extend_from_slice(tcp.payload());
        assert_eq!(tcp.psh(), payload.len() == 5000);
    }
    assert_eq!(payload, bytes[54..]);
}

#[test]
fn a_device_survives_a_move_and_a_rename_and_says_where_it_is() {
    own_host();
    let container = Container::new();
    let (device, queues) = tap("wander", PortKind::Offload, 2);
    assert_eq!(device_name(queues[1].as_fd()).unwrap(), "wander");
    container.plug(&device, "10.9.0.1/24");
    assert_eq!(device_name(queues[1].as_fd()).unwrap(), "eth0");
    let netns = device_netns(queues[0].as_fd()).unwrap();
    let named = std::fs::metadata(format!("/run/netns/{}", container.name)).unwrap();
    assert_eq!(
        nix::sys::stat::fstat(netns).unwrap().st_ino,
        std::os::unix::fs::MetadataExt::ino(&named)
    );
    // Somebody asks for a neighbour inside: it comes out of one of the queues.
    let _ = Command::new("ip")
        .args([
            "netns",
            "exec",
            &container.name,
            "ping",
            "-c1",
            "-W1",
            "10.9.0.9",
        ])
        .output();
    let mut buffer = vec![0; RECV_BUFFER_LEN];
    let mut arp = 0;
    for queue in &queues {
        while let Ok(frame) = queue.recv(&mut buffer) {
            arp += usize::from(frame.bytes[12..14] == [8, 6]);
        }
    }
    assert!(arp > 0, "no ARP request came out");
    // Adopting it anew, as after a restart, finds it in working order.
    let adopted = Queue::from_fd(queues[0].try_clone().unwrap().fd, PortKind::Offload).unwrap();
    assert_eq!(adopted.recv(&mut buffer).unwrap_err(), RecvError::Empty);
}

#[test]
fn the_death_of_the_namespace_shows_on_every_queue() {
    own_host();
    let container = Container::new();
    let (device, queues) = tap("mortal", PortKind::Offload, 2);
    container.plug(&device, "10.9.0.1/24");
    let (bytes, _) = superframe(100);
    assert_eq!(queues[0].send(FrameRef::plain(&bytes)), Ok(()));
    let started = Instant::now();
    container.delete();
    let mut buffer = vec![0; RECV_BUFFER_LEN];
    for queue in &queues {
        loop {
            let events = ready(queue, Duration::from_secs(1)).expect("death shows in a second");
            if events.contains(PollFlags::POLLERR) {
                break;
            }
            let _ = queue.recv(&mut buffer);
        }
        // What was read before may still be there; then the end is.
        let error = std::iter::repeat_with(|| queue.recv(&mut buffer).err()).find_map(|end| end);
        assert_eq!(error, Some(RecvError::Gone));
        assert_eq!(queue.send(FrameRef::plain(&bytes)), Err(SendError::Gone));
        let adopted = Queue::from_fd(queue.try_clone().unwrap().fd, PortKind::Offload);
        assert_eq!(adopted.unwrap_err().raw_os_error(), Some(libc::EBADFD));
    }
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_port_that_is_down_says_so() {
    own_host();
    let (bytes, _) = superframe(100);
    for kind in [PortKind::Offload, PortKind::Plain] {
        let (_device, queues) = tap("tap0", kind, 1);
        assert_eq!(
            queues[0].send(FrameRef::plain(&bytes)),
            Err(SendError::Down)
        );
        ip(&["link", "set", "tap0", "up"]);
        assert_eq!(queues[0].send(FrameRef::plain(&bytes)), Ok(()));
        assert_eq!(
            queues[0].send(FrameRef::plain(&bytes[..5])),
            Err(SendError::Malformed)
        );
    }
}

#[test]
fn closing_the_last_file_descriptor_destroys_the_device() {
    own_host();
    let container = Container::new();
    let (device, queues) = tap("brief", PortKind::Offload, 2);
    container.plug(&device, "10.9.0.1/24");
    let shows = || {
        let output = Command::new("ip")
            .args(["-n", &container.name, "link", "show", "eth0"])
            .output();
        output.unwrap().status.success()
    };
    drop(device);
    assert!(shows());
    drop(queues);
    assert!(!shows());
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    own_host();
    let (_device, queues) = tap("taken", PortKind::Offload, 1);
    for kind in [PortKind::Offload, PortKind::Plain] {
        let error = create_tap("taken", kind, 1).unwrap_err();
        assert!(matches!(error, PortError::NameTaken { .. }), "{error}");
        for name in ["", "a/b", "sixteen-bytes-xx", "x%d", "a b", ".."] {
            let error = create_tap(name, kind, 1).unwrap_err();
            assert!(matches!(error, PortError::BadName { .. }), "{error}");
        }
        for queues in [0, if kind == PortKind::Plain { 2 } else { 257 }] {
            let error = create_tap("many", kind, queues).unwrap_err();
            assert!(matches!(error, PortError::BadQueueCount { .. }), "{error}");
        }
    }
    let other_kind = Queue::from_fd(queues[0].try_clone().unwrap().fd, PortKind::Plain);
    assert_eq!(other_kind.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let no_tap = Queue::from_fd(
        std::fs::File::open("/dev/null").unwrap().into(),
        PortKind::Plain,
    );
    assert!(no_tap.is_err());
}
