//! Containers that come and go, are forgotten, or end without an agent; and installing.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::{Value, json};
use weft_testbed::lab::Namespace;
use weft_testbed::lab::cni::{List, Runtime, overlay};
use weft_testbed::lab::process::Frozen;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};

use super::*;

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
fn a_container_that_ends_while_it_begins_leaves_nothing() {
    let pair = Pair::cold(Lab::new());
    let debug = ["--log", "info,weft_control=debug"].map(str::to_owned);
    pair.host1.give_agent(&debug);
    pair.controller.start();
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    let create = ["network", "create", "pods", "--subnet", "10.32.0.0/16"];
    pair.host1.weft(&create);
    pair.wait_in_sync();
    let host = &pair.host1;
    let runtime = Runtime::new(host);
    let list = pods(&runtime, NEWEST);
    // The first address takes a block, which stays this node's: the next one needs no controller.
    let ns = pair.lab.namespace("c1");
    let first = runtime.add(&sandbox(&ns, "c1"), &list).unwrap();
    runtime.del(&sandbox(&ns, "c1"), &list, &first);
    let container = sandbox(&ns, "c2");
    let (path, netns) = (runtime.path(), ns.path().display().to_string());
    let vars = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", container.id.as_str()),
        ("CNI_NETNS", &netns),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", &path),
    ];
    let config = list.config(&list.plugins[0], &Value::Null).to_string();
    // Nobody hears of the new endpoint, so that ADD takes a while: its runtime loses patience.
    let frozen = Frozen::new(pair.controller.pid());
    let mut add = runtime.start("weft", &vars, config.as_bytes());
    wait_until(SOON, "the agent has begun", || {
        let log = host.agent().log();
        log.lines()
            .any(|line| line.contains("endpoint begun") && line.contains("c2"))
    });
    add.kill().unwrap();
    add.wait().unwrap();
    runtime.del(&container, &list, &Value::Null);
    assert!(host.ports().is_empty(), "{:?}", host.ports());
    drop(frozen);
    pair.wait_in_sync();
    assert!(host.ports().is_empty() && ns.ifnames().is_empty());
    assert_eq!(host.network("pods").network.endpoints, Some(0));
    let again = runtime.add(&container, &list).unwrap();
    runtime.check(&container, &list, &again).unwrap();
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
    wait_until(SOON, "both are forgotten", || host.ports().is_empty());
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
    let refused = |more: &[&str]| host.refused(&[&["cni", "install"], &dirs[..], more].concat());
    // What is chained must be where the runtime will look for it.
    let refusal = refused(&["--chain", "portmap"]);
    assert!(refusal.message.contains("no plugin portmap"), "{refusal:?}");
    assert!(
        refusal.hint.contains("--bin-dir /usr/lib/cni"),
        "{refusal:?}"
    );
    let refusal = refused(&["--chain", "nosuch"]);
    assert!(refusal.message.contains("no plugin nosuch"), "{refusal:?}");
    assert!(!conf.exists() && !bin.join("weft").exists());
    install(&["--chain", "nosuch", "--force"]);
    fs::remove_file(conf.join("10-weft.conflist")).unwrap();
    symlink("/usr/lib/cni/portmap", bin.join("portmap")).unwrap();
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
    let refusal = refused(&["--name", "alone"]);
    assert!(
        refusal.message.contains("configures weft, not alone"),
        "{refusal:?}"
    );
    assert!(refusal.hint.contains("--force"));
    install(&["--name", "alone", "--force"]);
    let text = fs::read(conf.join("10-weft.conflist")).unwrap();
    let list: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(
        (&list["cniVersions"], &list["plugins"][0]["network"]),
        (&json!(VERSIONS), &json!("alone"))
    );
    // What somebody added by hand isn't lost by installing once more.
    let mut tuned = list.clone();
    tuned["plugins"][0]["mtu"] = json!(1400);
    fs::write(conf.join("10-weft.conflist"), tuned.to_string()).unwrap();
    let refusal = refused(&["--name", "alone"]);
    assert!(refusal.message.contains("it has mtu"), "{refusal:?}");
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
        assert_eq!(left(&bin), ["portmap"]);
        assert_eq!(left(&conf), ["10-other.conflist"]);
    }
}

fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
