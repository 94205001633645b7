//! What of a map concerns one node: the part that its agent has.
//!
//! Networks and routers are in every part: they are few, operators change them, and every host has to know names and which
//! addresses are the overlay's. Endpoints and blocks are there of the networks that the agent hears of, and the node's own;
//! nodes are there that have one of these.

use std::collections::BTreeSet;

use super::{Change, ClusterMap, NetworkId, NodeId, Object, Revision};

/// For which networks a node's copy of the map is complete. What it has to be is `whole.excerpt(node, has)`; it is so
/// whenever its revision has grown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// All when `None`.
    has: Option<BTreeSet<NetworkId>>,
    /// Something came or went by which the copy may have more than it has to.
    untidy: bool,
}

impl Coverage {
    /// Of a copy that is complete for these networks; for all when `None`.
    pub fn of(has: Option<BTreeSet<NetworkId>>) -> Self {
        Self { has, untidy: false }
    }

    /// The networks; all when `None`.
    pub fn has(&self) -> Option<&BTreeSet<NetworkId>> {
        self.has.as_ref()
    }

    /// A session begins or a copy is taken up again: of a round that was cut off nothing is kept of networks that it would
    /// have completed. They are told whole once more, without what is gone meanwhile.
    pub fn resumed(&self, (map, node): (&mut ClusterMap, &NodeId)) {
        if let Some(has) = &self.has {
            map.trim(node, has);
        }
    }

    /// From now on it is complete for these: what is on others is forgotten.
    pub fn watched(
        &mut self,
        (map, node): (&mut ClusterMap, &NodeId),
        networks: Option<BTreeSet<NetworkId>>,
    ) {
        self.has = networks;
        if let Some(has) = &self.has {
            map.trim(node, has);
        }
    }

    /// Carries out changes; the copy is as of `up_to` then, or still as of before while the round goes on.
    pub fn changed(
        &mut self,
        (map, node): (&mut ClusterMap, &NodeId),
        changes: Vec<(Revision, Change)>,
        up_to: Revision,
    ) {
        let before = map.revision;
        for (revision, change) in changes {
            // A node may have lost the last that it had here.
            let harmless = matches!(
                &change,
                Change::Put(Object::Network(_) | Object::Router(_) | Object::Node(_))
            );
            self.untidy |= !harmless;
            map.apply(revision, change);
        }
        map.revision = before.max(up_to);
        if up_to > before
            && std::mem::take(&mut self.untidy)
            && let Some(has) = &self.has
        {
            map.trim(node, has);
        }
    }
}

impl ClusterMap {
    /// These networks, and all that share a router with one of them: a gateway sends to their endpoints.
    pub fn with_routed(&self, networks: &BTreeSet<NetworkId>) -> BTreeSet<NetworkId> {
        let mut all = networks.clone();
        for router in self.routers.values().map(|router| &router.object) {
            if !router.networks.is_disjoint(networks) {
                all.extend(router.networks.iter().cloned());
            }
        }
        all
    }

    /// The networks on which a node has an endpoint or a block.
    pub fn networks_with(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        let endpoints = self.endpoints.of_node(node);
        let blocks = self.blocks.of_node(node);
        let networks = endpoints.map(|endpoint| &endpoint.network);
        let networks = networks.chain(blocks.map(|block| &block.object.network));
        networks.cloned().collect()
    }

    /// The part of a whole map that the agent of `node` has when it hears of `networks`.
    #[must_use]
    pub fn excerpt(&self, node: &NodeId, networks: &BTreeSet<NetworkId>) -> Self {
        let mut excerpt = Self {
            revision: self.revision,
            networks: self.networks.clone(),
            routers: self.routers.clone(),
            ..Self::default()
        };
        let watched = networks.iter();
        let watched = watched.flat_map(|network| self.endpoints.of_network(network));
        for endpoint in self.endpoints.of_node(node).chain(watched) {
            if let Some(endpoint) = self.endpoints.get(&endpoint.id) {
                excerpt.endpoints.insert(endpoint.clone());
            }
        }
        let watched = networks.iter();
        let watched = watched.flat_map(|network| self.blocks.of_network(network));
        for block in self.blocks.of_node(node).chain(watched) {
            excerpt.blocks.insert(block.clone());
        }
        for id in excerpt.present(node) {
            if let Some(known) = self.nodes.get(&id) {
                excerpt.nodes.insert(id, known.clone());
            }
        }
        excerpt
    }

    /// Forgets what isn't in the part that the agent of `node` has when it hears of `networks`.
    pub fn trim(&mut self, node: &NodeId, networks: &BTreeSet<NetworkId>) {
        let endpoints = self.endpoints.values().map(|endpoint| &endpoint.object);
        let strange = endpoints
            .filter(|endpoint| endpoint.node != *node && !networks.contains(&endpoint.network));
        let strange: Vec<_> = strange.map(|endpoint| endpoint.id.clone()).collect();
        for id in strange {
            self.endpoints.remove(&id);
        }
        let blocks = self.blocks.iter();
        let strange = blocks.filter(|((network, _), block)| {
            block.object.node != *node && !networks.contains(network)
        });
        let strange: Vec<_> = strange.map(|(key, _)| key.clone()).collect();
        for key in strange {
            self.blocks.remove(&key);
        }
        let present = self.present(node);
        self.nodes.retain(|id, _| present.contains(id));
        self.credentials.clear();
    }

    /// The nodes that have an endpoint or a block in this map, and `node` itself.
    fn present(&self, node: &NodeId) -> BTreeSet<NodeId> {
        let endpoints = self.endpoints.nodes();
        let nodes = endpoints.chain(self.blocks.nodes()).chain([node]);
        nodes.cloned().collect()
    }
}
