//! Published ports of endpoints: checked and bound before anything else of a connect is made, given to the way out's
//! engine, closed with the port, bound again by the next agent.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::warn;

use super::attach::blocking;
use super::state::PortRecord;
use super::{Agent, ApiError};
use crate::api::{PortProtocol, Publish};
use crate::egress::{Listening, listen};
use crate::model::{EndpointId, Network};

/// Ports that one endpoint publishes at most: each is a socket, or two.
const MAX_PUBLISHED: usize = 1024;

fn not_there() -> ApiError {
    ApiError::conflict(
        "not_connected",
        "the endpoint whose ports are to be published has no interface",
    )
    .hint("start the container again")
}

/// Sockets of an endpoint that is not there yet.
#[derive(Debug, Default)]
pub(super) struct Bound(Vec<(Publish, Vec<socket2::Socket>)>);

impl Agent {
    /// Binds what a connect wants published. Nobody is answered before [`Self::serve_published`].
    pub(super) fn bind_published(
        &self,
        network: &Network,
        wanted: &[Publish],
    ) -> Result<Bound, ApiError> {
        if wanted.is_empty() {
            return Ok(Bound::default());
        }
        if network.is_plain_l2() {
            let message = format!(
                "network {} is plain L2: it has no gateway that clients could come from",
                network.name
            );
            return Err(ApiError::bad_request("no_gateway", message)
                .hint("publish ports of an endpoint on a network with a --subnet"));
        }
        if wanted.len() > MAX_PUBLISHED {
            let message = format!(
                "{} ports to publish are more than {MAX_PUBLISHED}",
                wanted.len()
            );
            return Err(ApiError::bad_request("too_many_ports", message));
        }
        let mut bound: Vec<(Publish, Vec<socket2::Socket>)> = Vec::with_capacity(wanted.len());
        for publish in wanted {
            publish
                .check()
                .map_err(|why| ApiError::bad_request("bad_publish", why))?;
            if bound.iter().any(|(other, _)| other.clashes(publish)) {
                let message = format!("{} is to be published twice", publish.listens_at());
                return Err(ApiError::bad_request("bad_publish", message));
            }
            bound.push((publish.clone(), self.bind(publish)?));
        }
        Ok(Bound(bound))
    }

    /// A runtime asks for a container's ports on each of its networks: the first one publishes.
    pub(super) fn leave_out_published(&self, netns: (u64, u64), wanted: &mut Vec<Publish>) {
        let inner = self.inner();
        let ports = inner.ports.values().map(|port| &port.record);
        let own: Vec<&Publish> = ports
            .filter(|record| record.netns_id == netns)
            .flat_map(|record| &record.published)
            .collect();
        wanted.retain(|wanted| !own.contains(&wanted));
    }

    fn bind(&self, publish: &Publish) -> Result<Vec<socket2::Socket>, ApiError> {
        let stream = publish.protocol == PortProtocol::Tcp;
        listen(stream, publish.ip, publish.host_port).map_err(|error| {
            let what = publish.listens_at();
            if error.kind() != io::ErrorKind::AddrInUse {
                let message = format!("cannot listen at {what}: {error}");
                return ApiError::conflict("cannot_publish", message)
                    .hint("only ports and addresses of this host can be published");
            }
            match self.publisher(publish) {
                Some(holder) => ApiError::conflict(
                    "port_taken",
                    format!("{what} is published for {holder} already"),
                )
                .hint("take another port of the host, or disconnect that endpoint"),
                None => ApiError::conflict(
                    "port_taken",
                    format!("{what} is taken by another program of this host"),
                )
                .hint("`ss -lntup` shows which; take another port of the host"),
            }
        })
    }

    /// The endpoint that publishes a port.
    fn publisher(&self, wanted: &Publish) -> Option<String> {
        let inner = self.inner();
        let mut ports = inner.ports.values().map(|port| &port.record);
        let holder = ports.find(|record| record.published.iter().any(|own| own.clashes(wanted)))?;
        Some(format!(
            "endpoint {} (network {})",
            holder.endpoint.name, holder.network_name
        ))
    }

