//! Replacing the cluster's authority, step by step (`identity::authorities`): whichever controller sees that every node is
//! ready takes the next step, by compare-and-swap in the store; all controllers follow what is stored there. Nodes that are
//! connected are asked to renew what they have; one that is away holds the next step up until an operator gives it up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use quinn::Endpoint;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{ControllerError, Core, serve, stopped};
use crate::api::{AuthorityInfo, AuthorityStep};
use crate::channel::Ask;
use crate::identity::authorities::{Authorities, Step};
use crate::identity::ca::Authority;
use crate::model::{ClusterMap, Credentials, NodeId};
use crate::store::{AuthorityRecord, Store, StoreError};

/// Between two looks at what is stored, and at who isn't ready.
const LOOK: Duration = Duration::from_secs(2);
/// Nodes that renew at the same time: each costs two signatures here.
const AT_ONCE: usize = 16;
/// The controller's own certificate is made anew after this part of its time.
const REMAKE_PART: u32 = 3;

/// The authorities as they are stored.
pub(super) async fn load(store: &dyn Store) -> Result<Authorities, ControllerError> {
    let record = store.authority().await?;
    restore(record)
}

fn restore(record: AuthorityRecord) -> Result<Authorities, ControllerError> {
    Authorities::restore(record).map_err(|cause| {
        ControllerError::Store(StoreError::corrupt(
            "the cluster's authority".as_ref(),
            cause,
        ))
    })
}

/// Begins to replace the authority.
pub(super) async fn begin(store: &dyn Store) -> Result<AuthorityRecord, ControllerError> {
    let before = store.authority().await?;
    let next = Authority::mint_for(before.cluster.clone())?;
    let after = before.announce(&next).ok_or(ControllerError::Rotation(
        "the cluster's authority is being replaced already; `weft controller ca` says how far it is",
    ))?;
    store.put_authority(before, after.clone()).await?;
    info!(next = %next.id(), "the cluster's authority is being replaced: nodes learn to trust the next one");
    Ok(after)
}

/// One step further, whoever isn't ready.
pub(super) async fn advance(store: &dyn Store) -> Result<AuthorityRecord, ControllerError> {
    let before = store.authority().await?;
    let after = before.advance().ok_or(ControllerError::Rotation(
        "the cluster's authority isn't being replaced; begin with `weft controller ca rotate`",
    ))?;
    store.put_authority(before, after.clone()).await?;
    match &after.next {
        Some(_) => info!("the next authority signs nodes' certificates from now on"),
        None => info!("the old authority is trusted no more"),
    }
    Ok(after)
}

/// How far a replacement is, and whom it waits for, by name.
pub(super) fn describe(
    record: AuthorityRecord,
    map: &ClusterMap,
) -> Result<AuthorityInfo, ControllerError> {
    let authorities = restore(record)?;
    let step = match authorities.step() {
        Step::Settled => AuthorityStep::Settled,
        Step::Announced => AuthorityStep::Announced,
        Step::Switched => AuthorityStep::Switched,
    };
    let waiting = match authorities.step() {
        Step::Settled => Vec::new(),
        Step::Announced | Step::Switched => {
            let mut names: Vec<String> = map
                .nodes
                .iter()
                .filter(|(id, _)| !is_ready(&authorities, credentials(map, id)))
                .map(|(_, node)| node.object.name.clone())
                .collect();
            names.sort();
            names
        }
    };
    Ok(AuthorityInfo {
        step,
        current: authorities.serving().id(),
        next: authorities.next().map(Authority::id),
        waiting,
    })
}

fn credentials<'a>(map: &'a ClusterMap, node: &NodeId) -> Option<&'a Credentials> {
    map.credentials.get(node).map(|found| &found.object)
}

/// Whether a node has what the next step asks of it. One that never said what it has (an older weft) isn't ready.
fn is_ready(authorities: &Authorities, has: Option<&Credentials>) -> bool {
    let Some(next) = authorities.next().map(Authority::id) else {
        return true;
    };
    has.is_some_and(|has| match authorities.step() {
        Step::Settled => true,
        Step::Announced => has.trusts.contains(&next),
        Step::Switched => has.issuer == next,
    })
}

/// Whether a node should have another certificate or trust others than it does.
fn is_stale(authorities: &Authorities, has: Option<&Credentials>) -> bool {
    let trusted: BTreeSet<String> = authorities.trusted_ids().into_iter().collect();
    has.is_some_and(|has| {
        let trusts: BTreeSet<String> = has.trusts.iter().cloned().collect();
        trusts != trusted || !is_ready(authorities, Some(has))
    })
}

