//! The main job: two hosts, one controller, one network, three containers; and nothing left afterwards.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::net::IpAddr;
use std::time::Duration;

use weft_control::api;
use weft_testbed::lab::capture::{Capture, Captured, checksum_fault};
use weft_testbed::lab::process::pids_mentioning;
use weft_testbed::lab::say;
use weft_testbed::lab::traffic::{iperf_start, ping, ping_full, transfer};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Lab, Pair};

const VNI: u32 = 4242;
const TRANSFER_LEN: usize = 2_000_003;

struct Blue {
    pair: Pair,
    containers: [Container; 3],
}

/// Network blue with two containers on the first host and one on the second.
fn blue(lab: Lab) -> Blue {
    let pair = Pair::up(lab);
    let vni = VNI.to_string();
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--vni",
        &vni,
    ]);
    let containers = [
        pair.lab.container(&pair.host1, "blue", "c1", &[]),
        pair.lab.container(&pair.host1, "blue", "c2", &[]),
        pair.lab.container(&pair.host2, "blue", "c3", &[]),
    ];
    pair.wait_in_sync();
    Blue { pair, containers }
}

impl Blue {
    fn pairs(&self) -> impl Iterator<Item = (&Container, &Container)> {
        let all = &self.containers;
        all.iter().flat_map(move |a| {
            all.iter()
                .filter(move |b| a.ip() != b.ip())
                .map(move |b| (a, b))
        })
    }
}

#[test]
fn three_containers_on_two_hosts_reach_each_other_and_the_wire_shows_clean_vxlan() {
    let blue = blue(Lab::new());
    for host in [&blue.pair.host1, &blue.pair.host2] {
        // So that the outer checksums are finished before tcpdump sees them.
        host.ns
            .run("ethtool", &["-K", "u0", "tx", "off"])
            .expect_done();
    }
    let capture = Capture::start(&blue.pair.host2.ns, "u0", &["udp", "port", "4789"]);
    for (from, to) in blue.pairs() {
        ping(&from.ns, to.ip());
        ping_full(&from.ns, to.ip(), 1450);
        transfer(&from.ns, &to.ns, to.ip(), TRANSFER_LEN);
    }
    check_wire(&capture.stop(), &blue);
}

fn check_wire(seen: &Captured, blue: &Blue) {
    let datagrams = seen.vxlan();
    assert_eq!(
        datagrams.len(),
        seen.frames.len(),
        "everything on UDP port 4789 is VXLAN:\n{}",
        seen.text()
    );
    let ends = [blue.pair.host1.underlay, blue.pair.host2.underlay];
    for direction in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let count = datagrams
            .iter()
            .filter(|datagram| datagram.ends == direction)
            .count();
        assert!(
            count > TRANSFER_LEN / 1450,
            "{count} datagrams {direction:?}"
        );
    }
    for (datagram, outer) in datagrams.iter().zip(&seen.frames) {
        if datagram.vni == 0 {
            // A probe of the path, or its answer: Ethernet OAM in the management VNI.
            assert_eq!(datagram.frame[12..14], [0x89, 0x02]);
            continue;
        }
        assert_eq!((datagram.vni, datagram.head), (VNI, [8, 0, 0, 0, 0]));
        assert!(
            ends.contains(&datagram.ends.0) && ends.contains(&datagram.ends.1),
            "{:?}",
            datagram.ends
        );
        assert!(
            datagram.source_port >= 49_152,
            "source port {} is in the range for flow entropy",
            datagram.source_port
        );
        assert!(
            datagram.frame.len() <= 1450 + 14,
            "an inner frame of {} bytes",
            datagram.frame.len()
        );
        assert_eq!(checksum_fault(&datagram.frame), None, "inner frame");
        assert_eq!(checksum_fault(outer), None, "outer frame");
    }
    let text = seen.text();
    assert!(
        text.contains(&format!("vni {VNI}")),
        "tcpdump knows it as VXLAN: {text}"
    );
}

#[test]
fn iperf3_runs_between_all_containers() {
    let blue = blue(Lab::alone());
    for (from, to) in blue.pairs() {
        let measured = iperf_start(&from.ns, &to.ns, to.ip(), 1).finish();
        let gigabits = measured.bits_per_second / 1e9;
        say(&format!(
            "iperf3 {} -> {}: {gigabits:.2} Gb/s",
            from.port.name, to.port.name
        ));
        assert!(
            gigabits > 0.05,
            "{} -> {}: {measured:?}",
            from.port.name,
            to.port.name
        );
    }
}

