//! From what the cluster knows to what this host's switch and tunnel must hold: pure, level-triggered. The whole
//! wanted state is computed anew from the map and the local ports, and compared with what was applied before.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_switch::gateway::GATEWAY_LINK_LOCAL;
use weft_wire::{MacAddr, Mtu, Vni};

use crate::model::{ClusterMap, EndpointId, Network, NetworkId, Node, NodeId, Transport};

/// UDP port of a VTEP that no agent runs (RFC 7348 section 5).
const STATIC_VTEP_PORT: u16 = weft_wire::vxlan::VXLAN_PORT;

/// A tunnel end other than our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedPeer {
    /// Node name, or `None` for a static VTEP.
    pub(super) node: Option<String>,
    /// UDP port for VXLAN.
    pub(super) port: u16,
    /// For a static VTEP the only networks whose frames it may send; `None`: all.
    pub(super) only: Option<BTreeSet<Vni>>,
}

/// A network as this host forwards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WantedNetwork {
    /// Its identity: the VNI of one that was removed may be given to another.
    pub(super) id: NetworkId,
    /// For people.
    pub(super) name: String,
    /// In force on this host.
    pub(super) mtu: Mtu,
    /// Of learned addresses.
    pub(super) ageing_secs: u32,
    /// No subnet: a plain learning switch.
    pub plain_l2: bool,
    /// Who gets a copy of what is flooded (head-end replication), by underlay address.
    pub(super) flood: BTreeSet<IpAddr>,
    /// Where its gateway answers, on every host.
    pub(super) gateways: Vec<IpAddr>,
}

/// Where an address of the control plane's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WantedPlace {
    /// Behind the port of that endpoint of this host.
    Port(EndpointId),
    /// Behind the peer with that underlay address.
    Peer(IpAddr),
}

/// All that the switch and the tunnel of this host are to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// By underlay address.
    pub(super) peers: BTreeMap<IpAddr, WantedPeer>,
    /// By VNI.
    pub(super) networks: BTreeMap<Vni, WantedNetwork>,
    /// Owned addresses with their epoch.
    pub(super) macs: BTreeMap<(Vni, MacAddr), (WantedPlace, u64)>,
    /// MACs of endpoints on other hosts of plain L2 networks, which are learned, not owned: when one goes, what was
    /// learned of it must go too.
    pub(super) remote_stations: BTreeSet<(Vni, MacAddr)>,
    /// Ports of networks that are no more whose VNI another network has now: they are on none.
    pub(super) stranded: BTreeSet<EndpointId>,
    /// What an operator should know about the map.
    pub(super) warnings: Vec<String>,
}

/// This host, as far as planning needs to know it.
#[derive(Clone, Debug)]
pub(super) struct Here<'a> {
    /// Our node id.
    pub(super) node: &'a NodeId,
    /// Our tunnel address.
    pub(super) underlay: IpAddr,
    /// MTU of the link that has it.
    pub(super) underlay_mtu: Mtu,
    /// Path MTUs that were measured, by the peer's underlay address.
    pub(super) measured: Arc<BTreeMap<IpAddr, Mtu>>,
}

/// A port of this host, as far as planning needs to know it.
#[derive(Clone, Debug)]
pub(super) struct LocalPort<'a> {
    /// Its endpoint.
    pub(super) id: &'a EndpointId,
    /// Its network.
    pub(super) network: &'a NetworkId,
    /// The network's VNI when it was connected.
    pub(super) vni: Vni,
    /// Its interface's address.
    pub(super) mac: MacAddr,
    /// Of that address's ownership.
    pub(super) epoch: u64,
    /// The controller doesn't take it: the name or an address is another endpoint's.
    pub(super) refused: bool,
}

