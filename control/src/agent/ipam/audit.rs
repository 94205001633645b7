//! Whether the books agree: what the cluster says this node's endpoints have, what its ports have, and what its blocks
//! allow. Pure. Addresses belong to live namespaces; whatever else holds one is found here, and says how it is mended.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Returning;
use crate::api;
use crate::model::{Block, ClusterMap, Endpoint, EndpointId, NetworkId, NodeId};

/// A port of this host.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct OwnPort<'a> {
    /// Its endpoint.
    pub(in crate::agent) endpoint: &'a Endpoint,
    /// Its namespace is there.
    pub(in crate::agent) alive: bool,
    /// Why the controller doesn't take it.
    pub(in crate::agent) refused: Option<&'a str>,
}

/// What is compared.
#[derive(Debug)]
pub(in crate::agent) struct Books<'a> {
    /// What the cluster knows.
    pub(in crate::agent) map: &'a ClusterMap,
    /// This node.
    pub(in crate::agent) node: &'a NodeId,
    /// Its ports.
    pub(in crate::agent) ports: Vec<OwnPort<'a>>,
    /// Endpoints that are just being connected or disconnected.
    pub(in crate::agent) under_way: Vec<&'a Endpoint>,
    /// Blocks that are just being given back.
    pub(in crate::agent) returning: &'a Returning,
    /// Who is connected to the controller; `None` when it doesn't answer, and the map may be late about everything.
    pub(in crate::agent) connected: Option<&'a BTreeSet<NodeId>>,
}

/// How a finding is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Cure {
    /// By an operator.
    Hand,
    /// The controller is told of all our endpoints again.
    Tell,
    /// The port is taken down.
    TakeDown(EndpointId),
    /// The block is given back.
    GiveBack(NetworkId, IpNet),
}

/// What was found, and its cure.
pub(in crate::agent) type Found = (api::Finding, Cure);

