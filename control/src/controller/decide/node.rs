//! Nodes: who is a member and where its tunnels end.

#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr};

use super::Decision;
use crate::channel::{NodeFacts, Refusal};
use crate::model::{
    Change, ClusterMap, Credentials, Key, Node, NodeId, Object, Session, check_name,
};

/// Longest version text.
const MAX_VERSION_LEN: usize = 64;
/// More kinds of tunnels than there will ever be.
const MAX_TRANSPORTS: usize = 8;
/// There are two authorities at most.
const MAX_AUTHORITIES: usize = 2;
/// Longest name of an authority's key; ours have 40 digits.
const MAX_AUTHORITY_ID_LEN: usize = 128;

/// A node becomes a member, or is one already and only lost its certificate.
///
/// # Errors
/// `bad_name`, `node_name_taken`, `bad_underlay`, `bad_port`, `underlay_taken`, `underlay_in_subnet`.
pub fn join(
    map: &ClusterMap,
    id: &NodeId,
    (name, facts): (&str, &NodeFacts),
) -> Decision<Vec<Change>> {
    check_name("node", name).map_err(|why| Refusal::new("bad_name", why))?;
    if let Some(holder) = map.node_named(name)
        && holder.id != *id
    {
        return Err(Refusal::new(
            "node_name_taken",
            format!("node name {name} is taken by the node at {}", holder.underlay),
        )
        .hint(format!("choose another --node, or remove the other one with `weft nodes rm {name}` if it is gone")));
    }
    check_facts(map, id, facts)?;
    Ok(put(map, id, (name, facts)))
}

/// A member says where it is now.
///
/// # Errors
/// `node_removed`, `bad_underlay`, `bad_port`, `underlay_taken`, `underlay_in_subnet`.
pub fn update(map: &ClusterMap, id: &NodeId, facts: &NodeFacts) -> Decision<Vec<Change>> {
    let node = map.nodes.get(id).ok_or_else(|| removed(id))?;
    check_facts(map, id, facts)?;
    Ok(put(map, id, (&node.object.name, facts)))
}

/// A node that isn't a member (any more).
pub fn removed(id: &NodeId) -> Refusal {
    Refusal::new(
        "node_removed",
        format!("node {id} was removed from the cluster"),
    )
    .hint("move the state directory's identity away and join again with a new token")
}

fn put(map: &ClusterMap, id: &NodeId, (name, facts): (&str, &NodeFacts)) -> Vec<Change> {
    let NodeFacts {
        underlay,
        underlay_mtu,
        vxlan_port,
        encrypted_port,
        transports,
        version,
    } = facts.clone();
    let name = name.to_owned();
    let node = Node {
        id: id.clone(),
        name,
        underlay,
        underlay_mtu,
        vxlan_port,
        encrypted_port,
        transports,
        version,
    };
    if map
        .nodes
        .get(id)
        .is_some_and(|before| before.object == node)
    {
        return Vec::new();
    }
    vec![Change::Put(Object::Node(node))]
}

fn check_facts(map: &ClusterMap, id: &NodeId, facts: &NodeFacts) -> Decision<()> {
    let underlay = facts.underlay;
    let broadcast = underlay == IpAddr::V4(Ipv4Addr::BROADCAST);
    if underlay.is_unspecified() || underlay.is_multicast() || broadcast {
        let message = format!("underlay address {underlay} is no address of a single host");
        return Err(Refusal::new("bad_underlay", message).hint("give another --underlay"));
    }
    if facts.vxlan_port == 0 {
        return Err(
            Refusal::new("bad_port", "VXLAN port 0 is no port").hint("give another --vxlan-port")
        );
    }
    if facts.encrypted_port == Some(0) || facts.encrypted_port == Some(facts.vxlan_port) {
        return Err(Refusal::new(
            "bad_port",
            "the port of encrypted tunnels is no port of its own",
        )
        .hint("give another --encrypted-port"));
    }
    let mut nodes = map.nodes.values().map(|node| &node.object);
    if let Some(holder) = nodes.find(|node| node.id != *id && node.underlay == underlay) {
        let name = &holder.name;
        return Err(Refusal::new(
            "underlay_taken",
            format!("underlay address {underlay} is taken by node {name}"),
        )
        .hint(format!("give another --underlay, or remove the other one with `weft nodes rm {name}` if it is gone")));
    }
    let mut networks = map.networks.values().map(|network| &network.object);
    if let Some(network) = networks.find(|network| network.vteps.contains(&underlay)) {
        let name = &network.name;
        return Err(Refusal::new(
            "underlay_taken",
            format!("underlay address {underlay} is a static VTEP of network {name}"),
        )
        .hint(format!(
            "remove that first: `weft network vtep rm {name} {underlay}`"
        )));
    }
    check_shape(facts)?;
    check_subnets(map, id, underlay)
}

