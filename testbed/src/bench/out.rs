//! Ways from a container to the outside: a network behind its host that knows nothing of it. Everybody's container has an
//! MTU of 1500 there.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use weft_testbed::lab::process::Process;
use weft_testbed::lab::say;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Lab, Namespace, Outside, Pair};

use crate::contender::{Contender, Switch, Way};
use crate::result::SLIRP;

/// passt's program for namespaces.
pub(crate) const PASTA: &str = "pasta";
/// Until a daemon has made its interface.
const PATIENCE: Duration = Duration::from_secs(10);
/// MTU of everybody's container.
const MTU: &str = "1500";

/// weft's own, on the pair's first host.
pub(crate) fn weft(pair: &Pair) -> Way {
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    pair.host1.weft(&[
        "network",
        "create",
        "outward",
        "--subnet",
        "10.35.0.0/16",
        "--mtu",
        MTU,
    ]);
    let container = pair
        .lab
        .quiet_container(&pair.host1, "outward", "out-c", &[]);
    assert_eq!(
        container.ns.link("eth0")["mtu"].to_string(),
        MTU,
        "everybody's MTU is the same"
    );
    way(&container.ns, &outside)
}

/// The kernel's routes and an nftables masquerade; none where the kernel has no such thing.
pub(crate) fn kernel(lab: &Lab) -> Option<Way> {
    let (host, outside) = host(lab, "k-out");
    let container = lab.namespace("k-out-c").without_ipv6();
    host.veth("c0", &container, "eth0");
    for (ns, ifname, address) in [
        (&host, "c0", "10.36.0.1/24"),
        (&container, "eth0", "10.36.0.2/24"),
    ] {
        ns.ip(&["addr", "add", address, "dev", ifname]);
        ns.ip(&["link", "set", ifname, "mtu", MTU, "up"]);
    }
    container.ip(&["route", "add", "default", "via", "10.36.0.1"]);
    host.sysctl("ipv4/ip_forward", "1");
    let rules = [
        "add table ip out",
        "add chain ip out post { type nat hook postrouting priority 100 ; }",
        "add rule ip out post oifname o0 masquerade",
    ];
    for rule in rules {
        let done = host.run("nft", &[rule]);
        if done.code != Some(0) {
            say(&format!("the kernel translates no addresses here: {done}"));
            return None;
        }
    }
    Some(way(&container, &outside))
}

/// slirp4netns.
pub(crate) fn slirp4netns(lab: &Lab) -> Contender {
    let (host, outside) = host(lab, "slirp");
    let container = lab.namespace("slirp-c");
    let path = container.path().display().to_string();
    let mtu = format!("--mtu={MTU}");
    let args = ["--configure", &mtu, "--netns-type=path", &path, "tap0"];
    let daemon = host.spawn(SLIRP, SLIRP, &args);
    contender(SLIRP, &container, &outside, &daemon)
}

/// pasta, with its own defaults but for the MTU and forwarding: no ports, no loopback of the host.
pub(crate) fn pasta(lab: &Lab) -> Contender {
    let (host, outside) = host(lab, "pasta");
    let container = lab.namespace("pasta-c");
    let path = container.path().display().to_string();
    let args = [
        "--foreground",
        "--runas",
        "0",
        "--config-net",
        "-i",
        "o0",
        "-m",
        MTU,
        // Else the gateway's address, which the server has, is the host's loopback.
        "--no-map-gw",
        "-t",
        "none",
        "-u",
        "none",
        "-T",
        "none",
        "-U",
        "none",
        "--netns",
        &path,
    ];
    let daemon = host.spawn(PASTA, PASTA, &args);
    contender(PASTA, &container, &outside, &daemon)
}

/// A host without agent, and what is outside of it.
fn host(lab: &Lab, name: &str) -> (Namespace, Outside) {
    let host = lab.namespace(name);
    let outside = Outside::behind(lab, &host, &format!("{name}-o"));
    host.ip(&["route", "add", "default", "via", "192.0.2.2"]);
    // They ping by the kernel's ping sockets.
    host.sysctl("ipv4/ping_group_range", "0 2147483647");
    (host, outside)
}

fn way(from: &Namespace, outside: &Outside) -> Way {
    Way {
        from: from.clone(),
        to: outside.ns.clone(),
        ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
    }
}

fn contender(
    name: &'static str,
    container: &Namespace,
    outside: &Outside,
    daemon: &Arc<Process>,
) -> Contender {
    wait_until(
        PATIENCE,
        &format!("{name} has made a default route"),
        || {
            assert!(daemon.is_running(), "{name} ended:\n{}", daemon.log());
            container.ip(&["route"]).contains("default")
        },
    );
    Contender {
        name,
        local: None,
        cross: None,
        out: Some(way(container, outside)),
        hosts: Vec::new(),
        switch: Switch::Processes(vec![daemon.pid()]),
    }
}
