//! The client against an agent with canned replies: what it asks, what it prints, and what it says when nobody answers.

mod common;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;

use common::{FakeAgent, Seen, golden, run, told, weft};
use serde_json::{Value, json};

fn network(name: &str) -> Value {
    json!({
        "name": name, "id": "00112233aabbccdd", "vni": 7, "transport": "vxlan", "encrypted": false,
        "subnets": [{"cidr": "10.32.0.0/16", "gateway": "10.32.0.1"}, {"cidr": "fd00::/64", "gateway": "fd00::1"}],
        "internal": true, "mtu": 1450, "mtu_set": false, "ageing_secs": 300, "vteps": ["10.99.0.9"],
        "endpoints": 2, "from_a_newer_agent": 1,
    })
}

fn port(name: &str, network: &str) -> Value {
    json!({
        "name": name, "endpoint": "8899aabbccddeeff", "network": network, "vni": 7, "netns": "web-ns",
        "ifname": "eth0", "mac": "02:57:0a:20:00:02", "addresses": ["10.32.0.2/16", "fd00::2/64"],
        "aliases": ["www"], "kind": "offload", "mtu": 1450, "state": "up", "rx_frames": 1234567,
        "rx_bytes": 9_876_543_210_u64, "tx_frames": 12, "tx_bytes": 999,
        "drops": {"spoofed_mac": 3, "too_big": 12},
    })
}

fn status(in_sync: bool) -> Value {
    json!({
        "node": "host1", "node_id": "0123456789abcdef0123456789abcdef", "cluster": "c1", "version": "0.1.0",
        "uptime_secs": 3700, "underlay": "10.99.0.1", "underlay_ifname": "u0", "underlay_mtu": 1500,
        "vxlan_port": 4789, "revision": 42, "in_sync": in_sync, "not_in_sync": (!in_sync).then_some("no controller answers"),
        "controller": {"addresses": ["10.99.0.1:6783"], "connected": in_sync.then_some("10.99.0.1:6783"), "since_secs": 61,
            "error": (!in_sync).then_some("connection refused")},
        "workers": 2, "ports": 3, "networks": 1, "peers": 1, "ports_survive": true,
        "warnings": ["the underlay's MTU is small"],
    })
}

fn lists() -> FakeAgent {
    FakeAgent::start(vec![
        ("GET /v1/status", 200, status(true)),
        (
            "GET /v1/peers",
            200,
            json!({
                "peers": [{
                    "name": "host2", "address": "10.99.0.2", "transport": "vxlan", "kind": "node", "mtu": 1450,
                    "networks": ["blue", "red"], "rx_frames": 10, "rx_bytes": 2048, "tx_frames": 0, "tx_bytes": 0, "drops": {},
                }],
                "strangers": {"drops": {"stranger": 4}, "last": "10.99.0.77"},
            }),
        ),
        (
            "GET /v1/ports",
            200,
            json!([port("web", "blue"), port("db", "red")]),
        ),
        (
            "GET /v1/fdb",
            200,
            json!([
                {"network": "blue", "vni": 7, "vlan": 0, "mac": "02:57:0a:20:00:02", "via": "port", "name": "web",
                    "kind": "owned", "epoch": 5},
                {"network": "lab", "vni": 9, "vlan": 12, "mac": "02:57:0a:20:00:03", "via": "peer", "name": "host2",
                    "address": "10.99.0.2", "kind": "learned", "age_secs": 75},
            ]),
        ),
        (
            "GET /v1/subnets",
            200,
            json!([
                {"network": "blue", "prefix": "10.32.0.0/24", "node": "host1", "underlay": "10.99.0.1", "used": 2},
                {"network": "blue", "prefix": "fd00::/80", "node": "host2", "used": 0},
            ]),
        ),
        (
            "GET /v1/nodes",
            200,
            json!([
                {"name": "host1", "id": "0123456789abcdef0123456789abcdef", "underlay": "10.99.0.1", "underlay_mtu": 1500,
                    "transports": ["vxlan", "quic"], "version": "0.1.0", "endpoints": 2, "state": "connected", "this": true},
            ]),
        ),
        ("GET /v1/networks", 200, json!([network("blue")])),
        (
            "GET /v1/networks/nope",
            404,
            json!({
                "code": "not_found", "message": "network \"nope\" is not known", "hint": "see `weft network ls`",
            }),
        ),
    ])
}

