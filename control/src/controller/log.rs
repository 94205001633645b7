//! The newest changes of the map, found by whom they concern: an agent's share is looked up, not searched for among all of
//! them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;

use super::audience::{Audience, Concerned, Scope};
use crate::model::{Change, NetworkId, NodeId, Revision};
use crate::store::LOG_KEEP;

/// A change, and whom it concerns.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) revision: Revision,
    pub(super) change: Change,
    pub(super) scope: Scope,
}

/// The newest changes, without a gap.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Oldest first; their revisions follow each other.
    entries: VecDeque<Logged>,
    /// Revisions of those that concern everybody, in order.
    all: VecDeque<Revision>,
    /// Of those that concern the agents that have a network.
    networks: HashMap<NetworkId, VecDeque<Revision>>,
    /// Of those that concern a node's own agent.
    nodes: HashMap<NodeId, VecDeque<Revision>>,
}

impl Log {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The next change. The oldest go when there are more than the store keeps.
    pub(super) fn push(&mut self, logged: Logged) {
        let revision = logged.revision;
        match &logged.scope {
            Scope::All => self.all.push_back(revision),
            Scope::Some(Concerned {
                networks, nodes, ..
            }) => {
                for network in networks {
                    note(&mut self.networks, network, revision);
                }
                for node in nodes {
                    note(&mut self.nodes, node, revision);
                }
            }
            Scope::Controllers => {}
        }
        self.entries.push_back(logged);
        while self.len() > LOG_KEEP {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else {
            return;
        };
        match &oldest.scope {
            Scope::All => {
                self.all.pop_front();
            }
            Scope::Some(Concerned {
                networks, nodes, ..
            }) => {
                for network in networks {
                    forget(&mut self.networks, network);
                }
                for node in nodes {
                    forget(&mut self.nodes, node);
                }
            }
            Scope::Controllers => {}
        }
    }

    /// The changes after `have` that concern an agent, in order.
    pub(super) fn after<'a>(
        &'a self,
        have: Revision,
        audience: &Audience,
    ) -> impl Iterator<Item = &'a Logged> + use<'a> {
        let revisions = match &audience.networks {
            None => self.later(have),
            Some(networks) => {
                let mut found = BTreeSet::new();
                let of_networks = networks
                    .iter()
                    .filter_map(|network| self.networks.get(network));
                let of_node = self.nodes.get(&audience.node);
                for revisions in of_networks.chain(of_node).chain([&self.all]) {
                    let from = revisions.partition_point(|revision| *revision <= have);
                    found.extend(revisions.range(from..).copied());
                }
                found
            }
        };
        let first = self.entries.front().map_or(0, |logged| logged.revision);
        revisions
            .into_iter()
            .filter_map(move |revision| self.entries.get(place(first, revision)?))
            .filter(|logged| logged.scope != Scope::Controllers)
    }

    fn later(&self, have: Revision) -> BTreeSet<Revision> {
        let revisions = self.entries.iter().rev().map(|logged| logged.revision);
        revisions.take_while(|revision| *revision > have).collect()
    }
}

fn place(first: Revision, revision: Revision) -> Option<usize> {
    usize::try_from(revision.checked_sub(first)?).ok()
}

fn note<K: Clone + Eq + Hash>(
    of: &mut HashMap<K, VecDeque<Revision>>,
    key: &K,
    revision: Revision,
) {
    if let Some(revisions) = of.get_mut(key) {
        revisions.push_back(revision);
    } else {
        of.insert(key.clone(), VecDeque::from([revision]));
    }
}

fn forget<K: Eq + Hash>(of: &mut HashMap<K, VecDeque<Revision>>, key: &K) {
    if let Some(revisions) = of.get_mut(key) {
        revisions.pop_front();
        if revisions.is_empty() {
            of.remove(key);
        }
    }
}
