//! Addresses that a port of this host used or wanted although they are another endpoint's: said on the log and in the
//! status, with both holders' names, for as long as it goes on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::warn;
use weft_wire::PortId;

use super::views::node_name;
use super::{Agent, Inner};
use crate::model::EndpointId;

/// How long a claim is shown after it was last made.
const SHOWN: Duration = Duration::from_secs(60);
/// Claims that are kept; who tries all addresses of a network is shown by some.
const MOST: usize = 64;

/// The claims of late.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    seen: BTreeMap<(EndpointId, IpAddr), Instant>,
}

impl Duplicates {
    /// Notes a claim; false if it was known.
    fn note(&mut self, claimant: EndpointId, ip: IpAddr, now: Instant) -> bool {
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
    /// A port said that it has, or wants, an address that isn't its own.
    pub(super) fn note_claim_of(&self, port: PortId, ip: IpAddr) {
        let mut inner = self.inner();
        let claimant = inner.ports.values().find(|candidate| candidate.id == port);
        let Some(claimant) = claimant.map(|port| port.record.endpoint.id.clone()) else {
            return;
        };
        let Some(sentence) = inner.sentence(&claimant, ip) else {
            return;
        };
        if inner.duplicates.note(claimant, ip, Instant::now()) {
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
    fn sentence(&self, claimant: &EndpointId, ip: IpAddr) -> Option<String> {
        let record = &self.ports.get(claimant)?.record;
        let mine = &record.endpoint;
        let ports = self.ports.values().map(|port| &port.record.endpoint);
        let others = ports.chain(self.map.endpoints_of(&mine.network));
        let owner = others
            .filter(|other| other.network == mine.network && other.id != mine.id)
            .find(|other| other.ips.contains(&ip))?;
        if mine.ips.contains(&ip) {
            return None;
        }
        Some(format!(
            "duplicate address {ip} on network {}: it is endpoint {}'s (node {}), and port {} in {} uses it too",
            record.network_name,
            owner.name,
            node_name(&self.map, &owner.node),
            mine.name,
            record.netns,
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_new_once_and_forgotten_when_it_ends_and_not_all_are_kept() {
        let mut duplicates = Duplicates::default();
        let id = EndpointId("e".into());
        let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
        let begin = Instant::now();
        assert!(duplicates.note(id.clone(), ip(1), begin));
        assert!(!duplicates.note(id.clone(), ip(1), begin + SHOWN / 2));
        assert!(!duplicates.note(id.clone(), ip(1), begin + SHOWN));
        assert!(duplicates.note(id.clone(), ip(1), begin + SHOWN * 2));
        for last in 2..200 {
            duplicates.note(id.clone(), ip(last), begin + SHOWN * 2);
        }
        assert_eq!(duplicates.seen.len(), MOST);
    }
}
