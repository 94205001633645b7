//! Endpoints: what a node reports of its ports.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::block::{check_address, claims_of, grant, ip_taken};
use super::{Decision, describe, find_network_by_id, node_name};
use crate::channel::Refusal;
use crate::channel::messages::Hello;
use crate::model::{
    Change, ClusterMap, Endpoint, EndpointId, Key, Network, NetworkId, NodeId, Object, check_name,
    is_reserved,
};

/// Most addresses and aliases of one endpoint.
const MAX_NAMES: usize = 64;

/// An endpoint of `node` is new or changed. The same once more is fine.
///
/// # Errors
/// `foreign_endpoint`, `bad_request`, `unknown_network`, `unsupported`, `bad_name`, `bad_mac`, `bad_ip`, `name_taken`, `mac_taken`, `ip_taken`,
/// `foreign_block`.
pub fn put(map: &ClusterMap, node: &NodeId, endpoint: &Endpoint) -> Decision<Vec<Change>> {
    check_owner(map, node, endpoint)?;
    let network = find_network_by_id(map, &endpoint.network)?;
    check_shape(network, endpoint)?;
    check_protection(map, node, network)?;
    check_unique(map, network, endpoint)?;
    for ip in &endpoint.ips {
        check_address(network, *ip)?;
        let mut holders = map.endpoints.with_ip(&network.id, *ip);
        if let Some(holder) = holders.find(|other| other.id != endpoint.id) {
            return Err(ip_taken(map, network, *ip, holder));
        }
        let owner = map.block_of(&network.id, *ip).map(|block| &block.node);
        if owner != Some(node) {
            let whose = owner.map_or_else(
                || "no node's address block".to_owned(),
                |owner| format!("an address block of node {}", node_name(map, owner)),
            );
            let message = format!("address {ip} of network {} is in {whose}", network.name);
            return Err(Refusal::new("foreign_block", message).hint(
                "disconnect the endpoint and connect it again to get an address of this node",
            ));
        }
    }
    let before = map.endpoints.get(&endpoint.id).map(|before| &before.object);
    if before == Some(endpoint) {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Put(Object::Endpoint(endpoint.clone()))])
}

/// A node that can't protect a network has no port on it: it would be alone there, or worse.
fn check_protection(map: &ClusterMap, node: &NodeId, network: &Network) -> Decision<()> {
    let able = map
        .nodes
        .get(node)
        .is_some_and(|node| node.object.takes_encrypted().is_some());
    if able || !network.is_encrypted() {
        return Ok(());
    }
    Err(Refusal::new(
        "unsupported",
        format!(
            "network {} is encrypted, and node {} carries no encrypted networks",
            network.name,
            node_name(map, node)
        ),
    )
    .hint("start its agent with a weft that does and without `--encrypted-port 0`"))
}

fn check_owner(map: &ClusterMap, node: &NodeId, endpoint: &Endpoint) -> Decision<()> {
    let before = map.endpoints.get(&endpoint.id).map(|before| &before.object);
    let owner = before.map_or(&endpoint.node, |before| &before.node);
    if owner == node && endpoint.node == *node {
        return match before.filter(|before| before.network != endpoint.network) {
            // Agents that don't have the new one wouldn't hear that it left theirs.
            Some(_) => Err(Refusal::new(
                "bad_request",
                format!("endpoint {} is on another network", endpoint.name),
            )
            .hint("disconnect it there first")),
            None => Ok(()),
        };
    }
    let owner = if owner == node { &endpoint.node } else { owner };
    Err(foreign(map, &endpoint.name, owner))
}

fn foreign(map: &ClusterMap, name: &str, owner: &NodeId) -> Refusal {
    let message = format!("endpoint {name} belongs to node {}", node_name(map, owner));
    Refusal::new("foreign_endpoint", message).hint("a node reports its own endpoints only")
}

