//! The local API, version 1: requests and replies of the HTTP/JSON service on the agent's unix socket.
//!
//! The CLI, the Docker plugin and the CNI plugin speak it. Fields are only ever added; an unknown field is ignored by
//! both sides. Routes (all replies JSON; an error is [`ErrorReply`] with a 4xx or 5xx status):
//!
//! | method, path | body | reply |
//! |---|---|---|
//! | GET /v1/status?wait=SECS | | [`Status`] (503 with `code` `not_in_sync` when the wait ran out) |
//! | POST /v1/stop | [`Stop`] | [`Stopping`] |
//! | GET /v1/peers | | [`Peers`] |
//! | GET /v1/ports | | `Vec<`[`Port`]`>` |
//! | GET /v1/egress | | `Vec<`[`NetworkEgress`]`>` |
//! | GET /v1/fdb | | `Vec<`[`FdbEntry`]`>` |
//! | GET /v1/subnets | | `Vec<`[`SubnetBlock`]`>` |
//! | GET /v1/ipam | | `Vec<`[`Lease`]`>` |
//! | GET /v1/ipam/audit | | [`Audit`] |
//! | POST /v1/ipam/audit | | [`Audit`], after mending what can be |
//! | GET /v1/dns | | [`Dns`] |
//! | GET /v1/nodes | | `Vec<`[`NodeInfo`]`>` |
//! | DELETE /v1/nodes/NAME | | `{}` |
//! | GET /v1/networks | | `Vec<`[`NetworkInfo`]`>` |
//! | POST /v1/networks | [`NetworkCreate`] | [`NetworkInfo`] |
//! | GET /v1/networks/NAME | | [`NetworkDetail`] |
//! | PATCH /v1/networks/NAME | [`NetworkChange`] | [`NetworkInfo`] |
//! | DELETE /v1/networks/NAME | | `{}` |
//! | POST /v1/networks-prune | | [`Pruned`] |
//! | GET /v1/networks/NAME/vteps | | `Vec<IpAddr>` |
//! | PUT, DELETE /v1/networks/NAME/vteps/IP | | `{}` |
//! | GET, POST /v1/uplinks | , [`UplinkAdd`] | `Vec<`[`Uplink`]`>`, [`Uplink`] |
//! | DELETE /v1/uplinks/NETWORK/DEV | | [`Uplink`] (as it was) |
//! | PATCH /v1/ports/NAME | [`PortChange`] | [`Port`] |
//! | GET /v1/routers | | `Vec<`[`RouterInfo`]`>` |
//! | POST /v1/routers | [`RouterCreate`] | [`RouterInfo`] |
//! | GET /v1/routers/NAME | | [`RouterDetail`] |
//! | DELETE /v1/routers/NAME | | `{}` |
//! | POST /v1/routers/NAME/connect, disconnect | [`RouterNetworks`] | [`RouterInfo`] |
//! | GET /v1/routers/NAME/routes | | `Vec<`[`StaticRoute`]`>` |
//! | POST /v1/routers/NAME/routes | [`StaticRoute`] | `{}` |
//! | DELETE /v1/routers/NAME/routes/PREFIX | | `{}` |
//! | POST /v1/networks/NAME/connect | [`Connect`] | [`Port`] |
//! | POST /v1/networks/NAME/disconnect | [`Disconnect`] | [`Port`] (as it was) |
//! | GET /v1/attachments?owner=O&container=C | | `Vec<`[`Port`]`>` (both filters may be left out) |
//! | POST /v1/attachments/detach | [`Attachment`] | [`Detached`] (200 also when there is none) |

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu, Vni};

pub use crate::model::StaticRoute;
use crate::model::{Egress, Transport};

mod attachment;

pub use attachment::{Attachment, Detached, Route};
mod line;
mod publish;
mod uplink;

pub use line::{Impairment, Impairments, Limits, LineTraffic, PortChange, PortLine, RateLimit};
pub use publish::{PortProtocol, ProxyProtocol, Publish, PublishRange};
pub use uplink::{Uplink, UplinkAdd};

