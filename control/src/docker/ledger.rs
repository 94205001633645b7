//! What Docker was given on this host and hasn't given back: ranges, addresses, networks, endpoints.
//!
//! It is on disk before Docker gets its answer, so that neither a restart of the agent nor one of dockerd gives an address
//! twice or forgets one. dockerd may die between a call and its own note of it, and then never gives back what it was
//! given; so entries have an age, and what Docker doesn't know of after a while is dropped (`host`, and the agent's
//! `docker::host`).

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::wish::Wish;
use crate::model::Endpoint;

/// Seconds since 1970: an age must survive a restart.
pub type UnixSecs = u64;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Numbers the pools.
    next: u64,
    pools: BTreeMap<String, Pool>,
    networks: BTreeMap<String, NetworkEntry>,
    endpoints: BTreeMap<String, EndpointEntry>,
}

/// A range that Docker asked for, for a network that it was about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet.
    pub cidr: IpNet,
    /// Where automatic addresses come from, if Docker said so.
    #[serde(default)]
    pub ip_range: Option<IpNet>,
    /// The overlay whose range Docker asked for by name (`--ipam-opt weft.network`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_of: Option<String>,
    /// Name of the overlay that it belongs to, once Docker has made the network.
    #[serde(default)]
    pub network: Option<String>,
    /// Addresses that Docker has: of containers, and what `--aux-address` keeps free.
    #[serde(default)]
    pub held: BTreeSet<IpAddr>,
    /// Since when a container's address has had no endpoint: Docker makes one at once, unless it dies.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_since: BTreeMap<IpAddr, UnixSecs>,
    /// When Docker asked for it.
    pub since: UnixSecs,
}

/// A Docker network of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkEntry {
    /// What it is in the cluster.
    pub wish: Wish,
    /// When Docker made it.
    pub since: UnixSecs,
}

/// A Docker endpoint of this host: a container's interface, or one that is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointEntry {
    /// Docker's id of its network.
    pub network: String,
    /// What the cluster knows of it.
    pub endpoint: Endpoint,
    /// Docker asked for its interface: the port's own record counts from then on.
    #[serde(default)]
    pub joined: bool,
    /// When Docker made it.
    pub since: UnixSecs,
}

impl Ledger {
    /// A range for a network; answers with what it is called from now on.
    pub fn open_pool(&mut self, cidr: IpNet, ip_range: Option<IpNet>, now: UnixSecs) -> String {
        self.next += 1;
        // Readable in Docker's own logs; the number keeps two Docker networks on one overlay apart.
        let id = format!("{cidr}#{}", self.next);
        let pool = Pool {
            cidr,
            ip_range,
            asked_of: None,
            network: None,
            held: BTreeSet::new(),
            held_since: BTreeMap::new(),
            since: now,
        };
        self.pools.insert(id.clone(), pool);
        id
    }

    /// The overlay that a pool was asked of. It is known before Docker says which network the pool is for.
    pub fn note_asked_of(&mut self, id: &str, overlay: String) {
        if let Some(pool) = self.pools.get_mut(id) {
            pool.asked_of = Some(overlay);
        }
    }

    /// A range by what it was called.
    pub fn pool(&self, id: &str) -> Option<&Pool> {
        self.pools.get(id)
    }

