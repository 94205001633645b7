//! The host itself in the overlay.

use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::{Lab, Pair};

#[test]
fn a_host_is_an_endpoint_until_it_is_hidden_also_when_the_agent_is_another() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let routes = pair.host1.ns.ip(&["route", "show", "default"]);
    pair.host1.weft(&["expose", "blue", "--ip", "10.32.0.200"]);
    let ours: std::net::IpAddr = "10.32.0.200".parse().unwrap();
    for container in [&far, &near] {
        ping(&pair.host1.ns, container.ip());
        ping(&container.ns, ours);
        transfer(&pair.host1.ns, &container.ns, container.v6(), 1_000_003);
    }
    assert_eq!(pair.host1.ns.ip(&["route", "show", "default"]), routes);
    let port = pair
        .host1
        .ports()
        .into_iter()
        .find(|port| port.netns == "host");
    let port = port.unwrap();
    assert_eq!(
        (port.name.as_str(), port.ifname.as_str()),
        ("host1", "weft-blue")
    );
    // Twice would be two of it.
    assert_eq!(
        pair.host1.refused(&["expose", "blue"]).code,
        "already_connected"
    );
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    pair.host1.wait_in_sync();
    ping(&far.ns, ours);
    pair.host1.weft(&["hide", "blue"]);
    assert!(!pair.host1.ns.ip(&["-br", "link"]).contains("weft-blue"));
    assert_eq!(pair.host1.refused(&["hide", "blue"]).code, "not_connected");
    assert_eq!(pair.host1.ports().len(), 1);
    pair.host1.weft(&["expose", "blue"]);
    ping(&pair.host1.ns, far.ip());
}