/// Follows what is stored and drives it on, until the controller stops.
pub(super) async fn follow(
    core: Arc<Core>,
    endpoint: Endpoint,
    mut stopping: watch::Receiver<bool>,
) {
    let mut made = Instant::now();
    loop {
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = core.rotated.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        let due = made.elapsed() > core.cert_ttl / REMAKE_PART;
        match core.reload().await {
            Ok(changed) if changed || due => {
                let authorities = core.authorities.load();
                match serve::server_config(&authorities, core.cert_ttl) {
                    Ok(server) => {
                        endpoint.set_server_config(Some(server));
                        made = Instant::now();
                    }
                    Err(error) => {
                        warn!(%error, "this controller's certificate could not be made anew")
                    }
                }
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "the cluster's authority could not be read"),
        }
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = core.renew_stale() => {}
        }
        core.advance_if_ready().await;
    }
}

impl Core {
    /// Reads the authorities again; says whether they are others.
    async fn reload(&self) -> Result<bool, ControllerError> {
        let record = self.ledger.store().authority().await?;
        if record == *self.authorities.load().record() {
            return Ok(false);
        }
        self.authorities.store(Arc::new(restore(record)?));
        Ok(true)
    }

    /// Asks connected nodes that should have something else to renew it.
    async fn renew_stale(&self) {
        let authorities = self.authorities.load_full();
        let stale: Vec<NodeId> = {
            let connected = self.sessions.connected();
            self.ledger.read(|map| {
                let stale = |id: &NodeId| is_stale(&authorities, credentials(map, id));
                connected.into_iter().filter(stale).collect()
            })
        };
        stream::iter(stale)
            .for_each_concurrent(AT_ONCE, async |node| {
                match self.sessions.ask(&node, Ask::Renew).await {
                    None | Some(Ok(_)) => {}
                    // It is asked again at the next look.
                    Some(Err(error)) => {
                        debug!(%node, %error, "a node didn't renew its certificate")
                    }
                }
            })
            .await;
    }

    async fn advance_if_ready(&self) {
        let authorities = self.authorities.load_full();
        if authorities.step() == Step::Settled {
            return;
        }
        let all = self.ledger.read(|map| {
            let mut nodes = map.nodes.keys();
            nodes.all(|id| is_ready(&authorities, credentials(map, id)))
        });
        if !all {
            return;
        }
        let before = authorities.record().clone();
        let Some(after) = before.advance() else {
            return;
        };
        match self.ledger.store().put_authority(before, after).await {
            Ok(()) => {
                info!(from = ?authorities.step(), "every node is ready: the replacement of the cluster's authority goes on");
                self.rotated.notify_one();
            }
            // Another controller saw it, too.
            Err(StoreError::AuthorityConflict) => {}
            Err(error) => {
                warn!(%error, "the replacement of the cluster's authority could not be written down")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_ready_when_it_has_what_the_next_step_needs() {
        let old = Authority::mint().unwrap();
        let new = Authority::mint_for(old.cluster().clone()).unwrap();
        let (a, b) = (old.id(), new.id());
        let has = |trusts: &[&String], issuer: &String| Credentials {
            trusts: trusts.iter().map(|id| (*id).clone()).collect(),
            issuer: issuer.clone(),
            expires: 0,
        };
        let settled = AuthorityRecord::first(&old);
        let announced = settled.announce(&new).unwrap();
        let switched = announced.advance().unwrap();
        let replaced = switched.advance().unwrap();
        let states = [
            has(&[&a], &a),
            has(&[&a, &b], &a),
            has(&[&b, &a], &b),
            has(&[&b], &b),
        ];
        // For each step: which states are ready, and which are stale.
        let expected = [
            (settled, [true, true, true, true], [false, true, true, true]),
            (
                announced,
                [false, true, true, true],
                [true, false, false, true],
            ),
            (
                switched,
                [false, false, true, true],
                [true, true, false, true],
            ),
            (
                replaced,
                [true, true, true, true],
                [true, true, true, false],
            ),
        ];
        for (record, ready, stale) in expected {
            let authorities = Authorities::restore(record).unwrap();
            let step = authorities.step();
            assert_eq!(
                states
                    .each_ref()
                    .map(|has| is_ready(&authorities, Some(has))),
                ready,
                "{step:?}"
            );
            assert_eq!(
                states
                    .each_ref()
                    .map(|has| is_stale(&authorities, Some(has))),
                stale,
                "{step:?}"
            );
            // One that can't say holds it up, and isn't bothered.
            assert_eq!(is_ready(&authorities, None), step == Step::Settled);
            assert!(!is_stale(&authorities, None));
        }
    }
}
