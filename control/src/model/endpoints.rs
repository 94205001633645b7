//! The endpoints of a map, with ways to them that don't look at all of them: a cluster has tens of thousands, and most
//! questions are about one name, one address or one node.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_wire::MacAddr;

use super::{Endpoint, EndpointId, NetworkId, NodeId, Versioned};

/// Endpoints by id, and by what they are asked for. Reads as the map by id; changed only here, so that the rest follows.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    by_id: BTreeMap<EndpointId, Versioned<Endpoint>>,
    networks: BTreeMap<NetworkId, OfNetwork>,
    nodes: BTreeMap<NodeId, BTreeSet<EndpointId>>,
}

/// Those of one network. A map that isn't the controller's may have two of one name for a moment.
#[derive(Clone, Debug, Default)]
struct OfNetwork {
    ids: BTreeSet<EndpointId>,
    names: BTreeMap<String, BTreeSet<EndpointId>>,
    macs: BTreeMap<MacAddr, BTreeSet<EndpointId>>,
    ips: BTreeMap<IpAddr, BTreeSet<EndpointId>>,
    nodes: BTreeMap<NodeId, BTreeSet<EndpointId>>,
}

impl Endpoints {
    /// Takes an endpoint in, or replaces the one of its id.
    pub fn insert(&mut self, endpoint: Versioned<Endpoint>) {
        let id = endpoint.object.id.clone();
        self.remove(&id);
        let object = &endpoint.object;
        let network = self.networks.entry(object.network.clone()).or_default();
        network.ids.insert(id.clone());
        let names = network.names.entry(object.name.clone()).or_default();
        names.insert(id.clone());
        network
            .macs
            .entry(object.mac)
            .or_default()
            .insert(id.clone());
        for ip in &object.ips {
            network.ips.entry(*ip).or_default().insert(id.clone());
        }
        let node = network.nodes.entry(object.node.clone()).or_default();
        node.insert(id.clone());
        let node = self.nodes.entry(object.node.clone()).or_default();
        node.insert(id.clone());
        self.by_id.insert(id, endpoint);
    }

    /// Takes an endpoint out.
    pub fn remove(&mut self, id: &EndpointId) -> Option<Versioned<Endpoint>> {
        let endpoint = self.by_id.remove(id)?;
        let object = &endpoint.object;
        if let Some(network) = self.networks.get_mut(&object.network) {
            network.ids.remove(id);
            take_out(&mut network.names, &object.name, id);
            take_out(&mut network.macs, &object.mac, id);
            take_out(&mut network.nodes, &object.node, id);
            for ip in &object.ips {
                take_out(&mut network.ips, ip, id);
            }
            if network.ids.is_empty() {
                self.networks.remove(&object.network);
            }
        }
        take_out(&mut self.nodes, &object.node, id);
        Some(endpoint)
    }

    /// Those of a network, in order of their ids.
    pub fn of_network(&self, network: &NetworkId) -> impl Iterator<Item = &Endpoint> {
        let ids = self.networks.get(network).map(|network| &network.ids);
        self.objects(ids)
    }

    /// How many a network has.
    pub fn count_of_network(&self, network: &NetworkId) -> usize {
        let network = self.networks.get(network);
        network.map_or(0, |network| network.ids.len())
    }

    /// Those of a node, in order of their ids.
    pub fn of_node(&self, node: &NodeId) -> impl Iterator<Item = &Endpoint> {
        self.objects(self.nodes.get(node))
    }

    /// Whether a node has one on a network.
    pub fn has_node(&self, network: &NetworkId, node: &NodeId) -> bool {
        let network = self.networks.get(network);
        network.is_some_and(|network| network.nodes.contains_key(node))
    }

    /// The nodes that have one on a network.
    pub fn nodes_of_network(&self, network: &NetworkId) -> impl Iterator<Item = &NodeId> {
        let network = self.networks.get(network).into_iter();
        network.flat_map(|network| network.nodes.keys())
    }

    /// The nodes that have any.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.nodes.keys()
    }

    /// Those of that name on a network; aliases don't count.
    pub fn named(&self, network: &NetworkId, name: &str) -> impl Iterator<Item = &Endpoint> {
        let network = self.networks.get(network);
        self.objects(network.and_then(|network| network.names.get(name)))
    }

    /// Those with that MAC on a network.
    pub fn with_mac(&self, network: &NetworkId, mac: MacAddr) -> impl Iterator<Item = &Endpoint> {
        let network = self.networks.get(network);
        self.objects(network.and_then(|network| network.macs.get(&mac)))
    }

    /// Those with that address on a network.
    pub fn with_ip(&self, network: &NetworkId, ip: IpAddr) -> impl Iterator<Item = &Endpoint> {
        let network = self.networks.get(network);
        self.objects(network.and_then(|network| network.ips.get(&ip)))
    }

    /// All of them, in order of their ids.
    pub fn into_values(self) -> btree_map::IntoValues<EndpointId, Versioned<Endpoint>> {
        self.by_id.into_values()
    }

    fn objects(&self, ids: Option<&BTreeSet<EndpointId>>) -> impl Iterator<Item = &Endpoint> {
        let ids = ids.into_iter().flatten();
        ids.filter_map(|id| self.by_id.get(id).map(|endpoint| &endpoint.object))
    }
}