/// Computes what this host is to hold.
pub(super) fn plan<'a>(
    map: &ClusterMap,
    here: &Here<'_>,
    ports: impl Iterator<Item = LocalPort<'a>>,
) -> Wanted {
    let mut wanted = Wanted::default();
    plan_peers(map, here, &mut wanted);
    let members = members(map, here, &wanted.peers);
    for network in map.networks.values().map(|network| &network.object) {
        let mut flood = members.get(&network.id).cloned().unwrap_or_default();
        flood.extend(
            network
                .vteps
                .iter()
                .copied()
                .filter(|ip| wanted.peers.contains_key(ip)),
        );
        let wanted_network = WantedNetwork {
            id: network.id.clone(),
            name: network.name.clone(),
            mtu: effective_mtu(map, here, network),
            ageing_secs: network.ageing_secs,
            plain_l2: network.is_plain_l2(),
            flood,
            gateways: gateways(network),
        };
        wanted.networks.insert(network.vni, wanted_network);
    }
    warn_of_narrow_path(map, here, &mut wanted);
    plan_macs(map, here, &mut wanted);
    for port in ports {
        let Some(network) = wanted.networks.get(&port.vni) else {
            continue;
        };
        if network.id != *port.network {
            wanted.stranded.insert(port.id.clone());
        } else if network.plain_l2
            || (port.refused && wanted.macs.contains_key(&(port.vni, port.mac)))
        {
            // Learned, or owned by whom the cluster says.
        } else {
            let place = WantedPlace::Port(port.id.clone());
            wanted
                .macs
                .insert((port.vni, port.mac), (place, port.epoch));
        }
    }
    wanted
}

/// Where the gateway answers: at each subnet's gateway address, and as an IPv6 router at its link-local one.
fn gateways(network: &Network) -> Vec<IpAddr> {
    let subnets = network.subnets.iter().map(|subnet| subnet.gateway);
    let router = network.has_ipv6().then_some(IpAddr::V6(GATEWAY_LINK_LOCAL));
    subnets.chain(router).collect()
}

fn plan_peers(map: &ClusterMap, here: &Here<'_>, wanted: &mut Wanted) {
    for node in others(map, here) {
        if !reachable(here, node) {
            wanted.warnings.push(format!(
                "no tunnel to node {}: its underlay address {} and ours ({}) are of different families, or it offers no vxlan",
                node.name, node.underlay, here.underlay
            ));
            continue;
        }
        let peer = WantedPeer {
            node: Some(node.name.clone()),
            port: node.vxlan_port,
            only: None,
        };
        wanted.peers.insert(node.underlay, peer);
    }
    for network in map.networks.values().map(|network| &network.object) {
        for vtep in &network.vteps {
            if vtep.is_ipv4() != here.underlay.is_ipv4() || *vtep == here.underlay {
                wanted.warnings.push(format!(
                    "no tunnel to static VTEP {vtep} of network {}: it is not of the family of our underlay address {}",
                    network.name, here.underlay
                ));
                continue;
            }
            let peer = wanted.peers.entry(*vtep).or_insert_with(|| WantedPeer {
                node: None,
                port: STATIC_VTEP_PORT,
                only: Some(BTreeSet::new()),
            });
            // A VTEP that is also a node may send for every network anyway.
            if let Some(only) = &mut peer.only {
                only.insert(network.vni);
            }
        }
    }
}

fn others<'a>(map: &'a ClusterMap, here: &'a Here<'_>) -> impl Iterator<Item = &'a Node> + Clone {
    map.nodes
        .values()
        .map(|node| &node.object)
        .filter(|node| node.id != *here.node)
}

fn reachable(here: &Here<'_>, node: &Node) -> bool {
    node.underlay.is_ipv4() == here.underlay.is_ipv4()
        && node.underlay != here.underlay
        && node.transports.contains(&Transport::Vxlan)
}

