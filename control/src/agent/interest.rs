//! Of which networks this host hears: those that something here uses, and those that were used a moment ago.
//!
//! A network counts as used from before its first port is made until after its last one is gone. What is on it is asked for
//! by a numbered wish; it is here when the controller says that this wish, or a later one, is fulfilled. Then the map is
//! complete for it until a wish without it is fulfilled, and every change comes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::requests::ARRIVAL_PATIENCE;
use super::{Agent, ApiError, Inner};
use crate::api;
use crate::channel;
use crate::model::{Change, Coverage, Key, Network, NetworkId, NodeId, Revision};

/// How long a network is kept that nothing uses any more: containers come and go.
const LINGER: Duration = Duration::from_secs(30);
/// How often it is looked whether one can be let go.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is asked for, and what is there.
#[derive(Debug)]
pub(super) struct Interest {
    /// What is just being done on a network that has no port yet.
    pins: BTreeMap<NetworkId, usize>,
    /// Since when nothing uses it.
    idle: BTreeMap<NetworkId, Instant>,
    /// What is asked for, with the number of the wish that began it.
    wanted: BTreeMap<NetworkId, u64>,
    /// Number of the newest wish.
    wish: u64,
    /// Number of the newest one that is fulfilled.
    granted: Option<u64>,
    /// What the map is complete for.
    coverage: Coverage,
}

impl Interest {
    /// Of an agent that starts, with a map that is complete for `has`, and uses these networks.
    pub(super) fn starting(has: Option<BTreeSet<NetworkId>>, used: BTreeSet<NetworkId>) -> Self {
        let wanted: BTreeMap<_, _> = used.into_iter().map(|network| (network, 0)).collect();
        // What the last agent was told is as good as if this one had been told.
        let complete = |has: &BTreeSet<NetworkId>| wanted.keys().all(|id| has.contains(id));
        let granted = has.as_ref().is_none_or(complete).then_some(0);
        Self {
            pins: BTreeMap::new(),
            idle: BTreeMap::new(),
            wanted,
            wish: 0,
            granted,
            coverage: Coverage::of(has),
        }
    }

    /// What is asked for.
    pub(super) fn wanted(&self) -> BTreeSet<NetworkId> {
        self.wanted.keys().cloned().collect()
    }

    /// The networks for which the map is complete; all when `None`.
    pub(super) fn has(&self) -> Option<&BTreeSet<NetworkId>> {
        self.coverage.has()
    }

    /// Whether the map is complete for a network.
    pub(super) fn is_complete(&self, network: &NetworkId) -> bool {
        self.has().is_none_or(|has| has.contains(network))
    }

    /// The map is another one, complete for these networks.
    pub(super) fn replaced(&mut self, has: Option<BTreeSet<NetworkId>>) {
        self.coverage = Coverage::of(has);
    }

    /// Number of the newest wish that is fulfilled.
    pub(super) fn granted(&self) -> Option<u64> {
        // Who hears of everything doesn't wait for anything.
        self.has().map_or(Some(u64::MAX), |_| self.granted)
    }

    /// What is to be asked for now, if that is something else than before. Nothing is let go that couldn't be had again.
    fn refresh(
        &mut self,
        mut used: BTreeSet<NetworkId>,
        (now, connected): (Instant, bool),
    ) -> Option<channel::Interest> {
        used.extend(self.pins.keys().cloned());
        self.idle.retain(|network, _| !used.contains(network));
        for network in self
            .wanted
            .keys()
            .filter(|network| !used.contains(*network))
        {
            self.idle.entry(network.clone()).or_insert(now);
        }
        if connected {
            self.idle
                .retain(|_, since| now.duration_since(*since) < LINGER);
        }
        let next = self.wish + 1;
        let before = self.wanted.len();
        let idle = &self.idle;
        self.wanted
            .retain(|network, _| used.contains(network) || idle.contains_key(network));
        let mut changed = self.wanted.len() != before;
        for network in used {
            self.wanted.entry(network).or_insert_with(|| {
                changed = true;
                next
            });
        }
        if !changed {
            return None;
        }
        self.wish = next;
        Some(channel::Interest {
            networks: self.wanted(),
            wish: next,
        })
    }
}

