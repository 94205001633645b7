//! The control channel's events, and telling the controller what it missed while it was away.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::Agent;
use crate::channel::{Answer, Ask, LinkEvent, Request, RequestError};
use crate::model::{ClusterMap, NetworkId};

/// Between two tries to tell the controller what it didn't take.
const TELL_AGAIN: Duration = Duration::from_millis(500);

/// Between two reports of endpoints that the controller refuses.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// Follows the channel until the agent stops.
pub(super) async fn follow(agent: Arc<Agent>, mut events: mpsc::Receiver<LinkEvent>) {
    while let Some(event) = events.recv().await {
        let is_map = matches!(event, LinkEvent::Changes { .. });
        agent.handle_link(event);
        if is_map {
            agent.changed.notify_map();
        } else {
            agent.changed.notify_one();
        }
    }
}

/// Tells the controller of our endpoints whenever it doesn't know them as they are.
pub(super) async fn tell(agent: Arc<Agent>) {
    loop {
        // What the controller refused may have become free: that is heard of by asking again.
        let retry = async {
            tokio::time::sleep(REFUSED_AGAIN).await;
            agent.retell_refused();
            agent.retell_differing();
        };
        tokio::select! {
            () = agent.resync.notified() => {}
            () = retry => {}
        }
        while agent.must_tell() {
            if agent.tell_endpoints().await.is_err() {
                tokio::time::sleep(TELL_AGAIN).await;
            }
        }
        agent.return_idle_claims().await;
    }
}

impl Agent {
    fn handle_link(self: &Arc<Self>, event: LinkEvent) {
        match event {
            LinkEvent::Up { controller } => {
                info!(%controller, "control channel up");
                let mut inner = self.inner();
                inner.channel.connected = Some(controller);
                inner.channel.since = Instant::now();
                inner.channel.error = None;
                inner.channel.told = false;
                inner.resume(&self.facts.node);
                drop(inner);
                self.resync.notify_one();
            }
            LinkEvent::Down { reason } => {
                let mut inner = self.inner();
                let was_up = inner.channel.connected.take().is_some();
                // Whoever stops a host stops controller and agent together.
                if was_up && !inner.stopping {
                    warn!(%reason, "control channel down; forwarding goes on by the last map");
                    inner.channel.since = Instant::now();
                }
                inner.channel.error = Some(reason);
                inner.channel.caught_up = false;
            }
            LinkEvent::Refused { refusal } => {
                let mut inner = self.inner();
                if inner.channel.error.as_deref() != Some(refusal.message.as_str()) {
                    warn!(code = %refusal.code, "the controller refuses this node: {}", refusal.message);
                }
                if inner.channel.connected.take().is_some() {
                    inner.channel.since = Instant::now();
                }
                inner.channel.caught_up = false;
                inner.channel.error = Some(refusal.message);
            }
            LinkEvent::Snapshot {
                incarnation,
                map,
                has,
            } => self.take_snapshot(incarnation, *map, has),
            LinkEvent::Changes { changes, up_to } => {
                debug!(changes = changes.len(), up_to, "cluster map changes");
                let node = &self.facts.node;
                self.inner().take_changes(node, changes, up_to);
            }
            LinkEvent::CaughtUp => self.inner().channel.caught_up = true,
            LinkEvent::Controllers { controllers } => self.take_controllers(controllers),
            LinkEvent::Watched { networks, wish } => {
                let heard = networks.as_ref().map(BTreeSet::len);
                debug!(?heard, wish, "networks heard of");
                let node = &self.facts.node;
                self.inner().take_watched(node, networks, wish);
            }
            LinkEvent::Ask { ask, answer } => {
                let agent = Arc::clone(self);
                tokio::spawn(async move {
                    let said = agent.answer(ask).await;
                    // A controller that went away meanwhile asks again.
                    let _ = answer.send(said);
                });
            }
        }
    }

