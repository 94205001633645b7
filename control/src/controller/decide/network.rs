//! Networks and their static tunnel ends.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_wire::{Mtu, Vni};

use super::{Decision, enumerate, find_network, node_name, router, subnet};
use crate::api::{NetworkChange, NetworkCreate};
use crate::channel::Refusal;
use crate::model::{
    Change, ClusterMap, DEFAULT_AGEING_SECS, Key, Network, NetworkId, Object, Transport, check_name,
};

/// The first VNI that is chosen when the operator doesn't: below it is room for those chosen by hand.
const FIRST_VNI: u32 = 4096;
/// Longest ageing time: eleven days. There is no "never": a station that has gone would keep its place for ever.
const MAX_AGEING_SECS: u32 = 1_000_000;
/// Most static tunnel ends of one network: every flooded frame is sent to each.
const MAX_VTEPS: usize = 256;

/// A new network with that id.
///
/// # Errors
/// `bad_name`, `name_taken`, `unsupported`, `no_subnet`, `vni_taken`, `vni_exhausted`, `bad_mtu`, `bad_ageing` and those of
/// [`subnet::plan`].
pub fn create(map: &ClusterMap, create: &NetworkCreate, id: NetworkId) -> Decision<Vec<Change>> {
    check_name("network", &create.name)
        .map_err(|why| Refusal::new("bad_name", why).hint("choose another name"))?;
    if map.network_named(&create.name).is_some() {
        return Err(Refusal::new(
            "name_taken",
            format!("network {} is there already", create.name),
        )
        .hint("choose another name; `weft network inspect` shows the one that is there"));
    }
    if create.encrypted {
        check_protection(map, &create.name)?;
    }
    if create.isolate && create.subnets.is_empty() {
        let message = format!(
            "network {} can't be isolated: without a subnet it has no gateway, and its ports would reach nothing",
            create.name
        );
        return Err(Refusal::new("no_subnet", message).hint("give it a --subnet"));
    }
    let network = Network {
        id,
        name: create.name.clone(),
        vni: choose_vni(map, create)?,
        subnets: subnet::plan(map, create)?,
        transport: if create.encrypted {
            Transport::Quic
        } else {
            Transport::Vxlan
        },
        internal: create.internal,
        egress: create.egress,
        mtu: create.mtu,
        ageing_secs: create.ageing_secs.unwrap_or(DEFAULT_AGEING_SECS),
        vteps: BTreeSet::new(),
        isolate: create.isolate,
        made_by: create.made_by.clone(),
    };
    check_settings(&network)?;
    Ok(vec![Change::Put(Object::Network(network))])
}

/// Every node must be able to protect the network: any of them may get a port on it.
fn check_protection(map: &ClusterMap, name: &str) -> Decision<()> {
    let nodes = map.nodes.values().map(|node| &node.object);
    let unable: Vec<String> = nodes
        .filter(|node| node.takes_encrypted().is_none())
        .map(|node| format!("{} (weft {})", node.name, node.version))
        .collect();
    if unable.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(
        "unsupported",
        format!(
            "network {name} can't be encrypted: these nodes carry no encrypted networks: {}",
            enumerate(&unable)
        ),
    )
    .hint("start their agents with a weft that does and without `--encrypted-port 0`, or remove them with `weft nodes rm`"))
}

fn choose_vni(map: &ClusterMap, create: &NetworkCreate) -> Decision<Vni> {
    let networks = || map.networks.values().map(|network| &network.object);
    if let Some(vni) = create.vni {
        return match networks().find(|network| network.vni == vni) {
            Some(holder) => {
                let message = format!("VNI {vni} is taken by network {}", holder.name);
                Err(Refusal::new("vni_taken", message)
                    .hint("choose another --vni, or leave it out to get a free one"))
            }
            None => Ok(vni),
        };
    }
    let taken: BTreeSet<u32> = networks().map(|network| network.vni.value()).collect();
    (FIRST_VNI..=Vni::MAX)
        .find(|vni| !taken.contains(vni))
        .and_then(|vni| Vni::new(vni).ok())
        .ok_or_else(|| {
            Refusal::new(
                "vni_exhausted",
                format!("all VNIs from {FIRST_VNI} on are taken"),
            )
            .hint("give a --vni below, or remove networks with `weft network prune`")
        })
}

fn check_settings(network: &Network) -> Decision<()> {
    let has_v6 = network
        .subnets
        .iter()
        .any(|subnet| subnet.cidr.network().is_ipv6());
    if let Some(mtu) = network.mtu
        && has_v6
        && mtu < Mtu::IPV6_MIN
    {
        return Err(Refusal::new(
            "bad_mtu",
            format!("MTU {mtu} is too small for network {}: it has an IPv6 subnet, which needs 1280 (RFC 8200)", network.name),
        )
        .hint("take an --mtu of 1280 or more"));
    }
    if !(1..=MAX_AGEING_SECS).contains(&network.ageing_secs) {
        return Err(Refusal::new(
            "bad_ageing",
            format!(
                "ageing time {} s of network {} is out of range",
                network.ageing_secs, network.name
            ),
        )
        .hint(format!(
            "take an --ageing of 1 to {MAX_AGEING_SECS} seconds"
        )));
    }
    Ok(())
}

