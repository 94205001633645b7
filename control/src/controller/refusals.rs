//! What was refused on the control port: counted by reason, and told on the log at a bounded rate. Strangers decide how often
//! they call; they don't decide how long the log gets.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::channel::{FrameError, Refusal};

/// A reason is told at once, and again at most this often, with how many there were meanwhile.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// No QUIC and TLS handshake came about: garbage, another cluster's or an ended certificate.
pub(super) const HANDSHAKE: &str = "handshake";
/// A handshake or the message after it wasn't there in time.
pub(super) const SLOW: &str = "slow";
/// There was no place for another one.
pub(super) const CROWDED: &str = "crowded";
/// It came without a certificate and didn't want to join, or with one that isn't a node's.
pub(super) const NO_MEMBER: &str = "no_member";
/// What it said is no message, or too long.
pub(super) const BAD_MESSAGE: &str = "bad_message";

/// It went before it had said anything.
pub(super) const NO_HELLO: &str = "no_hello";

/// A caller that was turned away.
#[derive(Debug)]
pub(super) struct Turned {
    /// What is counted.
    pub(super) reason: String,
    /// For the log.
    pub(super) why: String,
}

impl Turned {
    pub(super) fn new(reason: &str, why: impl Display) -> Self {
        Self {
            reason: reason.to_owned(),
            why: why.to_string(),
        }
    }
}

impl From<Refusal> for Turned {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.code,
            why: refusal.message,
        }
    }
}

impl From<FrameError> for Turned {
    fn from(error: FrameError) -> Self {
        let reason = match &error {
            FrameError::Ended(_) => NO_HELLO,
            FrameError::TooSlow => SLOW,
            FrameError::Decode(_) => BAD_MESSAGE,
        };
        Self::new(reason, error)
    }
}

/// Codes of refusals by which a member's requests are counted: it asked for what is another's, or for nothing that can be.
pub(super) const BREACHES: [&str; 5] = [
    "foreign_endpoint",
    "foreign_block",
    "identity_mismatch",
    "bad_request",
    "unsupported",
];

/// Counts by reason: one of the constants, or the code of a refusal.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_reason: Mutex<BTreeMap<String, Count>>,
}

#[derive(Debug, Default)]
struct Count {
    all: u64,
    /// Of these, how many the log doesn't show yet.
    untold: u64,
    told: Option<Instant>,
}

impl Count {
    /// One more; says how many to tell of, if it is time.
    fn add(&mut self, now: Instant) -> Option<u64> {
        self.all += 1;
        self.untold += 1;
        if self
            .told
            .is_some_and(|told| now.duration_since(told) < TELL_EVERY)
        {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Refusals {
    /// Counts one. What a stranger said is quoted on the log, so that it can't look like lines of ours.
    pub(super) fn note(&self, reason: &str, remote: SocketAddr, what: impl Display) {
        let mut by_reason = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let count = by_reason.entry(reason.to_owned()).or_default();
        let told = count.add(Instant::now());
        let all = count.all;
        drop(by_reason);
        if let Some(count) = told {
            let what = what.to_string();
            warn!(reason, %remote, count, all, "refused: {what:?}");
        }
    }

    /// How many by reason.
    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        let by_reason = self
            .by_reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let counts = by_reason.iter();
        counts
            .map(|(reason, count)| (reason.clone(), count.all))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_at_once_and_then_by_its_number() {
        let (mut count, start) = (Count::default(), Instant::now());
        assert_eq!(count.add(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(count.add(start + Duration::from_secs(9)), None);
        }
        assert_eq!(count.add(start + TELL_EVERY), Some(1001));
        assert_eq!(count.add(start + TELL_EVERY), None);
        assert_eq!(count.all, 1003);
    }

    #[test]
    fn reasons_are_counted_apart() {
        let refusals = Refusals::default();
        let remote = "192.0.2.1:9".parse().unwrap();
        refusals.note(HANDSHAKE, remote, "x");
        refusals.note(HANDSHAKE, remote, "y");
        refusals.note("node_removed", remote, "z");
        let counts: Vec<_> = refusals.counts().into_iter().collect();
        assert_eq!(
            counts,
            [(HANDSHAKE.to_owned(), 2), ("node_removed".to_owned(), 1)]
        );
    }
}
