//! Ports of an isolated network reach the gateway and other networks, not each other, on one host and on two.

use std::net::IpAddr;

use weft_testbed::lab::traffic::{answers, ping};
use weft_testbed::{Container, Lab, Pair};

/// Isolated network dmz and network blue, of both families, on one router.
fn networks(pair: &Pair) {
    let host = &pair.host1;
    let dmz = ["--subnet", "10.40.0.0/16", "--subnet", "fd40:1::/64"];
    host.weft(&[&["network", "create", "dmz", "--isolate"][..], &dmz].concat());
    let blue = ["--subnet", "10.32.0.0/16", "--subnet", "fd32:1::/64"];
    host.weft(&[&["network", "create", "blue"][..], &blue].concat());
    host.weft(&["router", "create", "core"]);
    host.weft(&["router", "connect", "core", "dmz", "blue"]);
    pair.wait_in_sync();
}

fn both(container: &Container) -> [IpAddr; 2] {
    [container.v4().into(), container.v6()]
}

#[test]
fn isolated_ports_reach_everybody_but_each_other() {
    let pair = Pair::up(Lab::new());
    networks(&pair);
    let here = pair.lab.container(&pair.host1, "dmz", "here", &[]);
    let near = pair.lab.container(&pair.host1, "dmz", "near", &[]);
    let far = pair.lab.container(&pair.host2, "dmz", "far", &[]);
    let blue = pair.lab.container(&pair.host2, "blue", "blue1", &[]);
    for gateway in ["10.40.0.1", "fd40:1::1"] {
        ping(&here.ns, gateway.parse().unwrap());
    }
    for ip in both(&blue) {
        ping(&here.ns, ip);
    }
    for other in [&near, &far] {
        for ip in both(other) {
            assert!(!answers(&here.ns, ip), "{ip} is hidden");
        }
        for ip in both(&here) {
            ping(&blue.ns, ip);
        }
    }
    // By neighbors made by hand, by the gateway, and by a third network: no way round.
    let mac = far.mac().to_string();
    let to = far.v4().to_string();
    here.ns
        .ip(&["neigh", "replace", &to, "lladdr", &mac, "dev", "eth0"]);
    assert!(!answers(&here.ns, far.v4().into()), "by its MAC");
    here.ns
        .ip(&["route", "add", &to, "via", "10.40.0.1", "dev", "eth0"]);
    let said = here.ns.run("ping", &["-n", "-c", "1", "-W", "2", &to]);
    assert!(said.stdout.contains("Packet filtered"), "{said}");
    let drops = pair.host1.port_of(&here.ns).traffic.drops;
    assert!(
        drops.get("isolated").is_some_and(|count| *count > 0),
        "{drops:?}"
    );
    // The next agent isolates as well.
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    assert!(!answers(&here.ns, near.v4().into()), "after a restart");
    for ip in both(&blue) {
        ping(&here.ns, ip);
    }
}

#[test]
fn isolation_needs_a_gateway_and_takes_no_static_vtep() {
    let pair = Pair::up(Lab::new());
    networks(&pair);
    let refusal = pair
        .host1
        .refused(&["network", "vtep", "add", "dmz", "10.99.0.9"]);
    assert_eq!(refusal.code, "isolated");
    assert!(pair.host1.network("dmz").network.isolate);
}

#[test]
fn what_may_send_from_any_address_says_so_and_gateways_macs_are_kept() {
    let pair = Pair::up(Lab::new());
    networks(&pair);
    let plain = pair.lab.container(&pair.host1, "blue", "plain", &[]);
    let spoof = pair
        .lab
        .container(&pair.host1, "blue", "spoof", &["--allow-spoof"]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    for (container, passes) in [(&plain, false), (&spoof, true)] {
        container
            .ns
            .ip(&["addr", "add", "10.32.9.9/16", "dev", "eth0"]);
        let to = far.v4().to_string();
        let finished = container.ns.run(
            "ping",
            &["-n", "-c", "2", "-W", "1", "-I", "10.32.9.9", &to],
        );
        assert_eq!(finished.code == Some(0), passes, "{finished}");
        container
            .ns
            .ip(&["addr", "del", "10.32.9.9/16", "dev", "eth0"]);
    }
    // It stays so in the next agent.
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    spoof.ns.ip(&["addr", "add", "10.32.9.9/16", "dev", "eth0"]);
    let to = far.v4().to_string();
    let again = ["-n", "-c", "2", "-W", "2", "-I", "10.32.9.9", &to];
    let finished = spoof.ns.run("ping", &again);
    assert_eq!(finished.code, Some(0), "{finished}");
    let ns = pair.lab.namespace("thief");
    let refusal = pair.host1.refused(&[
        "network",
        "connect",
        "blue",
        "--netns",
        ns.name(),
        "--mac",
        "02:77:65:66:74:01",
    ]);
    assert_eq!(refusal.code, "bad_mac");
}
