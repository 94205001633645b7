//! What the datapath consults. Ports and networks change rarely and are published as one immutable version, which
//! readers take without waiting; the [`fdb`] changes with every new station and is a table of its own.

pub mod fdb;
pub mod neighbors;
pub mod routes;
mod hash;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_wire::{MacAddr, Mtu, PeerId, PortId, Vni};

use crate::port::Queue;
use crate::stats::{Counters, PeerLedger, TrafficStats};
use crate::verdict::Source;
use hash::KeyedHash;
use neighbors::Neighbors;
use routes::Routes;

/// How a network treats its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkMode {
    /// It has subnets: untagged frames only, addresses of endpoints are given by the control plane.
    Routed,
    /// A plain learning switch: any MAC may appear behind a port, VLAN tags pass.
    PlainL2,
}

/// A network as the switch forwards it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its number.
    pub vni: Vni,
    /// For people.
    pub name: String,
    /// Largest layer 3 packet.
    pub mtu: Mtu,
    /// How long a learned address is believed.
    pub ageing: Duration,
    /// How its ports are treated.
    pub mode: NetworkMode,
    /// Who gets a copy of what a port floods (head-end replication).
    pub flood_peers: Vec<PeerId>,
    /// The addresses that its gateway answers at on this host.
    pub gateways: Vec<IpAddr>,
    /// Where those send packets that are not for them.
    pub routes: Arc<Routes>,
    /// What has no route stays in the cluster.
    pub internal: bool,
    /// Its ports don't reach each other, on no host.
    pub isolate: bool,
}

/// What a port may send: its own MAC and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGuard {
    /// The only source MAC.
    pub mac: MacAddr,
    /// The only source addresses.
    pub ips: Vec<IpAddr>,
}

impl PortGuard {
    /// Whether an IPv4 packet or ARP message may be from `ip`. 0.0.0.0 claims nothing: it is what a DHCP client
    /// (RFC 2131) and an ARP probe (RFC 5227) have.
    #[inline]
    pub fn allows_v4(&self, ip: Ipv4Addr) -> bool {
        ip.is_unspecified() || self.ips.contains(&IpAddr::V4(ip))
    }

    /// Whether an IPv6 packet may be from `ip`. `::` claims nothing: it is what duplicate address detection has
    /// (RFC 4862).
    #[inline]
    pub fn allows_v6(&self, ip: Ipv6Addr) -> bool {
        ip.is_unspecified() || self.may_claim(ip)
    }

    /// Whether neighbor discovery may say that `ip` is here. Link-local addresses are the container's own choice.
    #[inline]
    pub fn may_claim(&self, ip: Ipv6Addr) -> bool {
        ip.is_unicast_link_local() || self.ips.contains(&IpAddr::V6(ip))
    }
}

/// What a port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortRole {
    /// An endpoint.
    Endpoint,
    /// The host's own services behind the network's gateway: gets what ports have for the gateway, gives to ports of
    /// this host only, and is no part of a flood. One per network.
    Services,
    /// A link of the host: its frames go to endpoints of this host only, and those of the endpoints go there, too.
    Uplink,
}

/// A port in the table. Versions of it share what lives: counters, queues, whether it has gone.
#[derive(Clone, Debug)]
pub(crate) struct PortEntry {
    /// `None`: it is on no network; its frames go nowhere and none come.
    pub(crate) network: Option<Vni>,
    pub(crate) role: PortRole,
    pub(crate) guard: Option<PortGuard>,
    /// Its MAC, if what has no route leaves by it: it is a port of the host, whose kernel routes on.
    pub(crate) exit: Option<MacAddr>,
    pub(crate) counters: Arc<Counters>,
    /// Worker `i` writes to queue `i` modulo their number.
    pub(crate) queues: Vec<Arc<Queue>>,
    /// Its device has gone and that was told.
    pub(crate) gone: Arc<AtomicBool>,
}

/// The host's own port on a network, by which what has no route leaves: the host's kernel routes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
}

/// A network in the table.
#[derive(Clone, Debug)]
pub(crate) struct NetworkEntry {
    pub(crate) spec: NetworkSpec,
    /// Its endpoints' ports on this host.
    pub(crate) ports: Vec<PortId>,
    /// The port of this host's services.
    pub(crate) services: Option<PortId>,
    /// Links of this host.
    pub(crate) uplinks: Vec<PortId>,
    /// Where what has no route leaves; `None`: its services get it.
    pub(crate) exit: Option<Exit>,
}

