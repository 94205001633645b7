//! 200 endpoints come and go in random order: nothing leaks.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::time::{Duration, Instant};

use weft_testbed::lab::process::pids_mentioning;
use weft_testbed::lab::say;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{open_files, resident_kib, wait_for, wait_until};
use weft_testbed::{Host, Lab, Namespace, Pair};

const ENDPOINTS: usize = 200;
/// What an agent's memory may have grown by afterwards: allocators keep some.
const GROWTH_MAX_KIB: u64 = 16 * 1024;
/// Random, but the same each time.
const SEED: u64 = 0x77ef_7000_0001;

/// A small generator (splitmix64): order, not quality, is what matters here.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let sides = u64::try_from(sides).expect("a usize fits");
        usize::try_from((z ^ (z >> 31)) % sides).expect("below sides")
    }
}

/// How an endpoint's life ends.
enum End {
    Disconnect,
    ByName,
    Deleted,
}

struct Member<'a> {
    ns: Namespace,
    host: &'a Host,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
struct Census {
    ports: usize,
    members: usize,
    used: u64,
    fdb: usize,
}

fn census(host: &Host) -> Census {
    Census {
        ports: host.ports().len(),
        members: host.network("blue").members.len(),
        used: host.subnets().iter().map(|row| row.used).sum(),
        fdb: host.fdb().len(),
    }
}

fn leave(member: &Member<'_>, name: &str) {
    match member.end {
        End::Disconnect => member.host.disconnect("blue", &member.ns),
        End::ByName => {
            member
                .host
                .weft(&["network", "disconnect", "blue", "--name", name]);
        }
        End::Deleted => member.ns.delete(),
    }
}

/// Connects [`ENDPOINTS`] namespaces and ends them again, in an order of the dice's.
fn round(pair: &Pair, dice: &mut Dice, tag: &str) {
    let (mut made, mut alive): (usize, Vec<(String, Member<'_>)>) = (0, Vec::new());
    while made < ENDPOINTS || !alive.is_empty() {
        if made < ENDPOINTS && (alive.is_empty() || dice.roll(5) < 3) {
            let host = [&pair.host1, &pair.host2][dice.roll(2)];
            let name = format!("{tag}{made}");
            let ns = pair.lab.namespace(&name).without_ipv6();
            host.connect("blue", &ns, &["--name", &name]);
            let end = [End::Disconnect, End::ByName, End::Deleted]
                .into_iter()
                .nth(dice.roll(3));
            alive.push((
                name,
                Member {
                    ns,
                    host,
                    end: end.expect("three ends"),
                },
            ));
            made += 1;
        } else {
            let (name, member) = alive.swap_remove(dice.roll(alive.len()));
            leave(&member, &name);
            member.ns.delete();
        }
    }
}

#[test]
fn two_hundred_endpoints_come_and_go_in_random_order_without_a_leak() {
    let pair = Pair::up(Lab::alone());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.quiet_container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.quiet_container(&pair.host2, "blue", "c2", &[]);
    let mut dice = Dice(SEED);
    // A short round first: what is allocated once and kept is there before anything is compared.
    round(&pair, &mut dice, "w");
    let empty = || [&pair.host1, &pair.host2].map(census);
    let wanted = [1, 1].map(|ports| Census {
        ports,
        members: 2,
        used: 2,
        fdb: 2,
    });
    wait_for(
        Duration::from_secs(3),
        "only c1 and c2 are left",
        &wanted,
        empty,
    );
    let namespaces = pair.lab.namespaces_left();
    let pids: Vec<u32> = pids_mentioning(pair.lab.dir());
    let files: Vec<usize> = pids.iter().map(|pid| open_files(*pid)).collect();
    let memory: Vec<u64> = pids.iter().map(|pid| resident_kib(*pid)).collect();

    let began = Instant::now();
    round(&pair, &mut dice, "e");
    say(&format!(
        "{ENDPOINTS} endpoints came and went in {:.1} s",
        began.elapsed().as_secs_f32()
    ));

    wait_for(
        Duration::from_secs(3),
        "only c1 and c2 are left",
        &wanted,
        empty,
    );
    pair.wait_in_sync();
    assert_eq!(pair.lab.namespaces_left(), namespaces);
    assert_eq!(
        pids_mentioning(pair.lab.dir()),
        pids,
        "the same processes run"
    );
    wait_until(
        Duration::from_secs(3),
        &format!("open files are as before: {files:?}"),
        || {
            pids.iter()
                .zip(&files)
                .all(|(pid, before)| open_files(*pid) <= *before)
        },
    );
    for (pid, before) in pids.iter().zip(&memory) {
        let after = resident_kib(*pid);
        say(&format!(
            "process {pid}: {before} KiB resident before, {after} after"
        ));
        assert!(
            after < before + GROWTH_MAX_KIB,
            "process {pid} grew from {before} to {after} KiB"
        );
    }
    for host in [&pair.host1, &pair.host2] {
        assert_eq!(host.ns.ifnames(), ["u0"], "no TAP is left on {}", host.name);
    }
    ping(&c1.ns, c2.ip());
}
