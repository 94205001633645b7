//! Routers between networks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::StaticRoute;

/// A router to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterCreate {
    /// Its name.
    pub name: String,
}

/// Networks that a router gets or loses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterNetworks {
    /// Their names.
    pub networks: Vec<String>,
}

/// A router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterInfo {
    /// Name.
    pub name: String,
    /// Id.
    pub id: String,
    /// Names of its networks.
    pub networks: Vec<String>,
    /// Static routes, in order of prefix.
    pub routes: Vec<StaticRoute>,
}

/// A router with all that its gateways do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterDetail {
    /// The router.
    #[serde(flatten)]
    pub router: RouterInfo,
    /// Its whole table, in order of prefix.
    pub table: Vec<RouterRoute>,
}

/// One route of a router's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterRoute {
    /// The destinations.
    pub prefix: IpNet,
    /// `connected` (a subnet of one of its networks) or `static`.
    pub kind: String,
    /// The network that it leads to.
    pub network: String,
    /// The next hop of a static route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The gateway's address in a connected subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Whether an endpoint has the next hop's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
}
