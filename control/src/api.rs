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

mod admin;
mod attachment;
mod ipam;
mod line;
mod network;
mod peer;
mod port;
mod publish;
mod router;
mod uplink;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu, Vni};

pub use crate::model::StaticRoute;
use crate::model::{Egress, Transport};
pub use admin::{
    AuthorityInfo, AuthorityStep, CertificateStatus, ControllerReport, TokenInfo, TokenState,
};
pub use attachment::{Attachment, Detached, Route};
pub use ipam::{Audit, Finding, Lease, SubnetBlock};
pub use line::{Impairment, Impairments, Limits, LineTraffic, PortChange, PortLine, RateLimit};
pub use network::{
    EndpointInfo, NetworkChange, NetworkCreate, NetworkDetail, NetworkInfo, Pruned, SubnetInfo,
};
pub use peer::{EncryptedTunnel, Peer, Peers, Strangers};
pub use port::{Connect, Disconnect, NetnsArg, Port};
pub use publish::{PortProtocol, ProxyProtocol, Publish, PublishRange};
pub use router::{RouterCreate, RouterDetail, RouterInfo, RouterNetworks, RouterRoute};
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