impl NetworkEntry {
    /// What is between two ports of an isolated network is not, if one of them is the exit.
    pub(crate) fn is_exit(&self, port: PortId) -> bool {
        self.exit.is_some_and(|exit| exit.port == port)
    }

    fn take_in(&mut self, id: PortId, port: &PortEntry) {
        if let Some(mac) = port.exit {
            self.exit = Some(Exit { port: id, mac });
        }
        match port.role {
            PortRole::Endpoint => self.ports.push(id),
            PortRole::Services => self.services = Some(id),
            PortRole::Uplink => self.uplinks.push(id),
        }
    }
}

/// One version of the tables.
#[derive(Clone, Debug)]
pub struct Tables {
    pub(crate) ports: Vec<Option<Arc<PortEntry>>>,
    pub(crate) networks: HashMap<Vni, Arc<NetworkEntry>, KeyedHash>,
    neighbors: Arc<Neighbors>,
    /// The subnets of all networks, whoever may reach them: they aren't outside.
    subnets: Arc<Routes>,
    peers: Arc<PeerLedger>,
    /// Workers that count.
    lanes: usize,
}

impl Tables {
    /// Empty tables with counters for so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            ports: Vec::new(),
            networks: HashMap::default(),
            neighbors: Arc::default(),
            subnets: Arc::default(),
            peers: Arc::new(PeerLedger::new(workers)),
            lanes: workers,
        }
    }

    /// Puts an endpoint's port into the first free place. Its network may come later.
    pub fn add_port(
        &mut self,
        network: Vni,
        guard: Option<PortGuard>,
        queues: Vec<Arc<Queue>>,
    ) -> PortId {
        self.add(network, PortRole::Endpoint, guard, queues)
    }

    /// Puts the port of a network's services into the first free place.
    pub fn add_services(&mut self, network: Vni, queues: Vec<Arc<Queue>>) -> PortId {
        self.add(network, PortRole::Services, None, queues)
    }

    /// Puts a link of the host into the first free place.
    pub fn add_uplink(&mut self, network: Vni, queues: Vec<Arc<Queue>>) -> PortId {
        self.add(network, PortRole::Uplink, None, queues)
    }

    fn add(
        &mut self,
        network: Vni,
        role: PortRole,
        guard: Option<PortGuard>,
        queues: Vec<Arc<Queue>>,
    ) -> PortId {
        let index = self
            .ports
            .iter()
            .position(Option::is_none)
            .unwrap_or(self.ports.len());
        let id = PortId(u32::try_from(index).expect("file descriptors run out before"));
        let counters = Arc::new(Counters::new(self.lanes));
        let gone = Arc::new(AtomicBool::new(false));
        let port = Arc::new(PortEntry {
            network: Some(network),
            role,
            guard,
            exit: None,
            counters,
            queues,
            gone,
        });
        match self.ports.get_mut(index) {
            Some(slot) => *slot = Some(Arc::clone(&port)),
            None => self.ports.push(Some(Arc::clone(&port))),
        }
        self.enter(id, &port);
        id
    }

    /// Changes what a port may send; false if there is no such port.
    pub fn set_guard(&mut self, id: PortId, guard: Option<PortGuard>) -> bool {
        let Some(slot) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else {
            return false;
        };
        Arc::make_mut(slot).guard = guard;
        true
    }

    /// Makes a port with this MAC the exit of its network, or a port like others again; false if there is no such port.
    pub fn set_exit(&mut self, id: PortId, mac: Option<MacAddr>) -> bool {
        let Some(slot) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else {
            return false;
        };
        Arc::make_mut(slot).exit = mac;
        let port = Arc::clone(slot);
        self.leave(id, port.network);
        self.enter(id, &port);
        true
    }

    /// Changes what a port is read and written through; false if there is no such port.
    pub(crate) fn set_queues(&mut self, id: PortId, queues: Vec<Arc<Queue>>) -> bool {
        let Some(slot) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else {
            return false;
        };
        Arc::make_mut(slot).queues = queues;
        true
    }

    pub(crate) fn remove_port(&mut self, id: PortId) -> Option<Arc<PortEntry>> {
        let port = self.ports.get_mut(id.index())?.take()?;
        self.leave(id, port.network);
        Some(port)
    }

    /// Puts a port on another network, or on none; false if there is no such port.
    pub fn move_port(&mut self, id: PortId, to: Option<Vni>) -> bool {
        let Some(slot) = self.ports.get_mut(id.index()).and_then(Option::as_mut) else {
            return false;
        };
        let before = std::mem::replace(&mut Arc::make_mut(slot).network, to);
        let port = Arc::clone(slot);
        self.leave(id, before);
        self.enter(id, &port);
        true
    }

    fn enter(&mut self, id: PortId, port: &PortEntry) {
        if let Some(network) = port.network.and_then(|vni| self.networks.get_mut(&vni)) {
            Arc::make_mut(network).take_in(id, port);
        }
    }

    fn leave(&mut self, id: PortId, network: Option<Vni>) {
        if let Some(network) = network.and_then(|vni| self.networks.get_mut(&vni)) {
            let network = Arc::make_mut(network);
            network.ports.retain(|member| *member != id);
            network.uplinks.retain(|member| *member != id);
            network.services.take_if(|services| *services == id);
            network.exit.take_if(|exit| exit.port == id);
        }
    }

    /// Makes or changes a network.
    pub fn set_network(&mut self, spec: NetworkSpec) {
        let vni = spec.vni;
        let mut network = NetworkEntry {
            spec,
            ports: Vec::new(),
            services: None,
            uplinks: Vec::new(),
            exit: None,
        };
        for (id, port) in self.ports() {
            if port.network == Some(vni) {
                network.take_in(id, port);
            }
        }
        self.networks.insert(vni, Arc::new(network));
    }

    /// Removes a network. Its ports stay; their frames go nowhere.
    pub fn remove_network(&mut self, vni: Vni) {
        self.networks.remove(&vni);
    }

    /// Counters of a port.
    pub fn port_stats(&self, id: PortId) -> Option<TrafficStats> {
        Some(self.port(id)?.counters.sum())
    }

    /// What was counted of a peer; zeros for one that never showed.
    pub fn peer_stats(&self, peer: PeerId) -> TrafficStats {
        self.peers.sum(peer)
    }

    /// Says which subnets are the cluster's: what goes to them and has no route goes nowhere.
    pub fn set_subnets(&mut self, subnets: Arc<Routes>) {
        self.subnets = subnets;
    }

    /// Whether an address is of some network.
    #[inline]
    pub(crate) fn is_inside(&self, ip: IpAddr) -> bool {
        self.subnets.lookup(ip).is_some()
    }

    /// Who has which address; all versions of the tables share it.
    #[inline]
    pub fn neighbors(&self) -> &Neighbors {
        &self.neighbors
    }

    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&PortEntry> {
        self.ports.get(id.index())?.as_deref()
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = (PortId, &PortEntry)> {
        self.ports
            .iter()
            .zip(0..)
            .filter_map(|(port, id)| Some((PortId(id), port.as_deref()?)))
    }

    #[inline]
    pub(crate) fn network(&self, vni: Vni) -> Option<&NetworkEntry> {
        self.networks.get(&vni).map(AsRef::as_ref)
    }

    /// The addresses of the gateway of its network.
    pub(crate) fn gateways_of_port(&self, id: PortId) -> &[IpAddr] {
        let network = self.port(id).and_then(|port| self.network(port.network?));
        network.map_or(&[], |network| &network.spec.gateways)
    }

    /// How old learned addresses get in each network.
    pub(crate) fn ageings(&self) -> HashMap<Vni, Duration> {
        self.networks
            .iter()
            .map(|(vni, network)| (*vni, network.spec.ageing))
            .collect()
    }

    pub(crate) fn reset_peer(&self, peer: PeerId) {
        self.peers.reset(peer);
    }

    #[inline]
    pub(crate) fn peer_counters(&self, peer: PeerId) -> &Counters {
        self.peers.counters(peer)
    }

    /// Where frames of a source are counted; `None` for a port that is gone.
    #[inline]
    pub(crate) fn source_counters(&self, source: Source) -> Option<&Counters> {
        match source {
            Source::Port(id) => self.port(id).map(|port| &*port.counters),
            Source::Peer { peer, .. } => Some(self.peers.counters(peer)),
        }
    }
}
