//! From what the cluster knows to what this host's switch and tunnel must hold: pure, level-triggered. The whole
//! wanted state is computed anew from the map and the local ports, and compared with what was applied before. Where only
//! endpoints of other hosts changed, [`patch()`] finds the same without looking at the others.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_switch::gateway::GATEWAY_LINK_LOCAL;
use weft_tunnel::{Carriage, SecureSpec};
use weft_wire::{MacAddr, Mtu, Vni};

use super::uplink::UplinkRecord;
use crate::model::{
    ClusterMap, Egress, Endpoint, EndpointId, Network, NetworkId, Node, NodeId, Transport,
};

mod patch;

pub(super) use patch::{Patch, Touched, patch};

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
    /// Who it must prove to be for encrypted networks; `None`: it carries none.
    pub(super) secure: Option<SecureSpec>,
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
    /// How its frames travel between hosts.
    pub(super) carriage: Carriage,
    /// Of learned addresses.
    pub(super) ageing_secs: u32,
    /// No subnet: a plain learning switch.
    pub plain_l2: bool,
    /// Who gets a copy of what is flooded (head-end replication), by underlay address.
    pub(super) flood: BTreeSet<IpAddr>,
    /// Where its gateway answers, on every host.
    pub(super) gateways: Vec<IpAddr>,
    /// Where it sends what isn't for itself. The same for all networks of a router.
    pub(super) routes: Arc<Vec<WantedRoute>>,
    /// What has no route stays in the cluster.
    pub(super) internal: bool,
    /// Its ports don't reach each other.
    pub(super) isolate: bool,
    /// How its endpoints reach the outside.
    pub(super) egress: Egress,
}

/// What a gateway does with packets to a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WantedRoute {
    /// The destinations.
    pub(super) prefix: IpNet,
    /// The network that it leads to; `None`: the prefix is a gateway's own address.
    pub(super) network: Option<Vni>,
    /// The next hop there; `None`: the destination itself.
    pub(super) via: Option<IpAddr>,
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
    /// Subnets of all networks.
    pub(super) subnets: Vec<IpNet>,
    /// Whose MAC each address has, of endpoints on all hosts.
    pub(super) neighbors: BTreeMap<(Vni, IpAddr), MacAddr>,
    /// MACs of endpoints on other hosts of plain L2 networks, which are learned, not owned: when one goes, what was
    /// learned of it must go too.
    pub(super) remote_stations: BTreeSet<(Vni, MacAddr)>,
    /// Ports of networks that are no more whose VNI another network has now: they are on none.
    pub(super) stranded: BTreeSet<EndpointId>,
    /// Links that are bridged into networks, with the networks' VNIs.
    pub(super) uplinks: BTreeMap<UplinkRecord, Vni>,
    /// Ports of this host itself by which networks leave, with their MACs.
    pub(super) exits: BTreeMap<EndpointId, MacAddr>,
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
    /// This agent carries encrypted networks.
    pub(super) encrypts: bool,
    /// Path MTUs that were measured.
    pub(super) measured: Arc<PathMtus>,
}

/// Path MTUs (bytes of an outer packet) by the peer's underlay address and how frames travel there.
pub(super) type PathMtus = BTreeMap<(IpAddr, Carriage), Mtu>;

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
    /// Its addresses.
    pub(super) ips: &'a [IpAddr],
    /// It is the host's own: `weft expose`.
    pub(super) is_host: bool,
    /// The controller doesn't take it: the name or an address is another endpoint's.
    pub(super) refused: bool,
}

/// The map as far as this host forwards by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    map: &'a ClusterMap,
    has: Option<&'a BTreeSet<NetworkId>>,
}

impl<'a> Part<'a> {
    /// The networks `has` of a map; all when `None`.
    pub(super) fn of(map: &'a ClusterMap, has: Option<&'a BTreeSet<NetworkId>>) -> Self {
        Self { map, has }
    }

    fn has(&self, network: &NetworkId) -> bool {
        self.has.is_none_or(|has| has.contains(network))
    }

