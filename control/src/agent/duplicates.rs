//! Addresses that somebody on this host, or behind a link of it, used or wanted although they are another endpoint's:
//! said on the log and in the status, with both holders' names, for as long as it goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::warn;
use weft_switch::Claim;
use weft_wire::{MacAddr, PortId};

use super::uplink::UplinkRecord;
use super::views::node_name;
use super::{Agent, Inner};
use crate::model::{Endpoint, EndpointId, NetworkId};

/// How long a claim is shown after it was last made.
const SHOWN: Duration = Duration::from_secs(60);
/// Claims that are kept; who tries all addresses of a network is shown by some.
const MOST: usize = 64;

/// Who claims an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimant {
    /// The port of that endpoint.
    Port(EndpointId),
    /// A station of the LAN behind a link of this host.
    Station(UplinkRecord, MacAddr),
}

/// The claims of late.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    seen: BTreeMap<(Claimant, IpAddr), Instant>,
}

impl Duplicates {
    /// Notes a claim; false if it was known.
    fn note(&mut self, claimant: Claimant, ip: IpAddr, now: Instant) -> bool {
        self.forget(now);
        let key = (claimant, ip);
        if !self.seen.contains_key(&key) && self.seen.len() >= MOST {
            return false;
        }
        self.seen.insert(key, now).is_none()
    }

    fn forget(&mut self, now: Instant) {
        self.seen
            .retain(|_, last| now.saturating_duration_since(*last) < SHOWN);
    }
}

impl Agent {
    /// Somebody behind a port said that it has, or wants, an address that isn't its own.
    pub(super) fn note_claim(&self, port: PortId, claim: Claim) {
        let mut inner = self.inner();
        let of_port = inner.ports.values().find(|candidate| candidate.id == port);
        let of_port = of_port.map(|port| Claimant::Port(port.record.endpoint.id.clone()));
        let claimant = of_port.or_else(|| {
            let fabric = self.fabric();
            let record = fabric.uplink_behind(port)?.clone();
            Some(Claimant::Station(record, claim.mac))
        });
        let Some(claimant) = claimant else { return };
        let Some(sentence) = inner.sentence(&claimant, claim.ip) else {
            return;
        };
        if inner.duplicates.note(claimant, claim.ip, Instant::now()) {
            warn!("{sentence}");
        }
    }
}

impl Inner {
    /// The claims of late, as sentences.
    pub(super) fn duplicate_warnings(&mut self) -> Vec<String> {
        self.duplicates.forget(Instant::now());
        let claims = self.duplicates.seen.keys();
        claims
            .filter_map(|(claimant, ip)| self.sentence(claimant, *ip))
            .collect()
    }

    /// Names both holders; `None` when there is no other, or the address is the claimant's by now.
    fn sentence(&self, claimant: &Claimant, ip: IpAddr) -> Option<String> {
        let (network, name, claims, mine) = match claimant {
            Claimant::Port(id) => {
                let record = &self.ports.get(id)?.record;
                let endpoint = &record.endpoint;
                let claims = format!("port {} in {}", endpoint.name, record.netns);
                (
                    &endpoint.network,
                    &record.network_name,
                    claims,
                    Some(endpoint),
                )
            }
            Claimant::Station(uplink, mac) => {
                let claims = format!("{mac} on the LAN behind {}", uplink.dev);
                (&uplink.network, &uplink.network_name, claims, None)
            }
        };
        if mine.is_some_and(|mine| mine.ips.contains(&ip)) {
            return None;
        }
        let owner = self.owner_of(network, ip)?;
        Some(format!(
            "duplicate address {ip} on network {name}: it is endpoint {}'s (node {}), and {claims} uses it too",
            owner.name,
            node_name(&self.map, &owner.node),
        ))
    }

    /// Who has an address, as this node's ports say, and else the cluster.
    fn owner_of<'a>(&'a self, network: &'a NetworkId, ip: IpAddr) -> Option<&'a Endpoint> {
        let ports = self.ports.values().map(|port| &port.record.endpoint);
        let mut all = ports.chain(self.map.endpoints_of(network));
        all.find(|endpoint| endpoint.network == *network && endpoint.ips.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_new_once_and_forgotten_when_it_ends_and_not_all_are_kept() {
        let mut duplicates = Duplicates::default();
        let claimant = Claimant::Port(EndpointId("e".into()));
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let begin = Instant::now();
        assert!(duplicates.note(claimant.clone(), ip(1), begin));
        assert!(!duplicates.note(claimant.clone(), ip(1), begin + SHOWN / 2));
        assert!(!duplicates.note(claimant.clone(), ip(1), begin + SHOWN));
        assert!(duplicates.note(claimant.clone(), ip(1), begin + SHOWN * 3));
        for last in 2..200 {
            duplicates.note(claimant.clone(), ip(last), begin + SHOWN * 3);
        }
        assert_eq!(duplicates.seen.len(), MOST);
    }
}
