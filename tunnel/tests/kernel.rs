//! The kernel's own VXLAN device as the peer, in namespaces that the test makes and removes. Needs root, `ip` and
//! `ethtool`.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets the unforeseen shall panic"
)]

mod common;

use std::fs::File;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use etherparse::PacketBuilder;
use nix::sched::{CloneFlags, setns};
use weft_tunnel::{Peers, TunnelDrop, TunnelError, VxlanTunnel, VxlanWorker};
use weft_wire::{Arp, EthernetFrame, FrameRef, GsoKind, PeerId};

const NETWORK: u32 = 77;

/// Two namespaces joined by a veth: ours, and the kernel's with its VXLAN device. Gone when dropped.
struct Hosts {
    ours: String,
    kernels: String,
}

impl Hosts {
    fn new(underlay: &Underlay) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = |side| format!("weft-t{}-{number}{side}", std::process::id());
        let hosts = Self {
            ours: name("a"),
            kernels: name("b"),
        };
        run(&format!("ip netns add {}", hosts.ours));
        run(&format!("ip netns add {}", hosts.kernels));
        run(&format!(
            "ip link add u0 netns {} type veth peer name u0 netns {}",
            hosts.ours, hosts.kernels
        ));
        for (netns, address) in [
            (&hosts.ours, underlay.ours),
            (&hosts.kernels, underlay.kernels),
        ] {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            run(&format!(
                "ip -n {netns} address add {address}/{} dev u0 {nodad}",
                underlay.prefix
            ));
            run(&format!("ip -n {netns} link set u0 up"));
            run(&format!("ip -n {netns} link set lo up"));
        }
        hosts.add_vxlan(underlay);
        hosts
    }

    fn add_vxlan(&self, underlay: &Underlay) {
        let netns = &self.kernels;
        run(&format!(
            "ip -n {netns} link add vx0 type vxlan id {NETWORK} dstport 4789 local {} remote {} {}",
            underlay.kernels, underlay.ours, underlay.options
        ));
        // Else the kernel leaves inner checksums to the veth (facts.md section 4).
        run(&format!("ip netns exec {netns} ethtool -K vx0 tx off"));
        run(&format!("ip -n {netns} address add 10.9.0.2/24 dev vx0"));
        run(&format!(
            "ip -n {netns} link set vx0 address 02:00:00:00:00:02 up"
        ));
    }

    /// The kernel's own count, by its name in /proc/net/snmp.
    fn udp_counter(&self, name: &str) -> u64 {
        let text = run(&format!(
            "ip netns exec {} cat /proc/net/snmp",
            self.kernels
        ));
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("Udp:"))
            .map(|line| line.split_whitespace().collect())
            .collect();
        let column = rows[0].iter().position(|column| *column == name).unwrap();
        rows[1][column].parse().unwrap()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for netns in [&self.ours, &self.kernels] {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

struct Underlay {
    ours: &'static str,
    kernels: &'static str,
    prefix: u8,
    options: &'static str,
}

const IPV4: Underlay = Underlay {
    ours: "10.77.0.1",
    kernels: "10.77.0.2",
    prefix: 24,
    options: "",
};
/// The kernel sends without outer checksum, which we must take; ours has one.
const IPV6: Underlay = Underlay {
    ours: "fd00:77::1",
    kernels: "fd00:77::2",
    prefix: 64,
    options: "udp6zerocsumtx",
};

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("this test needs {program}: {error}"));
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "`{command}` failed (this test needs root): {problem}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `body` on a thread of its own inside a namespace.
fn inside<T: Send>(netns: &str, body: impl FnOnce() -> T + Send) -> T {
    let file = File::open(format!("/run/netns/{netns}")).unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).expect("this test needs root");
            body()
        });
        thread.join().unwrap()
    })
}

fn worker_in(hosts: &Hosts, underlay: &Underlay) -> (VxlanWorker, Peers) {
    let [ours, kernels] = [address(underlay.ours), address(underlay.kernels)];
    inside(&hosts.ours, || {
        end(ours, 4789, vec![peer(0, kernels, 4789)])
    })
}

