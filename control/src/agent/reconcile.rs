//! Keeps the fabric at what the map and the ports ask for: woken by every change, it plans anew and applies the
//! difference; where only endpoints of other hosts changed, what these come to. It also lets the containers' MTU follow, saves the map, and says how far the agent has come.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tracing::warn;
use weft_tunnel::Carriage;
use weft_wire::{Mtu, Vni};

use super::plan::{LocalPort, Part, Touched, WantedNetwork, patch, plan};
use super::state::SavedMap;
use super::uplink::plan_uplinks;
use super::{Agent, Applied, Inner};
use crate::link;
use crate::model::{EndpointId, NodeId, Revision};

/// How long a new agent takes at most to measure the paths. Until then containers keep the MTUs that they had from the
/// last one: with what the links promise, running connections would stumble twice.
pub(super) const UNMEASURED: Duration = Duration::from_secs(3);
/// The map is saved at most this often: it is a cache.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to write what couldn't be written.
const SAVE_AGAIN: Duration = Duration::from_secs(5);
/// And so much less often for each endpoint that is in it: all of it is written, some microseconds for each.
const SAVE_LATER: Duration = Duration::from_millis(1);
/// But at least this often.
const SAVE_AT_LEAST: Duration = Duration::from_secs(30);
/// A yielded address is in the map as the other node's by then, or was never claimed.
const YIELD_PATIENCE: Duration = Duration::from_secs(60);

/// Says that the fabric has to follow.
#[derive(Debug, Default)]
pub(super) struct Changed {
    notify: Notify,
    /// More changed than what the map was noted to be touched by.
    everything: AtomicBool,
}

impl Changed {
    /// Something changed.
    pub(super) fn notify_one(&self) {
        self.everything.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    /// The map changed, and it is noted how.
    pub(super) fn notify_map(&self) {
        self.notify.notify_one();
    }

    /// Returns after changes: whether it isn't noted what all of them are.
    async fn wait(&self) -> bool {
        self.notify.notified().await;
        self.everything.swap(false, Ordering::AcqRel)
    }
}

/// Follows changes until the agent stops.
pub(super) async fn follow(agent: Arc<Agent>) {
    loop {
        let everything = agent.changed.wait().await;
        let again = Arc::clone(&agent);
        let followed = tokio::task::spawn_blocking(move || {
            if everything || !again.follow_endpoints() {
                again.reconcile();
            }
        });
        if followed.await.is_err() {
            agent.inner().touched.touch_everything();
            warn!("applying the cluster map failed; it is tried again at the next change");
        }
    }
}

/// Saves the map when it has changed, until the agent stops.
pub(super) async fn save_map(agent: Arc<Agent>) {
    let state = |applied: &Applied| (applied.revision, applied.granted);
    let mut saved = state(&agent.applied.borrow());
    let mut applied = agent.applied.subscribe();
    loop {
        tokio::select! {
            changed = applied.changed() => if changed.is_err() {
                return;
            },
            () = tokio::time::sleep(SAVE_AGAIN) => {}
        }
        let again = !agent.inner().unsaved.is_empty();
        if again || state(&applied.borrow_and_update()) != saved {
            let writer = Arc::clone(&agent);
            let written = tokio::task::spawn_blocking(move || writer.save_state_now());
            if let Ok(Ok(now)) = written.await {
                saved = now;
            }
            let endpoints = agent.inner().map.endpoints.len();
            tokio::time::sleep(save_pause(endpoints)).await;
        }
    }
}

impl Inner {
    /// Notes whether something is on disk as it is. Says once what is the matter; `weft status` says it as long as it lasts.
    pub(super) fn note_written(&mut self, what: &'static str, error: Option<&super::StateError>) {
        let Some(error) = error else {
            self.unsaved.remove(what);
            return;
        };
        let error = error.to_string();
        if self.unsaved.get(what) != Some(&error) {
            warn!(%error, "the {what} could not be saved");
        }
        self.unsaved.insert(what, error);
    }

