//! Docker as its users have it: two hosts with a real dockerd each, networks by `docker network create -d weft`.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

mod deaths;
mod networks;
mod protocol;
mod refusals;
mod way_out;

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testbed::lab::docker::Docker;
use weft_testbed::lab::verdict::wait_for;
use weft_testbed::{Host, Lab, Pair};

/// What is learned from Docker's events is there by then.
const NOTICE: Duration = Duration::from_secs(20);

/// What a call that can't be answered may take: Docker itself gives a plugin up after 30 s.
const FAIL_FAST: Duration = Duration::from_secs(12);

/// What Docker forgot in a crash is given back by then.
const FORGOTTEN: Duration = Duration::from_secs(70);

/// dockerd gives the containers that it finds ten seconds to end, all at once; looking for a driver that isn't there would
/// take it half a minute for each of three.
const BOOT: Duration = Duration::from_secs(40);

const SHOP: [&str; 4] = ["--subnet", "10.40.0.0/16", "-o", "weft.network=shop"];

/// Two hosts with agent and dockerd each.
struct World {
    docker1: Docker,
    docker2: Docker,
    pair: Pair,
}

impl World {
    fn up() -> Self {
        let pair = Pair::cold(Lab::new());
        pair.controller.start();
        let [docker1, docker2] = [&pair.host1, &pair.host2].map(|host| {
            let docker = Docker::cold(host);
            host.join_with_docker(&pair.controller, &docker);
            docker.start();
            docker
        });
        pair.wait_in_sync();
        Self {
            docker1,
            docker2,
            pair,
        }
    }

    fn with_shop() -> Self {
        let world = Self::up();
        for docker in [&world.docker1, &world.docker2] {
            docker.create_network("shop", &SHOP);
        }
        world
    }

    /// Nothing of Docker's is left on either host: neither interfaces nor what the agent remembers.
    fn expect_nothing_left(&self) {
        for host in [&self.pair.host1, &self.pair.host2] {
            expect_no_endpoints(host);
        }
        wait_for(NOTICE, "no endpoint is in the cluster", &0, || {
            let networks: Vec<weft_control::api::NetworkInfo> =
                self.pair.host1.json(&["network", "ls"]);
            networks
                .iter()
                .filter_map(|network| network.endpoints)
                .sum()
        });
    }
}

/// The names that a network's members have, as a host's agent sees it.
fn members(host: &Host, network: &str) -> BTreeSet<String> {
    let members = host.network(network).members.into_iter();
    members.map(|member| member.name).collect()
}

fn taps(host: &Host) -> Vec<String> {
    let names = host.ns.ifnames().into_iter();
    names.filter(|name| name.starts_with("weft")).collect()
}

fn ledger(host: &Host) -> Value {
    let text = fs::read_to_string(host.state().join("docker.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Addresses that the agent keeps for Docker.
fn held(host: &Host) -> Vec<String> {
    let ledger = ledger(host);
    let pools = ledger["pools"].as_object().unwrap().values();
    let held = pools.flat_map(|pool| pool["held"].as_array().unwrap());
    held.map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

fn expect_no_endpoints(host: &Host) {
    wait_for(NOTICE, "no port is left", &0, || host.ports().len());
    wait_for(NOTICE, "no TAP is left", &Vec::<String>::new(), || {
        taps(host)
    });
    wait_for(NOTICE, "no address is held", &Vec::<String>::new(), || {
        held(host)
    });
    wait_for(FORGOTTEN, "no endpoint is remembered", &json!({}), || {
        ledger(host)["endpoints"].clone()
    });
}
