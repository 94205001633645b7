//! IPv6 beside and instead of IPv4.

use std::net::IpAddr;

use weft_testbed::lab::traffic::{answers, ping, ping_full, transfer};
use weft_testbed::{Lab, Pair};

#[test]
fn a_network_with_ipv6_only_works_across_hosts() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "six", "--subnet", "fd32:1::/64"]);
    let c1 = pair.lab.container(&pair.host1, "six", "c1", &[]);
    let c2 = pair.lab.container(&pair.host1, "six", "c2", &[]);
    let c3 = pair.lab.container(&pair.host2, "six", "c3", &[]);
    for (from, to) in [(&c1, &c3), (&c3, &c2), (&c1, &c2)] {
        assert!(to.ip().is_ipv6());
        ping(&from.ns, to.ip());
        ping_full(&from.ns, to.ip(), 1450);
        transfer(&from.ns, &to.ns, to.ip(), 2_000_003);
    }
    assert_eq!(
        c3.ns.addresses("eth0"),
        [c3.ip()],
        "what connect printed is what the interface has"
    );
}

#[test]
fn a_network_may_have_both_families() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "both",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32:1::/64",
    ]);
    let c1 = pair.lab.container(&pair.host1, "both", "c1", &[]);
    let c3 = pair
        .lab
        .container(&pair.host2, "both", "c3", &["--ip", "fd32:1::77"]);
    assert_eq!(c3.v6(), "fd32:1::77".parse::<IpAddr>().unwrap());
    for to in [IpAddr::from(c3.v4()), c3.v6()] {
        ping(&c1.ns, to);
        transfer(&c1.ns, &c3.ns, to, 1_000_003);
    }
    let mut wanted = vec![IpAddr::from(c1.v4()), c1.v6()];
    let mut seen = c1.ns.addresses("eth0");
    wanted.sort();
    seen.sort();
    assert_eq!(seen, wanted);
}

#[test]
fn ipv6_addresses_are_usable_at_once_and_follow_a_moved_endpoint() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "six", "--subnet", "fd32:1::/64"]);
    let c1 = pair.lab.container(&pair.host1, "six", "c1", &[]);
    let old = pair
        .lab
        .container(&pair.host1, "six", "old", &["--ip", "fd32:1::99"]);
    ping(&c1.ns, old.ip());
    pair.host1.disconnect("six", &old.ns);
    let new = pair
        .lab
        .container(&pair.host2, "six", "new", &["--ip", "fd32:1::99"]);
    // Duplicate address detection would hold the address back for a second.
    assert!(answers(&new.ns, c1.ip()), "the new place speaks");
    ping(&c1.ns, new.ip());
}
