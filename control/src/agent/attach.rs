//! The beginning of a port: `connect` reserves a name, addresses and a MAC, tells the controller, makes the TAP and plugs
//! it in.
//!
//! Whatever fails on the way undoes what came before it, in reverse; a crash in the middle leaves a TAP that dies with the
//! agent's file descriptors and an endpoint that the next full report to the controller leaves out. The record on disk is
//! written last. `detach` is the way back.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tracing::info;
use weft_switch::port::TapDevice;

use super::line::behind_line;
use super::plan::{carriage, effective_mtu};
use super::resolv;
use super::state::{PortRecord, StateError};
use super::views::port_view;
use super::{Agent, ApiError, Port};
use crate::api;
use crate::channel::messages::STORE_FAILED;
use crate::channel::{Request, RequestError};
use crate::model::{Endpoint, EndpointId, Network};
use crate::netns::{self, Netns};

mod device;
mod loose;
mod reservation;
mod validate;

pub(super) use reservation::PendingGuard;

use device::{make_device, with_prefixes};
use validate::{check_fit, check_protection, check_request};

impl Agent {
    /// `weft network connect`.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is left of it then.
    pub(super) async fn connect(
        self: &Arc<Self>,
        network: &str,
        mut request: api::Connect,
    ) -> Result<api::Port, ApiError> {
        check_request(&request)?;
        let netns = open_netns(&request.netns).await?;
        if request.attachment.is_some() {
            self.leave_out_published(netns.id(), &mut request.publish);
        }
        let network = self.find_network(network).await?;
        check_fit(&network, &request)?;
        check_protection(&network, self.facts.encrypted_port)?;
        resolv::check(&network, &request)?;
        let _heard = self.hear_of(&network).await?;
        let bound = self.bind_published(&network, &request.publish)?;
        let pending = self.reserve(&network, &request, &netns).await?;
        let endpoint = self.fill(&pending, &network, &request).await?;
        self.announce_new(&endpoint).await?;
        match self.plug(&network, endpoint.clone(), netns, request).await {
            Ok(port) => {
                self.serve_bound(&endpoint.id, bound);
                Ok(port)
            }
            Err(error) => {
                self.withdraw(&endpoint).await;
                Err(error)
            }
        }
    }

    /// Tells the controller before anything is made, so that a conflict refuses the request. Without a controller the
    /// endpoint is told at the next full report, but not when the last one was told that the cluster won't have it, nor
    /// when it has an address that isn't this node's any more.
    ///
    /// # Errors
    /// [`ApiError`]; the controller doesn't have the endpoint then, or won't have it for long.
    pub(super) async fn announce_new(
        self: &Arc<Self>,
        endpoint: &Endpoint,
    ) -> Result<(), ApiError> {
        if self.announce(endpoint).await? {
            return Ok(());
        }
        let Some(why) = self.inner().unfit_unheard(endpoint) else {
            return Ok(());
        };
        self.withdraw(endpoint).await;
        Err(why)
    }

    /// Tells the controller of an endpoint. Says whether it heard it; if not it is told at the next full report.
    ///
    /// # Errors
    /// [`ApiError`]: it refuses the endpoint.
    pub(super) async fn announce(self: &Arc<Self>, endpoint: &Endpoint) -> Result<bool, ApiError> {
        if self.must_tell() {
            // What the controller still has of ports that are gone must not stand in this one's way. If it isn't told
            // now it is told of all of them later.
            let _ = self.tell_endpoints().await;
        }
        let _order = self.reporting.read().await;
        match self
            .link
            .request(Request::PutEndpoint {
                endpoint: endpoint.clone(),
            })
            .await
        {
            Ok(_) => {
                if let Some(pending) = self.inner().pending.get_mut(&endpoint.id) {
                    pending.refused = None;
                }
                Ok(true)
            }
            Err(RequestError::Refused(refusal)) => {
                if refusal.code == STORE_FAILED {
                    // The controller may have it nevertheless.
                    self.tell_later();
                }
                Err(refusal.into())
            }
            Err(RequestError::Offline { .. } | RequestError::TimedOut) => {
                self.tell_later();
                Ok(false)
            }
        }
    }

    /// Takes an announced endpoint back, and the addresses that were claimed for it. Returns when our own map shows it, too,
    /// where that comes soon. Until then nothing else here gets its name, MAC and addresses, and no full report names it.
    pub(super) async fn withdraw(self: &Arc<Self>, endpoint: &Endpoint) {
        {
            let mut inner = self.inner();
            inner.pending.remove(&endpoint.id);
            inner.leaving.insert(endpoint.id.clone(), endpoint.clone());
        }
        let id = endpoint.id.clone();
        let request = Request::DeleteEndpoint { id };
        let order = self.reporting.read().await;
        let reply = self.link.request(request).await;
        drop(order);
        match reply {
            Ok(reply) => {
                let _ = self.wait_revision(reply.revision).await;
                self.return_claims_of(endpoint).await;
            }
            // The claims stay until the controller was told.
            Err(_) => self.tell_later(),
        }
        self.inner().leaving.remove(&endpoint.id);
    }

    pub(super) fn tell_later(&self) {
        self.inner().channel.told = false;
        self.resync.notify_one();
    }

