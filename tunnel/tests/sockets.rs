//! The tunnel over loopback: every test has addresses of its own in 127.18.0.0/16. No root needed.

#![expect(
    clippy::unwrap_used,
    reason = "a test that meets the unforeseen shall panic"
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use common::*;
use weft_tunnel::{
    PeerNetworks, PeerStats, Peers, StrangerStats, TunnelDrop, TunnelError, VxlanTunnel,
};
use weft_wire::{FrameRef, GsoKind, PeerId, VxlanHeader};

const PORT: u16 = 4789;

#[test]
fn a_superframe_arrives_as_segments_with_right_checksums() {
    let [a, b] = [address("127.18.1.1"), address("127.18.1.2")];
    let (mut sender, sender_peers) = end(a, PORT, vec![peer(3, b, PORT)]);
    let (mut receiver, receiver_peers) = end(b, PORT, vec![peer(7, a, PORT)]);
    // 64 KiB at the smallest segments of use: more than one batch out and in.
    let payload: Vec<u8> = (0..64_000u32).map(|i| (i % 251) as u8).collect();
    let mut bytes = tcp_frame(1234, &payload);
    let len = bytes.len() as u64;
    let frame = superframe(&mut bytes, GsoKind::Tcp4, 500);

    send(&mut sender, PeerId(3), vni(77), frame).unwrap();

    let frames = receive(&mut receiver, 128);
    let mut stream = Vec::new();
    for (from, network, frame) in &frames {
        assert_eq!((*from, *network), (PeerId(7), vni(77)));
        let (sequence, part) = checked_tcp(frame);
        assert_eq!(sequence as usize, 1_000_000 + stream.len());
        stream.extend_from_slice(&part);
    }
    assert!(stream == payload, "the stream is whole and in order");
    let sent = PeerStats {
        tx_frames: 1,
        tx_bytes: len,
        tx_datagrams: 128,
        ..PeerStats::default()
    };
    assert_eq!(sender_peers.stats(PeerId(3)), Some(sent));
    let received = PeerStats {
        rx_frames: 128,
        rx_bytes: frames.iter().map(|(_, _, frame)| frame.len() as u64).sum(),
        rx_datagrams: 128,
        ..PeerStats::default()
    };
    assert_eq!(receiver_peers.stats(PeerId(7)), Some(received));
    assert_eq!(receiver_peers.stranger_stats(), StrangerStats::default());
}

#[test]
fn an_unfinished_checksum_is_finished_and_a_finished_frame_goes_as_it_is() {
    let [a, b] = [address("127.18.2.1"), address("127.18.2.2")];
    let (mut sender, _) = end(a, PORT, vec![peer(0, b, PORT)]);
    let (mut receiver, _) = end(b, PORT, vec![peer(0, a, PORT)]);
    let whole = tcp_frame(1234, b"hello");
    send(&mut sender, PeerId(0), vni(1), FrameRef::plain(&whole)).unwrap();
    let mut unfinished = whole.clone();
    let mut frame = superframe(&mut unfinished, GsoKind::Tcp4, 1000);
    frame.offload.gso = None;
    let pseudo = pseudo_sum(whole.len() - usize::from(TRANSPORT));
    let mut bytes = frame.bytes.to_vec();
    bytes[50..52].copy_from_slice(&pseudo.to_be_bytes());
    frame.bytes = &bytes;
    send(&mut sender, PeerId(0), vni(1), frame).unwrap();

    for (_, _, frame) in receive(&mut receiver, 2) {
        assert_eq!(frame, whole);
    }
}

/// What a kernel leaves in the checksum field of a TCP segment of [`tcp_frame`].
fn pseudo_sum(len: usize) -> u16 {
    let words = [IP_A, IP_B].concat();
    let mut sum = 6 + u32::try_from(len).unwrap();
    for pair in words.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[test]
fn a_stranger_is_dropped_counted_and_remembered() {
    let [a, stranger] = [address("127.18.3.1"), address("127.18.3.2")];
    let (mut worker, peers) = end(a, PORT, vec![peer(0, address("127.18.3.3"), PORT)]);
    let socket = UdpSocket::bind((stranger, 0)).unwrap();
    let datagram = encapsulated(1, &tcp_frame(1, b"x"));
    socket.send_to(&datagram, (a, PORT)).unwrap();
    socket.send_to(&[], (a, PORT)).unwrap();

    assert!(receive(&mut worker, 2).is_empty());

    let stats = peers.stranger_stats();
    assert_eq!(stats.drops.count(TunnelDrop::Stranger), 2);
    assert_eq!(stats.drops.total(), 2);
    assert_eq!(
        (stats.bytes, stats.last),
        (datagram.len() as u64, Some(stranger))
    );
    assert_eq!(peers.stats(PeerId(0)), Some(PeerStats::default()));

    // Once known it is let in, without a new socket and whatever its port.
    peers.set(vec![peer(1, stranger, PORT)]);
    socket.send_to(&datagram, (a, PORT)).unwrap();
    let frames = receive(&mut worker, 1);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].0, PeerId(1));
}