fn take_out<K: Ord>(of: &mut BTreeMap<K, BTreeSet<EndpointId>>, key: &K, id: &EndpointId) {
    if let Some(ids) = of.get_mut(key) {
        ids.remove(id);
        if ids.is_empty() {
            of.remove(key);
        }
    }
}

impl Deref for Endpoints {
    type Target = BTreeMap<EndpointId, Versioned<Endpoint>>;

    fn deref(&self) -> &Self::Target {
        &self.by_id
    }
}

/// What they are asked for by follows from them.
impl PartialEq for Endpoints {
    fn eq(&self, other: &Self) -> bool {
        self.by_id == other.by_id
    }
}

impl Eq for Endpoints {}

impl FromIterator<Versioned<Endpoint>> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Versioned<Endpoint>>>(endpoints: I) -> Self {
        let mut all = Self::default();
        for endpoint in endpoints {
            all.insert(endpoint);
        }
        all
    }
}

impl Serialize for Endpoints {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.by_id.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Endpoints {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let by_id = BTreeMap::<EndpointId, Versioned<Endpoint>>::deserialize(from)?;
        Ok(by_id.into_values().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn endpoint()(id in 0_u8..6, network in 0_u8..2, node in 0_u8..2, name in 0_u8..3, mac in 0_u8..3,
            ips in prop::collection::btree_set(0_u8..4, 0..3)) -> Endpoint {
            Endpoint {
                id: EndpointId(id.to_string()),
                network: NetworkId(network.to_string()),
                node: NodeId(node.to_string()),
                name: name.to_string(),
                aliases: Vec::new(),
                mac: MacAddr([2, 0, 0, 0, 0, mac]),
                ips: ips.into_iter().map(|ip| IpAddr::from([10, 0, 0, ip])).collect(),
                epoch: 0,
            }
        }
    }

    fn ids<'a>(found: impl Iterator<Item = &'a Endpoint>) -> Vec<&'a EndpointId> {
        found.map(|endpoint| &endpoint.id).collect()
    }

    proptest! {
        /// Every way finds what looking at all of them finds.
        #[test]
        fn every_way_leads_to_the_same(steps in prop::collection::vec((any::<bool>(), endpoint()), 0..40)) {
            let mut endpoints = Endpoints::default();
            for (put, object) in steps {
                if put {
                    endpoints.insert(Versioned { revision: 1, object });
                } else {
                    endpoints.remove(&object.id);
                }
            }
            let look = |fits: &dyn Fn(&Endpoint) -> bool| {
                ids(endpoints.values().map(|endpoint| &endpoint.object).filter(|endpoint| fits(endpoint)))
            };
            for number in 0..6_u8 {
                let (network, node) = (NetworkId((number % 2).to_string()), NodeId(number.to_string()));
                let (name, mac) = (number.to_string(), MacAddr([2, 0, 0, 0, 0, number]));
                let ip = IpAddr::from([10, 0, 0, number]);
                let of = |endpoint: &Endpoint| endpoint.network == network;
                prop_assert_eq!(ids(endpoints.of_network(&network)), look(&of));
                prop_assert_eq!(endpoints.count_of_network(&network), look(&of).len());
                prop_assert_eq!(ids(endpoints.of_node(&node)), look(&|one| one.node == node));
                let nodes: BTreeSet<NodeId> = endpoints.nodes_of_network(&network).cloned().collect();
                prop_assert_eq!(nodes, endpoints.of_network(&network).map(|one| one.node.clone()).collect());
                prop_assert_eq!(endpoints.has_node(&network, &node), !look(&|one| of(one) && one.node == node).is_empty());
                prop_assert_eq!(ids(endpoints.named(&network, &name)), look(&|one| of(one) && one.name == name));
                prop_assert_eq!(ids(endpoints.with_mac(&network, mac)), look(&|one| of(one) && one.mac == mac));
                prop_assert_eq!(ids(endpoints.with_ip(&network, ip)), look(&|one| of(one) && one.ips.contains(&ip)));
            }
            let again: Endpoints = endpoints.clone().into_values().collect();
            prop_assert_eq!(&again, &endpoints);
            for id in again.keys() {
                endpoints.remove(id);
            }
            prop_assert!(endpoints.networks.is_empty() && endpoints.nodes.is_empty());
        }
    }
}
