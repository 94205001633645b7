//! With other plugins: address management, and those before and behind in a chain.

use std::fs;

use serde_json::{Value, json};
use weft_testbed::Pair;
use weft_testbed::lab::cni::{List, Runtime, Sandbox, overlay};

use super::*;

fn host_local(pair: &Pair, subnet: &str, more: &Value) -> Value {
    let dir = pair.host1.ns.lab_file("host-local");
    let mut ipam = json!({ "type": "host-local", "subnet": subnet, "dataDir": dir });
    overlay(&mut ipam, more);
    ipam
}

/// Addresses that host-local holds for somebody.
fn reserved(pair: &Pair) -> Vec<String> {
    let dir = pair.host1.ns.lab_file("host-local").join("pods");
    let names = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        .collect()
}

#[test]
fn an_ipam_plugin_chooses_addresses_and_is_told_of_every_end() {
    let pair = up();
    pair.host1.weft(&["network", "create", "flat"]);
    let runtime = Runtime::new(&pair.host1);
    let routes = json!({ "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "198.51.100.0/24", "gw": "192.0.2.254" }] });
    for (network, subnet, gateway) in [
        ("flat", "192.0.2.0/24", "192.0.2.1"),
        ("pods", "10.32.0.0/16", "10.32.0.1"),
    ] {
        let ns = pair.lab.namespace(network);
        let mut ipam = host_local(&pair, subnet, &json!({}));
        if network == "flat" {
            overlay(&mut ipam, &routes);
        }
        let weft = runtime.weft(&json!({ "network": network, "ipam": ipam }));
        // Debian's host-local speaks up to 1.0.0.
        let list = List::new("1.0.0", "pods", vec![weft]);
        let container = sandbox(&ns, "c1");
        let result = runtime.add(&container, &list).unwrap();
        let first = ips(&result)[0];
        assert_eq!(reserved(&pair), [first.to_string()]);
        assert_eq!(result["ips"][0]["gateway"], gateway);
        assert_eq!(result["ips"][0]["interface"], 0);
        assert!(ns.addresses("eth0").contains(&first));
        if network == "flat" {
            assert_eq!(result["routes"], routes["routes"]);
            let shown = ns.ip(&["route"]);
            assert!(shown.contains("default via 192.0.2.1 dev eth0"), "{shown}");
            assert!(
                shown.contains("198.51.100.0/24 via 192.0.2.254 dev eth0"),
                "{shown}"
            );
        }
        runtime.check(&container, &list, &result).unwrap();
        // Once more: refused, and what it has stays its own.
        let (code, message, _) = runtime.add(&container, &list).unwrap_err().refusal();
        assert_eq!(code, 101, "{message}");
        assert_eq!(reserved(&pair), [first.to_string()]);
        // host-local finds its own loss.
        let file = pair
            .host1
            .ns
            .lab_file("host-local")
            .join("pods")
            .join(first.to_string());
        let kept = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let (code, message, _) = runtime
            .check(&container, &list, &result)
            .unwrap_err()
            .refusal();
        assert!(message.contains("host-local"), "{code} {message}");
        fs::write(&file, kept).unwrap();
        runtime.del(&container, &list, &result);
        assert_eq!(reserved(&pair), Vec::<String>::new());
        ns.delete();
        runtime.del(&container, &list, &result);
    }
    // What fails after the address was chosen gives it back.
    let ns = pair.lab.namespace("c2");
    let before = pair.host1.listing();
    let outside = runtime.weft(&json!({ "ipam": host_local(&pair, "192.0.2.0/24", &json!({})) }));
    let list = List::new("1.0.0", "pods", vec![outside]);
    let (code, message, _) = runtime
        .add(&sandbox(&ns, "c2"), &list)
        .unwrap_err()
        .refusal();
    assert!(
        code == 7 && message.contains("192.0.2."),
        "{code} {message}"
    );
    assert_eq!(reserved(&pair), Vec::<String>::new());
    // What the plugin says is passed on.
    let narrow = json!({ "rangeStart": "10.32.0.9", "rangeEnd": "10.32.0.9" });
    let full = runtime.weft(&json!({ "ipam": host_local(&pair, "10.32.0.0/16", &narrow) }));
    let list = List::new("1.0.0", "pods", vec![full]);
    let first = pair.lab.namespace("c3");
    let result = runtime.add(&sandbox(&first, "c3"), &list).unwrap();
    let (_, message, _) = runtime
        .add(&sandbox(&ns, "c2"), &list)
        .unwrap_err()
        .refusal();
    assert!(
        message.contains("host-local") && message.contains("no IP addresses available"),
        "{message}"
    );
    runtime.del(&sandbox(&first, "c3"), &list, &result);
    assert_eq!(pair.host1.listing(), before);
    assert!(ns.ifnames().is_empty());
}

#[test]
fn plugins_before_and_behind_in_the_chain_work_with_it() {
    let pair = up();
    let runtime = Runtime::new(&pair.host1);
    let ns = pair.lab.namespace("c1");
    let container = sandbox(&ns, "c1");
    let four = runtime.weft(&json!({ "network": "four", "subnet": "10.33.0.0/16" }));
    let mut list = List::new("1.0.0", "pods", vec![four]);
    list.plugins
        .push(json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" } }));
    list.plugins.push(json!({
        "type": "portmap", "capabilities": { "portMappings": true }, "snat": true,
        "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] },
    }));
    let result = runtime.add(&container, &list).unwrap();
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 1);
    let shown = fs::read_to_string;
    let value = ns
        .enter(|| shown("/proc/sys/net/ipv4/conf/eth0/log_martians"))
        .unwrap();
    assert_eq!(value.trim(), "1");
    let rules = pair
        .host1
        .ns
        .run("iptables-save", &["-t", "nat"])
        .expect_done();
    let to = format!("--to-destination {}:80", ips(&result)[0]);
    assert!(rules.contains(&to), "{rules}");
    // portmap 1.1.1 looks for IPv6 rules at CHECK, whatever the container has; so only the others are asked.
    let mut checked = list.clone();
    checked.plugins.truncate(2);
    runtime.check(&container, &checked, &result).unwrap();
    runtime.del(&container, &list, &result);
    let rules = pair
        .host1
        .ns
        .run("iptables-save", &["-t", "nat"])
        .expect_done();
    assert!(!rules.contains(&to), "{rules}");
    // Behind a plugin that made the first interface: both are in the result, in their order.
    let bridge = List::new(
        "1.0.0",
        "lan",
        vec![json!({
            "type": "bridge", "bridge": "br0", "isDefaultGateway": true,
            "ipam": host_local(&pair, "172.30.0.0/24", &json!({})),
        })],
    );
    let first = runtime.add(&container, &bridge).unwrap();
    assert_eq!(first["interfaces"].as_array().unwrap().len(), 3);
    let second = Sandbox {
        ifname: "net1".to_owned(),
        ..container.clone()
    };
    let list = pods(&runtime, "1.0.0");
    let both = runtime
        .tell("ADD", &second, &list.config(&list.plugins[0], &first))
        .expect_done();
    let interfaces = both["interfaces"].as_array().unwrap();
    assert_eq!(interfaces[..3], first["interfaces"].as_array().unwrap()[..]);
    assert_eq!(interfaces[3]["name"], "net1");
    assert_eq!(both["ips"][0], first["ips"][0]);
    assert_eq!(both["ips"][1]["interface"], 3);
    let check = |result: &Value| {
        runtime
            .tell("CHECK", &second, &list.config(&list.plugins[0], result))
            .expect_done()
    };
    assert!(check(&both).is_null());
    let shown = ns.ip(&["route"]);
    assert!(shown.contains("default via 172.30.0.1 dev eth0"), "{shown}");
    runtime.del(&second, &list, &both);
    runtime.del(&container, &bridge, &first);
    assert!(ns.ifnames().is_empty());
}