#[test]
fn each_flaw_of_a_datagram_is_counted_by_its_reason_at_the_peer() {
    let [a, b] = [address("127.18.4.1"), address("127.18.4.2")];
    let mut spec = peer(5, b, PORT);
    spec.networks = PeerNetworks::Only(vec![vni(10)]);
    let (mut worker, peers) = end(a, PORT, vec![spec]);
    let socket = UdpSocket::bind((b, 0)).unwrap();
    let frame = tcp_frame(1, b"x");
    let good = encapsulated(10, &frame);
    let mut no_flag = good.clone();
    no_flag[0] = 0;
    let mut no_vni = good.clone();
    no_vni[4..7].fill(0);
    let cases: [(&[u8], Option<TunnelDrop>); 8] = [
        (&[], Some(TunnelDrop::Truncated)),
        (&good[..7], Some(TunnelDrop::Truncated)),
        (&good[..8], Some(TunnelDrop::Runt)),
        (&good[..21], Some(TunnelDrop::Runt)),
        (&no_flag, Some(TunnelDrop::BadHeader)),
        (&no_vni, Some(TunnelDrop::BadVni)),
        (
            &encapsulated(11, &frame),
            Some(TunnelDrop::NetworkNotAllowed),
        ),
        (&good, None),
    ];
    for (datagram, _) in &cases {
        socket.send_to(datagram, (a, PORT)).unwrap();
    }

    let frames = receive(&mut worker, cases.len());

    assert_eq!(frames, [(PeerId(5), vni(10), frame.clone())]);
    let stats = peers.stats(PeerId(5)).unwrap();
    for reason in TunnelDrop::ALL {
        let wanted = cases.iter().filter(|(_, why)| *why == Some(reason)).count() as u64;
        assert_eq!(stats.drops.count(reason), wanted, "{reason}");
    }
    assert_eq!((stats.rx_frames, stats.rx_bytes), (1, frame.len() as u64));
    assert_eq!(peers.stranger_stats(), StrangerStats::default());
    assert_eq!(
        send(&mut worker, PeerId(5), vni(11), FrameRef::plain(&frame)),
        Err(TunnelDrop::NetworkNotAllowed)
    );
}

fn encapsulated(network: u32, frame: &[u8]) -> Vec<u8> {
    [&VxlanHeader::to_bytes(vni(network))[..], frame].concat()
}

#[test]
fn short_frames_travel_together_and_arrive_apart_in_order() {
    let [a, b] = [address("127.18.12.1"), address("127.18.12.2")];
    let (mut sender, sent) = end(a, PORT, vec![peer(0, b, PORT)]);
    let (mut receiver, _) = end(b, PORT, vec![peer(0, a, PORT)]);
    // Same size, then a shorter one that ends the train, a longer one that can't join it, a superframe between.
    let mut frames: Vec<Vec<u8>> = (0..200u8).map(|i| tcp_frame(1, &[i; 100])).collect();
    frames.extend([99, 100, 101, 1, 1000].map(|len| tcp_frame(1, &vec![7; len])));
    for frame in &frames[..100] {
        sender
            .send(PeerId(0), vni(1), FrameRef::plain(frame))
            .unwrap();
    }
    let mut bytes = tcp_frame(1, &[9; 1500]);
    let large = superframe(&mut bytes, GsoKind::Tcp4, 500);
    sender.send(PeerId(0), vni(1), large).unwrap();
    for frame in &frames[100..] {
        sender
            .send(PeerId(0), vni(1), FrameRef::plain(frame))
            .unwrap();
    }
    sender.flush();

    let arrived = receive(&mut receiver, frames.len() + 3);
    let arrived: Vec<&[u8]> = arrived.iter().map(|(_, _, frame)| &frame[..]).collect();
    let plain = |range: std::ops::Range<usize>| frames[range].iter().map(Vec::as_slice);
    assert!(arrived[..100].iter().copied().eq(plain(0..100)));
    for segment in &arrived[100..103] {
        assert_eq!(checked_tcp(segment).1, [9; 500]);
    }
    assert!(arrived[103..].iter().copied().eq(plain(100..205)));
    let stats = sent.stats(PeerId(0)).unwrap();
    assert_eq!((stats.tx_frames, stats.tx_datagrams), (206, 208));
    assert_eq!(stats.drops.total(), 0);
}

