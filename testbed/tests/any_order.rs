//! Whatever order people do things in, the end is the same.

use std::thread;
use std::time::Duration;

use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Pair};

#[test]
fn agents_that_start_before_their_controller_join_when_it_comes() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    let tokens = [pair.controller.token(&[]), pair.controller.token(&[])];
    pair.controller.stop();
    let agents = [&pair.host1, &pair.host2].map(|host| {
        let token = &tokens[usize::from(host.name == "host2")];
        host.join_with(&pair.controller, token)
    });
    wait_until(SOON, "the agents' sockets are there", || {
        pair.host1.socket().exists()
    });
    let refusal = pair.host1.refused(&["network", "create", "blue"]);
    assert!(
        !refusal.message.is_empty(),
        "the agent says what it waits for"
    );
    thread::sleep(Duration::from_secs(1));
    assert!(
        agents.iter().all(|agent| agent.is_running()),
        "agents wait for their controller"
    );
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.wait_up();
    }
    pair.wait_in_sync();
    let c1 = {
        pair.host2
            .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
        pair.lab.container(&pair.host1, "blue", "c1", &[])
    };
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
}

#[test]
fn a_network_and_a_container_may_be_there_before_the_second_host() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    pair.host1.join(&pair.controller);
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    pair.host2.join(&pair.controller);
    // No waiting: a name that the cluster knows is known.
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c2.ns, c1.ip());
    ping(&c1.ns, c2.ip());
    transfer(&c1.ns, &c2.ns, c2.ip(), 200_000);
}

#[test]
fn what_happened_while_an_agent_was_stopped_is_there_when_it_is_back() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&["network", "create", "red"]);
    pair.host2.stop_agent();
    pair.host1.weft(&["network", "rm", "red"]);
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(
        &pair.host1,
        "blue",
        "c1",
        &["--ip", "10.32.7.7", "--alias", "db"],
    );
    pair.host2.restart_agent();
    pair.host2.wait_in_sync();
    let blue = pair.host2.network("blue");
    assert_eq!(blue.members[0].aliases, ["db"]);
    assert_eq!(c1.ip().to_string(), "10.32.7.7");
    pair.host2.refused(&["network", "inspect", "red"]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c2.ns, c1.ip());
}

#[test]
fn an_underlay_link_may_go_down_and_come_back() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    pair.host2.ns.ip(&["link", "set", "u0", "down"]);
    thread::sleep(Duration::from_secs(1));
    pair.host2.ns.ip(&["link", "set", "u0", "up"]);
    ping(&c1.ns, c2.ip());
    pair.wait_in_sync();
}

#[test]
fn one_host_alone_needs_no_controller_and_keeps_its_networks_over_a_restart() {
    let pair = Pair::cold(Lab::new());
    let host = &pair.host1;
    host.spawn_agent(&["--standalone", "--node", "alone"]);
    host.wait_up();
    host.wait_in_sync();
    let told = host.weft(&["status"]);
    assert!(
        told.contains("none (standalone") && !told.contains("on lo"),
        "{told}"
    );
    host.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let c1 = pair.lab.container(host, "blue", "c1", &[]);
    let c2 = pair.lab.container(host, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    transfer(&c1.ns, &c2.ns, c2.v6(), 1_000_000);
    host.kill_agent();
    host.restart_agent();
    host.wait_in_sync();
    ping(&c2.ns, c1.ip());
    assert_eq!(host.network("blue").members.len(), 2);
    host.disconnect("blue", &c1.ns);
    host.weft(&["network", "disconnect", "blue", "--name", "c2"]);
    host.weft(&["network", "rm", "blue"]);
    host.stop_agent();
}
