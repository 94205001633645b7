//! The way out of networks, as the agent has it: gives the engine each network's inside port with what the map says of
//! the network, and reads its counters.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::mpsc;
use tracing::warn;
use weft_wire::FrameRef;

use super::Agent;
use super::assemble::ServicePort;
use super::plan::Wanted;
use super::services::Services;
use crate::api;
use crate::egress::{Counters, Engine, Listening, NetworkSpec};
use crate::model::{ClusterMap, Egress, Endpoint, NetworkId};

/// The engine, and what it was told.
#[derive(Debug)]
pub(super) struct Outside {
    engine: Engine,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    networks: BTreeMap<NetworkId, Way>,
    /// Inside ports that came before anything was known of their networks.
    early: Vec<ServicePort>,
    overlay: Vec<IpNet>,
}

/// One network.
#[derive(Debug)]
struct Way {
    name: String,
    egress: Egress,
    spec: NetworkSpec,
    counters: Arc<Counters>,
    /// Its inside port was given to the engine.
    plugged: bool,
}

impl Outside {
    /// Starts the engine in this thread's network namespace. What is for the services of the gateway is theirs.
    ///
    /// # Errors
    /// Out of file descriptors or threads.
    pub(super) fn start(services: Arc<Services>) -> io::Result<Self> {
        let offer =
            move |network: &NetworkId, frame: FrameRef<'_>| services.offer(network, frame.bytes);
        Ok(Self {
            engine: Engine::start(Box::new(offer))?,
            told: Mutex::default(),
        })
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on networks are like this.
    pub(super) fn publish(&self, map: &ClusterMap, wanted: &Wanted) {
        let mut told = self.told();
        let mut before = std::mem::take(&mut told.networks);
        for network in wanted.networks.values() {
            let spec = NetworkSpec {
                gateways: network.gateways.clone(),
                mtu: network.mtu,
                way: network.egress,
            };
            let known = before.remove(&network.id);
            if let Some(known) = &known
                && known.plugged
                && known.spec != spec
            {
                self.engine.change(network.id.clone(), spec.clone());
            }
            let (counters, plugged) =
                known.map_or_else(Default::default, |known| (known.counters, known.plugged));
            let now = Way {
                name: network.name.clone(),
                egress: network.egress,
                spec,
                counters,
                plugged,
            };
            told.networks.insert(network.id.clone(), now);
        }
        // Those of networks that are gone again have no other end any more.
        for port in std::mem::take(&mut told.early) {
            if told.networks.contains_key(&port.network) {
                self.plug_into(&mut told, port);
            }
        }
        let networks = map.networks.values().map(|network| &network.object);
        let overlay: Vec<IpNet> = networks
            .flat_map(|network| network.subnets.iter().map(|subnet| subnet.cidr))
            .collect();
        if overlay != told.overlay {
            self.engine.set_overlay(overlay.clone());
            told.overlay = overlay;
        }
    }

    fn plug(&self, port: ServicePort) {
        self.plug_into(&mut self.told(), port);
    }

    fn plug_into(&self, told: &mut Told, port: ServicePort) {
        let Some(network) = told.networks.get_mut(&port.network) else {
            return told.early.push(port);
        };
        network.plugged = true;
        let (spec, counters) = (network.spec.clone(), Arc::clone(&network.counters));
        self.engine.plug(port.network, port.queue, spec, counters);
    }

    /// A port is gone: what it had outside ends.
    pub(super) fn container_gone(&self, endpoint: &Endpoint) {
        let ips: Vec<IpAddr> = endpoint.ips.clone();
        self.engine.container_gone(endpoint.network.clone(), ips);
    }

    /// Sockets of an endpoint's published ports.
    pub(super) fn publish_ports(&self, endpoint: &Endpoint, listeners: Vec<Listening>) {
        self.engine
            .publish(endpoint.id.to_string(), endpoint.network.clone(), listeners);
    }

    /// Closes an endpoint's published ports.
    pub(super) fn close_ports(&self, endpoint: &Endpoint) {
        self.engine.unpublish(endpoint.id.to_string());
    }

    /// `weft egress`: networks that have ports here, or had.
    pub(super) fn view(&self) -> Vec<api::NetworkEgress> {
        let told = self.told();
        let plugged = told.networks.values().filter(|network| network.plugged);
        let mut rows: Vec<_> = plugged.map(view).collect();
        rows.sort_by(|a, b| a.network.cmp(&b.network));
        rows
    }
}

fn view(network: &Way) -> api::NetworkEgress {
    let counters = &network.counters;
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    api::NetworkEgress {
        network: network.name.clone(),
        egress: network.egress,
        tcp_flows: read(&counters.tcp),
        udp_flows: read(&counters.udp),
        echo_flows: read(&counters.echo),
        opened: read(&counters.opened),
        out_bytes: read(&counters.out_bytes),
        in_bytes: read(&counters.in_bytes),
        refused: counters
            .refused()
            .map(|(why, count)| (why.to_owned(), count))
            .collect(),
    }
}

/// Gives the engine every inside port that comes out of the channel, until the agent stops.
pub(super) async fn serve(agent: Arc<Agent>, mut ports: mpsc::UnboundedReceiver<ServicePort>) {
    while let Some(port) = ports.recv().await {
        match port.queue.try_clone() {
            Ok(queue) => agent.services.plug(port.network.clone(), queue),
            Err(error) => {
                warn!(%error, network = %port.network, "the network's services can't answer");
            }
        }
        agent.outside.plug(port);
    }
}