/// Where the agent listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// The environment variable that names another socket.
pub const SOCKET_ENV: &str = "WEFT_SOCKET";
/// Environment variable with a join token for an agent.
pub const TOKEN_ENV: &str = "WEFT_TOKEN";

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// For programs: snake_case, stable (`not_found`, `name_taken`, `subnet_overlaps`, ...).
    pub code: String,
    /// Names the object and the cause.
    pub message: String,
    /// The next thing to do, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How the agent is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node's certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// This node's name.
    pub node: String,
    /// This node's id.
    pub node_id: String,
    /// The cluster's id.
    pub cluster: String,
    /// The agent's version.
    pub version: String,
    /// Seconds since the agent started.
    pub uptime_secs: u64,
    /// The address tunnels are bound to.
    pub underlay: IpAddr,
    /// The link that has it.
    pub underlay_ifname: String,
    /// What the networks' MTUs are reckoned from, in bytes: that link's MTU, or 1550 for a standalone agent on loopback.
    pub underlay_mtu: Mtu,
    /// UDP port for VXLAN.
    pub vxlan_port: u16,
    /// UDP port of encrypted tunnels; `None`: this host carries no encrypted network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_port: Option<u16>,
    /// A single host on loopback: no tunnel leaves it.
    #[serde(default)]
    pub standalone: bool,
    /// The control channel.
    pub controller: ControllerStatus,
    /// The newest revision of the cluster map that this agent forwards by.
    pub revision: u64,
    /// The map is current and everything in it has been carried out.
    pub in_sync: bool,
    /// Why not, when not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_in_sync: Option<String>,
    /// Forwarding threads.
    pub workers: usize,
    /// Ports of this host.
    pub ports: usize,
    /// Networks in the cluster.
    pub networks: usize,
    /// What of the cluster this host is told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Heard>,
    /// Tunnel peers.
    pub peers: usize,
    /// Whether ports would survive the agent now (the fd holder answers).
    pub ports_survive: bool,
    /// What an operator should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What of the cluster a host has in its map beside the names of networks and routers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The networks of whose endpoints it is told, by name: those that something on it uses, and those that routers lead to.
    /// All when `None`.
    #[serde(default)]
    pub networks: Option<Vec<String>>,
    /// Nodes that it knows, itself among them.
    pub nodes: usize,
    /// Endpoints that it knows.
    pub endpoints: usize,
}

/// `weft agent stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Disconnect all ports first, instead of leaving them with the fd holder for the next start.
    #[serde(default)]
    pub remove_ports: bool,
}

/// The agent's last answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// Names of the endpoints that were disconnected.
    pub removed: Vec<String>,
    /// Ports that the fd holder keeps for the next start.
    pub left: usize,
}

/// The control channel of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerStatus {
    /// Controllers this agent knows.
    pub addresses: Vec<SocketAddr>,
    /// Which one answers now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connected: Option<SocketAddr>,
    /// Seconds since it went up or down.
    pub since_secs: u64,
    /// Why it is down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Frames, bytes and drops of a port or peer since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames taken from the port or peer (a superframe is one).
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames given to the port or peer.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames dropped, by reason (docs/drops.md); reasons that never occurred are left out.
    pub drops: BTreeMap<String, u64>,
}

/// Frames or packets that went no further at one place of this host, for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Its name (docs/drops.md, docs/egress.md).
    pub reason: String,
    /// How many since the port, peer or agent began.
    pub count: u64,
    /// Where: `port`, `uplink`, `peer`, `stranger` or `egress`.
    pub kind: String,
    /// Of the port, link, peer or network; of a stranger, the last one's address.
    pub name: String,
    /// Its network; peers have all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Cause and cure; empty for a reason that this agent has no words for.
    pub cause: String,
}

/// All tunnel peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    /// Known tunnel ends.
    pub peers: Vec<Peer>,
    /// Datagrams from addresses that are no peer, and others that no peer can be blamed for.
    pub strangers: Strangers,
}

/// What came from addresses that are no peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strangers {
    /// By reason.
    pub drops: BTreeMap<String, u64>,
    /// The last such address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<IpAddr>,
}

/// A tunnel peer (VTEP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// The node's name, or `static` for a VTEP that no agent runs.
    pub name: String,
    /// Underlay address.
    pub address: IpAddr,
    /// How frames get there.
    pub transport: Transport,
    /// `node` or `static`.
    pub kind: String,
    /// Inner MTU towards it in bytes.
    pub mtu: Mtu,
    /// Networks of this host's map that are flooded to it.
    pub networks: Vec<String>,
    /// The encrypted tunnel to it, where there is one or a network wants one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted: Option<EncryptedTunnel>,
    /// Counters.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// An encrypted tunnel to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncryptedTunnel {
    /// `up`; `idle`: nobody wants it; `down`: see `why`.
    pub state: String,
    /// What frames are sealed with, when it is up.
    pub cipher: Option<String>,
    /// Where the peer's datagrams come from and ours go to, when it is up.
    pub remote: Option<SocketAddr>,
    /// Who opened the session, `us` or `peer`.
    pub opened_by: Option<String>,
    /// Seconds since the key was made.
    pub key_age_secs: Option<u64>,
    /// Seconds since the last handshake.
    pub handshake_age_secs: Option<u64>,
    /// Packets sealed under the key.
    pub sealed_packets: u64,
    /// Inner MTU towards the peer in bytes.
    pub mtu: Mtu,
    /// Smoothed round trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Packets of the session itself.
    pub sent_packets: u64,
    /// How many of them were lost.
    pub lost_packets: u64,
    /// Why it is down, or what went wrong last.
    pub why: Option<String>,
}

