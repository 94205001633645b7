//! Ports behind a worse line: limits and impairments, that hold also when the agent is another.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;

use weft_testbed::lab::traffic::{iperf_start, ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Container, Host, Lab, Namespace, Pair};

fn blue(pair: &Pair, extra: &[&str]) -> (Container, Container) {
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let near = pair.lab.container(&pair.host1, "blue", "near", extra);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    (near, far)
}

/// Round trips in milliseconds, one ping after the other; a lost one is none.
fn round_trips(from: &Namespace, to: IpAddr, count: u32) -> Vec<f64> {
    let count = count.to_string();
    let args = ["-i", "0.02", "-W", "1", "-c", &count, &to.to_string()];
    let output = from.run("ping", &args).stdout;
    let times = output.lines().filter_map(|line| {
        let (_, time) = line.split_once("time=")?;
        time.split(' ').next()?.parse().ok()
    });
    times.collect()
}

fn line_of(host: &Host, name: &str) -> Option<weft_control::api::PortLine> {
    let ports = host.ports();
    ports
        .into_iter()
        .find(|port| port.name == name)
        .unwrap()
        .line
}

#[test]
fn a_delayed_port_is_late_each_way_until_the_line_is_perfect_again() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair, &[]);
    ping(&near.ns, far.ip());
    assert!(
        round_trips(&near.ns, far.ip(), 5)
            .iter()
            .all(|time| *time < 15.0)
    );
    let impair = |args: &[&str]| {
        pair.host1
            .weft(&[&["port", "impair", "near"], args].concat())
    };
    impair(&["--delay", "20ms", "--jitter", "2ms"]);
    let times = round_trips(&near.ns, far.ip(), 10);
    assert_eq!(times.len(), 10);
    assert!(times.iter().all(|time| *time >= 36.0), "{times:?}");
    impair(&["--delay", "20ms", "--direction", "to"]);
    let times = round_trips(&near.ns, far.ip(), 10);
    let median = {
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[5]
    };
    assert!((20.0..36.0).contains(&median), "{times:?}");
    impair(&["--none"]);
    assert!(line_of(&pair.host1, "near").is_none());
    let times = round_trips(&near.ns, far.ip(), 10);
    assert!(times.iter().any(|time| *time < 15.0), "{times:?}");
    transfer(&near.ns, &far.ns, far.ip(), 1_000_003);
}

#[test]
fn a_stream_gets_through_a_line_that_loses_doubles_and_reorders_also_after_a_restart() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair, &[]);
    pair.host1.weft(&[
        "port",
        "impair",
        "near",
        "--delay",
        "1ms",
        "--loss",
        "2%",
        "--duplicate",
        "3%",
        "--reorder",
        "--seed",
        "7",
    ]);
    transfer(&near.ns, &far.ns, far.ip(), 1_000_003);
    transfer(&far.ns, &near.ns, near.v6(), 1_000_003);
    let line = line_of(&pair.host1, "near").unwrap();
    for way in [line.to_port, line.from_port] {
        assert!(
            way.frames > 100 && way.lost + way.duplicated + way.reordered > 0,
            "{line:?}"
        );
    }
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    pair.host1.wait_in_sync();
    let after = line_of(&pair.host1, "near").unwrap();
    assert_eq!(after.impairments, line.impairments);
    transfer(&near.ns, &far.ns, far.ip(), 300_007);
    assert!(line_of(&pair.host1, "near").unwrap().from_port.frames > 50);
    let table = pair.host1.weft(&["ports"]);
    assert!(table.contains("loss 2% duplicate 3% reorder 1%"), "{table}");
}

#[test]
fn all_is_lost_on_a_dead_line_and_a_namespace_behind_one_still_dies() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair, &[]);
    pair.host1.weft(&[
        "port",
        "impair",
        "near",
        "--loss",
        "100%",
        "--direction",
        "from",
    ]);
    assert!(round_trips(&near.ns, far.ip(), 3).is_empty());
    assert!(line_of(&pair.host1, "near").unwrap().from_port.lost >= 3);
    near.ns.delete();
    wait_until(SOON, "the port is gone", || pair.host1.ports().is_empty());
}

#[test]
fn a_limited_port_is_as_fast_as_its_rate_and_no_faster() {
    let pair = Pair::up(Lab::new());
    let (near, far) = blue(&pair, &["--rate", "50mbit", "--burst", "64kb"]);
    for (from, to) in [(&near, &far), (&far, &near)] {
        let reached = iperf_start(&from.ns, &to.ns, to.ip(), 3)
            .finish()
            .bits_per_second;
        assert!((20e6..55e6).contains(&reached), "{reached}");
    }
    pair.host1.weft(&[
        "port",
        "limit",
        "near",
        "--rate",
        "10mbit",
        "--direction",
        "to",
    ]);
    let slow = iperf_start(&far.ns, &near.ns, near.ip(), 2)
        .finish()
        .bits_per_second;
    assert!(slow < 15e6, "{slow}");
    let fast = iperf_start(&near.ns, &far.ns, far.ip(), 2)
        .finish()
        .bits_per_second;
    assert!(fast > 60e6, "{fast}");
    pair.host1.weft(&["port", "limit", "near", "--none"]);
    assert!(line_of(&pair.host1, "near").is_none());
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let pair = Pair::up(Lab::new());
    let (_near, _far) = blue(&pair, &[]);
    let refused = |args: &[&str]| pair.host1.refused(&[&["port"], args].concat()).code;
    assert_eq!(
        refused(&["impair", "nobody", "--loss", "1%"]),
        "unknown_port"
    );
    assert_eq!(refused(&["impair", "far", "--loss", "1%"]), "unknown_port");
    assert_eq!(refused(&["limit", "near", "--rate", "100bit"]), "bad_line");
    let jitter = ["impair", "near", "--delay", "1ms", "--jitter", "2ms"];
    assert_eq!(refused(&jitter), "bad_line");
    for usage in [
        ["port", "impair", "near", "--loss", "101%"],
        ["port", "limit", "near", "--rate", "fast"],
    ] {
        assert_eq!(pair.host1.try_weft(&usage).code, Some(2));
    }
    assert!(line_of(&pair.host1, "near").is_none());
}
