//! The end of a port: `disconnect`, or the death of its namespace, takes back what `attach` made.
//!
//! The file descriptors go first and the record on disk after them, so a record without file descriptors always means a
//! dead port.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::attach::open_netns;
use super::views::port_view;
use super::{Agent, ApiError, Port};
use crate::api;
use crate::model::EndpointId;
use crate::netns::Netns;

/// How long the end of a port that others have begun is waited for.
const LEAVING_PATIENCE: Duration = Duration::from_secs(5);
/// How long a port that is just being made is waited for: as long as one may take while no controller answers.
const BEGINNING_PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Agent {
    /// `weft network disconnect`.
    ///
    /// # Errors
    /// [`ApiError`] when no port, or more than one, fits the description.
    pub(super) async fn disconnect(
        self: &Arc<Self>,
        network: &str,
        request: api::Disconnect,
    ) -> Result<api::Port, ApiError> {
        let id = self.find_port(network, &request).await?;
        let gone = || {
            ApiError::not_found(
                "not_connected",
                format!("that port of network {network} is just going"),
            )
        };
        let view = {
            let inner = self.inner();
            let port = inner.ports.get(&id).ok_or_else(gone)?;
            let traffic = self.fabric().port_traffic(port.id);
            port_view(port, traffic)
        };
        if !self.take_down(&id).await {
            return Err(gone());
        }
        info!(network, port = %view.name, "disconnected");
        Ok(view)
    }

    /// The end of an attachment. Answers in the same way when there is none (any more), so that it may be asked again.
    /// When it has answered, name and addresses are free again, also where the namespace's death came first.
    ///
    /// # Errors
    /// None but the agent's own failure.
    pub(super) async fn detach(
        self: &Arc<Self>,
        attachment: api::Attachment,
    ) -> Result<api::Detached, ApiError> {
        self.wait_for_pending(&attachment).await;
        let found = {
            let inner = self.inner();
            let mut ports = inner.ports.values();
            let port = ports.find(|port| port.record.attachment.as_ref() == Some(&attachment));
            port.map(|port| {
                let traffic = self.fabric().port_traffic(port.id);
                (port.record.endpoint.id.clone(), port_view(port, traffic))
            })
        };
        if let Some((id, view)) = found
            && self.take_down(&id).await
        {
            info!(owner = %attachment.owner, container = %attachment.container, port = %view.name, "detached");
            return Ok(api::Detached { port: Some(view) });
        }
        self.wait_for_leavers().await;
        Ok(api::Detached { port: None })
    }

    /// Waits until an attachment that is just being made is a port, or has failed, as far as that comes soon.
    async fn wait_for_pending(&self, attachment: &api::Attachment) {
        let deadline = Instant::now() + BEGINNING_PATIENCE;
        let is_pending = || {
            let inner = self.inner();
            let mut pending = inner.pending.values();
            pending.any(|pending| pending.attachment.as_ref() == Some(attachment))
        };
        while is_pending() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits until the ports that are just being taken down are gone, as far as that comes soon.
    pub(super) async fn wait_for_leavers(&self) {
        let leaving: Vec<EndpointId> = self.inner().leaving.keys().cloned().collect();
        let deadline = Instant::now() + LEAVING_PATIENCE;
        let any_left = || {
            let inner = self.inner();
            leaving.iter().any(|id| inner.leaving.contains_key(id))
        };
        while any_left() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn find_port(
        &self,
        network: &str,
        request: &api::Disconnect,
    ) -> Result<EndpointId, ApiError> {
        let netns = match (&request.netns, &request.name) {
            (None, None) => {
                return Err(ApiError::bad_request(
                    "bad_request",
                    "disconnect needs a namespace (--netns, --pid) or an endpoint name (--name)",
                ));
            }
            (Some(netns), None) => Some(open_netns(netns).await?),
            // The name is enough, also when the namespace has gone.
            (_, Some(_)) => None,
        };
        let found = self.ports_like(network, request, netns.as_ref().map(Netns::id));
        match found.as_slice() {
            [(id, _)] => Ok(id.clone()),
            [] => {
                let elsewhere = match &request.name {
                    Some(name) => self.node_of(network, name).await,
                    None => None,
                };
                Err(not_connected(network, request, elsewhere))
            }
            [(_, netns), ..] => Err(ApiError::conflict(
                "ambiguous",
                format!("{netns} has {} ports on network {network}", found.len()),
            )
            .hint("say which one with --name; see `weft ports`")),
        }
    }

    /// Ports that fit the description, with their namespaces.
    fn ports_like(
        &self,
        network: &str,
        request: &api::Disconnect,
        netns: Option<(u64, u64)>,
    ) -> Vec<(EndpointId, String)> {
        let inner = self.inner();
        let fits = |port: &&Port| {
            port.record.network_name == network
                && match (&request.name, netns) {
                    (Some(name), _) => port.record.endpoint.name == *name,
                    (None, Some(netns)) => port.record.netns_id == netns,
                    (None, None) => false,
                }
        };
        let found = inner.ports.values().filter(fits);
        let named = |port: &Port| (port.record.endpoint.id.clone(), port.record.netns.clone());
        found.map(named).collect()
    }

    /// Takes a port down and everything with it. False when it was being taken down already.
    pub(super) async fn take_down(self: &Arc<Self>, id: &EndpointId) -> bool {
        let (endpoint, netns_with_dns) = {
            let mut inner = self.inner();
            let Some(port) = inner.ports.get(id) else {
                return false;
            };
            let endpoint = port.record.endpoint.clone();
            let netns = port.record.dns.then(|| port.record.netns.clone());
            if inner.leaving.contains_key(id) {
                return false;
            }
            inner.leaving.insert(id.clone(), endpoint.clone());
            (endpoint, netns)
        };
        self.unplug(id).await;
        if let Some(netns) = netns_with_dns {
            let agent = Arc::clone(self);
            let _ = tokio::task::spawn_blocking(move || agent.follow_resolv_conf(&netns)).await;
        }
        if let Err(error) = self.save_ports().await {
            // The record outlives its TAP: the next start sees that and drops it.
            warn!(error = %error.reply.message, "port is gone but still on disk");
        }
        self.withdraw(&endpoint).await;
        self.changed.notify_one();
        true
    }

    /// Pulls the port's plug: switch, holder and our own file descriptors, whereupon the kernel destroys the TAP.
    pub(super) async fn unplug(self: &Arc<Self>, id: &EndpointId) {
        let (agent, id) = (Arc::clone(self), id.clone());
        let done = tokio::task::spawn_blocking(move || {
            agent.fabric().remove_port(&id);
            let port = agent.inner().ports.remove(&id);
            if let Some(port) = &port {
                if !port.record.published.is_empty() {
                    agent.outside.close_ports(&port.record.endpoint);
                }
                agent.outside.container_gone(&port.record.endpoint);
            }
            // After it is no port of ours any more: a new holder that is just being filled must not get it back.
            agent.keeper.forget(&id.0);
            // Closing the last file descriptor waits for the kernel to tear the device down: not under a lock.
            drop(port);
        });
        if done.await.is_err() {
            warn!("taking a port down failed half-way; the next start of the agent cleans up");
        }
    }
}

fn not_connected(network: &str, request: &api::Disconnect, elsewhere: Option<String>) -> ApiError {
    let what = match (&request.name, &request.netns) {
        (Some(name), _) => format!("endpoint {name}"),
        (None, Some(api::NetnsArg::Name(name))) => format!("namespace {name}"),
        (None, Some(api::NetnsArg::Path(path))) => format!("namespace {}", path.display()),
        (None, Some(api::NetnsArg::Pid(pid))) => format!("process {pid}"),
        (None, Some(api::NetnsArg::Host)) => "this host".to_owned(),
        (None, None) => "nothing".to_owned(),
    };
    let error = ApiError::not_found(
        "not_connected",
        format!("{what} has no port on network {network} on this node"),
    );
    match elsewhere {
        Some(node) => error.hint(format!("it is on node {node}: disconnect it there")),
        None => error.hint("see `weft ports`"),
    }
}