/// A port of this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// The endpoint's name.
    pub name: String,
    /// The endpoint's id.
    pub endpoint: String,
    /// Network name.
    pub network: String,
    /// VNI of the network.
    pub vni: Vni,
    /// As given to connect.
    pub netns: String,
    /// Name of the interface in the container.
    pub ifname: String,
    /// MAC of the interface.
    pub mac: MacAddr,
    /// Addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// Gateways of the subnets that the addresses are of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Routes that connecting it set beside those of its subnets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Whose it is, if a program connected it that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Further names.
    pub aliases: Vec<String>,
    /// `offload` (vnet header, superframes) or `plain`.
    pub kind: String,
    /// MTU of the interface in bytes.
    pub mtu: Mtu,
    /// `up`, or what is wrong with it.
    pub state: String,
    /// Ports of the host whose clients are connected with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Publish>,
    /// Its line, where it has limits or impairments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<PortLine>,
    /// Counters, from the container's side: `rx` came from the container.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// The way out of one network, on the host that answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEgress {
    /// Network name.
    pub network: String,
    /// How its endpoints reach the outside.
    pub egress: Egress,
    /// TCP flows that are there now.
    pub tcp_flows: u64,
    /// UDP flows that are there now.
    pub udp_flows: u64,
    /// Pings that are there now.
    pub echo_flows: u64,
    /// Flows of all kinds since the agent started.
    pub opened: u64,
    /// Bytes that containers sent out (payload).
    pub out_bytes: u64,
    /// Bytes that came in for containers (payload).
    pub in_bytes: u64,
    /// What did not get out or in, by reason (docs/egress.md); reasons that never occurred are left out.
    pub refused: BTreeMap<String, u64>,
}

/// One entry of the forwarding database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdbEntry {
    /// Network name.
    pub network: String,
    /// VNI.
    pub vni: Vni,
    /// VLAN inside the network, 0 for untagged.
    pub vlan: u16,
    /// The address.
    pub mac: MacAddr,
    /// `port` or `peer`.
    pub via: String,
    /// Name of the port or peer.
    pub name: String,
    /// The peer's underlay address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// `owned` (given by the control plane, never aged) or `learned`.
    pub kind: String,
    /// Seconds since a learned address was last seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_secs: Option<u64>,
    /// Epoch of an owned address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// One row of the subnet map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetBlock {
    /// Network name.
    pub network: String,
    /// The block.
    pub prefix: IpNet,
    /// The node that gives out its addresses.
    pub node: String,
    /// That node's underlay address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub underlay: Option<IpAddr>,
    /// Addresses of it that endpoints have.
    pub used: u64,
}

/// An address that somebody has, or that nobody may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Network name.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// `endpoint`, `gateway`, or `reserved` (`--aux-address`).
    pub kind: String,
    /// Who has it.
    pub name: String,
    /// The endpoint's node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The endpoint's MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// The endpoint's namespace, if it is on the node that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// What an audit of addresses came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Addresses that endpoints of the cluster have.
    pub leases: usize,
    /// What isn't as it should be, or could be better.
    pub findings: Vec<Finding>,
}

/// One finding of an audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// For programs: `given_twice`, `foreign_address`, `unreported`, `leftover`, `dead_namespace`, `unused_claim`,
    /// `idle_block`, `absent_node`.
    pub kind: String,
    /// Network name.
    pub network: String,
    /// The address, or the block of addresses.
    pub what: String,
    /// Names holder and cause.
    pub message: String,
    /// Something is wrong; else it is only worth knowing.
    pub fault: bool,
    /// `audit --fix` on this node mends it.
    pub fixable: bool,
    /// It was mended.
    #[serde(default)]
    pub fixed: bool,
}

