//! What else operators do day by day: several networks, other ways to name a container, changed MTUs, lost nodes.

use std::net::IpAddr;
use std::time::Duration;

use weft_control::api;
use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::raw::{FrameSocket, ethernet};
use weft_testbed::lab::traffic::{answers, ping, ping_full, transfer};
use weft_testbed::lab::verdict::wait_for;
use weft_testbed::{Lab, Pair};
use weft_wire::MacAddr;

/// How long a change may take to be in force on both hosts.
const IN_FORCE: Duration = Duration::from_secs(2);

#[test]
fn networks_are_apart_and_a_container_may_be_on_several() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    pair.host1.weft(&[
        "network",
        "create",
        "red",
        "--subnet",
        "10.33.0.0/16",
        "--internal",
    ]);
    let blue = pair.lab.quiet_container(&pair.host1, "blue", "blue1", &[]);
    let red = pair.lab.quiet_container(&pair.host2, "red", "red1", &[]);
    let both = pair.lab.quiet_container(&pair.host2, "blue", "both", &[]);
    let second = pair.host2.connect("red", &both.ns, &["--name", "both"]);
    assert_eq!(
        (both.port.ifname.as_str(), second.ifname.as_str()),
        ("eth0", "eth1")
    );
    ping(&blue.ns, both.ip());
    ping(&red.ns, second.addresses[0].addr());
    let captures = [(&red.ns, "eth0"), (&both.ns, "eth1")]
        .map(|(ns, ifname)| Capture::start(ns, ifname, &["-Q", "in"]));
    let hello = ethernet(MacAddr::BROADCAST, blue.mac(), 0x88b5, &[7; 60]);
    FrameSocket::open(&blue.ns, "eth0").send(&hello);
    for capture in captures {
        let seen = capture.stop();
        assert!(seen.frames.is_empty(), "{}", seen.text());
    }
    // A network has a way out unless it is internal.
    assert!(
        blue.ns
            .ip(&["route"])
            .contains("default via 10.32.0.1 dev eth0")
    );
    assert!(!red.ns.ip(&["route"]).contains("default"));
    // Leaving one network leaves the other alone.
    pair.host2.disconnect("blue", &both.ns);
    assert_eq!(both.ns.ifnames(), ["eth1"]);
    ping(&red.ns, second.addresses[0].addr());
}

#[test]
fn a_container_may_be_named_by_its_process_or_by_a_path() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let (one, two) = (pair.lab.namespace("one"), pair.lab.namespace("two"));
    let process = one.spawn("container", "sleep", &["600"]);
    let pid = process.pid().to_string();
    let by_pid: api::Port = pair.host1.json(&[
        "network",
        "connect",
        "blue",
        "--pid",
        &pid,
        "--mac",
        "02:00:00:00:00:07",
    ]);
    assert_eq!(
        (by_pid.ifname.as_str(), by_pid.mac),
        ("eth0", MacAddr([2, 0, 0, 0, 0, 7]))
    );
    let path = two.path();
    let by_path: api::Port = pair.host2.json(&[
        "network",
        "connect",
        "blue",
        "--netns",
        path.to_str().unwrap(),
        "--ifname",
        "net7",
    ]);
    assert_eq!(two.ifnames(), ["net7"]);
    ping(&one, by_path.addresses[0].addr());
    pair.host1
        .weft(&["network", "disconnect", "blue", "--pid", &pid]);
    assert_eq!(one.ifnames(), Vec::<String>::new());
    assert!(!answers(&two, by_pid.addresses[0].addr()));
}

#[test]
fn a_changed_mtu_reaches_the_interfaces_of_all_hosts() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--mtu",
        "1300",
    ]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    let mtus = || [&c1, &c2].map(|container| container.ns.link("eth0")["mtu"].as_u64().unwrap());
    assert_eq!(mtus(), [1300, 1300]);
    ping_full(&c1.ns, c2.ip(), 1300);
    pair.host2
        .weft(&["network", "set", "blue", "--mtu", "1400"]);
    wait_for(
        IN_FORCE,
        "both interfaces have the new MTU",
        &[1400, 1400],
        mtus,
    );
    ping_full(&c1.ns, c2.ip(), 1400);
    transfer(&c1.ns, &c2.ns, c2.ip(), 500_009);
    assert_eq!(pair.host1.port_of(&c1.ns).mtu.value(), 1400);
    assert_eq!(pair.host1.network("blue").network.mtu.value(), 1400);
}

#[test]
fn a_node_that_is_lost_for_good_is_removed_with_all_it_had() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    pair.host2.kill_agent();
    c2.ns.delete();
    wait_for(
        Duration::from_secs(20),
        "the controller misses host2",
        &"disconnected".to_owned(),
        || pair.host1.nodes()[1].state.clone(),
    );
    pair.host1.weft(&["nodes", "rm", "host2"]);
    assert_eq!(pair.host1.nodes().len(), 1);
    assert_eq!(pair.host1.peers().peers, vec![]);
    assert_eq!(pair.host1.network("blue").members.len(), 1);
    assert!(pair.host1.subnets().iter().all(|row| row.node == "host1"));
    let again = pair
        .lab
        .container(&pair.host1, "blue", "c2", &["--ip", &c2.ip().to_string()]);
    ping(&c1.ns, again.ip());
}

#[test]
fn unused_networks_can_be_pruned() {
    let pair = Pair::up(Lab::new());
    for name in ["a", "b", "c"] {
        pair.host1.weft(&["network", "create", name]);
    }
    pair.lab.container(&pair.host2, "b", "c1", &[]);
    pair.wait_in_sync();
    let pruned: api::Pruned = pair.host1.json(&["network", "prune"]);
    assert_eq!(pruned.removed, ["a", "c"]);
    assert_eq!(pair.host2.weft(&["network", "ls", "-q"]).trim(), "b");
}

#[test]
fn the_underlay_may_be_ipv6() {
    let pair = Pair::up_over_ipv6(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    // An IPv6 header is 20 bytes longer.
    assert_eq!(c1.port.mtu.value(), 1430);
    for to in [IpAddr::from(c2.v4()), c2.v6()] {
        ping(&c1.ns, to);
        ping_full(&c1.ns, to, 1430);
        transfer(&c1.ns, &c2.ns, to, 1_000_003);
    }
    assert_eq!(
        pair.host1.peer_at("fd99::2".parse().unwrap()).mtu.value(),
        1430
    );
}

#[test]
fn endpoints_given_nothing_get_distinct_names_macs_and_addresses() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--ip-range",
        "10.32.5.0/24",
    ]);
    let ports: Vec<api::Port> = (0..6)
        .map(|number| {
            let ns = pair.lab.namespace(&format!("n{number}"));
            [&pair.host1, &pair.host2][number % 2].connect("blue", &ns, &[])
        })
        .collect();
    let distinct = |mut values: Vec<String>| {
        values.sort();
        values.dedup();
        values.len()
    };
    assert_eq!(
        distinct(ports.iter().map(|port| port.name.clone()).collect()),
        6
    );
    assert_eq!(
        distinct(ports.iter().map(|port| port.mac.to_string()).collect()),
        6
    );
    assert_eq!(
        distinct(
            ports
                .iter()
                .map(|port| port.addresses[0].to_string())
                .collect()
        ),
        6
    );
    for port in &ports {
        let text = port.addresses[0].to_string();
        assert!(
            text.starts_with("10.32.5.") && text.ends_with("/16"),
            "{text} is of the range, with the subnet's prefix"
        );
    }
}
