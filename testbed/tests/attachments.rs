//! Ports that a program connected for its own containers: found by the program's names, with its addresses and routes,
//! also after the agent was restarted, and taken away without fuss.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use serde_json::{Value, json};
use weft_control::api::{Detached, Port};
use weft_testbed::Pair;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::lab::{Lab, Namespace};

fn attachment(container: &str, ifname: &str) -> Value {
    json!({ "owner": "cni:pods", "container": container, "ifname": ifname })
}

fn wish(ns: &Namespace, container: &str, ifname: &str) -> Value {
    json!({
        "netns": { "path": ns.path() },
        "ifname": ifname,
        "base_name": "web/1",
        "attachment": attachment(container, ifname),
    })
}

#[test]
fn an_attachment_is_found_and_ended_by_its_programs_names() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    host.weft(&["network", "create", "pods", "--subnet", "10.32.0.0/16"]);
    let ns = pair.lab.namespace("c1");
    let connect = |body: &Value| host.ask("POST", "/v1/networks/pods/connect", body);
    let (status, port) = connect(&wish(&ns, "a1", "eth0"));
    assert_eq!(status, 200, "{port}");
    let port: Port = serde_json::from_value(port).unwrap();
    assert_eq!(port.name, "web-1");
    assert_eq!(
        serde_json::to_value(&port.attachment).unwrap(),
        attachment("a1", "eth0")
    );
    assert_eq!(
        port.gateways,
        ["10.32.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(
        serde_json::to_value(&port.routes).unwrap(),
        json!([{ "dst": "0.0.0.0/0", "gateway": "10.32.0.1" }])
    );
    // Not twice; but the same container may have a second interface on the network.
    let (status, refused) = connect(&wish(&ns, "a1", "eth0"));
    assert_eq!(
        (status, refused["code"].as_str()),
        (409, Some("attached_already"))
    );
    let (status, second) = connect(&wish(&ns, "a1", "eth1"));
    assert_eq!(status, 200, "{second}");
    assert_eq!(
        second["name"], "web-1-host1",
        "the name is taken, the wish is not refused"
    );
    assert_eq!(
        second["routes"],
        Value::Null,
        "the namespace has a default route"
    );
    // The mark survives the agent.
    host.kill_agent();
    host.restart_agent();
    let listed = |query: &str| {
        let (status, ports) = host.ask("GET", &format!("/v1/attachments{query}"), &Value::Null);
        assert_eq!(status, 200, "{ports}");
        let ports: Vec<Port> = serde_json::from_value(ports).unwrap();
        ports
            .into_iter()
            .map(|port| port.ifname)
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("?owner=cni:pods"), ["eth0", "eth1"]);
    assert_eq!(listed("?owner=cni:pods&container=a1"), ["eth0", "eth1"]);
    assert_eq!(listed("?owner=docker"), Vec::<String>::new());
    let detach = |container: &str, ifname: &str| {
        let (status, reply) = host.ask(
            "POST",
            "/v1/attachments/detach",
            &attachment(container, ifname),
        );
        assert_eq!(status, 200, "{reply}");
        serde_json::from_value::<Detached>(reply).unwrap().port
    };
    assert_eq!(detach("a1", "eth0").unwrap().name, "web-1");
    assert_eq!(detach("a1", "eth0"), None, "asked again it is still fine");
    assert_eq!(detach("never", "eth0"), None);
    assert_eq!(ns.ifnames(), ["eth1"]);
    assert_eq!(listed(""), ["eth1"]);
    // Its namespace gone, the port goes by itself, and the end of the attachment is no error.
    ns.delete();
    wait_until(SOON, "the port goes", || listed("").is_empty());
    assert_eq!(detach("a1", "eth1"), None);
}

#[test]
fn addresses_and_routes_of_another_ipam_are_set_as_they_are() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&["network", "create", "flat"]);
    pair.host1.weft(&[
        "network",
        "create",
        "pods",
        "--subnet",
        "10.32.0.0/16",
        "--internal",
    ]);
    pair.wait_in_sync();
    let (one, two) = (pair.lab.namespace("c1"), pair.lab.namespace("c2"));
    for (host, ns, ip) in [(&pair.host1, &one, 1), (&pair.host2, &two, 2)] {
        let mut body = wish(ns, "a1", "net0");
        body["addresses"] = json!([format!("192.0.2.{ip}/24"), format!("2001:db8::{ip}/64")]);
        body["routes"] = json!([
            { "dst": "198.51.100.0/24", "gateway": "192.0.2.254", "mtu": 1400 },
            { "dst": "203.0.113.0/24" },
        ]);
        let (status, port) = host.ask("POST", "/v1/networks/flat/connect", &body);
        assert_eq!(status, 200, "{port}");
        assert_eq!(port["addresses"], body["addresses"]);
        assert_eq!(port["routes"], body["routes"]);
        let routes = ns.ip(&["route"]);
        assert!(
            routes.contains("198.51.100.0/24 via 192.0.2.254 dev net0"),
            "{routes}"
        );
        assert!(routes.contains("mtu 1400"), "{routes}");
    }
    weft_testbed::lab::traffic::ping(&one, "192.0.2.2".parse().unwrap());
    weft_testbed::lab::traffic::ping(&one, "2001:db8::2".parse().unwrap());
    let host = &pair.host1;
    for (network, key, value, code) in [
        ("pods", "addresses", json!(["10.32.0.9/16"]), "has_subnet"),
        ("pods", "default_route", json!(true), "internal_network"),
        (
            "flat",
            "routes",
            json!([{ "dst": "::/0", "gateway": "192.0.2.1" }]),
            "bad_route",
        ),
        (
            "flat",
            "attachment",
            json!({ "owner": "", "container": "x" }),
            "bad_attachment",
        ),
        (
            "flat",
            "attachment",
            json!({ "owner": "o", "container": "x y" }),
            "bad_attachment",
        ),
        ("flat", "attachment", json!({ "owner": "o" }), "bad_body"),
    ] {
        let before = host.listing();
        let mut body = wish(&one, "b2", "net1");
        body[key] = value;
        let path = format!("/v1/networks/{network}/connect");
        let (status, reply) = host.ask("POST", &path, &body);
        assert_eq!(
            (status, reply["code"].as_str()),
            (400, Some(code)),
            "{reply}"
        );
        assert_eq!(host.listing(), before);
    }
    assert_eq!(one.ifnames(), ["net0"]);
}