/// The name server of this host: what it has done since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers that are asked for names of the outside; none, and there is no outside.
    pub upstreams: Vec<SocketAddr>,
    /// Questions of this host's ports.
    pub questions: u64,
    /// Of those, answered by what the cluster knows.
    pub known: u64,
    /// Answered by what was heard from upstreams before.
    pub cached: u64,
    /// Asked on.
    pub asked: u64,
    /// Asked on without any answer in time.
    pub failed: u64,
    /// Messages that are no question, or one that isn't answered (a zone transfer).
    pub refused: u64,
    /// Dropped because a port or all together asked too much at once.
    pub dropped: u64,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Underlay address.
    pub underlay: IpAddr,
    /// MTU of the underlay link.
    pub underlay_mtu: Mtu,
    /// What its agent can carry.
    pub transports: Vec<Transport>,
    /// Version of its agent.
    pub version: String,
    /// Endpoints on it.
    pub endpoints: usize,
    /// `connected` or `disconnected` as the controller sees it, `unknown` while no controller answers.
    pub state: String,
    /// It is the node that answers.
    pub this: bool,
}

/// A network to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreate {
    /// Its name.
    pub name: String,
    /// Address ranges; none for plain L2.
    #[serde(default)]
    pub subnets: Vec<IpNet>,
    /// Where automatic addresses come from; each inside one of `subnets`.
    #[serde(default)]
    pub ip_ranges: Vec<IpNet>,
    /// Each inside one of `subnets`; the first host address when not given.
    #[serde(default)]
    pub gateways: Vec<IpAddr>,
    /// Addresses that no endpoint gets, by the name of whom they are for; each inside one of `subnets`.
    #[serde(default)]
    pub aux_addresses: BTreeMap<String, IpAddr>,
    /// Chosen by the controller when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// Frames must travel encrypted between hosts.
    #[serde(default)]
    pub encrypted: bool,
    /// No way out.
    #[serde(default)]
    pub internal: bool,
    /// Endpoints reach the gateway and what is behind it, not each other.
    #[serde(default)]
    pub isolate: bool,
    /// How endpoints reach the outside.
    #[serde(default)]
    pub egress: Egress,
    /// Follows the underlay when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Seconds after which a learned address is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ageing_secs: Option<u32>,
    /// What makes it by itself, and will remove it: `docker`; `None` for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

/// What is to be changed of a network; `None` leaves it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkChange {
    /// MTU in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<Mtu>,
    /// Seconds after which a learned address is forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ageing_secs: Option<u32>,
    /// How endpoints reach the outside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
}

/// A subnet of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetInfo {
    /// The range.
    pub cidr: IpNet,
    /// Where automatic addresses come from, if narrower.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// The gateway's address.
    pub gateway: IpAddr,
    /// Addresses that no endpoint gets, by the name of whom they are for.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// VNI.
    pub vni: Vni,
    /// Address ranges.
    pub subnets: Vec<SubnetInfo>,
    /// How its frames travel between hosts.
    pub transport: Transport,
    /// Frames between hosts are encrypted, or don't travel.
    pub encrypted: bool,
    /// No way out.
    pub internal: bool,
    /// Endpoints reach the gateway and what is behind it, not each other.
    #[serde(default)]
    pub isolate: bool,
    /// The router that it is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<String>,
    /// How endpoints reach the outside; `off` if the network is internal.
    #[serde(default)]
    pub egress: Egress,
    /// Inner MTU in force, in bytes.
    pub mtu: Mtu,
    /// It was set by the operator (else it follows the underlay).
    pub mtu_set: bool,
    /// Seconds after which a learned address is forgotten.
    pub ageing_secs: u32,
    /// Static VTEPs.
    pub vteps: Vec<IpAddr>,
    /// Endpoints in the cluster; `None` when this host doesn't have the network and no controller answers.
    pub endpoints: Option<usize>,
}

/// A network with what is on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkDetail {
    /// The network.
    #[serde(flatten)]
    pub network: NetworkInfo,
    /// Its endpoints on all nodes.
    pub members: Vec<EndpointInfo>,
    /// Who gives out which addresses.
    pub blocks: Vec<SubnetBlock>,
}

/// An endpoint anywhere in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// The node's name.
    pub node: String,
    /// MAC.
    pub mac: MacAddr,
    /// Addresses.
    pub ips: Vec<IpAddr>,
    /// Further names.
    pub aliases: Vec<String>,
}

/// The names of the networks that were removed because nothing was on them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Names.
    pub removed: Vec<String>,
}

/// A router to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterCreate {
    /// Its name.
    pub name: String,
}

/// Networks that a router gets or loses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterNetworks {
    /// Their names.
    pub networks: Vec<String>,
}

