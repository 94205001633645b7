//! What the gateway of a network does for this host's ports beyond what the switch answers itself: names (`dns`).
//!
//! Frames come from the inside port of each network (`assemble::ServicePort`), which the engine of the way out reads: it
//! offers each frame here first. `demux` says whose a frame is; each network has a task of its own that hears it (`network`). Answers go back through the inside port, which reaches ports of this
//! host only: every host's gateway speaks for itself.
//!
//! | file | what |
//! |---|---|
//! | `demux` | frame -> name server, DHCP, or neither; pure |
//! | `frames` | what is said, as frames; pure |
//! | `names` | the index of endpoints that the name server answers from; pure |
//! | `dns` | the name server |
//! | `network` | the task of a network |

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use weft_switch::port::Queue;
use weft_wire::Mtu;

use super::Inner;
use super::plan::Wanted;
use crate::api;
use crate::model::{NetworkId, NodeId};
use dns::NameServer;
use names::{LocalName, Names};

pub(crate) mod demux;
pub(crate) mod dns;
pub(crate) mod frames;
mod names;
mod network;

/// Frames that wait for a network's task; what comes beyond is dropped, and asked again by whoever means it.
const MAX_WAITING: usize = 256;
/// The host's resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// A network as its services see it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// The gateway's addresses.
    gateways: Vec<IpAddr>,
    /// What its packets may have, in bytes.
    mtu: Mtu,
}

/// The services of this host.
#[derive(Debug)]
pub(super) struct Services {
    names: Arc<NameServer>,
    places: ArcSwap<BTreeMap<NetworkId, Place>>,
    tasks: Mutex<Tasks>,
}

/// Where each network's task hears.
type Tasks = BTreeMap<NetworkId, mpsc::Sender<Vec<u8>>>;

impl Services {
    /// Services that know nothing yet. Without `dns_upstreams` the host's resolver configuration says whom to ask.
    pub(super) fn new(dns_upstreams: Vec<SocketAddr>) -> Self {
        Self {
            names: NameServer::new(dns_upstreams, Path::new(RESOLV_CONF)),
            places: ArcSwap::default(),
            tasks: Mutex::default(),
        }
    }

    /// From now on this is how things are.
    pub(super) fn publish(&self, node: &NodeId, inner: &Inner, wanted: &Wanted) {
        let map = &inner.map;
        let elsewhere = map.endpoints.values().map(|endpoint| &endpoint.object);
        let here: Vec<LocalName<'_>> = inner
            .ports
            .values()
            .map(|port| LocalName {
                endpoint: &port.record.endpoint,
                netns: port.record.netns_id,
            })
            .collect();
        let names = Names::new(
            map,
            elsewhere.filter(|endpoint| endpoint.node != *node),
            &here,
        );
        let places: BTreeMap<NetworkId, Place> = wanted
            .networks
            .values()
            .map(|network| {
                let place = Place {
                    gateways: network.gateways.clone(),
                    mtu: network.mtu,
                };
                (network.id.clone(), place)
            })
            .collect();
        let own = places.values().flat_map(|place| place.gateways.clone());
        self.names.publish(names, own.collect());
        self.tasks()
            .retain(|network, _| places.contains_key(network));
        self.places.store(Arc::new(places));
    }

    fn place(&self, network: &NetworkId) -> Option<Place> {
        self.places.load().get(network).cloned()
    }

    /// Starts the task of a network, which answers through that inside port. One that it had before ends.
    pub(super) fn plug(self: &Arc<Self>, network: NetworkId, queue: Queue) {
        let (frames, heard) = mpsc::channel(MAX_WAITING);
        let task = network::Task::new(Arc::clone(self), network.clone(), Arc::new(queue));
        tokio::spawn(task.run(heard));
        self.tasks().insert(network, frames);
    }

    /// Takes a frame if it is for one of the services.
    pub(super) fn offer(&self, network: &NetworkId, frame: &[u8]) -> bool {
        let places = self.places.load();
        let Some(place) = places.get(network) else {
            return false;
        };
        if demux::classify(frame, &place.gateways) == demux::Class::Other {
            return false;
        }
        if let Some(task) = self.tasks().get(network) {
            // What a task has no time for is dropped.
            drop(task.try_send(frame.to_vec()));
        }
        true
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the name server has done, and whom it asks.
    pub(super) fn dns(&self) -> api::Dns {
        self.names.view()
    }
}
