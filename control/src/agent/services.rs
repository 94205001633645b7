//! What the gateway of a network does for this host's ports beyond what the switch answers itself: names (`dns`), and addresses
//! for those that configure themselves (`dhcp4`, `dhcp6`, `router`).
//!
//! Frames come from the inside port of each network (`assemble::ServicePort`), offered by its reader, the thread of the way
//! out. `demux` says whose a frame is; each network has a task of its own that hears it (`network`). Answers go back through
//! the inside port, which reaches ports of this host only: every host's gateway speaks for itself.
//!
//! | file | what |
//! |---|---|
//! | `demux` | frame -> name server, DHCP, or neither; pure |
//! | `frames` | what is said, as frames; pure |
//! | `names` | the index of endpoints that the name server answers from; pure |
//! | `dns` | the name server |
//! | `dhcp4`, `dhcp6` | addresses for ports that ask; pure |
//! | `router` | what the gateway says of itself as an IPv6 router; pure |
//! | `place` | a network and its ports as the services see them; pure |
//! | `network` | the task of a network |

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use weft_switch::port::Queue;

use super::Inner;
use super::plan::Wanted;
use crate::api;
use crate::model::{NetworkId, NodeId};
use dns::NameServer;
use names::{LocalName, Names};
use place::{Place, Station};

pub(crate) mod demux;
pub(crate) mod dhcp4;
pub(crate) mod dhcp6;
pub(crate) mod dns;
pub(crate) mod frames;
mod names;
mod network;
mod place;
mod router;

/// Frames that wait for a network's task; what comes beyond is dropped, and asked again by whoever means it.
const MAX_WAITING: usize = 256;
/// The host's resolver configuration.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The services of this host.
#[derive(Debug)]
pub(super) struct Services {
    names: Arc<NameServer>,
    places: ArcSwap<BTreeMap<NetworkId, Arc<Place>>>,
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
        let here = local_names(inner);
        // Whom nobody here can ask for needn't be in the index.
        let asked: BTreeSet<&NetworkId> = here.iter().map(|one| &one.endpoint.network).collect();
        let elsewhere = asked.iter().flat_map(|network| map.endpoints_of(network));
        let elsewhere = elsewhere.filter(|endpoint| endpoint.node != *node);
        let names = Names::new(map, elsewhere, &here);
        let mut places: BTreeMap<NetworkId, Place> = BTreeMap::new();
        for wanted in wanted.networks.values() {
            if let Some(network) = map.network(&wanted.id) {
                let place = Place::new(network, wanted.gateways.clone(), wanted.mtu);
                places.insert(wanted.id.clone(), place);
            }
        }
        for record in inner.ports.values().map(|port| &port.record) {
            let endpoint = &record.endpoint;
            if let Some(place) = places.get_mut(&endpoint.network) {
                let station = Station {
                    name: endpoint.name.clone(),
                    ips: endpoint.ips.clone(),
                    dhcp: record.dhcp,
                };
                place.stations.insert(endpoint.mac, station);
            }
        }
        let own = places.values().flat_map(|place| place.gateways.clone());
        self.names.publish(names, own.collect());
        self.tasks()
            .retain(|network, _| places.contains_key(network));
        let places = places.into_iter().map(|(id, place)| (id, Arc::new(place)));
        self.places.store(Arc::new(places.collect()));
    }

    /// The same when nothing has changed but endpoints of other hosts on these networks.
    pub(super) fn publish_endpoints<'a>(
        &self,
        node: &NodeId,
        inner: &Inner,
        networks: impl Iterator<Item = &'a NetworkId>,
    ) {
        let (map, here) = (&inner.map, local_names(inner));
        let asked: BTreeSet<&NetworkId> = here.iter().map(|one| &one.endpoint.network).collect();
        let networks = networks.filter(|network| asked.contains(network));
        let mut networks = networks.filter_map(|id| map.network(id)).peekable();
        if networks.peek().is_none() {
            return;
        }
        self.names.renew(|names| {
            for network in networks {
                let elsewhere = map.endpoints_of(&network.id);
                let elsewhere = elsewhere.filter(|endpoint| endpoint.node != *node);
                names.renew(network, elsewhere, &here);
            }
        });
    }

    fn place(&self, network: &NetworkId) -> Option<Arc<Place>> {
        self.places.load().get(network).cloned()
    }

    /// Serves a network from now on: answers go out by that inside port, what is heard comes in by [`Self::offer`].
    pub(super) fn plug(self: &Arc<Self>, network: NetworkId, queue: Queue) {
        let (frames, heard) = mpsc::channel(MAX_WAITING);
        let task = network::Task::new(Arc::clone(self), network.clone(), Arc::new(queue));
        tokio::spawn(task.run(heard));
        // The task of an earlier inside port ends with its channel.
        self.tasks().insert(network, frames);
    }

    /// Takes a frame from a port of that network for its gateway, if it is for one of the services.
    pub(super) fn offer(&self, network: &NetworkId, frame: &[u8]) -> bool {
        let places = self.places.load();
        let Some(place) = places.get(network) else {
            return false;
        };
        let ours = demux::classify(frame, &place.gateways) != demux::Class::Other;
        if ours && let Some(task) = self.tasks().get(network) {
            // What a task has no time for is dropped.
            let _ = task.try_send(frame.to_vec());
        }
        ours
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the name server has done, and whom it asks.
    pub(super) fn dns(&self) -> api::Dns {
        self.names.view()
    }
}

/// The ports of this host, as far as names need to know them.
fn local_names(inner: &Inner) -> Vec<LocalName<'_>> {
    let ports = inner.ports.values().map(|port| &port.record);
    let names = ports.map(|record| LocalName {
        endpoint: &record.endpoint,
        netns: record.netns_id,
    });
    names.collect()
}
