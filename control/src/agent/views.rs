//! What the agent shows: the replies of the API's reading half, made from the map, the ports and the counters.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use weft_switch::{FdbKind, FdbRow, Place};
use weft_tunnel::Carriage;
use weft_tunnel::session::{CIPHER, SessionView};
use weft_wire::Mtu;

use super::line::line_view;
use super::plan::{WantedNetwork, effective_mtu, path_mtu};
use super::{Agent, Inner, Port, ipam};
use crate::api;
use crate::model::{ClusterMap, Network, NetworkId, Node, NodeId, Transport};

impl Agent {
    /// `weft peers`.
    pub(super) fn peers(&self) -> api::Peers {
        let inner = self.inner();
        let fabric = self.fabric();
        let applied = fabric.applied();
        let here = self.here();
        let peers = applied.peers.iter().map(|(address, peer)| {
            let networks = applied
                .networks
                .values()
                .filter(|network| network.flood.contains(address))
                .map(|network| network.name.clone())
                .collect();
            let protected = |network: &WantedNetwork| {
                network.carriage == Carriage::Encrypted && network.flood.contains(address)
            };
            let nodes = inner.map.nodes.values();
            let theirs = nodes
                .map(|node| &node.object)
                .find(|node| node.underlay == *address)
                .map_or(here.underlay_mtu, |node| node.underlay_mtu);
            let mtu = path_mtu(&here, (*address, Carriage::Encrypted), theirs);
            let encrypted = fabric
                .session(*address)
                .filter(|session| session.up || applied.networks.values().any(protected))
                .map(|session| tunnel_view(session, mtu));
            api::Peer {
                name: peer.node.clone().unwrap_or_else(|| "static".to_owned()),
                address: *address,
                transport: Transport::Vxlan,
                kind: if peer.node.is_some() {
                    "node"
                } else {
                    "static"
                }
                .to_owned(),
                mtu: path_mtu(&here, (*address, Carriage::Clear), theirs),
                networks,
                encrypted,
                traffic: fabric.peer_traffic(*address),
            }
        });
        api::Peers {
            peers: peers.collect(),
            strangers: fabric.strangers(),
        }
    }

    /// `weft ports`.
    pub(super) fn ports(&self) -> Vec<api::Port> {
        let inner = self.inner();
        let fabric = self.fabric();
        let mut ports: Vec<api::Port> = inner
            .ports
            .values()
            .map(|port| port_view(port, fabric.port_traffic(port.id)))
            .collect();
        ports.sort_by(|a, b| (&a.network, &a.name).cmp(&(&b.network, &b.name)));
        ports
    }

    /// Ports of one program, or of one of its containers.
    pub(super) fn attachments(
        &self,
        owner: Option<&str>,
        container: Option<&str>,
    ) -> Vec<api::Port> {
        let mut ports = self.ports();
        ports.retain(|port| {
            port.attachment.as_ref().is_some_and(|attachment| {
                owner.is_none_or(|owner| attachment.owner == owner)
                    && container.is_none_or(|container| attachment.container == container)
            })
        });
        ports
    }

    /// `weft fdb`.
    pub(super) fn fdb(&self) -> Vec<api::FdbEntry> {
        let inner = self.inner();
        let fabric = self.fabric();
        let applied = fabric.applied();
        let ports: BTreeMap<_, &Port> = inner.ports.values().map(|port| (port.id, port)).collect();
        let mut rows: Vec<api::FdbEntry> = fabric
            .fdb()
            .into_iter()
            .map(|row| {
                let (via, name, address) = match row.place {
                    Place::Port(id) => {
                        let name = ports.get(&id).map(|port| port.record.endpoint.name.clone());
                        match fabric.uplink_behind(id) {
                            Some(uplink) => ("uplink", Some(uplink.dev.clone()), None),
                            None => ("port", name, None),
                        }
                    }
                    Place::Peer(id) => {
                        let address = fabric.peer_address(id);
                        let node = address
                            .and_then(|address| applied.peers.get(&address)?.node.clone())
                            .unwrap_or_else(|| "static".to_owned());
                        ("peer", Some(node), address)
                    }
                };
                let network = applied
                    .networks
                    .get(&row.vni)
                    .map(|network| network.name.clone());
                fdb_view(&row, via, (name, network), address)
            })
            .collect();
        rows.sort_by(|a, b| (&a.network, a.vlan, a.mac).cmp(&(&b.network, b.vlan, b.mac)));
        rows
    }

