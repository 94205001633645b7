//! Addresses that were claimed for one endpoint each: blocks of one address, most of them inside another node's block.
//!
//! A claim is this node's until it gives it back, whoever dies and whatever isn't heard: the controller leaves it to the node
//! when its endpoint goes. So a container can be connected anew under its claimed address while no controller answers, and
//! nobody else can get that address meanwhile.
//!
//! To give it back is a step of its own, after the controller said that the endpoint is gone. From then on only the map says
//! whose the address is: nothing is given from it here before the map has shown that the claim is gone, also by the next
//! agent. What wasn't answered is asked again, and names the claim by its revision: one that comes late doesn't end a newer
//! claim of the same address.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{debug, warn};

use super::{Agent, Inner};
use crate::channel::{Request, RequestError};
use crate::model::{Endpoint, NetworkId, NodeId};

/// What names a block.
type BlockKey = (NetworkId, IpNet);

impl Inner {
    /// Gives nothing from the claims of an endpoint that goes, but from those for which there is another use here. Returns
    /// what is to be given back.
    fn stop_claims_of(&mut self, endpoint: &Endpoint) -> Vec<BlockKey> {
        let used = self.used_here(Some(endpoint));
        let ips = endpoint.ips.iter().copied();
        let free = ips.filter(|ip| !used.contains(&(endpoint.network.clone(), *ip)));
        let keys = free.map(|ip| (endpoint.network.clone(), IpNet::from(ip)));
        let ours = keys.filter(|key| {
            let claim = self.map.blocks.get(key);
            claim.is_some_and(|claim| claim.object.node == endpoint.node)
        });
        let claims: Vec<BlockKey> = ours.collect();
        self.returning.extend(claims.iter().cloned());
        claims
    }

    /// The same for claims that nothing uses: of an endpoint whose end was told by a full report, or of a connect that came
    /// to nothing. Those that were given back without an answer are among them. None while the map is old.
    fn stop_idle_claims(&mut self, node: &NodeId) -> Vec<BlockKey> {
        let channel = &self.channel;
        if channel.connected.is_none() || !channel.caught_up || !channel.told {
            return Vec::new();
        }
        let used = self.used_here(None);
        let choosing = self.pending.values().filter(|pending| !pending.complete);
        // A claim comes before an attach can say that it has it.
        let choosing: BTreeSet<_> = choosing.map(|pending| &pending.endpoint.network).collect();
        let idle = self.map.unused_claims(node).map(|claim| &claim.object);
        let idle = idle.filter(|claim| {
            let key = (claim.network.clone(), claim.prefix.addr());
            !used.contains(&key) && !choosing.contains(&claim.network)
        });
        let idle = idle.map(|claim| (claim.network.clone(), claim.prefix));
        let idle: Vec<BlockKey> = idle.collect();
        self.returning.extend(idle);
        let ours = |key: &&BlockKey| {
            let block = self.map.blocks.get(*key);
            block.is_some_and(|block| block.object.node == *node) && !self.is_given_from(key)
        };
        self.returning.iter().filter(ours).cloned().collect()
    }

    /// Addresses for which there is a use on this host, but for that endpoint's.
    fn used_here(&self, but: Option<&Endpoint>) -> BTreeSet<(NetworkId, IpAddr)> {
        let own = self
            .own_endpoints()
            .filter(|own| but.is_none_or(|but| but.id != own.id));
        let own = own.flat_map(|own| own.ips.iter().map(|ip| (own.network.clone(), *ip)));
        own.chain(self.held.iter().cloned()).collect()
    }

    /// The request that gives a block back, as the map has it.
    pub(super) fn giving_back(&self, (network, prefix): BlockKey) -> Request {
        let block = self.map.blocks.get(&(network.clone(), prefix));
        Request::ReturnBlock {
            network,
            prefix,
            revision: block.map(|block| block.revision),
        }
    }

