//! What an agent with a hundred ports may cost.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::say;
use weft_testbed::lab::verdict::{median, processor_time, resident_kib};
use weft_testbed::{Lab, Pair};

const PORTS: usize = 100;
const RESIDENT_MAX_KIB: u64 = 64 * 1024;
/// Twenty milliseconds where nothing else runs; this is for a slow machine, and less than a look at each port would take.
const CONNECT_MAX: Duration = Duration::from_millis(250);
/// Times a second that all of its threads together may wake up: by the clock, not for each port.
const WAKEUPS_MAX: f64 = 80.0;
/// Per cent of a core, by a build that isn't optimised on a machine that may be slow at the moment: a port that is polled
/// takes all of it.
const SHARE_MAX: f64 = 20.0;
/// Windows that may pass until it is quiet.
const IDLE_WINDOWS: usize = 5;
const IDLE_WATCH: Duration = Duration::from_secs(6);

/// How often the threads of a process have gone to sleep so far.
fn switches(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    // A thread may end meanwhile.
    let status = tasks
        .flatten()
        .flat_map(|task| fs::read_to_string(task.path().join("status")));
    let count = |text: String| -> u64 {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse().unwrap()
    };
    status.map(count).sum()
}

#[test]
fn an_agent_with_a_hundred_ports_is_small_idle_and_quick() {
    let pair = Pair::up(Lab::alone());
    let host = &pair.host1;
    host.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    for number in 0..PORTS {
        pair.lab
            .quiet_container(host, "blue", &format!("c{number}"), &[]);
    }
    pair.wait_in_sync();
    let agent = host.agent().pid();

    // The containers' kernels send router solicitations and multicast reports for a while after they came up.
    let (mut share, mut wakeups) = (f64::MAX, f64::MAX);
    for _ in 0..IDLE_WINDOWS {
        let began = (Instant::now(), processor_time(agent), switches(agent));
        thread::sleep(IDLE_WATCH);
        let seconds = began.0.elapsed().as_secs_f64();
        share = (processor_time(agent) - began.1).as_secs_f64() / seconds * 100.0;
        wakeups = (switches(agent) - began.2) as f64 / seconds;
        say(&format!(
            "idle agent with {PORTS} ports: {share:.2} % of a core, {wakeups:.0} wakeups a second"
        ));
        if share < SHARE_MAX && wakeups < WAKEUPS_MAX {
            break;
        }
    }
    assert!(wakeups < WAKEUPS_MAX, "{wakeups} wakeups a second");
    assert!(share < SHARE_MAX, "{share} % of a core");

    let resident = resident_kib(agent);
    let holders: Vec<u64> = host.holders().into_iter().map(resident_kib).collect();
    say(&format!(
        "idle agent with {PORTS} ports: {resident} KiB resident, its fd holder {holders:?} KiB"
    ));
    let all = resident + holders.iter().sum::<u64>();
    assert!(all < RESIDENT_MAX_KIB, "{all} KiB resident");

    let times = (0..21).map(|number| {
        let ns = pair.lab.namespace(&format!("m{number}")).without_ipv6();
        let began = Instant::now();
        host.connect("blue", &ns, &[]);
        let took = began.elapsed();
        host.disconnect("blue", &ns);
        took
    });
    let middle = median(times.collect());
    say(&format!(
        "network connect with {PORTS} ports: {middle:?} at the median, with the command's own start"
    ));
    assert!(middle < CONNECT_MAX, "{middle:?} at the median");
}