#[test]
fn every_listing_shows_what_was_made_as_table_and_as_json() {
    let blue = blue(Lab::new());
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    let [c1, c2, c3] = &blue.containers;
    ping(&c1.ns, c3.ip());

    let ports = host1.ports();
    assert_eq!(
        ports
            .iter()
            .map(|port| port.name.as_str())
            .collect::<Vec<_>>(),
        ["c1", "c2"]
    );
    let port = &ports[0];
    assert_eq!(
        (
            port.network.as_str(),
            port.vni.value(),
            port.ifname.as_str()
        ),
        ("blue", VNI, "eth0")
    );
    assert_eq!(
        (port.kind.as_str(), port.mtu.value(), port.state.as_str()),
        ("offload", 1450, "up")
    );
    assert_eq!((port.netns.as_str(), port.mac), (c1.ns.name(), c1.mac()));
    assert!(
        port.traffic.rx_frames >= 3 && port.traffic.tx_frames >= 3,
        "{port:?}"
    );

    let peer = host1.peer_at(host2.underlay);
    assert_eq!(
        (peer.name.as_str(), peer.kind.as_str(), peer.mtu.value()),
        ("host2", "node", 1450)
    );
    assert_eq!(peer.networks, ["blue"]);
    assert!(
        peer.traffic.rx_frames >= 3 && peer.traffic.tx_frames >= 3,
        "{peer:?}"
    );
    assert_eq!(host1.peers().strangers, api::Strangers::default());

    check_fdb(&blue);
    check_subnets(&blue);

    let nodes = host1.nodes();
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| (node.name.as_str(), node.endpoints, node.state.as_str()))
        .collect();
    assert_eq!(rows, [("host1", 2, "connected"), ("host2", 1, "connected")]);
    assert_eq!(
        nodes
            .iter()
            .filter(|node| node.this)
            .map(|node| node.underlay)
            .collect::<Vec<_>>(),
        [host1.underlay]
    );

    let network = host2.network("blue");
    assert_eq!(
        (network.network.endpoints, network.members.len()),
        (Some(3), 3)
    );
    assert_eq!(network.network.mtu.value(), 1450);

    for (words, wanted) in [
        (
            &["ports"][..],
            vec![c1.ip().to_string(), c2.mac().to_string()],
        ),
        (&["peers"], vec!["host2".to_owned(), "10.99.0.2".to_owned()]),
        (&["fdb"], vec![c1.mac().to_string(), c3.mac().to_string()]),
        (
            &["subnets"],
            vec!["10.32.".to_owned(), "host1".to_owned(), "host2".to_owned()],
        ),
        (
            &["nodes"],
            vec![
                "host1".to_owned(),
                "host2".to_owned(),
                "connected".to_owned(),
            ],
        ),
        (
            &["network", "ls"],
            vec!["blue".to_owned(), "10.32.0.0/16".to_owned()],
        ),
        (
            &["status"],
            vec!["host1".to_owned(), "10.99.0.1".to_owned(), "yes".to_owned()],
        ),
    ] {
        let table = host1.weft(words);
        for text in wanted {
            assert!(
                table.contains(&text),
                "`weft {}` does not show {text}:\n{table}",
                words.join(" ")
            );
        }
    }
}

fn check_fdb(blue: &Blue) {
    let [c1, c2, c3] = &blue.containers;
    let row = |entry: api::FdbEntry| (entry.mac, entry.via, entry.name, entry.address, entry.kind);
    let mut seen: Vec<_> = blue.pair.host1.fdb().into_iter().map(row).collect();
    let wanted_row = |container: &Container, via: &str, name: &str, address: Option<IpAddr>| {
        (
            container.mac(),
            via.to_owned(),
            name.to_owned(),
            address,
            "owned".to_owned(),
        )
    };
    let mut wanted = vec![
        wanted_row(c1, "port", "c1", None),
        wanted_row(c2, "port", "c2", None),
        wanted_row(c3, "peer", "host2", Some(blue.pair.host2.underlay)),
    ];
    seen.sort();
    wanted.sort();
    assert_eq!(seen, wanted);
}

fn check_subnets(blue: &Blue) {
    let rows = blue.pair.host1.subnets();
    assert_eq!(
        rows,
        blue.pair.host2.subnets(),
        "both hosts have the same subnet map"
    );
    for container in &blue.containers {
        let node = if container.port.name == "c3" {
            "host2"
        } else {
            "host1"
        };
        let block = rows
            .iter()
            .find(|row| row.node == node && row.prefix.contains(&container.ip()));
        assert!(
            block.is_some(),
            "{} of {node} is in none of its blocks: {rows:?}",
            container.ip()
        );
    }
    let used: u64 = rows.iter().map(|row| row.used).sum();
    assert_eq!(used, 3, "{rows:?}");
}

#[test]
fn nothing_is_left_when_containers_are_disconnected_and_the_daemons_stopped() {
    let blue = blue(Lab::new());
    let (host1, host2) = (&blue.pair.host1, &blue.pair.host2);
    let [c1, c2, c3] = &blue.containers;
    let refusal = host1.refused(&["network", "rm", "blue"]);
    assert!(
        refusal.message.contains("blue"),
        "a network in use stays: {refusal:?}"
    );

    host1.disconnect("blue", &c1.ns);
    host1.weft(&["network", "disconnect", "blue", "--name", "c2"]);
    host2.weft(&[
        "network",
        "disconnect",
        "blue",
        "--netns",
        &c3.ns.path().to_string_lossy(),
    ]);
    for container in &blue.containers {
        assert_eq!(
            container.ns.ifnames(),
            Vec::<String>::new(),
            "{}",
            container.port.name
        );
    }
    blue.pair.wait_in_sync();
    for host in [host1, host2] {
        assert_eq!(
            (host.ports(), host.fdb()),
            (vec![], vec![]),
            "{}",
            host.name
        );
        assert_eq!(host.network("blue").members, vec![]);
        assert_eq!(host.subnets().iter().map(|row| row.used).sum::<u64>(), 0);
    }
    host2.weft(&["network", "rm", "blue"]);
    blue.pair.wait_in_sync();
    let left: Vec<api::NetworkInfo> = host1.json(&["network", "ls"]);
    assert_eq!((left, host1.subnets()), (vec![], vec![]));
    assert_eq!(c2.ns.ifnames(), Vec::<String>::new());

    for host in [host1, host2] {
        host.stop_agent();
        assert!(
            !host.socket().exists(),
            "the socket of {} is left",
            host.name
        );
    }
    blue.pair.controller.stop();
    let dir = blue.pair.lab.dir();
    wait_until(Duration::from_secs(2), "all processes have ended", || {
        pids_mentioning(dir).is_empty()
    });
}