/// Underlay addresses of the other nodes that have an endpoint on each network.
fn members(
    map: &ClusterMap,
    here: &Here<'_>,
    peers: &BTreeMap<IpAddr, WantedPeer>,
) -> BTreeMap<NetworkId, BTreeSet<IpAddr>> {
    let mut members: BTreeMap<NetworkId, BTreeSet<IpAddr>> = BTreeMap::new();
    for endpoint in map.endpoints.values().map(|endpoint| &endpoint.object) {
        if endpoint.node == *here.node {
            continue;
        }
        let Some(node) = map.nodes.get(&endpoint.node) else {
            continue;
        };
        if peers.contains_key(&node.object.underlay) {
            members
                .entry(endpoint.network.clone())
                .or_default()
                .insert(node.object.underlay);
        }
    }
    members
}

fn plan_macs(map: &ClusterMap, here: &Here<'_>, wanted: &mut Wanted) {
    for endpoint in map.endpoints.values().map(|endpoint| &endpoint.object) {
        if endpoint.node == *here.node {
            continue;
        }
        let (Some(network), Some(node)) = (
            map.network(&endpoint.network),
            map.nodes.get(&endpoint.node),
        ) else {
            continue;
        };
        if !wanted.peers.contains_key(&node.object.underlay) {
            continue;
        }
        if network.is_plain_l2() {
            wanted.remote_stations.insert((network.vni, endpoint.mac));
        } else {
            let place = WantedPlace::Peer(node.object.underlay);
            wanted
                .macs
                .insert((network.vni, endpoint.mac), (place, endpoint.epoch));
        }
    }
}

/// The MTU of a network's interfaces: the operator's, else what fits the path to every host of the cluster, as it was
/// measured or, before that, as both ends' links promise. Never below what IPv6 needs where the network has it: an
/// interface under 1280 loses its IPv6 addresses and routes (RFC 8200 section 5), and doesn't get them back with a larger
/// MTU, so one narrow path would take them from every container of the cluster.
pub(super) fn effective_mtu(map: &ClusterMap, here: &Here<'_>, network: &Network) -> Mtu {
    if let Some(mtu) = network.mtu {
        return mtu;
    }
    let ours = weft_tunnel::inner_mtu(here.underlay_mtu, here.underlay);
    let mtu = match narrowest(map, here) {
        // A static VTEP answers no probes: what our link promises is all there is.
        Some((narrowest, _)) if network.vteps.is_empty() => narrowest,
        Some((narrowest, _)) => narrowest.min(ours),
        None => ours,
    };
    if network.has_ipv6() {
        mtu.max(Mtu::IPV6_MIN)
    } else {
        mtu
    }
}

/// The inner MTU that fits the path to every other host, and the host it is for; `None` where there is no other.
fn narrowest<'a>(map: &'a ClusterMap, here: &'a Here<'_>) -> Option<(Mtu, &'a Node)> {
    others(map, here)
        .filter(|node| reachable(here, node))
        .map(|node| (path_mtu(here, node.underlay, node.underlay_mtu), node))
        .min_by_key(|(mtu, _)| *mtu)
}

/// The inner MTU towards a peer whose link has MTU `theirs`.
pub(super) fn path_mtu(here: &Here<'_>, peer: IpAddr, theirs: Mtu) -> Mtu {
    let packet = here.measured.get(&peer).copied();
    weft_tunnel::inner_mtu(packet.unwrap_or(theirs.min(here.underlay_mtu)), peer)
}

/// Names the host whose path is too narrow for IPv6, if a network has that.
fn warn_of_narrow_path(map: &ClusterMap, here: &Here<'_>, wanted: &mut Wanted) {
    let Some((narrowest, node)) = narrowest(map, here) else {
        return;
    };
    let networks = map.networks.values().map(|network| &network.object);
    let mut affected = networks.filter(|network| network.mtu.is_none() && network.has_ipv6());
    if narrowest < Mtu::IPV6_MIN
        && let Some(network) = affected.next()
    {
        wanted.warnings.push(format!(
            "the path to {} takes packets of {narrowest} bytes only, and IPv6 (network {}) needs {}: larger ones don't get there",
            node.name,
            network.name,
            Mtu::IPV6_MIN
        ));
    }
}

#[cfg(test)]
mod tests;
