//! Whom a change concerns. An agent hears of all nodes and networks, and of the blocks and endpoints of the networks that it
//! has: so what a change costs goes by the hosts that have its network, not by the size of the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{
    Block, Change, ClusterMap, Endpoint, Key, NetworkId, NodeId, Object, Versioned,
};

/// Whom a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every agent.
    All,
    /// Those that have the network, and the node whose it is.
    Network(NetworkId, NodeId),
    /// No agent.
    Controllers,
}

impl Scope {
    /// As far as the change itself tells. What is deleted isn't in it: `before` has it still, if there is one.
    pub(super) fn of(change: &Change, before: Option<&ClusterMap>) -> Self {
        match change {
            Change::Put(Object::Block(block)) => Self::of_block(block),
            Change::Put(Object::Endpoint(endpoint)) => Self::of_endpoint(endpoint),
            Change::Put(Object::Credentials(..) | Object::Session(..))
            | Change::Delete(Key::Credentials(_) | Key::Session(_)) => Self::Controllers,
            Change::Delete(Key::Block(network, prefix)) => {
                let key = (network.clone(), *prefix);
                let block = before.and_then(|map| map.blocks.get(&key));
                block.map_or(Self::All, |block| Self::of_block(&block.object))
            }
            Change::Delete(Key::Endpoint(id)) => {
                let endpoint = before.and_then(|map| map.endpoints.get(id));
                endpoint.map_or(Self::All, |endpoint| Self::of_endpoint(&endpoint.object))
            }
            Change::Put(_) | Change::Delete(_) => Self::All,
        }
    }

    fn of_block(block: &Block) -> Self {
        Self::Network(block.network.clone(), block.node.clone())
    }

    fn of_endpoint(endpoint: &Endpoint) -> Self {
        Self::Network(endpoint.network.clone(), endpoint.node.clone())
    }
}

/// One agent: who it is, and of which networks it hears.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    pub(super) node: NodeId,
    /// All when `None`.
    pub(super) interest: Option<Arc<BTreeSet<NetworkId>>>,
}

impl Audience {
    pub(super) fn hears(&self, scope: &Scope) -> bool {
        match (scope, &self.interest) {
            (Scope::Controllers, _) => false,
            (Scope::All, _) | (Scope::Network(..), None) => true,
            (Scope::Network(network, node), Some(interest)) => {
                *node == self.node || interest.contains(network)
            }
        }
    }

    /// Networks that are new in another interest.
    pub(super) fn added(&self, wanted: &Self) -> BTreeSet<NetworkId> {
        match (&self.interest, &wanted.interest) {
            (Some(has), Some(wanted)) => wanted.difference(has).cloned().collect(),
            (None, _) | (_, None) => BTreeSet::new(),
        }
    }

    /// What of a map this agent has to have.
    pub(super) fn excerpt(&self, map: &ClusterMap) -> ClusterMap {
        let Some(interest) = &self.interest else {
            let mut all = map.clone();
            all.credentials.clear();
            all.sessions.clear();
            return all;
        };
        let mut excerpt = map.frame();
        let own = map.endpoints.of_node(&self.node);
        let watched = interest.iter();
        let watched = watched.flat_map(|network| map.endpoints.of_network(network));
        for endpoint in own.chain(watched) {
            if let Some(endpoint) = map.endpoints.get(&endpoint.id) {
                excerpt.endpoints.insert(endpoint.clone());
            }
        }
        let blocks = map.blocks.iter();
        let heard = blocks.filter(|(_, block)| self.hears(&Scope::of_block(&block.object)));
        excerpt.blocks = heard
            .map(|(key, block)| (key.clone(), block.clone()))
            .collect();
        excerpt
    }
}

/// Blocks and endpoints of these networks.
pub(super) fn of_networks(
    map: &ClusterMap,
    networks: &BTreeSet<NetworkId>,
) -> Vec<Versioned<Object>> {
    let mut objects = Vec::new();
    for network in networks {
        for block in map.blocks_of(network) {
            if let Some(block) = map.blocks.get(&(network.clone(), block.prefix)) {
                objects.push(Versioned {
                    revision: block.revision,
                    object: Object::Block(block.object.clone()),
                });
            }
        }
        for endpoint in map.endpoints.of_network(network) {
            if let Some(endpoint) = map.endpoints.get(&endpoint.id) {
                objects.push(Versioned {
                    revision: endpoint.revision,
                    object: Object::Endpoint(endpoint.object.clone()),
                });
            }
        }
    }
    objects
}
