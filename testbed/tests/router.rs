//! Networks on one router reach each other, across hosts and by both families; networks that aren't stay apart.

use std::net::IpAddr;
use std::time::Duration;

use weft_control::api;
use weft_testbed::lab::traffic::{Prober, answers, ping, ping_full, transfer};
use weft_testbed::lab::{Container, Host};
use weft_testbed::{Lab, Pair};

/// Networks blue, green and red, of both families; blue and green on router core.
fn networks(host: &Host) {
    for (name, number) in [("blue", 32), ("green", 33), ("red", 34)] {
        let v4 = format!("10.{number}.0.0/16");
        let v6 = format!("fd{number}:1::/64");
        host.weft(&["network", "create", name, "--subnet", &v4, "--subnet", &v6]);
    }
    host.weft(&["router", "create", "core"]);
    host.weft(&["router", "connect", "core", "blue", "green"]);
}

fn both(container: &Container) -> [IpAddr; 2] {
    [container.v4().into(), container.v6()]
}

/// What a program prints in a container; it must end well.
#[track_caller]
fn output(container: &Container, program: &str, args: &[&str]) -> String {
    container.ns.run(program, args).expect_done()
}

#[test]
fn endpoints_of_two_networks_reach_each_other_on_one_host_and_on_two() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let near = pair.lab.container(&pair.host1, "green", "near", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    for to in [&near, &far] {
        for ip in both(to) {
            ping(&blue.ns, ip);
            ping_full(&blue.ns, ip, 1450);
            transfer(&blue.ns, &to.ns, ip, 3_000_003);
        }
        for ip in both(&blue) {
            ping(&to.ns, ip);
        }
    }
    // Also by a port without offload.
    let plain = pair
        .lab
        .container(&pair.host2, "blue", "plain", &["--no-offload"]);
    for ip in both(&near) {
        transfer(&plain.ns, &near.ns, ip, 1_000_003);
    }
    for gateway in ["10.33.0.1", "fd33:1::1"] {
        ping(&blue.ns, gateway.parse().unwrap());
    }
}

#[test]
fn the_way_is_seen_and_what_leads_nowhere_is_said() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    // Else its kernel answers so many times a second only.
    far.ns.sysctl("ipv4/icmp_ratelimit", "0");
    far.ns.sysctl("ipv6/icmp/ratelimit", "0");
    for (gateway, to) in [("10.32.0.1", both(&far)[0]), ("fd32:1::1", both(&far)[1])] {
        let to = to.to_string();
        let way = output(&blue, "traceroute", &["-n", "-w", "2", &to]);
        let hops: Vec<&str> = way.lines().skip(1).collect();
        assert_eq!(hops.len(), 2, "{way}");
        assert!(hops[0].contains(gateway) && !hops[0].contains('*'), "{way}");
        assert!(hops[1].contains(&to) && !hops[1].contains('*'), "{way}");
        let path = output(&blue, "tracepath", &["-n", &to]);
        assert!(path.contains(gateway), "{path}");
        assert!(path.contains("pmtu 1450 hops 2"), "{path}");
    }
    for (to, wanted) in [
        ("10.33.7.7", "Destination Host Unreachable"),
        ("fd33:1::77", "Address unreachable"),
        ("10.34.7.7", "Packet filtered"),
        ("fd34:1::77", "Administratively prohibited"),
    ] {
        let said = blue.ns.run("ping", &["-n", "-c", "1", "-W", "2", to]);
        assert!(said.stdout.contains(wanted), "{to}: {said}");
    }
    let drops = pair.host1.port_of(&blue.ns).traffic.drops;
    for reason in ["ttl_exceeded", "no_neighbor"] {
        assert!(drops.contains_key(reason), "{reason}: {drops:?}");
    }
}

#[test]
fn networks_stay_apart_until_they_are_connected_and_after() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let green = pair.lab.container(&pair.host2, "green", "green1", &[]);
    let red = pair.lab.container(&pair.host2, "red", "red1", &[]);
    for ip in both(&red) {
        assert!(!answers(&blue.ns, ip), "{ip} is on no router");
    }
    pair.host2.weft(&["router", "connect", "core", "red"]);
    pair.wait_in_sync();
    for ip in both(&red) {
        ping(&blue.ns, ip);
        ping(&green.ns, ip);
    }
    pair.host2.weft(&["router", "disconnect", "core", "red"]);
    pair.wait_in_sync();
    for ip in both(&red) {
        assert!(!answers(&blue.ns, ip), "{ip} was taken off");
    }
    for ip in both(&green) {
        ping(&blue.ns, ip);
    }
    pair.host1.weft(&["router", "rm", "core"]);
    pair.wait_in_sync();
    assert!(!answers(&blue.ns, green.v4().into()));
}

