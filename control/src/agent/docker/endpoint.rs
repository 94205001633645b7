//! Containers' interfaces. An endpoint is pending from `CreateEndpoint` to `Join` and a port from then on.

use std::sync::Arc;

use tracing::info;
use weft_switch::port;

use std::os::fd::AsFd;

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
        let (network, gateway) = self.docker_network(&call.of.network).await?;
        self.check_place(&network)?;
        let _heard = self.hear_of(&network).await?;
        // Else they are opened by Docker, on its own bridge.
        let publish = match gateway {
            true => call
                .publish
                .iter()
                .map(published)
                .collect::<Result<Vec<_>, _>>()?,
            false => Vec::new(),
        };
        // What can't be had is said now. They are bound for good when there is an interface to lead to.
        drop(self.bind_published(&network, &publish)?);
        // The container's name isn't known yet: `host` learns it.
        let guard = self.reserve_as(&network, &format!("docker-{}", short(&id)))?;
        let wanted = (call.ips.as_slice(), call.mac);
        let endpoint = self.fill_given(&guard, &network, wanted).await?;
        self.announce_new(&endpoint).await?;
        let entry = EndpointEntry {
            network: call.of.network,
            endpoint: endpoint.clone(),
            publish,
            joined: false,
            since: now(),
        };
        let noted = self
            .note(move |ledger| ledger.add_endpoint(&id, entry))
            .await;
        if let Err(error) = noted {
            drop(guard);
            self.withdraw(&endpoint).await;
            return Err(error);
        }
        guard.keep();
        let mac = mac_for(&endpoint);
        Ok(Reply::Endpoint { mac })
    }

    /// The overlay of a Docker network, and whether it is the containers' way out.
    async fn docker_network(self: &Arc<Self>, id: &str) -> Result<(Network, bool), ApiError> {
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
        Ok((self.overlay(&wish).await?, wish.gateway))
    }

    pub(super) async fn docker_join(
        self: &Arc<Self>,
        of: EndpointRef,
        sandbox: String,
    ) -> Result<Reply, ApiError> {
        let id = of.endpoint;
        let entry = self.docker.ledger().endpoint(&id).cloned();
        let entry = entry.ok_or_else(|| {
            ApiError::not_found(
                "unknown_endpoint",
                format!(
                    "Docker endpoint {} isn't known to weft on this host",
                    short(&id)
                ),
            )
            .hint("start the container again")
        })?;
        let endpoint = entry.endpoint;
        let way_out = self
            .docker
            .ledger()
            .network(&entry.network)
            .is_some_and(|of| of.wish.gateway);
        let network = self.inner().map.network(&endpoint.network).cloned();
        let network = network.ok_or_else(|| {
            ApiError::conflict(
                "network_gone",
                "the overlay of this endpoint was removed meanwhile",
            )
            .hint("start the container again")
        })?;
        let gateways = if way_out && !network.internal {
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
            return Ok(Reply::Joined { ifname, gateways });
        }
        let _heard = self.hear_of(&network).await?;
        self.expect_endpoint(&endpoint).await?;
        let ifname = self
            .plug_loose(&network, (endpoint.clone(), entry.publish), &sandbox)
            .await?;
        let noted = self.note(move |ledger| ledger.note_joined(&id)).await;
        if let Err(error) = noted {
            self.unplug(&endpoint.id).await;
            return Err(error);
        }
        Ok(Reply::Joined { ifname, gateways })
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
            let pending = self.inner().pending.remove(&endpoint.id);
            if pending.is_some() {
                self.withdraw(&endpoint).await;
            }
        }
        info!(port = %endpoint.name, docker_endpoint = short(&id), "endpoint of Docker removed");
        self.note(move |ledger| ledger.remove_endpoint(&id)).await?;
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
