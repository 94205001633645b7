//! Daemons die, containers vanish without a word: traffic goes on, and nothing stale stays.

use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::say;
use weft_testbed::lab::traffic::{Prober, answers, iperf_start, ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_for, wait_until};
use weft_testbed::{Container, Host, Lab, Pair};

/// What a restart of the agent may cost at most; the figure itself is printed.
const GAP_MAX: Duration = Duration::from_millis(250);
/// Within this time a container's end is noticed everywhere.
const NOTICE_MAX: Duration = Duration::from_secs(1);

fn blue(lab: Lab) -> (Pair, Container, Container) {
    let pair = Pair::up(lab);
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
    let c3 = pair.lab.container(&pair.host2, "blue", "c3", &[]);
    pair.wait_in_sync();
    (pair, c1, c3)
}

/// All that a container can see of its interface.
fn interface(container: &Container) -> (serde_json::Value, Vec<std::net::IpAddr>, String) {
    let link = container.ns.link("eth0");
    let routes = container.ns.ip(&["route", "show"]) + &container.ns.ip(&["-6", "route", "show"]);
    (
        link["ifindex"].clone(),
        container.ns.addresses("eth0"),
        format!("{} {routes}", link["address"]),
    )
}

#[test]
fn a_transfer_goes_on_when_either_agent_is_killed_and_started_again() {
    let (pair, c1, c3) = blue(Lab::alone());
    let before = [interface(&c1), interface(&c3)];
    let iperf = iperf_start(&c1.ns, &c3.ns, c3.ip(), 8);
    for host in [&pair.host1, &pair.host2] {
        thread::sleep(Duration::from_secs(2));
        host.kill_agent();
        host.restart_agent();
    }
    let measured = iperf.finish();
    let still = measured
        .intervals
        .iter()
        .filter(|bytes| **bytes == 0)
        .count();
    say(&format!(
        "iperf3 over two restarts: {:.2} Gb/s, {} retransmits, {still} of {} tenths of a second without progress",
        measured.bits_per_second / 1e9,
        measured.retransmits,
        measured.intervals.len()
    ));
    assert!(
        measured
            .intervals
            .iter()
            .rev()
            .take(10)
            .all(|bytes| *bytes > 0),
        "it moves at the end: {measured:?}"
    );
    assert_eq!([interface(&c1), interface(&c3)], before);
    pair.wait_in_sync();
    ping(&c3.ns, c1.ip());
}

#[test]
fn the_gap_of_a_restart_is_short_in_both_directions() {
    let (pair, c1, c3) = blue(Lab::alone());
    for host in [&pair.host1, &pair.host2] {
        let out = Prober::start(&c1.ns, &c3.ns, c3.ip());
        let back = Prober::start(&c3.ns, &c1.ns, c1.ip());
        thread::sleep(Duration::from_millis(500));
        host.kill_agent();
        host.restart_agent();
        thread::sleep(Duration::from_millis(500));
        for (direction, probe) in [("out", out.finish()), ("back", back.finish())] {
            say(&format!(
                "agent of {} killed, {direction}: {probe:?}",
                host.name
            ));
            assert!(
                probe.longest_gap < GAP_MAX,
                "{} {direction}: {probe:?}",
                host.name
            );
        }
    }
}

#[test]
fn ports_outlive_an_orderly_stop_too() {
    let (pair, c1, c3) = blue(Lab::new());
    let before = interface(&c1);
    pair.host1.stop_agent();
    let (log, holders) = (pair.host1.agent().log(), pair.host1.holders());
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("--remove-ports") && last.contains(&format!("kill {}", holders[0])),
        "the agent says what stays and how to end it: {last}"
    );
    assert!(!log.contains("WARN"), "{log}");
    assert!(!answers(&c1.ns, c3.ip()), "nobody forwards");
    assert_eq!(interface(&c1), before);
    pair.host1.restart_agent();
    ping(&c1.ns, c3.ip());
    assert_eq!(interface(&c1), before);
    let status = pair.host1.wait_in_sync();
    assert!(status.ports_survive && status.ports == 1, "{status:?}");
}

#[test]
fn an_agent_that_is_stopped_with_its_ports_leaves_nothing() {
    let (pair, c1, c3) = blue(Lab::new());
    // Without the flag it is what SIGTERM does.
    pair.host2.weft(&["agent", "stop"]);
    assert!(pair.host2.agent().expect_end(NOTICE_MAX).success());
    assert_eq!(c3.ns.ifnames(), ["eth0"]);
    pair.host2.restart_agent();
    pair.wait_in_sync();
    ping(&c1.ns, c3.ip());
    let told: serde_json::Value = pair.host1.json(&["agent", "stop", "--remove-ports"]);
    assert_eq!(told, serde_json::json!({"removed": ["c1"], "left": 0}));
    assert!(pair.host1.agent().expect_end(NOTICE_MAX).success());
    assert_eq!(c1.ns.ifnames(), Vec::<String>::new());
    wait_until(SOON, "the fd holder ends", || {
        pair.host1.holders().is_empty()
    });
    pair.host2.wait_in_sync();
    let members = pair.host2.network("blue").members;
    assert_eq!(members.len(), 1, "{members:?}");
    pair.host1.restart_agent();
    assert_eq!(pair.host1.ports(), vec![]);
}

