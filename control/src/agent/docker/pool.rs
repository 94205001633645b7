//! Ranges and addresses: Docker's IPAM driver on weft's own address blocks, which no two hosts have in common.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::now;
use crate::agent::{Agent, ApiError};
use crate::docker::ledger::Pool;
use crate::docker::pools::{first_host, free_range};
use crate::docker::wire::{Reply, RequestAddress, RequestPool};
use crate::link;
use crate::model::{Network, Subnet, brief};

/// `--ipam-opt` by which a network without `--subnet` gets the range of an overlay that is there, and joins it.
const NETWORK_OPTIONS: [&str; 2] = ["weft.network", "network"];

impl Agent {
    pub(super) async fn docker_request_pool(
        self: &Arc<Self>,
        call: RequestPool,
    ) -> Result<Reply, ApiError> {
        for (name, value) in &call.options {
            if !NETWORK_OPTIONS.contains(&name.as_str()) {
                return Err(ApiError::bad_request(
                    "bad_option",
                    format!(
                        "this IPAM driver has no option {}={}",
                        brief(name),
                        brief(value)
                    ),
                )
                .hint("known --ipam-opt: weft.network=NAME"));
            }
        }
        let cidr = match call.pool {
            Some(cidr) => cidr.trunc(),
            None => self.choose_range(&call).await?,
        };
        if let Some(part) = call.sub_pool.filter(|part| !cidr.contains(part)) {
            return Err(ApiError::bad_request(
                "bad_ip_range",
                format!("--ip-range {part} is not inside --subnet {cidr}"),
            ));
        }
        let part = call.sub_pool.map(|part| part.trunc());
        let named = named(&call).cloned();
        let opened = self.note(move |ledger| {
            let id = ledger.open_pool(cidr, part, now());
            if let Some(name) = named {
                ledger.note_asked_of(&id, name);
            }
            id
        });
        let id = opened.await?;
        Ok(Reply::Pool { id, cidr })
    }

    /// Nobody named a range.
    async fn choose_range(self: &Arc<Self>, call: &RequestPool) -> Result<IpNet, ApiError> {
        // One that isn't there is made by `CreateNetwork`, if that names it too.
        if let Some(name) = named(call)
            && let Ok(network) = self.find_network(name).await
        {
            let subnets = network.subnets.iter().map(|subnet| subnet.cidr);
            let mut of_family = subnets.filter(|cidr| matches!(cidr, IpNet::V6(_)) == call.v6);
            return of_family.next().ok_or_else(|| {
                let family = if call.v6 { "IPv6" } else { "IPv4" };
                ApiError::conflict(
                    "no_subnet",
                    format!("network {name} has no {family} subnet"),
                )
                .hint("leave --ipv6 out, or give another network")
            });
        }
        let addresses = link::local_addresses().await;
        let addresses = addresses.map_err(|error| ApiError::internal(error.to_string()))?;
        let ledger = self.docker.ledger();
        let inner = self.inner();
        let networks = inner.map.networks.values();
        let subnets = networks.flat_map(|network| &network.object.subnets);
        let taken: Vec<IpNet> = subnets
            .map(|subnet| subnet.cidr)
            .chain(ledger.ranges())
            .collect();
        let nodes = inner.map.nodes.values().map(|node| node.object.underlay);
        let addresses: Vec<IpAddr> = addresses.into_iter().chain(nodes).collect();
        free_range(call.v6, &taken, &addresses).ok_or_else(|| {
            ApiError::conflict("exhausted", "no range is left to choose for this network")
                .hint("give it a --subnet")
        })
    }

    pub(super) async fn docker_release_pool(
        self: &Arc<Self>,
        pool: String,
    ) -> Result<Reply, ApiError> {
        self.note(move |ledger| ledger.close_pool(&pool)).await?;
        Ok(Reply::Done)
    }

    pub(super) async fn docker_release_address(
        self: &Arc<Self>,
        pool: String,
        address: IpAddr,
    ) -> Result<Reply, ApiError> {
        self.note(move |ledger| ledger.release(&pool, address))
            .await?;
        Ok(Reply::Done)
    }