/// Something is about to be done on a network: it is heard of until this goes.
pub(super) struct Pin {
    agent: Arc<Agent>,
    network: NetworkId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut inner = self.agent.inner();
        let pins = &mut inner.interest.pins;
        if let Some(count) = pins.get_mut(&self.network) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.network);
            }
        }
        drop(inner);
        self.agent.changed.notify_one();
    }
}

impl Inner {
    /// The networks that something here uses.
    fn used_networks(&self) -> BTreeSet<NetworkId> {
        let endpoints = self.own_endpoints().map(|endpoint| &endpoint.network);
        let uplinks = self.uplinks.iter().map(|uplink| &uplink.network);
        let all = endpoints.chain(uplinks).chain(&self.docker_networks);
        all.cloned().collect()
    }

    /// What of the cluster this host has.
    pub(super) fn heard(&self) -> api::Heard {
        let networks = self.interest.has().map(|has| {
            let known = has.iter().filter_map(|id| self.map.network(id));
            let mut names: Vec<String> = known.map(|network| network.name.clone()).collect();
            names.sort();
            names
        });
        api::Heard {
            networks,
            nodes: self.map.nodes.len(),
            endpoints: self.map.endpoints.len(),
        }
    }

    /// What is on these networks, and only that, is told from now on, and all of it was told.
    pub(super) fn take_watched(
        &mut self,
        node: &NodeId,
        networks: Option<BTreeSet<NetworkId>>,
        wish: u64,
    ) {
        let Self { map, interest, .. } = self;
        interest.coverage.watched((map, node), networks);
        interest.granted = interest.granted.max(Some(wish));
    }

    /// A session begins: nothing is kept of a round that the last one was cut off in.
    pub(super) fn resume(&mut self, node: &NodeId) {
        let Self { map, interest, .. } = self;
        interest.coverage.resumed((map, node));
    }

    /// Carries out changes; the map is as of `up_to` then, or still as of before while the round goes on.
    pub(super) fn take_changes(
        &mut self,
        node: &NodeId,
        changes: Vec<(Revision, Change)>,
        up_to: Revision,
    ) {
        for (_, change) in &changes {
            if let Change::Delete(Key::Block(network, prefix)) = change {
                // It may be ours again with the next change; but until this one is on disk, an agent that starts there must
                // know that it gave the block back.
                let key = (network.clone(), *prefix);
                if self.returning.remove(&key) {
                    self.returned.insert(key, up_to);
                }
            }
        }
        let Self { map, interest, .. } = self;
        interest.coverage.changed((map, node), changes, up_to);
    }
}

impl Agent {
    /// Asks the controller for what is used now.
    pub(super) fn refresh_interest(&self, inner: &mut Inner) {
        let used = inner.used_networks();
        let connected = inner.channel.connected.is_some();
        let wish = inner.interest.refresh(used, (Instant::now(), connected));
        if let Some(wish) = wish {
            self.link.watch(wish);
        }
    }

    /// Has this host hear of a network: when it returns the map is complete for it and the fabric follows, and both stay so
    /// until the pin goes, or something that was made meanwhile.
    ///
    /// # Errors
    /// [`ApiError`]: no controller tells.
    pub(super) async fn hear_of(self: &Arc<Self>, network: &Network) -> Result<Pin, ApiError> {
        let (id, name) = (network.id.clone(), &network.name);
        let (wish, connected) = {
            let mut inner = self.inner();
            *inner.interest.pins.entry(id.clone()).or_default() += 1;
            self.refresh_interest(&mut inner);
            let wish = inner.interest.wanted.get(&id).copied();
            (wish.unwrap_or_default(), inner.channel.connected.is_some())
        };
        let pin = Pin {
            agent: Arc::clone(self),
            network: id,
        };
        let mut applied = self.applied.subscribe();
        let granted = |granted: Option<u64>| granted.is_some_and(|granted| granted >= wish);
        if granted(applied.borrow().granted) {
            return Ok(pin);
        }
        if !connected {
            let message = format!(
                "this host has nothing on network {name} yet, and no controller answers to tell it what is there"
            );
            return Err(ApiError::unavailable("offline", message)
                .hint("see `weft status`; networks that this host has keep working"));
        }
        let arrived = applied.wait_for(|applied| granted(applied.granted));
        match tokio::time::timeout(ARRIVAL_PATIENCE, arrived).await {
            Ok(_) => Ok(pin),
            Err(_) => Err(ApiError::unavailable(
                "lagging",
                format!("the controller hasn't told this host yet what is on network {name}"),
            )
            .hint("see `weft status`, then try again")),
        }
    }
}

