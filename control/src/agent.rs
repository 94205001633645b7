//! The agent: one per host. It keeps the host's ports alive, holds a copy of the cluster map, and makes switch and
//! tunnel hold what the map and the ports ask for.
//!
//! | file | what |
//! |---|---|
//! | `startup` | from a configuration to a running agent: identity, join, what survived the last one |
//! | `attach`, `detach` | connect and disconnect: beginning and end of a port |
//! | `line` | limits and impairments of a port |
//! | `session` | the control channel's events, and telling the controller what it missed |
//! | `interest` | of which networks this host hears |
//! | `reading` | what the API shows of the other ones |
//! | `reconcile` | map and ports -> `plan` -> `assemble::Fabric` |
//! | `credentials` | who we are to the peers of encrypted networks |
//! | `ipam` | which address |
//! | `uplink` | links of this host in networks |
//! | `services` | what a network's gateway does for ports: names |
//! | `outside` | the way out of networks: what `egress` is told of them |
//! | `docker` | Docker's network and IPAM driver |
//! | `publish` | ports of the host whose clients are connected with an endpoint |
//! | `state` | what is on disk |
//! | `leftovers` | ports of an agent that isn't there any more |
//! | `requests`, `views` | the API's writing and reading half |
//! | `serve` | the API's HTTP |
//!
//! Locks: the ledger of `docker` before `inner` before `fabric`; none is held across an await or a system call that can
//! wait for long.

mod assemble;
mod attach;
mod audit;
mod claims;
mod credentials;
mod detach;
mod docker;
mod drops;
mod duplicates;
mod error;
mod interest;
mod ipam;
mod keeper;
mod leftovers;
mod line;
mod outside;
mod plan;
mod publish;
mod reading;
mod reconcile;
mod refused;
mod requests;
mod resolv;
mod routers;
mod serve;
pub(crate) mod services;
mod session;
mod startup;
mod state;
mod uplink;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::{Notify, watch};
use weft_switch::impair::Relay;
use weft_wire::{Mtu, PortId};

pub use assemble::FabricError;
pub use docker::{DEFAULT_DOCKER_HOST, DEFAULT_PLUGIN_SOCKET, DockerConfig, stand_in};
pub use error::ApiError;
pub use leftovers::remove_leftovers;
pub use serve::SocketError;
pub use startup::{AgentError, run};
pub use state::StateError;

use crate::api::Attachment;
use crate::channel::{Link, Refusal};
use crate::model::{
    ClusterId, ClusterMap, Endpoint, EndpointId, NetworkId, NodeId, Revision, next_epoch,
};
use assemble::Fabric;
use duplicates::Duplicates;
use interest::Interest;
use keeper::Keeper;
use outside::Outside;
use plan::Touched;
use reconcile::Changed;
use services::Services;
use state::{PortRecord, SavedPorts, StateDir};
use uplink::UplinkRecord;

/// UDP port of encrypted tunnels when nobody says otherwise: the one below VXLAN's.
pub const ENCRYPTED_PORT: u16 = 4788;

/// How an agent is to run.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// This node's name in the cluster; the host's name the first time when `None`.
    pub node: Option<String>,
    /// The address tunnels are bound to; needed but for a standalone agent.
    pub underlay: Option<IpAddr>,
    /// Where the agent's state is.
    pub state: PathBuf,
    /// The local API's unix socket.
    pub socket: PathBuf,
    /// Controllers; needed the first time, remembered afterwards.
    pub controllers: Vec<SocketAddr>,
    /// Join token; needed the first time.
    pub token: Option<String>,
    /// One host with a controller of its own inside the agent.
    pub standalone: bool,
    /// Forwarding threads.
    pub workers: usize,
    /// UDP port for VXLAN; 4789 when `None`.
    pub vxlan_port: Option<u16>,
    /// UDP port for encrypted tunnels; [`ENCRYPTED_PORT`] when `None`, and none at all when 0.
    pub encrypted_port: Option<u16>,
    /// Age at which keys of encrypted tunnels are replaced; an hour when `None`.
    pub rekey_after: Option<Duration>,
    /// Time after which a session of encrypted tunnels that nobody uses is closed; ten minutes when `None`.
    pub idle_after: Option<Duration>,
    /// Hand trains of datagrams to the kernel (UDP_SEGMENT).
    pub gso: bool,
    /// Name servers that are asked for names of the outside; the host's own when empty.
    pub dns_upstreams: Vec<SocketAddr>,
    /// Serve Docker as a network and IPAM driver.
    pub docker: Option<DockerConfig>,
    /// The `weft` program, to start the fd holder with.
    pub exe: PathBuf,
}