    pub(super) async fn docker_request_address(
        self: &Arc<Self>,
        call: RequestAddress,
    ) -> Result<Reply, ApiError> {
        let pool = self.docker.ledger().pool(&call.pool).cloned();
        let pool = pool.ok_or_else(|| {
            ApiError::not_found(
                "unknown_pool",
                format!("this host has no address pool {:?}", brief(&call.pool)),
            )
            .hint("its Docker network was made with another state directory of weft: `docker network rm` it and make it again")
        })?;
        if let Some(ip) = call.address.filter(|ip| !pool.cidr.contains(ip)) {
            return Err(ApiError::bad_request(
                "bad_ip",
                format!("{ip} is not in subnet {}", pool.cidr),
            ));
        }
        let ip = match (&pool.network, call.address) {
            _ if call.gateway => self.gateway_of(&pool, call.address)?,
            // An --aux-address of a network that is just being made: kept free on this host.
            (None, Some(ip)) => {
                self.hold(call.pool, ip).await?;
                ip
            }
            (None, None) => {
                return Err(ApiError::conflict(
                    "unbound_pool",
                    format!("the pool of {} belongs to no weft network", pool.cidr),
                )
                .hint("--ipam-driver weft goes with --driver weft"));
            }
            (Some(name), wanted) => {
                let network = self.overlay_named(name).await?;
                let subnet = subnet_of(&network, &pool)?;
                self.take_address(call.pool, (&network, subnet), wanted)
                    .await?
            }
        };
        let address = IpNet::new(ip, pool.cidr.prefix_len());
        let address = address.map_err(|error| ApiError::internal(error.to_string()))?;
        Ok(Reply::Address(address))
    }

    /// The gateway of a range, which belongs to nobody: each host answers for it.
    fn gateway_of(&self, pool: &Pool, wanted: Option<IpAddr>) -> Result<IpAddr, ApiError> {
        let inner = self.inner();
        let networks = inner.map.networks.values().map(|network| &network.object);
        let mut subnets = networks.flat_map(|network| {
            let subnets = network.subnets.iter();
            subnets.map(move |subnet| (&network.name, subnet))
        });
        let there = subnets.find(|(_, subnet)| subnet.cidr == pool.cidr);
        match (there, wanted) {
            (Some((name, subnet)), Some(wanted)) if wanted != subnet.gateway => {
                Err(ApiError::conflict(
                    "bad_gateway",
                    format!(
                        "the gateway of {} is {} on network {name}, not {wanted}",
                        pool.cidr, subnet.gateway
                    ),
                )
                .hint("leave --gateway out, or give that one"))
            }
            (Some((_, subnet)), _) => Ok(subnet.gateway),
            (None, wanted) => Ok(wanted.unwrap_or_else(|| first_host(pool.cidr))),
        }
    }

    /// The overlay of a pool. One that was removed elsewhere while it had no containers is made again.
    pub(super) async fn overlay_named(self: &Arc<Self>, name: &str) -> Result<Network, ApiError> {
        let wish = self.docker.ledger().wish_of(name).cloned();
        match wish {
            Some(wish) => self.overlay(&wish).await,
            None => self.find_network(name).await,
        }
    }

    /// Takes an address for Docker: a fixed one, or a free one of this node's blocks.
    async fn take_address(
        self: &Arc<Self>,
        pool: String,
        (network, subnet): (&Network, &Subnet),
        wanted: Option<IpAddr>,
    ) -> Result<IpAddr, ApiError> {
        let _heard = self.hear_of(network).await?;
        let taken = self.take_for_later(network, (subnet, wanted)).await?;
        let ip = taken.address()?;
        self.hold(pool, ip).await?;
        // Only now that the ledger keeps it from others.
        drop(taken);
        Ok(ip)
    }

    async fn hold(self: &Arc<Self>, pool: String, ip: IpAddr) -> Result<(), ApiError> {
        let held = self.note(move |ledger| {
            let known = ledger.pool(&pool).is_some();
            (known, ledger.hold(&pool, ip, now()))
        });
        match held.await? {
            (_, true) => Ok(()),
            (true, false) => Err(ApiError::conflict(
                "ip_taken",
                format!("Docker has address {ip} on this host already"),
            )
            .hint("choose another --ip")),
            (false, false) => Err(ApiError::conflict(
                "unknown_pool",
                format!("the pool of address {ip} was just given back"),
            )),
        }
    }
}

/// The overlay that `--ipam-opt` names.
fn named(call: &RequestPool) -> Option<&String> {
    NETWORK_OPTIONS
        .iter()
        .find_map(|key| call.options.get(*key))
}

fn subnet_of<'a>(network: &'a Network, pool: &Pool) -> Result<&'a Subnet, ApiError> {
    let mut subnets = network.subnets.iter();
    let found = subnets.find(|subnet| subnet.cidr == pool.cidr);
    found.ok_or_else(|| {
        ApiError::conflict(
            "network_differs",
            format!(
                "network {} has no subnet {} any more",
                network.name, pool.cidr
            ),
        )
        .hint("`docker network rm` the Docker network and make it again")
    })
}