    /// The next start calls them, too.
    fn take_controllers(self: &Arc<Self>, controllers: Vec<SocketAddr>) {
        {
            let mut inner = self.inner();
            let known = &inner.channel.addresses;
            if controllers.iter().all(|address| known.contains(address))
                && controllers.len() == known.len()
            {
                return;
            }
            info!(?controllers, "controllers of this cluster");
            inner.channel.addresses.clone_from(&controllers);
        }
        let agent = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = agent.state.save_controllers(&controllers) {
                warn!(%error, "the controllers' addresses can't be saved");
            }
        });
    }

    fn take_snapshot(
        &self,
        incarnation: String,
        map: ClusterMap,
        has: Option<BTreeSet<NetworkId>>,
    ) {
        info!(
            revision = map.revision,
            nodes = map.nodes.len(),
            networks = map.networks.len(),
            endpoints = map.endpoints.len(),
            "cluster map received"
        );
        let mut inner = self.inner();
        inner.touched.touch_everything();
        inner.incarnation = incarnation;
        inner.map = map;
        inner.interest.replaced(has);
    }

    /// Another node wants an address of our blocks. What is promised is on disk first.
    async fn answer(self: &Arc<Self>, ask: Ask) -> Answer {
        let address = match ask {
            Ask::Yield { network, ip } => (network, ip),
            // The link's own business.
            Ask::Renew => return Answer::Renewed,
        };
        let ip = address.1;
        if let Some(endpoint) = self.yield_address(&address) {
            return Answer::InUse { endpoint };
        }
        if let Err(error) = self.save_ports().await {
            warn!(error = %error.reply.message, %ip, "an address can't be yielded to another node");
            self.inner().yielded.remove(&address);
            let endpoint = "of a node whose disk takes nothing".to_owned();
            return Answer::InUse { endpoint };
        }
        Answer::Yielded
    }

    /// Takes an address out of what this node gives, or says which endpoint has it.
    fn yield_address(&self, (network, ip): &(NetworkId, IpAddr)) -> Option<String> {
        let mut inner = self.inner();
        let holder = inner
            .own_endpoints()
            .find(|endpoint| endpoint.network == *network && endpoint.ips.contains(ip))
            .map(|endpoint| endpoint.name.clone());
        let promised = (network.clone(), *ip);
        let held = inner.held.contains(&promised);
        let holder = holder.or_else(|| held.then(|| "of a Docker container".to_owned()));
        if holder.is_none() {
            inner.yielded.insert(promised, Instant::now());
        }
        holder
    }

    fn retell_refused(&self) {
        let mut inner = self.inner();
        if inner.is_any_refused() {
            inner.channel.told = false;
        }
    }

    /// A report that came late, behind the one that was to undo it, leaves the controller with what isn't so.
    fn retell_differing(&self) {
        let Ok(_order) = self.reporting.try_write() else {
            return;
        };
        let mut inner = self.inner();
        if inner.channel.caught_up && inner.differs(&self.facts.node) {
            debug!("the cluster map has other endpoints of this node than there are");
            inner.channel.told = false;
        }
    }

    pub(super) fn must_tell(&self) -> bool {
        let inner = self.inner();
        inner.channel.connected.is_some() && !inner.channel.told
    }

    /// The full report: the controller adds what it misses and drops what we no longer have. So no report of a single
    /// endpoint may be under way beside it: whichever came second would undo the other.
    pub(super) async fn tell_endpoints(self: &Arc<Self>) -> Result<(), RequestError> {
        let _order = self.reporting.write().await;
        if !self.must_tell() {
            return Ok(());
        }
        let endpoints = {
            let mut inner = self.inner();
            // Whatever changes from here on makes it untold again.
            inner.channel.told = true;
            inner.endpoints()
        };
        let reply = self
            .link
            .request(Request::SyncEndpoints { endpoints })
            .await;
        let mut inner = self.inner();
        let reply = match reply {
            Ok(reply) => reply,
            Err(error) => {
                inner.channel.told = false;
                debug!(%error, "the controller didn't take our endpoints");
                return Err(error);
            }
        };
        for (name, refusal) in inner.note_rejected(reply.rejected) {
            warn!(port = %name, code = %refusal.code, "endpoint refused by the controller: {}", refusal.message);
        }
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }
}
