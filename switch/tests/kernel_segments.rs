//! Our cutting and merging against the kernel's own cutting: a bridge carries superframes from an offloading TAP to a
//! plain one, where Linux has to segment them. These need root, `/dev/net/tun` and the `ip` program; each test has a
//! network namespace of its own.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

use std::num::NonZeroU16;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use etherparse::{
    IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader, TcpOptionElement,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use weft_switch::port::{PortKind, Queue, RECV_BUFFER_LEN, create_tap};
use weft_wire::checksum::Sum;
use weft_wire::{
    Coalescer, FrameRef, Gso, GsoKind, MAX_HEADER_LEN, Offload, PartialChecksum, SegmentPlan,
};

const SOURCE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DESTINATION: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// How long segments that must come are waited for, and how long the wire must be silent at the end.
const PATIENCE: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(50);

fn ip(args: &[&str]) {
    let output = Command::new("ip")
        .args(args)
        .output()
        .expect("these tests need the ip program");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args:?} failed: {stderr}");
}

/// What goes in at one TAP comes out of the other, cut by the kernel.
struct KernelSegmenter {
    way_in: Queue,
    way_out: Queue,
}

impl KernelSegmenter {
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        ip(&[
            "link",
            "add",
            "bridge",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        ]);
        let [way_in, way_out] =
            [("in", PortKind::Offload), ("out", PortKind::Plain)].map(|(name, kind)| {
                let mut device = create_tap(name, kind, 1).unwrap();
                ip(&["link", "set", name, "master", "bridge"]);
                ip(&["link", "set", name, "txqueuelen", "5000", "up"]);
                Queue::from_fd(device.queues.remove(0), kind).unwrap()
            });
        ip(&["link", "set", "bridge", "up"]);
        Self { way_in, way_out }
    }

    /// The next `count` frames of the tests, and that none follow. Others are the kernel's own.
    fn segments(&self, count: usize) -> Vec<Vec<u8>> {
        let (start, mut segments) = (Instant::now(), Vec::new());
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        loop {
            let mut fds = [PollFd::new(self.way_out.as_fd(), PollFlags::POLLIN)];
            let silence = PollTimeout::try_from(SILENCE).unwrap();
            if poll(&mut fds, silence).unwrap() == 0 {
                if segments.len() >= count || start.elapsed() > PATIENCE {
                    return segments;
                }
                continue;
            }
            let frame = self.way_out.recv(&mut buffer).unwrap();
            if frame.bytes.starts_with(&DESTINATION) {
                segments.push(frame.bytes.to_vec());
            }
        }
    }
}

/// A superframe to be.
#[derive(Clone, Debug)]
struct Case {
    v6: bool,
    udp: bool,
    payload: usize,
    size: u16,
    id: u16,
    sequence: u32,
    ending: bool,
    ecn: bool,
    timestamps: bool,
}

impl Case {
    const TCP: Self = Self {
        v6: false,
        udp: false,
        payload: 20_000,
        size: 1448,
        id: 65_530,
        sequence: u32::MAX - 5000,
        ending: true,
        ecn: false,
        timestamps: true,
    };
    const UDP: Self = Self {
        udp: true,
        ending: false,
        timestamps: false,
        ..Self::TCP
    };