fn check_shape(network: &Network, endpoint: &Endpoint) -> Decision<()> {
    let bad_name = |why| Refusal::new("bad_name", why);
    check_name("endpoint id", &endpoint.id.0).map_err(bad_name)?;
    check_name("endpoint", &endpoint.name).map_err(bad_name)?;
    for alias in &endpoint.aliases {
        check_name("alias", alias).map_err(bad_name)?;
    }
    let name = &endpoint.name;
    if endpoint.aliases.len() > MAX_NAMES || endpoint.ips.len() > MAX_NAMES {
        let message = format!("endpoint {name} has more than {MAX_NAMES} aliases or addresses");
        return Err(Refusal::new("bad_request", message).hint("leave some out"));
    }
    if !endpoint.mac.is_station() {
        let message = format!(
            "MAC {} of endpoint {name} is no address of a station",
            endpoint.mac
        );
        return Err(Refusal::new("bad_mac", message)
            .hint("take a unicast address, such as 02:00:00:00:00:01"));
    }
    if is_reserved(endpoint.mac) {
        let message = format!(
            "MAC {} of endpoint {name} is kept for gateways",
            endpoint.mac
        );
        return Err(
            Refusal::new("bad_mac", message).hint("take another, such as 02:00:00:00:00:01")
        );
    }
    if network.is_plain_l2() && !endpoint.ips.is_empty() {
        let message = format!(
            "network {} has no subnet: it gives no addresses",
            network.name
        );
        return Err(Refusal::new("bad_ip", message).hint("leave out --ip"));
    }
    let distinct: BTreeSet<_> = endpoint.ips.iter().collect();
    if distinct.len() != endpoint.ips.len() {
        return Err(Refusal::new(
            "bad_ip",
            format!("endpoint {name} names an address twice"),
        ));
    }
    Ok(())
}

fn check_unique(map: &ClusterMap, network: &Network, endpoint: &Endpoint) -> Decision<()> {
    let is_other = |holder: &&Endpoint| holder.id != endpoint.id;
    let mut named = map.endpoints.named(&network.id, &endpoint.name);
    if let Some(holder) = named.find(is_other) {
        return Err(Refusal::new(
            "name_taken",
            format!(
                "endpoint name {} is taken on network {} (node {})",
                endpoint.name,
                network.name,
                node_name(map, &holder.node)
            ),
        )
        .hint("choose another --name, or disconnect the other one"));
    }
    let mut with_mac = map.endpoints.with_mac(&network.id, endpoint.mac);
    if let Some(holder) = with_mac.find(is_other) {
        return Err(Refusal::new(
            "mac_taken",
            format!(
                "MAC {} is taken on network {} by {}",
                endpoint.mac,
                network.name,
                describe(map, holder)
            ),
        )
        .hint("choose another --mac, or leave it out"));
    }
    Ok(())
}

/// What becomes of the addresses that were claimed for an endpoint that goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claims {
    /// They stay the node's until it gives them back. While it doesn't know whether it was heard it may use them again.
    Stay,
    /// They go, too: the node's agent gives none back.
    Go,
}

impl Claims {
    /// As the node's agent wants it.
    pub fn of(hello: &Hello) -> Self {
        if hello.returns_claims {
            Self::Stay
        } else {
            Self::Go
        }
    }
}

/// An endpoint of `node` is gone. An unknown one is fine.
///
/// # Errors
/// `foreign_endpoint`.
pub fn delete(
    map: &ClusterMap,
    node: &NodeId,
    (id, claims): (&EndpointId, Claims),
) -> Decision<Vec<Change>> {
    let Some(endpoint) = map.endpoints.get(id) else {
        return Ok(Vec::new());
    };
    if endpoint.object.node != *node {
        return Err(foreign(map, &endpoint.object.name, &endpoint.object.node));
    }
    Ok(delete_own(map, id, |_, _| claims == Claims::Stay))
}

/// Deletes an endpoint and the addresses claimed for it, but those that stay.
fn delete_own(
    map: &ClusterMap,
    id: &EndpointId,
    stays: impl Fn(&NetworkId, IpAddr) -> bool,
) -> Vec<Change> {
    let mut changes = claims_of(map, id);
    changes.retain(|change| {
        !matches!(change, Change::Delete(Key::Block(network, prefix)) if stays(network, prefix.addr()))
    });
    changes.push(Change::Delete(Key::Endpoint(id.clone())));
    changes
}

