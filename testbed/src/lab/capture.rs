//! What is on a wire: tcpdump writes it down, etherparse reads it. Neither is weft's code, which makes them judges.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use nix::sys::signal::Signal;

use super::process::Process;
use super::verdict::wait_until;
use super::{Namespace, must};

/// How long tcpdump may take to start or end.
const PATIENCE: Duration = Duration::from_secs(10);
/// What was sent just before the end is still on its way to tcpdump.
const SETTLE: Duration = Duration::from_millis(200);
/// UDP port of VXLAN.
const VXLAN_PORT: u16 = 4789;

/// Keeps files and logs of captures apart.
static CAPTURES: AtomicU32 = AtomicU32::new(0);

/// A capture under way.
#[derive(Debug)]
pub struct Capture {
    process: Arc<Process>,
    file: PathBuf,
    ns: Namespace,
}

impl Capture {
    /// Captures on an interface of a namespace; `args` are further words for tcpdump: flags, then a filter.
    #[track_caller]
    pub fn start(ns: &Namespace, ifname: &str, args: &[&str]) -> Self {
        let number = CAPTURES.fetch_add(1, Ordering::Relaxed);
        let name = format!("tcpdump-{number}-{}-{ifname}", ns.name());
        let file = ns.lab_file(&format!("{name}.pcap"));
        let path = file.to_string_lossy().into_owned();
        let fixed = [
            "-i",
            ifname,
            "-U",
            "-w",
            &path,
            "-s",
            "0",
            "-n",
            "-Z",
            "root",
            "--immediate-mode",
            "-B",
            "16384",
        ];
        let process = ns.spawn(&name, "tcpdump", &[&fixed, args].concat());
        wait_until(PATIENCE, "tcpdump listens", || {
            process.log().contains("listening on")
        });
        Self {
            process,
            file,
            ns: ns.clone(),
        }
    }

    /// Ends it.
    #[track_caller]
    pub fn stop(self) -> Captured {
        thread::sleep(SETTLE);
        self.process.stop(Signal::SIGINT, PATIENCE);
        let bytes = must(fs::read(&self.file), "read a capture");
        Captured {
            frames: frames_of(&bytes),
            file: self.file,
            ns: self.ns,
        }
    }
}

/// What a capture saw.
#[derive(Debug)]
pub struct Captured {
    /// Frames as they were on the interface, in order.
    pub frames: Vec<Vec<u8>>,
    file: PathBuf,
    ns: Namespace,
}

impl Captured {
    /// What tcpdump itself makes of it.
    #[track_caller]
    pub fn text(&self) -> String {
        let file = self.file.to_string_lossy().into_owned();
        self.ns
            .run("tcpdump", &["-r", &file, "-n", "-e", "-vv"])
            .expect_done()
    }

    /// The VXLAN datagrams in it.
    pub fn vxlan(&self) -> Vec<Vxlan> {
        self.frames
            .iter()
            .filter_map(|frame| Vxlan::of(frame))
            .collect()
    }
}

/// Frames of a pcap file as tcpdump writes it here: little-endian, 24 bytes of head, 16 before each frame.
fn frames_of(file: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = file.get(24..).unwrap_or_default();
    while let Some(head) = rest.first_chunk::<16>() {
        let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
        let Some(frame) = rest.get(16..16 + len) else {
            break;
        };
        frames.push(frame.to_vec());
        rest = &rest[16 + len..];
    }
    frames
}

/// One VXLAN datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Underlay addresses: from, to.
    pub ends: (IpAddr, IpAddr),
    /// UDP source port.
    pub source_port: u16,
    /// The whole header but the VNI: flags and reserved bits.
    pub head: [u8; 5],
    /// The network.
    pub vni: u32,
    /// The frame inside.
    pub frame: Vec<u8>,
}