    /// An address of the endpoint that isn't in a block of this node (any more).
    pub(super) fn foreign_address(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        let mut ips = endpoint.ips.iter().copied();
        ips.find(|ip| {
            let block = self.map.block_of(&endpoint.network, *ip);
            block.is_none_or(|block| block.node != endpoint.node)
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

impl Agent {
    /// Gives the claims of an endpoint back that the controller has deleted. Returns when our own map shows it, where that
    /// comes soon.
    pub(super) async fn return_claims_of(self: &Arc<Self>, endpoint: &Endpoint) {
        let claims = self.inner().stop_claims_of(endpoint);
        self.return_claims(claims).await;
    }

    /// Gives claims back that nothing uses.
    pub(super) async fn return_idle_claims(self: &Arc<Self>) {
        let claims = self.inner().stop_idle_claims(&self.facts.node);
        self.return_claims(claims).await;
    }

    async fn return_claims(self: &Arc<Self>, claims: Vec<BlockKey>) {
        if claims.is_empty() {
            return;
        }
        // What is given back must not be given again by the next agent.
        if let Err(error) = self.save_ports().await {
            warn!(error = %error.reply.message, "claimed addresses can't be given back: the next agent wouldn't know of it");
            return;
        }
        for claim in claims {
            let request = self.inner().giving_back(claim.clone());
            match self.link.request(request).await {
                Ok(reply) => {
                    debug!(network = %claim.0, prefix = %claim.1, "claim given back");
                    let _ = self.wait_revision(reply.revision).await;
                }
                Err(RequestError::Refused(refusal)) => {
                    debug!(network = %claim.0, prefix = %claim.1, %refusal, "a claim isn't taken back");
                }
                // It is asked again.
                Err(RequestError::Offline { .. } | RequestError::TimedOut) => return,
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::agent::Pending;
    use crate::agent::state::SavedMap;
    use crate::model::{Block, Change, EndpointId, Key, Object, next_epoch};
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

    fn claim() -> BlockKey {
        (NetworkId("n".to_owned()), "10.0.0.70/32".parse().unwrap())
    }

    #[test]
    fn a_claim_stays_ours_until_it_is_given_back_and_is_no_longer_given_from_then_on() {
        let (claimed, own) = (endpoint("a", "10.0.0.70"), endpoint("b", "10.0.0.5"));
        let mut inner = inner(&[claimed.clone(), own.clone()]);
        // The controller heard that its endpoint is gone, or didn't: it may be connected anew.
        assert_eq!(inner.foreign_address(&claimed), None);
        assert!(inner.differs(&node("us")) && inner.returning.is_empty());
        // Only the claim: the block stays ours without endpoints.
        inner.leaving.insert(claimed.id.clone(), claimed.clone());
        assert!(inner.stop_claims_of(&own).is_empty());
        assert_eq!(inner.stop_claims_of(&claimed), [claim()]);
        assert_eq!(inner.returning, [claim()].into());
        // Not one that is connected anew with the address, nor one that Docker keeps.
        inner.returning.clear();
        let anew = endpoint("c", "10.0.0.70");
        inner.leaving.insert(anew.id.clone(), anew.clone());
        assert!(inner.stop_claims_of(&claimed).is_empty());
        inner.leaving.remove(&anew.id);
        inner.held.insert((claim().0, claimed.ips[0]));
        assert!(inner.stop_claims_of(&claimed).is_empty());
    }

    #[test]
    fn what_gives_a_claim_back_names_the_claim_that_is_meant() {
        let inner = inner(&[]);
        let revision = inner.map.blocks[&claim()].revision;
        let (network, prefix) = claim();
        let meant = Request::ReturnBlock {
            network,
            prefix,
            revision: Some(revision),
        };
        assert_eq!(inner.giving_back(claim()), meant);
    }

    #[test]
    fn claims_that_nothing_uses_are_given_back_until_the_map_shows_it() {
        let us = node("us");
        let mut inner = inner(&[]);
        let up = |inner: &mut Inner| {
            inner.channel.connected = inner.channel.addresses.first().copied();
            inner.channel.caught_up = true;
            inner.channel.told = true;
        };
        assert!(inner.stop_idle_claims(&us).is_empty(), "nobody answers");
        up(&mut inner);
        inner.channel.told = false;
        assert!(inner.stop_idle_claims(&us).is_empty(), "not told yet");
        up(&mut inner);
        // An attach is just claiming it, has it.
        let new = endpoint("a", "10.0.0.70");
        let mut attach = Pending {
            endpoint: Endpoint {
                ips: Vec::new(),
                ..new.clone()
            },
            netns_id: (0, 0),
            attachment: None,
            complete: false,
            refused: None,
        };
        for ips in [Vec::new(), new.ips.clone()] {
            attach.complete = !ips.is_empty();
            attach.endpoint.ips = ips;
            let attach = Pending {
                endpoint: attach.endpoint.clone(),
                attachment: None,
                refused: None,
                ..attach
            };
            inner.pending.insert(new.id.clone(), attach);
            assert!(inner.stop_idle_claims(&us).is_empty());
        }
        inner.pending.clear();
        assert_eq!(inner.stop_idle_claims(&us), [claim()]);
        assert_eq!(inner.stop_idle_claims(&us), [claim()], "unanswered");
        // What the last agent wrote down may be old: it is ours again, and in use.
        inner.leaving.insert(new.id.clone(), new.clone());
        assert!(inner.stop_idle_claims(&us).is_empty());
        inner.leaving.clear();
        let (network, prefix) = claim();
        let block = inner.map.blocks[&claim()].object.clone();
        let gone = Change::Delete(Key::Block(network, prefix));
        let next = inner.map.revision + 1;
        inner.take_changes(&us, vec![(next, gone)], next);
        assert!(inner.stop_idle_claims(&us).is_empty() && inner.returning.is_empty());
        // The map on disk may still have it: the next agent must not give from it, but when it is ours again.
        assert_eq!(inner.to_save().returning, [claim()].into());
        let again = Change::Put(Object::Block(block));
        inner.take_changes(&us, vec![(next + 1, again)], next + 1);
        assert!(inner.to_save().returning.is_empty());
        inner.returned.insert(claim(), next);
        inner.forget_returned(next);
        assert!(inner.to_save().returning.is_empty(), "on disk");
    }

    #[test]
    fn an_address_of_no_block_of_ours_is_not_used_unheard() {
        let inner = inner(&[]);
        for (ip, foreign) in [
            ("10.0.0.70", false),
            ("10.0.0.5", false),
            ("10.0.0.7", true),
        ] {
            let endpoint = endpoint("a", ip);
            let found = inner.foreign_address(&endpoint);
            assert_eq!(found, foreign.then_some(endpoint.ips[0]), "{ip}");
        }
    }
}
