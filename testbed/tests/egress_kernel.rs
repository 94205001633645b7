//! Networks that leave by the kernel of their hosts: through a port that the host has, by its routes and its own address
//! translation. What is in netfilter here the test put there.

#![allow(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use weft_control::api::NetworkEgress;
use weft_testbed::lab::Namespace;
use weft_testbed::lab::traffic::{answers, iperf_start, ping, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Container, Host, Lab, Outside, Pair};

/// As fast as an answer, not as a timeout.
const AT_ONCE: Duration = Duration::from_secs(2);

fn way_of(host: &Host, network: &str) -> NetworkEgress {
    let ways: Vec<NetworkEgress> = host.json(&["egress", "--network", network]);
    ways.into_iter().next().unwrap()
}

/// What an operator would do.
fn route_and_masquerade(host: &Namespace) {
    host.sysctl("ipv4/ip_forward", "1");
    host.sysctl("ipv6/conf/all/forwarding", "1");
    for rule in [
        "add table inet operator",
        "add chain inet operator post { type nat hook postrouting priority 100 ; }",
        "add rule inet operator post oifname o0 masquerade",
    ] {
        host.run("nft", &[rule]).expect_done();
    }
}

fn rules(host: &Namespace) -> String {
    host.run("nft", &["list", "ruleset"]).expect_done()
}

#[track_caller]
fn is_refused_at_once(from: &Namespace, to: IpAddr) {
    let began = Instant::now();
    let to = SocketAddr::new(to, 9);
    let refused = from.enter(|| TcpStream::connect_timeout(&to, SOON));
    let error = refused.unwrap_err();
    assert!(
        began.elapsed() < AT_ONCE,
        "{error} after {:?}",
        began.elapsed()
    );
}

/// Who a server outside sees when `from` connects.
fn seen_as(from: &Namespace, outside: &Namespace, to: IpAddr) -> IpAddr {
    let listener = outside.enter(|| TcpListener::bind((to, 0)).unwrap());
    let at = listener.local_addr().unwrap();
    let client = from.enter(|| TcpStream::connect_timeout(&at, SOON).unwrap());
    let (_, seen) = listener.accept().unwrap();
    drop(client);
    seen.ip()
}

#[test]
fn a_network_leaves_by_the_kernel_of_its_host() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    let outside = Outside::of(&pair.lab, host, "outside");
    let subnets = ["--subnet", "10.32.0.0/16", "--subnet", "fd32::/64"];
    host.weft(
        &[
            &["network", "create", "blue", "--egress", "kernel"],
            &subnets[..],
        ]
        .concat(),
    );
    let inner = pair.lab.container(host, "blue", "inner", &[]);
    let plain = pair.lab.container(host, "blue", "plain", &["--no-offload"]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    // The host has no port yet: that is said, to containers and to the operator.
    for to in outside.addresses() {
        is_refused_at_once(&inner.ns, to);
    }
    assert!(way_of(host, "blue").refused["no_host_port"] >= 2);
    let lacks_port = |host: &Host| {
        let warnings = host.status().warnings;
        warnings
            .iter()
            .any(|text| text.contains("weft expose blue"))
    };
    assert!(lacks_port(host));
    host.weft(&["expose", "blue"]);
    assert!(!lacks_port(host) && lacks_port(&pair.host2));
    route_and_masquerade(&host.ns);
    let operators = rules(&host.ns);
    for (to, own) in outside
        .addresses()
        .into_iter()
        .zip(outside.host_addresses())
    {
        for container in [&inner, &plain] {
            ping(&container.ns, to);
            transfer(&container.ns, &outside.ns, to, 5_000_000);
            assert_eq!(seen_as(&container.ns, &outside.ns, to), own);
        }
    }
    // Name and address services stay the gateway's, other containers where they are.
    ping(&inner.ns, "10.32.0.1".parse().unwrap());
    transfer(&inner.ns, &far.ns, far.ip(), 1_000_000);
    // The host on which there is no port of the host has no way out; its containers don't go through another host.
    is_refused_at_once(&far.ns, outside.addresses()[0]);
    // Connections to the outside are the kernel's: they outlive the agent.
    let flow = iperf_start(&inner.ns, &outside.ns, outside.addresses()[0], 4);
    std::thread::sleep(Duration::from_secs(1));
    host.kill_agent();
    host.restart_agent();
    assert!(flow.finish().bytes > 1_000_000);
    host.wait_in_sync();
    ping(&inner.ns, outside.addresses()[0]);
    // Somebody outside who knows the way comes in, as through any router.
    outside
        .ns
        .ip(&["route", "add", "10.32.0.0/16", "via", "192.0.2.1"]);
    transfer(&outside.ns, &inner.ns, inner.ip(), 1_000_000);
    assert_eq!(way_of(host, "blue").opened, 0);
    assert_eq!(rules(&host.ns), operators);
    // By the agent's sockets, and back again.
    host.weft(&["network", "set", "blue", "--egress", "nat"]);
    wait_until(SOON, "connections are the agent's", || {
        seen_as(&inner.ns, &outside.ns, outside.addresses()[0]);
        way_of(host, "blue").opened > 0
    });
    host.weft(&["network", "set", "blue", "--egress", "kernel"]);
    wait_until(SOON, "connections are the kernel's", || {
        let before = way_of(host, "blue").opened;
        seen_as(&inner.ns, &outside.ns, outside.addresses()[0]);
        way_of(host, "blue").opened == before
    });
    host.weft(&["hide", "blue"]);
    is_refused_at_once(&inner.ns, outside.addresses()[0]);
}

#[test]
fn isolated_containers_leave_by_the_kernel_too() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    let outside = Outside::of(&pair.lab, host, "outside");
    host.weft(&[
        "network",
        "create",
        "apart",
        "--subnet",
        "10.33.0.0/16",
        "--isolate",
        "--egress",
        "kernel",
    ]);
    let [a, b]: [Container; 2] =
        ["a", "b"].map(|name| pair.lab.container(host, "apart", name, &[]));
    host.weft(&["expose", "apart"]);
    route_and_masquerade(&host.ns);
    for container in [&a, &b] {
        ping(&container.ns, outside.addresses()[0]);
        transfer(
            &container.ns,
            &outside.ns,
            outside.addresses()[0],
            1_000_000,
        );
    }
    assert!(!answers(&a.ns, b.ip()));
}
