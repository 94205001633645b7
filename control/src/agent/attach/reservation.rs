//! What a new endpoint is called and which addresses it has: taken here before anybody is told, and free again when the
//! guard goes.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use tracing::debug;
use weft_wire::MacAddr;

use super::validate::OTHER_IP;
use crate::agent::ipam::{self, Choice, Fixed};
use crate::agent::views::node_name;
use crate::agent::{Agent, ApiError, Facts, Inner, Pending};
use crate::api;
use crate::channel::Request;
use crate::model::{self, Endpoint, EndpointId, Network, NodeId, Subnet};
use crate::netns::Netns;

/// How often a block is asked for before the address is given up: two could be taken by attaches beside this one.
const BLOCK_TRIES: usize = 4;

/// Characters of a name that something may be put behind: a name has up to 63.
const BASE_NAME_MAX: usize = 48;

/// A reservation: name and addresses are free again when it goes.
pub(in crate::agent) struct PendingGuard {
    pub(super) agent: Arc<Agent>,
    pub(super) id: EndpointId,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.agent.inner().pending.remove(&self.id);
    }
}

impl Inner {
    pub(super) fn pending_mut(&mut self, id: &EndpointId) -> &mut Pending {
        self.pending
            .get_mut(id)
            .expect("a reservation lives as long as its guard")
    }
}

impl Agent {
    /// Takes a name. The guard gives name and addresses back when it goes.
    pub(super) async fn reserve(
        self: &Arc<Self>,
        network: &Network,
        request: &api::Connect,
        netns: &Netns,
    ) -> Result<PendingGuard, ApiError> {
        let id = EndpointId(format!("{:016x}", rand::random::<u64>()));
        let mut inner = self.inner();
        if inner.stopping {
            return Err(ApiError::unavailable("stopping", "the agent is stopping")
                .hint("start it again with `weft agent run`"));
        }
        check_unattached(&inner, request)?;
        check_second(&inner, network, request, netns)?;
        let name = match &request.name {
            Some(name) => {
                if let Some(node) = name_holder(&inner, network, (name, &self.facts.node)) {
                    return Err(ApiError::conflict(
                        "name_taken",
                        format!(
                            "endpoint name {name} is taken on network {} (node {node})",
                            network.name
                        ),
                    )
                    .hint("choose another --name, or disconnect the other one"));
                }
                name.clone()
            }
            None => {
                let base = match &request.base_name {
                    Some(wanted) => usable_name(wanted),
                    None => None,
                };
                let base = base.unwrap_or_else(|| base_name(netns));
                free_name(&inner, network, &base, &self.facts)
            }
        };
        let endpoint = Endpoint {
            id: id.clone(),
            network: network.id.clone(),
            node: self.facts.node.clone(),
            name,
            aliases: request.aliases.clone(),
            mac: MacAddr::ZERO,
            ips: Vec::new(),
            epoch: inner.next_epoch(&self.facts.node),
        };
        inner.pending.insert(
            id.clone(),
            Pending {
                endpoint,
                netns_id: netns.id(),
                attachment: request.attachment.clone(),
                complete: false,
                refused: None,
            },
        );
        drop(inner);
        Ok(PendingGuard {
            agent: Arc::clone(self),
            id,
        })
    }

    /// Finds the addresses and the MAC.
    pub(super) async fn fill(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        request: &api::Connect,
    ) -> Result<Endpoint, ApiError> {
        for subnet in &network.subnets {
            let fixed = request.ips.iter().find(|ip| subnet.cidr.contains(*ip));
            match fixed {
                Some(ip) => self.take_fixed(pending, network, *ip).await?,
                None => self.take_any(pending, network, subnet).await?,
            }
        }
        self.settle(pending, network, request.mac)
    }

