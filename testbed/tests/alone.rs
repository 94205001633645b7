//! What a host is left alone with: no controller, a fd holder that hangs, a cluster that went on without it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::process::Frozen;
use weft_testbed::lab::traffic::{answers, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Hosts, Lab, Pair};

/// A dead connection is noticed by silence; this is how long that may take, either way.
const NOTICE: Duration = Duration::from_secs(20);
/// What an agent may take to say anything at all.
const ANSWER: Duration = Duration::from_secs(2);
/// What an agent tries before it gives its ports' holder up.
const GIVE_UP: Duration = Duration::from_secs(60);

#[test]
fn a_container_is_connected_anew_as_what_it_was_while_the_controller_is_away() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    // Of the other host's block: claimed.
    let foreign = match c2.ip() {
        std::net::IpAddr::V4(ip) => std::net::Ipv4Addr::from_bits(ip.to_bits() + 7).to_string(),
        std::net::IpAddr::V6(_) => unreachable!("the subnet is IPv4"),
    };
    let c3 = pair
        .lab
        .container(&pair.host1, "blue", "c3", &["--ip", &foreign]);
    pair.wait_in_sync();
    pair.controller.kill();
    for (container, name) in [(&c1, "c1"), (&c3, "c3")] {
        let ip = container.ip().to_string();
        for _ in 0..2 {
            pair.host1.disconnect("blue", &container.ns);
            let again = ["--name", name, "--ip", &ip];
            pair.host1.connect("blue", &container.ns, &again);
            ping(&container.ns, c2.ip());
        }
    }
    pair.controller.start();
    pair.wait_in_sync();
    let seen = pair.host2.network("blue");
    assert_eq!(seen, pair.host1.network("blue"));
    let members: Vec<_> = seen
        .members
        .iter()
        .map(|member| (member.name.as_str(), member.ips[0]))
        .collect();
    assert_eq!(members, [("c1", c1.ip()), ("c2", c2.ip()), ("c3", c3.ip())]);
    assert!(pair.host1.status().warnings.is_empty());
    // The claim is still c3's: its block's owner can't give the address out.
    let c4 = pair.lab.namespace("c4");
    let taken = [
        "network",
        "connect",
        "blue",
        "--netns",
        c4.name(),
        "--ip",
        &foreign,
    ];
    let refusal = pair.host2.refused(&taken);
    assert!(refusal.message.contains("c3"), "{refusal:?}");
    // And with a controller the same goes on: each time the claim is given back and made again.
    for _ in 0..3 {
        pair.host1.disconnect("blue", &c3.ns);
        let again = ["--name", "c3", "--ip", &foreign];
        pair.host1.connect("blue", &c3.ns, &again);
    }
    ping(&c3.ns, c2.ip());
}

#[test]
fn ports_are_not_given_up_because_their_holder_hangs_for_a_while() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    let saved = fs::read_to_string(pair.host1.state().join("ports.json")).unwrap();
    pair.host1.kill_agent();
    let frozen = Frozen::new(pair.host1.holders()[0]);
    // It waits for the holder, then says that it can't start, and changes nothing.
    let agent = pair.host1.spawn_agent(&[]);
    let status = agent.expect_end(GIVE_UP);
    assert_eq!(status.code(), Some(1), "{}", agent.log());
    assert!(agent.log().contains("holder.sock"), "{}", agent.log());
    let after = fs::read_to_string(pair.host1.state().join("ports.json")).unwrap();
    assert_eq!(after, saved);
    // One that hangs for a shorter time costs that time.
    let agent = pair.host1.spawn_agent(&[]);
    thread::sleep(Duration::from_secs(7));
    assert!(agent.is_running(), "{}", agent.log());
    drop(frozen);
    pair.host1.wait_up();
    pair.host1.wait_in_sync();
    assert_eq!(pair.host1.ports().len(), 1);
    ping(&c1.ns, c2.ip());
}

#[test]
fn a_running_agent_goes_on_while_its_holder_hangs() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    let frozen = Frozen::new(pair.host1.holders()[0]);
    // The deposit waits for an answer; the port is there all the same.
    let c3 = pair.lab.container(&pair.host1, "blue", "c3", &[]);
    for _ in 0..20 {
        let asked = Instant::now();
        let status = pair.host1.status();
        assert!(asked.elapsed() < ANSWER, "{:?}", asked.elapsed());
        assert!(!status.ports_survive, "{status:?}");
        thread::sleep(Duration::from_millis(300));
    }
    ping(&c1.ns, c2.ip());
    ping(&c3.ns, c2.ip());
    drop(frozen);
    wait_until(NOTICE, "the holder is found again", || {
        pair.host1.status().ports_survive
    });
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    pair.host1.wait_in_sync();
    assert_eq!(pair.host1.ports().len(), 2);
    ping(&c1.ns, c2.ip());
    ping(&c3.ns, c2.ip());
}

