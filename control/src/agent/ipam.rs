//! Which address a new endpoint gets: pure choice over the cluster map, this node's blocks and what is taken here.
//!
//! A node gives out addresses only from its own blocks, so that it needs nobody's leave and no two nodes can give the
//! same. Blocks nest: an address claimed by another node is a block of one inside ours, and the most specific block
//! says whose an address is.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_wire::MacAddr;

use crate::model::{Block, ClusterMap, Endpoint, Network, NetworkId, NodeId, Subnet};

pub(super) mod audit;

/// Addresses that nobody has yet and nobody else may take: of attaches of this host that are under way, or promised to
/// another node a moment ago.
pub(super) type Busy = BTreeSet<(NetworkId, IpAddr)>;

/// Blocks that are being given back.
pub(super) type Returning = BTreeSet<(NetworkId, IpNet)>;

/// What this node knows of itself. The map is late about our own endpoints, by a moment or for as long as no controller
/// answers; so it counts for those of other nodes only.
#[derive(Debug)]
pub(super) struct Local<'a> {
    /// This node.
    pub(super) node: &'a NodeId,
    /// The endpoints of its ports.
    pub(super) ports: Vec<&'a Endpoint>,
    /// What is not free either.
    pub(super) busy: Busy,
    /// Blocks that are just being given back: ours by the map, but no longer ours to give from.
    pub(super) returning: Returning,
}

impl Local<'_> {
    /// Whether this node may give an address out by that block.
    fn gives_from(&self, block: &Block) -> bool {
        let key = (block.network.clone(), block.prefix);
        block.node == *self.node && !self.returning.contains(&key)
    }

    /// Who is on a network.
    fn endpoints<'a>(
        &'a self,
        map: &'a ClusterMap,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        let own = self.ports.iter().copied();
        map.endpoints_of(network)
            .filter(|endpoint| endpoint.node != *self.node)
            .chain(own.filter(|endpoint| endpoint.network == *network))
    }
}

/// Where an address is to come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one, from a block of this node.
    Address(IpAddr),
    /// No block of this node has a free one: the controller must give another block.
    NeedBlock,
}

/// The lowest free address of this node's blocks in `subnet`.
pub(super) fn choose(
    map: &ClusterMap,
    local: &Local<'_>,
    (network, subnet): (&Network, &Subnet),
) -> Choice {
    let used: BTreeSet<IpAddr> = local
        .endpoints(map, &network.id)
        .flat_map(|endpoint| endpoint.ips.iter().copied())
        .collect();
    let ours = map
        .blocks_of(&network.id)
        .filter(|block| local.gives_from(block) && subnet.cidr.contains(&block.prefix));
    for block in ours {
        let free = block.prefix.hosts_and_edges().find(|ip| {
            subnet.is_host_address(*ip)
                && !used.contains(ip)
                && !local.busy.contains(&(network.id.clone(), *ip))
                && map
                    .block_of(&network.id, *ip)
                    .is_some_and(|owner| local.gives_from(owner))
        });
        if let Some(ip) = free {
            return Choice::Address(ip);
        }
    }
    Choice::NeedBlock
}

/// Whether a fixed address may be taken by this node without asking anybody.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    /// It is free and in a block of this node.
    Ours,
    /// It must be claimed from the controller first.
    Claim,
    /// It is taken by that endpoint of that node.
    Held {
        /// Endpoint name.
        endpoint: String,
        /// Node id.
        node: NodeId,
    },
    /// An attach of this host is just taking it, or it was promised to another node.
    Busy,
    /// It isn't an address that an endpoint of the network can have; a sentence.
    Unusable(String),
}

/// Judges a fixed address (`--ip`).
pub(super) fn judge(
    map: &ClusterMap,
    local: &Local<'_>,
    (network, ip): (&Network, IpAddr),
) -> Fixed {
    let Some(subnet) = network.subnet_of(ip) else {
        let subnets: Vec<String> = network
            .subnets
            .iter()
            .map(|subnet| subnet.cidr.to_string())
            .collect();
        return Fixed::Unusable(match subnets.as_slice() {
            [] => format!(
                "network {} has no subnet: it gives no addresses",
                network.name
            ),
            _ => format!(
                "{ip} is in no subnet of network {} ({})",
                network.name,
                subnets.join(", ")
            ),
        });
    };
    if !subnet.is_host_address(ip) {
        let role = subnet.role_of(ip);
        return Fixed::Unusable(format!("{ip} is {role} of subnet {}", subnet.cidr));
    }
    if let Some(holder) = local
        .endpoints(map, &network.id)
        .find(|endpoint| endpoint.ips.contains(&ip))
    {
        return Fixed::Held {
            endpoint: holder.name.clone(),
            node: holder.node.clone(),
        };
    }
    if local.busy.contains(&(network.id.clone(), ip)) {
        return Fixed::Busy;
    }
    match map.block_of(&network.id, ip) {
        Some(block) if local.gives_from(block) => Fixed::Ours,
        Some(_) | None => Fixed::Claim,
    }
}

/// The MAC that goes with an endpoint's first address: `02:57:` and the IPv4 address, so that an address given anew
/// finds no stale neighbour entry; without IPv4, from the low bytes of `random`. Locally administered, unicast.
pub(super) fn mac_for(ips: &[IpAddr], random: u64) -> MacAddr {
    let ipv4 = ips.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(ip.octets()),
        IpAddr::V6(_) => None,
    });
    let [_, _, _, r0, r1, r2, r3, r4] = random.to_be_bytes();
    match ipv4 {
        Some([a, b, c, d]) => MacAddr([0x02, 0x57, a, b, c, d]),
        None => MacAddr([0x06, r0, r1, r2, r3, r4]),
    }
}

/// How many addresses of `prefix` endpoints have.
pub(super) fn used(map: &ClusterMap, network: &NetworkId, prefix: IpNet) -> u64 {
    map.endpoints_of(network)
        .flat_map(|endpoint| &endpoint.ips)
        .filter(|ip| prefix.contains(*ip))
        .map(|_| 1)
        .sum()
}

trait HostsAndEdges {
    /// Every address of the block, also its first and last: inside a subnet they are ordinary.
    fn hosts_and_edges(&self) -> Box<dyn Iterator<Item = IpAddr>>;
}

impl HostsAndEdges for IpNet {
    fn hosts_and_edges(&self) -> Box<dyn Iterator<Item = IpAddr>> {
        match self {
            Self::V4(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                Box::new((first..=last).map(|bits| IpAddr::V4(bits.into())))
            }
            Self::V6(net) => {
                let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
                Box::new((first..=last).map(|bits| IpAddr::V6(bits.into())))
            }
        }
    }
}

#[cfg(test)]
mod tests;
