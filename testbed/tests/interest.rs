//! A host is told of the networks that it has, and of what routers lead to; of the rest it can ask.

#![allow(
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::time::Duration;

use weft_testbed::lab::Host;
use weft_testbed::lab::traffic::{answers, ping};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Hosts, Lab};

/// An agent lets go of a network half a minute after its last port.
const LET_GO: Duration = Duration::from_secs(60);

fn up() -> Hosts {
    let cluster = Hosts::up(Lab::new(), 3);
    let host1 = &cluster.hosts[0];
    for (name, subnet) in [("blue", "10.41.0.0/16"), ("red", "10.42.0.0/16")] {
        host1.weft(&["network", "create", name, "--subnet", subnet]);
    }
    cluster.wait_in_sync();
    cluster
}

fn told_of(host: &Host) -> Vec<String> {
    host.status()
        .heard
        .unwrap()
        .networks
        .expect("not of everything")
}

fn knows(host: &Host) -> (usize, usize) {
    let heard = host.status().heard.unwrap();
    (heard.nodes, heard.endpoints)
}

#[test]
fn a_host_without_the_network_does_not_hear_of_it_and_gets_it_with_its_first_port() {
    let cluster = up();
    let [host1, host2, host3] = [0, 1, 2].map(|number| &cluster.hosts[number]);
    let blue1 = cluster.lab.container(host1, "blue", "blue1", &[]);
    let blue2 = cluster.lab.container(host2, "blue", "blue2", &[]);
    ping(&blue1.ns, blue2.ip());
    assert_eq!(
        (told_of(host2), knows(host2)),
        (vec!["blue".to_owned()], (2, 2))
    );
    // Not even after it has caught up with all there is.
    cluster.wait_in_sync();
    assert_eq!((told_of(host3), knows(host3)), (Vec::new(), (1, 0)));
    assert!(host3.peers().peers.is_empty());
    let addresses = |host: &Host| {
        let mut addresses: Vec<_> = host.peers().peers.iter().map(|peer| peer.address).collect();
        addresses.sort();
        addresses
    };
    assert_eq!(addresses(host1), [host2.underlay]);

    // Its operator sees the whole cluster.
    assert_eq!(host3.nodes().len(), 3);
    let listing: Vec<weft_control::api::NetworkInfo> = host3.json(&["network", "ls"]);
    let counts: Vec<_> = listing.iter().map(|network| network.endpoints).collect();
    assert_eq!(counts, [Some(2), Some(0)]);
    assert_eq!(host3.network("blue").members.len(), 2);
    assert_eq!(host3.subnets().len(), 2);
    let refusal = host3.refused(&["network", "disconnect", "blue", "--name", "blue1"]);
    assert!(refusal.hint.contains("host1"));
    assert_eq!(knows(host3), (1, 0), "reading isn't hearing");

    // With its first port it has all of it at once: the first frame arrives, and names are known.
    let blue3 = cluster.lab.container(host3, "blue", "blue3", &[]);
    assert_eq!(
        (told_of(host3), knows(host3)),
        (vec!["blue".to_owned()], (3, 3))
    );
    for to in [&blue1, &blue2] {
        ping(&blue3.ns, to.ip());
        ping(&to.ns, blue3.ip());
    }
    let asked = blue3.ns.run("dig", &["+short", "@10.41.0.1", "blue1"]);
    assert_eq!(asked.expect_done().trim(), blue1.ip().to_string());
    // And a name or MAC that is taken there is refused here.
    let refusal = host3.refused(&[
        "network",
        "connect",
        "blue",
        "--netns",
        blue3.ns.name(),
        "--name",
        "blue2",
    ]);
    assert_eq!(refusal.code, "name_taken");
}

#[test]
fn what_the_last_port_leaves_behind_is_withdrawn_and_not_while_no_controller_answers() {
    let cluster = up();
    let [host1, host2, host3] = [0, 1, 2].map(|number| &cluster.hosts[number]);
    let blue1 = cluster.lab.container(host1, "blue", "blue1", &[]);
    let blue2 = cluster.lab.container(host2, "blue", "blue2", &[]);
    let red2 = cluster.lab.container(host2, "red", "red2", &[]);
    ping(&blue2.ns, blue1.ip());
    host2.disconnect("blue", &blue2.ns);
    // Not at once.
    assert_eq!(told_of(host2), ["blue", "red"]);
    cluster.controller.kill();
    std::thread::sleep(Duration::from_secs(35));
    assert_eq!(told_of(host2), ["blue", "red"]);
    // An address of its own block, and the others by the last map.
    let blue2 = cluster.lab.container(host2, "blue", "again", &[]);
    ping(&blue2.ns, blue1.ip());
    // A network that it never had can't be had now.
    let late = cluster.lab.namespace("late");
    let netns = late.name();
    let refusal = host3.refused(&["network", "connect", "red", "--netns", netns]);
    assert_eq!(refusal.code, "offline");

    cluster.controller.start();
    cluster.wait_in_sync();
    host2.disconnect("blue", &blue2.ns);
    wait_until(LET_GO, "host2 lets go of blue", || {
        told_of(host2) == ["red"]
    });
    wait_until(SOON, "nothing of blue is left", || {
        host2.fdb().iter().all(|entry| entry.network == "red")
    });
    // Its block is still its own, so host1 goes on knowing it.
    assert!(host1.nodes().iter().any(|node| node.name == "host2"));
    // A new agent takes it up where the last one was.
    host2.kill_agent();
    host2.restart_agent();
    host2.wait_in_sync();
    assert_eq!(told_of(host2), ["red"]);
    ping(
        &cluster.lab.container(host3, "red", "red3", &[]).ns,
        red2.ip(),
    );
}

#[test]
fn a_router_brings_its_other_networks_and_takes_them_again() {
    let cluster = up();
    let [host1, host2, host3] = [0, 1, 2].map(|number| &cluster.hosts[number]);
    let blue1 = cluster.lab.container(host1, "blue", "blue1", &[]);
    let red2 = cluster.lab.container(host2, "red", "red2", &[]);
    assert!(!answers(&blue1.ns, red2.ip()));
    assert!(host1.peers().peers.is_empty());
    host1.weft(&["router", "create", "core"]);
    host1.weft(&["router", "connect", "core", "blue", "red"]);
    // It was told before it said so.
    assert_eq!(told_of(host1), ["blue", "red"]);
    wait_until(SOON, "host2 hears of blue", || told_of(host2).len() == 2);
    ping(&blue1.ns, red2.ip());
    let red3 = cluster.lab.container(host3, "red", "red3", &[]);
    ping(&red3.ns, blue1.ip());
    ping(&blue1.ns, red3.ip());
    // The whole cluster starts anew while a host is away.
    host2.kill_agent();
    host3.disconnect("red", &red3.ns);
    cluster.controller.kill();
    cluster.controller.start();
    host2.restart_agent();
    cluster.wait_in_sync();
    assert_eq!(host1.network("red").members.len(), 1);
    ping(&blue1.ns, red2.ip());
    host3.weft(&["router", "disconnect", "core", "red"]);
    for (host, left) in [(host1, "blue"), (host2, "red")] {
        let what = format!("{} has {left} alone", host.name);
        wait_until(SOON, &what, || told_of(host) == [left]);
    }
    assert!(!answers(&blue1.ns, red2.ip()));
}