#[test]
fn an_interface_goes_although_its_port_was_disconnected_while_the_holder_hung() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host1, "blue", "c2", &[]);
    let c3 = pair.lab.container(&pair.host1, "blue", "c3", &[]);
    let has_interface = |of: &Container| of.ns.ip(&["-br", "link"]).contains("eth0");
    let frozen = Frozen::new(pair.host1.holders()[0]);
    // What the holder was told before it was given up it hears when it goes on; of the second it was never told.
    for container in [&c1, &c3] {
        pair.host1.disconnect("blue", &container.ns);
        // The holder has a handle on it, and so it is still there.
        assert!(has_interface(container));
    }
    assert_eq!(pair.host1.ports().len(), 1);
    drop(frozen);
    for container in [&c1, &c3] {
        wait_until(NOTICE, "the interface is gone", || {
            !has_interface(container)
        });
    }
    ping(&c2.ns, c2.ip());
    assert!(c2.ns.ip(&["-br", "link"]).contains("eth0"));
}

#[test]
fn a_port_of_a_network_that_was_removed_is_not_on_the_one_that_has_its_vni() {
    let net = Hosts::up(Lab::new(), 2);
    let [host1, host2] = net.hosts.as_slice() else {
        unreachable!("two hosts were made")
    };
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let vni = host1.network("blue").network.vni;
    // A block of its own, to connect from while it is cut off.
    let c1 = net.lab.container(host2, "blue", "c1", &[]);
    host2.disconnect("blue", &c1.ns);
    net.wait_in_sync();
    net.cut_off(2);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    let c3 = net.lab.container(host2, "blue", "c3", &[]);
    ping(&c2.ns, c3.ip());
    wait_until(NOTICE, "host1 may remove the network", || {
        host1.try_weft(&["network", "rm", "blue"]).code == Some(0)
    });
    let number = vni.to_string();
    let green = [
        "network",
        "create",
        "green",
        "--subnet",
        "10.32.0.0/16",
        "--vni",
        &number,
    ];
    host1.weft(&green);
    let c4 = net
        .lab
        .container(host1, "green", "c4", &["--ip", "10.32.9.9"]);
    net.heal(2);
    net.wait_in_sync();
    let c5 = net
        .lab
        .container(host2, "green", "c5", &["--ip", "10.32.8.8"]);
    ping(&c5.ns, c4.ip());
    for stranded in [&c2, &c3] {
        assert!(!answers(&stranded.ns, c4.ip()), "{}", stranded.ip());
        assert!(!answers(&stranded.ns, c5.ip()), "{}", stranded.ip());
        let port = host2.port_of(&stranded.ns);
        assert!(port.state.contains("refused"), "{port:?}");
        assert!(port.traffic.drops["unknown_vni"] > 0, "{port:?}");
    }
    // Nor after a restart, which plugs them in again.
    host2.kill_agent();
    host2.restart_agent();
    net.wait_in_sync();
    assert!(!answers(&c2.ns, c4.ip()));
    ping(&c5.ns, c4.ip());
    host2.disconnect("blue", &c2.ns);
    host2.disconnect("blue", &c3.ns);
}

#[test]
fn a_first_start_that_fails_for_its_port_costs_no_token() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    pair.host1.join(&pair.controller);
    pair.host2.ns.ip(&[
        "link",
        "add",
        "vx",
        "type",
        "vxlan",
        "id",
        "9",
        "dstport",
        "4789",
        "local",
        "10.99.0.2",
    ]);
    pair.host2.ns.ip(&["link", "set", "vx", "up"]);
    let token = pair.controller.token(&[]);
    let agent = pair.host2.join_with(&pair.controller, &token);
    assert_eq!(agent.expect_end(NOTICE).code(), Some(1));
    assert!(agent.log().contains("4789"), "{}", agent.log());
    assert_eq!(pair.host1.nodes().len(), 1);
    pair.host2.ns.ip(&["link", "del", "vx"]);
    pair.host2.join_with(&pair.controller, &token);
    pair.host2.wait_up();
    pair.wait_in_sync();
    assert_eq!(pair.host1.nodes().len(), 2);
}
