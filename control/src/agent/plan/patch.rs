//! What changes in the plan when endpoints of other hosts come, change or go, and nothing else does: most changes of a large
//! cluster. Looked up by the addresses that they are about, not found by planning all of it anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use weft_wire::{MacAddr, Vni};

use super::{Here, LocalPort, Part, Wanted, WantedPlace, behind, flood};
use crate::model::{Change, ClusterMap, Endpoint, Key, Network, NetworkId, NodeId, Object};

/// What has changed since the last plan.
#[derive(Clone, Debug, Default)]
pub(in crate::agent) struct Touched {
    /// More than endpoints of other hosts.
    everything: bool,
    /// Addresses that such endpoints have or had.
    networks: BTreeMap<NetworkId, Addresses>,
}

#[derive(Clone, Debug, Default)]
struct Addresses {
    macs: BTreeSet<MacAddr>,
    ips: BTreeSet<IpAddr>,
}

impl Touched {
    /// Nothing was planned yet.
    pub(in crate::agent) fn everything() -> Self {
        Self {
            everything: true,
            ..Self::default()
        }
    }

    /// It has to be planned anew.
    pub(in crate::agent) fn touch_everything(&mut self) {
        self.everything = true;
        self.networks.clear();
    }

    /// A change is about to come to `map`, the agent of `node`'s.
    pub(in crate::agent) fn note(&mut self, (map, node): (&ClusterMap, &NodeId), change: &Change) {
        let (id, now) = match change {
            Change::Put(Object::Endpoint(endpoint)) => (&endpoint.id, Some(endpoint)),
            Change::Delete(Key::Endpoint(id)) => (id, None),
            // Nothing is forwarded by these.
            Change::Put(Object::Block(_) | Object::Credentials(..) | Object::Session(..))
            | Change::Delete(Key::Block(..) | Key::Credentials(_) | Key::Session(_)) => return,
            Change::Put(Object::Node(_) | Object::Network(_) | Object::Router(_))
            | Change::Delete(Key::Node(_) | Key::Network(_) | Key::Router(_)) => {
                return self.touch_everything();
            }
        };
        let before = map.endpoints.get(id).map(|before| &before.object);
        for endpoint in before.into_iter().chain(now) {
            self.touch(endpoint, node);
        }
    }

    fn touch(&mut self, endpoint: &Endpoint, node: &NodeId) {
        if endpoint.node == *node {
            return self.touch_everything();
        }
        if self.everything {
            return;
        }
        let of_network = self.networks.entry(endpoint.network.clone()).or_default();
        of_network.macs.insert(endpoint.mac);
        of_network.ips.extend(&endpoint.ips);
    }

    /// Whose endpoints changed.
    pub(in crate::agent) fn networks(&self) -> impl Iterator<Item = &NetworkId> {
        self.networks.keys()
    }
}

/// A part of what is wanted: `None` of what isn't any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::agent) struct Patch {
    /// Owned addresses with their epoch.
    pub(in crate::agent) macs: BTreeMap<(Vni, MacAddr), Option<(WantedPlace, u64)>>,
    /// Whose MAC each address has.
    pub(in crate::agent) neighbors: BTreeMap<(Vni, IpAddr), Option<MacAddr>>,
    /// MACs of endpoints on other hosts of plain L2 networks, and whether there still is one.
    pub(in crate::agent) remote_stations: BTreeMap<(Vni, MacAddr), bool>,
}

/// What becomes of `wanted`, which was planned before; `None` if all has to be planned anew.
pub(in crate::agent) fn patch(
    part: Part<'_>,
    here: &Here<'_>,
    ports: &[LocalPort<'_>],
    (wanted, touched): (&Wanted, &Touched),
) -> Option<Patch> {
    if touched.everything {
        return None;
    }
    let mut patch = Patch::default();
    for (id, addresses) in &touched.networks {
        let network = part.map.network(id).filter(|_| part.has(id));
        if let Some(network) = network {
            let of_network = (network, addresses);
            patch_network(part, here, (ports, wanted), of_network, &mut patch)?;
        }
    }
    Some(patch)
}

fn patch_network(
    part: Part<'_>,
    here: &Here<'_>,
    (ports, wanted): (&[LocalPort<'_>], &Wanted),
    (network, addresses): (&Network, &Addresses),
    patch: &mut Patch,
) -> Option<()> {
    let planned = wanted.networks.get(&network.vni)?;
    let strangers = |endpoint: &&Endpoint| endpoint.node != *here.node;
    let nodes = part.map.endpoints.nodes_of_network(&network.id);
    let nodes = nodes.filter(|node| *node != here.node);
    let members = nodes.filter_map(|node| behind(part.map, &wanted.peers, node));
    if planned.id != network.id || planned.flood != flood(network, &wanted.peers, members) {
        return None;
    }
    // A port of this host comes before what the map says.
    let is_ours = |port: &LocalPort<'_>| {
        let has = port.ips.iter().any(|ip| addresses.ips.contains(ip));
        port.vni == network.vni && (has || addresses.macs.contains(&port.mac))
    };
    if ports.iter().any(is_ours) {
        return None;
    }
    let place = |endpoint: &Endpoint| wanted.place_of(part.map, (network, endpoint));
    let endpoints = &part.map.endpoints;
    for mac in &addresses.macs {
        let holders = endpoints.with_mac(&network.id, *mac).filter(strangers);
        let holders = holders.filter_map(|one| Some((place(one)?, one.epoch)));
        // The last of them, as when all is planned.
        let holder = holders.last();
        let key = (network.vni, *mac);
        if network.is_plain_l2() {
            patch.remote_stations.insert(key, holder.is_some());
        } else {
            let owner = holder.map(|(place, epoch)| (WantedPlace::Peer(place), epoch));
            patch.macs.insert(key, owner);
        }
    }
    if !network.is_plain_l2() {
        for ip in &addresses.ips {
            let holders = endpoints.with_ip(&network.id, *ip).filter(strangers);
            let holders = holders.filter(|one| place(one).is_some());
            let mac = holders.last().map(|one| one.mac);
            patch.neighbors.insert((network.vni, *ip), mac);
        }
    }
    Some(())
}

impl Wanted {
    /// Carries it out.
    pub(in crate::agent) fn patch(&mut self, patch: Patch) {
        for (key, owner) in patch.macs {
            match owner {
                Some(owner) => self.macs.insert(key, owner),
                None => self.macs.remove(&key),
            };
        }
        for (key, mac) in patch.neighbors {
            match mac {
                Some(mac) => self.neighbors.insert(key, mac),
                None => self.neighbors.remove(&key),
            };
        }
        for (key, is_there) in patch.remote_stations {
            if is_there {
                self.remote_stations.insert(key);
            } else {
                self.remote_stations.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
