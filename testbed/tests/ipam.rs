//! Addresses: reserved ones are never given, full pools say who has what, and whatever crashes, an address belongs to one
//! live namespace or to nobody.

#![expect(clippy::too_many_lines, reason = "scenarios are told in order")]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use weft_control::api::{Audit, Lease};
use weft_testbed::lab::namespace::Namespace;
use weft_testbed::lab::verdict::{SOON, wait_for, wait_until};
use weft_testbed::{Host, Lab, Pair};

fn leases(host: &Host, network: &str) -> Vec<Lease> {
    host.json(&["ipam", "ls", network])
}

fn audit(host: &Host) -> Audit {
    host.json(&["ipam", "audit"])
}

/// Addresses of endpoints, by address.
fn held(host: &Host, network: &str) -> BTreeMap<IpAddr, String> {
    let leases = leases(host, network).into_iter();
    let held = leases.filter(|lease| lease.kind == "endpoint");
    held.map(|lease| (lease.address, lease.name)).collect()
}

#[test]
fn reserved_addresses_are_never_given() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/24",
        "--ip-range",
        "10.32.0.0/29",
        "--gateway",
        "10.32.0.254",
        "--aux-address",
        "router=10.32.0.1",
        "--aux-address",
        "nas=10.32.0.3",
        "--aux-address",
        "nas6=fd32:1::2",
        "--subnet",
        "fd32:1::/64",
    ]);
    let lab = &pair.lab;
    let given: Vec<(String, String)> = (1..=3)
        .map(|number| {
            let container = lab.container(&pair.host1, "blue", &format!("c{number}"), &[]);
            (container.v4().to_string(), container.v6().to_string())
        })
        .collect();
    let expected = [
        ("10.32.0.2", "fd32:1::3"),
        ("10.32.0.4", "fd32:1::4"),
        ("10.32.0.5", "fd32:1::5"),
    ];
    assert_eq!(
        given,
        expected.map(|(v4, v6)| (v4.to_owned(), v6.to_owned()))
    );
    let c4 = lab.namespace("c4");
    let connect = |ip| {
        [
            "network",
            "connect",
            "blue",
            "--netns",
            c4.name(),
            "--ip",
            ip,
        ]
    };
    let refusal = pair.host2.refused(&connect("10.32.0.3"));
    assert!(refusal.message.contains("reserved for nas"), "{refusal:?}");
    let lines: Vec<(String, String, String)> = leases(&pair.host2, "blue")
        .into_iter()
        .map(|lease| (lease.address.to_string(), lease.kind, lease.name))
        .filter(|(address, ..)| address.starts_with("10."))
        .collect();
    let line = |address: &str, kind: &str, name: &str| {
        (address.to_owned(), kind.to_owned(), name.to_owned())
    };
    assert_eq!(
        lines,
        [
            line("10.32.0.1", "reserved", "router"),
            line("10.32.0.2", "endpoint", "c1"),
            line("10.32.0.3", "reserved", "nas"),
            line("10.32.0.4", "endpoint", "c2"),
            line("10.32.0.5", "endpoint", "c3"),
            line("10.32.0.254", "gateway", "gateway"),
        ]
    );
    // Wrong ones are refused before anything is made.
    for aux in ["x=10.33.0.1", "x=10.34.0.1", "x=10.34.0.0"] {
        let create = [
            "network",
            "create",
            "n",
            "--subnet",
            "10.34.0.0/24",
            "--aux-address",
            aux,
        ];
        assert_eq!(pair.host1.refused(&create).code, "bad_aux_address", "{aux}");
    }
    assert_eq!(audit(&pair.host1).findings, []);
}

