//! The gateway of a network answers on every host, at the same addresses with the same MAC.

use weft_testbed::lab::traffic::ping;
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
    for gateway in ["10.32.0.1", "fd32:1::1"] {
        for container in [&near, &far] {
            ping(&container.ns, gateway.parse().unwrap());
            let neighbors = container.ns.ip(&["neigh", "show", gateway]);
            assert!(neighbors.contains("02:77:65:66:74:01"), "{neighbors}");
        }
    }
    // And they still reach each other.
    ping(&near.ns, far.v4().into());
    ping(&far.ns, near.v6());
}