/// Lets go of networks that nothing uses any more, until the agent stops.
pub(super) async fn follow(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        agent.refresh_interest(&mut agent.inner());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::state::SavedMap;
    use crate::model::{Block, Object};

    fn ids(names: &[&str]) -> BTreeSet<NetworkId> {
        names
            .iter()
            .map(|name| NetworkId((*name).to_owned()))
            .collect()
    }

    fn grant(interest: &mut Interest, names: &[&str], wish: u64) {
        interest.coverage = Coverage::of(Some(ids(names)));
        interest.granted = Some(wish);
    }

    #[test]
    fn a_block_that_was_given_back_is_remembered_until_the_map_without_it_is_on_disk() {
        let (us, network) = (NodeId("us".into()), NetworkId("a".into()));
        let block = Block {
            network: network.clone(),
            prefix: "10.0.0.0/28".parse().unwrap(),
            node: us.clone(),
        };
        let key = (network, block.prefix);
        let mut saved = SavedMap::default();
        saved.map.apply(6, Change::Put(Object::Block(block)));
        let mut inner = Inner::starting(saved, &us, (&[], BTreeSet::new()), Vec::new());
        inner.returning.insert(key.clone());
        let gone = Change::Delete(Key::Block(key.0.clone(), key.1));
        inner.take_changes(&us, vec![(7, gone)], 7);
        inner.note_returned(&us);
        assert!(inner.returning.is_empty(), "by the map it isn't ours");
        // What would be found after a crash: a map of revision 6, by which it still is.
        assert!(inner.to_save().returning.contains(&key));
        inner.forget_returned(6);
        assert!(inner.to_save().returning.contains(&key));
        inner.forget_returned(7);
        assert!(inner.to_save().returning.is_empty());
    }

    #[test]
    fn what_nothing_uses_any_more_is_kept_for_a_while_and_let_go_only_while_it_could_be_had_again()
    {
        let start = Instant::now();
        let at = |secs, connected| (start + Duration::from_secs(secs), connected);
        let mut interest = Interest::starting(Some(BTreeSet::new()), ids(&["a"]));
        assert_eq!(interest.granted(), None);
        assert!(interest.refresh(ids(&["a"]), at(0, true)).is_none());
        let wish = interest.refresh(ids(&["a", "b"]), at(1, true)).unwrap();
        assert_eq!((wish.networks, wish.wish), (ids(&["a", "b"]), 1));
        // Only one of them has to be waited for.
        assert_eq!(interest.wanted[&NetworkId("a".into())], 0);
        grant(&mut interest, &["a", "b"], 1);
        assert_eq!(interest.granted(), Some(1));
        assert!(interest.refresh(ids(&["a"]), at(2, true)).is_none());
        assert!(interest.refresh(ids(&["a"]), at(31, true)).is_none());
        assert!(interest.refresh(ids(&["a"]), at(40, false)).is_none());
        let wish = interest.refresh(ids(&["a"]), at(41, true)).unwrap();
        assert_eq!((wish.networks, wish.wish), (ids(&["a"]), 2));
        // Before that is fulfilled it is wanted again: an older answer isn't the one to wait for.
        let wish = interest.refresh(ids(&["a", "b"]), at(42, true)).unwrap();
        assert_eq!(wish.wish, 3);
        assert_eq!(interest.wanted[&NetworkId("b".into())], 3);
        grant(&mut interest, &["a"], 2);
        assert!(!interest.is_complete(&NetworkId("b".into())));
    }

    #[test]
    fn a_new_agent_goes_by_what_the_last_one_was_told() {
        let interest = Interest::starting(Some(ids(&["a", "b"])), ids(&["a"]));
        assert_eq!(
            (interest.granted(), interest.wanted()),
            (Some(0), ids(&["a"]))
        );
        let interest = Interest::starting(Some(ids(&["b"])), ids(&["a"]));
        assert_eq!((interest.granted(), interest.wanted()), (None, ids(&["a"])));
        // An older agent's map has everything.
        let interest = Interest::starting(None, ids(&["a"]));
        assert_eq!(
            (interest.granted(), interest.wanted()),
            (Some(u64::MAX), ids(&["a"]))
        );
    }
}