/// What a node says of itself is shown to operators everywhere.
fn check_shape(facts: &NodeFacts) -> Decision<()> {
    let bad = |what| {
        Refusal::new("bad_request", format!("the node's {what} is not usable"))
            .hint("use a released weft on it")
    };
    let printable = facts.version.bytes().all(|byte| byte.is_ascii_graphic());
    if facts.version.len() > MAX_VERSION_LEN || !printable {
        return Err(bad("version"));
    }
    if facts.transports.len() > MAX_TRANSPORTS {
        return Err(bad("list of transports"));
    }
    Ok(())
}

/// A member that comes back with the address it had isn't locked out by a network that an older controller let in.
fn check_subnets(map: &ClusterMap, id: &NodeId, underlay: IpAddr) -> Decision<()> {
    let before = map.nodes.get(id).map(|node| node.object.underlay);
    if before == Some(underlay) {
        return Ok(());
    }
    for network in map.networks.values().map(|network| &network.object) {
        if let Some(subnet) = network.subnet_of(underlay) {
            let (name, cidr) = (&network.name, subnet.cidr);
            let message =
                format!("underlay address {underlay} is in subnet {cidr} of network {name}");
            return Err(Refusal::new("underlay_in_subnet", message).hint(format!(
                "give another --underlay, or make the network anew elsewhere: `weft network rm {name}`, then `weft network create {name} --subnet ...`"
            )));
        }
    }
    Ok(())
}

/// A member says what it can prove.
///
/// # Errors
/// `node_removed`, `bad_request`.
pub fn note_credentials(
    map: &ClusterMap,
    id: &NodeId,
    credentials: &Credentials,
) -> Decision<Vec<Change>> {
    if !map.nodes.contains_key(id) {
        return Err(removed(id));
    }
    let ids = credentials.trusts.iter().chain([&credentials.issuer]);
    let usable =
        |id: &String| id.len() <= MAX_AUTHORITY_ID_LEN && id.bytes().all(|b| b.is_ascii_hexdigit());
    if credentials.trusts.len() > MAX_AUTHORITIES || !ids.into_iter().all(usable) {
        return Err(
            Refusal::new("bad_request", "the node's credentials are not usable")
                .hint("use a released weft on it"),
        );
    }
    let before = map.credentials.get(id);
    if before.is_some_and(|before| before.object == *credentials) {
        return Ok(Vec::new());
    }
    let object = Object::Credentials(id.clone(), credentials.clone());
    Ok(vec![Change::Put(object)])
}

/// A member begins a session at that controller of several.
pub fn enter(map: &ClusterMap, id: &NodeId, controller: &str) -> Vec<Change> {
    if has_session(map, id, controller) {
        return Vec::new();
    }
    let controller = controller.to_owned();
    vec![Change::Put(Object::Session(
        id.clone(),
        Session { controller },
    ))]
}

/// Whether a node's newest session is at that controller.
pub fn has_session(map: &ClusterMap, id: &NodeId, controller: &str) -> bool {
    let session = map.sessions.get(id);
    session.is_some_and(|session| session.object.controller == controller)
}

/// Removes a node with its endpoints and blocks. Its certificate is worth nothing afterwards, connected or not.
///
/// # Errors
/// `unknown_node`; `own_node` when `asking` is the node itself: it couldn't hear what came of it.
pub fn remove(map: &ClusterMap, asking: &NodeId, name: &str) -> Decision<(Vec<Change>, NodeId)> {
    let node = map.node_named(name).ok_or_else(|| {
        Refusal::new("unknown_node", format!("node {name:?} is not known")).hint("see `weft nodes`")
    })?;
    if node.id == *asking {
        let message = format!("node {name} is the one whose agent was asked to remove it");
        return Err(Refusal::new("own_node", message).hint("ask the agent of another node"));
    }
    let endpoints = map
        .endpoints
        .of_node(&node.id)
        .map(|endpoint| Change::Delete(Key::Endpoint(endpoint.id.clone())));
    let blocks = map.blocks.of_node(&node.id).map(|block| {
        Change::Delete(Key::Block(
            block.object.network.clone(),
            block.object.prefix,
        ))
    });
    let credentials = map.credentials.contains_key(&node.id);
    let credentials = credentials.then(|| Change::Delete(Key::Credentials(node.id.clone())));
    let session = map.sessions.contains_key(&node.id);
    let session = session.then(|| Change::Delete(Key::Session(node.id.clone())));
    let of_it = endpoints.chain(blocks).chain(credentials).chain(session);
    let node_itself = [Change::Delete(Key::Node(node.id.clone()))];
    Ok((of_it.chain(node_itself).collect(), node.id.clone()))
}