/// What a finding is: its code, and whether something is wrong.
struct Kind(&'static str, bool);

const GIVEN_TWICE: Kind = Kind("given_twice", true);
const FOREIGN_ADDRESS: Kind = Kind("foreign_address", true);
const UNREPORTED: Kind = Kind("unreported", true);
const LEFTOVER: Kind = Kind("leftover", true);
const DEAD_NAMESPACE: Kind = Kind("dead_namespace", true);
const UNUSED_CLAIM: Kind = Kind("unused_claim", false);
const IDLE_BLOCK: Kind = Kind("idle_block", false);
const ABSENT_NODE: Kind = Kind("absent_node", false);

/// Compares the books.
pub(in crate::agent) fn audit(books: &Books<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    books.given_twice(&mut found);
    books.ports(&mut found);
    books.leftovers(&mut found);
    books.blocks(&mut found);
    books.absent_nodes(&mut found);
    found
}

impl Books<'_> {
    fn network_name(&self, id: &NetworkId) -> String {
        let network = self.map.network(id);
        network.map_or_else(|| id.to_string(), |network| network.name.clone())
    }

    fn node_name(&self, id: &NodeId) -> String {
        let node = self.map.nodes.get(id);
        node.map_or_else(|| id.to_string(), |node| node.object.name.clone())
    }

    fn finding(
        &self,
        Kind(kind, fault): Kind,
        (network, what): (&NetworkId, String),
        message: String,
        cure: Cure,
    ) -> Found {
        let finding = api::Finding {
            kind: kind.to_owned(),
            network: self.network_name(network),
            what,
            message,
            fault,
            fixable: cure != Cure::Hand,
            fixed: false,
        };
        (finding, cure)
    }

    /// Everybody by the best knowledge: others by the map, our own by the ports.
    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let others = self.map.endpoints.values().map(|known| &known.object);
        let others = others.filter(move |endpoint| endpoint.node != *self.node);
        others.chain(self.ports.iter().map(|port| port.endpoint))
    }

    fn given_twice(&self, found: &mut Vec<Found>) {
        let mut holders: BTreeMap<(&NetworkId, IpAddr), Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in self.endpoints() {
            for ip in &endpoint.ips {
                holders
                    .entry((&endpoint.network, *ip))
                    .or_default()
                    .push(endpoint);
            }
        }
        for ((network, ip), holders) in holders {
            if holders.len() < 2 {
                continue;
            }
            let names: Vec<String> = holders
                .iter()
                .map(|holder| format!("{} (node {})", holder.name, self.node_name(&holder.node)))
                .collect();
            let message = format!("held by {}: disconnect all but one", names.join(" and "));
            found.push(self.finding(GIVEN_TWICE, (network, ip.to_string()), message, Cure::Hand));
        }
    }

    fn ports(&self, found: &mut Vec<Found>) {
        for port in &self.ports {
            let OwnPort {
                endpoint,
                alive,
                refused,
            } = *port;
            let (id, name) = (&endpoint.network, &endpoint.name);
            let addresses = || list(&endpoint.ips);
            if !alive {
                let message = format!("port {name} holds it, and its namespace is gone");
                let cure = Cure::TakeDown(endpoint.id.clone());
                found.push(self.finding(DEAD_NAMESPACE, (id, addresses()), message, cure));
                continue;
            }
            for ip in &endpoint.ips {
                let owner = self.map.block_of(id, *ip).map(|block| &block.node);
                if owner != Some(self.node) && self.connected.is_some() {
                    let owner = owner.map_or_else(
                        || "in nobody's block".to_owned(),
                        |owner| format!("in a block of node {}", self.node_name(owner)),
                    );
                    let message = format!("port {name} holds it, and it is {owner}");
                    let what = (id, ip.to_string());
                    found.push(self.finding(FOREIGN_ADDRESS, what, message, Cure::Tell));
                }
            }
            let known = self.map.endpoints.get(&endpoint.id);
            let is_known = known.is_some_and(|known| known.object.ips == endpoint.ips);
            if !is_known && self.connected.is_some() {
                let why = refused.unwrap_or("it wasn't told");
                let message = format!("port {name} holds it, and the cluster doesn't know: {why}");
                found.push(self.finding(UNREPORTED, (id, addresses()), message, Cure::Tell));
            }
        }
    }

    fn leftovers(&self, found: &mut Vec<Found>) {
        let ours: BTreeSet<&EndpointId> = self
            .ports
            .iter()
            .map(|port| &port.endpoint.id)
            .chain(self.under_way.iter().map(|endpoint| &endpoint.id))
            .collect();
        for known in self.map.endpoints.values().map(|known| &known.object) {
            if known.node == *self.node && !ours.contains(&known.id) {
                let message = format!(
                    "the cluster says that {} of this node holds it, and there is no such port",
                    known.name
                );
                let what = (&known.network, list(&known.ips));
                found.push(self.finding(LEFTOVER, what, message, Cure::Tell));
            }
        }
    }

    fn blocks(&self, found: &mut Vec<Found>) {
        let ours = self.map.blocks.values().map(|block| &block.object);
        for block in ours.filter(|block| block.node == *self.node) {
            let key = (block.network.clone(), block.prefix);
            if self.is_used(block) || self.returning.contains(&key) {
                continue;
            }
            let what = (&block.network, block.prefix.to_string());
            let cure = Cure::GiveBack(block.network.clone(), block.prefix);
            let is_single = block.prefix.prefix_len() == block.prefix.max_prefix_len();
            found.push(if is_single {
                let message =
                    "this node claimed it, and no port holds it: it is soon given back".to_owned();
                self.finding(UNUSED_CLAIM, what, message, cure)
            } else {
                let message = "no port of this node has an address of it".to_owned();
                self.finding(IDLE_BLOCK, what, message, cure)
            });
        }
    }

    fn is_used(&self, block: &Block) -> bool {
        let ports = self.ports.iter().map(|port| port.endpoint);
        let mut all = ports.chain(self.under_way.iter().copied());
        all.any(|endpoint| {
            endpoint.network == block.network
                && endpoint.ips.iter().any(|ip| {
                    let owner = self.map.block_of(&block.network, *ip);
                    block.prefix.contains(ip) && owner == Some(block)
                })
        })
    }

    fn absent_nodes(&self, found: &mut Vec<Found>) {
        let Some(connected) = self.connected else {
            return;
        };
        let mut held: BTreeMap<(&NetworkId, &NodeId), usize> = BTreeMap::new();
        for endpoint in self.endpoints() {
            if endpoint.node != *self.node && !connected.contains(&endpoint.node) {
                *held.entry((&endpoint.network, &endpoint.node)).or_default() += endpoint.ips.len();
            }
        }
        for ((network, node), count) in held {
            let node = self.node_name(node);
            let message = format!(
                "held by node {node}, which isn't connected: `weft nodes rm {node}` if it doesn't come back"
            );
            let what = format!("{count} addresses");
            found.push(self.finding(ABSENT_NODE, (network, what), message, Cure::Hand));
        }
    }
}

fn list(ips: &[IpAddr]) -> String {
    let ips: Vec<String> = ips.iter().map(IpAddr::to_string).collect();
    match ips.as_slice() {
        [] => "no address".to_owned(),
        ips => ips.join(", "),
    }
}

#[cfg(test)]
mod tests;
