//! Addresses that a node claimed but that no endpoint of it has. A claim comes before its endpoint; when the attach that
//! wanted it never ends, the address must not stay lost.

use std::collections::BTreeMap;
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

/// Since when claims were seen unused. Not stored: a new controller waits anew.
#[derive(Debug, Default)]
pub(super) struct Claims {
    since: BTreeMap<ClaimKey, Instant>,
}

impl Claims {
    /// A claim was just made.
    pub(super) fn note(&mut self, network: NetworkId, prefix: IpNet, now: Instant) {
        self.since.insert((network, prefix), now);
    }

    /// Which of all unused claims are to be given up: unused for `patience`.
    fn expire(
        &mut self,
        unused: Vec<ClaimKey>,
        (now, patience): (Instant, Duration),
    ) -> Vec<ClaimKey> {
        self.since.retain(|claim, _| unused.contains(claim));
        let overdue = unused.into_iter().filter(|claim| {
            let since = *self.since.entry(claim.clone()).or_insert(now);
            now.duration_since(since) >= patience
        });
        overdue.collect()
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
        let overdue = self.overdue_claims(patience);
        if overdue.is_empty() {
            return;
        }
        let given_up = self
            .ledger
            .decide(|map| {
                // One of them may have been put to use meanwhile.
                let still = forsaken(map, reported, |node| self.sessions.is_connected(node));
                let changes: Vec<Change> = overdue
                    .iter()
                    .filter(|claim| still.contains(claim))
                    .cloned()
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

    fn overdue_claims(&self, patience: Duration) -> Vec<ClaimKey> {
        let connected = |node: &NodeId| self.sessions.is_connected(node);
        let unused = self.ledger.read(|map| forsaken(map, None, connected));
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.expire(unused, (Instant::now(), patience))
    }
}

/// Unused claims of nodes that could say so: one that is away may have an endpoint that it could not report.
fn forsaken(
    map: &ClusterMap,
    of: Option<&NodeId>,
    is_connected: impl Fn(&NodeId) -> bool,
) -> Vec<ClaimKey> {
    let mut unused = unused_claims(map, of);
    unused.retain(|claim| {
        let holder = map.blocks.get(claim).map(|block| &block.object.node);
        holder.is_some_and(&is_connected)
    });
    unused
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Block, Object};

    #[test]
    fn a_claim_is_given_up_when_it_was_unused_for_long_enough_without_a_break() {
        let claim: ClaimKey = (NetworkId("n".to_owned()), "10.0.0.9/32".parse().unwrap());
        let mut claims = Claims::default();
        let start = Instant::now();
        let after = |secs| (start + Duration::from_secs(secs), Duration::from_secs(60));
        claims.note(claim.0.clone(), claim.1, start);
        assert!(claims.expire(vec![claim.clone()], after(59)).is_empty());
        // Put to use, then unused again.
        assert!(claims.expire(Vec::new(), after(59)).is_empty());
        assert!(claims.expire(vec![claim.clone()], after(61)).is_empty());
        assert!(claims.expire(vec![claim.clone()], after(120)).is_empty());
        assert_eq!(claims.expire(vec![claim.clone()], after(121)), vec![claim]);
    }

    #[test]
    fn a_claim_of_a_node_that_is_away_is_not_given_up() {
        let network = NetworkId("n".to_owned());
        let (here, away) = (NodeId("here".to_owned()), NodeId("away".to_owned()));
        let mut map = ClusterMap::default();
        let mut claim = |node: &NodeId, prefix: &str| -> ClaimKey {
            let prefix = prefix.parse().unwrap();
            let (network, node) = (network.clone(), node.clone());
            let block = Block {
                network: network.clone(),
                prefix,
                node,
            };
            map.apply(map.revision + 1, Change::Put(Object::Block(block)));
            (network, prefix)
        };
        let ours = claim(&here, "10.0.0.1/32");
        let theirs = claim(&away, "10.0.0.2/32");
        let connected = |node: &NodeId| *node == here;
        assert_eq!(forsaken(&map, None, connected), vec![ours.clone()]);
        assert_eq!(forsaken(&map, Some(&away), connected), vec![]);
        assert_eq!(forsaken(&map, None, |_| true), vec![ours, theirs]);
    }
}
