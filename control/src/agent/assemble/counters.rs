//! What switch and tunnels have counted and learned.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_switch::FdbRow;
use weft_wire::{PeerId, PortId};

use super::Fabric;
use crate::api::{Strangers, Traffic};

impl Fabric {
    /// The forwarding database.
    pub(in crate::agent) fn fdb(&self) -> Vec<FdbRow> {
        self.switch.fdb()
    }

    /// The underlay address of a peer.
    pub(in crate::agent) fn peer_address(&self, id: PeerId) -> Option<IpAddr> {
        self.peer_ids
            .iter()
            .find(|(_, of)| **of == id)
            .map(|(address, _)| *address)
    }

    /// Counters of a port.
    pub(in crate::agent) fn port_traffic(&self, id: PortId) -> Traffic {
        let Some(stats) = self.switch.port_stats(id) else {
            return Traffic::default();
        };
        Traffic {
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            drops: named(
                stats
                    .drops
                    .iter()
                    .map(|(reason, count)| (reason.name(), count)),
            ),
        }
    }

    /// Counters of a peer: what the tunnel and what the switch decided about its frames.
    pub(in crate::agent) fn peer_traffic(&self, address: IpAddr) -> Traffic {
        let Some(id) = self.peer_ids.get(&address).copied() else {
            return Traffic::default();
        };
        let Some(stats) = self.peers.stats(id) else {
            return Traffic::default();
        };
        let mut drops = named(
            stats
                .drops
                .iter()
                .map(|(reason, count)| (reason.name(), count)),
        );
        let switch = self.switch.peer_stats(id);
        for (name, count) in named(switch.drops.iter().map(|(why, count)| (why.name(), count))) {
            *drops.entry(name).or_default() += count;
        }
        Traffic {
            rx_frames: stats.rx_frames,
            rx_bytes: stats.rx_bytes,
            tx_frames: stats.tx_frames,
            tx_bytes: stats.tx_bytes,
            drops,
        }
    }

    /// What came from addresses that are no peer.
    pub(in crate::agent) fn strangers(&self) -> Strangers {
        let stats = self.peers.stranger_stats();
        Strangers {
            drops: named(
                stats
                    .drops
                    .iter()
                    .map(|(reason, count)| (reason.name(), count)),
            ),
            last: stats.last,
        }
    }
}

fn named(drops: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<String, u64> {
    drops
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count))
        .collect()
}