    /// Addresses are decided; the MAC follows from them if none is wanted.
    pub(super) fn settle(
        &self,
        pending: &PendingGuard,
        network: &Network,
        mac: Option<MacAddr>,
    ) -> Result<Endpoint, ApiError> {
        let mut inner = self.inner();
        let ips = inner.pending[&pending.id].endpoint.ips.clone();
        let mac = mac.unwrap_or_else(|| free_mac(&inner, network, (&ips, &self.facts.node)));
        if let Some(holder) = mac_holder(&inner, network, (mac, &self.facts.node)) {
            return Err(ApiError::conflict(
                "mac_taken",
                format!(
                    "MAC {mac} is taken on network {} by endpoint {holder}",
                    network.name
                ),
            )
            .hint("choose another --mac, or leave it out"));
        }
        let pending = inner
            .pending
            .get_mut(&pending.id)
            .expect("the guard keeps it");
        pending.endpoint.mac = mac;
        pending.complete = true;
        debug!(network = %network.name, port = %pending.endpoint.name, ips = ?pending.endpoint.ips, "endpoint begun");
        Ok(pending.endpoint.clone())
    }

    pub(super) async fn take_any(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        subnet: &Subnet,
    ) -> Result<(), ApiError> {
        for _ in 0..BLOCK_TRIES {
            {
                let mut inner = self.inner();
                let local = inner.local(&self.facts.node);
                let choice = ipam::choose(&inner.map, &local, (network, subnet));
                if let Choice::Address(ip) = choice {
                    inner.pending_mut(&pending.id).endpoint.ips.push(ip);
                    return Ok(());
                }
            }
            let request = Request::AllocateBlock {
                network: network.id.clone(),
                subnet: subnet.cidr,
            };
            self.ask(request).await.map_err(|error| {
                if error.reply.code != "offline" {
                    return error;
                }
                ApiError::unavailable(
                    "no_block",
                    format!(
                        "this node has no free address of subnet {} of network {} left, and no controller answers to give it more",
                        subnet.cidr, network.name
                    ),
                )
                .hint("see `weft status`; what is connected already keeps working")
            })?;
        }
        Err(ApiError::unavailable(
            "busy",
            format!(
                "too many endpoints are connecting to network {} at once",
                network.name
            ),
        )
        .hint("try again"))
    }

    pub(super) async fn take_fixed(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        ip: IpAddr,
    ) -> Result<(), ApiError> {
        for attempt in 0..2 {
            {
                let mut inner = self.inner();
                let local = inner.local(&self.facts.node);
                let verdict = ipam::judge(&inner.map, &local, (network, ip));
                match verdict {
                    Fixed::Ours => {
                        inner.pending_mut(&pending.id).endpoint.ips.push(ip);
                        return Ok(());
                    }
                    Fixed::Claim if attempt == 0 => {}
                    Fixed::Held { endpoint, node } => {
                        let node = node_name(&inner.map, &node);
                        return Err(ip_taken(
                            network,
                            ip,
                            &format!("endpoint {endpoint} on node {node}"),
                        ));
                    }
                    Fixed::Claim | Fixed::Busy => {
                        return Err(ip_taken(network, ip, "another request that is under way"));
                    }
                    Fixed::Unusable(why) => {
                        return Err(ApiError::bad_request("bad_ip", why).hint(OTHER_IP));
                    }
                }
            }
            self.ask(Request::ClaimAddress { network: network.id.clone(), ip }).await.map_err(
                |error| match error.reply.code.as_str() {
                    "offline" => ApiError::unavailable(
                        "offline",
                        format!("{ip} is outside this node's address blocks of network {}, and no controller answers to claim it", network.name),
                    )
                    .hint("leave out --ip to take an address of this node's own blocks, or see `weft status`"),
                    _ => error,
                },
            )?;
        }
        Err(ip_taken(
            network,
            ip,
            "another node that claimed it at the same moment",
        ))
    }
}

/// A program finds its port by its attachment, so there is one of each.
fn check_unattached(inner: &Inner, request: &api::Connect) -> Result<(), ApiError> {
    let Some(attachment) = &request.attachment else {
        return Ok(());
    };
    let ports = inner.ports.values().map(|port| {
        let record = &port.record;
        (&record.attachment, &record.endpoint, record.netns.as_str())
    });
    let pending = inner.pending.values();
    let pending = pending.map(|p| (&p.attachment, &p.endpoint, "just being made"));
    let mut all = ports.chain(pending);
    let Some((_, endpoint, netns)) = all.find(|(of, ..)| of.as_ref() == Some(attachment)) else {
        return Ok(());
    };
    Err(ApiError::conflict(
        "attached_already",
        format!(
            "{} of {} is attached already (port {}, namespace {netns})",
            attachment.container, attachment.owner, endpoint.name
        ),
    )
    .hint("detach it first"))
}

