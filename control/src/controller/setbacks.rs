//! Agents that know later changes than the store has: it was set back to an older copy, or they lie. That begins a new
//! life of the store and costs every agent its whole map, so one node isn't believed it again and again.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::channel::Refusal;
use crate::model::{NodeId, Revision};

/// An operator may put back a copy, and then another one.
const BELIEVED: usize = 3;
/// Within this time.
const WINDOW: Duration = Duration::from_secs(3600);

/// Code of the refusal of an agent that isn't believed any more.
pub(super) const SET_BACK: &str = "set_back";

/// When nodes said it.
#[derive(Debug, Default)]
pub(super) struct SetBacks {
    told: Mutex<BTreeMap<NodeId, Vec<Instant>>>,
}

impl SetBacks {
    /// A node says that it has revision `have`, and the store isn't as far.
    ///
    /// # Errors
    /// `set_back`: it has said so too often.
    pub(super) fn believe(
        &self,
        node: &NodeId,
        have: Revision,
        now: Instant,
    ) -> Result<(), Refusal> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < WINDOW);
            !times.is_empty()
        });
        let times = told.entry(node.clone()).or_default();
        if times.len() < BELIEVED {
            times.push(now);
            return Ok(());
        }
        Err(Refusal::new(
            SET_BACK,
            format!(
                "node {node} has a cluster map of revision {have} again, which the store never had, or has no more"
            ),
        )
        .hint("if the store wasn't set back to an older copy, don't trust that host: remove it with `weft nodes rm`; if it was, move the map.cbor of its agent's state directory away"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_says_it_too_often_is_not_believed_for_a_while_and_others_are() {
        let (set_backs, start) = (SetBacks::default(), Instant::now());
        let says = |node: &str, secs| {
            let now = start + Duration::from_secs(secs);
            set_backs.believe(&NodeId(node.to_owned()), 7, now).is_ok()
        };
        assert!((0..3).all(|secs| says("liar", secs)));
        assert!(!says("liar", 4) && !says("liar", 3599));
        assert!(says("other", 3599));
        // The first time is an hour ago; that it wasn't believed doesn't count.
        assert!(says("liar", 3600));
        assert!(!says("liar", 3600));
        // Nobody is remembered for longer.
        assert!(says("third", 10_000));
        assert_eq!(set_backs.told.lock().unwrap().len(), 1);
    }
}
