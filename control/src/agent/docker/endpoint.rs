//! Containers' interfaces. An endpoint is pending from `CreateEndpoint` to `Join` and a port from then on. A container with
//! several has one that is its way out, which Docker chooses and may change: that one gets the published ports.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use tracing::info;
use weft_switch::port;

use super::network::IPAM_LEFT_OUT;
use super::{now, short};
use crate::agent::{Agent, ApiError, Pending};
use crate::api::{PortProtocol, Publish};
use crate::docker::ledger::EndpointEntry;
use crate::docker::wire::{CreateEndpoint, EndpointRef, PortBinding, Reply};
use crate::model::{Endpoint, EndpointId, Network, Subnet};

impl Agent {
    pub(super) async fn docker_create_endpoint(
        self: &Arc<Self>,
        call: CreateEndpoint,
    ) -> Result<Reply, ApiError> {
        let id = call.of.endpoint;
        let before = self.docker.ledger().endpoint(&id).cloned();
        let mac_for = |endpoint: &Endpoint| call.mac.is_none().then_some(endpoint.mac);
        if let Some(entry) = before {
            // Docker asks again when it didn't hear the answer.
            let mac = mac_for(&entry.endpoint);
            return Ok(Reply::Endpoint { mac });
        }
        let network = self.docker_network(&call.of.network).await?;
        self.check_place(&network)?;
        let _heard = self.hear_of(&network).await?;
        // The container's name isn't known yet: `host` learns it.
        let guard = self.reserve_as(&network, &format!("docker-{}", short(&id)))?;
        let wanted = (call.ips.as_slice(), call.mac);
        let filled = self.fill_given(&guard, &network, wanted).await;
        let endpoint = filled.map_err(|error| self.explain_address(error, &network, &call.ips))?;
        self.announce_new(&endpoint).await?;
        let entry = EndpointEntry {
            network: call.of.network,
            endpoint: endpoint.clone(),
            joined: false,
            since: now(),
        };
        let noted = self
            .note(move |ledger| ledger.add_endpoint(&id, entry))
            .await;
        if let Err(error) = noted {
            self.withdraw(&endpoint).await;
            return Err(error);
        }
        guard.keep();
        let mac = mac_for(&endpoint);
        Ok(Reply::Endpoint { mac })
    }

    /// An address of weft's own pools is taken by nobody else; where another IPAM driver gave it, that is why.
    fn explain_address(&self, error: ApiError, network: &Network, ips: &[IpAddr]) -> ApiError {
        let inner = self.inner();
        let ours = |ip: &IpAddr| inner.held.contains(&(network.id.clone(), *ip));
        if error.reply.code != "ip_taken" || ips.iter().all(ours) {
            return error;
        }
        drop(inner);
        error.hint(IPAM_LEFT_OUT)
    }

    /// The overlay of a Docker network.
    async fn docker_network(self: &Arc<Self>, id: &str) -> Result<Network, ApiError> {
        let wish = self
            .docker
            .ledger()
            .network(id)
            .map(|entry| entry.wish.clone());
        let wish = wish.ok_or_else(|| {
            ApiError::not_found(
                "unknown_network",
                format!("Docker network {} isn't known to weft on this host", short(id)),
            )
            .hint("it was made with another state directory of weft: `docker network rm` it and make it again")
        })?;
        self.overlay(&wish).await
    }

    pub(super) async fn docker_join(
        self: &Arc<Self>,
        of: EndpointRef,
        sandbox: String,
    ) -> Result<Reply, ApiError> {
        let id = of.endpoint;
        let (endpoint, network) = self.known_endpoint(&id)?;
        let internal = network.internal;
        let gateways = if self.leads_out(&of.network) && !internal {
            let subnets = network.subnets.iter();
            let of_family =
                |subnet: &&Subnet| endpoint.ips.iter().any(|ip| subnet.cidr.contains(ip));
            subnets
                .filter(of_family)
                .map(|subnet| subnet.gateway)
                .collect()
        } else {
            Vec::new()
        };
        if let Some(ifname) = self.loose_name(&endpoint.id) {
            return Ok(Reply::Joined {
                ifname,
                gateways,
                internal,
            });
        }
        let _heard = self.hear_of(&network).await?;
        self.expect_endpoint(&endpoint).await?;
        let ifname = self
            .plug_loose(&network, endpoint.clone(), &sandbox)
            .await?;
        let noted = self.note(move |ledger| ledger.note_joined(&id)).await;
        if let Err(error) = noted {
            self.unplug(&endpoint.id).await;
            return Err(error);
        }
        Ok(Reply::Joined {
            ifname,
            gateways,
            internal,
        })
    }