    fn networks(self) -> impl Iterator<Item = &'a Network> {
        let networks = self.map.networks.values();
        let networks = networks.map(|network| &network.object);
        networks.filter(move |network| self.has(&network.id))
    }

    /// Endpoints of other nodes.
    fn strangers(self, here: &Here<'_>) -> impl Iterator<Item = &'a Endpoint> {
        let endpoints = self.map.endpoints.values();
        let endpoints = endpoints.map(|endpoint| &endpoint.object);
        endpoints.filter(move |one| one.node != *here.node && self.has(&one.network))
    }
}

/// Computes what this host is to hold.
pub(super) fn plan<'a>(
    part: Part<'_>,
    here: &Here<'_>,
    ports: impl Iterator<Item = LocalPort<'a>>,
) -> Wanted {
    let mut wanted = Wanted {
        subnets: subnets(part.map),
        ..Wanted::default()
    };
    plan_peers(part, here, &mut wanted);
    let members = members(part, here, &wanted.peers);
    let routes = plan_routes(part);
    for network in part.networks() {
        let members = members.get(&network.id).into_iter().flatten().copied();
        let flood = flood(network, &wanted.peers, members);
        let wanted_network = WantedNetwork {
            id: network.id.clone(),
            name: network.name.clone(),
            mtu: effective_mtu(part.map, here, network),
            carriage: carriage(network),
            ageing_secs: network.ageing_secs,
            plain_l2: network.is_plain_l2(),
            flood,
            gateways: gateways(network),
            routes: routes.get(&network.id).cloned().unwrap_or_default(),
            internal: network.internal,
            isolate: network.isolate,
            egress: network.way_out(),
        };
        wanted.networks.insert(network.vni, wanted_network);
    }
    warn_of_narrow_path(part, here, &mut wanted);
    plan_macs(part, here, &mut wanted);
    plan_ports(ports, &mut wanted);
    wanted
}

/// What the ports of this host own, and which sessions they need.
fn plan_ports<'a>(ports: impl Iterator<Item = LocalPort<'a>>, wanted: &mut Wanted) {
    let mut kept = BTreeSet::new();
    // By network that leaves by the kernel: whether that has a port.
    let mut left: BTreeMap<&str, bool> = BTreeMap::new();
    for port in ports {
        let Some(network) = wanted.networks.get(&port.vni) else {
            continue;
        };
        if network.id == *port.network && network.carriage == Carriage::Encrypted {
            kept.extend(network.flood.iter().copied());
        }
        if network.id == *port.network && network.egress == Egress::Kernel {
            *left.entry(&network.name).or_default() |= port.is_host;
            if port.is_host {
                wanted.exits.insert(port.id.clone(), port.mac);
            }
        }
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
            for ip in port.ips {
                let key = (port.vni, *ip);
                if !port.refused || !wanted.neighbors.contains_key(&key) {
                    wanted.neighbors.insert(key, port.mac);
                }
            }
        }
    }
    let closed = left.iter().filter(|(_, has_exit)| !**has_exit);
    wanted.warnings.extend(closed.map(|(name, _)| {
        format!("network {name} leaves by this host's kernel, and the host has no port on it: `weft expose {name}`")
    }));
    for (_, peer) in wanted.peers.iter_mut().filter(|(ip, _)| kept.contains(ip)) {
        if let Some(secure) = &mut peer.secure {
            secure.keep = true;
        }
    }
}

/// What isn't outside: the subnets of all networks, those of other routers too.
fn subnets(map: &ClusterMap) -> Vec<IpNet> {
    let networks = map.networks.values().map(|network| &network.object);
    let subnets = networks.flat_map(|network| &network.subnets);
    subnets.map(|subnet| subnet.cidr).collect()
}

/// Where the gateway answers: at each subnet's gateway address, and as an IPv6 router at its link-local one.
fn gateways(network: &Network) -> Vec<IpAddr> {
    let subnets = network.subnets.iter().map(|subnet| subnet.gateway);
    let router = network.has_ipv6().then_some(IpAddr::V6(GATEWAY_LINK_LOCAL));
    subnets.chain(router).collect()
}

/// How a network's frames travel between hosts.
pub(super) fn carriage(network: &Network) -> Carriage {
    if network.is_encrypted() {
        Carriage::Encrypted
    } else {
        Carriage::Clear
    }
}

