//! Who is called what: an index over the endpoints of all networks, made anew from the cluster map and the ports of this
//! host whenever one of them changes; of a single network, when only endpoints of other hosts did. Pure.
//!
//! An asker is known by the network its question comes from and its MAC, which the switch has checked. What it may know is
//! what is on the networks that its namespace is connected to, the one it asked on first.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_wire::MacAddr;

use crate::model::{ClusterMap, Endpoint, Network, NetworkId};

/// A port of this host, as far as names need to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalName<'a> {
    /// Its endpoint.
    pub(crate) endpoint: &'a Endpoint,
    /// Device and inode of its namespace.
    pub(crate) netns: (u64, u64),
}

/// A name's owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Endpoint name in lower case.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) ips: Vec<IpAddr>,
}

/// The names of one network.
#[derive(Clone, Debug, Default)]
pub(crate) struct NetworkNames {
    /// Its name in lower case.
    pub(crate) name: String,
    /// What isn't known isn't asked elsewhere either.
    internal: bool,
    subnets: Vec<IpNet>,
    hosts: Vec<Host>,
    /// Names and aliases in lower case, to places in `hosts`.
    by_name: HashMap<String, Vec<usize>>,
    by_ip: HashMap<IpAddr, usize>,
}

impl NetworkNames {
    fn new(network: &Network) -> Self {
        Self {
            name: network.name.to_ascii_lowercase(),
            internal: network.internal,
            subnets: network.subnets.iter().map(|subnet| subnet.cidr).collect(),
            ..Self::default()
        }
    }

    fn add(&mut self, endpoint: &Endpoint) {
        let host = Host {
            name: endpoint.name.to_ascii_lowercase(),
            ips: endpoint.ips.clone(),
        };
        let place = self.hosts.len();
        let aliases = endpoint
            .aliases
            .iter()
            .map(|alias| alias.to_ascii_lowercase());
        let names: BTreeSet<String> = aliases.chain([host.name.clone()]).collect();
        for name in names {
            self.by_name.entry(name).or_default().push(place);
        }
        for ip in &host.ips {
            self.by_ip.insert(*ip, place);
        }
        self.hosts.push(host);
    }

    /// All that are called `name` (lower case).
    pub(crate) fn hosts<'a>(
        &'a self,
        name: &str,
    ) -> impl ExactSizeIterator<Item = &'a Host> + use<'a> {
        let places = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        places.iter().map(|place| &self.hosts[*place])
    }

    /// Who has that address.
    pub(crate) fn owner(&self, ip: IpAddr) -> Option<&Host> {
        self.by_ip.get(&ip).map(|place| &self.hosts[*place])
    }

    /// Whether the address is one of this network's.
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.contains(&ip))
    }
}

/// The index.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    networks: BTreeMap<NetworkId, Arc<NetworkNames>>,
    /// The networks of the namespace that has that MAC on that network, by name.
    shared: Arc<HashMap<(NetworkId, MacAddr), Vec<NetworkId>>>,
}

impl Names {
    /// Makes the index. `elsewhere` are the endpoints of other hosts, `here` those of this one: what the map says of
    /// those is late.
    pub(crate) fn new<'a>(
        map: &ClusterMap,
        elsewhere: impl Iterator<Item = &'a Endpoint>,
        here: &[LocalName<'a>],
    ) -> Self {
        let networks = map.networks.values().map(|network| &network.object);
        let mut networks: BTreeMap<NetworkId, NetworkNames> = networks
            .map(|network| (network.id.clone(), NetworkNames::new(network)))
            .collect();
        for endpoint in elsewhere.chain(here.iter().map(|local| local.endpoint)) {
            if let Some(network) = networks.get_mut(&endpoint.network) {
                network.add(endpoint);
            }
        }
        let mut of_namespace: HashMap<(u64, u64), BTreeSet<(&str, &NetworkId)>> = HashMap::new();
        for local in here {
            let id = &local.endpoint.network;
            if let Some(network) = networks.get(id) {
                let place = of_namespace.entry(local.netns).or_default();
                place.insert((&network.name, id));
            }
        }
        let shared = here.iter().filter_map(|local| {
            let networks = of_namespace.get(&local.netns)?;
            let ids = networks.iter().map(|(_, id)| (*id).clone()).collect();
            let endpoint = local.endpoint;
            Some(((endpoint.network.clone(), endpoint.mac), ids))
        });
        let shared = Arc::new(shared.collect());
        let networks = networks.into_iter();
        let networks = networks.map(|(id, names)| (id, Arc::new(names))).collect();
        Self { networks, shared }
    }

    /// The same index with a network's names made anew: nothing but its endpoints on other hosts has changed since.
    pub(crate) fn renew<'a>(
        &mut self,
        network: &Network,
        elsewhere: impl Iterator<Item = &'a Endpoint>,
        here: &[LocalName<'a>],
    ) {
        let mut names = NetworkNames::new(network);
        let here = here.iter().map(|local| local.endpoint);
        let here = here.filter(|endpoint| endpoint.network == network.id);
        elsewhere
            .chain(here)
            .for_each(|endpoint| names.add(endpoint));
        self.networks.insert(network.id.clone(), Arc::new(names));
    }

    /// What an asker may know. One whose MAC is no port's asks for the network alone.
    pub(crate) fn seen_by(&self, network: &NetworkId, mac: MacAddr) -> View<'_> {
        let others = self.shared.get(&(network.clone(), mac));
        let others = others.into_iter().flatten().filter(|id| *id != network);
        let networks: Vec<&NetworkNames> = std::iter::once(network)
            .chain(others)
            .filter_map(|id| self.networks.get(id).map(Arc::as_ref))
            .collect();
        View { networks }
    }
}

/// The networks that an asker shares, the one it asked on first.
#[derive(Clone, Debug)]
pub(crate) struct View<'a> {
    /// In the order in which they are asked.
    pub(crate) networks: Vec<&'a NetworkNames>,
}

impl<'a> View<'a> {
    /// Whether what isn't known here may be asked elsewhere: one of the networks has a way out.
    pub(crate) fn has_way_out(&self) -> bool {
        self.networks.iter().any(|network| !network.internal)
    }

    /// Every network on which `name` (lower case, without the last dot) is known, and what it is called there: `NAME` on
    /// all of them, `NAME.NETWORK` on that one.
    pub(crate) fn places<'n>(
        &self,
        name: &'n str,
    ) -> impl Iterator<Item = (&'a NetworkNames, &'n str)> {
        let known = move |network: &'a NetworkNames, name: &'n str| {
            (network.hosts(name).len() > 0).then_some((network, name))
        };
        self.networks
            .clone()
            .into_iter()
            .filter_map(move |network| {
                known(network, name).or_else(|| {
                    let name = name
                        .strip_suffix(network.name.as_str())?
                        .strip_suffix('.')?;
                    known(network, name)
                })
            })
    }
}

#[cfg(test)]
pub(crate) mod tests;
