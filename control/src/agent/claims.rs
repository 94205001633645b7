//! Addresses that were claimed for one endpoint each. They go back with it, so from the moment on when the controller may
//! have heard that it is gone they aren't this node's to give, until the map says whose they are.
//!
//! Where there is one controller only, one that doesn't answer is taken for dead before it heard: containers can be connected
//! anew under their claimed addresses while it is away, and nobody else can get these meanwhile, unless just its last answer
//! was lost.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Inner;
use super::ipam::Returning;
use crate::model::{Endpoint, EndpointId, NetworkId, NodeId};

impl Inner {
    /// Gives nothing from the addresses claimed for these endpoints from now on. Returns what could be given before.
    pub(super) fn stop_claims<'a>(
        &mut self,
        node: &NodeId,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> Returning {
        if self.channel.addresses.len() < 2 {
            return Returning::new();
        }
        let keys = endpoints.into_iter().flat_map(|endpoint| {
            let ips = endpoint.ips.iter();
            ips.map(|ip| (endpoint.network.clone(), IpNet::from(*ip)))
        });
        let ours = keys.filter(|key| {
            let claim = self.map.blocks.get(key);
            claim.is_some_and(|claim| claim.object.node == *node)
        });
        let claims: Returning = ours.filter(|key| !self.returning.contains(key)).collect();
        self.returning.extend(claims.iter().cloned());
        claims
    }

    /// The same for endpoints that the map still has of this node and that the next full report leaves out.
    pub(super) fn stop_claims_of_gone(&mut self, node: &NodeId) -> Returning {
        let known: BTreeSet<&EndpointId> = self.own_endpoints().map(|own| &own.id).collect();
        let used = self.own_endpoints().flat_map(|own| {
            let ips = own.ips.iter();
            ips.map(|ip| (own.network.clone(), *ip))
        });
        let used: BTreeSet<(NetworkId, IpAddr)> = used.collect();
        let mut gone: Vec<Endpoint> = self
            .map
            .endpoints
            .of_node(node)
            .filter(|endpoint| !known.contains(&endpoint.id))
            .cloned()
            .collect();
        for endpoint in &mut gone {
            // Connected anew with the same address while no controller answered.
            let network = &endpoint.network;
            endpoint
                .ips
                .retain(|ip| !used.contains(&(network.clone(), *ip)));
        }
        self.stop_claims(node, &gone)
    }

    /// The controller didn't hear of it.
    pub(super) fn resume_claims(&mut self, claims: &Returning) {
        self.returning.retain(|key| !claims.contains(key));
    }

    /// An address of the endpoint that others may get before they hear of it: one that was claimed for it, when the map
    /// doesn't know yet that this node uses it, or one that isn't in a block of this node (any more).
    pub(super) fn unknown_claim(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        let network = &endpoint.network;
        let mut ips = endpoint.ips.iter().copied();
        ips.find(|ip| {
            let block = self.map.block_of(network, *ip);
            let ours = block.filter(|block| block.node == endpoint.node);
            let mut users = self.map.endpoints.with_ip(network, *ip);
            ours.is_none_or(|block| {
                block.prefix == IpNet::from(*ip) && !users.any(|user| user.node == endpoint.node)
            })
        })
    }

