//! The subnet blocks of a map, with a way to those of one node that doesn't look at all of them.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::ops::Deref;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Block, NetworkId, NodeId, Versioned};

/// What names a block.
type BlockKey = (NetworkId, IpNet);

/// Blocks by network and prefix, and by node. Reads as the map by network and prefix; changed only here, so that the rest
/// follows.
#[derive(Clone, Debug, Default)]
pub struct Blocks {
    by_key: BTreeMap<BlockKey, Versioned<Block>>,
    nodes: BTreeMap<NodeId, BTreeSet<BlockKey>>,
}

impl Blocks {
    /// Takes a block in, or replaces the one of its network and prefix.
    pub fn insert(&mut self, block: Versioned<Block>) {
        let key = (block.object.network.clone(), block.object.prefix);
        self.remove(&key);
        let of_node = self.nodes.entry(block.object.node.clone()).or_default();
        of_node.insert(key.clone());
        self.by_key.insert(key, block);
    }

    /// Takes a block out.
    pub fn remove(&mut self, key: &BlockKey) -> Option<Versioned<Block>> {
        let block = self.by_key.remove(key)?;
        if let Some(of_node) = self.nodes.get_mut(&block.object.node) {
            of_node.remove(key);
            if of_node.is_empty() {
                self.nodes.remove(&block.object.node);
            }
        }
        Some(block)
    }

    /// Those of a node, in order of network and prefix.
    pub fn of_node(&self, node: &NodeId) -> impl Iterator<Item = &Versioned<Block>> {
        let keys = self.nodes.get(node).into_iter().flatten();
        keys.filter_map(|key| self.by_key.get(key))
    }

    /// Those of a network, in order of prefix.
    pub fn of_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Versioned<Block>> {
        // The first of all prefixes, as they are ordered.
        let first = IpNet::V4(Ipv4Net::default());
        self.by_key
            .range((network.clone(), first)..)
            .take_while(move |((of, _), _)| of == network)
            .map(|(_, block)| block)
    }

    /// The nodes that have any.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// All of them, in order of network and prefix.
    pub fn into_values(self) -> btree_map::IntoValues<BlockKey, Versioned<Block>> {
        self.by_key.into_values()
    }
}

impl Deref for Blocks {
    type Target = BTreeMap<BlockKey, Versioned<Block>>;

    fn deref(&self) -> &Self::Target {
        &self.by_key
    }
}

/// Whose they are follows from them.
impl PartialEq for Blocks {
    fn eq(&self, other: &Self) -> bool {
        self.by_key == other.by_key
    }
}

impl Eq for Blocks {}

impl FromIterator<Versioned<Block>> for Blocks {
    fn from_iter<I: IntoIterator<Item = Versioned<Block>>>(blocks: I) -> Self {
        let mut all = Self::default();
        for block in blocks {
            all.insert(block);
        }
        all
    }
}

impl Serialize for Blocks {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.by_key.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let by_key = BTreeMap::<BlockKey, Versioned<Block>>::deserialize(from)?;
        Ok(by_key.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Every way finds what looking at all of them finds.
        #[test]
        fn every_way_leads_to_the_same(steps in prop::collection::vec((any::<bool>(), 0_u8..2, 0_u8..4, 0_u8..3), 0..40)) {
            let mut blocks = Blocks::default();
            for (put, network, number, node) in steps {
                let network = NetworkId(network.to_string());
                let prefix = format!("10.0.{number}.0/24").parse().unwrap();
                if put {
                    let object = Block { network, prefix, node: NodeId(node.to_string()) };
                    blocks.insert(Versioned { revision: 1, object });
                } else {
                    blocks.remove(&(network, prefix));
                }
            }
            for number in 0..4_u8 {
                let (network, node) = (NetworkId(number.to_string()), NodeId(number.to_string()));
                let look = |fits: &dyn Fn(&Block) -> bool| -> Vec<&Versioned<Block>> {
                    blocks.values().filter(|block| fits(&block.object)).collect()
                };
                prop_assert_eq!(blocks.of_node(&node).collect::<Vec<_>>(), look(&|block| block.node == node));
                prop_assert_eq!(blocks.of_network(&network).collect::<Vec<_>>(), look(&|block| block.network == network));
            }
            let again: Blocks = blocks.clone().into_values().collect();
            prop_assert_eq!(&again, &blocks);
            for key in again.keys() {
                blocks.remove(key);
            }
            prop_assert!(blocks.nodes.is_empty());
        }
    }
}
