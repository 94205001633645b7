//! Routers: which networks reach each other, and what lies behind them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{ClusterMap, Network, NetworkId, RouterId};

/// A router: the gateways of its networks send packets to each other's endpoints. It runs on every host that has a port
/// on one of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// Minted by the controller.
    pub id: RouterId,
    /// Unique among routers.
    pub name: String,
    /// Its networks; each is on one router at most.
    #[serde(default)]
    pub networks: BTreeSet<NetworkId>,
    /// What endpoints of its networks lead to, in order of prefix; each prefix once.
    #[serde(default)]
    pub routes: Vec<StaticRoute>,
}

/// A prefix that lies behind an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StaticRoute {
    /// The destinations; host bits are zero.
    pub prefix: IpNet,
    /// The next hop: an address in a subnet of one of the router's networks.
    pub via: IpAddr,
}

impl ClusterMap {
    /// The router of that name.
    pub fn router_named(&self, name: &str) -> Option<&Router> {
        let mut routers = self.routers.values().map(|router| &router.object);
        routers.find(|router| router.name == name)
    }

    /// The router that a network is on.
    pub fn router_of(&self, network: &NetworkId) -> Option<&Router> {
        let mut routers = self.routers.values().map(|router| &router.object);
        routers.find(|router| router.networks.contains(network))
    }

    /// The networks of a router, in order of their ids. One that is just being removed may be missing.
    pub fn networks_of<'a>(&'a self, router: &'a Router) -> impl Iterator<Item = &'a Network> {
        router.networks.iter().filter_map(|id| self.network(id))
    }
}