/// Who has 10.9.0.2? (RFC 826)
fn arp_request() -> Vec<u8> {
    let body = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC_A, &IP_A, &[0; 6], &IP_B];
    [&[0xff; 6][..], &MAC_A, &[8, 6], &body.concat()].concat()
}

fn echo_request(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MAC_A, MAC_B)
        .ipv4(IP_A, IP_B, 64)
        .icmpv4_echo_request(5, 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn is_arp_answer(frame: &[u8]) -> bool {
    let Ok(ethernet) = EthernetFrame::new(frame) else {
        return false;
    };
    ethernet.ethertype().0 == 0x0806
        && Arp::new(ethernet.payload()).is_ok()
        && ethernet.payload()[7] == 2
        && ethernet.source().octets() == MAC_B
}

fn is_echo_reply(frame: &[u8], payload: &[u8]) -> bool {
    frame.len() == 42 + payload.len()
        && frame[12..14] == [8, 0]
        && frame[23] == 1
        && frame[34] == 0
        && frame.ends_with(payload)
}

fn send_to_kernel(worker: &mut VxlanWorker, frame: FrameRef<'_>) -> Result<(), TunnelDrop> {
    send(worker, PeerId(0), vni(NETWORK), frame)
}

fn talk_to_the_kernel(underlay: &Underlay, largest_payload: usize) {
    let hosts = Hosts::new(underlay);
    let (mut worker, peers) = worker_in(&hosts, underlay);

    send_to_kernel(&mut worker, FrameRef::plain(&arp_request())).unwrap();
    receive_until(&mut worker, is_arp_answer);

    for len in [16, largest_payload] {
        let payload = vec![0x5a; len];
        send_to_kernel(&mut worker, FrameRef::plain(&echo_request(&payload))).unwrap();
        receive_until(&mut worker, |frame| is_echo_reply(frame, &payload));
    }

    // One byte more than the underlay takes is refused here, not fragmented.
    let big = echo_request(&vec![0; largest_payload + 1]);
    send_to_kernel(&mut worker, FrameRef::plain(&big)).unwrap();
    let drops = peers.stats(PeerId(0)).unwrap().drops;
    assert_eq!((drops.count(TunnelDrop::TooBig), drops.total()), (1, 1));

    // Five segments to a port where nobody listens: the kernel counts them only if their checksums are right.
    let mut bytes = udp_frame(&[1; 5000]);
    send_to_kernel(&mut worker, superframe(&mut bytes, GsoKind::Udp, 1000)).unwrap();
    for _ in 0..100 {
        if hosts.udp_counter("NoPorts") == 5 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(
        (
            hosts.udp_counter("NoPorts"),
            hosts.udp_counter("InCsumErrors")
        ),
        (5, 0)
    );
    assert_eq!(peers.stranger_stats().drops.total(), 0);
    let stats = peers.stats(PeerId(0)).unwrap();
    assert_eq!(
        (stats.tx_frames, stats.tx_datagrams, stats.drops.total()),
        (4, 8, 1)
    );
}

#[test]
fn a_kernel_vxlan_device_answers_over_ipv4_up_to_the_last_byte_of_the_mtu() {
    // 1500 - 50 overhead - 20 IP - 8 ICMP
    talk_to_the_kernel(&IPV4, 1422);
}

#[test]
fn a_kernel_vxlan_device_answers_over_ipv6_without_outer_checksums() {
    talk_to_the_kernel(&IPV6, 1402);
}

#[test]
fn a_kernel_vxlan_device_on_the_port_is_a_taken_port() {
    let hosts = Hosts::new(&IPV4);
    let local = address(IPV4.kernels);
    let error = inside(&hosts.kernels, || {
        VxlanTunnel::bind(config(local, 4789, 2), Peers::default()).unwrap_err()
    });
    assert!(matches!(error, TunnelError::PortTaken { .. }), "{error}");
}
