//! The only place where switch and tunnel are plugged together: the fabric of this host. It starts both, carries out
//! what [`super::plan`] wants by comparing it with what was applied before, and reads their counters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use weft_switch::port::Queue;
use weft_switch::{
    NetworkMode, NetworkSpec, Place, PortEvent, PortGuard, PortSpec, Routes, Switch, SwitchConfig,
    SwitchError, Uplink,
};
use weft_tunnel::session::{Credentials, SessionKeeper, SessionSettings, SessionView};
use weft_tunnel::{
    Carriage, EspConfig, EspEnd, EspTunnel, PeerNetworks, PeerSpec, Peers, TunnelError,
    VxlanConfig, VxlanTunnel,
};
use weft_wire::{MacAddr, PeerId, PortId, Vni};

use self::routing::RouteTables;
use super::plan::{PathMtus, Wanted, WantedNetwork, WantedPlace};
use super::state::PortRecord;
use super::uplink::UplinkRecord;
use crate::model::EndpointId;

mod counters;
mod routing;
mod services;
mod tunnels;
mod uplinks;

pub(super) use services::ServicePort;
use services::Services;
use tunnels::TunnelUplink;

/// Source ports that carry flow entropy: enough to spread over a receiver's queues.
const SOURCE_PORTS: usize = 16;

/// Why forwarding can't start.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    /// The tunnel's sockets can't be had.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The workers can't be started.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// No session of encrypted networks can be had.
    #[error("encrypted tunnels can't be started: {0}; give `--encrypted-port 0` to do without")]
    Sessions(String),
}

/// What the fabric is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct FabricConfig {
    /// The address that the tunnel is bound to.
    pub(super) underlay: IpAddr,
    /// UDP port of the tunnel.
    pub(super) vxlan_port: u16,
    /// UDP port of encrypted tunnels; `None`: this host carries no encrypted network.
    pub(super) encrypted_port: Option<u16>,
    /// Forwarding threads.
    pub(super) workers: usize,
    /// Hand trains of datagrams to the kernel.
    pub(super) gso: bool,
}

/// Switch and tunnel of this host, and what was applied to them.
#[derive(Debug)]
pub(super) struct Fabric {
    switch: Switch,
    peers: Peers,
    paths: Arc<Notify>,
    peer_ids: HashMap<IpAddr, PeerId>,
    /// With the VNI that each was connected with.
    ports: BTreeMap<EndpointId, (PortId, Vni)>,
    services: Services,
    /// Links in networks with their ports, or why they can't be had.
    uplinks: BTreeMap<UplinkRecord, Result<PortId, String>>,
    applied: Wanted,
    /// Until sessions are kept.
    end: Option<EspEnd>,
    sessions: Option<Arc<SessionKeeper>>,
}

impl Fabric {
    /// Binds the tunnel to the underlay address and starts the workers. What happens to ports comes out of the channel.
    ///
    /// # Errors
    /// [`FabricError`], naming the address or port that can't be had.
    pub(super) fn start(
        config: FabricConfig,
    ) -> Result<(Self, mpsc::UnboundedReceiver<PortEvent>), FabricError> {
        let peers = Peers::default();
        // Nothing travels before the map says how.
        peers.carry([]);
        let workers = config.workers;
        let paths = Arc::new(Notify::new());
        let changed = || {
            let told = Arc::clone(&paths);
            Box::new(move || told.notify_one())
        };
        let (mut encrypted, sessions) = match config.encrypted_port {
            Some(port) => {
                let config = EspConfig {
                    local: config.underlay,
                    port,
                    workers,
                    gso: config.gso,
                };
                let (workers, end) = EspTunnel::bind(config, peers.clone(), changed())?;
                (workers, Some(end))
            }
            None => (Vec::new(), None),
        };
        encrypted.reverse();
        let config = VxlanConfig {
            local: config.underlay,
            port: config.vxlan_port,
            workers,
            source_ports: SOURCE_PORTS,
            gso: config.gso,
        };
        let uplinks = VxlanTunnel::bind_measuring(config, peers.clone(), changed())?
            .into_iter()
            .map(|clear| {
                let encrypted = encrypted.pop();
                Box::new(TunnelUplink { clear, encrypted }) as Box<dyn Uplink>
            })
            .collect();
        let (events, received) = mpsc::unbounded_channel();
        let notify = Box::new(move |event| {
            // Nobody listens any more only while the agent stops.
            let _ = events.send(event);
        });
        let switch = Switch::start(SwitchConfig { workers }, uplinks, notify)?;
        let fabric = Self {
            switch,
            peers,
            paths,
            peer_ids: HashMap::new(),
            ports: BTreeMap::new(),
            services: Services::default(),
            uplinks: BTreeMap::new(),
            applied: Wanted::default(),
            end: sessions,
            sessions: None,
        };
        Ok((fabric, received))
    }