    /// The frame as a container's kernel leaves it.
    fn superframe(&self) -> (Vec<u8>, Offload) {
        let payload: Vec<u8> = (0..self.payload)
            .map(|at| (at % 251).to_be_bytes()[7])
            .collect();
        let number = if self.udp {
            IpNumber::UDP
        } else {
            IpNumber::TCP
        };
        let headers = if self.v6 {
            let header = Ipv6Header {
                next_header: number,
                hop_limit: 64,
                source: [0xfd; 16],
                destination: [0xfe; 16],
                ..Default::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        } else {
            let mut header = Ipv4Header::new(0, 64, number, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
            header.identification = self.id;
            IpHeaders::Ipv4(header, Default::default())
        };
        let builder = PacketBuilder::ethernet2(SOURCE, DESTINATION).ip(headers);
        let mut bytes = Vec::new();
        if self.udp {
            builder.udp(40_000, 53).write(&mut bytes, &payload)
        } else {
            builder.tcp_header(self.tcp()).write(&mut bytes, &payload)
        }
        .unwrap();
        self.unfinish(bytes)
    }

    fn tcp(&self) -> TcpHeader {
        let mut header = TcpHeader::new(40_000, 80, self.sequence, 500);
        header.acknowledgment_number = 77;
        (header.ack, header.psh, header.fin) = (true, self.ending, self.ending);
        header.cwr = self.ecn;
        if self.timestamps {
            let options = [
                TcpOptionElement::Noop,
                TcpOptionElement::Noop,
                TcpOptionElement::Timestamp(1, 2),
            ];
            header.set_options(&options).unwrap();
        }
        header
    }

    /// Takes the transport checksum back to the pseudo header's sum.
    fn unfinish(&self, mut bytes: Vec<u8>) -> (Vec<u8>, Offload) {
        let start: u16 = if self.v6 { 54 } else { 34 };
        let (offset, kind) = match (self.udp, self.v6) {
            (true, _) => (6, GsoKind::Udp),
            (false, true) => (16, GsoKind::Tcp6),
            (false, false) => (16, GsoKind::Tcp4),
        };
        let field = usize::from(start + offset);
        let checksum = u16::from_be_bytes([bytes[field], bytes[field + 1]]);
        bytes[field..field + 2].fill(0);
        // The sum over all less the sum over what is not pseudo header.
        let rest = Sum::of(&bytes[usize::from(start)..]).folded();
        let pseudo = Sum::ZERO.and_u16(!checksum).less_u16(rest).folded();
        bytes[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        let gso = Gso {
            kind,
            size: NonZeroU16::new(self.size).unwrap(),
            ecn: self.ecn,
        };
        let offload = Offload {
            checksum: Some(PartialChecksum { start, offset }),
            gso: Some(gso),
        };
        (bytes, offload)
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for v6 in [false, true] {
        for base in [Case::TCP, Case::UDP] {
            let base = Case { v6, ..base };
            for (payload, size) in [
                (20_000, 1448),
                (64_000, 1398),
                (2896, 1448),
                (1449, 1448),
                (999, 77),
            ] {
                cases.push(Case {
                    payload,
                    size,
                    ..base.clone()
                });
            }
        }
        for (ending, ecn, timestamps) in [
            (false, true, true),
            (true, true, false),
            (false, false, false),
        ] {
            cases.push(Case {
                v6,
                ending,
                ecn,
                timestamps,
                ..Case::TCP
            });
        }
    }
    cases
}

/// What we make of a superframe.
fn cut(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let plan = SegmentPlan::new(frame).unwrap();
    let segment = |i| {
        let mut header = [0; MAX_HEADER_LEN];
        plan.write_header(frame, i, &mut header);
        [&header[..plan.header_len()], &frame.bytes[plan.payload(i)]].concat()
    };
    (0..plan.count()).map(segment).collect()
}

#[test]
fn the_kernel_cuts_superframes_into_the_same_bytes() {
    let kernel = KernelSegmenter::new();
    for case in cases() {
        let (bytes, offload) = case.superframe();
        let frame = FrameRef::new(&bytes, offload);
        let ours = cut(frame);
        assert!(ours.len() > 1);
        kernel.way_in.send(frame).unwrap();
        let theirs = kernel.segments(ours.len());
        assert!(ours == theirs, "{case:?}: {}", difference(&ours, &theirs));
    }
}

/// Where two lists of frames part.
fn difference(ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> String {
    let frames = ours.iter().zip(theirs).enumerate();
    for (i, (a, b)) in frames {
        if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
            return format!("frame {i} at {at}: {:#04x}, kernel {:#04x}", a[at], b[at]);
        }
    }
    format!("{} frames, kernel {}", ours.len(), theirs.len())
}

#[test]
fn the_kernel_takes_a_merged_frame_apart_into_what_was_merged() {
    let kernel = KernelSegmenter::new();
    for case in cases() {
        // An event that CWR stands for is not merged: the first segment would stay alone.
        let case = Case { ecn: false, ..case };
        let (bytes, offload) = case.superframe();
        let segments = cut(FrameRef::new(&bytes, offload));
        let buffer = segments.concat();
        let mut coalescer = Coalescer::default().with_datagrams();
        let mut sent = 0;
        let mut sink = |(), frame: FrameRef<'_>| {
            kernel.way_in.send(frame).unwrap();
            sent += 1;
        };
        let mut start = 0;
        for segment in &segments {
            coalescer.push(&buffer, (), start..start + segment.len(), &mut sink);
            start += segment.len();
        }
        coalescer.flush(&buffer, &mut sink);
        assert_eq!(sent, 1, "{case:?}");
        let theirs = kernel.segments(segments.len());
        assert!(
            segments == theirs,
            "{case:?}: {}",
            difference(&segments, &theirs)
        );
    }
}
