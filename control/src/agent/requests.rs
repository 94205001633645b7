//! The API's writing half that the controller decides: networks, VTEPs, nodes. A request returns when this agent's own
//! map shows what it did, so that the next command sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;
use tracing::info;

use super::{Agent, ApiError};
use crate::api;
use crate::channel::{Refusal, Reply, Request, RequestError};
use crate::model::{Network, NetworkId, Revision, brief};

/// How long a change may take from the controller's word to this agent's map.
pub(super) const ARRIVAL_PATIENCE: Duration = Duration::from_secs(5);

/// How long an agent that ends waits for connects and deaths of namespaces that are under way.
const LAST_CONNECTS: Duration = Duration::from_secs(10);
/// How often it looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Agent {
    /// Asks the controller and waits until this agent follows what it did.
    pub(super) async fn ask(&self, request: Request) -> Result<Reply, ApiError> {
        let reply = self.link.request(request).await?;
        self.wait_revision(reply.revision).await?;
        Ok(reply)
    }

    /// Waits until the fabric follows `revision`.
    pub(super) async fn wait_revision(&self, revision: Revision) -> Result<(), ApiError> {
        let mut applied = self.applied.subscribe();
        let arrived = applied.wait_for(|applied| applied.revision >= revision);
        match tokio::time::timeout(ARRIVAL_PATIENCE, arrived).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ApiError::unavailable(
                "lagging",
                format!("the controller did it (revision {revision}), but this agent hasn't heard of it yet"),
            )
            .hint("see `weft status`")),
        }
    }

    /// The network of that name. One that was made elsewhere a moment ago may not have come here yet: the controller is
    /// asked how far the cluster is before a name is called unknown.
    pub(super) async fn find_network(&self, name: &str) -> Result<Network, ApiError> {
        if let Some(network) = self.inner().map.network_named(name) {
            return Ok(network.clone());
        }
        let asked = self.catch_up().await;
        if let Some(network) = self.inner().map.network_named(name) {
            return Ok(network.clone());
        }
        let shown = brief(name);
        let error =
            ApiError::not_found("unknown_network", format!("network {shown:?} is not known"));
        Err(match asked {
            Ok(_) => error.hint("see `weft network ls`, or make it with `weft network create`"),
            Err(_) => error.hint("no controller answers, so it may be newer than this agent's map; see `weft status`"),
        })
    }

    pub(super) async fn network_create(
        &self,
        create: api::NetworkCreate,
    ) -> Result<api::NetworkInfo, ApiError> {
        let name = create.name.clone();
        self.ask(Request::CreateNetwork { create }).await?;
        self.network_info(&name).await
    }

    pub(super) async fn network_change(
        &self,
        name: String,
        change: api::NetworkChange,
    ) -> Result<api::NetworkInfo, ApiError> {
        self.ask(Request::ChangeNetwork {
            name: name.clone(),
            change,
        })
        .await?;
        self.network_info(&name).await
    }

    async fn network_info(&self, name: &str) -> Result<api::NetworkInfo, ApiError> {
        let mut info = {
            let inner = self.inner();
            let network = inner.map.network_named(name).ok_or_else(|| {
                ApiError::conflict(
                    "gone",
                    format!("network {name} was removed again by somebody else"),
                )
            })?;
            let complete = |id: &NetworkId| inner.interest.is_complete(id);
            self.network_view(&inner.map, network, complete)
        };
        self.count_endpoints(std::slice::from_mut(&mut info)).await;
        Ok(info)
    }

    pub(super) async fn network_rm(&self, name: String) -> Result<(), ApiError> {
        self.ask(Request::RemoveNetwork { name }).await.map(drop)
    }

    pub(super) async fn network_prune(&self) -> Result<api::Pruned, ApiError> {
        let reply = self.ask(Request::PruneNetworks).await?;
        Ok(api::Pruned {
            removed: reply.names,
        })
    }

    pub(super) async fn network_inspect(&self, name: &str) -> Result<api::NetworkDetail, ApiError> {
        let network = self.find_network(name).await?;
        let map = self.map_with(std::slice::from_ref(&network.id)).await?;
        Ok(self.network_detail(&map, &network))
    }

    pub(super) async fn vtep_add(&self, network: String, address: IpAddr) -> Result<(), ApiError> {
        self.ask(Request::AddVtep { network, address })
            .await
            .map(drop)
    }

    pub(super) async fn vtep_rm(&self, network: String, address: IpAddr) -> Result<(), ApiError> {
        self.ask(Request::RemoveVtep { network, address })
            .await
            .map(drop)
    }

    pub(super) async fn node_rm(&self, name: String) -> Result<(), ApiError> {
        self.ask(Request::RemoveNode { name }).await.map(drop)
    }

    /// `weft agent stop`: what it answers still reaches the caller.
    pub(super) async fn end(
        self: &Arc<Self>,
        request: api::Stop,
    ) -> Result<api::Stopping, ApiError> {
        self.inner().stopping = true;
        let removed = if request.remove_ports {
            self.remove_ports().await
        } else {
            Vec::new()
        };
        let left = self.inner().ports.len();
        self.stop.notify_one();
        Ok(api::Stopping { removed, left })
    }

    /// Takes all ports down, also those that are just being connected; says which.
    async fn remove_ports(self: &Arc<Self>) -> Vec<String> {
        let mut removed = Vec::new();
        let deadline = Instant::now() + LAST_CONNECTS;
        loop {
            let next = {
                let inner = self.inner();
                let first = inner.ports.iter().next();
                first.map(|(id, port)| (id.clone(), port.record.endpoint.name.clone()))
            };
            match next {
                // False when its namespace has just died: then it goes without us.
                Some((id, name)) if self.take_down(&id).await => removed.push(name),
                None if self.inner().pending.is_empty() => return removed,
                Some(_) | None if Instant::now() > deadline => return removed,
                Some(_) | None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// Says on the log what outlives the agent, and how to end that.
    pub(super) fn tell_what_stays(&self) {
        let ports = self.inner().ports.len();
        match self.keeper.pid() {
            Some(holder) if ports > 0 => info!(
                ports,
                holder,
                "stopped; the fd holder keeps the ports for the next start (to end them too: `weft agent stop --remove-ports` while the agent runs, or now `kill {holder}`)"
            ),
            Some(_) | None => info!("stopped"),
        }
    }

    /// How the agent is, in a line for the service manager. Takes the locks that requests take.
    pub(super) fn summary(&self) -> String {
        let inner = self.inner();
        let peers = self.fabric().applied().peers.len();
        let controller = match inner.channel.connected {
            Some(address) => format!("controller {address}"),
            None => "no controller answers".to_owned(),
        };
        format!(
            "node {}: {} ports, {peers} peers, {controller}",
            self.facts.node_name,
            inner.ports.len()
        )
    }

    /// `weft status`.
    pub(super) fn status(&self) -> api::Status {
        let applied = self.applied.borrow().clone();
        let mut inner = self.inner();
        let claims = inner.duplicate_warnings();
        let fabric = self.fabric();
        let channel = &inner.channel;
        let mut warnings = inner.warnings.clone();
        warnings.extend(claims);
        warnings.extend(fabric.applied().warnings.iter().cloned());
        warnings.extend(inner.unsaved_warnings());
        let survive = self.keeper.answers();
        if !survive {
            warnings.push(
                "the fd holder doesn't answer: ports would not survive the agent now".to_owned(),
            );
        }
        let credentials = self.link.identity().borrow().credentials();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        api::Status {
            certificate: Some(api::CertificateStatus {
                expires: credentials.expires,
                expires_in_secs: credentials.expires.saturating_sub(now),
                issuer: credentials.issuer,
            }),
            node: self.facts.node_name.clone(),
            node_id: self.facts.node.to_string(),
            cluster: self.facts.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.facts.started.elapsed().as_secs(),
            underlay: self.facts.underlay,
            underlay_ifname: self.facts.underlay_ifname.clone(),
            underlay_mtu: **self.underlay_mtu.load(),
            vxlan_port: self.facts.vxlan_port,
            encrypted_port: self.facts.encrypted_port,
            standalone: self.facts.standalone,
            controller: api::ControllerStatus {
                addresses: channel.addresses.clone(),
                connected: channel.connected,
                since_secs: channel.since.elapsed().as_secs(),
                error: channel.error.clone(),
            },
            revision: applied.revision,
            in_sync: applied.behind.is_none(),
            not_in_sync: applied.behind,
            workers: self.facts.workers,
            ports: inner.ports.len(),
            networks: inner.map.networks.len(),
            heard: Some(inner.heard()),
            peers: fabric.applied().peers.len(),
            ports_survive: survive,
            warnings,
        }
    }

    /// `weft status --wait`: in sync with what the cluster is at the moment of asking.
    pub(super) async fn wait_in_sync(
        self: &Arc<Self>,
        deadline: Instant,
    ) -> Result<api::Status, ApiError> {
        loop {
            let mut applied = self.applied.subscribe();
            let in_sync = applied.wait_for(|applied| applied.behind.is_none());
            if tokio::time::timeout_at(deadline, in_sync).await.is_err() {
                let why = self.applied.borrow().behind.clone().unwrap_or_default();
                return Err(ApiError::unavailable(
                    "not_in_sync",
                    format!("the agent is not in sync: {why}"),
                )
                .hint("see `weft status` and the agent's log"));
            }
            // The controller may know of changes that are still under way to here.
            if let Ok(asked) = tokio::time::timeout_at(deadline, self.catch_up()).await
                && asked.is_ok()
            {
                return Ok(self.status());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let Refusal {
            code,
            message,
            hint,
        } = refusal;
        let status = match code.as_str() {
            code if code.starts_with("unknown") || code.starts_with("not_") => 404,
            code if code.starts_with("bad_") || code.starts_with("invalid") => 400,
            _ => 409,
        };
        Self {
            status,
            reply: api::ErrorReply {
                code,
                message,
                hint,
            },
        }
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => refusal.into(),
            RequestError::Offline { why } => {
                Self::unavailable("offline", format!("no controller answers: {why}"))
                    .hint("traffic goes on; see `weft status`, and start or reach a controller")
            }
            RequestError::TimedOut => {
                Self::unavailable("timed_out", "the controller did not answer in time")
                    .hint("it may have been done or not: look, then try again")
            }
        }
    }
}
