//! The CNI plugin as a container runtime calls it: every command in every version, alone, with Debian's IPAM and chained
//! plugins, and with everything wrong that can be.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testbed::lab::cni::{List, Runtime, Sandbox, overlay};
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::lab::{Host, Namespace};
use weft_testbed::{Lab, Pair};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];
const NEWEST: &str = "1.1.0";

fn up() -> Pair {
    let pair = Pair::up(Lab::new());
    let create = [
        "network",
        "create",
        "pods",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ];
    pair.host1.weft(&create);
    pair.wait_in_sync();
    pair
}

fn pods(runtime: &Runtime<'_>, version: &str) -> List {
    List::new(version, "pods", vec![runtime.weft(&json!({}))])
}

fn ips(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| {
        let text = ip["address"].as_str().unwrap();
        text.split('/').next().unwrap().parse().unwrap()
    })
    .collect()
}

/// The port of a namespace that was named by its path.
fn port_at(host: &Host, ns: &Namespace) -> weft_control::api::Port {
    let netns = ns.path().display().to_string();
    let mut ports = host.ports().into_iter();
    ports.find(|port| port.netns == netns).unwrap()
}

fn sandbox(ns: &Namespace, id: &str) -> Sandbox {
    Sandbox::new(id, &ns.path())
}

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
            wait_until(Duration::from_secs(5), "the agent sees it", || {
                pair.host1.ports().is_empty()
            });
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

#[test]
fn what_is_asked_for_one_container_is_given() {
    let pair = up();
    let runtime = Runtime::new(&pair.host1);
    let ns = pair.lab.namespace("c1");
    let mut list = pods(&runtime, NEWEST);
    overlay(
        &mut list.plugins[0],
        &json!({
            "dns": { "nameservers": ["10.32.0.1"], "search": ["example"] },
            "ipam": { "type": "weft", "routes": [{ "dst": "198.51.100.0/24" }] },
            "runtimeConfig": {
                "ips": ["10.32.0.77/16"], "mac": "02:00:00:00:00:77", "aliases": ["web", "www"],
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }],
                "bandwidth": { "ingressRate": 8_000_000, "egressRate": 16_000_000, "egressBurst": 800_000 },
            },
        }),
    );
    let container = sandbox(&ns, "c1");
    let result = runtime.add(&container, &list).unwrap();
    assert_eq!(ips(&result)[0], "10.32.0.77".parse::<IpAddr>().unwrap());
    assert_eq!(result["interfaces"][0]["mac"], "02:00:00:00:00:77");
    assert_eq!(
        result["dns"],
        json!({ "nameservers": ["10.32.0.1"], "search": ["example"] })
    );
    let route = json!({ "dst": "198.51.100.0/24", "gw": "10.32.0.1" });
    assert!(
        result["routes"].as_array().unwrap().contains(&route),
        "{result}"
    );
    let port = port_at(&pair.host1, &ns);
    assert_eq!(port.aliases, ["web", "www"]);
    let limits = port.line.unwrap().limits;
    assert_eq!(limits.to_port.unwrap().bits_per_sec, 8_000_000);
    assert_eq!(limits.from_port.unwrap().burst_bytes, Some(100_000));
    runtime.check(&container, &list, &result).unwrap();
    ns.spawn("httpd", "busybox", &["httpd", "-f", "-p", "80"]);
    let answers = || {
        let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 10.99.0.1 8080";
        pair.host2.ns.run("sh", &["-c", ask]).stdout.contains("404")
    };
    wait_until(Duration::from_secs(10), "the host's port answers", answers);
    // A second network: the default route is the first one's.
    let second = Sandbox {
        ifname: "net1".to_owned(),
        ..container.clone()
    };
    let other = List::new(
        NEWEST,
        "other",
        vec![runtime.weft(&json!({ "subnet": "10.33.0.0/16" }))],
    );
    let more = runtime.add(&second, &other).unwrap();
    assert_eq!(more.get("routes"), None);
    assert_eq!(
        pair.host1.network("other").network.subnets[0]
            .cidr
            .to_string(),
        "10.33.0.0/16"
    );
    // Names of pods, and wishes by CNI_ARGS.
    let pod = pair.lab.namespace("pod");
    let path = runtime.path();
    let netns = pod.path().display().to_string();
    let config = pods(&runtime, NEWEST).config(&runtime.weft(&json!({})), &Value::Null);
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "0123456789abcdef"),
        ("CNI_NETNS", netns.as_str()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", path.as_str()),
        (
            "CNI_ARGS",
            "IgnoreUnknown=true;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;X=Y;IP=10.32.0.78",
        ),
    ];
    let result = runtime
        .exec("weft", &vars, config.to_string().as_bytes())
        .expect_done();
    assert_eq!(ips(&result)[0], "10.32.0.78".parse::<IpAddr>().unwrap());
    assert_eq!(port_at(&pair.host1, &pod).name, "web-0");
    // No default route where none is wanted.
    let quiet = pair.lab.namespace("quiet");
    let mut list = pods(&runtime, NEWEST);
    overlay(
        &mut list.plugins[0],
        &json!({ "defaultRoute": false, "offload": false, "gatewayDns": false }),
    );
    let result = runtime.add(&sandbox(&quiet, "quiet"), &list).unwrap();
    assert_eq!((result.get("routes"), &result["dns"]), (None, &json!({})));
    assert_eq!(port_at(&pair.host1, &quiet).kind, "plain");
}

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

