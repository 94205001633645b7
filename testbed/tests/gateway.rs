//! The gateway of a network answers on every host, at the same addresses with the same MAC.

use weft_testbed::lab::traffic::{ping, ping_in_fragments};
use weft_testbed::{Lab, Pair};

#[test]
fn the_gateway_answers_on_every_host() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32:1::/64",
    ]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    let check = || {
        for gateway in ["10.32.0.1", "fd32:1::1"] {
            for container in [&near, &far] {
                container.ns.ip(&["neigh", "flush", "dev", "eth0"]);
                ping(&container.ns, gateway.parse().unwrap());
                let neighbors = container.ns.ip(&["neigh", "show", gateway]);
                assert!(neighbors.contains("02:77:65:66:74:01"), "{neighbors}");
            }
        }
    };
    check();
    for host in [&pair.host1, &pair.host2] {
        host.kill_agent();
        host.restart_agent();
    }
    check();
    // And they still reach each other.
    ping(&near.ns, far.v4().into());
    ping(&far.ns, near.v6());
}

#[test]
fn the_gateway_answers_pings_in_fragments_also_where_no_way_leads_out() {
    let pair = Pair::up(Lab::new());
    let both = ["--subnet", "10.32.0.0/16", "--subnet", "fd32:1::/64"];
    for (name, number, more) in [
        ("blue", 32, &[][..]),
        ("vault", 33, &["--internal"]),
        ("shut", 34, &["--egress", "off"]),
    ] {
        let subnets = both.map(|flag| {
            let flag = flag.replace("10.32.", &format!("10.{number}."));
            flag.replace("fd32:", &format!("fd{number}:"))
        });
        let subnets = subnets.each_ref().map(String::as_str);
        let create = ["network", "create", name];
        pair.host1.weft(&[&create[..], &subnets, more].concat());
        let offload = pair.lab.container(&pair.host1, name, "fast", &[]);
        let plain = pair
            .lab
            .container(&pair.host2, name, "plain", &["--no-offload"]);
        for container in [&offload, &plain] {
            for gateway in [
                subnets[1].replace(".0.0/16", ".0.1"),
                subnets[3].replace("/64", "1"),
            ] {
                ping_in_fragments(&container.ns, gateway.parse().unwrap());
            }
        }
        for (host, container) in [(&pair.host1, &offload), (&pair.host2, &plain)] {
            host.disconnect(name, &container.ns);
            container.ns.delete();
        }
    }
}