impl Vxlan {
    fn of(frame: &[u8]) -> Option<Self> {
        let packet = SlicedPacket::from_ethernet(frame).ok()?;
        let Some(TransportSlice::Udp(udp)) = &packet.transport else {
            return None;
        };
        if udp.destination_port() != VXLAN_PORT {
            return None;
        }
        let (head, inner) = udp.payload().split_first_chunk::<8>()?;
        Some(Self {
            ends: ends_of(&packet)?,
            source_port: udp.source_port(),
            head: [head[0], head[1], head[2], head[3], head[7]],
            vni: u32::from_be_bytes([0, head[4], head[5], head[6]]),
            frame: inner.to_vec(),
        })
    }
}

fn ends_of(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr)> {
    match &packet.net {
        Some(NetSlice::Ipv4(ip)) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        Some(NetSlice::Ipv6(ip)) => Some((
            ip.header().source_addr().into(),
            ip.header().destination_addr().into(),
        )),
        Some(NetSlice::Arp(_)) | None => None,
    }
}

/// What is wrong with a frame's checksums (IPv4 header, TCP, UDP, ICMP, ICMPv6), if anything.
pub fn checksum_fault(frame: &[u8]) -> Option<String> {
    let packet = match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => packet,
        Err(error) => return Some(format!("unreadable: {error}")),
    };
    let (protocol, payload) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            if ip.header().header_checksum() != ip.header().to_header().calc_header_checksum() {
                return Some("IPv4 header checksum".to_owned());
            }
            if ip.is_payload_fragmented() {
                return None;
            }
            (ip.payload().ip_number, ip.payload().payload)
        }
        Some(NetSlice::Ipv6(ip)) if !ip.is_payload_fragmented() => {
            (ip.payload().ip_number, ip.payload().payload)
        }
        Some(NetSlice::Ipv6(_) | NetSlice::Arp(_)) | None => return None,
    };
    let summed = match protocol {
        etherparse::IpNumber::ICMP => ones_sum(payload, 0),
        etherparse::IpNumber::TCP | etherparse::IpNumber::UDP | etherparse::IpNumber::IPV6_ICMP => {
            let ends = ends_of(&packet)?;
            let length = u64::try_from(payload.len()).expect("a frame is shorter than 2^64");
            ones_sum(payload, pseudo_sum(ends) + u64::from(protocol.0) + length)
        }
        _ => return None,
    };
    // RFC 1071: with a right checksum the sum is all ones.
    (summed != 0xffff).then(|| format!("checksum of IP protocol {} (sum {summed:#x})", protocol.0))
}

fn pseudo_sum(ends: (IpAddr, IpAddr)) -> u64 {
    let bytes = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    u64::from(ones_sum(&bytes(ends.0), 0)) + u64::from(ones_sum(&bytes(ends.1), 0))
}

fn ones_sum(bytes: &[u8], start: u64) -> u16 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from);
    let mut sum = bytes.chunks(2).map(word).sum::<u64>() + start;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::raw;
    use weft_wire::MacAddr;

    #[test]
    fn a_right_checksum_is_no_fault_and_a_changed_byte_is_one() {
        let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let ips = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut frame = raw::udp_frame(macs, ips, b"odd");
        assert_eq!(checksum_fault(&frame), None);
        *frame.last_mut().unwrap() ^= 1;
        assert!(checksum_fault(&frame).unwrap().contains("protocol 17"));
    }

    #[test]
    fn a_vxlan_datagram_shows_its_vni_and_its_frame() {
        let macs = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let builder = etherparse::PacketBuilder::ethernet2(macs.0.octets(), macs.1.octets())
            .ipv4([10, 99, 0, 1], [10, 99, 0, 2], 64)
            .udp(50_000, VXLAN_PORT);
        let mut frame = Vec::new();
        builder
            .write(&mut frame, &raw::vxlan(8, 0x0001_0203, b"inner"))
            .unwrap();
        let seen = Vxlan::of(&frame).unwrap();
        assert_eq!(
            (seen.vni, seen.head, seen.frame.as_slice()),
            (0x0001_0203, [8, 0, 0, 0, 0], &b"inner"[..])
        );
        assert_eq!(Vxlan::of(&frame[..30]), None);
    }
}
