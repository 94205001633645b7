//! The protocol to the letter.

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_testbed::lab::Namespace;
use weft_testbed::lab::cni::{Runtime, Sandbox, overlay};
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Lab, Pair};

use super::*;

#[test]
fn every_version_connects_checks_and_disconnects() {
    let pair = up();
    let (one, two) = (Runtime::new(&pair.host1), Runtime::new(&pair.host2));
    let far = pair.lab.namespace("far");
    let far_result = two.add(&sandbox(&far, "far"), &pods(&two, NEWEST)).unwrap();
    for version in VERSIONS {
        let ns = pair
            .lab
            .namespace(&format!("v{}", version.replace('.', "")));
        let (list, container) = (pods(&one, version), sandbox(&ns, "c0ffee"));
        let result = one.add(&container, &list).unwrap();
        // The whole result, to the letter of its version.
        let link = ns.link("eth0");
        let mut interface = json!({ "name": "eth0", "mac": link["address"], "sandbox": ns.path() });
        if version == NEWEST {
            interface["mtu"] = link["mtu"].clone();
        }
        let mut addresses = Vec::new();
        for (ip, gateway, family) in [(0, "10.32.0.1", "4"), (1, "fd32::1", "6")] {
            let mut address = json!({
                "address": result["ips"][ip]["address"], "gateway": gateway, "interface": 0,
            });
            if version.starts_with('0') {
                address["version"] = json!(family);
            }
            addresses.push(address);
        }
        let wanted = json!({
            "cniVersion": version,
            "interfaces": [interface],
            "ips": addresses,
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.32.0.1" }, { "dst": "::/0", "gw": "fd32::1" }],
            "dns": { "nameservers": ["10.32.0.1", "fd32::1"] },
        });
        assert_eq!(result, wanted);
        assert_eq!(ns.addresses("eth0"), ips(&result));
        assert_eq!(pair.host1.ports()[0].name, "c0ffee");
        for ip in ips(&far_result) {
            ping(&ns, ip);
        }
        if version == "0.3.1" {
            let (code, message, _) = one.check(&container, &list, &result).unwrap_err().refusal();
            assert!(code == 1 && message.contains("no CHECK"), "{message}");
        } else {
            one.check(&container, &list, &result).unwrap();
        }
        one.del(&container, &list, &result);
        assert_eq!(ns.ifnames(), Vec::<String>::new());
        assert!(pair.host1.ports().is_empty());
        // Again, with less and less.
        one.del(&container, &list, &result);
        one.del(&container, &list, &Value::Null);
        ns.delete();
        one.del(&container, &list, &result);
        let nowhere = Sandbox {
            netns: None,
            ..container
        };
        one.del(&nowhere, &list, &Value::Null);
    }
    two.del(&sandbox(&far, "far"), &pods(&two, NEWEST), &far_result);
}

