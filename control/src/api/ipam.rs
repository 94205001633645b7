//! Who gives out and has which addresses.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::MacAddr;

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