#[test]
fn without_trains_the_same_arrives() {
    let [a, b] = [address("127.18.13.1"), address("127.18.13.2")];
    let peers = Peers::default();
    peers.set(vec![peer(0, b, PORT)]);
    let mut plain = config(a, PORT, 1);
    plain.gso = false;
    let mut sender = VxlanTunnel::bind(plain, peers).unwrap().remove(0);
    let (mut receiver, _) = end(b, PORT, vec![peer(0, a, PORT)]);
    let mut bytes = tcp_frame(1, &[9; 1500]);
    let large = superframe(&mut bytes, GsoKind::Tcp4, 500);
    sender.send(PeerId(0), vni(1), large).unwrap();
    let small = tcp_frame(1, b"x");
    sender
        .send(PeerId(0), vni(1), FrameRef::plain(&small))
        .unwrap();
    let arrived = receive(&mut receiver, 4);
    assert_eq!(arrived.len(), 4);
    assert_eq!(arrived[3].2, small);
}

#[test]
fn flows_differ_in_source_port_and_each_keeps_its_own() {
    let [a, b] = [address("127.18.5.1"), address("127.18.5.2")];
    let peers = Peers::default();
    peers.set(vec![peer(0, b, PORT)]);
    let mut workers = VxlanTunnel::bind(config(a, PORT, 2), peers).unwrap();
    let socket = UdpSocket::bind((b, PORT)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let mut ports: HashMap<u16, HashSet<u16>> = HashMap::new();
    let mut buffer = [0; 2000];
    for round in 0..3u8 {
        for flow in 1000..1064 {
            let frame = tcp_frame(flow, &[round; 20]);
            for worker in &mut workers {
                send(worker, PeerId(0), vni(1), FrameRef::plain(&frame)).unwrap();
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!(from.ip(), a);
                assert!(from.port() >= 49_152);
                ports.entry(flow).or_default().insert(from.port());
            }
        }
    }
    assert!(
        ports.values().all(|used| used.len() == 1),
        "a flow keeps its port: {ports:?}"
    );
    let all: HashSet<_> = ports.values().flatten().collect();
    assert!(
        (8..=16).contains(&all.len()),
        "64 flows use most of 16 ports, not {}",
        all.len()
    );
}

#[test]
fn every_worker_of_the_group_gets_a_share() {
    let [a, b] = [address("127.18.6.1"), address("127.18.6.2")];
    let peers = Peers::default();
    peers.set(vec![peer(0, b, PORT)]);
    let mut workers = VxlanTunnel::bind(config(a, PORT, 3), peers.clone()).unwrap();
    let datagram = encapsulated(1, &tcp_frame(1, b"x"));
    for _ in 0..90 {
        let socket = UdpSocket::bind((b, 0)).unwrap();
        socket.send_to(&datagram, (a, PORT)).unwrap();
    }
    let mut shares = Vec::new();
    for worker in &mut workers {
        let mut share = 0;
        while worker.receive(&mut |_, _, _| share += 1) > 0 {}
        shares.push(share);
    }
    assert_eq!(shares.iter().sum::<usize>(), 90, "{shares:?}");
    assert!(shares.iter().all(|share| *share >= 10), "{shares:?}");
    assert_eq!(peers.stats(PeerId(0)).unwrap().rx_frames, 90);
}

fn is_taken(local: IpAddr, workers: usize) -> bool {
    match VxlanTunnel::bind(config(local, PORT, workers), Peers::default()) {
        Ok(_) => false,
        Err(TunnelError::PortTaken { address, port }) => {
            assert_eq!((address, port), (local, PORT));
            true
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_port_that_anybody_else_has_is_refused() {
    let local = address("127.18.7.1");
    let plain = UdpSocket::bind((local, PORT)).unwrap();
    assert!(is_taken(local, 1) && is_taken(local, 2));
    drop(plain);

    // An agent's group has SO_REUSEPORT: it must not be joined.
    let agent = VxlanTunnel::bind(config(local, PORT, 2), Peers::default()).unwrap();
    assert!(is_taken(local, 1) && is_taken(local, 2));
    drop(agent);
    assert!(!is_taken(local, 2));

    let text = TunnelError::PortTaken {
        address: local,
        port: PORT,
    }
    .to_string();
    assert!(
        text.contains("127.18.7.1") && text.contains("4789"),
        "{text}"
    );
}

#[test]
fn of_agents_that_start_at_once_exactly_one_gets_the_port() {
    let local = address("127.18.8.1");
    for _ in 0..50 {
        let barrier = std::sync::Barrier::new(4);
        let start = || {
            barrier.wait();
            VxlanTunnel::bind(config(local, PORT, 2), Peers::default())
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let agents: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            agents
                .into_iter()
                .map(|agent| agent.join().unwrap())
                .collect()
        });
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    }
}

#[test]
fn an_address_that_is_not_here_is_refused_by_name() {
    let local = address("192.0.2.1");
    let error = VxlanTunnel::bind(config(local, PORT, 1), Peers::default()).unwrap_err();
    assert!(
        matches!(error, TunnelError::AddressNotHere { address } if address == local),
        "{error}"
    );
    assert!(error.to_string().contains("192.0.2.1"));
}

#[test]
fn what_cannot_be_sent_is_dropped_with_its_reason() {
    let [a, b] = [address("127.18.9.1"), address("127.18.9.2")];
    let other_family = peer(1, address("fd00::2"), PORT);
    let (mut worker, peers) = end(a, PORT, vec![peer(0, b, PORT), other_family]);
    let frame = tcp_frame(1, b"x");
    let mut send = |id, frame| send(&mut worker, PeerId(id), vni(1), frame);

    assert_eq!(
        send(0, FrameRef::plain(&[0; 65_520])),
        Err(TunnelDrop::TooBig)
    );
    assert_eq!(
        send(0, FrameRef::plain(&frame[..13])),
        Err(TunnelDrop::Runt)
    );
    // A short frame may wait for others: what becomes of it is only counted.
    assert_eq!(send(1, FrameRef::plain(&frame)), Ok(()));
    assert_eq!(
        send(9, FrameRef::plain(&frame)),
        Err(TunnelDrop::UnknownPeer)
    );
    let mut bytes = frame.clone();
    let contradiction = superframe(&mut bytes, GsoKind::Tcp6, 1000);
    assert_eq!(send(0, contradiction), Err(TunnelDrop::Malformed));

    let stats = peers.stats(PeerId(0)).unwrap();
    assert_eq!(
        (stats.tx_frames, stats.tx_datagrams, stats.drops.total()),
        (0, 0, 3)
    );
    assert_eq!(
        peers
            .stats(PeerId(1))
            .unwrap()
            .drops
            .count(TunnelDrop::Unreachable),
        1
    );
    assert_eq!(
        peers.stranger_stats().drops.count(TunnelDrop::UnknownPeer),
        1
    );
}

#[test]
fn a_peer_where_nobody_listens_takes_frames_without_an_error() {
    let [a, b] = [address("127.18.10.1"), address("127.18.10.2")];
    let (mut worker, peers) = end(a, PORT, vec![peer(0, b, PORT)]);
    let frame = tcp_frame(1, b"x");
    for _ in 0..5 {
        send(&mut worker, PeerId(0), vni(1), FrameRef::plain(&frame)).unwrap();
    }
    assert_eq!(peers.stats(PeerId(0)).unwrap().tx_datagrams, 5);
}

#[test]
fn ipv6_underlay_carries_superframes_too() {
    let local = address("::1");
    let (mut sender, _) = end(local, 24_789, vec![peer(0, local, 24_790)]);
    let (mut receiver, peers) = end(local, 24_790, vec![peer(4, local, 24_789)]);
    let payload = [7; 4000];
    let mut bytes = tcp_frame(99, &payload);
    let frame = superframe(&mut bytes, GsoKind::Tcp4, 1000);
    send(&mut sender, PeerId(0), vni(0xff_ffff), frame).unwrap();

    for (from, network, frame) in receive(&mut receiver, 4) {
        assert_eq!((from, network), (PeerId(4), vni(0xff_ffff)));
        assert_eq!(checked_tcp(&frame).1, [7; 1000]);
    }
    assert_eq!(peers.stranger_stats(), StrangerStats::default());
}

#[test]
fn what_is_sent_to_a_source_port_is_never_queued() {
    let [a, b] = [address("127.18.11.1"), address("127.18.11.2")];
    let (mut worker, _) = end(a, PORT, vec![peer(0, b, PORT)]);
    let socket = UdpSocket::bind((b, PORT)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .unwrap();
    let frame = tcp_frame(1, b"x");
    send(&mut worker, PeerId(0), vni(1), FrameRef::plain(&frame)).unwrap();
    let (_, source) = socket.recv_from(&mut [0; 2000]).unwrap();
    for _ in 0..10 {
        socket.send_to(&[0; 1000], source).unwrap();
    }

    // Columns of /proc/net/udp: sl local_address rem_address st tx_queue:rx_queue ..., addresses as the CPU has them.
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let local = format!("010B127F:{:04X}", source.port());
    let row: Vec<&str> = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|row| row.get(1) == Some(&local.as_str()))
        .expect("the sending socket is in /proc/net/udp");
    assert!(row[4].ends_with(":00000000"), "rx_queue in {}", row[4]);
}
