//! Networks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{Mtu, Vni};

use super::NetworkId;

/// How frames travel between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// VXLAN over UDP in clear (RFC 7348).
    Vxlan,
    /// ESP in UDP (RFC 4303, RFC 3948), keyed by a QUIC session with mutual TLS (RFC 9000).
    Quic,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vxlan => "vxlan",
            Self::Quic => "quic",
        })
    }
}

/// How a network's endpoints reach the outside.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// By sockets of each endpoint's own host.
    #[default]
    Nat,
    /// By the kernel of each endpoint's own host, through the port that the host has on the network: the operator's
    /// routes, and his address translation, if any.
    Kernel,
    /// Not at all: what they send there is refused.
    Off,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::Kernel => "kernel",
            Self::Off => "off",
        })
    }
}

/// One address range of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range; its host bits are zero.
    pub cidr: IpNet,
    /// Where blocks are taken from; all of `cidr` when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// Inside `cidr`, never given to an endpoint.
    pub gateway: IpAddr,
    /// Addresses that are somebody else's (a router's, a printer's), by name: never given to an endpoint either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

impl Subnet {
    /// For whom an address is kept.
    pub fn reserved_for(&self, ip: IpAddr) -> Option<&str> {
        let mut reserved = self.aux_addresses.iter();
        reserved.find_map(|(name, reserved)| (*reserved == ip).then_some(name.as_str()))
    }

    /// What an address of the range that no endpoint may have is instead.
    pub fn role_of(&self, ip: IpAddr) -> String {
        match self.reserved_for(ip) {
            _ if ip == self.gateway => "the gateway".to_owned(),
            Some(name) => format!("reserved for {name} (--aux-address)"),
            None => "the network or broadcast address".to_owned(),
        }
    }

    /// Where automatic addresses come from.
    pub fn pool(&self) -> IpNet {
        self.ip_range.unwrap_or(self.cidr)
    }

    /// Whether an endpoint may have `ip`: inside the range and none of network, broadcast, gateway and reserved address.
    pub fn is_host_address(&self, ip: IpAddr) -> bool {
        if !self.cidr.contains(&ip) || ip == self.gateway || self.reserved_for(ip).is_some() {
            return false;
        }
        match (self.cidr, ip) {
            (IpNet::V4(net), IpAddr::V4(ip)) => {
                net.prefix_len() >= 31 || (ip != net.network() && ip != net.broadcast())
            }
            // The all-zeros host part is the subnet-router anycast address (RFC 4291 section 2.6.1).
            (IpNet::V6(net), IpAddr::V6(ip)) => net.prefix_len() >= 127 || ip != net.network(),
            (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Seconds after which a learned address is forgotten when nobody says otherwise (IEEE 802.1D's default).
pub const DEFAULT_AGEING_SECS: u32 = 300;

/// An overlay network: one Ethernet segment across hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Minted by the controller.
    pub id: NetworkId,
    /// Unique in the cluster.
    pub name: String,
    /// Unique in the cluster.
    pub vni: Vni,
    /// Address ranges; none makes it plain L2: no IPAM, no gateway, no spoof check.
    pub subnets: Vec<Subnet>,
    /// How its frames travel between hosts.
    pub transport: Transport,
    /// Has no way out: endpoints get no default route.
    pub internal: bool,
    /// How endpoints reach the outside, if the network isn't internal.
    #[serde(default)]
    pub egress: Egress,
    /// As the operator set it; `None` follows the underlay.
    pub mtu: Option<Mtu>,
    /// Seconds after which a learned address is forgotten.
    pub ageing_secs: u32,
    /// Static VTEPs: tunnel ends that no agent runs (a kernel VXLAN device, a hardware switch, OVS).
    pub vteps: BTreeSet<IpAddr>,
    /// Its endpoints reach the gateway and what lies behind it, not each other.
    #[serde(default)]
    pub isolate: bool,
    /// What made it by itself, and removes it when it has no more use for it: `docker`; `None` for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

impl Network {
    /// Whether its frames may leave a host only encrypted.
    pub fn is_encrypted(&self) -> bool {
        match self.transport {
            Transport::Vxlan => false,
            Transport::Quic => true,
        }
    }

    /// A network without a subnet is a plain learning switch.
    pub fn is_plain_l2(&self) -> bool {
        self.subnets.is_empty()
    }

    /// Whether endpoints have IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.subnets
            .iter()
            .any(|subnet| matches!(subnet.cidr, IpNet::V6(_)))
    }

    /// How endpoints reach the outside: not at all if the network is internal.
    pub fn way_out(&self) -> Egress {
        if self.internal {
            Egress::Off
        } else {
            self.egress
        }
    }

    /// The subnet that contains `ip`.
    pub fn subnet_of(&self, ip: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.cidr.contains(&ip))
    }
}
