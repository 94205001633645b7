//! A call of Docker's plugin protocol: from bytes to [`Call`], and back from an outcome to JSON.
//!
//! Requests are read field by field, so that a wrong one is answered by its name. Go writes an empty map or list as
//! `null` or leaves it out, and Docker sends neither a content type nor a host name: nothing of that may matter.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_wire::MacAddr;

mod fields;
mod reply;

pub use reply::{Reply, error_json};

use fields::Fields;

/// The address space of our pools: an address of any other was not given by us.
pub const ADDRESS_SPACE: &str = "weft";

/// Which half of the driver a call is for: they name their error field differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `Plugin` and `NetworkDriver`: `Err`.
    Network,
    /// `IpamDriver`: `Error`.
    Ipam,
}

/// Why a call can't be carried out as it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadCall {
    /// There is no such method: an HTTP 404, which Docker takes for "not supported".
    Unknown(String),
    /// A field is missing or wrong.
    Field(Side, String),
}

/// A call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// `/Plugin.Activate`.
    Activate,
    /// `/NetworkDriver.GetCapabilities`.
    NetworkCapabilities,
    /// `/NetworkDriver.GwAllocCheck` (Docker 28): whether a network without a gateway address is fine.
    GatewayCheck,
    /// `/NetworkDriver.CreateNetwork`.
    CreateNetwork(CreateNetwork),
    /// `/NetworkDriver.DeleteNetwork`.
    DeleteNetwork {
        /// Docker's id of it.
        network: String,
    },
    /// `/NetworkDriver.CreateEndpoint`.
    CreateEndpoint(CreateEndpoint),
    /// `/NetworkDriver.EndpointOperInfo`.
    EndpointInfo(EndpointRef),
    /// `/NetworkDriver.DeleteEndpoint`.
    DeleteEndpoint(EndpointRef),
    /// `/NetworkDriver.Join`.
    Join {
        /// Which.
        of: EndpointRef,
        /// Path of the container's network namespace, as dockerd sees it.
        sandbox: String,
    },
    /// `/NetworkDriver.Leave`.
    Leave(EndpointRef),
    /// `/NetworkDriver.ProgramExternalConnectivity`: the endpoint is its container's way out, and so its way in.
    Program {
        /// Which.
        of: EndpointRef,
        /// `--publish`: ports of the host that are to lead to it.
        publish: Vec<PortBinding>,
    },
    /// `/NetworkDriver.RevokeExternalConnectivity`: it is the way out no longer.
    Revoke(EndpointRef),
    /// `/NetworkDriver.DiscoverNew`, `DiscoverDelete`: Docker tells us something that we have no use for.
    Heard,
    /// `/NetworkDriver.AllocateNetwork`, `FreeNetwork`: only a swarm manager calls them, for drivers of global scope.
    Swarm,
    /// `/IpamDriver.GetCapabilities`.
    IpamCapabilities,
    /// `/IpamDriver.GetDefaultAddressSpaces`.
    AddressSpaces,
    /// `/IpamDriver.RequestPool`.
    RequestPool(RequestPool),
    /// `/IpamDriver.ReleasePool`.
    ReleasePool {
        /// As we called it.
        pool: String,
    },
    /// `/IpamDriver.RequestAddress`.
    RequestAddress(RequestAddress),
    /// `/IpamDriver.ReleaseAddress`.
    ReleaseAddress {
        /// As we called it.
        pool: String,
        /// Which.
        address: IpAddr,
    },
}

/// An endpoint by Docker's ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRef {
    /// Docker's id of the network.
    pub network: String,
    /// Docker's id of the endpoint.
    pub endpoint: String,
}

/// `docker network create`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateNetwork {
    /// Docker's id of it: random on each host.
    pub network: String,
    /// `-o KEY=VALUE`.
    pub options: BTreeMap<String, String>,
    /// `--internal`.
    pub internal: bool,
    /// Ranges of both families, as an IPAM driver gave them; none with Docker's `null` driver.
    pub ranges: Vec<Range>,
}

/// A range of a network that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// An IPAM driver of that name gave it: [`ADDRESS_SPACE`] is ours.
    pub space: String,
    /// The subnet.
    pub cidr: IpNet,
    /// Its gateway, where there is one.
    pub gateway: Option<IpAddr>,
    /// `--aux-address`, by name.
    pub aux: BTreeMap<String, IpAddr>,
}

/// A container is to get an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateEndpoint {
    /// Which.
    pub of: EndpointRef,
    /// The addresses that the IPAM driver gave.
    pub ips: Vec<IpAddr>,
    /// `--mac-address`: we choose when `None`.
    pub mac: Option<MacAddr>,
}

/// A port of `docker run --publish`, as Docker says it: libnetwork's `PortBinding`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortBinding {
    /// Protocol number.
    pub protocol: u8,
    /// Port of the container.
    pub port: u16,
    /// Address of the host; every one when `None`.
    pub host_ip: Option<IpAddr>,
    /// First port of the host that may be taken; 0 is any.
    pub host_port: u16,
    /// Last one.
    pub host_port_end: u16,
}

/// A network that is to be made asks for a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPool {
    /// `--subnet`; ours to choose when `None`.
    pub pool: Option<IpNet>,
    /// `--ip-range`.
    pub sub_pool: Option<IpNet>,
    /// `--ipam-opt KEY=VALUE`.
    pub options: BTreeMap<String, String>,
    /// An IPv6 range is wanted.
    pub v6: bool,
}

/// An address of a pool is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// As we called it.
    pub pool: String,
    /// `--ip`, `--gateway` or `--aux-address`; ours to choose when `None`.
    pub address: Option<IpAddr>,
    /// It is to be the network's gateway.
    pub gateway: bool,
}

