//! Networks and what is on them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu, Vni};

use super::SubnetBlock;
use crate::model::{Egress, Transport};

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