    /// The same for an endpoint that was just connected; one that is gone already closes its sockets.
    pub(super) fn serve_bound(&self, id: &EndpointId, bound: Bound) {
        let inner = self.inner();
        if let Some(port) = inner.ports.get(id) {
            // Under the lock: the port's end, which closes them, can't come in between.
            self.serve_published(&port.record, bound);
        }
    }

    /// Publishes ports for an endpoint that is there, instead of what it published before. Nothing is published when this
    /// fails.
    ///
    /// # Errors
    /// What [`Self::bind_published`] refuses; the endpoint has no interface; the state can't be written.
    pub(super) async fn publish(
        self: &Arc<Self>,
        network: &Network,
        id: &EndpointId,
        wanted: Vec<Publish>,
    ) -> Result<(), ApiError> {
        {
            let inner = self.inner();
            let port = inner.ports.get(id).ok_or_else(not_there)?;
            if port.record.published == wanted {
                return Ok(());
            }
        }
        self.unpublish(id).await?;
        let bound = self.bind_published(network, &wanted)?;
        {
            let mut inner = self.inner();
            let port = inner.ports.get_mut(id).ok_or_else(not_there)?;
            port.record.published = wanted;
            self.serve_published(&port.record, bound);
        }
        let saved = self.save_ports().await;
        if saved.is_err() {
            // It would be open until the next agent, and not from then on.
            self.close_published(id).await?;
        }
        saved
    }

    /// Closes what an endpoint publishes, if it does and is there.
    ///
    /// # Errors
    /// The state can't be written: the next agent would open the ports again.
    pub(super) async fn unpublish(self: &Arc<Self>, id: &EndpointId) -> Result<(), ApiError> {
        match self.close_published(id).await? {
            true => self.save_ports().await,
            false => Ok(()),
        }
    }

    /// Whether there was something to close.
    async fn close_published(self: &Arc<Self>, id: &EndpointId) -> Result<bool, ApiError> {
        let endpoint = {
            let mut inner = self.inner();
            let port = inner.ports.get_mut(id);
            let port = port.filter(|port| !port.record.published.is_empty());
            port.map(|port| {
                port.record.published.clear();
                port.record.endpoint.clone()
            })
        };
        let Some(endpoint) = endpoint else {
            return Ok(false);
        };
        let agent = Arc::clone(self);
        blocking(move || {
            agent.outside.close_ports(&endpoint);
            Ok(true)
        })
        .await
    }

    /// From now on clients are connected with the endpoint.
    pub(super) fn serve_published(&self, record: &PortRecord, bound: Bound) {
        let ips: Vec<IpAddr> = record.addresses.iter().map(ipnet::IpNet::addr).collect();
        let listeners = bound.0.into_iter().flat_map(|(publish, sockets)| {
            let ips = ips.clone();
            sockets.into_iter().map(move |socket| Listening {
                socket,
                stream: publish.protocol == PortProtocol::Tcp,
                ips: ips.clone(),
                mac: record.endpoint.mac,
                port: publish.port,
                proxy: publish.proxy,
                keep_source: publish.keep_source,
            })
        });
        let listeners: Vec<Listening> = listeners.collect();
        if !listeners.is_empty() {
            self.outside.publish_ports(&record.endpoint, listeners);
        }
    }

    /// Binds again what the last agent had published for an endpoint. What can't be had is said and left out: the
    /// endpoint lives on.
    pub(super) fn restore_published(&self, record: &PortRecord) {
        let mut bound = Bound::default();
        for publish in &record.published {
            match self.bind(publish) {
                Ok(sockets) => bound.0.push((publish.clone(), sockets)),
                Err(error) => {
                    let (port, why) = (&record.endpoint.name, error.reply.message);
                    warn!(%port, %why, "a published port could not be had again");
                    let text = format!("{port} is not published as it was: {why}");
                    self.inner().warnings.push(text);
                }
            }
        }
        self.serve_published(record, bound);
    }
}
