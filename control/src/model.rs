//! What a cluster knows: nodes, networks, subnet blocks and endpoints, and the map that holds them.
//!
//! The controller owns the map and gives every change a revision; agents hold a copy. An object carries the revision
//! that last changed it. Nothing here does IO: both sides apply the same [`Change`]s to the same [`ClusterMap`].

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu};

mod blocks;
mod endpoints;
mod excerpt;
mod map;
mod network;
mod router;

pub use blocks::Blocks;
pub use endpoints::Endpoints;
pub use excerpt::Coverage;
pub use map::{Change, ClusterMap, Key, Object, Versioned};
pub use network::{DEFAULT_AGEING_SECS, Egress, Network, Subnet, Transport};
pub use router::{Router, StaticRoute};

/// Counts the changes of a cluster: 0 is the empty map, each accepted change has the next number.
pub type Revision = u64;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A cluster: 32 hexadecimal digits, minted by its first controller. Two cluster ids never merge.
    ClusterId
}
text_id! {
    /// A node: the first 16 bytes of the SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
    NodeId
}
text_id! {
    /// A network: 16 hexadecimal digits, minted by the controller; a network made anew under an old name has a new id.
    NetworkId
}
text_id! {
    /// An endpoint: 16 hexadecimal digits, minted by the agent that has its port.
    EndpointId
}

text_id! {
    /// A router: 16 hexadecimal digits, minted by the controller.
    RouterId
}

/// A host that runs an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// From its key.
    pub id: NodeId,
    /// Unique in the cluster.
    pub name: String,
    /// Where its tunnels end; unique in the cluster.
    pub underlay: IpAddr,
    /// MTU of the link that has `underlay`, in bytes.
    pub underlay_mtu: Mtu,
    /// UDP port on which it takes VXLAN.
    pub vxlan_port: u16,
    /// UDP port on which it takes encrypted tunnels, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_port: Option<u16>,
    /// What its agent can carry.
    pub transports: Vec<Transport>,
    /// Version of its agent, for people.
    pub version: String,
}

impl Node {
    /// The UDP port on which it takes encrypted tunnels; `None` if its agent can't protect a network.
    pub fn takes_encrypted(&self) -> Option<u16> {
        self.encrypted_port
            .filter(|_| self.transports.contains(&Transport::Quic))
    }
}

/// A part of a network's addresses that one node gives out by itself. Blocks may nest: the most specific block that
/// contains an address says whose it is (a fixed address claimed by another node is a block of one address).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The network.
    pub network: NetworkId,
    /// The addresses.
    pub prefix: IpNet,
    /// Who gives them out.
    pub node: NodeId,
}

/// One interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Minted by its agent.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// The node that has its port.
    pub node: NodeId,
    /// Unique in its network.
    pub name: String,
    /// Further names; several endpoints may share one.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its interface's address; unique in its network. Behind a port of a plain L2 network other addresses may appear.
    pub mac: MacAddr,
    /// Its addresses, each unique in its network; none in a plain L2 network.
    pub ips: Vec<IpAddr>,
    /// Grows with each new owner of the address: in the FDB the newest owner wins.
    pub epoch: u64,
}

/// What a node can prove, as far as replacing the cluster's authority has to know. Agents aren't told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The authorities that it trusts, by the names of their keys (`identity::cert::authority_id`).
    #[serde(default)]
    pub trusts: Vec<String>,
    /// The one that signed its certificate; empty when the certificate doesn't say.
    #[serde(default)]
    pub issuer: String,
    /// When its certificate ends, in seconds since 1970.
    #[serde(default)]
    pub expires: u64,
}

/// Which controller has a node's session, where several share a store: what the node asked of another one before comes
/// too late. Agents aren't told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The controller's name for itself, another one at each start.
    pub controller: String,
}

/// An epoch for a new owner of a MAC, above all that its node has seen: `newest`, its own, and the map's `revision`. Its
/// lower 24 bits are the node's, so that no two nodes give the same.
pub fn next_epoch(node: &NodeId, newest: u64, revision: Revision) -> u64 {
    const NODE_BITS: u32 = 24;
    // FNV-1a: the same on every machine and in every version.
    let hash = node
        .0
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let count = (newest >> NODE_BITS).max(revision) + 1;
    (count << NODE_BITS) | (hash >> (u64::BITS - NODE_BITS))
}

/// Whether a MAC is kept for gateways, now or later: the 256 around [`GATEWAY_MAC`](weft_switch::gateway::GATEWAY_MAC).
pub fn is_reserved(mac: MacAddr) -> bool {
    mac.octets()[..5] == weft_switch::gateway::GATEWAY_MAC.octets()[..5]
}

/// Checks a name of a node, network, endpoint or alias: 1 to 63 letters, digits, `_`, `.` and `-`, the first a letter
/// or digit (what Docker takes, and short enough for a DNS label, RFC 1035 section 2.3.4).
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_name(kind: &str, name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let fine = (1..=63).contains(&name.len())
        && name.bytes().all(good)
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if fine {
        return Ok(());
    }
    let name = brief(name);
    Err(format!(
        "{kind} name {name:?} is not usable: take 1 to 63 letters, digits, '_', '.' or '-', the first a letter or digit"
    ))
}

/// Characters of a wrong text that an error repeats.
const BRIEF_CHARS: usize = 80;

/// As much of a text as makes it known, for an error about it: it may be of any length.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(BRIEF_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
