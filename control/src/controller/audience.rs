//! Whom a change concerns. An agent hears of all networks and routers; of blocks, endpoints and nodes it hears as far as they
//! are on the networks that it has: so what a change costs goes by the hosts that have its network, not by the size of the
//! cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::decide::Decision;
use crate::channel::{Interest, Refusal};
use crate::model::{
    Block, Change, ClusterMap, Endpoint, Key, NetworkId, NodeId, Object, Revision, Versioned,
};

/// Whom a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Every agent.
    All,
    /// Some.
    Some(Concerned),
    /// No agent.
    Controllers,
}

/// The agents that have one of these networks, and those of these nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Concerned {
    pub(super) networks: BTreeSet<NetworkId>,
    pub(super) nodes: BTreeSet<NodeId>,
    /// A node that they may not have heard of.
    pub(super) brings: Option<NodeId>,
}

impl Scope {
    /// Whom a change concerns that comes to `before`; without that (it was before this controller began), whoever it may
    /// concern.
    pub(super) fn of(change: &Change, before: Option<&ClusterMap>) -> Self {
        match change {
            Change::Put(Object::Block(block)) => {
                let key = (block.network.clone(), block.prefix);
                let known = before.and_then(|map| map.blocks.get(&key));
                let known = known.map(|known| &known.object.node);
                Self::Some(Concerned {
                    networks: [block.network.clone()].into(),
                    nodes: known.into_iter().chain([&block.node]).cloned().collect(),
                    brings: Some(block.node.clone()),
                })
            }
            Change::Put(Object::Endpoint(endpoint)) => {
                let known = before.and_then(|map| map.endpoints.get(&endpoint.id));
                let known = known.map(|known| &known.object);
                let all = || known.into_iter().chain([endpoint]);
                let has =
                    |map: &ClusterMap| map.endpoints.has_node(&endpoint.network, &endpoint.node);
                Self::Some(Concerned {
                    networks: all().map(|one| one.network.clone()).collect(),
                    nodes: all().map(|one| one.node.clone()).collect(),
                    brings: (!before.is_some_and(has)).then(|| endpoint.node.clone()),
                })
            }
            Change::Put(Object::Node(node)) => Self::of_node(&node.id, before),
            Change::Delete(Key::Node(node)) => Self::of_node(node, before),
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
            Change::Put(Object::Network(_) | Object::Router(_))
            | Change::Delete(Key::Network(_) | Key::Router(_)) => Self::All,
        }
    }

    fn of_node(node: &NodeId, map: Option<&ClusterMap>) -> Self {
        map.map_or(Self::All, |map| {
            Self::Some(Concerned {
                networks: map.networks_with(node),
                nodes: [node.clone()].into(),
                brings: None,
            })
        })
    }

    fn of_block(block: &Block) -> Self {
        Self::gone(&block.network, &block.node)
    }

    fn of_endpoint(endpoint: &Endpoint) -> Self {
        Self::gone(&endpoint.network, &endpoint.node)
    }

    fn gone(network: &NetworkId, node: &NodeId) -> Self {
        Self::Some(Concerned {
            networks: [network.clone()].into(),
            nodes: [node.clone()].into(),
            brings: None,
        })
    }
}

/// A host has ports, and there are fewer of these. Each name that a member says costs every controller memory.
const MAX_NETWORKS: usize = 16_384;
/// More than the name of a network's id has.
const MAX_ID_LEN: usize = 64;

/// Refuses names of networks that no honest agent says. They needn't be known here: another controller may have made them.
///
/// # Errors
/// `bad_request`.
pub(super) fn check(networks: Option<&BTreeSet<NetworkId>>) -> Decision<()> {
    let Some(networks) = networks else {
        return Ok(());
    };
    if networks.len() > MAX_NETWORKS {
        let message = format!(
            "an agent hears of {MAX_NETWORKS} networks at most, or of all; it wants to hear of {}",
            networks.len()
        );
        return Err(Refusal::new("bad_request", message).hint("use a released weft on it"));
    }
    if networks.iter().any(|id| id.0.len() > MAX_ID_LEN) {
        let message = format!("an id of a network has at most {MAX_ID_LEN} bytes");
        return Err(Refusal::new("bad_request", message).hint("use a released weft on it"));
    }
    Ok(())
}

/// One agent: who it is, and of which networks it hears.
#[derive(Clone, Debug)]
pub(super) struct Audience {
    pub(super) node: NodeId,
    /// All when `None`.
    pub(super) networks: Option<Arc<BTreeSet<NetworkId>>>,
}

impl Audience {
    /// The agent of `node`, which says what it wants to hear of: that, and what routers lead to.
    pub(super) fn wanting(node: &NodeId, interest: Option<&Interest>, map: &ClusterMap) -> Self {
        let networks = interest.map(|interest| Arc::new(map.with_routed(&interest.networks)));
        Self {
            node: node.clone(),
            networks,
        }
    }

    /// What of a map this agent has to have.
    pub(super) fn excerpt(&self, map: &ClusterMap) -> ClusterMap {
        match &self.networks {
            Some(networks) => map.excerpt(&self.node, networks),
            None => {
                let mut all = map.clone();
                all.credentials.clear();
                all.sessions.clear();
                all
            }
        }
    }

    /// Networks of which it hears, and of which one with that earlier audience didn't.
    pub(super) fn added(&self, before: &Self) -> BTreeSet<NetworkId> {
        match (&before.networks, &self.networks) {
            (Some(had), Some(has)) => has.difference(had).cloned().collect(),
            (None, _) | (_, None) => BTreeSet::new(),
        }
    }
}

/// Blocks and endpoints of these networks.
pub(super) fn of_networks(
    map: &ClusterMap,
    networks: &BTreeSet<NetworkId>,
) -> Vec<(Revision, Change)> {
    let mut objects = Vec::new();
    for network in networks {
        let blocks = map.blocks.of_network(network);
        objects.extend(blocks.map(|of| put(of, Object::Block)));
        let endpoints = map.endpoints.of_network(network);
        let endpoints = endpoints.filter_map(|endpoint| map.endpoints.get(&endpoint.id));
        objects.extend(endpoints.map(|of| put(of, Object::Endpoint)));
    }
    objects
}

/// An object as the change that made it what it is.
pub(super) fn put<T: Clone>(of: &Versioned<T>, kind: fn(T) -> Object) -> (Revision, Change) {
    (of.revision, Change::Put(kind(of.object.clone())))
}