#[test]
fn lists_are_tables_for_people_and_json_for_programs() {
    let agent = lists();
    for line in [
        "status",
        "peers",
        "ports",
        "fdb",
        "subnets",
        "nodes",
        "network ls",
        "network ls -q",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let name = line.replace(' ', "_");
        let (code, table, err) = agent.run(&words);
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(!table.contains('\u{1b}'), "no colour when piped: {table}");
        golden(&format!("{name}.txt"), &table);
        let (code, text, err) = agent.run(&[&words[..], &["--json"]].concat());
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        serde_json::from_str::<Value>(&text).unwrap();
        golden(&format!("{name}.json"), &text);
    }
}

#[test]
fn a_list_can_be_narrowed_to_one_network_which_must_exist() {
    let agent = lists();
    let (code, table, _) = agent.run(&["ports", "--network", "red"]);
    assert_eq!((code, table.lines().count()), (0, 2), "{table}");
    let (code, _, err) = agent.run(&["fdb", "--network", "nope"]);
    assert_eq!(code, 1);
    assert_eq!(
        err,
        "error: network \"nope\" is not known\n  hint: see `weft network ls`\n"
    );
    let (code, out, err) = agent.run(&["fdb", "--network", "nope", "--json"]);
    let error: Value = serde_json::from_str(&err).unwrap();
    assert_eq!(
        (code, out.as_str(), &error["error"]["code"]),
        (1, "", &"not_found".into())
    );
}

#[test]
fn a_network_is_asked_for_with_everything_that_was_said() {
    let agent = FakeAgent::start(vec![
        ("POST /v1/networks", 200, network("blue")),
        ("PATCH /v1/networks/blue", 200, network("blue")),
    ]);
    let line = "network create blue --subnet 10.32.0.5/16 --subnet fd00::/64 --ip-range 10.32.1.0/24 --gateway 10.32.0.1 \
                --vni 7 --encrypted --internal --mtu 1400 --ageing 60";
    let (code, out, err) = agent.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!((code, out.as_str()), (0, "blue\n"), "{err}");
    let body = json!({
        "name": "blue", "subnets": ["10.32.0.5/16", "fd00::/64"], "ip_ranges": ["10.32.1.0/24"],
        "gateways": ["10.32.0.1"], "vni": 7, "encrypted": true, "internal": true, "mtu": 1400, "ageing_secs": 60,
        "isolate": false, "egress": "nat", "aux_addresses": {},
    });
    assert_eq!(
        agent.seen(),
        [Seen {
            line: "POST /v1/networks".into(),
            body
        }]
    );
    let (code, out, _) = agent.run(&["network", "set", "blue", "--ageing", "9", "--json"]);
    assert_eq!(code, 0);
    assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["name"], "blue");
    assert_eq!(agent.seen()[0].body, json!({"ageing_secs": 9}));
}