    /// Makes sessions with peers of encrypted networks from now on; before, their frames wait. Within a runtime.
    ///
    /// # Errors
    /// [`FabricError::Sessions`].
    pub(super) fn start_sessions(
        &mut self,
        credentials: impl Credentials,
        settings: SessionSettings,
    ) -> Result<(), FabricError> {
        if let Some(end) = self.end.take() {
            let sessions = SessionKeeper::start(end, Box::new(credentials), settings)
                .map_err(FabricError::Sessions)?;
            self.sessions = Some(Arc::new(sessions));
        }
        Ok(())
    }

    /// Who keeps the sessions; `None` if this host carries no encrypted network.
    pub(super) fn sessions(&self) -> Option<Arc<SessionKeeper>> {
        self.sessions.clone()
    }

    /// How it stands with the encrypted side of a peer.
    pub(super) fn session(&self, address: IpAddr) -> Option<SessionView> {
        let id = self.peer_ids.get(&address)?;
        self.sessions.as_ref()?.view(*id)
    }

    /// What was applied last.
    pub(super) fn applied(&self) -> &Wanted {
        &self.applied
    }

    /// Told when [`Self::path_mtus`] are others.
    pub(super) fn path_changes(&self) -> Arc<Notify> {
        Arc::clone(&self.paths)
    }

    /// Path MTUs that were measured.
    pub(super) fn path_mtus(&self) -> PathMtus {
        let ids = self.peer_ids.iter();
        ids.flat_map(|(address, id)| {
            let clear = self.peers.path_mtu(*id);
            let encrypted = self.peers.secure_path_mtu(*id);
            let clear = clear.map(|mtu| ((*address, Carriage::Clear), mtu));
            let encrypted = encrypted.map(|mtu| ((*address, Carriage::Encrypted), mtu));
            clear.into_iter().chain(encrypted)
        })
        .collect()
    }

    /// Makes switch and tunnel hold what is wanted. Order matters: peers are there before anything points to them, and
    /// go after nothing does.
    pub(super) fn apply(&mut self, wanted: Wanted) {
        // What changes its way travels by none until no port is on it that was there before.
        let carriages = || {
            wanted
                .networks
                .iter()
                .map(|(vni, network)| (*vni, network.carriage))
        };
        self.peers.carry_only(carriages());
        self.add_peers(&wanted);
        self.strand(&wanted.stranded);
        self.drop_replaced(&wanted);
        self.apply_subnets(&wanted);
        let applied = &self.applied.networks;
        let changes = |(vni, carriage)| {
            let before = applied.get(&vni).map(|network| network.carriage);
            before.is_some_and(|before| before != carriage)
        };
        if carriages().any(changes) {
            self.switch.settle();
        }
        self.peers.carry(carriages());
        let mut tables = RouteTables::default();
        for (vni, network) in &wanted.networks {
            if self.applied.networks.get(vni) != Some(network) {
                let routes = tables.get(&network.routes);
                self.switch
                    .set_network(self.network_spec(*vni, network, routes));
            }
        }
        self.apply_exits(&wanted.exits);
        self.apply_macs(&wanted);
        self.apply_neighbors(&wanted);
        for vni in self.applied.networks.keys() {
            if !wanted.networks.contains_key(vni) {
                self.switch.remove_network(*vni);
            }
        }
        self.applied = wanted;
        self.drop_peers();
        self.make_services();
        self.make_uplinks();
    }

