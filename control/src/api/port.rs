//! Ports: interfaces of containers on networks.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu, Vni};

use super::{Attachment, Limits, PortLine, Publish, Route, Traffic};

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
