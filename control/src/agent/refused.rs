//! Endpoints that the cluster doesn't take: while no controller answered, somebody else got their name or MAC, or their
//! address. A full report comes back with them.
//!
//! A port that is plugged stays, and `weft ports` says what is wrong with it: its container may have work to do. An attach
//! under way isn't worth that: it fails, and says who is in its place.

use std::collections::BTreeMap;

use super::{ApiError, Inner};
use crate::channel::Refusal;
use crate::model::{Endpoint, EndpointId};

impl Inner {
    /// What came of a full report. Returns the ports that have just become refused, by name, and why.
    pub(super) fn note_rejected(
        &mut self,
        rejected: Vec<(EndpointId, Refusal)>,
    ) -> Vec<(String, Refusal)> {
        let mut news = Vec::new();
        let ports = self.ports.iter_mut();
        let mut before: BTreeMap<_, _> = ports
            .filter_map(|(id, port)| Some((id.clone(), port.trouble.take()?)))
            .collect();
        for pending in self.pending.values_mut() {
            pending.refused = None;
        }
        self.warnings.clear();
        for (id, refusal) in rejected {
            if let Some(pending) = self.pending.get_mut(&id) {
                pending.refused = Some(refusal);
                continue;
            }
            let Some(port) = self.ports.get_mut(&id) else {
                continue;
            };
            let name = port.record.endpoint.name.clone();
            let trouble = format!("refused: {}", refusal.message);
            self.warnings.push(format!(
                "port {name} is not known to the cluster: {}",
                refusal.message
            ));
            if before.remove(&id).as_ref() != Some(&trouble) {
                news.push((name, refusal));
            }
            port.trouble = Some(trouble);
        }
        news
    }

    /// Whether the cluster doesn't take something of this node.
    pub(super) fn is_any_refused(&self) -> bool {
        let mut ports = self.ports.values();
        let mut pending = self.pending.values();
        ports.any(|port| port.trouble.is_some()) || pending.any(|pending| pending.refused.is_some())
    }

    /// Why the cluster doesn't take an endpoint that is about to be a port.
    pub(super) fn refusal_of(&self, id: &EndpointId) -> Option<&Refusal> {
        self.pending.get(id)?.refused.as_ref()
    }

    /// Why an endpoint whose announcement nobody answered must not become a port.
    pub(super) fn unfit_unheard(&self, endpoint: &Endpoint) -> Option<ApiError> {
        if let Some(refusal) = self.refusal_of(&endpoint.id) {
            return Some(refusal.clone().into());
        }
        let ip = self.foreign_address(endpoint)?;
        let message = format!(
            "{ip} isn't in an address block of this node any more, and no controller answers to claim it for {}",
            endpoint.name
        );
        Some(ApiError::unavailable("offline", message).hint(
            "leave out --ip to take an address of this node's own blocks, or see `weft status`",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::claims::tests::{endpoint, inner};
    use crate::agent::state::tests::record;
    use crate::agent::{Pending, Port};
    use weft_wire::PortId;

    fn pending(inner: &mut Inner, endpoint: &Endpoint) {
        let pending = Pending {
            endpoint: endpoint.clone(),
            netns_id: (0, 0),
            attachment: None,
            complete: true,
            refused: None,
        };
        inner.pending.insert(endpoint.id.clone(), pending);
    }

    fn mac_taken() -> Refusal {
        Refusal::new("mac_taken", "MAC 02:00:00:00:00:01 is taken by c9 on h2")
    }

    #[test]
    fn what_a_full_report_finds_refused_while_it_is_connected_is_no_port_unless_it_is_taken_later()
    {
        let new = endpoint("a", "10.0.0.5");
        let mut inner = inner(&[]);
        pending(&mut inner, &new);
        // Nobody heard of it, and nobody said anything against it: the next full report tells.
        assert!(inner.unfit_unheard(&new).is_none());
        assert_eq!(
            inner.note_rejected(vec![(new.id.clone(), mac_taken())]),
            vec![]
        );
        assert_eq!(inner.refusal_of(&new.id), Some(&mac_taken()));
        let why = inner.unfit_unheard(&new).unwrap();
        assert_eq!((why.status, why.reply.code.as_str()), (409, "mac_taken"));
        assert!(why.reply.message.contains("c9 on h2"), "{why:?}");
        // It is asked for again, and isn't missed in the map meanwhile.
        let us = super::super::claims::tests::node("us");
        assert!(inner.is_any_refused() && !inner.differs(&us));
        inner.note_rejected(Vec::new());
        assert!(!inner.is_any_refused() && inner.unfit_unheard(&new).is_none());
    }

    #[test]
    fn a_port_that_is_refused_stays_and_says_so_once() {
        let port = Port {
            record: record(),
            id: PortId(1),
            fds: Vec::new(),
            relay: None,
            trouble: None,
        };
        let (id, name) = (port.record.endpoint.id.clone(), "c1".to_owned());
        let mut inner = inner(&[]);
        inner.ports.insert(id.clone(), port);
        let rejected = vec![(id.clone(), mac_taken())];
        let news = inner.note_rejected(rejected.clone());
        assert_eq!(news, vec![(name, mac_taken())]);
        assert_eq!(inner.note_rejected(rejected), vec![]);
        let trouble = inner.ports[&id].trouble.clone().unwrap();
        assert!(trouble.starts_with("refused: MAC"), "{trouble}");
        assert_eq!(inner.warnings.len(), 1, "{:?}", inner.warnings);
        inner.note_rejected(Vec::new());
        assert!(inner.ports[&id].trouble.is_none() && inner.warnings.is_empty());
    }
}
