//! What the datapath consults. Ports and networks change rarely and are published as one immutable version, which
//! readers take without waiting; the [`fdb`] changes with every new station and is a table of its own.

pub mod fdb;
mod hash;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_wire::{MacAddr, Mtu, PeerId, PortId, Vni};

use crate::port::Queue;
use crate::stats::PortCounters;

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
}

/// What a port may send: its own MAC and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGuard {
    /// The only source MAC.
    pub mac: MacAddr,
    /// The only source addresses.
    pub ips: Vec<IpAddr>,
}

/// A port in the table.
#[derive(Debug)]
pub(crate) struct PortEntry {
    pub(crate) network: Vni,
    pub(crate) guard: Option<PortGuard>,
    pub(crate) counters: Arc<PortCounters>,
    /// Worker `i` writes to queue `i` modulo their number.
    pub(crate) queues: Vec<Arc<Queue>>,
    /// Its device has gone and that was told.
    pub(crate) gone: Arc<AtomicBool>,
}

/// A network in the table.
#[derive(Clone, Debug)]
pub(crate) struct NetworkEntry {
    pub(crate) spec: NetworkSpec,
    /// Its ports on this host, in order of id.
    pub(crate) ports: Vec<PortId>,
}

/// One version of the tables.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub(crate) ports: Vec<Option<Arc<PortEntry>>>,
    pub(crate) networks: HashMap<Vni, Arc<NetworkEntry>>,
}

impl Tables {
    pub(crate) fn port(&self, id: PortId) -> Option<&Arc<PortEntry>> {
        self.ports.get(id.index())?.as_ref()
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = (PortId, &Arc<PortEntry>)> {
        self.ports.iter().zip(0..).filter_map(|(port, id)| Some((PortId(id), port.as_ref()?)))
    }

    /// Puts a port into the first free place.
    pub(crate) fn insert_port(&mut self, port: PortEntry) -> PortId {
        let index = self.ports.iter().position(Option::is_none).unwrap_or(self.ports.len());
        let id = PortId(u32::try_from(index).expect("file descriptors run out before"));
        let network = port.network;
        if index == self.ports.len() {
            self.ports.push(None);
        }
        self.ports[index] = Some(Arc::new(port));
        self.refresh_members(network);
        id
    }

    pub(crate) fn remove_port(&mut self, id: PortId) -> Option<Arc<PortEntry>> {
        let port = self.ports.get_mut(id.index())?.take()?;
        self.refresh_members(port.network);
        Some(port)
    }

    pub(crate) fn set_network(&mut self, spec: NetworkSpec) {
        let vni = spec.vni;
        self.networks.insert(vni, Arc::new(NetworkEntry { spec, ports: Vec::new() }));
        self.refresh_members(vni);
    }

    fn refresh_members(&mut self, vni: Vni) {
        let ports =
            self.ports().filter(|(_, port)| port.network == vni).map(|(id, _)| id).collect();
        if let Some(network) = self.networks.get_mut(&vni) {
            let spec = network.spec.clone();
            *network = Arc::new(NetworkEntry { spec, ports });
        }
    }
}