/// A router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Names of its networks.
    pub networks: Vec<String>,
    /// Static routes, in order of prefix.
    pub routes: Vec<StaticRoute>,
}

/// A router with all that its gateways do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterDetail {
    /// The router.
    #[serde(flatten)]
    pub router: RouterInfo,
    /// Its whole table, in order of prefix.
    pub table: Vec<RouterRoute>,
}

/// One route of a router's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRoute {
    /// The destinations.
    pub prefix: IpNet,
    /// `connected` (a subnet of one of its networks) or `static`.
    pub kind: String,
    /// The network that it leads to.
    pub network: String,
    /// The next hop of a static route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The gateway's address in a connected subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether an endpoint has the next hop's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
}

/// Which network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetnsArg {
    /// A name as `ip netns` has it.
    Name(String),
    /// An absolute path of a namespace file.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
    /// The agent's own: the host itself.
    Host,
}

/// Connect a namespace to a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The container's namespace.
    pub netns: NetnsArg,
    /// Fixed addresses, one per subnet at most; free ones are taken for the other subnets.
    #[serde(default)]
    pub ips: Vec<IpAddr>,
    /// Fixed MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Interface name in the container; `eth0`, or the next free `ethN`, when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Endpoint name; made from the namespace when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the name is made from instead of the namespace when `name` is `None`; something is put behind it when it is
    /// taken, and characters that no name may have are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    /// Whose port it is to be. One that is there already is refused (`attached_already`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<Attachment>,
    /// Addresses that another IPAM chose, set on the interface as they are. Only on networks without a subnet.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Routes to set; those that are there already are left.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Default routes through the network's gateways: `None` sets them unless the network is internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_route: Option<bool>,
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// A plain TAP: frames exactly as on the wire.
    #[serde(default)]
    pub no_offload: bool,
    /// `/etc/netns/NAME/resolv.conf` names the network's gateways as long as the port is there.
    #[serde(default)]
    pub dns: bool,
    /// The interface is left without addresses and routes: its owner asks the gateway for them by DHCP.
    #[serde(default)]
    pub dhcp: bool,
    /// How fast it may be.
    #[serde(default)]
    pub limits: Limits,
    /// It may send from any address but the gateway's.
    #[serde(default)]
    pub allow_spoof: bool,
    /// Ports of the host whose clients are to be connected with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<Publish>,
}

/// Disconnect a namespace from a network: by namespace or by endpoint name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disconnect {
    /// The container's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<NetnsArg>,
    /// The endpoint's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Whether a join token lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It does.
    Valid,
    /// As many nodes as it is for have joined with it.
    Used,
    /// Its time is over.
    Expired,
    /// An operator took it back.
    Revoked,
}

impl std::fmt::Display for TokenState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Valid => "valid",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// A join token without its secret: `weft controller token ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Id: the third part of the token.
    pub id: String,
    /// Whether it lets anybody in.
    pub state: TokenState,
    /// How many nodes it is for.
    pub uses: u32,
    /// Names of the nodes that joined with it; ids of those that were removed since.
    pub nodes: Vec<String>,
    /// Seconds since 1970 from which on it is refused.
    pub expires: u64,
    /// Seconds until then; 0 when it has expired.
    pub expires_in_secs: u64,
}

/// How far the replacement of a cluster's authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityStep {
    /// There is one authority.
    Settled,
    /// Nodes learn to trust the next one.
    Announced,
    /// Nodes get certificates of the next one.
    Switched,
}

/// The cluster's authority: `weft controller ca`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityInfo {
    /// How far it is being replaced.
    pub step: AuthorityStep,
    /// Subject key identifier of the authority that signs controllers, in hexadecimal.
    pub current: String,
    /// The one that is to replace it.
    pub next: Option<String>,
    /// Names of the nodes that the next step waits for.
    pub waiting: Vec<String>,
}

/// A node's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Seconds since 1970 from which on it isn't taken.
    pub expires: u64,
    /// Seconds until then; 0 when it has ended.
    pub expires_in_secs: u64,
    /// The authority that signed it: its subject key identifier in hexadecimal.
    pub issuer: String,
}

/// How a controller is: `weft controller status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerReport {
    /// It runs; else this is what is stored.
    pub running: bool,
    /// The cluster it keeps.
    pub cluster: String,
    /// Its version.
    pub version: String,
    /// Revision of the map.
    pub revision: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Nodes with a session here.
    pub connected: usize,
    /// What was refused on the control port since it was started, by reason.
    pub refused: BTreeMap<String, u64>,
}