    /// Tells the switch which ports of the host networks leave by.
    fn apply_exits(&self, wanted: &BTreeMap<EndpointId, MacAddr>) {
        let set = |id: &EndpointId, mac| {
            if let Some((port, _)) = self.ports.get(id) {
                self.switch.set_exit(*port, mac);
            }
        };
        let applied = &self.applied.exits;
        let gone = applied.keys().filter(|id| !wanted.contains_key(*id));
        gone.for_each(|id| set(id, None));
        let new = wanted
            .iter()
            .filter(|(id, mac)| applied.get(*id) != Some(*mac));
        new.for_each(|(id, mac)| set(id, Some(*mac)));
    }

    /// Takes ports off a VNI that is another network's now, before that network is there; and puts them back should
    /// theirs return (a store that was set back).
    fn strand(&mut self, stranded: &BTreeSet<EndpointId>) {
        for id in stranded.difference(&self.applied.stranded) {
            if let Some((port, _)) = self.ports.get(id) {
                self.switch.move_port(*port, None);
            }
        }
        for id in self.applied.stranded.difference(stranded) {
            if let Some((port, vni)) = self.ports.get(id) {
                self.switch.move_port(*port, Some(*vni));
            }
        }
    }

    /// Forgets networks whose VNI another one has now, with all that was known of their stations.
    fn drop_replaced(&mut self, wanted: &Wanted) {
        let networks = self.applied.networks.iter();
        let replaced = networks.filter(|(vni, network)| {
            let now = wanted.networks.get(vni);
            now.is_some_and(|now| now.id != network.id)
        });
        let replaced: Vec<Vni> = replaced.map(|(vni, _)| *vni).collect();
        for vni in replaced {
            self.switch.remove_network(vni);
            self.forget_neighbors(vni);
            let applied = &mut self.applied;
            applied.networks.remove(&vni);
            applied.macs.retain(|(of, _), _| *of != vni);
            applied.remote_stations.retain(|(of, _)| *of != vni);
        }
    }

    fn add_peers(&mut self, wanted: &Wanted) {
        if wanted.peers == self.applied.peers {
            return;
        }
        let taken: BTreeSet<u32> = self.peer_ids.values().map(|id| id.0).collect();
        let free = (0..).filter(|id| !taken.contains(id)).map(PeerId);
        let new = wanted.peers.keys();
        let new = new.filter(|address| !self.peer_ids.contains_key(address));
        let given: Vec<(IpAddr, PeerId)> = new.copied().zip(free).collect();
        self.peer_ids.extend(given);
        // Those that leave stay known until nothing points to them.
        let all = self.applied.peers.iter().chain(&wanted.peers);
        let all: BTreeMap<_, _> = all.collect();
        self.peers.set(
            all.into_iter()
                .map(|(address, peer)| self.peer_spec(*address, peer))
                .collect(),
        );
    }

    fn drop_peers(&mut self) {
        let gone: Vec<IpAddr> = self
            .peer_ids
            .keys()
            .filter(|address| !self.applied.peers.contains_key(address))
            .copied()
            .collect();
        if gone.is_empty() {
            return;
        }
        let left = self.applied.peers.iter();
        self.peers.set(
            left.map(|(address, peer)| self.peer_spec(*address, peer))
                .collect(),
        );
        for address in gone {
            if let Some(id) = self.peer_ids.remove(&address) {
                self.switch.flush_peer(id);
            }
        }
    }

