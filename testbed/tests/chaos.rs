//! Controllers, etcd members and agents die at random under traffic, while containers come and go. `WEFT_CHAOS_SECS` says
//! for how long (40 when not said); `WEFT_CHAOS_SEED` repeats the order of a run that failed (its seed is printed).

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::traffic::{Prober, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Lab, Redundant};

/// Numbers from a seed (splitmix64).
struct Chance(AtomicU64);

impl Chance {
    fn below(&self, end: usize) -> usize {
        let state = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    fn pause(&self, most_ms: usize) {
        thread::sleep(Duration::from_millis(self.below(most_ms) as u64));
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// How often what was killed.
#[derive(Debug, Default)]
struct Deaths {
    controllers: u32,
    members: u32,
    agents: u32,
    /// How long agents of the hosts with the traffic were away, all together.
    away: Duration,
}

/// Kills something with `kill -9` and brings it back.
fn strike(net: &Redundant, (chance, deaths): (&Chance, &mut Deaths)) {
    let number = chance.below(3);
    match chance.below(4) {
        0 | 1 => {
            net.controllers[number].kill();
            chance.pause(3_000);
            net.controllers[number].start_soon();
            deaths.controllers += 1;
        }
        2 => {
            net.etcd.kill_member(number + 1);
            chance.pause(3_000);
            net.etcd.start_member(number + 1);
            deaths.members += 1;
        }
        _ => {
            let died = Instant::now();
            net.hosts[number].kill_agent();
            chance.pause(1_000);
            net.hosts[number].restart_agent();
            deaths.agents += 1;
            // The third host has no part in the traffic.
            if number < 2 {
                deaths.away += died.elapsed();
            }
        }
    }
    chance.pause(2_000);
}

/// Connects and disconnects, whoever answers; what is refused because nobody does is no fault.
fn come_and_go(net: &Redundant, chance: &Chance, until: &AtomicBool) -> (u64, u64) {
    let namespaces: Vec<_> = (0..6)
        .map(|number| net.lab.namespace(&format!("v{number}")))
        .collect();
    let (mut done, mut refused) = (0, 0);
    while !until.load(Ordering::Relaxed) {
        let ns = &namespaces[chance.below(namespaces.len())];
        let host = &net.hosts[chance.below(3)];
        let on = net.hosts.iter().find(|host| {
            let ports = host.try_weft(&["ports", "--json"]).stdout;
            ports.contains(&format!("\"{}\"", ns.name()))
        });
        let finished = match on {
            Some(on) => on.try_weft(&["network", "disconnect", "blue", "--netns", ns.name()]),
            None => host.try_weft(&["network", "connect", "blue", "--netns", ns.name()]),
        };
        if finished.code == Some(0) {
            done += 1;
        } else {
            refused += 1;
        }
    }
    (done, refused)
}

#[test]
fn whatever_dies_containers_go_on_and_all_agree_in_the_end() {
    let secs = from_environment("WEFT_CHAOS_SECS", 40);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let seed = from_environment("WEFT_CHAOS_SEED", now.as_secs());
    println!("WEFT_CHAOS_SEED={seed}");
    let chance = Chance(AtomicU64::new(seed));
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    ping(&c1.ns, c2.ip());
    let prober = Prober::start(&c1.ns, &c2.ns, c2.ip());
    let stop = AtomicBool::new(false);
    let end = Instant::now() + Duration::from_secs(secs);
    let (deaths, (done, refused)) = thread::scope(|scope| {
        let churn = Chance(AtomicU64::new(seed ^ 1));
        let (net, stop) = (&net, &stop);
        let churning = scope.spawn(move || come_and_go(net, &churn, stop));
        let mut deaths = Deaths::default();
        while Instant::now() < end {
            strike(net, (&chance, &mut deaths));
        }
        stop.store(true, Ordering::Relaxed);
        (deaths, churning.join().unwrap())
    });
    println!("{deaths:?}, {done} connects and disconnects, {refused} refused");
    assert!(deaths.controllers + deaths.members + deaths.agents > 0 && done > 0);

    net.etcd.wait_healthy();
    for controller in &net.controllers {
        controller.wait_up();
    }
    net.wait_in_agreement();
    wait_until(Duration::from_secs(30), "all hosts see the same", || {
        let seen: Vec<_> = net.hosts.iter().map(|host| host.network("blue")).collect();
        seen.iter().all(|network| *network == seen[0])
    });
    // What the map says is what the hosts have, and nothing is there twice.
    let members = host1.network("blue").members;
    let ports: BTreeSet<String> = net
        .hosts
        .iter()
        .flat_map(|host| host.ports())
        .map(|port| port.name)
        .collect();
    let names: BTreeSet<String> = members.iter().map(|member| member.name.clone()).collect();
    assert_eq!(names, ports);
    let ips: BTreeSet<_> = members
        .iter()
        .flat_map(|member| member.ips.clone())
        .collect();
    let macs: BTreeSet<_> = members.iter().map(|member| member.mac).collect();
    assert_eq!((ips.len(), macs.len()), (members.len(), members.len()));
    let all: [&Container; 3] = [&c1, &c2, &c3];
    for from in all {
        for to in all.iter().filter(|to| to.ip() != from.ip()) {
            ping(&from.ns, to.ip());
        }
    }
    // What was sent while an agent between these two was dead is lost, and nothing else.
    let probe = prober.finish();
    println!("{probe:?}");
    let missed = u64::try_from(deaths.away.as_millis()).unwrap();
    let lost = probe.sent.saturating_sub(probe.arrived + missed);
    assert!(
        lost * 1000 <= probe.sent * 2,
        "{lost} lost, {deaths:?}, {probe:?}"
    );
}
