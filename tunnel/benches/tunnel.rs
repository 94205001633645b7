//! What the way between hosts costs, over loopback and without a switch: a superframe out as a train against the same
//! datagrams by plain `sendmmsg`, short frames out, and a superframe in, with its checksums verified.
//! `cargo bench -p weft-tunnel`. No root needed.
//!
//! Sending includes the kernel's whole way down to the receiving socket, which is full and drops: the same for all.

#![expect(
    clippy::unwrap_used,
    reason = "a bench that meets the unforeseen shall panic"
)]

use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use weft_tunnel::VxlanWorker;
use weft_wire::{FrameRef, GsoKind, PeerId, VxlanHeader};

#[path = "../tests/common/mod.rs"]
mod common;

use common::{address, end, peer, superframe, tcp_frame, udp_frame, vni, wait_for_input};

const PORT: u16 = 4789;
/// Segments of a superframe and their payload, as an inner MTU of 1450 makes them.
const SEGMENTS: usize = 44;
const SEGMENT: u16 = 1398;
/// Short frames that a worker reads in one go.
const SHORT_FRAMES: usize = 64;
const SHORT: [u8; 64] = [0x5a; 64];

/// Two ends that know each other. Each bench has addresses of its own, numbered by `net`.
fn ends(net: u8) -> (VxlanWorker, VxlanWorker) {
    let [a, b] = [1, 2].map(|host| address(&format!("127.19.{net}.{host}")));
    let (sender, _) = end(a, PORT, vec![peer(3, b, PORT)]);
    let (receiver, _) = end(b, PORT, vec![peer(7, a, PORT)]);
    (sender, receiver)
}

fn stream() -> Vec<u8> {
    tcp_frame(1234, &vec![0x5a; SEGMENTS * usize::from(SEGMENT)])
}

/// The datagrams that each of these frames would be, sent by plain `sendmmsg`.
fn plain(b: &mut criterion::Bencher<'_>, net: u8, frames: &[Vec<u8>]) {
    let (_sender, _receiver) = ends(net);
    let socket = UdpSocket::bind((format!("127.19.{net}.1"), 0)).unwrap();
    let to = SockaddrIn::new(127, 19, net, 2, PORT);
    let header = VxlanHeader::to_bytes(vni(77));
    let datagrams: Vec<Vec<u8>> = frames
        .iter()
        .map(|frame| [&header[..], frame].concat())
        .collect();
    let messages: Vec<_> = datagrams
        .iter()
        .map(|bytes| [IoSlice::new(bytes)])
        .collect();
    let addresses = vec![Some(to); messages.len()];
    let mut room = MultiHeaders::preallocate(messages.len(), None);
    let fd = socket.as_raw_fd();
    let none = MsgFlags::empty();
    b.iter(|| {
        let sent = sendmmsg(fd, &mut room, &messages, &addresses, [], none).unwrap();
        assert_eq!(sent.count(), messages.len());
    });
}

fn send(c: &mut Criterion) {
    let mut group = c.benchmark_group("send/superframe");
    group.throughput(Throughput::Bytes(stream().len() as u64));
    group.bench_function("train", |b| {
        let (mut sender, _receiver) = ends(1);
        let mut bytes = stream();
        let frame = superframe(&mut bytes, GsoKind::Tcp4, SEGMENT);
        b.iter(|| sender.send(PeerId(3), vni(77), frame).unwrap());
    });
    group.bench_function("plain-sendmmsg", |b| {
        plain(
            b,
            2,
            &vec![tcp_frame(1234, &[0x5a; SEGMENT as usize]); SEGMENTS],
        );
    });
    group.finish();

    let mut group = c.benchmark_group("send/short");
    group.throughput(Throughput::Elements(SHORT_FRAMES as u64));
    group.bench_function("train", |b| {
        let (mut sender, _receiver) = ends(3);
        let bytes = udp_frame(&SHORT);
        b.iter(|| {
            for _ in 0..SHORT_FRAMES {
                let frame = FrameRef::plain(&bytes);
                sender.send(PeerId(3), vni(77), frame).unwrap();
            }
            sender.flush();
        });
    });
    group.bench_function("plain-sendmmsg", |b| {
        plain(b, 4, &vec![udp_frame(&SHORT); SHORT_FRAMES]);
    });
    group.finish();
}

/// Takes what the sender sent, and says how long that took.
fn take(receiver: &mut VxlanWorker, datagrams: usize) -> Duration {
    assert!(wait_for_input(receiver.fds()[0]), "nothing came");
    let began = Instant::now();
    let mut taken = 0;
    while taken < datagrams {
        let now = receiver.receive(&mut |peer, vni, frame| {
            std::hint::black_box((peer, vni, frame));
        });
        assert!(now > 0, "{taken} of {datagrams} came");
        taken += now;
    }
    began.elapsed()
}

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("receive");
    group.throughput(Throughput::Bytes(stream().len() as u64));
    group.bench_function("superframe", |b| {
        let (mut sender, mut receiver) = ends(5);
        let mut bytes = stream();
        let frame = superframe(&mut bytes, GsoKind::Tcp4, SEGMENT);
        b.iter_custom(|rounds| {
            let one = |_| {
                sender.send(PeerId(3), vni(77), frame).unwrap();
                take(&mut receiver, SEGMENTS)
            };
            (0..rounds).map(one).sum()
        });
    });
    group.throughput(Throughput::Elements(SHORT_FRAMES as u64));
    group.bench_function("short", |b| {
        let (mut sender, mut receiver) = ends(6);
        let bytes = udp_frame(&SHORT);
        b.iter_custom(|rounds| {
            let one = |_| {
                for _ in 0..SHORT_FRAMES {
                    let frame = FrameRef::plain(&bytes);
                    sender.send(PeerId(3), vni(77), frame).unwrap();
                }
                sender.flush();
                take(&mut receiver, SHORT_FRAMES)
            };
            (0..rounds).map(one).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, send, receive);
criterion_main!(benches);
