//! What an agent reads of the map without following it: what operators ask for of networks and nodes that their host has
//! nothing to do with. In parts, each as the map is at that moment.

use super::Core;
use super::audience::put;
use crate::channel::{Reply, codec};
use crate::model::{Change, ClusterMap, EndpointId, NetworkId, NodeId, Object, Versioned};

/// What one part takes; a single object may make it longer.
const PART_BYTES: usize = codec::MAX_MESSAGE_BYTES / 4;

/// A part that is being filled.
#[derive(Default)]
struct Part {
    objects: Vec<Versioned<Object>>,
    bytes: usize,
}

impl Part {
    fn is_full(&self) -> bool {
        self.bytes > PART_BYTES
    }

    fn add<T: Clone>(&mut self, of: &Versioned<T>, kind: fn(T) -> Object) {
        let (revision, change) = put(of, kind);
        if let Change::Put(object) = change {
            let object = Versioned { revision, object };
            self.bytes += codec::encoded_len(&object);
            self.objects.push(object);
        }
    }
}

impl Core {
    /// A part of what is on a network.
    pub(super) fn read_network(&self, network: &NetworkId, after: Option<&EndpointId>) -> Reply {
        self.ledger.read(|map| read_network(map, network, after))
    }

    /// A part of the nodes.
    pub(super) fn read_nodes(&self, after: Option<&NodeId>) -> Reply {
        let mut reply = self.ledger.read(|map| read_nodes(map, after));
        reply.connected = self.sessions.connected();
        reply.connected.extend(self.fellows.connected());
        let told = |node: &NodeId| reply.counts.contains_key(&node.0);
        reply.connected.retain(told);
        reply
    }

    /// The number of endpoints of each network.
    pub(super) fn count_endpoints(&self) -> Reply {
        self.ledger.read(|map| {
            let networks = map.networks.keys();
            let counts =
                networks.map(|id| (id.0.clone(), map.endpoints.count_of_network(id) as u64));
            Reply {
                revision: map.revision,
                counts: counts.collect(),
                ..Reply::default()
            }
        })
    }
}

fn read_network(map: &ClusterMap, network: &NetworkId, after: Option<&EndpointId>) -> Reply {
    let mut part = Part::default();
    let mut nodes = std::collections::BTreeSet::new();
    if after.is_none() {
        for block in map.blocks.of_network(network) {
            nodes.insert(&block.object.node);
            part.add(block, Object::Block);
        }
    }
    let mut more = false;
    let endpoints = map.endpoints.of_network(network);
    for endpoint in endpoints.filter(|endpoint| after.is_none_or(|after| endpoint.id > *after)) {
        more = part.is_full();
        if more {
            break;
        }
        nodes.insert(&endpoint.node);
        if let Some(endpoint) = map.endpoints.get(&endpoint.id) {
            part.add(endpoint, Object::Endpoint);
        }
    }
    for node in nodes.into_iter().filter_map(|node| map.nodes.get(node)) {
        part.add(node, Object::Node);
    }
    Reply {
        revision: map.revision,
        objects: part.objects,
        more,
        ..Reply::default()
    }
}

fn read_nodes(map: &ClusterMap, after: Option<&NodeId>) -> Reply {
    use std::ops::Bound;
    let mut part = Part::default();
    let mut reply = Reply {
        revision: map.revision,
        ..Reply::default()
    };
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    for (id, node) in map.nodes.range((from, Bound::Unbounded)) {
        reply.more = part.is_full();
        if reply.more {
            break;
        }
        let endpoints = map.endpoints.of_node(id).count() as u64;
        reply.counts.insert(id.0.clone(), endpoints);
        part.add(node, Object::Node);
    }
    reply.objects = part.objects;
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Block;

    fn map(endpoints: usize) -> ClusterMap {
        let mut map = ClusterMap::default();
        let network = NetworkId("net".to_owned());
        for number in 0..endpoints {
            let node = NodeId(format!("node-{}", number % 7));
            let endpoint = crate::model::Endpoint {
                id: EndpointId(format!("{number:08}")),
                network: network.clone(),
                node: node.clone(),
                name: "x".repeat(60),
                aliases: vec!["y".repeat(60); 64],
                mac: weft_wire::MacAddr::ZERO,
                ips: Vec::new(),
                epoch: 1,
            };
            map.apply(map.revision + 1, Change::Put(Object::Endpoint(endpoint)));
            let prefix = format!("10.0.{}.0/24", number % 7).parse().unwrap();
            let network = network.clone();
            let block = Block {
                network,
                prefix,
                node,
            };
            map.apply(map.revision + 1, Change::Put(Object::Block(block)));
        }
        map
    }

    #[test]
    fn a_network_is_read_in_parts_and_whole() {
        let network = NetworkId("net".to_owned());
        for count in [0, 1, 900] {
            let map = map(count);
            let (mut read, mut after, mut parts) = (ClusterMap::default(), None, 0);
            loop {
                let reply = read_network(&map, &network, after.as_ref());
                codec::encode(&reply).unwrap();
                for object in reply.objects {
                    read.apply(object.revision, Change::Put(object.object));
                }
                parts += 1;
                if !reply.more {
                    break;
                }
                after = read.endpoints.keys().next_back().cloned();
            }
            assert_eq!(read.endpoints, map.endpoints);
            assert_eq!(read.blocks, map.blocks);
            assert_eq!(parts > 1, count > 500, "{parts}");
        }
    }
}
