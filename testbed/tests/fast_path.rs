//! Trains and superframes between hosts: whole streams on every kind of underlay, and nobody starves.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::echo::one_way_times;
use weft_testbed::lab::flood::Flood;
use weft_testbed::lab::meter::checksum_faults;
use weft_testbed::lab::traffic::{ping, ping_full, transfer};
use weft_testbed::lab::verdict::resident_kib;
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Container, Lab, Pair};

const STREAM: usize = 4_000_037;
/// A frame of the underlay that is one packet.
const FRAME_MAX: usize = 1514;

fn blue(pair: &Pair) -> (Container, Container) {
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    (near, far)
}

/// Streams both ways over both families; nothing may be lost on the way, nor arrive damaged.
fn talk(pair: &Pair, near: &Container, far: &Container) {
    transfer(&near.ns, &far.ns, far.ip(), STREAM);
    transfer(&far.ns, &near.ns, near.ip(), STREAM);
    transfer(&near.ns, &far.ns, far.v6(), STREAM);
    transfer(&far.ns, &near.ns, near.v6(), STREAM);
    ping_full(&near.ns, far.ip(), 1450);
    for container in [near, far] {
        assert_eq!(checksum_faults(&container.ns), 0, "{}", container.port.name);
    }
    for (host, other) in [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)] {
        let drops = host.peer_at(other.underlay).traffic.drops;
        let bad: Vec<_> = drops.keys().filter(|why| *why != "no_listener").collect();
        assert!(bad.is_empty(), "{drops:?}");
    }
}

fn longest_on_the_underlay(pair: &Pair, talk: impl FnOnce()) -> usize {
    let capture = Capture::start(&pair.host2.ns, UNDERLAY_IFNAME, &["udp", "port", "4789"]);
    talk();
    let frames = capture.stop().frames;
    frames.iter().map(Vec::len).max().unwrap()
}

fn set_offloads(pair: &Pair, settings: &[&str]) {
    for host in [&pair.host1, &pair.host2] {
        let args = [&["-K", UNDERLAY_IFNAME], settings].concat();
        host.ns.run("ethtool", &args).expect_done();
    }
}

#[test]
fn streams_are_whole_on_every_kind_of_underlay() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair);
    let longest = longest_on_the_underlay(&pair, || talk(&pair, &near, &far));
    assert!(longest > FRAME_MAX, "a veth carries trains: {longest}");
    set_offloads(
        &pair,
        &[
            "tso",
            "off",
            "gso",
            "off",
            "tx-udp-segmentation",
            "off",
            "gro",
            "on",
        ],
    );
    talk(&pair, &near, &far);
    set_offloads(&pair, &["gro", "off"]);
    let longest = longest_on_the_underlay(&pair, || talk(&pair, &near, &far));
    assert_eq!(longest, FRAME_MAX);
}

#[test]
fn without_gso_every_datagram_goes_by_itself() {
    let lab = Lab::new();
    lab.give_agents(&["--no-gso".to_owned()]);
    let pair = Pair::up(lab);
    let (near, far) = blue(&pair);
    let longest = longest_on_the_underlay(&pair, || talk(&pair, &near, &far));
    assert_eq!(longest, FRAME_MAX);
}

#[test]
fn a_flooding_port_starves_no_neighbour_and_fills_no_memory() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair);
    let neighbours =
        ["calm1", "calm2"].map(|name| pair.lab.container(&pair.host1, "blue", name, &[]));
    let calm = || {
        let [from, to] = &neighbours;
        one_way_times(&from.ns, (&to.ns, to.ip()), Duration::from_secs(1))
    };
    let alone = calm();
    let agent = pair.host1.agent();
    let before = resident_kib(agent.pid());
    let flood = Flood::start(&near.ns, (&far.ns, far.ip()), 64);
    let beside = calm();
    let count = flood.finish();
    assert!(count.received > 1000, "{count:?}");
    assert_eq!((alone.lost, beside.lost), (0, 0));
    let (median, worst) = (beside.percentile(0.5), beside.percentile(0.99));
    // The flood takes one of two cores and the agents take the other: what a scheduler gives, not a queue of ours.
    assert!(
        median < Duration::from_millis(10),
        "{median:?} beside a flood"
    );
    assert!(
        worst < Duration::from_millis(100),
        "{worst:?} beside a flood"
    );
    let grown = resident_kib(agent.pid()).saturating_sub(before);
    assert!(grown < 8 << 10, "the agent grew by {grown} KiB");
}

/// Sends bursts of datagrams of one size and a shorter last, as they are joined and cut again on the way, and looks at
/// each that arrives.
fn bursts(from: &Container, to: &Container, ips: [IpAddr; 2]) -> u64 {
    let [sender, receiver] = [(from, ips[0]), (to, ips[1])]
        .map(|(container, ip)| container.ns.enter(|| UdpSocket::bind((ip, 0)).unwrap()));
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    // While a kernel looks for its neighbour it may mix up what waits.
    ping(&from.ns, ips[1]);
    let mut buffer = [0; 2048];
    let mut sent = 0;
    for round in 0..120_usize {
        let size = 1 + round * 37 % 600;
        let burst: Vec<Vec<u8>> = (0..50_u8)
            .map(|number| {
                let len = if number == 49 { size / 2 + 1 } else { size };
                vec![number.wrapping_mul(5) ^ u8::try_from(round).unwrap(); len]
            })
            .collect();
        for datagram in &burst {
            sender.send(datagram).unwrap();
            sent += 1;
        }
        for datagram in &burst {
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(
                &buffer[..len],
                datagram,
                "round {round}: lost or out of order"
            );
        }
    }
    sent
}

#[test]
fn datagrams_that_were_joined_arrive_one_by_one_in_order_and_are_counted_as_what_they_were() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair);
    let beside = pair.lab.container(&pair.host1, "blue", "beside", &[]);
    for to in [&beside, &far] {
        let before = pair.host1.port_of(&near.ns).traffic.rx_frames;
        let sent =
            bursts(&near, to, [near.ip(), to.ip()]) + bursts(&near, to, [near.v6(), to.v6()]);
        let received = pair.host1.port_of(&near.ns).traffic.rx_frames - before;
        assert!(received >= sent, "{received} of {sent}");
        assert_eq!(checksum_faults(&to.ns), 0);
    }
    let written = pair.host1.port_of(&beside.ns).traffic.tx_frames;
    assert!(written >= 2 * 120 * 50, "{written}");
}