    /// Whether the map has other endpoints of this node than there are, but for those that the controller refused.
    pub(super) fn differs(&self, node: &NodeId) -> bool {
        let in_map = self.map.endpoints.of_node(node);
        let in_map: BTreeSet<_> = in_map
            .map(|endpoint| (&endpoint.id, endpoint.epoch))
            .collect();
        let ports = self.ports.values().filter(|port| port.trouble.is_none());
        let ports = ports.map(|port| &port.record.endpoint);
        let pending = self.pending.values();
        let pending = pending.filter(|pending| pending.complete && pending.refused.is_none());
        let here = ports.chain(pending.map(|pending| &pending.endpoint));
        let here: BTreeSet<_> = here
            .map(|endpoint| (&endpoint.id, endpoint.epoch))
            .collect();
        in_map != here
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::state::SavedMap;
    use crate::model::{Block, Change, NetworkId, Object, next_epoch};
    use weft_wire::MacAddr;

    pub(in crate::agent) fn node(name: &str) -> NodeId {
        NodeId(name.to_owned())
    }

    pub(in crate::agent) fn endpoint(id: &str, ip: &str) -> Endpoint {
        Endpoint {
            id: EndpointId(id.to_owned()),
            network: NetworkId("n".to_owned()),
            node: node("us"),
            name: id.to_owned(),
            aliases: Vec::new(),
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: vec![ip.parse().unwrap()],
            epoch: next_epoch(&node("us"), 0, 0),
        }
    }

    /// A block of ours, an address in another's that we claimed, and one that they did; and these endpoints.
    pub(in crate::agent) fn inner(endpoints: &[Endpoint]) -> Inner {
        let block = |prefix: &str, owner: &str| {
            Object::Block(Block {
                network: NetworkId("n".to_owned()),
                prefix: prefix.parse().unwrap(),
                node: node(owner),
            })
        };
        let blocks = [
            block("10.0.0.0/26", "us"),
            block("10.0.0.70/32", "us"),
            block("10.0.0.7/32", "them"),
        ];
        let endpoints = endpoints.iter().cloned().map(Object::Endpoint);
        let mut saved = SavedMap::default();
        for object in blocks.into_iter().chain(endpoints) {
            let revision = saved.map.revision + 1;
            saved.map.apply(revision, Change::Put(object));
        }
        let controllers = (1..=2).map(|host| ([192, 0, 2, host], 6783).into());
        Inner::starting(
            saved,
            &node("us"),
            (&[], BTreeSet::new()),
            controllers.collect(),
        )
    }

    #[test]
    fn nothing_is_given_from_a_claim_whose_endpoint_may_be_gone() {
        let (claimed, own) = (endpoint("a", "10.0.0.70"), endpoint("b", "10.0.0.5"));
        let mut inner = inner(&[claimed.clone(), own.clone()]);
        let key = (NetworkId("n".to_owned()), "10.0.0.70/32".parse().unwrap());
        // Only the claim: the block stays ours without endpoints.
        let claims = inner.stop_claims(&node("us"), [&claimed, &own]);
        assert_eq!(claims, Returning::from([key.clone()]));
        assert_eq!(inner.returning, claims);
        assert!(inner.stop_claims(&node("us"), [&claimed]).is_empty());
        inner.resume_claims(&claims);
        assert!(inner.returning.is_empty());
        // A full report leaves both out: there are no ports.
        assert!(inner.differs(&node("us")));
        assert_eq!(inner.stop_claims_of_gone(&node("us")), claims);
        // The only controller is taken for dead before it heard.
        inner.returning.clear();
        inner.channel.addresses.truncate(1);
        assert!(inner.stop_claims(&node("us"), [&claimed]).is_empty());
        inner.channel.addresses.push(([192, 0, 2, 2], 6783).into());
        // One that is connected anew with the address keeps it.
        inner.returning.clear();
        let anew = endpoint("c", "10.0.0.70");
        inner.leaving.insert(anew.id.clone(), anew);
        assert!(inner.stop_claims_of_gone(&node("us")).is_empty());
    }

    #[test]
    fn a_claim_is_unknown_until_the_map_has_its_user() {
        let claimed = endpoint("a", "10.0.0.70");
        let without = inner(&[]);
        assert_eq!(without.unknown_claim(&claimed), Some(claimed.ips[0]));
        assert_eq!(without.unknown_claim(&endpoint("b", "10.0.0.5")), None);
        // Given up meanwhile, or another's.
        let not_ours = endpoint("c", "10.0.0.7");
        assert_eq!(without.unknown_claim(&not_ours), Some(not_ours.ips[0]));
        let with = inner(&[endpoint("before", "10.0.0.70")]);
        assert_eq!(with.unknown_claim(&claimed), None);
    }
}
