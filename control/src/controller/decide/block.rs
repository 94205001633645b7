//! Who gives out which addresses.
//!
//! A node takes a whole block from the network's pool and then gives out its addresses without asking anybody. A fixed
//! address outside the node's own blocks is *claimed*: a block of one address that may lie inside another node's block,
//! whose owner must have yielded the address. The most specific block says whose an address is.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::subnet::{addresses, first_usable};
use super::{Decision, describe, find_network_by_id, is_single, node_name, single};
use crate::channel::Refusal;
use crate::model::{
    Block, Change, ClusterMap, Endpoint, EndpointId, Key, Network, NetworkId, NodeId, Object,
    Revision, Subnet,
};

/// Bits of a pool that number its blocks: sixteen nodes have one each before it matters how large blocks are.
const BLOCK_BITS: u8 = 4;

/// The prefix length of the blocks of a pool: IPv4 /26 (64 addresses), or smaller in a small pool; IPv6 /112.
fn block_len(pool: IpNet) -> u8 {
    match pool {
        IpNet::V4(_) => (pool.prefix_len() + BLOCK_BITS).clamp(26, 32),
        IpNet::V6(_) => (pool.prefix_len() + BLOCK_BITS).clamp(112, 128),
    }
    .max(pool.prefix_len())
}

/// A further block for `node`: the first of the pool that is free and has an address that can be used.
///
/// # Errors
/// `unknown_network`, `unknown_subnet`, `exhausted`.
pub fn allocate(
    map: &ClusterMap,
    node: &NodeId,
    (network, cidr): (&NetworkId, IpNet),
) -> Decision<(Vec<Change>, IpNet)> {
    let network = find_network_by_id(map, network)?;
    let subnet = network
        .subnets
        .iter()
        .find(|subnet| subnet.cidr == cidr)
        .ok_or_else(|| {
            Refusal::new(
                "unknown_subnet",
                format!("network {} has no subnet {cidr}", network.name),
            )
            .hint(format!("see `weft network inspect {}`", network.name))
        })?;
    let pool = subnet.pool();
    let taken = Taken::of(map, network, pool);
    let len = block_len(pool);
    let last = bits(pool.broadcast());
    let mut at = bits(pool.network());
    while at <= last {
        let prefix = from_bits(pool, at, len);
        let mut end = bits(prefix.broadcast());
        match taken.covering(prefix) {
            // Everything up to the end of that block is taken.
            Some(block) => end = end.max(bits(block.broadcast())),
            None if usable(&taken, subnet, prefix) => {
                let block = Block {
                    network: network.id.clone(),
                    prefix,
                    node: node.clone(),
                };
                return Ok((vec![Change::Put(Object::Block(block))], prefix));
            }
            None => {}
        }
        at = (end + 1).next_multiple_of(size(pool, len));
    }
    Err(exhausted(map, network, subnet))
}

/// What of a pool is taken.
struct Taken {
    /// Larger blocks by first address; they don't overlap.
    blocks: BTreeMap<u128, IpNet>,
    /// Claimed addresses.
    singles: BTreeMap<u128, IpNet>,
}

impl Taken {
    fn of(map: &ClusterMap, network: &Network, pool: IpNet) -> Self {
        let mut taken = Self {
            blocks: BTreeMap::new(),
            singles: BTreeMap::new(),
        };
        let same_family = |prefix: IpNet| prefix.max_prefix_len() == pool.max_prefix_len();
        for block in map
            .blocks_of(&network.id)
            .filter(|block| same_family(block.prefix))
        {
            let of_kind = if is_single(block.prefix) {
                &mut taken.singles
            } else {
                &mut taken.blocks
            };
            of_kind.insert(bits(block.prefix.network()), block.prefix);
        }
        taken
    }

    /// A block that leaves no room for `prefix`.
    fn covering(&self, prefix: IpNet) -> Option<IpNet> {
        let first = bits(prefix.network());
        let last = bits(prefix.broadcast());
        if is_single(prefix)
            && let Some(same) = self.singles.get(&first)
        {
            return Some(*same);
        }
        let (_, block) = self.blocks.range(..=last).next_back()?;
        (bits(block.broadcast()) >= first).then_some(*block)
    }
}