#[test]
fn a_connect_says_which_namespace_and_prints_what_it_got() {
    let agent = FakeAgent::start(vec![
        ("POST /v1/networks/blue/connect", 200, port("web", "blue")),
        (
            "POST /v1/networks/blue/disconnect",
            200,
            port("web", "blue"),
        ),
    ]);
    let connect = |line: &str| {
        let line = format!("network connect blue {line}");
        let (code, out, err) = agent.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            (code, out.as_str()),
            (0, "web eth0 10.32.0.2/16 fd00::2/64\n"),
            "{err}"
        );
        agent.seen().remove(0).body
    };
    let body = connect(
        "--netns web --ip 10.32.0.2 --mac 02:57:0a:20:00:02 --ifname e --name n --alias a --alias b",
    );
    assert_eq!(
        body,
        json!({
            "netns": {"name": "web"}, "ips": ["10.32.0.2"], "mac": "02:57:0a:20:00:02", "ifname": "e", "name": "n",
            "aliases": ["a", "b"], "no_offload": false, "addresses": [], "routes": [], "limits": {},
            "allow_spoof": false, "dhcp": false, "dns": false,
        })
    );
    assert_eq!(connect("--pid 7 --no-offload")["netns"], json!({"pid": 7}));
    let path = connect("--netns ./ns")["netns"]["path"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(path.starts_with('/') && path.ends_with("/ns"), "{path}");
    let (code, out, _) = agent.run(&["network", "disconnect", "blue", "--name", "web"]);
    assert_eq!((code, out.as_str()), (0, "web\n"));
    assert_eq!(agent.seen()[0].body, json!({"name": "web"}));
}

#[test]
fn removing_goes_on_after_a_failure_and_inspecting_too() {
    let refused = json!({"code": "in_use", "message": "network \"red\" has 2 endpoints"});
    let detail = |name| {
        let mut detail = network(name);
        detail["members"] = json!([]);
        detail["blocks"] = json!([]);
        detail
    };
    let agent = FakeAgent::start(vec![
        ("DELETE /v1/networks/red", 409, refused.clone()),
        ("DELETE /v1/networks/blue", 200, json!({})),
        ("DELETE /v1/nodes/host2", 200, json!({})),
        ("GET /v1/networks/red", 404, refused),
        ("GET /v1/networks/blue", 200, detail("blue")),
        (
            "POST /v1/networks-prune",
            200,
            json!({"removed": ["a", "b"]}),
        ),
    ]);
    let (code, out, err) = agent.run(&["network", "rm", "red", "blue"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (1, "blue\n", "error: network \"red\" has 2 endpoints\n")
    );
    let (code, out, _) = agent.run(&["network", "rm", "red", "blue", "--json"]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()),
        (1, json!({"removed": ["blue"]}))
    );
    let (code, out, err) = agent.run(&["network", "inspect", "red", "blue"]);
    assert_eq!(code, 1, "{err}");
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (found.as_array().unwrap().len(), &found[0]["name"]),
        (1, &"blue".into())
    );
    // What is left when nothing could be done is an empty list, as with docker, and the errors.
    let (code, out, err) = agent.run(&["network", "inspect", "red"]);
    assert_eq!((code, out.as_str()), (1, "[]\n"));
    assert_eq!(err, "error: network \"red\" has 2 endpoints\n");
    let (code, out, err) = agent.run(&["network", "rm", "red", "--json"]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&out).unwrap()),
        (1, json!({"removed": []}))
    );
    assert_eq!(
        serde_json::from_str::<Value>(&err).unwrap()["error"]["code"],
        "in_use"
    );
    assert_eq!(
        agent.run(&["node", "rm", "host2"]),
        (0, "host2\n".into(), String::new())
    );
    assert_eq!(agent.run(&["network", "prune"]).1, "a\nb\n");
}

#[test]
fn static_vteps_are_put_and_deleted_by_address() {
    let agent = FakeAgent::start(vec![
        ("PUT /v1/networks/blue/vteps/10.99.0.9", 200, json!({})),
        ("DELETE /v1/networks/blue/vteps/fd00%3A%3A9", 200, json!({})),
        ("GET /v1/networks/blue/vteps", 200, json!(["10.99.0.9"])),
    ]);
    assert_eq!(
        agent
            .run(&["network", "vtep", "add", "blue", "10.99.0.9"])
            .1,
        "10.99.0.9\n"
    );
    assert_eq!(
        agent.run(&["network", "vtep", "rm", "blue", "fd00::9"]).1,
        "fd00::9\n"
    );
    assert_eq!(
        agent.run(&["network", "vtep", "ls", "blue"]).1,
        "10.99.0.9\n"
    );
}