    /// Who has which address, by that map and by what this host knows of itself.
    pub(super) fn leases(&self, map: &ClusterMap, inner: &Inner) -> Vec<api::Lease> {
        let mut leases = Vec::new();
        for network in map.networks.values().map(|network| &network.object) {
            leases.extend(reserved_leases(network));
            for endpoint in inner.known_by(map, &network.id, &self.facts.node) {
                let port = inner.ports.get(&endpoint.id);
                let netns = port.map(|port| port.record.netns.clone());
                let node = node_name(map, &endpoint.node);
                leases.extend(endpoint.ips.iter().map(|address| api::Lease {
                    network: network.name.clone(),
                    address: *address,
                    kind: "endpoint".to_owned(),
                    name: endpoint.name.clone(),
                    node: Some(node.clone()),
                    mac: Some(endpoint.mac),
                    netns: netns.clone(),
                }));
            }
        }
        leases.sort_by(|a, b| (&a.network, a.address).cmp(&(&b.network, b.address)));
        leases
    }

    /// One network as `ls` shows it; how many endpoints are on it is said if the map is `complete` for it.
    pub(super) fn network_view(
        &self,
        map: &ClusterMap,
        network: &Network,
        complete: impl Fn(&NetworkId) -> bool,
    ) -> api::NetworkInfo {
        api::NetworkInfo {
            name: network.name.clone(),
            id: network.id.to_string(),
            vni: network.vni,
            subnets: network
                .subnets
                .iter()
                .map(|subnet| api::SubnetInfo {
                    cidr: subnet.cidr,
                    ip_range: subnet.ip_range,
                    gateway: subnet.gateway,
                    aux_addresses: subnet.aux_addresses.clone(),
                })
                .collect(),
            transport: network.transport,
            encrypted: network.is_encrypted(),
            internal: network.internal,
            isolate: network.isolate,
            router: map.router_of(&network.id).map(|router| router.name.clone()),
            egress: network.way_out(),
            mtu: effective_mtu(map, &self.here(), network),
            mtu_set: network.mtu.is_some(),
            ageing_secs: network.ageing_secs,
            vteps: network.vteps.iter().copied().collect(),
            endpoints: complete(&network.id).then(|| map.endpoints.count_of_network(&network.id)),
        }
    }