type WantedPeers = BTreeMap<IpAddr, WantedPeer>;

fn is_secure(peers: &WantedPeers, ip: IpAddr) -> bool {
    let peer = peers.get(&ip);
    peer.is_some_and(|peer| peer.secure.is_some())
}

/// The underlay address of a node, if it is a peer.
fn behind(map: &ClusterMap, peers: &WantedPeers, node: &NodeId) -> Option<IpAddr> {
    let underlay = map.nodes.get(node)?.object.underlay;
    peers.contains_key(&underlay).then_some(underlay)
}

/// Who gets a copy of what is flooded: `members`, the peers that have an endpoint on the network, and static VTEPs.
fn flood(
    network: &Network,
    peers: &WantedPeers,
    members: impl Iterator<Item = IpAddr>,
) -> BTreeSet<IpAddr> {
    if network.is_encrypted() {
        return members.filter(|ip| is_secure(peers, *ip)).collect();
    }
    let vteps = network.vteps.iter().copied();
    let vteps = vteps.filter(|ip| peers.contains_key(ip));
    members.chain(vteps).collect()
}

fn plan_peers(part: Part<'_>, here: &Here<'_>, wanted: &mut Wanted) {
    for node in others(part.map, here) {
        let secure = reachable(here, node, Carriage::Encrypted);
        if !reachable(here, node, Carriage::Clear) && !secure {
            wanted.warnings.push(format!(
                "no tunnel to node {}: its underlay address {} and ours ({}) are of different families, or it offers no tunnel that we have",
                node.name, node.underlay, here.underlay
            ));
            continue;
        }
        let peer = WantedPeer {
            node: Some(node.name.clone()),
            port: node.vxlan_port,
            only: None,
            secure: node
                .takes_encrypted()
                .filter(|_| secure)
                .map(|port| SecureSpec {
                    node: node.id.0.clone(),
                    port,
                    keep: false,
                }),
        };
        wanted.peers.insert(node.underlay, peer);
    }
    for network in part.networks().filter(|network| !network.is_encrypted()) {
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
                secure: None,
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

fn reachable(here: &Here<'_>, node: &Node, carriage: Carriage) -> bool {
    let offered = match carriage {
        Carriage::Clear => node.transports.contains(&Transport::Vxlan),
        Carriage::Encrypted => here.encrypts && node.takes_encrypted().is_some(),
    };
    node.underlay.is_ipv4() == here.underlay.is_ipv4() && node.underlay != here.underlay && offered
}

/// Underlay addresses of the other nodes that have an endpoint on each network.
fn members(
    part: Part<'_>,
    here: &Here<'_>,
    peers: &WantedPeers,
) -> BTreeMap<NetworkId, BTreeSet<IpAddr>> {
    let mut members: BTreeMap<NetworkId, BTreeSet<IpAddr>> = BTreeMap::new();
    for endpoint in part.strangers(here) {
        if let Some(underlay) = behind(part.map, peers, &endpoint.node) {
            let of_network = members.entry(endpoint.network.clone()).or_default();
            of_network.insert(underlay);
        }
    }
    members
}

impl Wanted {
    /// Behind which peer an endpoint of another host is; `None` if frames don't get there.
    fn place_of(
        &self,
        map: &ClusterMap,
        (network, endpoint): (&Network, &Endpoint),
    ) -> Option<IpAddr> {
        let underlay = behind(map, &self.peers, &endpoint.node)?;
        let fits = !network.is_encrypted() || is_secure(&self.peers, underlay);
        fits.then_some(underlay)
    }
}

fn plan_macs(part: Part<'_>, here: &Here<'_>, wanted: &mut Wanted) {
    let map = part.map;
    for endpoint in part.strangers(here) {
        let Some(network) = map.network(&endpoint.network) else {
            continue;
        };
        let Some(underlay) = wanted.place_of(map, (network, endpoint)) else {
            continue;
        };
        if network.is_plain_l2() {
            wanted.remote_stations.insert((network.vni, endpoint.mac));
        } else {
            let place = WantedPlace::Peer(underlay);
            wanted
                .macs
                .insert((network.vni, endpoint.mac), (place, endpoint.epoch));
            let ips = endpoint.ips.iter();
            let ips = ips.map(|ip| ((network.vni, *ip), endpoint.mac));
            wanted.neighbors.extend(ips);
        }
    }
}

/// What each network's gateway routes: to its own subnets, and to all that the router has which the network is on.
fn plan_routes(part: Part<'_>) -> BTreeMap<NetworkId, Arc<Vec<WantedRoute>>> {
    let map = part.map;
    let mut tables = BTreeMap::new();
    let routers = map.routers.values().map(|router| &router.object);
    // Who has one of its networks has all of them.
    for router in routers.filter(|router| router.networks.iter().any(|id| part.has(id))) {
        let mut routes: Vec<WantedRoute> = map.networks_of(router).flat_map(connected).collect();
        for route in &router.routes {
            let mut networks = map.networks_of(router);
            if let Some(network) = networks.find(|network| network.subnet_of(route.via).is_some()) {
                routes.push(WantedRoute {
                    prefix: route.prefix,
                    network: Some(network.vni),
                    via: Some(route.via),
                });
            }
        }
        let routes = Arc::new(routes);
        let ids = router.networks.iter().cloned();
        tables.extend(ids.map(|id| (id, Arc::clone(&routes))));
    }
    for network in part.networks() {
        let own = || Arc::new(connected(network).collect());
        tables.entry(network.id.clone()).or_insert_with(own);
    }
    tables
}

/// Routes to a network's subnets and its gateway's own addresses.
fn connected(network: &Network) -> impl Iterator<Item = WantedRoute> {
    network.subnets.iter().flat_map(|subnet| {
        let to = |prefix, network| WantedRoute {
            prefix,
            network,
            via: None,
        };
        [
            to(subnet.cidr, Some(network.vni)),
            to(subnet.gateway.into(), None),
        ]
    })
}

/// The MTU of a network's interfaces: the operator's, else what fits the path to every host of the cluster, as it was
/// measured or, before that, as both ends' links promise. Never below what IPv6 needs where the network has it: an
/// interface under 1280 loses its IPv6 addresses and routes (RFC 8200 section 5), and doesn't get them back with a larger
/// MTU, so one narrow path would take them from every container of the cluster.
pub(super) fn effective_mtu(map: &ClusterMap, here: &Here<'_>, network: &Network) -> Mtu {
    if let Some(mtu) = network.mtu {
        return mtu;
    }
    let carriage = carriage(network);
    let ours = weft_tunnel::inner_mtu(here.underlay_mtu, here.underlay, carriage);
    let mtu = match narrowest(map, here, carriage) {
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
fn narrowest<'a>(
    map: &'a ClusterMap,
    here: &'a Here<'_>,
    carriage: Carriage,
) -> Option<(Mtu, &'a Node)> {
    let mtu = |node: &Node| path_mtu(here, (node.underlay, carriage), node.underlay_mtu);
    others(map, here)
        .filter(|node| reachable(here, node, carriage))
        .map(|node| (mtu(node), node))
        .min_by_key(|(mtu, _)| *mtu)
}

/// The inner MTU towards a peer whose link has MTU `theirs`.
pub(super) fn path_mtu(here: &Here<'_>, way: (IpAddr, Carriage), theirs: Mtu) -> Mtu {
    let packet = here.measured.get(&way).copied();
    let packet = packet.unwrap_or(theirs.min(here.underlay_mtu));
    weft_tunnel::inner_mtu(packet, way.0, way.1)
}

/// Names the host whose path is too narrow for IPv6, if a network has that.
fn warn_of_narrow_path(part: Part<'_>, here: &Here<'_>, wanted: &mut Wanted) {
    let networks = part.networks();
    for network in networks.filter(|network| network.mtu.is_none() && network.has_ipv6()) {
        let Some((narrowest, node)) = narrowest(part.map, here, carriage(network)) else {
            continue;
        };
        if narrowest >= Mtu::IPV6_MIN {
            continue;
        }
        wanted.warnings.push(format!(
            "the path to {} takes packets of {narrowest} bytes only, and IPv6 (network {}) needs {}: larger ones don't get there",
            node.name,
            network.name,
            Mtu::IPV6_MIN
        ));
        return;
    }
}

#[cfg(test)]
mod tests;
