//! What the daemons may do on their host.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Pair};

/// Bits of capabilities (linux/capability.h).
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
const SYS_RESOURCE: u64 = 1 << 24;
const AGENT: u64 = NET_BIND_SERVICE | NET_ADMIN | NET_RAW | SYS_PTRACE | SYS_ADMIN | SYS_RESOURCE;

/// A line of hexadecimal digits of a thread's status (proc_pid_status(5)).
fn set(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

/// Of all threads of a process.
fn statuses(pid: u32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let statuses = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")));
    // A thread may end meanwhile.
    statuses.filter_map(Result::ok).collect()
}

/// The holder can't narrow what it could have been started with, and with `NoNewPrivs` doesn't have to.
fn check(pid: u32, allowed: u64) {
    let statuses = statuses(pid);
    assert!(!statuses.is_empty());
    for status in statuses {
        for (name, allowed) in [
            ("CapEff:", allowed),
            ("CapPrm:", allowed),
            ("CapBnd:", AGENT),
        ] {
            let has = set(&status, name);
            assert_eq!(
                has & !allowed,
                0,
                "{name} {has:x} is more than {allowed:x}:\n{status}"
            );
        }
        for name in ["CapInh:", "CapAmb:"] {
            assert_eq!(set(&status, name), 0, "{name}\n{status}");
        }
        assert_eq!(set(&status, "NoNewPrivs:"), 1, "{status}");
    }
}

#[test]
fn agent_and_holder_have_the_capabilities_that_they_need_and_no_more() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    check(pair.host1.agent().pid(), AGENT);
    let holders = pair.host1.holders();
    assert_eq!(holders.len(), 1);
    check(holders[0], 0);
    // A holder that it has to start anew is bounded like the first, and protected like it.
    let score = |pid| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let before = score(holders[0]);
    // Nobody gives what they don't have: some virtual machines' root can't protect anything.
    let own = fs::read_to_string("/proc/self/status").unwrap();
    if set(&own, "CapEff:") & SYS_RESOURCE != 0 {
        assert!(before.trim().parse::<i32>().unwrap() < 0, "{before}");
    }
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    ping(&c1.ns, c2.ip());
    check(pair.host1.agent().pid(), AGENT);
    // By process id, as a container of another user would be named.
    let other = pair.lab.namespace("other");
    let sleeper = other.spawn(
        "sleeper",
        "setpriv",
        &[
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sleep",
            "60",
        ],
    );
    let pid = sleeper.pid().to_string();
    wait_until(SOON, "it is another user's", || {
        fs::read_to_string(format!("/proc/{pid}/status"))
            .unwrap_or_default()
            .contains("Uid:\t65534")
    });
    pair.host1
        .weft(&["network", "connect", "blue", "--pid", &pid]);
    sleeper.kill();
}
