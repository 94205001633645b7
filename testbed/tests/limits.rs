//! What an agent with a hundred ports may cost.

use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::say;
use weft_testbed::lab::verdict::{median, processor_time, resident_kib};
use weft_testbed::{Lab, Pair};

const PORTS: usize = 100;
const RESIDENT_MAX_KIB: u64 = 64 * 1024;
const CONNECT_MAX: Duration = Duration::from_millis(50);
/// Windows that may pass until it is quiet.
const IDLE_WINDOWS: usize = 5;
const IDLE_WATCH: Duration = Duration::from_secs(6);

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
    let mut share = f64::MAX;
    for _ in 0..IDLE_WINDOWS {
        let began = (Instant::now(), processor_time(agent));
        thread::sleep(IDLE_WATCH);
        share = (processor_time(agent) - began.1).as_secs_f64() / began.0.elapsed().as_secs_f64()
            * 100.0;
        say(&format!(
            "idle agent with {PORTS} ports: {share:.2} % of a core"
        ));
        if share < 1.0 {
            break;
        }
    }
    assert!(share < 1.0, "{share} % of a core");

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
