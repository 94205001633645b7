//! Frames and tunnel ends for the tests: frames are made and judged by etherparse, never by our own code.

#![allow(dead_code, reason = "each test program uses a part")]

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weft_tunnel::{
    PeerNetworks, PeerSpec, Peers, TunnelDrop, VxlanConfig, VxlanTunnel, VxlanWorker,
};
use weft_wire::{FrameRef, Gso, GsoKind, Offload, PartialChecksum, PeerId, SegmentPlan, Vni};

pub(crate) const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub(crate) const IP_A: [u8; 4] = [10, 9, 0, 1];
pub(crate) const IP_B: [u8; 4] = [10, 9, 0, 2];
/// Where the TCP header of [`tcp_frame`] starts.
pub(crate) const TRANSPORT: u16 = 34;

pub(crate) fn vni(value: u32) -> Vni {
    Vni::new(value).unwrap()
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn peer(id: u32, address: IpAddr, port: u16) -> PeerSpec {
    PeerSpec {
        id: PeerId(id),
        address,
        port,
        networks: PeerNetworks::All,
        secure: None,
    }
}

pub(crate) fn config(local: IpAddr, port: u16, workers: usize) -> VxlanConfig {
    VxlanConfig {
        local,
        port,
        workers,
        source_ports: 16,
        gso: true,
    }
}

/// A tunnel end with one worker and the peers given.
pub(crate) fn end(local: IpAddr, port: u16, specs: Vec<PeerSpec>) -> (VxlanWorker, Peers) {
    let peers = Peers::default();
    peers.set(specs);
    let mut workers = VxlanTunnel::bind(config(local, port, 1), peers.clone()).unwrap();
    (workers.remove(0), peers)
}

pub(crate) fn tcp_frame(source_port: u16, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MAC_A, MAC_B)
        .ipv4(IP_A, IP_B, 64)
        .tcp(source_port, 80, 1_000_000, 60_000)
        .ack(42)
        .psh();
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

pub(crate) fn udp_frame(payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MAC_A, MAC_B)
        .ipv4(IP_A, IP_B, 64)
        .udp(4000, 4001);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// As a TAP hands it over: to be cut, with an unfinished checksum.
pub(crate) fn superframe(bytes: &mut [u8], kind: GsoKind, size: u16) -> FrameRef<'_> {
    let offset = if kind == GsoKind::Udp { 6 } else { 16 };
    let field = usize::from(TRANSPORT + offset);
    bytes[field..field + 2].fill(0xaa);
    let gso = Gso {
        kind,
        size: NonZeroU16::new(size).unwrap(),
        ecn: false,
    };
    let checksum = Some(PartialChecksum {
        start: TRANSPORT,
        offset,
    });
    FrameRef {
        tail: weft_wire::Tail::NONE,
        bytes,
        offload: Offload {
            checksum,
            gso: Some(gso),
        },
    }
}

/// The TCP payload of a frame whose checksums are right.
pub(crate) fn checked_tcp(frame: &[u8]) -> (u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = packet.net else {
        panic!("no IPv4: {frame:02x?}")
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        panic!("no TCP: {frame:02x?}")
    };
    let right = tcp
        .to_header()
        .calc_checksum_ipv4(&header, tcp.payload())
        .unwrap();
    assert_eq!(tcp.checksum(), right, "TCP checksum");
    (tcp.sequence_number(), tcp.payload().to_vec())
}

/// Waits up to 2 s for input.
pub(crate) fn wait_for_input(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(2000u16)).unwrap() > 0
}

/// Receives until `count` datagrams were taken, or nothing comes for 2 s; gives what reached the switch, cut again
/// where it was coalesced.
pub(crate) fn receive(worker: &mut VxlanWorker, count: usize) -> Vec<(PeerId, Vni, Vec<u8>)> {
    let mut frames = Vec::new();
    let mut taken = 0;
    while taken < count {
        assert!(
            wait_for_input(worker.fds()[0]),
            "{taken} of {count} datagrams came"
        );
        taken += worker.receive(&mut |peer, vni, frame| {
            for segment in cut(frame) {
                frames.push((peer, vni, segment));
            }
        });
    }
    assert_eq!(taken, count);
    frames
}

/// Receives until a frame satisfies `wanted`.
pub(crate) fn receive_until(worker: &mut VxlanWorker, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(5);
    let mut found = None;
    while found.is_none() && Instant::now() < end {
        wait_for_input(worker.fds()[0]);
        worker.receive(&mut |_, _, frame| {
            if wanted(frame.bytes) {
                found = Some(frame.bytes.to_vec());
            }
        });
    }
    found.expect("the wanted frame comes within 5 s")
}

/// Sends a frame at once.
pub(crate) fn send(
    worker: &mut VxlanWorker,
    peer: PeerId,
    vni: Vni,
    frame: FrameRef<'_>,
) -> Result<(), TunnelDrop> {
    let result = worker.send(peer, vni, frame);
    worker.flush();
    result.map_err(|error| error.reason)
}

/// A frame as it would be on a wire.
fn cut(frame: FrameRef<'_>) -> Vec<Vec<u8>> {
    let mut room = Vec::new();
    let frame = frame.gathered(&mut room);
    let plan = SegmentPlan::new(frame).unwrap();
    let segment = |i| {
        let mut bytes = vec![0; plan.header_len()];
        plan.write_header(frame, i, &mut bytes);
        bytes.extend_from_slice(&frame.bytes[plan.payload(i)]);
        bytes
    };
    (0..plan.count()).map(segment).collect()
}