/// Whether an endpoint of the block's owner could have an address of it.
fn usable(taken: &Taken, subnet: &Subnet, prefix: IpNet) -> bool {
    if first_usable(subnet, prefix).is_none() {
        return false;
    }
    let range = bits(prefix.network())..=bits(prefix.broadcast());
    let claimed = taken.singles.range(range).count();
    // More addresses than are claimed or unusable: one is free.
    addresses(prefix)
        .take(claimed + 4 + subnet.aux_addresses.len())
        .any(|ip| subnet.is_host_address(ip) && !taken.singles.contains_key(&bits(ip)))
}

fn exhausted(map: &ClusterMap, network: &Network, subnet: &Subnet) -> Refusal {
    // Of each node: its blocks, their addresses, and how many of these are in use.
    let mut held: BTreeMap<&NodeId, (usize, u128, usize)> = BTreeMap::new();
    let inside = |block: &&Block| subnet.cidr.contains(&block.prefix);
    for block in map.blocks_of(&network.id).filter(inside) {
        let of_node = held.entry(&block.node).or_default();
        of_node.0 += 1;
        of_node.1 += size(block.prefix, block.prefix.prefix_len());
    }
    for endpoint in map.endpoints_of(&network.id) {
        if let Some(of_node) = held.get_mut(&endpoint.node) {
            let ips = endpoint.ips.iter();
            of_node.2 += ips.filter(|ip| subnet.cidr.contains(*ip)).count();
        }
    }
    let held: Vec<String> = held
        .iter()
        .map(|(node, (blocks, addresses, used))| {
            let node = node_name(map, node);
            format!("{node} {blocks} ({used} of {addresses} addresses in use)")
        })
        .collect();
    let held = match held.as_slice() {
        [] => "none".to_owned(),
        held => held.join(", "),
    };
    let message = format!(
        "no address block is left in {} of network {}; blocks by node: {held}",
        subnet.pool(),
        network.name
    );
    Refusal::new("exhausted", message).hint(format!(
        "`weft ipam audit --fix` on a node gives its idle blocks back, `weft nodes rm` those of nodes that are gone; `weft ipam ls {}` lists who has what",
        network.name
    ))
}

/// The node doesn't need the block any more, or that of `revision`: what it gives back may come late, after it got the same
/// prefix anew.
///
/// # Errors
/// `foreign_block` when another node has it, `block_in_use`. An unknown block is fine.
pub fn give_back(
    map: &ClusterMap,
    node: &NodeId,
    (network, prefix, revision): (&NetworkId, IpNet, Option<Revision>),
) -> Decision<Vec<Change>> {
    let Some(block) = map.blocks.get(&(network.clone(), prefix)) else {
        return Ok(Vec::new());
    };
    let is_meant = revision.is_none_or(|revision| revision == block.revision);
    let block = &block.object;
    if block.node != *node {
        let owner = node_name(map, &block.node);
        return Err(Refusal::new(
            "foreign_block",
            format!("block {prefix} belongs to node {owner}"),
        ));
    }
    if !is_meant {
        return Ok(Vec::new());
    }
    // A node's endpoints have addresses of its own blocks only.
    let own = map.endpoints.of_node(node);
    let user = own
        .filter(|endpoint| endpoint.network == *network)
        .find(|endpoint| {
            endpoint
                .ips
                .iter()
                .any(|ip| map.block_of(network, *ip) == Some(block))
        });
    if let Some(user) = user {
        return Err(Refusal::new(
            "block_in_use",
            format!("block {prefix} is in use by {}", describe(map, user)),
        )
        .hint("disconnect its endpoints first"));
    }
    Ok(vec![Change::Delete(Key::Block(network.clone(), prefix))])
}

/// What a claim of an address needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The claimer may give it out already, by this block.
    Yours(IpNet),
    /// Nobody's: these changes make it the claimer's.
    Free(Vec<Change>, IpNet),
    /// It is in a block of that node, which must yield it first.
    Ask {
        /// The node.
        owner: NodeId,
        /// Its block.
        block: IpNet,
    },
}

