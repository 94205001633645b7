//! Other hosts, as the datapath has them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use weft_wire::Mtu;

use super::Traffic;
use crate::model::Transport;

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