/// What is fixed for an agent's life.
#[derive(Clone, Debug)]
struct Facts {
    cluster: ClusterId,
    node: NodeId,
    node_name: String,
    underlay: IpAddr,
    underlay_ifname: String,
    vxlan_port: u16,
    /// `None`: this host carries no encrypted network.
    encrypted_port: Option<u16>,
    workers: usize,
    /// The underlay is loopback: there is no other host.
    standalone: bool,
    started: Instant,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    facts: Facts,
    state: StateDir,
    link: Link,
    keeper: Keeper,
    inner: Mutex<Inner>,
    fabric: Mutex<Fabric>,
    services: Arc<Services>,
    outside: Outside,
    /// MTU of the link that has the underlay address.
    underlay_mtu: ArcSwap<Mtu>,
    /// Path MTUs as they were planned with last.
    measured: ArcSwap<plan::PathMtus>,
    /// Something in `inner` changed that the fabric doesn't follow yet.
    changed: Changed,
    /// Orders the writes of `ports.json`.
    saving: Mutex<()>,
    /// What Docker was given.
    docker: docker::Desk,
    /// The controller has to be told of our endpoints again.
    resync: Notify,
    /// Orders what the controller is told of endpoints: written by a full report, read by those of single ones.
    reporting: tokio::sync::RwLock<()>,
    /// Revision of the map that the fabric follows.
    applied: watch::Sender<Applied>,
    /// Somebody asked over the API that the agent ends.
    stop: Notify,
    /// The agent ends: the API takes no more requests.
    stopped: watch::Sender<bool>,
}

/// How far the agent has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Applied {
    /// The map's revision that the fabric follows.
    revision: Revision,
    /// Why the agent isn't in sync; `None` when it is.
    behind: Option<String>,
    /// Number of the newest wish for networks that is fulfilled.
    granted: Option<u64>,
}

/// What changes.
#[derive(Debug)]
struct Inner {
    map: ClusterMap,
    incarnation: String,
    ports: BTreeMap<EndpointId, Port>,
    /// Attaches under way: theirs are names and addresses that nobody else may take.
    pending: BTreeMap<EndpointId, Pending>,
    /// Endpoints that are just being taken down: a dead namespace and a disconnect may come together. Their names and
    /// addresses are the controller's to give back: until it has answered it refuses them to whoever is next.
    leaving: BTreeMap<EndpointId, Endpoint>,
    /// Addresses of our blocks promised to another node a moment ago.
    yielded: BTreeMap<(NetworkId, IpAddr), Instant>,
    /// Blocks that are being given back: nothing is given from them.
    returning: ipam::Returning,
    /// Those that the map no longer shows as ours, and since which revision: until that map is on disk, too, an agent
    /// that starts anew would give from them.
    returned: BTreeMap<(NetworkId, IpNet), Revision>,
    /// Addresses that Docker has, whether a container uses them now or not.
    held: BTreeSet<(NetworkId, IpAddr)>,
    /// Networks that Docker has on this host, whether a container uses them now or not.
    docker_networks: BTreeSet<NetworkId>,
    /// Of which networks the map tells.
    interest: Interest,
    /// What changed in the map that the fabric doesn't follow yet.
    touched: Touched,
    channel: Channel,
    /// Links of this host that are bridged into networks.
    uplinks: BTreeSet<UplinkRecord>,
    /// Highest epoch given so far.
    epoch: u64,
    warnings: Vec<String>,
    /// What couldn't be written when it was tried last, and why.
    unsaved: BTreeMap<&'static str, String>,
    /// Who uses addresses of others.
    duplicates: Duplicates,
    /// The agent ends: nothing new is begun.
    stopping: bool,
}

