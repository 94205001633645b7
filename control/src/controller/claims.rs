//! Addresses that a node claimed but that no endpoint of it has. A claim comes before its endpoint; when the attach that
//! wanted it never ends, the address must not stay lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::info;

use super::decide::block::unused_claims;
use super::{Core, stopped};
use crate::model::{Change, ClusterMap, Key, NetworkId, NodeId};

/// An attach takes well under a second; this is for the slowest host.
const UNUSED_PATIENCE: Duration = Duration::from_secs(60);
/// After a full report that doesn't name it, a claim is given up sooner, but not one that is just being used.
const UNREPORTED_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

type ClaimKey = (NetworkId, IpNet);

/// Unused claims by the nodes that made them.
type Unused = BTreeMap<NodeId, Vec<ClaimKey>>;

/// Since when claims were seen unused, by node. Not stored: a new controller waits anew.
#[derive(Debug, Default)]
pub(super) struct Claims {
    since: BTreeMap<NodeId, BTreeMap<ClaimKey, Instant>>,
}

impl Claims {
    /// A claim was just made.
    pub(super) fn note(&mut self, node: &NodeId, (network, prefix): ClaimKey, now: Instant) {
        let of_node = self.since.entry(node.clone()).or_default();
        of_node.insert((network, prefix), now);
    }

    /// Which claims are to be given up: unused for `patience`. `unused` are all there are: of a node, or of every one.
    fn expire(
        &mut self,
        (of, unused): (Option<&NodeId>, Unused),
        (now, patience): (Instant, Duration),
    ) -> BTreeSet<ClaimKey> {
        let forget = |node: &NodeId| of.is_none_or(|of| of == node) && !unused.contains_key(node);
        self.since.retain(|node, _| !forget(node));
        let mut overdue = BTreeSet::new();
        for (node, claims) in unused {
            let before = self.since.remove(&node).unwrap_or_default();
            let since = |claim: ClaimKey| {
                let since = before.get(&claim).copied().unwrap_or(now);
                (claim, since)
            };
            let since: BTreeMap<_, _> = claims.into_iter().map(since).collect();
            let late = since
                .iter()
                .filter(|(_, since)| now.duration_since(**since) >= patience);
            overdue.extend(late.map(|(claim, _)| claim.clone()));
            self.since.insert(node, since);
        }
        overdue
    }
}

/// Gives up unused claims until the controller stops.
pub(super) async fn sweep(core: Arc<Core>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = tokio::time::sleep(SWEEP_INTERVAL) => core.give_up_claims(None).await,
        }
    }
}

impl Core {
    /// Gives up claims that are overdue: of a node that has just reported all it has, or of any.
    pub(super) async fn give_up_claims(&self, reported: Option<&NodeId>) {
        let patience = if reported.is_some() {
            UNREPORTED_PATIENCE
        } else {
            UNUSED_PATIENCE
        };
        let overdue = self.overdue_claims(reported, patience);
        if overdue.is_empty() {
            return;
        }
        let given_up = self
            .ledger
            .decide(|map| {
                // One of them may have been put to use meanwhile.
                let still = forsaken(map, reported, |node| self.sessions.is_connected(node));
                let still = still.into_values().flatten();
                let changes: Vec<Change> = still
                    .filter(|claim| overdue.contains(claim))
                    .map(|(network, prefix)| Change::Delete(Key::Block(network, prefix)))
                    .collect();
                let count = changes.len();
                Ok((changes, count))
            })
            .await;
        if let Ok((_, count @ 1..)) = given_up {
            info!(count, "claimed addresses given up: no endpoint uses them");
        }
    }

    /// Looks at no other node's claims when it is for one: a thousand may report at once.
    fn overdue_claims(&self, of: Option<&NodeId>, patience: Duration) -> BTreeSet<ClaimKey> {
        let connected = |node: &NodeId| self.sessions.is_connected(node);
        let unused = self.ledger.read(|map| forsaken(map, of, connected));
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.expire((of, unused), (Instant::now(), patience))
    }
}