    /// What the next agent would not know of.
    pub(super) fn unsaved_warnings(&self) -> impl Iterator<Item = String> {
        self.unsaved.iter().map(|(what, error)| {
            format!("the {what} can't be saved ({error}): an agent that starts now would go on as it was before")
        })
    }
}

/// Between two saves of a map with so many endpoints.
fn save_pause(endpoints: usize) -> Duration {
    let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX);
    let pause = SAVE_EVERY.saturating_add(SAVE_LATER.saturating_mul(endpoints));
    pause.min(SAVE_AT_LEAST)
}

impl Agent {
    /// Writes what changed, and what couldn't be written before.
    fn save_state_now(&self) -> Result<(Revision, Option<u64>), super::StateError> {
        if self.inner().unsaved.contains_key("ports") {
            self.save_ports_now()?;
        }
        self.save_map_now()
    }

    /// Writes the map as it is now and says which revision that is, complete by which wish.
    pub(super) fn save_map_now(&self) -> Result<(Revision, Option<u64>), super::StateError> {
        let (saved, granted) = {
            let inner = self.inner();
            let saved = SavedMap {
                incarnation: inner.incarnation.clone(),
                map: inner.map.clone(),
                has: inner.interest.has().cloned(),
            };
            (saved, inner.interest.granted())
        };
        let revision = saved.map.revision;
        let written = self.state.save_map(&self.facts.cluster, saved);
        let mut inner = self.inner();
        inner.note_written("cluster map", written.as_ref().err());
        written?;
        inner.forget_returned(revision);
        drop(inner);
        Ok((revision, granted))
    }

    /// Plans anew and applies the difference.
    pub(super) fn reconcile(&self) {
        let measured = self.fabric().path_mtus();
        self.measured.store(Arc::new(measured));
        // By the map's networks: one that was made again has another id.
        self.refresh_held();
        let mut inner = self.inner();
        inner.touched = Touched::default();
        self.refresh_interest(&mut inner);
        inner.settle_addresses(&self.facts.node);
        let part = Part::of(&inner.map, inner.interest.has());
        let mut wanted = plan(part, &self.here(), local_ports(&inner));
        plan_uplinks(&inner, &mut wanted);
        if self.facts.started.elapsed() < UNMEASURED {
            keep_mtus(&inner, &mut wanted.networks);
        }
        let stale_mtus = stale_mtus(&mut inner, &wanted.networks);
        let progress = progress(&inner);
        self.services.publish(&self.facts.node, &inner, &wanted);
        self.outside.publish(&inner.map, &wanted);
        self.fabric().apply(wanted);
        drop(inner);
        self.set_mtus(stale_mtus);
        self.tell_progress(progress);
    }

    /// The same where nothing has changed but endpoints of other hosts; false if more has, and nothing is done then.
    fn follow_endpoints(&self) -> bool {
        let mut inner = self.inner();
        let ports: Vec<LocalPort<'_>> = local_ports(&inner).collect();
        let part = Part::of(&inner.map, inner.interest.has());
        let mut fabric = self.fabric();
        let now = (fabric.applied(), &inner.touched);
        let Some(patch) = patch(part, &self.here(), &ports, now) else {
            return false;
        };
        let networks = inner.touched.networks();
        self.services
            .publish_endpoints(&self.facts.node, &inner, networks);
        fabric.patch(patch);
        drop(fabric);
        inner.touched = Touched::default();
        inner.settle_addresses(&self.facts.node);
        let progress = progress(&inner);
        drop(inner);
        self.tell_progress(progress);
        true
    }

    fn tell_progress(&self, progress: Applied) {
        self.applied.send_if_modified(|applied| {
            let changed = *applied != progress;
            *applied = progress;
            changed
        });
    }