#[test]
fn version_tells_what_is_spoken() {
    let pair = Pair::cold(Lab::new());
    let runtime = Runtime::new(&pair.host1);
    for (stdin, told) in [
        (r#"{"cniVersion":"0.4.0"}"#, "0.4.0"),
        (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
        ("", NEWEST),
        ("nonsense", NEWEST),
    ] {
        let answer = runtime.exec("weft", &[("CNI_COMMAND", "VERSION")], stdin.as_bytes());
        assert_eq!(
            answer.expect_done(),
            json!({ "cniVersion": told, "supportedVersions": VERSIONS })
        );
    }
}

#[test]
fn check_finds_what_is_not_as_it_was_told() {
    let pair = up();
    let runtime = Runtime::new(&pair.host1);
    let list = pods(&runtime, NEWEST);
    let ns = pair.lab.namespace("c1");
    let container = sandbox(&ns, "c1");
    let fault = |result: &Value| {
        let (code, message, details) = runtime
            .check(&container, &list, result)
            .unwrap_err()
            .refusal();
        assert!(code == 102 && !details.is_empty(), "{code} {message}");
        message
    };
    type Harm = (&'static str, fn(&Namespace, IpAddr));
    let harms: [Harm; 5] = [
        ("is down", |ns, _| {
            drop(ns.ip(&["link", "set", "eth0", "down"]))
        }),
        ("lacks the route to 0.0.0.0/0", |ns, _| {
            drop(ns.ip(&["route", "del", "default"]))
        }),
        ("lacks address", |ns, ip| {
            drop(ns.ip(&["addr", "add", "10.32.255.254/16", "dev", "eth0"]));
            drop(ns.ip(&["addr", "del", &format!("{ip}/16"), "dev", "eth0"]));
        }),
        ("has MAC 02:00:00:00:00:99 instead of", |ns, _| {
            drop(ns.ip(&["link", "set", "eth0", "address", "02:00:00:00:00:99"]));
        }),
        ("no port eth0 on this node", |ns, _| {
            drop(ns.ip(&["link", "del", "eth0"]))
        }),
    ];
    for (expected, harm) in harms {
        let result = runtime.add(&container, &list).unwrap();
        runtime.check(&container, &list, &result).unwrap();
        harm(&ns, ips(&result)[0]);
        if expected.starts_with("no port") {
            wait_until(SOON, "the agent sees it", || pair.host1.ports().is_empty());
        }
        let message = fault(&result);
        assert!(message.contains(expected), "{expected}: {message}");
        runtime.del(&container, &list, &result);
    }
    let result = runtime.add(&container, &list).unwrap();
    let mut other = result.clone();
    other["interfaces"][0]["name"] = json!("eth7");
    let (code, message, _) = runtime
        .check(&container, &list, &other)
        .unwrap_err()
        .refusal();
    assert!(code == 7 && message.contains("prevResult"), "{message}");
    // What the runtime wasn't told of isn't missed.
    let mut less = result.clone();
    less["routes"] = json!([]);
    ns.ip(&["route", "del", "default"]);
    runtime.check(&container, &list, &less).unwrap();
}

#[test]
fn everything_wrong_is_refused_in_the_protocols_own_way_and_changes_nothing() {
    let pair = up();
    let host = &pair.host1;
    let runtime = Runtime::new(host);
    let ns = pair.lab.namespace("c1");
    ns.ip(&["link", "add", "taken0", "type", "bridge"]);
    let path = runtime.path();
    let netns = ns.path().display().to_string();
    let host_netns = host.ns.path().display().to_string();
    // The first address takes a block, which stays this node's.
    let (list, container) = (pods(&runtime, NEWEST), sandbox(&ns, "c1"));
    let result = runtime.add(&container, &list).unwrap();
    runtime.del(&container, &list, &result);
    let before = host.listing();
    let good = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", netns.as_str()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", path.as_str()),
    ];
    let config = pods(&runtime, NEWEST).config(&runtime.weft(&json!({})), &Value::Null);
    for (name, value, code, told) in [
        ("CNI_COMMAND", "FLY", 4, "CNI_COMMAND"),
        ("CNI_CONTAINERID", "", 4, "CNI_CONTAINERID"),
        ("CNI_CONTAINERID", "a/../b", 4, "CNI_CONTAINERID"),
        ("CNI_IFNAME", "", 4, "CNI_IFNAME"),
        ("CNI_IFNAME", "much-too-long-for-linux", 4, "CNI_IFNAME"),
        ("CNI_IFNAME", "taken0", 101, "taken0"),
        ("CNI_NETNS", "", 4, "CNI_NETNS"),
        ("CNI_NETNS", "/nowhere", 3, "CNI_NETNS"),
        ("CNI_NETNS", "/etc/hostname", 4, "CNI_NETNS"),
        ("CNI_NETNS", &host_netns, 4, "CNI_NETNS"),
        ("CNI_ARGS", "IP=10.32", 4, "CNI_ARGS"),
        ("CNI_ARGS", "COLOUR=blue", 4, "CNI_ARGS"),
        ("CNI_ARGS", "IP=192.0.2.1", 7, "192.0.2.1"),
    ] {
        let mut vars = good.to_vec();
        vars.retain(|(kept, _)| *kept != name);
        vars.push((name, value));
        let answer = runtime.exec("weft", &vars, config.to_string().as_bytes());
        assert_eq!(answer.said["cniVersion"], NEWEST);
        let (is, message, _) = answer.refusal();
        assert!(
            is == code && message.contains(told),
            "{name}={value}: {is} {message}"
        );
        assert_eq!(host.listing(), before, "{name}={value}");
    }
    for (more, code, told) in [
        (json!({ "cniVersion": "0.2.0" }), 1, "0.2.0"),
        (json!({ "cniVersion": "2.0.0" }), 1, "2.0.0"),
        (json!({ "cniVersion": null }), 1, "cniVersion"),
        (json!({ "cniVersion": 1 }), 6, "cniVersion"),
        (json!({ "name": null }), 7, "name"),
        (json!({ "name": "a b" }), 7, "name"),
        (json!({ "network": "nowhere" }), 7, "nowhere"),
        (json!({ "subnet": "10.99.0.0/16" }), 7, "10.99.0.0/16"),
        (json!({ "subnet": "10.99" }), 7, "subnet"),
        (
            json!({ "network": "fresh", "subnet": "10.32.9.0/24" }),
            100,
            "10.32",
        ),
        (
            json!({ "socket": "/nowhere/weft.sock" }),
            11,
            "/nowhere/weft.sock",
        ),
        (
            json!({ "ipam": { "type": "no-such-plugin" } }),
            7,
            "no-such-plugin",
        ),
        (json!({ "ipam": { "subnet": "10.0.0.0/8" } }), 7, "ipam"),
        (
            json!({ "prevResult": { "ips": [{ "address": "x" }] } }),
            6,
            "prevResult",
        ),
        (
            json!({ "runtimeConfig": { "ips": ["10.32.0.1"] } }),
            7,
            "10.32.0.1",
        ),
        (
            json!({ "runtimeConfig": { "mac": "01:00:00:00:00:01" } }),
            7,
            "01:00:00:00:00:01",
        ),
        (json!({ "runtimeConfig": { "aliases": ["a b"] } }), 7, "a b"),
        (
            json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "sctp" }] } }),
            2,
            "portMappings",
        ),
    ] {
        let mut wrong = config.clone();
        overlay(&mut wrong, &more);
        let (is, message, _) = runtime
            .exec("weft", &good, wrong.to_string().as_bytes())
            .refusal();
        assert!(
            is == code && message.contains(told),
            "{more}: {is} {message}"
        );
        assert_eq!(host.listing(), before, "{more}");
    }
    for text in ["", "{", "[1]"] {
        let (code, ..) = runtime.exec("weft", &good, text.as_bytes()).refusal();
        assert_eq!(code, 6, "{text:?}");
    }
    assert_eq!(ns.ifnames(), ["taken0"]);
    // The same container again is refused, and what it has stays.
    let result = runtime.add(&container, &list).unwrap();
    let (code, message, details) = runtime.add(&container, &list).unwrap_err().refusal();
    assert!(code == 101 && !details.is_empty(), "{code} {message}");
    runtime.check(&container, &list, &result).unwrap();
}
