//! The map of all objects, and how it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    Block, Blocks, Credentials, Endpoint, EndpointId, Endpoints, Network, NetworkId, Node, NodeId,
    Revision, Router, RouterId, Session,
};

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A node.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// A subnet block.
    Block(NetworkId, IpNet),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A router.
    Router(RouterId),
    /// A node's credentials.
    Credentials(NodeId),
    /// A node's session.
    Session(NodeId),
}

/// Any object of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A node.
    Node(Node),
    /// A network.
    Network(Network),
    /// A subnet block.
    Block(Block),
    /// An endpoint.
    Endpoint(Endpoint),
    /// A router.
    Router(Router),
    /// A node's credentials.
    Credentials(NodeId, Credentials),
    /// A node's session.
    Session(NodeId, Session),
}

impl Object {
    /// What names it.
    pub fn key(&self) -> Key {
        match self {
            Self::Node(node) => Key::Node(node.id.clone()),
            Self::Network(network) => Key::Network(network.id.clone()),
            Self::Block(block) => Key::Block(block.network.clone(), block.prefix),
            Self::Endpoint(endpoint) => Key::Endpoint(endpoint.id.clone()),
            Self::Router(router) => Key::Router(router.id.clone()),
            Self::Credentials(node, _) => Key::Credentials(node.clone()),
            Self::Session(node, _) => Key::Session(node.clone()),
        }
    }
}

/// One step from a revision to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The object is new or replaces the one of the same key.
    Put(Object),
    /// The object is gone.
    Delete(Key),
}

/// An object with the revision that last changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The revision of the change.
    pub revision: Revision,
    /// The object.
    pub object: T,
}

/// All that a cluster knows at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The newest change in it.
    pub revision: Revision,
    /// By id.
    pub nodes: BTreeMap<NodeId, Versioned<Node>>,
    /// By id.
    pub networks: BTreeMap<NetworkId, Versioned<Network>>,
    /// By network and prefix.
    pub blocks: Blocks,
    /// By id.
    pub endpoints: Endpoints,
    /// By id.
    #[serde(default)]
    pub routers: BTreeMap<RouterId, Versioned<Router>>,
    /// By node; controllers only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<NodeId, Versioned<Credentials>>,
    /// By node; controllers only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<NodeId, Versioned<Session>>,
}

impl ClusterMap {
    /// Carries out one change. Changes of an older revision than the map's are the caller's mistake; they're applied.
    pub fn apply(&mut self, revision: Revision, change: Change) {
        self.revision = self.revision.max(revision);
        match change {
            Change::Put(Object::Node(object)) => {
                self.nodes
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Put(Object::Network(object)) => {
                self.networks
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Put(Object::Block(object)) => {
                self.blocks.insert(Versioned { revision, object });
            }
            Change::Put(Object::Endpoint(object)) => {
                self.endpoints.insert(Versioned { revision, object });
            }
            Change::Put(Object::Credentials(node, object)) => {
                self.credentials
                    .insert(node, Versioned { revision, object });
            }
            Change::Delete(Key::Credentials(node)) => {
                self.credentials.remove(&node);
            }
            Change::Put(Object::Session(node, object)) => {
                self.sessions.insert(node, Versioned { revision, object });
            }
            Change::Delete(Key::Session(node)) => {
                self.sessions.remove(&node);
            }
            Change::Put(Object::Router(object)) => {
                self.routers
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Delete(Key::Node(id)) => {
                self.nodes.remove(&id);
            }
            Change::Delete(Key::Network(id)) => {
                self.networks.remove(&id);
            }
            Change::Delete(Key::Block(network, prefix)) => {
                self.blocks.remove(&(network, prefix));
            }
            Change::Delete(Key::Endpoint(id)) => {
                self.endpoints.remove(&id);
            }
            Change::Delete(Key::Router(id)) => {
                self.routers.remove(&id);
            }
        }
    }

    /// All objects: nodes and networks before what is on them.
    pub fn into_objects(self) -> impl Iterator<Item = Versioned<Object>> {
        fn each<K, T>(
            of: BTreeMap<K, Versioned<T>>,
            kind: fn(T) -> Object,
        ) -> impl Iterator<Item = Versioned<Object>> {
            of.into_values().map(move |of| Versioned {
                revision: of.revision,
                object: kind(of.object),
            })
        }
        let Self {
            revision: _,
            nodes,
            networks,
            blocks,
            endpoints,
            routers,
            credentials,
            sessions,
        } = self;
        let blocks = blocks.into_values().map(|of| Versioned {
            revision: of.revision,
            object: Object::Block(of.object),
        });
        let endpoints = endpoints.into_values().map(|of| Versioned {
            revision: of.revision,
            object: Object::Endpoint(of.object),
        });
        let credentials = credentials.into_iter().map(|(node, of)| Versioned {
            revision: of.revision,
            object: Object::Credentials(node, of.object),
        });
        let sessions = sessions.into_iter().map(|(node, of)| Versioned {
            revision: of.revision,
            object: Object::Session(node, of.object),
        });
        each(nodes, Object::Node)
            .chain(each(networks, Object::Network))
            .chain(blocks)
            .chain(endpoints)
            .chain(each(routers, Object::Router))
            .chain(credentials)
            .chain(sessions)
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes
            .values()
            .map(|node| &node.object)
            .find(|node| node.name == name)
    }

    /// The network of that name.
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.networks
            .values()
            .map(|network| &network.object)
            .find(|network| network.name == name)
    }

    /// The network of that id.
    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(|network| &network.object)
    }

    /// Blocks of one network, in order of prefix.
    pub fn blocks_of<'a>(&'a self, network: &'a NetworkId) -> impl Iterator<Item = &'a Block> {
        self.blocks.of_network(network).map(|block| &block.object)
    }

    /// Endpoints of one network.
    pub fn endpoints_of<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.of_network(network)
    }

    /// The most specific block that contains `ip`: it says whose the address is.
    pub fn block_of(&self, network: &NetworkId, ip: IpAddr) -> Option<&Block> {
        let single = IpNet::from(ip);
        let mut key = (network.clone(), single);
        for len in (0..=single.max_prefix_len()).rev() {
            key.1 = IpNet::new(ip, len).ok()?.trunc();
            if let Some(block) = self.blocks.get(&key) {
                return Some(&block.object);
            }
        }
        None
    }

    /// The map with nothing but these networks and what is on them, and these endpoints.
    pub fn part(&self, networks: &BTreeSet<&NetworkId>, endpoints: &[Endpoint]) -> Self {
        let of = networks.iter();
        let blocks = of
            .clone()
            .flat_map(|network| self.blocks.of_network(network));
        let on_them = of
            .clone()
            .flat_map(|network| self.endpoints.of_network(network));
        let ids = on_them.chain(endpoints).map(|endpoint| &endpoint.id);
        Self {
            revision: self.revision,
            nodes: self.nodes.clone(),
            networks: of
                .filter_map(|id| Some(((*id).clone(), self.networks.get(id)?.clone())))
                .collect(),
            blocks: blocks.cloned().collect(),
            endpoints: ids
                .filter_map(|id| self.endpoints.get(id).cloned())
                .collect(),
            ..Self::default()
        }
    }
}