    fn set_mtus(&self, stale: Vec<(EndpointId, OwnedFd, String, (Mtu, Carriage))>) {
        if stale.is_empty() {
            return;
        }
        for (id, tap, ifname, wanted) in stale {
            let mtu = wanted.0;
            match link::set_mtu_of_tap(&tap, &ifname, wanted) {
                Ok(()) => self.note_mtu(&id, mtu),
                Err(error) => {
                    warn!(%error, port = %id, %mtu, "the interface's MTU could not be changed");
                }
            }
        }
        // The next agent begins with these.
        if let Err(error) = self.save_ports_now() {
            warn!(%error, "the ports' MTUs could not be saved");
        }
    }

    fn note_mtu(&self, id: &EndpointId, mtu: Mtu) {
        if let Some(port) = self.inner().ports.get_mut(id) {
            port.record.mtu = mtu;
        }
    }
}

impl Inner {
    /// What was given back or yielded: while no controller answers, the map can't show what came of it.
    fn settle_addresses(&mut self, node: &NodeId) {
        if self.channel.caught_up {
            self.note_returned(node);
            self.yielded
                .retain(|_, since| since.elapsed() < YIELD_PATIENCE);
        }
    }
}

fn local_ports(inner: &Inner) -> impl Iterator<Item = LocalPort<'_>> {
    inner.ports.iter().map(|(id, port)| LocalPort {
        id,
        network: &port.record.endpoint.network,
        vni: port.record.vni,
        mac: port.record.endpoint.mac,
        epoch: port.record.endpoint.epoch,
        ips: &port.record.endpoint.ips,
        is_host: crate::netns::is_own(port.record.netns_id),
        refused: port.trouble.is_some(),
    })
}

fn progress(inner: &Inner) -> Applied {
    Applied {
        revision: inner.map.revision,
        behind: behind(inner),
        granted: inner.interest.granted(),
    }
}

/// Leaves MTUs that follow the paths as the last agent left them.
fn keep_mtus(inner: &Inner, networks: &mut BTreeMap<Vni, WantedNetwork>) {
    for record in inner.ports.values().map(|port| &port.record) {
        let follows = inner
            .map
            .network(&record.endpoint.network)
            .is_some_and(|network| network.mtu.is_none());
        if follows && let Some(network) = networks.get_mut(&record.vni) {
            network.mtu = record.mtu;
        }
    }
}

/// Ports whose interface has another MTU than their network now.
fn stale_mtus(
    inner: &mut Inner,
    networks: &BTreeMap<Vni, WantedNetwork>,
) -> Vec<(EndpointId, OwnedFd, String, (Mtu, Carriage))> {
    let ports = inner.ports.values();
    ports
        .filter_map(|port| {
            let network = networks.get(&port.record.vni)?;
            let mtu = network.mtu;
            if port.record.mtu == mtu || network.id != port.record.endpoint.network {
                return None;
            }
            let tap = port.fds.first()?.try_clone().ok()?;
            Some((
                port.record.endpoint.id.clone(),
                tap,
                port.record.ifname.clone(),
                (mtu, network.carriage),
            ))
        })
        .collect()
}

/// Why the agent isn't in sync.
fn behind(inner: &Inner) -> Option<String> {
    let channel = &inner.channel;
    if channel.connected.is_none() {
        let why = channel
            .error
            .clone()
            .unwrap_or_else(|| "still connecting".to_owned());
        return Some(format!("no controller is connected ({why})"));
    }
    if !channel.caught_up {
        return Some("the cluster map is still coming".to_owned());
    }
    if !channel.told {
        return Some("the controller hasn't taken our endpoints yet".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_larger_map_is_saved_less_often() {
        let secs = |endpoints| save_pause(endpoints).as_secs_f64();
        assert_eq!([0, 500, 5_000].map(secs), [1.0, 1.5, 6.0]);
        assert_eq!([50_000, usize::MAX].map(secs), [30.0, 30.0]);
    }
}