#[test]
fn a_controller_that_was_just_killed_holds_nobody_up() {
    let (pair, _c1, c3) = blue(Lab::alone());
    let ns = pair.lab.namespace("c2");
    pair.controller.kill();
    let since = Instant::now();
    pair.host1.connect("blue", &ns, &[]);
    let connect = since.elapsed();
    let since = Instant::now();
    pair.host2.disconnect("blue", &c3.ns);
    let disconnect = since.elapsed();
    say(&format!(
        "controller just killed: connect {connect:?}, disconnect {disconnect:?}"
    ));
    assert!(connect.max(disconnect) < NOTICE_MAX);
}

#[test]
fn hosts_go_on_without_the_controller_and_agree_when_it_is_back() {
    let (pair, c1, c3) = blue(Lab::new());
    pair.controller.kill();
    ping(&c1.ns, c3.ip());
    // Each host attaches and detaches by itself, from its own blocks.
    let c2 = pair.lab.container(&pair.host1, "blue", "c2", &[]);
    let c4 = pair.lab.container(&pair.host2, "blue", "c4", &[]);
    ping(&c2.ns, c1.ip());
    ping(&c4.ns, c3.ip());
    transfer(&c1.ns, &c3.ns, c3.ip(), 1_000_003);
    pair.host2.disconnect("blue", &c3.ns);
    assert_eq!(pair.host2.ports().len(), 1);
    // An agent that is restarted now forwards by the map it has on disk.
    pair.host2.kill_agent();
    pair.host2.restart_agent();
    ping(&c4.ns, c1.ip());
    wait_until(SOON, "the agent knows that it is alone", || {
        let status = pair.host1.status();
        !status.in_sync && status.controller.connected.is_none()
    });

    pair.controller.start();
    pair.wait_in_sync();
    let seen = [&pair.host1, &pair.host2].map(|host| host.network("blue"));
    assert_eq!(seen[0], seen[1]);
    let names: Vec<_> = seen[0]
        .members
        .iter()
        .map(|member| member.name.as_str())
        .collect();
    assert_eq!(names, ["c1", "c2", "c4"]);
    assert_eq!(pair.host1.subnets(), pair.host2.subnets());
    ping(&c2.ns, c4.ip());
    ping(&c4.ns, c2.ip());
}

fn members(host: &Host) -> Vec<String> {
    host.network("blue")
        .members
        .into_iter()
        .map(|member| member.name)
        .collect()
}

fn used(host: &Host) -> u64 {
    host.subnets().iter().map(|row| row.used).sum()
}

/// Waits until c1 is all there is, on both hosts.
fn only_c1_is_left(pair: &Pair, c1: &Container) {
    for host in [&pair.host1, &pair.host2] {
        let what = format!("{} has forgotten the container", host.name);
        wait_for(NOTICE_MAX, &what, &(vec!["c1".to_owned()], 2), || {
            (members(host), used(host))
        });
        let fdb: Vec<_> = host.fdb().iter().map(|row| row.mac).collect();
        assert_eq!(fdb, [c1.mac()], "FDB of {}", host.name);
    }
    assert_eq!(pair.host2.ports(), vec![]);
}

#[test]
fn a_namespace_deleted_without_a_word_is_gone_everywhere_within_a_second() {
    let (pair, c1, c3) = blue(Lab::new());
    ping(&c1.ns, c3.ip());
    let ip = c3.ip().to_string();
    c3.ns.delete();
    only_c1_is_left(&pair, &c1);
    let again = pair
        .lab
        .container(&pair.host1, "blue", "c3", &["--ip", &ip]);
    ping(&c1.ns, again.ip());
}

#[test]
fn a_namespace_deleted_while_the_agent_was_dead_is_gone_within_a_second_of_its_return() {
    let (pair, c1, c3) = blue(Lab::new());
    ping(&c1.ns, c3.ip());
    pair.host2.kill_agent();
    c3.ns.delete();
    pair.host2.restart_agent();
    only_c1_is_left(&pair, &c1);
    c3.ns.create_again();
    let again = pair.host2.connect("blue", &c3.ns, &["--name", "c3"]);
    ping(&c1.ns, again.addresses[0].addr());
}

#[test]
fn addresses_are_free_again_when_agent_and_ports_died_together() {
    let (pair, c1, c3) = blue(Lab::new());
    pair.host2.kill_agent();
    for holder in pair.host2.holders() {
        pair.host2
            .ns
            .run("kill", &["-9", &holder.to_string()])
            .expect_done();
    }
    wait_until(NOTICE_MAX, "the kernel takes the interface away", || {
        c3.ns.ifnames().is_empty()
    });
    pair.host2.restart_agent();
    only_c1_is_left(&pair, &c1);
    let again = pair.host2.connect(
        "blue",
        &c3.ns,
        &["--name", "c3", "--ip", &c3.ip().to_string()],
    );
    assert_eq!(again.ifname, "eth0");
    ping(&c1.ns, c3.ip());
}

#[test]
fn a_killed_fd_holder_is_replaced_without_loss() {
    let (pair, c1, c3) = blue(Lab::new());
    for holder in pair.host1.holders() {
        pair.host1
            .ns
            .run("kill", &["-9", &holder.to_string()])
            .expect_done();
    }
    ping(&c1.ns, c3.ip());
    wait_until(SOON, "a new holder has the ports", || {
        pair.host1.status().ports_survive
    });
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    ping(&c1.ns, c3.ip());
}