/// Unused claims of nodes that could say so: one that is away may have an endpoint that it could not report.
fn forsaken(
    map: &ClusterMap,
    of: Option<&NodeId>,
    is_connected: impl Fn(&NodeId) -> bool,
) -> Unused {
    let mut unused = Unused::new();
    for claim in unused_claims(map, of) {
        let Some(block) = map.blocks.get(&claim) else {
            continue;
        };
        let of_node = unused.entry(block.object.node.clone()).or_default();
        of_node.push(claim);
    }
    unused.retain(|node, _| is_connected(node));
    unused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Block, Object};

    fn node(name: &str) -> NodeId {
        NodeId(name.to_owned())
    }

    fn claim(prefix: &str) -> ClaimKey {
        (NetworkId("n".to_owned()), prefix.parse().unwrap())
    }

    fn of(node: &NodeId, claims: &[&ClaimKey]) -> Unused {
        let claims = claims.iter().copied().cloned().collect();
        Unused::from([(node.clone(), claims)])
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn a_claim_is_given_up_when_it_was_unused_for_long_enough_without_a_break() {
        let (here, claim) = (node("here"), claim("10.0.0.9/32"));
        let mut claims = Claims::default();
        let start = Instant::now();
        let mut unused_after = |unused: bool, secs| {
            let unused = match unused {
                true => of(&here, &[&claim]),
                false => Unused::new(),
            };
            let now = start + Duration::from_secs(secs);
            claims.expire((None, unused), (now, PATIENCE))
        };
        assert!(unused_after(true, 0).is_empty());
        assert!(unused_after(true, 59).is_empty());
        // Put to use, then unused again.
        assert!(unused_after(false, 59).is_empty());
        assert!(unused_after(true, 61).is_empty());
        assert!(unused_after(true, 120).is_empty());
        assert_eq!(unused_after(true, 121), BTreeSet::from([claim.clone()]));
    }

    #[test]
    fn a_report_of_one_node_says_nothing_of_another_nodes_claims() {
        let (here, there) = (node("here"), node("there"));
        let (ours, theirs) = (claim("10.0.0.1/32"), claim("10.0.0.2/32"));
        let mut claims = Claims::default();
        let start = Instant::now();
        let at = |secs| (start + Duration::from_secs(secs), PATIENCE);
        claims.note(&here, ours.clone(), start);
        claims.note(&there, theirs.clone(), start);
        // Theirs isn't named, and goes on being waited for.
        let unused = of(&here, &[&ours]);
        let given_up = claims.expire((Some(&here), unused), at(60));
        assert_eq!(given_up, BTreeSet::from([ours.clone()]));
        // Ours was put to use: the waiting for it ends, that for theirs doesn't.
        let given_up = claims.expire((Some(&here), Unused::new()), at(60));
        assert_eq!(given_up, BTreeSet::new());
        let mut unused = of(&here, &[&ours]);
        unused.extend(of(&there, &[&theirs]));
        let given_up = claims.expire((None, unused), at(60));
        assert_eq!(given_up, BTreeSet::from([theirs]));
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let (here, there) = (node("here"), node("there"));
        let mut claims = Claims::default();
        let now = Instant::now();
        claims.note(&here, claim("10.0.0.1/32"), now);
        claims.note(&there, claim("10.0.0.2/32"), now);
        claims.expire((Some(&here), Unused::new()), (now, PATIENCE));
        assert_eq!(claims.since.keys().collect::<Vec<_>>(), [&there]);
        claims.expire((None, Unused::new()), (now, PATIENCE));
        assert!(claims.since.is_empty());
    }

    #[test]
    fn a_claim_of_a_node_that_is_away_is_not_given_up() {
        let (here, away) = (node("here"), node("away"));
        let mut map = ClusterMap::default();
        let (ours, theirs) = (claim("10.0.0.1/32"), claim("10.0.0.2/32"));
        for (node, (network, prefix)) in [(&here, &ours), (&away, &theirs)] {
            let block = Block {
                network: network.clone(),
                prefix: *prefix,
                node: node.clone(),
            };
            map.apply(map.revision + 1, Change::Put(Object::Block(block)));
        }
        let connected = |node: &NodeId| *node == here;
        assert_eq!(forsaken(&map, None, connected), of(&here, &[&ours]));
        assert_eq!(forsaken(&map, Some(&away), connected), Unused::new());
        assert_eq!(forsaken(&map, Some(&here), connected), of(&here, &[&ours]));
        let mut all = of(&here, &[&ours]);
        all.extend(of(&away, &[&theirs]));
        assert_eq!(forsaken(&map, None, |_| true), all);
    }
}