#[test]
fn waiting_for_sync_exits_with_1_and_the_reason() {
    let agent = FakeAgent::start(vec![
        ("GET /v1/status?wait=30", 200, status(true)),
        (
            "GET /v1/status?wait=3",
            503,
            json!({
                "code": "not_in_sync", "message": "node \"host1\" is not in sync: no controller answers",
            }),
        ),
        ("GET /v1/status", 200, status(false)),
    ]);
    let (code, out, err) = agent.run(&["status", "--wait"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("in sync:          yes"), "{out}");
    let (code, out, err) = agent.run(&["status", "--wait", "3"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("no controller answers"), "{err}");
    let (code, out, _) = agent.run(&["status"]);
    assert_eq!(code, 0);
    assert!(
        out.contains("in sync:          no: no controller answers"),
        "{out}"
    );
}

#[test]
fn waiting_begins_before_the_agent_listens() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let mut command = weft(&["status", "--wait", "20"]);
    command
        .arg("--socket")
        .arg(&socket)
        .stdout(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    let listener = UnixListener::bind(&socket).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    // An answer that is faster than its question would be refused.
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        asked.extend_from_slice(&byte);
    }
    let reply = status(true).to_string();
    let length = reply.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{reply}"
    )
    .unwrap();
    let (code, out, _) = told(child.wait_with_output().unwrap());
    assert_eq!(code, 0, "{out}");
    drop(dir);
}

#[test]
fn a_missing_agent_is_explained() {
    let (code, out, err) = run(&["ports", "--socket", "/nowhere/weft.sock"]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        "error: no agent listens at /nowhere/weft.sock\n  hint: start one with `weft agent run ...` or name its \
         socket with --socket / WEFT_SOCKET\n"
    );
    let dir = tempfile::tempdir().unwrap();
    let leftover = dir.path().join("weft.sock");
    drop(UnixListener::bind(&leftover).unwrap());
    let (code, _, err) = told(
        weft(&["ports"])
            .env("WEFT_SOCKET", &leftover)
            .output()
            .unwrap(),
    );
    assert_eq!(code, 1);
    assert!(err.contains("any more (the file is a leftover)"), "{err}");
}

#[test]
fn an_agent_of_another_version_is_named() {
    let agent = FakeAgent::start(vec![
        ("GET /v1/status", 200, json!({"version": "9.9.9"})),
        ("GET /v1/ports", 200, json!([{"name": "web"}])),
    ]);
    for noun in ["peers", "ports"] {
        let (code, _, err) = agent.run(&[noun]);
        assert_eq!(code, 1);
        assert!(
            err.contains("(of version 9.9.9) and this command (version "),
            "{err}"
        );
    }
}

#[test]
fn something_else_at_the_socket_is_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weft.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // What was not read would be a reset for the client rather than an answer.
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"SSH-2.0-x\r\n\r\n").unwrap();
        }
    });
    let (code, _, err) = run(&["ports", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 1);
    assert!(err.contains("is no weft agent"), "{err}");
}

#[test]
fn stopping_an_agent_tells_what_goes_and_what_stays() {
    let agent = FakeAgent::start(vec![(
        "POST /v1/stop",
        200,
        json!({"removed": ["web", "db"], "left": 0}),
    )]);
    let socket = agent.socket();
    // An agent that ends takes its socket away.
    let remover = std::thread::spawn({
        let socket = socket.clone();
        move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            std::fs::remove_file(socket).unwrap();
        }
    });
    let told = agent.run(&["agent", "stop", "--remove-ports"]);
    assert_eq!(told, (0, "web\ndb\n".into(), String::new()));
    assert!(!socket.exists(), "it waits for the agent's end");
    remover.join().unwrap();
    assert_eq!(agent.seen()[0].body, json!({"remove_ports": true}));
}
