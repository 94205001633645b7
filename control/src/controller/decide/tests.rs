//! The rules, without store, network or clock.

mod blocks;
mod endpoints;
mod model;
mod networks;
mod nodes;

use std::collections::BTreeMap;

use weft_wire::{MacAddr, Mtu, Vni};

use super::block::{Claim, allocate, claim, give_back, grant};
use super::*;
use crate::api::{NetworkChange, NetworkCreate};
use crate::channel::NodeFacts;
use crate::model::{Block, Change, EndpointId, Node, Object, Transport};

pub(super) fn apply(map: &mut ClusterMap, changes: Vec<Change>) {
    for change in changes {
        map.apply(map.revision + 1, change);
    }
}

pub(super) fn node_id(number: usize) -> NodeId {
    NodeId(format!("{number:032x}"))
}

fn facts(underlay: &str) -> NodeFacts {
    NodeFacts {
        underlay: underlay.parse().unwrap(),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "test".to_owned(),
    }
}

/// Three nodes: n0, n1, n2.
pub(super) fn cluster() -> ClusterMap {
    let mut map = ClusterMap::default();
    for number in 0..3 {
        let (name, at) = (
            format!("n{number}"),
            facts(&format!("192.0.2.{}", number + 1)),
        );
        let changes = node::join(&map, &node_id(number), (&name, &at)).unwrap();
        apply(&mut map, changes);
    }
    map
}

pub(super) fn wish(name: &str, subnets: &[&str]) -> NetworkCreate {
    let subnets = subnets
        .iter()
        .map(|subnet| subnet.parse().unwrap())
        .collect();
    NetworkCreate {
        name: name.to_owned(),
        subnets,
        ..NetworkCreate::default()
    }
}

fn create(map: &mut ClusterMap, wish: &NetworkCreate) -> Decision<Network> {
    let changes = network::create(map, wish, NetworkId(format!("id-{}", wish.name)))?;
    apply(map, changes);
    Ok(map.network_named(&wish.name).unwrap().clone())
}

fn refused(map: &ClusterMap, wish: &NetworkCreate) -> Refusal {
    network::create(map, wish, NetworkId("new".to_owned())).unwrap_err()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn endpoint(network: &Network, node: usize, (name, ips): (&str, &[IpAddr])) -> Endpoint {
    Endpoint {
        id: EndpointId(format!("{node}-{name}")),
        network: network.id.clone(),
        node: node_id(node),
        name: name.to_owned(),
        aliases: Vec::new(),
        mac: MacAddr([
            2,
            0,
            0,
            u8::try_from(node).unwrap(),
            name.as_bytes()[0],
            u8::try_from(name.len()).unwrap(),
        ]),
        ips: ips.to_vec(),
        epoch: 1,
    }
}