/// Changes settings.
///
/// # Errors
/// `unknown_network`, `bad_mtu`, `bad_ageing`.
pub fn change(map: &ClusterMap, name: &str, change: &NetworkChange) -> Decision<Vec<Change>> {
    let before = find_network(map, name)?;
    let mut network = before.clone();
    network.mtu = change.mtu.or(network.mtu);
    network.egress = change.egress.unwrap_or(network.egress);
    network.ageing_secs = change.ageing_secs.unwrap_or(network.ageing_secs);
    check_settings(&network)?;
    if network == *before {
        return Ok(Vec::new());
    }
    Ok(vec![Change::Put(Object::Network(network))])
}

/// Removes a network that nothing and no router is on, with its blocks.
///
/// # Errors
/// `unknown_network`, `network_in_use`.
pub fn remove(map: &ClusterMap, name: &str) -> Decision<Vec<Change>> {
    let network = find_network(map, name)?;
    let on_it: Vec<String> = map
        .endpoints_of(&network.id)
        .map(|endpoint| {
            format!(
                "{} (node {})",
                endpoint.name,
                node_name(map, &endpoint.node)
            )
        })
        .collect();
    if !on_it.is_empty() {
        return Err(Refusal::new(
            "network_in_use",
            format!("network {name} has endpoints: {}", enumerate(&on_it)),
        )
        .hint(format!(
            "disconnect them first: `weft network disconnect {name} --name ENDPOINT` on their nodes"
        )));
    }
    router::check_removable(map, network)?;
    Ok(removal(map, network))
}

fn removal(map: &ClusterMap, network: &Network) -> Vec<Change> {
    let blocks = map
        .blocks_of(&network.id)
        .map(|block| Change::Delete(Key::Block(network.id.clone(), block.prefix)));
    blocks
        .chain([Change::Delete(Key::Network(network.id.clone()))])
        .collect()
}

/// Removes all networks that nothing and no router is on; tells their names, sorted.
pub fn prune(map: &ClusterMap) -> (Vec<Change>, Vec<String>) {
    let used: BTreeSet<&NetworkId> = map
        .endpoints
        .values()
        .map(|endpoint| &endpoint.object.network)
        .collect();
    let unused: Vec<&Network> = map
        .networks
        .values()
        .map(|network| &network.object)
        .filter(|network| !used.contains(&network.id) && map.router_of(&network.id).is_none())
        .collect();
    let mut names: Vec<String> = unused.iter().map(|network| network.name.clone()).collect();
    names.sort();
    (
        unused
            .into_iter()
            .flat_map(|network| removal(map, network))
            .collect(),
        names,
    )
}

/// Adds a static tunnel end; one that is there already is fine. Loopback addresses are taken: the other end may be on
/// the same host, in test beds mostly.
///
/// # Errors
/// `unknown_network`, `isolated`, `encrypted`, `bad_vtep`, `vtep_is_node`, `too_many_vteps`.
pub fn add_vtep(map: &ClusterMap, name: &str, address: IpAddr) -> Decision<Vec<Change>> {
    let network = find_network(map, name)?;
    if network.vteps.contains(&address) {
        return Ok(Vec::new());
    }
    if network.isolate {
        let message =
            format!("network {name} is isolated: a static VTEP would reach none of its ports");
        return Err(Refusal::new("isolated", message)
            .hint("make a network without --isolate for what is behind the VTEP"));
    }
    if network.is_encrypted() {
        let message = format!("network {name} is encrypted: a static VTEP would get it in clear");
        return Err(Refusal::new("encrypted", message)
            .hint("make a network without --encrypted for what no agent runs"));
    }
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err(Refusal::new(
            "bad_vtep",
            format!("{address} is no address of a single host"),
        )
        .hint("give the underlay address of the other tunnel end"));
    }
    let mut nodes = map.nodes.values().map(|node| &node.object);
    if let Some(node) = nodes.find(|node| node.underlay == address) {
        let message = format!(
            "{address} is node {}: its agent carries network {name} already",
            node.name
        );
        return Err(Refusal::new("vtep_is_node", message)
            .hint("static VTEPs are for tunnel ends that no agent runs"));
    }
    if network.vteps.len() >= MAX_VTEPS {
        let message = format!("network {name} has {MAX_VTEPS} static VTEPs, more are not taken");
        return Err(Refusal::new("too_many_vteps", message)
            .hint(format!("remove one with `weft network vtep rm {name} IP`")));
    }
    let mut network = network.clone();
    network.vteps.insert(address);
    Ok(vec![Change::Put(Object::Network(network))])
}

/// Removes a static tunnel end.
///
/// # Errors
/// `unknown_network`, `unknown_vtep`.
pub fn remove_vtep(map: &ClusterMap, name: &str, address: IpAddr) -> Decision<Vec<Change>> {
    let mut network = find_network(map, name)?.clone();
    if !network.vteps.remove(&address) {
        return Err(Refusal::new(
            "unknown_vtep",
            format!("network {name} has no static VTEP {address}"),
        )
        .hint(format!("see `weft network vtep ls {name}`")));
    }
    Ok(vec![Change::Put(Object::Network(network))])
}