/// A store that was set back to an older copy doesn't know the blocks that were given since: an address that is in use
/// and that nobody else was given stays with its node.
fn take_back(map: &ClusterMap, node: &NodeId, endpoint: &Endpoint) -> Vec<Change> {
    let Ok(network) = find_network_by_id(map, &endpoint.network) else {
        return Vec::new();
    };
    let lost = endpoint.ips.iter().filter(|ip| {
        check_address(network, **ip).is_ok()
            && map.block_of(&network.id, **ip).is_none()
            && !map
                .endpoints
                .with_ip(&network.id, **ip)
                .any(|other| other.id != endpoint.id)
    });
    lost.flat_map(|ip| grant(&network.id, node, *ip).0)
        .collect()
}

/// What a full report comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sync {
    /// What is to change.
    pub changes: Vec<Change>,
    /// Those that the cluster doesn't take. They are not in the map afterwards.
    pub rejected: Vec<(EndpointId, Refusal)>,
}

/// All endpoints of `node`: what it no longer has is deleted, what is missing is added, what doesn't fit is rejected
/// one by one.
pub fn sync(map: &ClusterMap, node: &NodeId, (endpoints, claims): (&[Endpoint], Claims)) -> Sync {
    let mut sync = Sync::default();
    let reported: BTreeSet<&EndpointId> = endpoints.iter().map(|endpoint| &endpoint.id).collect();
    let known = map.endpoints.of_node(node);
    let gone: Vec<&Endpoint> = known
        .filter(|known| !reported.contains(&known.id))
        .collect();
    let as_known = |endpoint: &Endpoint| {
        take_back(map, node, endpoint).is_empty()
            && put(map, node, endpoint).is_ok_and(|changes| changes.is_empty())
    };
    // Most reports: the agent or the controller was away, and nothing has happened.
    if gone.is_empty() && endpoints.iter().all(as_known) {
        return sync;
    }
    let of = gone.iter().copied().chain(endpoints);
    let networks: BTreeSet<&NetworkId> = of.map(|endpoint| &endpoint.network).collect();
    let mut draft = map.part(&networks, endpoints);
    // While no controller answered, a port may have been connected anew with the address claimed for another.
    let used: BTreeSet<(&NetworkId, IpAddr)> = endpoints
        .iter()
        .flat_map(|endpoint| endpoint.ips.iter().map(|ip| (&endpoint.network, *ip)))
        .collect();
    for gone in gone {
        let stays = |network: &NetworkId, ip: IpAddr| {
            claims == Claims::Stay || used.contains(&(network, ip))
        };
        let changes = delete_own(&draft, &gone.id, stays);
        draft_with(&mut draft, &changes);
        sync.changes.extend(changes);
    }
    for endpoint in endpoints {
        let back = take_back(&draft, node, endpoint);
        draft_with(&mut draft, &back);
        match put(&draft, node, endpoint) {
            Ok(changes) => {
                draft_with(&mut draft, &changes);
                sync.changes.extend(back);
                sync.changes.extend(changes);
            }
            Err(refusal) => {
                // An address is taken back for who uses it.
                let nothing: Vec<Change> = back
                    .iter()
                    .filter_map(|change| match change {
                        Change::Put(object) => Some(Change::Delete(object.key())),
                        Change::Delete(_) => None,
                    })
                    .collect();
                draft_with(&mut draft, &nothing);
                // What the cluster knows under that id isn't so any more.
                if let Ok(changes) = delete(&draft, node, (&endpoint.id, claims)) {
                    draft_with(&mut draft, &changes);
                    sync.changes.extend(changes);
                }
                sync.rejected.push((endpoint.id.clone(), refusal));
            }
        }
    }
    sync
}

fn draft_with(draft: &mut ClusterMap, changes: &[Change]) {
    for change in changes {
        draft.apply(draft.revision + 1, change.clone());
    }
}
