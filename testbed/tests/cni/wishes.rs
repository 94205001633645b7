//! What a runtime asks for one container.

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_testbed::lab::cni::{List, Runtime, Sandbox, overlay};
use weft_testbed::lab::verdict::{SOON, wait_until};

use super::*;

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
    wait_until(SOON, "the host's port answers", answers);
    // The same port of the host for another one: refused, with the name of who has it.
    let late = pair.lab.namespace("late");
    let mut wanting = pods(&runtime, NEWEST);
    overlay(
        &mut wanting.plugins[0],
        &json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80 }] } }),
    );
    let (code, message, _) = runtime
        .add(&sandbox(&late, "late"), &wanting)
        .unwrap_err()
        .refusal();
    assert_eq!(code, 100, "{message}");
    assert!(
        message.contains("8080") && message.contains(&port.name),
        "{message}"
    );
    // One port for two things is a mistake of the configuration.
    let twice = json!({ "hostPort": 8090, "containerPort": 80 });
    wanting.plugins[0]["runtimeConfig"]["portMappings"] = json!([twice, twice]);
    let (code, message, _) = runtime
        .add(&sandbox(&late, "late"), &wanting)
        .unwrap_err()
        .refusal();
    assert_eq!(code, 7, "{message}");
    assert!(
        message.contains("8090") && message.contains("twice"),
        "{message}"
    );
    assert!(late.ifnames().is_empty());
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
    // The port of the host is closed with the container's.
    runtime.del(&second, &other, &more);
    runtime.del(&container, &list, &result);
    assert!(!answers(), "the host's port is closed");
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