#[test]
fn garbage_is_collected_by_network_and_status_tells_whether_containers_can_be_added() {
    let pair = up();
    let host = &pair.host1;
    let runtime = Runtime::new(host);
    let list = pods(&runtime, NEWEST);
    let other = List::new(
        NEWEST,
        "other",
        vec![runtime.weft(&json!({ "network": "pods" }))],
    );
    let spaces: Vec<Namespace> = (1..=4)
        .map(|n| pair.lab.namespace(&format!("c{n}")))
        .collect();
    for ns in &spaces[..3] {
        let id = ns.name().rsplit('-').next().unwrap().to_owned();
        runtime.add(&sandbox(ns, &id), &list).unwrap();
    }
    runtime.add(&sandbox(&spaces[3], "c4"), &other).unwrap();
    let by_hand = pair.lab.container(host, "pods", "byhand", &[]);
    let path = runtime.path();
    let ask = |command: &str, more: &Value| {
        let mut config = list.config(&list.plugins[0], &Value::Null);
        overlay(&mut config, more);
        let vars = [("CNI_COMMAND", command), ("CNI_PATH", path.as_str())];
        runtime.exec("weft", &vars, config.to_string().as_bytes())
    };
    let (code, message, _) = ask("GC", &json!({})).refusal();
    assert!(
        code == 7 && message.contains("valid-attachments"),
        "{message}"
    );
    assert_eq!(host.ports().len(), 5);
    // Not of c3: its attachment has another interface.
    let valid = json!([
        { "containerID": "c1", "ifname": "eth0" }, { "containerID": "c3", "ifname": "eth1" },
    ]);
    let valid = json!({ "cni.dev/valid-attachments": valid });
    for _ in 0..2 {
        assert!(ask("GC", &valid).expect_done().is_null());
        let left: BTreeSet<String> = host.ports().into_iter().map(|port| port.name).collect();
        assert_eq!(left, ["byhand", "c1", "c4"].map(str::to_owned).into());
    }
    assert!(spaces[1].ifnames().is_empty() && spaces[2].ifnames().is_empty());
    ping(&by_hand.ns, port_at(host, &spaces[0]).addresses[0].addr());
    // STATUS.
    assert!(ask("STATUS", &json!({})).expect_done().is_null());
    let (code, message, _) = ask("STATUS", &json!({ "network": "nowhere" })).refusal();
    assert!(
        code == 50 && message.contains("nowhere"),
        "{code} {message}"
    );
    ask(
        "STATUS",
        &json!({ "network": "nowhere", "subnet": "10.77.0.0/16" }),
    )
    .expect_done();
    host.stop_agent();
    let (code, message, details) = ask("STATUS", &json!({})).refusal();
    assert!(
        code == 50 && message.contains("no agent") && !details.is_empty(),
        "{message}"
    );
    for (command, version) in [("GC", "1.0.0"), ("STATUS", "0.4.0")] {
        let (code, message, _) = ask(command, &json!({ "cniVersion": version })).refusal();
        assert!(code == 1 && message.contains(command), "{message}");
    }
}

