//! Wall clocks that are set while everything runs: what waits doesn't follow them, what has an end date does.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use weft_testbed::lab::clock::Clock;
use weft_testbed::lab::traffic::{Probe, Prober, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Lab, Pair};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// An agent looks at its clock once a minute, and asks then.
const NOTICED: Duration = Duration::from_secs(180);

/// Controller and agents with a clock each, in this order, and containers on a network in clear and an encrypted one.
struct Timed {
    pair: Pair,
    clocks: [Clock; 3],
    clear: [Container; 2],
    sealed: [Container; 2],
}

impl Timed {
    fn up() -> Self {
        let pair = Pair::cold(Lab::new());
        let clocks = ["controller", "host1", "host2"].map(|name| Clock::new(&pair.lab, name));
        pair.controller.give_clock(&clocks[0]);
        pair.host1.give_clock(&clocks[1]);
        pair.host2.give_clock(&clocks[2]);
        pair.controller.start();
        for host in [&pair.host1, &pair.host2] {
            host.join(&pair.controller);
        }
        let make = |network, prefix: &str, flags: &[&str]| {
            let create = ["network", "create", network, "--subnet", prefix];
            pair.host1.weft(&[&create, flags].concat());
            let name = |number| format!("{network}{number}");
            [
                pair.lab.container(&pair.host1, network, &name(1), &[]),
                pair.lab.container(&pair.host2, network, &name(2), &[]),
            ]
        };
        let clear = make("blue", "10.32.0.0/16", &[]);
        let sealed = make("red", "10.33.0.0/16", &["--encrypted"]);
        let net = Self {
            clear,
            sealed,
            clocks,
            pair,
        };
        net.ping_all();
        net
    }

    fn ping_all(&self) {
        for [one, other] in [&self.clear, &self.sealed] {
            ping(&one.ns, other.ip());
            ping(&other.ns, one.ip());
        }
    }

    fn probe(&self) -> [Prober; 2] {
        [&self.clear, &self.sealed]
            .map(|[one, other]| Prober::start(&one.ns, &other.ns, other.ip()))
    }

    /// A change by each host, and traffic that wasn't there before.
    fn work(&self, round: usize) {
        let pair = &self.pair;
        let name = format!("n{round}");
        pair.host1.weft(&["network", "create", &name]);
        let new = format!("new{round}");
        let new = pair.lab.container(&pair.host2, "blue", &new, &[]);
        ping(&new.ns, self.clear[0].ip());
        pair.host2.disconnect("blue", &new.ns);
        pair.host2.weft(&["network", "rm", &name]);
        pair.wait_in_sync();
    }

    /// How long the certificates of both last by their agents' own clocks, in seconds.
    fn lasts(&self) -> [u64; 2] {
        [&self.pair.host1, &self.pair.host2]
            .map(|host| host.status().certificate.unwrap().expires_in_secs)
    }

    fn never_disconnected(&self) {
        for host in [&self.pair.host1, &self.pair.host2] {
            let log = host.agent().log();
            assert!(!log.contains("control channel down"), "{log}");
        }
    }
}

/// But for what a busy machine loses.
fn all_arrived(probes: [Prober; 2]) {
    for probe in probes.map(Prober::finish) {
        let Probe { sent, arrived, .. } = probe;
        assert!((sent - arrived) * 1000 <= sent * 2, "{probe:?}");
    }
}

#[test]
fn clocks_jump_under_traffic_and_nothing_stops() {
    let net = Timed::up();
    let probes = net.probe();
    let before = net.lasts();
    // Each by itself, forwards and backwards, and all differently.
    let jumps = [
        [3 * DAY, 0, 0],
        [0, 3 * DAY, -3 * DAY],
        [-DAY, HOUR, 2 * DAY],
        [-5 * DAY, -5 * DAY, 5 * DAY],
        [0, 0, 0],
    ];
    for (round, offsets) in jumps.into_iter().enumerate() {
        for (clock, offset) in net.clocks.iter().zip(offsets) {
            clock.set(offset);
        }
        net.work(round);
        if round == 1 {
            // The clocks are really others. Certificates that were issued meanwhile would last for 30 days.
            let [first, second] = net.lasts();
            let three_days = 3 * u64::try_from(DAY).unwrap();
            let minute = 60;
            assert!(first + three_days <= before[0], "{first} {before:?}");
            assert!(
                second + minute > before[1] + three_days,
                "{second} {before:?}"
            );
        }
    }
    all_arrived(probes);
    net.never_disconnected();

    // Less than a day apart, whoever starts anew finds the others.
    for (clock, offset) in net.clocks.iter().zip([0, 20 * HOUR, -2 * HOUR]) {
        clock.set(offset);
    }
    net.pair.host1.kill_agent();
    net.pair.host1.restart_agent();
    net.pair.controller.kill();
    net.pair.controller.start();
    net.pair.host2.kill_agent();
    net.pair.host2.restart_agent();
    net.pair.wait_in_sync();
    net.ping_all();
    net.work(jumps.len());
}

#[test]
fn a_token_ends_by_the_controllers_clock() {
    let pair = Pair::cold(Lab::new());
    let clock = Clock::new(&pair.lab, "controller");
    pair.controller.give_clock(&clock);
    pair.controller.start();
    let token = pair.controller.token(&["--ttl", "2h"]);
    clock.set(3 * HOUR);
    let agent = pair.host1.join_with(&pair.controller, &token);
    let status = agent.expect_end(Duration::from_secs(60));
    let log = agent.log();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("token") && log.contains("expired"), "{log}");
    clock.set(HOUR);
    pair.host1.join_with(&pair.controller, &token);
    pair.host1.wait_up();
    pair.host1.wait_in_sync();
}

#[test]
fn all_clocks_jump_beyond_the_certificates_and_new_ones_come() {
    let net = Timed::up();
    let probes = net.probe();
    // As on machines without a battery, when the time comes from the network.
    for clock in &net.clocks {
        clock.set(40 * DAY);
    }
    net.work(0);
    wait_until(NOTICED, "both have certificates that last", || {
        net.lasts().iter().all(|lasts| *lasts > 0)
    });
    net.work(1);
    all_arrived(probes);
    // New sessions, of agents with the controller and with each other.
    let pair = &net.pair;
    pair.host1.kill_agent();
    pair.host2.kill_agent();
    pair.controller.kill();
    pair.controller.start();
    pair.host1.restart_agent();
    pair.host2.restart_agent();
    pair.wait_in_sync();
    net.ping_all();
    net.work(2);
}