    fn peer_spec(&self, address: IpAddr, peer: &super::plan::WantedPeer) -> PeerSpec {
        let networks = match &peer.only {
            None => PeerNetworks::All,
            Some(only) => PeerNetworks::Only(only.iter().copied().collect()),
        };
        PeerSpec {
            id: self.peer_ids[&address],
            address,
            port: peer.port,
            networks,
            secure: peer.secure.clone(),
        }
    }

    fn network_spec(&self, vni: Vni, network: &WantedNetwork, routes: Arc<Routes>) -> NetworkSpec {
        NetworkSpec {
            vni,
            name: network.name.clone(),
            mtu: network.mtu,
            ageing: Duration::from_secs(u64::from(network.ageing_secs)),
            mode: if network.plain_l2 {
                NetworkMode::PlainL2
            } else {
                NetworkMode::Routed
            },
            flood_peers: network
                .flood
                .iter()
                .filter_map(|address| self.peer_ids.get(address).copied())
                .collect(),
            gateways: network.gateways.clone(),
            routes,
            internal: network.internal,
            isolate: network.isolate,
        }
    }

    fn apply_macs(&mut self, wanted: &Wanted) {
        for (key @ (vni, mac), (_, epoch)) in &self.applied.macs {
            if !wanted.macs.contains_key(key) {
                self.switch.disown_mac(*vni, *mac, *epoch);
            }
        }
        for station @ (vni, mac) in &self.applied.remote_stations {
            if !wanted.remote_stations.contains(station) {
                self.switch.forget_mac(*vni, *mac);
            }
        }
        for (key @ (vni, mac), (place, epoch)) in &wanted.macs {
            match self.applied.macs.get(key) {
                Some((before, since)) if before == place && since == epoch => continue,
                // The newer owner went and an older one is left: the switch would refuse the older epoch.
                Some((_, since)) if since >= epoch => self.switch.disown_mac(*vni, *mac, *since),
                Some(_) | None => {}
            }
            let place = match place {
                WantedPlace::Port(id) => self.ports.get(id).map(|(port, _)| Place::Port(*port)),
                WantedPlace::Peer(address) => self.peer_ids.get(address).copied().map(Place::Peer),
            };
            if let Some(place) = place {
                self.switch.own_mac(*vni, *mac, place, *epoch);
            }
        }
    }

    /// Plugs a port in. Its network needn't be known yet.
    ///
    /// # Errors
    /// [`SwitchError`] when there is no room for it.
    pub(super) fn add_port(
        &mut self,
        record: &PortRecord,
        queues: Vec<Queue>,
    ) -> Result<PortId, SwitchError> {
        let guarded = !record.addresses.is_empty() && !record.allow_spoof;
        let guard = guarded.then(|| PortGuard {
            mac: record.endpoint.mac,
            ips: record.endpoint.ips.clone(),
        });
        let id = self.switch.add_port(PortSpec {
            name: record.endpoint.name.clone(),
            network: record.vni,
            guard,
            queues,
        })?;
        let endpoint = &record.endpoint;
        let network = self.applied.networks.get(&record.vni);
        if network.is_some_and(|network| network.id != endpoint.network) {
            self.switch.move_port(id, None);
            self.applied.stranded.insert(endpoint.id.clone());
        }
        self.ports.insert(endpoint.id.clone(), (id, record.vni));
        Ok(id)
    }

    /// Has the switch read and write a port through other queues.
    ///
    /// # Errors
    /// [`SwitchError`] when there is none.
    pub(super) fn set_queues(
        &mut self,
        endpoint: &EndpointId,
        queues: Vec<Queue>,
    ) -> Result<(), SwitchError> {
        match self.ports.get(endpoint) {
            Some((port, _)) => self.switch.set_queues(*port, queues).map(drop),
            None => Ok(()),
        }
    }

    /// Pulls a port out; its file descriptors are closed when this returns.
    pub(super) fn remove_port(&mut self, endpoint: &EndpointId) {
        self.applied.stranded.remove(endpoint);
        self.applied.exits.remove(endpoint);
        if let Some((id, _)) = self.ports.remove(endpoint) {
            self.switch.remove_port(id);
        }
    }
}