#[test]
fn many_containers_come_and_go_at_once() {
    const CONTAINERS: usize = 16;
    let pair = up();
    let runtime = Runtime::new(&pair.host1);
    let list = pods(&runtime, NEWEST);
    let spaces: Vec<Namespace> = (0..CONTAINERS)
        .map(|n| pair.lab.namespace(&format!("p{n}")))
        .collect();
    for _ in 0..2 {
        let results: Vec<Value> = std::thread::scope(|scope| {
            let adds: Vec<_> = spaces
                .iter()
                .enumerate()
                .map(|(n, ns)| {
                    let (runtime, list) = (&runtime, &list);
                    scope.spawn(move || runtime.add(&sandbox(ns, &format!("p{n}")), list).unwrap())
                })
                .collect();
            adds.into_iter().map(|add| add.join().unwrap()).collect()
        });
        let addresses: BTreeSet<IpAddr> = results.iter().flat_map(ips).collect();
        assert_eq!(addresses.len(), 2 * CONTAINERS);
        ping(&spaces[0], ips(&results[CONTAINERS - 1])[0]);
        std::thread::scope(|scope| {
            for (n, (ns, result)) in spaces.iter().zip(&results).enumerate() {
                let (runtime, list) = (&runtime, &list);
                // Twice at once: in order, and neither fails.
                for _ in 0..2 {
                    scope.spawn(move || runtime.del(&sandbox(ns, &format!("p{n}")), list, result));
                }
            }
        });
        assert!(pair.host1.ports().is_empty());
    }
    let locks = pair.host1.socket().with_file_name("cni");
    let left: Vec<_> = fs::read_dir(locks).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_an_agent_containers_still_end_and_their_addresses_come_back() {
    let pair = up();
    let host = &pair.host1;
    let runtime = Runtime::new(host);
    let list = pods(&runtime, NEWEST);
    let (one, two) = (pair.lab.namespace("c1"), pair.lab.namespace("c2"));
    let mut fixed = list.clone();
    overlay(
        &mut fixed.plugins[0],
        &json!({ "runtimeConfig": { "ips": ["10.32.0.66"] } }),
    );
    let first = runtime.add(&sandbox(&one, "c1"), &fixed).unwrap();
    let second = runtime.add(&sandbox(&two, "c2"), &list).unwrap();
    host.stop_agent();
    let (code, message, details) = runtime
        .add(&sandbox(&pair.lab.namespace("c3"), "c3"), &list)
        .unwrap_err()
        .refusal();
    assert!(code == 11 && !details.is_empty(), "{code} {message}");
    runtime.del(&sandbox(&one, "c1"), &fixed, &first);
    assert!(one.ifnames().is_empty(), "its interface is gone");
    one.ip(&["link", "add", "eth0", "type", "bridge"]);
    runtime.del(&sandbox(&one, "c1"), &fixed, &first);
    assert_eq!(one.ifnames(), ["eth0"], "what isn't weft's stays");
    one.ip(&["link", "del", "eth0"]);
    two.delete();
    runtime.del(&sandbox(&two, "c2"), &list, &second);
    host.restart_agent();
    wait_until(Duration::from_secs(5), "both are forgotten", || {
        host.ports().is_empty()
    });
    let again = runtime.add(&sandbox(&one, "c1"), &fixed).unwrap();
    assert_eq!(ips(&again)[0], "10.32.0.66".parse::<IpAddr>().unwrap());
}

#[test]
fn install_puts_plugin_and_configuration_where_runtimes_look() {
    let pair = up();
    let host = &pair.host1;
    let dir = host.ns.lab_file("cni-install");
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    let (bin_text, conf_text) = (bin.display().to_string(), conf.display().to_string());
    let dirs = ["--bin-dir", &bin_text, "--conf-dir", &conf_text];
    let install = |more: &[&str]| host.weft(&[&["cni", "install"], &dirs[..], more].concat());
    for more in [vec!["--link"], vec![]] {
        let flags = [
            "--network",
            "pods",
            "--subnet",
            "10.32.0.0/16",
            "--chain",
            "portmap",
        ];
        let said = install(&[&flags[..], &more].concat());
        let (plugin, file) = (bin.join("weft"), conf.join("10-weft.conflist"));
        assert_eq!(said, format!("{}\n{}\n", plugin.display(), file.display()));
        let text = fs::read(&file).unwrap();
        let list: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            list,
            json!({
                "cniVersion": "1.0.0",
                "name": "weft",
                "plugins": [
                    { "type": "weft", "network": "pods", "socket": host.socket(), "subnet": ["10.32.0.0/16"],
                      "capabilities": { "ips": true, "mac": true, "aliases": true, "bandwidth": true, "dns": true, "portMappings": false } },
                    { "type": "portmap", "capabilities": { "portMappings": true } },
                ],
            })
        );
        // What was installed works, as it lies there.
        let ns = pair
            .lab
            .namespace(if more.is_empty() { "copied" } else { "linked" });
        let netns = ns.path().display().to_string();
        let mut config = list["plugins"][0].clone();
        overlay(
            &mut config,
            &json!({ "name": "weft", "cniVersion": "1.0.0", "capabilities": null }),
        );
        let run = |command: &str| {
            let line = format!(
                "CNI_COMMAND={command} CNI_CONTAINERID=x CNI_NETNS={netns} CNI_IFNAME=eth0 {} <{}",
                plugin.display(),
                dir.join("config").display()
            );
            host.ns.run("sh", &["-c", &line]).expect_done()
        };
        fs::write(dir.join("config"), config.to_string()).unwrap();
        let result: Value = serde_json::from_str(&run("ADD")).unwrap();
        assert_eq!(ns.addresses("eth0")[0], ips(&result)[0]);
        assert_eq!(run("DEL"), "");
    }
    // Alone it offers all versions; in a chain only what everybody's plugins speak.
    install(&["--name", "alone"]);
    let text = fs::read(conf.join("10-weft.conflist")).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&list["cniVersions"], &list["plugins"][0]["network"]),
        (&json!(VERSIONS), &json!("alone"))
    );
    // Somebody else's file stays.
    let foreign = conf.join("10-other.conflist");
    fs::write(&foreign, "{\"name\":\"other\",\"plugins\":[]}").unwrap();
    let args = ["cni", "install", "--conf-file", "10-other.conflist"];
    let refusal = host.refused(&[&args[..], &dirs].concat());
    assert!(refusal.message.contains("10-other.conflist"), "{refusal:?}");
    assert_eq!(
        fs::read_to_string(&foreign).unwrap(),
        "{\"name\":\"other\",\"plugins\":[]}"
    );
    for _ in 0..2 {
        host.weft(&[&["cni", "uninstall"], &dirs[..]].concat());
        assert!(left(&bin).is_empty());
        assert_eq!(left(&conf), ["10-other.conflist"]);
    }
}

fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