/// Reads a call. `path` is the URL's.
///
/// # Errors
/// [`BadCall`]: an unknown method, a body that is no JSON object, a field that is missing or wrong.
pub fn parse(path: &str, body: &[u8]) -> Result<Call, BadCall> {
    let (side, method) = addressed(path)?;
    let fields = Fields::read(method, side, body)?;
    Ok(match method {
        "Plugin.Activate" => Call::Activate,
        "NetworkDriver.GetCapabilities" => Call::NetworkCapabilities,
        "NetworkDriver.GwAllocCheck" => Call::GatewayCheck,
        "NetworkDriver.CreateNetwork" => Call::CreateNetwork(fields.create_network()?),
        "NetworkDriver.DeleteNetwork" => Call::DeleteNetwork {
            network: fields.id("NetworkID")?,
        },
        "NetworkDriver.CreateEndpoint" => Call::CreateEndpoint(fields.create_endpoint()?),
        "NetworkDriver.EndpointOperInfo" => Call::EndpointInfo(fields.endpoint()?),
        "NetworkDriver.DeleteEndpoint" => Call::DeleteEndpoint(fields.endpoint()?),
        "NetworkDriver.Join" => Call::Join {
            of: fields.endpoint()?,
            sandbox: fields.text("SandboxKey")?.unwrap_or_default(),
        },
        "NetworkDriver.Leave" => Call::Leave(fields.endpoint()?),
        "NetworkDriver.ProgramExternalConnectivity" => Call::Program {
            of: fields.endpoint()?,
            publish: fields.publish()?,
        },
        "NetworkDriver.RevokeExternalConnectivity" => Call::Revoke(fields.endpoint()?),
        "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => Call::Heard,
        "NetworkDriver.AllocateNetwork" | "NetworkDriver.FreeNetwork" => Call::Swarm,
        "IpamDriver.GetCapabilities" => Call::IpamCapabilities,
        "IpamDriver.GetDefaultAddressSpaces" => Call::AddressSpaces,
        "IpamDriver.RequestPool" => Call::RequestPool(fields.request_pool()?),
        "IpamDriver.ReleasePool" => Call::ReleasePool {
            pool: fields.id("PoolID")?,
        },
        "IpamDriver.RequestAddress" => Call::RequestAddress(fields.request_address()?),
        "IpamDriver.ReleaseAddress" => Call::ReleaseAddress {
            pool: fields.id("PoolID")?,
            address: fields
                .address("Address")?
                .ok_or_else(|| fields.bad("Address", "is missing"))?,
        },
        _ => return Err(BadCall::Unknown(unknown(method))),
    })
}

/// Whom a path is for, and the method's name.
fn addressed(path: &str) -> Result<(Side, &str), BadCall> {
    let method = path.trim_start_matches('/');
    match method.split_once('.') {
        Some(("Plugin" | "NetworkDriver", _)) => Ok((Side::Network, method)),
        Some(("IpamDriver", _)) => Ok((Side::Ipam, method)),
        Some(_) | None => Err(BadCall::Unknown(unknown(method))),
    }
}

/// A call whose body could not be read as far as its end.
pub fn unreadable(path: &str, why: &str) -> BadCall {
    match addressed(path) {
        Ok((side, method)) => {
            BadCall::Field(side, format!("{method}: the body can't be read: {why}"))
        }
        Err(unknown) => unknown,
    }
}

fn unknown(method: &str) -> String {
    let shown: String = method.chars().take(80).collect();
    format!("this weft driver has no method {shown:?}")
}

impl Call {
    /// Which half of the driver it is for.
    pub const fn side(&self) -> Side {
        match self {
            Self::Activate
            | Self::NetworkCapabilities
            | Self::GatewayCheck
            | Self::CreateNetwork(_)
            | Self::DeleteNetwork { .. }
            | Self::CreateEndpoint(_)
            | Self::EndpointInfo(_)
            | Self::DeleteEndpoint(_)
            | Self::Join { .. }
            | Self::Leave(_)
            | Self::Program { .. }
            | Self::Revoke(_)
            | Self::Heard
            | Self::Swarm => Side::Network,
            Self::IpamCapabilities
            | Self::AddressSpaces
            | Self::RequestPool(_)
            | Self::ReleasePool { .. }
            | Self::RequestAddress(_)
            | Self::ReleaseAddress { .. } => Side::Ipam,
        }
    }

    /// Calls with the same key are carried out one after the other, in the order in which they came; `None`: it is
    /// answered at once.
    pub fn key(&self) -> Option<String> {
        match self {
            Self::Activate
            | Self::NetworkCapabilities
            | Self::GatewayCheck
            | Self::Heard
            | Self::Swarm
            | Self::IpamCapabilities
            | Self::AddressSpaces => None,
            Self::CreateNetwork(CreateNetwork { network, .. })
            | Self::DeleteNetwork { network } => Some(format!("network {network}")),
            Self::CreateEndpoint(CreateEndpoint { of, .. })
            | Self::EndpointInfo(of)
            | Self::DeleteEndpoint(of)
            | Self::Join { of, .. }
            | Self::Program { of, .. }
            | Self::Revoke(of)
            | Self::Leave(of) => Some(format!("endpoint {}", of.endpoint)),
            // Which pool, and which address of it, is decided under one lock anyway.
            Self::RequestPool(_) => Some("pools".to_owned()),
            Self::ReleasePool { pool } => Some(format!("pool {pool}")),
            Self::RequestAddress(_) | Self::ReleaseAddress { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