    /// Ranges of all pools.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        self.pools.values().map(|pool| pool.cidr)
    }

    /// Docker gives a range back, and with it every address of it. An unknown one is fine.
    pub fn close_pool(&mut self, id: &str) {
        self.pools.remove(id);
    }

    /// Docker has an address. False when the pool isn't known or Docker has that address already.
    pub fn hold(&mut self, pool: &str, ip: IpAddr, now: UnixSecs) -> bool {
        let Some(pool) = self.pools.get_mut(pool) else {
            return false;
        };
        let new = pool.held.insert(ip);
        // What a network that is just being made keeps free (--aux-address) waits for no endpoint.
        if new && pool.network.is_some() {
            pool.held_since.insert(ip, now);
        }
        new
    }

    /// Docker gives an address back. One that it hasn't is fine.
    pub fn release(&mut self, pool: &str, ip: IpAddr) {
        if let Some(pool) = self.pools.get_mut(pool) {
            pool.held.remove(&ip);
            pool.held_since.remove(&ip);
        }
    }

    /// Docker forgot who had these addresses.
    pub fn release_everywhere(&mut self, ips: &[IpAddr]) {
        for pool in self.pools.values_mut() {
            pool.held.retain(|ip| !ips.contains(ip));
            pool.held_since.retain(|ip, _| !ips.contains(ip));
        }
    }

    /// Where automatic addresses of the pools that belong to no network yet come from: the newest of each range.
    pub fn wished_ranges(&self, cidrs: &[IpNet]) -> Vec<IpNet> {
        let newest = cidrs.iter().filter_map(|cidr| self.newest_unbound(*cidr));
        newest
            .filter_map(|id| self.pools.get(&id)?.ip_range)
            .collect()
    }

    /// The overlay that the pools of a network that is just being made were asked of, if any was.
    pub fn asked_of(&self, cidrs: &[IpNet]) -> Option<String> {
        let newest = cidrs.iter().filter_map(|cidr| self.newest_unbound(*cidr));
        let mut named = newest.filter_map(|id| self.pools.get(&id)?.asked_of.clone());
        named.next()
    }

    fn newest_unbound(&self, cidr: IpNet) -> Option<String> {
        let fits = |(_, pool): &(&String, &Pool)| pool.cidr == cidr && pool.network.is_none();
        let newest = self
            .pools
            .iter()
            .filter(fits)
            .max_by_key(|(id, _)| number_of(id))?;
        Some(newest.0.clone())
    }

    /// Docker made a network: the ranges that it asked for before belong to it.
    pub fn add_network(&mut self, id: &str, wish: Wish, now: UnixSecs) {
        for cidr in &wish.create.subnets {
            if let Some(id) = self.newest_unbound(*cidr)
                && let Some(pool) = self.pools.get_mut(&id)
            {
                pool.network = Some(wish.create.name.clone());
            }
        }
        let entry = NetworkEntry { wish, since: now };
        self.networks.insert(id.to_owned(), entry);
    }

    /// A Docker network.
    pub fn network(&self, id: &str) -> Option<&NetworkEntry> {
        self.networks.get(id)
    }

    /// Names of the overlays that Docker networks of this host are on.
    pub fn overlays(&self) -> impl Iterator<Item = &str> {
        let entries = self.networks.values();
        entries.map(|entry| entry.wish.create.name.as_str())
    }

    /// Whether any Docker network of this host is on that overlay, and as what it was made.
    pub fn wish_of(&self, name: &str) -> Option<&Wish> {
        self.networks
            .values()
            .map(|entry| &entry.wish)
            .find(|wish| wish.create.name == name)
    }

    /// Docker removed a network. An unknown one is fine.
    pub fn remove_network(&mut self, id: &str) -> Option<NetworkEntry> {
        self.networks.remove(id)
    }

    /// Docker made an endpoint.
    pub fn add_endpoint(&mut self, id: &str, entry: EndpointEntry) {
        self.endpoints.insert(id.to_owned(), entry);
    }

    /// A Docker endpoint.
    pub fn endpoint(&self, id: &str) -> Option<&EndpointEntry> {
        self.endpoints.get(id)
    }

    /// All endpoints by Docker's id.
    pub fn endpoints(&self) -> impl Iterator<Item = (&String, &EndpointEntry)> {
        self.endpoints.iter()
    }

    /// Docker asked for an endpoint's interface.
    pub fn note_joined(&mut self, id: &str) {
        if let Some(entry) = self.endpoints.get_mut(id) {
            entry.joined = true;
        }
    }

    /// Docker removed an endpoint, and is about to give its addresses back. An unknown one is fine.
    pub fn remove_endpoint(&mut self, id: &str, now: UnixSecs) -> Option<EndpointEntry> {
        let entry = self.endpoints.remove(id)?;
        let own = |ip: &IpAddr| entry.endpoint.ips.contains(ip);
        for pool in self.pools.values_mut() {
            let since = pool.held_since.iter_mut();
            for (_, since) in since.filter(|(ip, _)| own(ip)) {
                *since = now;
            }
        }
        Some(entry)
    }

    /// Whether Docker has anything that it would call for when it starts.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.endpoints.is_empty()
    }

    /// Every address that Docker has, with the name of its overlay.
    pub fn held(&self) -> impl Iterator<Item = (&str, IpAddr)> {
        self.pools.values().flat_map(|pool| {
            let name = pool.network.as_deref();
            name.into_iter()
                .flat_map(|name| pool.held.iter().map(move |ip| (name, *ip)))
        })
    }

    /// What is older than `before` and not among what Docker says it has.
    pub fn forgotten(&self, known: &Known, before: UnixSecs) -> Forgotten {
        let old = |since: UnixSecs| since < before;
        let networks: Vec<String> = (self.networks.iter())
            .filter(|(id, entry)| old(entry.since) && !known.networks.contains(*id))
            .map(|(id, _)| id.clone())
            .collect();
        let endpoints = (self.endpoints.iter())
            .filter(|(id, entry)| old(entry.since) && !known.endpoints.contains(*id))
            .map(|(id, _)| id.clone());
        let left = |name: &str| {
            let mut left = self.networks.iter();
            left.any(|(id, entry)| entry.wish.create.name == name && !networks.contains(id))
        };
        let pools = (self.pools.iter())
            .filter(|(_, pool)| old(pool.since) && !pool.network.as_deref().is_some_and(left))
            .map(|(id, _)| id.clone());
        let used: BTreeSet<IpAddr> = (self.endpoints.values())
            .flat_map(|entry| entry.endpoint.ips.iter().copied())
            .collect();
        let addresses = self.pools.iter().flat_map(|(id, pool)| {
            let held = pool.held_since.iter();
            let left = held.filter(|(ip, since)| old(**since) && !used.contains(*ip));
            left.map(|(ip, _)| (id.clone(), *ip))
        });
        Forgotten {
            addresses: addresses.collect(),
            endpoints: endpoints.collect(),
            pools: pools.collect(),
            networks,
        }
    }
}

fn number_of(id: &str) -> Option<u64> {
    id.rsplit_once('#')?.1.parse().ok()
}

/// What the Docker daemon has of this driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Network ids.
    pub networks: BTreeSet<String>,
    /// Endpoint ids.
    pub endpoints: BTreeSet<String>,
}

/// What it doesn't know of any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Docker network ids.
    pub networks: Vec<String>,
    /// Docker endpoint ids.
    pub endpoints: Vec<String>,
    /// Pools.
    pub pools: Vec<String>,
    /// Addresses that no endpoint has, with their pools.
    pub addresses: Vec<(String, IpAddr)>,
}

#[cfg(test)]
mod tests;