    /// An endpoint that Docker made, and the overlay that it is on.
    fn known_endpoint(&self, id: &str) -> Result<(Endpoint, Network), ApiError> {
        let entry = self.docker.ledger().endpoint(id).cloned();
        let entry = entry.ok_or_else(|| {
            ApiError::not_found(
                "unknown_endpoint",
                format!(
                    "Docker endpoint {} isn't known to weft on this host",
                    short(id)
                ),
            )
            .hint("start the container again")
        })?;
        let network = self.inner().map.network(&entry.endpoint.network).cloned();
        let network = network.ok_or_else(|| {
            ApiError::conflict(
                "network_gone",
                "the overlay of this endpoint was removed meanwhile",
            )
            .hint("start the container again")
        })?;
        Ok((entry.endpoint, network))
    }

    /// Whether a Docker network's containers leave by weft, and are reached by it.
    fn leads_out(&self, network: &str) -> bool {
        let ledger = self.docker.ledger();
        ledger
            .network(network)
            .is_some_and(|entry| entry.wish.gateway)
    }

    /// An endpoint is its container's way out. Where it leaves by weft, published ports are weft's too; else they are
    /// Docker's, on its own bridge.
    pub(super) async fn docker_program(
        self: &Arc<Self>,
        of: EndpointRef,
        wanted: Vec<PortBinding>,
    ) -> Result<Reply, ApiError> {
        if wanted.is_empty() || !self.leads_out(&of.network) {
            return Ok(Reply::Done);
        }
        let (endpoint, network) = self.known_endpoint(&of.endpoint)?;
        if network.internal {
            return Ok(Reply::Done);
        }
        let publish: Result<Vec<_>, _> = wanted.iter().map(published).collect();
        self.publish(&network, &endpoint.id, publish?).await?;
        Ok(Reply::Done)
    }

    /// An endpoint is its container's way out no longer: the ports may be another one's in a moment.
    pub(super) async fn docker_revoke(self: &Arc<Self>, id: String) -> Result<Reply, ApiError> {
        let entry = self.docker.ledger().endpoint(&id).cloned();
        if let Some(entry) = entry {
            self.unpublish(&entry.endpoint.id).await?;
        }
        Ok(Reply::Done)
    }

    /// The interface's name, if it is made already.
    fn loose_name(&self, id: &EndpointId) -> Option<String> {
        let inner = self.inner();
        let fd = inner.ports.get(id)?.fds.first()?;
        port::device_name(fd.as_fd()).ok()
    }

    /// The cluster knows the endpoint. It doesn't any more if its last interface died with its container.
    async fn expect_endpoint(self: &Arc<Self>, endpoint: &Endpoint) -> Result<(), ApiError> {
        {
            let mut inner = self.inner();
            if inner.pending.contains_key(&endpoint.id) {
                return Ok(());
            }
            let pending = Pending {
                endpoint: endpoint.clone(),
                netns_id: (0, 0),
                attachment: None,
                complete: true,
                refused: None,
            };
            inner.pending.insert(endpoint.id.clone(), pending);
        }
        let told = self.announce(endpoint).await;
        if told.is_err() {
            self.inner().pending.remove(&endpoint.id);
        }
        told.map(drop)
    }

    pub(super) async fn docker_delete_endpoint(
        self: &Arc<Self>,
        id: String,
    ) -> Result<Reply, ApiError> {
        let entry = self.docker.ledger().endpoint(&id).cloned();
        let Some(entry) = entry else {
            return Ok(Reply::Done);
        };
        let endpoint = entry.endpoint;
        // A crash from here on leaves an entry that Docker doesn't know, which `host` finds.
        if !self.take_down(&endpoint.id).await {
            // Docker gives the addresses to others when it has its answer: whoever has begun the end gets to it first.
            self.wait_for_leavers().await;
            self.withdraw(&endpoint).await;
        }
        info!(port = %endpoint.name, docker_endpoint = short(&id), "endpoint of Docker removed");
        self.note(move |ledger| ledger.remove_endpoint(&id, now()))
            .await?;
        Ok(Reply::Done)
    }
}

/// What Docker wants published, as weft does it. Docker never asks a remote driver which port it took, so that
/// `docker port` couldn't tell: only ports that the user named are opened.
fn published(binding: &PortBinding) -> Result<Publish, ApiError> {
    let unsupported = |why: String| ApiError::bad_request("unsupported", why);
    let protocol = match binding.protocol {
        6 => PortProtocol::Tcp,
        17 => PortProtocol::Udp,
        other => {
            let why = format!(
                "port {} of protocol {other} can't be published",
                binding.port
            );
            return Err(unsupported(why).hint("weft publishes TCP and UDP"));
        }
    };
    if binding.host_port == 0 || binding.host_port_end > binding.host_port {
        let why = format!(
            "no single port of the host is named for port {}",
            binding.port
        );
        return Err(unsupported(why).hint(
            "name it (-p 8080:80): weft publishes the ports of this network (weft.gateway=on), and `docker port` couldn't show which was taken",
        ));
    }
    Ok(Publish {
        ip: binding.host_ip,
        host_port: binding.host_port,
        port: binding.port,
        protocol,
        proxy: None,
        keep_source: false,
    })
}