#[test]
fn a_container_may_route_to_what_lies_behind_it() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let spoofs = ["--ip", "10.33.0.99", "--allow-spoof"];
    let gate = pair.lab.container(&pair.host2, "green", "gate", &spoofs);
    gate.ns.ip(&["link", "set", "lo", "up"]);
    gate.ns.ip(&["addr", "add", "10.50.0.7/32", "dev", "lo"]);
    gate.ns.ip(&["addr", "add", "fd50::7/128", "dev", "lo"]);
    let via6 = gate.v6().to_string();
    let behind: [IpAddr; 2] = ["10.50.0.7".parse().unwrap(), "fd50::7".parse().unwrap()];
    assert!(!answers(&blue.ns, behind[0]));
    pair.host1
        .weft(&["route", "add", "core", "10.50.0.0/16", "via", "10.33.0.99"]);
    pair.host1
        .weft(&["route", "add", "core", "fd50::/48", &via6]);
    pair.wait_in_sync();
    for to in behind {
        ping(&blue.ns, to);
        transfer(&blue.ns, &gate.ns, to, 1_000_003);
    }
    let routes: Vec<api::RouterRoute> = pair.host2.json(&["route", "ls", "core"]);
    let shown = routes.iter().find(|route| route.kind == "static").unwrap();
    assert_eq!(shown.prefix.to_string(), "10.50.0.0/16");
    assert_eq!(
        (shown.network.as_str(), shown.reachable),
        ("green", Some(true))
    );
    pair.host1.weft(&["route", "rm", "core", "10.50.0.0/16"]);
    pair.wait_in_sync();
    assert!(!answers(&blue.ns, behind[0]));
    ping(&blue.ns, behind[1]);
}

#[test]
fn routed_connections_outlive_the_agents() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    ping(&blue.ns, far.v4().into());
    for host in [&pair.host1, &pair.host2] {
        let prober = Prober::start(&blue.ns, &far.ns, far.v4().into());
        host.kill_agent();
        host.restart_agent();
        let probe = prober.finish();
        assert!(probe.longest_gap < Duration::from_secs(3), "{probe:?}");
        for ip in both(&far) {
            ping(&blue.ns, ip);
            transfer(&blue.ns, &far.ns, ip, 1_000_003);
        }
    }
    // By the saved map too.
    pair.controller.kill();
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    for ip in both(&far) {
        ping(&blue.ns, ip);
    }
}

#[test]
fn what_a_narrower_network_does_not_take_is_said_and_heeded() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.host1
        .weft(&["network", "set", "green", "--mtu", "1300"]);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    let to = far.v4().to_string();
    let args = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", &to];
    let said = blue.ns.run("ping", &args);
    assert!(
        said.stdout.contains("mtu = 1300") || said.stderr.contains("mtu=1300"),
        "{said}"
    );
    for ip in both(&far) {
        ping_full(&blue.ns, ip, 1300);
        transfer(&blue.ns, &far.ns, ip, 2_000_003);
    }
}

#[test]
fn routers_are_shown_and_refuse_what_makes_no_sense() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    networks(host);
    host.weft(&["network", "create", "lab"]);
    let routers: Vec<api::RouterInfo> = host.json(&["router", "ls"]);
    assert_eq!(routers.len(), 1);
    assert_eq!(routers[0].networks, ["blue", "green"]);
    let detail: Vec<api::RouterDetail> = pair.host2.json(&["router", "inspect", "core"]);
    assert_eq!(detail[0].table.len(), 4, "{detail:?}");
    assert_eq!(host.network("blue").network.router.as_deref(), Some("core"));
    for (words, code) in [
        (&["router", "create", "core"][..], "name_taken"),
        (&["router", "connect", "core", "lab"], "no_subnet"),
        (&["router", "connect", "core", "nope"], "unknown_network"),
        (&["router", "connect", "nope", "red"], "unknown_router"),
        (&["router", "inspect", "nope"], "unknown_router"),
        (&["network", "rm", "blue"], "network_in_use"),
        (
            &["route", "add", "core", "10.50.0.0/16", "via", "10.34.0.9"],
            "bad_route",
        ),
        (
            &["route", "add", "core", "10.32.7.0/24", "via", "10.33.0.9"],
            "subnet_overlaps",
        ),
        (&["route", "rm", "core", "10.50.0.0/16"], "unknown_route"),
    ] {
        let refusal = host.refused(words);
        assert_eq!(refusal.code, code, "{words:?}");
        assert!(!refusal.hint.is_empty(), "{words:?}");
    }
}