/// A node wants to give out one address that isn't in its blocks.
///
/// # Errors
/// `unknown_network`, `bad_ip`, `ip_taken`.
pub fn claim(
    map: &ClusterMap,
    node: &NodeId,
    (network, ip): (&NetworkId, IpAddr),
) -> Decision<Claim> {
    let network = find_network_by_id(map, network)?;
    check_address(network, ip)?;
    if let Some(holder) = map.endpoints.with_ip(&network.id, ip).next() {
        return Err(ip_taken(map, network, ip, holder));
    }
    match map.block_of(&network.id, ip) {
        Some(block) if block.node == *node => Ok(Claim::Yours(block.prefix)),
        // Somebody claimed it before, and is just about to use it.
        Some(block) if is_single(block.prefix) => Err(Refusal::new(
            "ip_taken",
            format!(
                "address {ip} of network {} is claimed by node {}",
                network.name,
                node_name(map, &block.node)
            ),
        )
        .hint(
            "choose another --ip, or try again in a minute: its node gives back what it doesn't use",
        )),
        Some(block) => Ok(Claim::Ask {
            owner: block.node.clone(),
            block: block.prefix,
        }),
        None => {
            let (changes, prefix) = grant(&network.id, node, ip);
            Ok(Claim::Free(changes, prefix))
        }
    }
}

/// The block of one address that makes it the node's.
pub fn grant(network: &NetworkId, node: &NodeId, ip: IpAddr) -> (Vec<Change>, IpNet) {
    let prefix = single(ip);
    let block = Block {
        network: network.clone(),
        prefix,
        node: node.clone(),
    };
    (vec![Change::Put(Object::Block(block))], prefix)
}

/// Refuses what is no address of a host of the network.
pub(super) fn check_address(network: &Network, ip: IpAddr) -> Decision<()> {
    let bad = |why: String| {
        Err(Refusal::new("bad_ip", why)
            .hint(format!("see `weft network inspect {}`", network.name)))
    };
    let Some(subnet) = network.subnet_of(ip) else {
        return bad(format!("{ip} is in no subnet of network {}", network.name));
    };
    if !subnet.is_host_address(ip) {
        let role = subnet.role_of(ip);
        return bad(format!("{ip} is {role} of subnet {}", subnet.cidr));
    }
    Ok(())
}

/// An endpoint has the address.
pub(super) fn ip_taken(
    map: &ClusterMap,
    network: &Network,
    ip: IpAddr,
    holder: &Endpoint,
) -> Refusal {
    Refusal::new(
        "ip_taken",
        format!(
            "address {ip} of network {} is taken by {}",
            network.name,
            describe(map, holder)
        ),
    )
    .hint(format!(
        "choose another --ip, or leave it out; `weft network inspect {}` lists who has what",
        network.name
    ))
}

/// The claims that go with an endpoint when it goes.
pub(super) fn claims_of(map: &ClusterMap, id: &EndpointId) -> Vec<Change> {
    let Some(endpoint) = map.endpoints.get(id) else {
        return Vec::new();
    };
    let endpoint = &endpoint.object;
    endpoint
        .ips
        .iter()
        .filter_map(|ip| {
            let key = (endpoint.network.clone(), single(*ip));
            let block = map.blocks.get(&key)?;
            (block.object.node == endpoint.node).then_some(Change::Delete(Key::Block(key.0, key.1)))
        })
        .collect()
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// How many addresses a block of a pool has. No block of more than 2^16 is ever made.
fn size(pool: IpNet, len: u8) -> u128 {
    1 << (pool.max_prefix_len() - len)
}

fn from_bits(pool: IpNet, at: u128, len: u8) -> IpNet {
    let ip = match pool {
        IpNet::V4(_) => IpAddr::V4(u32::try_from(at).expect("inside an IPv4 pool").into()),
        IpNet::V6(_) => IpAddr::V6(at.into()),
    };
    IpNet::new(ip, len).expect("block_len is within the family's prefix lengths")
}
