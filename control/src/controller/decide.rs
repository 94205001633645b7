//! What a controller does about a request: pure functions from the map and the request to changes or a refusal.
//!
//! Nothing here knows the store, the network or the clock, so that every rule is tested without them. The rules:
//!
//! - names of nodes and networks, VNIs and underlay addresses are unique in the cluster; subnets don't overlap;
//! - an endpoint's name, MAC and addresses are unique in its network;
//! - an address is given out by the node that has the most specific block with it; blocks of different nodes don't
//!   overlap, except that a block of one address may lie inside a larger one;
//! - a network is on one router at most, and networks of one router don't overlap;
//! - a node writes only its own blocks and endpoints; any node may write networks and routers and remove nodes.
//!
//! Codes of refusals are stable: `unknown_*` and `not_*` name what isn't there, `bad_*` what can't be, the others say
//! what is in the way.

#![deny(clippy::disallowed_methods)]

pub mod block;
pub mod endpoint;
pub mod network;
pub mod node;
pub mod router;
pub mod subnet;

use std::net::IpAddr;

use ipnet::IpNet;

use crate::channel::Refusal;
use crate::model::{ClusterMap, Endpoint, Network, NetworkId, NodeId};

/// What a decision comes to.
pub type Decision<T> = Result<T, Refusal>;

/// At most this many objects are named in a refusal.
const NAMED: usize = 3;

fn find_network<'a>(map: &'a ClusterMap, name: &str) -> Decision<&'a Network> {
    map.network_named(name).ok_or_else(|| {
        Refusal::new("unknown_network", format!("network {name:?} is not known"))
            .hint("see `weft network ls`")
    })
}

fn find_network_by_id<'a>(map: &'a ClusterMap, id: &NetworkId) -> Decision<&'a Network> {
    map.network(id).ok_or_else(|| {
        Refusal::new(
            "unknown_network",
            format!("network {id} is not there any more"),
        )
        .hint("see `weft network ls`")
    })
}

/// A node's name, or its id when it has gone.
pub(super) fn node_name(map: &ClusterMap, node: &NodeId) -> String {
    map.nodes
        .get(node)
        .map_or_else(|| node.to_string(), |node| node.object.name.clone())
}

/// `endpoint NAME on node NODE`.
fn describe(map: &ClusterMap, endpoint: &Endpoint) -> String {
    format!(
        "endpoint {} on node {}",
        endpoint.name,
        node_name(map, &endpoint.node)
    )
}

/// Up to three names and how many more there are.
pub(super) fn enumerate(names: &[String]) -> String {
    let shown = names
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len() {
        0..=NAMED => shown,
        more => format!("{shown} and {} more", more - NAMED),
    }
}

/// A block of one address.
fn single(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// Whether the block has one address only: such blocks may lie inside others.
fn is_single(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

#[cfg(test)]
mod tests;
