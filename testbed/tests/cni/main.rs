//! The CNI plugin as a container runtime calls it: every command in every version, alone, with Debian's IPAM and chained
//! plugins, and with everything wrong that can be.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

mod chains;
mod life;
mod protocol;
mod wishes;

use std::net::IpAddr;

use serde_json::{Value, json};
use weft_testbed::lab::cni::{List, Runtime, Sandbox};
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