    /// Makes the TAP, moves it into the namespace, and plugs it into the switch.
    async fn plug(
        self: &Arc<Self>,
        network: &Network,
        endpoint: Endpoint,
        netns: Netns,
        request: api::Connect,
    ) -> Result<api::Port, ApiError> {
        let mtu = effective_mtu(&self.inner().map, &self.here(), network);
        let record = PortRecord {
            network_name: network.name.clone(),
            vni: network.vni,
            netns: netns.name().to_owned(),
            netns_id: netns.id(),
            ifname: String::new(),
            addresses: with_prefixes(network, &endpoint.ips),
            plain: request.no_offload,
            dhcp: request.dhcp,
            dns: request.dns,
            mtu,
            allow_spoof: request.allow_spoof,
            limits: request.limits,
            published: request.publish.clone(),
            impairments: api::Impairments::default(),
            attachment: request.attachment.clone(),
            foreign: request.addresses.clone(),
            gateways: network
                .subnets
                .iter()
                .map(|subnet| subnet.gateway)
                .collect(),
            routes: request.routes.clone(),
            endpoint,
        };
        let netns_name = request.dns.then(|| netns.name().to_owned());
        let default_route = request.default_route.unwrap_or(!network.internal);
        let shape = (self.facts.workers, carriage(network));
        let wanted = request.ifname;
        let (record, tap) =
            blocking(move || make_device(record, &netns, (wanted, default_route), shape)).await?;
        let id = record.endpoint.id.clone();
        self.plug_and_save(record, tap).await?;
        if let Some(netns) = netns_name {
            self.tell_resolvers(&id, netns).await?;
        }
        let inner = self.inner();
        let port = inner.ports.get(&id).ok_or_else(|| {
            ApiError::conflict(
                "namespace_gone",
                "the namespace went away while it was connected",
            )
        })?;
        info!(network = %network.name, port = %port.record.endpoint.name, ifname = %port.record.ifname,
            netns = %port.record.netns, "connected");
        Ok(port_view(port, api::Traffic::default()))
    }

    /// Makes the namespace's resolv.conf name the gateways of its ports, or takes the new one out again.
    async fn tell_resolvers(
        self: &Arc<Self>,
        id: &EndpointId,
        netns: String,
    ) -> Result<(), ApiError> {
        let agent = Arc::clone(self);
        let told = blocking(move || agent.write_resolv_conf(&netns)).await;
        if told.is_err() {
            self.unplug(id).await;
            // Its record outlives it at worst: the next start drops what has no port.
            let _ = self.save_ports().await;
        }
        told
    }

    /// From the TAP to a port that is written down; nothing is left of it after an error.
    async fn plug_and_save(
        self: &Arc<Self>,
        record: PortRecord,
        tap: TapDevice,
    ) -> Result<(), ApiError> {
        let id = record.endpoint.id.clone();
        let agent = Arc::clone(self);
        let mut done = blocking(move || agent.plug_in(record, tap)).await;
        if done.is_ok() {
            done = self.save_ports().await;
        }
        if let Err(error) = done {
            self.unplug(&id).await;
            return Err(error);
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Hands the TAP to the fd holder and to the switch. From here on the port is known.
    fn plug_in(&self, record: PortRecord, tap: TapDevice) -> Result<(), ApiError> {
        let id = record.endpoint.id.clone();
        self.keeper.keep(&id.0, &tap.queues);
        self.add_port(record, tap.queues)
    }

    /// Plugs file descriptors of a TAP, new or from the holder, into the switch.
    pub(super) fn add_port(&self, record: PortRecord, fds: Vec<OwnedFd>) -> Result<(), ApiError> {
        let (queues, relay) = behind_line(&record, &fds)?;
        let mut inner = self.inner();
        // It may have come after the announcement: in a full report beside the making of the TAP.
        if let Some(refusal) = inner.refusal_of(&record.endpoint.id) {
            return Err(refusal.clone().into());
        }
        let id = self.fabric().add_port(&record, queues).map_err(|error| {
            ApiError::internal(format!(
                "cannot plug in port {}: {error}",
                record.endpoint.name
            ))
        })?;
        inner.pending.remove(&record.endpoint.id);
        inner.ports.insert(
            record.endpoint.id.clone(),
            Port {
                record,
                id,
                fds,
                relay,
                trouble: None,
            },
        );
        Ok(())
    }

    /// Writes the ports as they are now.
    pub(super) async fn save_ports(self: &Arc<Self>) -> Result<(), ApiError> {
        let agent = Arc::clone(self);
        blocking(move || {
            agent.save_ports_now().map_err(|error| {
                ApiError::internal(error.to_string())
                    .hint("make room or mend the file system, then try again")
            })
        })
        .await
    }

    /// The same. Blocks.
    pub(super) fn save_ports_now(&self) -> Result<(), StateError> {
        let _order = self
            .saving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let saved = self.inner().to_save();
        let written = self.state.save_ports(saved);
        self.inner().note_written("ports", written.as_ref().err());
        written
    }
}

/// Opens a namespace as the caller named it.
pub(super) async fn open_netns(arg: &api::NetnsArg) -> Result<Netns, ApiError> {
    let arg = arg.clone();
    blocking(move || Netns::open(&arg).map_err(ApiError::from)).await
}

impl From<netns::NetnsError> for ApiError {
    fn from(error: netns::NetnsError) -> Self {
        let message = error.to_string();
        match error.hint() {
            Some(hint) => Self::not_found("bad_netns", message).hint(hint),
            None => Self::not_found("bad_netns", message),
        }
    }
}

/// Runs what may wait on the kernel or the disk away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ApiError::internal(format!(
                "the agent failed on this request: {error}"
            )))
        })
}
