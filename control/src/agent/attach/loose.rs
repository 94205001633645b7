//! Connecting in two steps, for Docker: first an endpoint that the cluster knows, later its interface, which stays in the
//! agent's own namespace until dockerd moves it.

use std::net::IpAddr;
use std::sync::Arc;

use tracing::info;
use weft_wire::MacAddr;

use super::device::{make_loose, with_prefixes};
use super::reservation::{free_name, ip_taken};
use super::validate::check_protection;
use super::{PendingGuard, blocking, open_netns};
use crate::agent::plan::{carriage, effective_mtu};
use crate::agent::state::PortRecord;
use crate::agent::views::node_name;
use crate::agent::{Agent, ApiError, Pending};
use crate::api::{Impairments, Limits, NetnsArg};
use crate::channel::Request;
use crate::model::{Endpoint, EndpointId, Network, Subnet};

impl PendingGuard {
    /// Keeps the reservation beyond its guard: whoever calls this ends it.
    pub(in crate::agent) fn keep(self) {
        std::mem::forget(self);
    }

    /// The address that was taken first.
    ///
    /// # Errors
    /// None was.
    pub(in crate::agent) fn address(&self) -> Result<IpAddr, ApiError> {
        let inner = self.agent.inner();
        let endpoint = inner.pending.get(&self.id).map(|p| &p.endpoint);
        let first = endpoint.and_then(|endpoint| endpoint.ips.first().copied());
        first.ok_or_else(|| ApiError::internal("no address was taken"))
    }
}

impl Agent {
    /// Whether this host may have an endpoint on that network at all.
    pub(in crate::agent) fn check_place(&self, network: &Network) -> Result<(), ApiError> {
        check_protection(network, self.facts.encrypted_port)
    }

    /// Takes a name like `base`; the guard gives it back when it goes.
    pub(in crate::agent) fn reserve_as(
        self: &Arc<Self>,
        network: &Network,
        base: &str,
    ) -> Result<PendingGuard, ApiError> {
        let id = EndpointId(format!("{:016x}", rand::random::<u64>()));
        let mut inner = self.inner();
        if inner.stopping {
            return Err(ApiError::unavailable("stopping", "the agent is stopping")
                .hint("start it again with `weft agent run`"));
        }
        let endpoint = Endpoint {
            id: id.clone(),
            network: network.id.clone(),
            node: self.facts.node.clone(),
            name: free_name(&inner, network, base, &self.facts),
            aliases: Vec::new(),
            mac: MacAddr::ZERO,
            ips: Vec::new(),
            epoch: inner.next_epoch(&self.facts.node),
        };
        let pending = Pending {
            endpoint,
            netns_id: (0, 0),
            attachment: None,
            complete: false,
            refused: None,
        };
        inner.pending.insert(id.clone(), pending);
        drop(inner);
        let agent = Arc::clone(self);
        Ok(PendingGuard { agent, id })
    }

    /// Takes an address of a subnet, `wanted` or a free one; the guard gives it back when it goes.
    pub(in crate::agent) async fn take_for_later(
        self: &Arc<Self>,
        network: &Network,
        (subnet, wanted): (&Subnet, Option<IpAddr>),
    ) -> Result<PendingGuard, ApiError> {
        let guard = self.reserve_as(network, &format!("address-{:08x}", rand::random::<u32>()))?;
        match wanted {
            Some(ip) => self.take_fixed(&guard, network, ip).await?,
            None => self.take_any(&guard, network, subnet).await?,
        }
        Ok(guard)
    }

    /// An endpoint with these addresses, of which Docker has some already, and a MAC.
    pub(in crate::agent) async fn fill_given(
        self: &Arc<Self>,
        guard: &PendingGuard,
        network: &Network,
        (ips, mac): (&[IpAddr], Option<MacAddr>),
    ) -> Result<Endpoint, ApiError> {
        for ip in ips {
            let held = self.inner().held.contains(&(network.id.clone(), *ip));
            if held {
                self.take_held(guard, network, *ip).await?;
            } else {
                self.take_fixed(guard, network, *ip).await?;
            }
        }
        self.settle(guard, network, mac)
    }

    /// Puts an address to use that this host has kept from everybody else.
    async fn take_held(
        self: &Arc<Self>,
        guard: &PendingGuard,
        network: &Network,
        ip: IpAddr,
    ) -> Result<(), ApiError> {
        for attempt in 0..2 {
            {
                let mut inner = self.inner();
                let mut known = inner.known_endpoints(&network.id, &self.facts.node);
                if let Some(holder) = known.find(|endpoint| endpoint.ips.contains(&ip)) {
                    let node = node_name(&inner.map, &holder.node);
                    let holder = format!("endpoint {} on node {node}", holder.name);
                    return Err(ip_taken(network, ip, &holder));
                }
                drop(known);
                let block = inner.map.block_of(&network.id, ip);
                if block.is_some_and(|block| block.node == self.facts.node) {
                    inner.pending_mut(&guard.id).endpoint.ips.push(ip);
                    return Ok(());
                }
            }
            if attempt == 0 {
                // The controller gives a claim up that has had no endpoint for a minute.
                let network = network.id.clone();
                self.ask(Request::ClaimAddress { network, ip }).await?;
            }
        }
        Err(ip_taken(
            network,
            ip,
            "another node that claimed it at the same moment",
        ))
    }

    /// Makes the interface of an endpoint that the cluster knows, plugs it in and leaves it in the agent's own namespace.
    /// `sandbox` is where it will be. Answers with its name.
    pub(in crate::agent) async fn plug_loose(
        self: &Arc<Self>,
        network: &Network,
        endpoint: Endpoint,
        sandbox: &str,
    ) -> Result<String, ApiError> {
        let mtu = effective_mtu(&self.inner().map, &self.here(), network);
        // dockerd may have a mount namespace of its own; then it is a name and no more until `docker::host` finds it.
        let netns = open_netns(&NetnsArg::Path(sandbox.into())).await;
        let unknown = u64::from_str_radix(&endpoint.id.0, 16).unwrap_or_default();
        let record = PortRecord {
            network_name: network.name.clone(),
            vni: network.vni,
            netns: sandbox.to_owned(),
            netns_id: netns.map_or((0, unknown), |netns| netns.id()),
            ifname: String::new(),
            addresses: with_prefixes(network, &endpoint.ips),
            plain: false,
            dhcp: false,
            dns: false,
            mtu,
            allow_spoof: false,
            attachment: None,
            foreign: Vec::new(),
            gateways: Vec::new(),
            routes: Vec::new(),
            limits: Limits::default(),
            published: Vec::new(),
            impairments: Impairments::default(),
            endpoint,
        };
        let shape = (self.facts.workers, carriage(network));
        let (record, tap) = blocking(move || make_loose(record, shape)).await?;
        let (ifname, name) = (record.ifname.clone(), record.endpoint.name.clone());
        self.plug_and_save(record, tap).await?;
        info!(network = %network.name, port = %name, %ifname, "interface made for Docker");
        Ok(ifname)
    }
}
