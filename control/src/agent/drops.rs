//! `weft drops`: why frames and packets went no further on this host, with cause and cure.

use std::collections::BTreeMap;

use weft_switch::DropReason;
use weft_tunnel::TunnelDrop;

use super::Agent;
use crate::{api, egress};

/// Which part of the host counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// The switch, at a port or an uplink.
    Switch,
    /// The tunnel at a peer, where the switch counts as well.
    Peer,
    /// The way out of a network.
    Egress,
}

impl Counter {
    fn cause(self, reason: &str) -> String {
        let by_switch = || {
            let mut all = DropReason::ALL.iter();
            all.find(|known| known.name() == reason)
                .map(|known| known.description())
        };
        let by_tunnel = || {
            let mut all = TunnelDrop::ALL.iter();
            all.find(|known| known.name() == reason)
                .map(|known| known.description())
        };
        let cause = match self {
            Self::Switch => by_switch(),
            Self::Peer => by_tunnel().or_else(by_switch),
            Self::Egress => egress::cause_of(reason),
        };
        cause.unwrap_or_default().trim().to_owned()
    }

    fn rows(
        self,
        at: (&str, &str, Option<&str>),
        counts: &BTreeMap<String, u64>,
    ) -> impl Iterator<Item = api::Drops> {
        let (kind, name, network) = at;
        let counts = counts.iter().filter(|(_, count)| **count > 0);
        counts.map(move |(reason, count)| api::Drops {
            reason: reason.clone(),
            count: *count,
            kind: kind.to_owned(),
            name: name.to_owned(),
            network: network.map(str::to_owned),
            cause: self.cause(reason),
        })
    }
}

impl Agent {
    /// `weft drops`: the most frequent first.
    pub(super) fn drops(&self) -> Vec<api::Drops> {
        let mut drops = Vec::new();
        for port in self.ports() {
            let at = ("port", port.name.as_str(), Some(port.network.as_str()));
            drops.extend(Counter::Switch.rows(at, &port.traffic.drops));
        }
        for uplink in self.uplinks() {
            let at = ("uplink", uplink.dev.as_str(), Some(uplink.network.as_str()));
            drops.extend(Counter::Switch.rows(at, &uplink.traffic.drops));
        }
        let peers = self.peers();
        for peer in &peers.peers {
            let address = peer.address.to_string();
            let name = match peer.kind.as_str() {
                "static" => &address,
                _ => &peer.name,
            };
            drops.extend(Counter::Peer.rows(("peer", name, None), &peer.traffic.drops));
        }
        let last = peers.strangers.last.map(|last| last.to_string());
        let name = last.unwrap_or_default();
        drops.extend(Counter::Peer.rows(("stranger", &name, None), &peers.strangers.drops));
        for way in self.outside.view() {
            let at = ("egress", way.network.as_str(), Some(way.network.as_str()));
            drops.extend(Counter::Egress.rows(at, &way.refused));
        }
        drops.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
        drops
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_cause_and_those_that_never_occurred_no_row() {
        for reason in DropReason::ALL {
            let cause = Counter::Switch.cause(reason.name());
            assert!(!cause.is_empty() && !cause.starts_with(' '), "{reason:?}");
        }
        for reason in TunnelDrop::ALL {
            assert_eq!(Counter::Peer.cause(reason.name()), reason.description());
        }
        // The switch counts at peers as well.
        assert!(Counter::Peer.cause("split_horizon").contains("tunnel"));
        assert!(Counter::Egress.cause("egress_off").contains("no way out"));
        assert_eq!(Counter::Switch.cause("of_a_newer_agent"), "");
        let counts = [("no_route".to_owned(), 3), ("runt".to_owned(), 0)].into();
        let at = ("port", "web", Some("blue"));
        let rows: Vec<_> = Counter::Switch.rows(at, &counts).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].reason.as_str(), rows[0].count), ("no_route", 3));
        assert!(rows[0].cause.contains("router"), "{rows:?}");
    }
}
