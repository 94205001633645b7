//! What Docker is answered with.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};
use weft_wire::MacAddr;

use super::{ADDRESS_SPACE, Side};

/// What the plugin is, for `/Plugin.Activate`.
const IMPLEMENTS: [&str; 2] = ["NetworkDriver", "IpamDriver"];

/// What a call that worked is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `{}`.
    Done,
    /// Of `Activate`.
    Implements,
    /// Of `NetworkDriver.GetCapabilities`.
    NetworkCapabilities,
    /// Of `GwAllocCheck`.
    GatewayCheck,
    /// Of `CreateEndpoint`: the MAC if Docker left it to us.
    Endpoint {
        /// What we chose.
        mac: Option<MacAddr>,
    },
    /// Of `EndpointOperInfo`.
    EndpointInfo {
        /// Shown by nobody yet, but part of the protocol.
        value: BTreeMap<String, String>,
    },
    /// Of `Join`.
    Joined {
        /// The interface's name in dockerd's namespace.
        ifname: String,
        /// Default routes, if they are to go through this network.
        gateways: Vec<IpAddr>,
        /// There is no way out: Docker's own gateway bridge must not be one either.
        internal: bool,
    },
    /// Of `IpamDriver.GetCapabilities`.
    IpamCapabilities,
    /// Of `GetDefaultAddressSpaces`.
    AddressSpaces,
    /// Of `RequestPool`.
    Pool {
        /// What we call it.
        id: String,
        /// The range.
        cidr: IpNet,
    },
    /// Of `RequestAddress`, with the prefix length of its subnet.
    Address(IpNet),
}

impl Reply {
    /// As Docker reads it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Done => json!({}),
            Self::Implements => json!({ "Implements": IMPLEMENTS }),
            Self::NetworkCapabilities => json!({
                "Scope": "local",
                "ConnectivityScope": "global",
                "GwAllocChecker": false,
            }),
            Self::GatewayCheck => json!({ "SkipIPv4": false, "SkipIPv6": false }),
            Self::Endpoint { mac } => match mac {
                Some(mac) => json!({ "Interface": { "MacAddress": mac.to_string() } }),
                None => json!({ "Interface": {} }),
            },
            Self::EndpointInfo { value } => json!({ "Value": value }),
            Self::Joined {
                ifname,
                gateways,
                internal,
            } => joined(ifname, gateways, *internal),
            Self::IpamCapabilities => json!({
                "RequiresMACAddress": false,
                "RequiresRequestReplay": false,
            }),
            Self::AddressSpaces => json!({
                "LocalDefaultAddressSpace": ADDRESS_SPACE,
                "GlobalDefaultAddressSpace": ADDRESS_SPACE,
            }),
            Self::Pool { id, cidr } => json!({ "PoolID": id, "Pool": cidr, "Data": {} }),
            Self::Address(address) => json!({ "Address": address, "Data": {} }),
        }
    }
}

fn joined(ifname: &str, gateways: &[IpAddr], internal: bool) -> Value {
    let mut reply = json!({ "InterfaceName": { "SrcName": ifname, "DstPrefix": "eth" } });
    for gateway in gateways {
        let field = if gateway.is_ipv4() {
            "Gateway"
        } else {
            "GatewayIPv6"
        };
        reply[field] = json!(gateway);
    }
    if internal {
        reply["DisableGatewayService"] = json!(true);
    }
    reply
}

/// A refusal in the protocol's own form.
pub fn error_json(side: Side, sentence: &str) -> Value {
    match side {
        Side::Network => json!({ "Err": sentence }),
        Side::Ipam => json!({ "Error": sentence }),
    }
}