/// A namespace that is on the network already gets a second port only by a name of its own: a script that is run twice
/// shouldn't make one.
fn check_second(
    inner: &Inner,
    network: &Network,
    request: &api::Connect,
    netns: &Netns,
) -> Result<(), ApiError> {
    if request.name.is_some() || request.attachment.is_some() {
        return Ok(());
    }
    let ports = inner.ports.values().map(|port| &port.record);
    let ports = ports.map(|record| (&record.endpoint, record.netns_id, record.ifname.as_str()));
    let pending = inner.pending.values();
    let pending = pending.map(|pending| (&pending.endpoint, pending.netns_id, "just being made"));
    let mut all = ports.chain(pending);
    let first = all.find(|(endpoint, id, _)| endpoint.network == network.id && *id == netns.id());
    let Some((endpoint, _, ifname)) = first else {
        return Ok(());
    };
    Err(ApiError::conflict(
        "already_connected",
        format!(
            "namespace {} is on network {} already (port {}, interface {ifname})",
            netns.name(),
            network.name,
            endpoint.name,
        ),
    )
    .hint("give a second port a --name of its own"))
}

/// A wish as a name: characters that no name may have become `-`, and it is cut so that something may be put behind it.
fn usable_name(wish: &str) -> Option<String> {
    let fitting = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            c
        } else {
            '-'
        }
    };
    let name: String = wish.chars().map(fitting).take(BASE_NAME_MAX).collect();
    let name = name.trim_matches(['-', '_', '.']);
    model::check_name("endpoint", name)
        .is_ok()
        .then(|| name.to_owned())
}

fn base_name(netns: &Netns) -> String {
    let base: String = Path::new(netns.name())
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(BASE_NAME_MAX)
        .collect();
    // /proc/PID/ns/net says nothing by its last part.
    let fine = base != "net" && model::check_name("endpoint", &base).is_ok();
    if fine {
        base
    } else {
        format!("ns-{}", netns.id().1)
    }
}

fn name_holder(inner: &Inner, network: &Network, (name, here): (&str, &NodeId)) -> Option<String> {
    let mut known = inner.known_endpoints(&network.id, here);
    let holder = known.find(|endpoint| endpoint.name == name)?;
    Some(node_name(&inner.map, &holder.node))
}

/// The namespace's name, or with this node's name behind it, or with a number behind that.
pub(super) fn free_name(inner: &Inner, network: &Network, base: &str, facts: &Facts) -> String {
    let node = &facts.node_name;
    let mut candidates = std::iter::once(base.to_owned())
        .chain(std::iter::once(format!("{base}-{node}")))
        .chain((2..).map(|number| format!("{base}-{number}")))
        .filter(|name| model::check_name("endpoint", name).is_ok());
    candidates
        .find(|name| name_holder(inner, network, (name, &facts.node)).is_none())
        .expect("numbers don't end")
}

fn mac_holder(inner: &Inner, network: &Network, (mac, here): (MacAddr, &NodeId)) -> Option<String> {
    let mut known = inner.known_endpoints(&network.id, here);
    let holder = known.find(|endpoint| endpoint.mac == mac)?;
    let node = node_name(&inner.map, &holder.node);
    Some(format!("{} on node {node}", holder.name))
}

fn free_mac(inner: &Inner, network: &Network, (ips, here): (&[IpAddr], &NodeId)) -> MacAddr {
    let wanted = ipam::mac_for(ips, rand::random());
    if mac_holder(inner, network, (wanted, here)).is_none() {
        return wanted;
    }
    // Somebody set the address by hand that goes with this IP.
    loop {
        let mac = ipam::mac_for(&[], rand::random());
        if mac_holder(inner, network, (mac, here)).is_none() {
            return mac;
        }
    }
}

pub(super) fn ip_taken(network: &Network, ip: IpAddr, holder: &str) -> ApiError {
    ApiError::conflict(
        "ip_taken",
        format!(
            "address {ip} of network {} is taken by {holder}",
            network.name
        ),
    )
    .hint(format!(
        "choose another --ip, or leave it out; `weft network inspect {}` lists who has what",
        network.name
    ))
}
