//! What programs that connect containers for somebody else need beside the words of the command line: a mark by which
//! they find their port again, and addresses and routes that another IPAM chose.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Port;

/// Whose port it is, for programs that connect containers (the Docker and CNI plugins) and must find it again. A host
/// has at most one port of each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The program, and its network where its names are its own: `docker`, `cni:NAME`.
    pub owner: String,
    /// The container or endpoint as the program calls it.
    pub container: String,
    /// The interface, where the program tells a container's interfaces apart by name; else empty.
    #[serde(default)]
    pub ifname: String,
}

/// A route of a container's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to.
    pub dst: IpNet,
    /// The next hop; none: the destination is on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// MTU in bytes along it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP MSS in bytes advertised along it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    /// Metric: lower is preferred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// Routing table; the main one when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// Scope as the kernel numbers it (rtnetlink(7)): 0 universe, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    /// A route by destination and next hop.
    pub const fn new(dst: IpNet, gateway: Option<IpAddr>) -> Self {
        Self {
            dst,
            gateway,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// Reply to the end of an attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detached {
    /// The port as it was; `None` when there was none (any more).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
}