#[test]
fn a_full_pool_says_who_has_it_and_idle_blocks_can_be_given_back() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "small", "--subnet", "10.32.0.0/27"]);
    pair.wait_in_sync();
    let namespaces: Vec<Namespace> = (0..29)
        .map(|number| pair.lab.namespace(&format!("c{number}")))
        .collect();
    for ns in &namespaces {
        pair.host1.connect("small", ns, &[]);
    }
    let late = pair.lab.namespace("late");
    let connect = ["network", "connect", "small", "--netns", late.name()];
    let refusal = pair.host2.refused(&connect);
    assert_eq!(refusal.code, "exhausted");
    let held = "host1 15 (29 of 30 addresses in use)";
    assert!(refusal.message.contains(held), "{refusal:?}");
    assert!(refusal.hint.contains("weft ipam"), "{refusal:?}");
    // Those of four containers are two blocks, at least one of them idle.
    for ns in &namespaces[20..24] {
        pair.host1.disconnect("small", ns);
    }
    assert_eq!(pair.host2.refused(&connect).code, "exhausted");
    let found = audit(&pair.host1);
    assert_eq!(found.leases, 25);
    assert!(!found.findings.is_empty(), "blocks are idle");
    assert!(
        found
            .findings
            .iter()
            .all(|finding| finding.kind == "idle_block" && !finding.fault)
    );
    let mended: Audit = pair.host1.json(&["ipam", "audit", "--fix"]);
    assert_eq!(mended.findings.len(), found.findings.len());
    assert!(
        mended.findings.iter().all(|finding| finding.fixed),
        "{mended:?}"
    );
    assert_eq!(audit(&pair.host1).findings, []);
    // Also not after a restart without a controller: the address must not be given twice.
    pair.host2.connect("small", &late, &[]);
    let taken = pair.host2.port_of(&late).addresses[0].addr();
    pair.controller.kill();
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    for ns in &namespaces[20..24] {
        let name = ns.name();
        let again = pair
            .host1
            .try_weft(&["--json", "network", "connect", "small", "--netns", name]);
        if again.code == Some(0) {
            assert_ne!(pair.host1.port_of(ns).addresses[0].addr(), taken);
        }
    }
    pair.controller.start();
    pair.wait_in_sync();
    for host in [&pair.host1, &pair.host2] {
        let faults: Vec<_> = audit(host)
            .findings
            .into_iter()
            .filter(|finding| finding.fault)
            .collect();
        assert_eq!(faults, []);
    }
}

#[test]
fn whenever_an_agent_crashes_addresses_belong_to_live_namespaces() {
    let pair = Pair::up(Lab::new());
    let subnets = ["--subnet", "10.32.0.0/24", "--subnet", "fd32:1::/64"];
    pair.host1
        .weft(&[&["network", "create", "blue"], &subnets[..]].concat());
    pair.wait_in_sync();
    let namespaces: Vec<Namespace> = (0..12)
        .map(|number| pair.lab.namespace(&format!("c{number}")))
        .collect();
    for round in 0..6_u64 {
        // The agent dies in the middle of connects and disconnects.
        thread::scope(|scope| {
            for (number, ns) in namespaces.iter().enumerate() {
                let host = &pair.host1;
                scope.spawn(move || {
                    let verb = if number % 3 == 2 {
                        "disconnect"
                    } else {
                        "connect"
                    };
                    let fixed = format!("10.32.0.{}", 200 + number);
                    let mut words = vec!["network", verb, "blue", "--netns", ns.name()];
                    if verb == "connect" && number % 3 == 1 {
                        words.extend(["--ip", &fixed]);
                    }
                    // It may be refused, cut off, or done.
                    host.try_weft(&words);
                });
            }
            thread::sleep(Duration::from_millis(20 + 35 * round));
            pair.host1.kill_agent();
        });
        pair.host1.restart_agent();
        pair.host1.wait_in_sync();
        if round % 2 == 1 {
            // A namespace dies too, while nobody looks.
            let ns = &namespaces[usize::try_from(round).unwrap()];
            pair.host1.kill_agent();
            ns.delete();
            ns.create_again();
            pair.host1.restart_agent();
            pair.host1.wait_in_sync();
            // The kernel takes it apart after its deletion returned: the agent may still have found the port.
            wait_until(SOON, "its port went with it", || {
                pair.host1
                    .ports()
                    .iter()
                    .all(|port| port.netns != ns.name())
            });
        }
        let found = audit(&pair.host1);
        let faults: Vec<_> = found
            .findings
            .iter()
            .filter(|finding| finding.fault)
            .collect();
        assert!(faults.is_empty(), "round {round}: {faults:?}");
        // The books, the ports and the namespaces say the same.
        let mut in_namespaces = BTreeMap::new();
        for port in pair.host1.ports() {
            let ns = namespaces
                .iter()
                .find(|ns| ns.name() == port.netns)
                .unwrap();
            for ip in ns.addresses(&port.ifname) {
                let before = in_namespaces.insert(ip, port.name.clone());
                assert_eq!(before, None, "{ip} is given twice");
            }
        }
        let ports = pair.host1.ports();
        for ns in &namespaces {
            let here = ports.iter().filter(|port| port.netns == ns.name()).count();
            wait_until(SOON, "what is no port is no interface", || {
                ns.ifnames().len() == here
            });
        }
        for host in [&pair.host1, &pair.host2] {
            let what = format!("{} holds what namespaces have, round {round}", host.name);
            wait_for(SOON, &what, &in_namespaces, || held(host, "blue"));
        }
    }
    for ns in &namespaces {
        let _ = pair
            .host1
            .try_weft(&["network", "disconnect", "blue", "--netns", ns.name()]);
    }
    assert_eq!(held(&pair.host1, "blue"), BTreeMap::new());
    let mended: Audit = pair.host1.json(&["ipam", "audit", "--fix"]);
    assert!(
        mended.findings.iter().all(|finding| finding.fixed),
        "{mended:?}"
    );
    assert_eq!(pair.host1.subnets(), [], "nothing is left of it");
}