    /// One network as `inspect` shows it.
    pub(super) fn network_detail(&self, map: &ClusterMap, network: &Network) -> api::NetworkDetail {
        let mut members: Vec<api::EndpointInfo> = map
            .endpoints_of(&network.id)
            .map(|endpoint| api::EndpointInfo {
                name: endpoint.name.clone(),
                id: endpoint.id.to_string(),
                node: node_name(map, &endpoint.node),
                mac: endpoint.mac,
                ips: endpoint.ips.clone(),
                aliases: endpoint.aliases.clone(),
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        api::NetworkDetail {
            network: self.network_view(map, network, |_| true),
            members,
            blocks: block_views(map, network),
        }
    }
}

/// Addresses of a network that no endpoint may have.
fn reserved_leases(network: &Network) -> impl Iterator<Item = api::Lease> {
    network.subnets.iter().flat_map(|subnet| {
        let lease = |kind: &str, name: &str, address: IpAddr| api::Lease {
            network: network.name.clone(),
            address,
            kind: kind.to_owned(),
            name: name.to_owned(),
            node: None,
            mac: None,
            netns: None,
        };
        let aux = subnet.aux_addresses.iter();
        let aux = aux.map(|(name, address)| lease("reserved", name, *address));
        let gateway = lease("gateway", "gateway", subnet.gateway);
        std::iter::once(gateway).chain(aux.collect::<Vec<_>>())
    })
}

fn tunnel_view(session: SessionView, mtu: Mtu) -> api::EncryptedTunnel {
    let state = match (session.up, &session.trouble) {
        (true, _) => "up",
        (false, Some(_)) => "down",
        (false, None) => "idle",
    };
    let silent = session
        .silent
        .map(|time| format!("nothing was heard from it for {} s", time.as_secs()));
    let (sent_packets, lost_packets) = session.packets.unwrap_or_default();
    let opened_by = if session.ours { "us" } else { "peer" };
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    api::EncryptedTunnel {
        state: state.to_owned(),
        cipher: session.up.then(|| CIPHER.to_owned()),
        remote: session.remote,
        opened_by: session.up.then(|| opened_by.to_owned()),
        key_age_secs: session.key_age.map(|age| age.as_secs()),
        handshake_age_secs: session.handshake_age.map(|age| age.as_secs()),
        sealed_packets: session.sealed,
        mtu,
        rtt_us: session.rtt.map(micros),
        sent_packets,
        lost_packets,
        why: silent.or(session.trouble),
    }
}

/// One port as `ports`, `connect` and `disconnect` show it.
pub(super) fn port_view(port: &Port, traffic: api::Traffic) -> api::Port {
    let record = &port.record;
    api::Port {
        name: record.endpoint.name.clone(),
        endpoint: record.endpoint.id.to_string(),
        network: record.network_name.clone(),
        vni: record.vni,
        netns: record.netns.clone(),
        ifname: record.ifname.clone(),
        mac: record.endpoint.mac,
        addresses: [record.addresses.as_slice(), &record.foreign].concat(),
        gateways: record.gateways.clone(),
        routes: record.routes.clone(),
        attachment: record.attachment.clone(),
        aliases: record.endpoint.aliases.clone(),
        kind: if record.plain { "plain" } else { "offload" }.to_owned(),
        mtu: record.mtu,
        state: port.trouble.clone().unwrap_or_else(|| "up".to_owned()),
        line: line_view(port),
        published: record.published.clone(),
        traffic,
    }
}

fn fdb_view(
    row: &FdbRow,
    via: &str,
    (name, network): (Option<String>, Option<String>),
    address: Option<IpAddr>,
) -> api::FdbEntry {
    let (kind, age_secs, epoch) = match &row.kind {
        FdbKind::Owned { epoch } => ("owned", None, Some(*epoch)),
        FdbKind::Learned { age } => ("learned", Some(age.as_secs()), None),
    };
    api::FdbEntry {
        network: network.unwrap_or_else(|| format!("vni {}", row.vni)),
        vni: row.vni,
        vlan: row.vlan.value(),
        mac: row.mac,
        via: via.to_owned(),
        name: name.unwrap_or_else(|| "(leaving)".to_owned()),
        address,
        kind: kind.to_owned(),
        age_secs,
        epoch,
    }
}

pub(super) fn block_views(map: &ClusterMap, network: &Network) -> Vec<api::SubnetBlock> {
    map.blocks_of(&network.id)
        .map(|block| api::SubnetBlock {
            network: network.name.clone(),
            prefix: block.prefix,
            node: node_name(map, &block.node),
            underlay: map.nodes.get(&block.node).map(|node| node.object.underlay),
            used: ipam::used(map, &network.id, block.prefix),
        })
        .collect()
}

/// One node as `nodes` shows it; whether it is connected, if a controller said.
pub(super) fn node_view(
    node: &Node,
    endpoints: usize,
    connected: Option<bool>,
    here: &NodeId,
) -> api::NodeInfo {
    let state = match connected {
        None => "unknown",
        Some(true) => "connected",
        Some(false) => "disconnected",
    };
    api::NodeInfo {
        name: node.name.clone(),
        id: node.id.to_string(),
        underlay: node.underlay,
        underlay_mtu: node.underlay_mtu,
        transports: node.transports.clone(),
        version: node.version.clone(),
        endpoints,
        state: state.to_owned(),
        this: node.id == *here,
    }
}

/// A node's name for people; its id when the map doesn't have it.
pub(super) fn node_name(map: &ClusterMap, id: &NodeId) -> String {
    map.nodes
        .get(id)
        .map_or_else(|| id.to_string(), |node| node.object.name.clone())
}