/// An attach under way.
#[derive(Debug)]
struct Pending {
    endpoint: Endpoint,
    /// Device and inode of its namespace.
    netns_id: (u64, u64),
    /// Whose it is to be.
    attachment: Option<Attachment>,
    /// Addresses and MAC are decided: it may be told to the controller.
    complete: bool,
    /// Why the cluster didn't take it when it was told of it last.
    refused: Option<Refusal>,
}

/// The control channel as seen from here.
#[derive(Clone, Debug)]
struct Channel {
    addresses: Vec<SocketAddr>,
    connected: Option<SocketAddr>,
    since: Instant,
    error: Option<String>,
    /// The map is as new as the controller said it is.
    caught_up: bool,
    /// The controller knows our endpoints as they are.
    told: bool,
}

/// A port of this host.
#[derive(Debug)]
struct Port {
    record: PortRecord,
    id: PortId,
    /// The TAP's queues, beside the switch's own: to reach its namespace by, and to fill a new holder with.
    fds: Vec<OwnedFd>,
    /// What stands between TAP and switch, where it has limits or impairments.
    relay: Option<Relay>,
    /// What is wrong with it.
    trouble: Option<String>,
}

impl Agent {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fabric(&self) -> MutexGuard<'_, Fabric> {
        self.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> plan::Here<'_> {
        plan::Here {
            node: &self.facts.node,
            underlay: self.facts.underlay,
            underlay_mtu: **self.underlay_mtu.load(),
            encrypts: self.facts.encrypted_port.is_some(),
            measured: self.measured.load_full(),
        }
    }
}

impl Inner {
    /// What the choice of an address has to know of this node.
    fn local<'a>(&'a self, node: &'a NodeId) -> ipam::Local<'a> {
        let pending = self.pending.values().map(|pending| &pending.endpoint);
        let under_way = pending.chain(self.leaving.values());
        let under_way = under_way.flat_map(|endpoint| {
            endpoint
                .ips
                .iter()
                .map(|ip| (endpoint.network.clone(), *ip))
        });
        ipam::Local {
            node,
            ports: self.own_ports().collect(),
            busy: under_way
                .chain(self.yielded.keys().cloned())
                .chain(self.held.iter().cloned())
                .collect(),
            returning: self.returning.clone(),
        }
    }

    fn own_ports(&self) -> impl Iterator<Item = &Endpoint> {
        self.ports.values().map(|port| &port.record.endpoint)
    }

    /// Those of ports and of attaches under way, and those that the controller may still have of ports that go.
    fn own_endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        let pending = self.pending.values().map(|pending| &pending.endpoint);
        self.own_ports().chain(pending).chain(self.leaving.values())
    }

    /// Who has names and MACs on a network: others by the map, this node by its ports and attaches. What the map says
    /// of this node is late, by a moment or for as long as no controller answers.
    fn known_endpoints<'a>(
        &'a self,
        network: &'a NetworkId,
        node: &'a NodeId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        self.known_by(&self.map, network, node)
    }

    /// The same, others by that map.
    fn known_by<'a>(
        &'a self,
        map: &'a ClusterMap,
        network: &'a NetworkId,
        node: &'a NodeId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        map.endpoints_of(network)
            .filter(|endpoint| endpoint.node != *node)
            .chain(
                self.own_endpoints()
                    .filter(|endpoint| endpoint.network == *network),
            )
    }

    /// An epoch newer than all that this node has seen.
    fn next_epoch(&mut self, node: &NodeId) -> u64 {
        self.epoch = next_epoch(node, self.epoch, self.map.revision);
        self.epoch
    }

    /// All endpoints of this node, also those about to be.
    fn endpoints(&self) -> Vec<Endpoint> {
        self.own_ports()
            .chain(
                self.pending
                    .values()
                    .filter(|p| p.complete)
                    .map(|p| &p.endpoint),
            )
            .cloned()
            .collect()
    }

    fn to_save(&self) -> SavedPorts {
        let ports = self.ports.values().map(|port| port.record.clone());
        SavedPorts {
            ports: ports.collect(),
            yielded: self.yielded.keys().cloned().collect(),
            returning: self
                .returning
                .iter()
                .chain(self.returned.keys())
                .cloned()
                .collect(),
            uplinks: self.uplinks.iter().cloned().collect(),
        }
    }
}
