//! etcd members that have no room left: the cluster raises its alarm and takes no writes until an operator ends it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use serde_json::Value;
use weft_testbed::lab::node::weft;
use weft_testbed::lab::traffic::{Prober, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Lab, Redundant};

/// Room for the members' own and weft's data, and little more.
const QUOTA: &str = "--quota-backend-bytes=4194304";
/// An argument may have 128 KiB.
const VALUE: usize = 100_000;
/// An agent goes to another controller, an alarm is ended, a controller is started again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Writes beside weft's keys until there is no room.
fn fill(net: &Redundant) {
    let value = "x".repeat(VALUE);
    for number in 0..100 {
        let put = net.etcd.ctl(1, &["put", &format!("junk/{number}"), &value]);
        if put.code != Some(0) {
            assert!(put.stderr.contains("space exceeded"), "{}", put.stderr);
            return;
        }
    }
    panic!("there is still room");
}

/// As docs/controllers.md says.
fn make_room(net: &Redundant) {
    let ctl = |number, args: &[&str]| net.etcd.ctl(number, args).expect_done();
    ctl(1, &["del", "--prefix", "junk/"]);
    let status = ctl(1, &["endpoint", "status", "--write-out=json"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let revision = status[0]["Status"]["header"]["revision"].to_string();
    ctl(1, &["compact", &revision]);
    for number in 1..=net.etcd.len() {
        ctl(number, &["defrag"]);
    }
    ctl(1, &["alarm", "disarm"]);
    assert_eq!(ctl(1, &["alarm", "list"]).trim(), "");
}

#[test]
fn members_without_room_take_no_changes_and_nothing_else_stops() {
    let net = Redundant::wired_with(Lab::new(), 3, &[QUOTA]).started();
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    net.wait_in_agreement();
    let probes = Prober::start(&c1.ns, &c2.ns, c2.ip());
    fill(&net);

    // Whichever controller is asked: it says no, why, and what to do.
    for (number, host) in net.hosts.iter().enumerate() {
        let refused = host.refused(&["network", "create", &format!("n{number}")]);
        assert_eq!(refused.code, "store_failed", "{refused:?}");
        for said in ["space exceeded", "alarm disarm", "docs/controllers.md"] {
            assert!(refused.message.contains(said), "{refused:?}");
        }
    }
    let status = |number: usize| {
        let data = net.controllers[number - 1].data();
        weft(&["controller", "status", "--data", data]).expect_done()
    };
    let told = status(1);
    assert!(
        told.contains("etcd") && told.contains("space exceeded"),
        "{told}"
    );
    // Nobody lost its controller, and all see the same.
    net.wait_in_agreement();
    assert_eq!(host3.network("blue"), host1.network("blue"));
    // An agent that starts anew has nothing to change.
    host3.kill_agent();
    host3.restart_agent();
    host3.wait_in_sync();
    assert_eq!(host3.network("blue"), host1.network("blue"));
    // A controller can't: it ends, and says why.
    net.controllers[2].kill();
    net.controllers[2].start_soon();
    let ended = net.controllers[2].expect_end();
    let log = net.controllers[2].log();
    assert!(
        !ended.success() && log.contains("space exceeded") && log.contains("alarm disarm"),
        "{ended}: {log}"
    );
    ping(&c1.ns, c2.ip());

    make_room(&net);
    net.controllers[2].wait_up();
    wait_until(PATIENCE, "changes are taken again", || {
        host1.try_weft(&["network", "create", "red"]).code == Some(0)
    });
    assert!(!status(1).contains("space exceeded"), "{}", status(1));
    net.wait_in_agreement();
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    ping(&c3.ns, c1.ip());
    let seen: Vec<_> = net.hosts.iter().map(|host| host.network("blue")).collect();
    assert!(seen.iter().all(|network| *network == seen[0]), "{seen:#?}");
    assert_eq!(seen[0].members.len(), 3);
    let names = host2.weft(&["network", "ls"]);
    assert!(names.contains("red") && !names.contains("n0"), "{names}");
    let probe = probes.finish();
    assert!(
        (probe.sent - probe.arrived) * 1000 <= probe.sent * 2,
        "{probe:?}"
    );
}
