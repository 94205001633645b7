//! The way out under many flows and under containers that mean no good: bounded, and no harm to others.

#![allow(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, connect, socket};
use weft_control::api::NetworkEgress;
use weft_control::holder::raise_fd_limit;
use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Host, Lab, Outside, Pair};

const PATIENCE: Duration = Duration::from_secs(20);
/// Connections at once.
const FLOWS: usize = 10_000;
/// Threads that open them.
const THREADS: usize = 8;

fn way_of(host: &Host, network: &str) -> NetworkEgress {
    let ways: Vec<NetworkEgress> = host.json(&["egress", "--network", network]);
    ways.into_iter().next().unwrap()
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// One byte there, and its complement back.
fn exchange(client: &mut TcpStream, byte: u8) {
    let mut heard = [0];
    client.write_all(&[byte]).unwrap();
    client.read_exact(&mut heard).unwrap();
    assert_eq!(heard[0], !byte);
}

#[test]
fn ten_thousand_connections_hold() {
    raise_fd_limit();
    let pair = Pair::up(Lab::alone());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let inner = pair.lab.container(&pair.host1, "blue", "inner", &[]);
    // The other ends are a process of their own: few may have twenty thousand file descriptors.
    let to = SocketAddr::new(outside.addresses()[0], 7_000);
    let hold = env!("CARGO_BIN_EXE_weft-hold");
    let server = outside.ns.spawn("hold", hold, &[&to.to_string()]);
    wait_until(PATIENCE, "weft-hold listens", || {
        server.log().contains("listening")
    });
    let agent = pair.host1.agent().pid();
    let before = resident(agent);
    let began = Instant::now();
    let open = |thread: usize| {
        inner.ns.enter(|| {
            let numbers = (thread..FLOWS).step_by(THREADS);
            let connects = numbers.map(|number| {
                let stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                (number, stream)
            });
            connects.collect::<Vec<_>>()
        })
    };
    let open = &open;
    let mut clients: Vec<(usize, TcpStream)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| scope.spawn(move || open(thread)))
            .collect();
        let opened = threads.into_iter().map(|thread| thread.join().unwrap());
        opened.flatten().collect()
    });
    assert_eq!(clients.len(), FLOWS);
    let way = way_of(&pair.host1, "blue");
    assert!(way.tcp_flows >= FLOWS as u64, "{way:?}");
    // Each of them carries, and again after all of them have.
    for round in 0..2 {
        for (number, client) in &mut clients {
            exchange(client, u8::try_from((*number + round) % 251).unwrap());
        }
    }
    let grown = resident(agent).saturating_sub(before);
    weft_testbed::lab::say(&format!(
        "{FLOWS} connections in {:?}, the agent grew by {} KiB",
        began.elapsed(),
        grown / 1024
    ));
    assert!(grown < FLOWS * 8 * 1024, "{grown} bytes");
    // There is room for another, and for traffic.
    transfer(&inner.ns, &outside.ns, outside.addresses()[0], 1_000_000);
    drop(clients);
    wait_until(PATIENCE, "all flows are forgotten", || {
        way_of(&pair.host1, "blue").tcp_flows == 0
    });
}

#[test]
fn a_container_that_scans_is_bounded_and_harms_nobody() {
    raise_fd_limit();
    let pair = Pair::up(Lab::new());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    let to = outside.addresses()[0];
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let bad = pair.lab.container(&pair.host1, "blue", "bad", &[]);
    let good = pair.lab.container(&pair.host1, "blue", "good", &[]);
    // SYNs to where nobody answers, so that every dial takes its time.
    pair.host1.ns.ip(&[
        "neigh",
        "add",
        "192.0.2.66",
        "lladdr",
        "02:00:00:00:00:66",
        "dev",
        "o0",
    ]);
    let dials: Vec<OwnedFd> = bad.ns.enter(|| {
        let dials = (0..3_000u16).map(|i| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let dial = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
            // Under way.
            let _ = connect(dial.as_raw_fd(), &SockaddrIn::new(192, 0, 2, 66, 1000 + i));
            dial
        });
        dials.collect()
    });
    // Datagrams to as many ports as there are.
    let datagrams = bad.ns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for port in 1..=9_000u16 {
        let _ = datagrams.send_to(b"?", (to, port));
    }
    let refused = |way: &NetworkEgress, why: &str| way.refused.get(why).copied().unwrap_or(0);
    wait_until(PATIENCE, "the scan meets its bounds", || {
        refused(&way_of(&pair.host1, "blue"), "container_flows_full") > 1_000
    });
    let way = way_of(&pair.host1, "blue");
    assert!(way.tcp_flows <= 1_024 && way.udp_flows <= 4_096, "{way:?}");
    // Somebody else notices nothing.
    ping(&good.ns, to);
    let began = Instant::now();
    transfer(&good.ns, &outside.ns, to, 3_000_000);
    assert!(began.elapsed() < PATIENCE);
    // Questions without answers are forgotten, and so are the dials when the container is gone.
    drop(dials);
    pair.host1.disconnect("blue", &bad.ns);
    wait_until(PATIENCE, "what it had is gone", || {
        let way = way_of(&pair.host1, "blue");
        way.tcp_flows <= 1 && way.udp_flows == 0
    });
}
