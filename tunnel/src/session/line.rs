//! What is decided about one peer's sessions: which one frames go by, when a new one is opened, when one ends. Time is
//! passed in.

#![deny(clippy::disallowed_methods)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Connection;

use super::SessionSettings;
use super::handshake::{Call, Made};
use crate::esp::{SealingKey, Spi};
use crate::secure::SecurePeer;

/// How long a session lives on after another one has taken its place: what is on its way under its keys gets there.
const OVERLAP: Duration = Duration::from_secs(10);
/// Packets under one key, after which it is replaced: the confidentiality limit of AES-GCM for packets of up to 2 KiB
/// (RFC 9001 appendix B.1.1), one sixteenth of what the sequence number has room for.
const PACKETS_MAX: u64 = 1 << 28;
/// A session that is not replaced in time ends: at so many times the age at which its key should have been, and a while
/// for tries that are just under way; at twice the packets; and with a certificate that it was made with.
const HARD_AGE: u32 = 2;
const HARD_SLACK: Duration = Duration::from_secs(20);
const HARD_PACKETS: u64 = 2 * PACKETS_MAX;
/// Of a peer that is there something is heard twice as often: signs of life are asked for every three seconds.
const SILENT_AFTER: Duration = Duration::from_secs(6);
/// A number so far above the highest that there was is none.
const NUMBER_LEAP: u64 = 1 << 32;
/// The side that didn't open the session leaves the renewal to the other one for a quarter of the time more.
const PATIENCE_DIVISOR: u32 = 4;
/// Between two tries to open a session, at first and at most.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// A session that is there.
pub(super) struct Session<C = Connection> {
    pub(super) connection: C,
    pub(super) ours: bool,
    pub(super) number: u64,
    /// Opened by the lower node id: wins against the other of the same number.
    lower: bool,
    pub(super) spi: Spi,
    pub(super) sealing: Arc<SealingKey>,
    pub(super) since: Instant,
    /// When the first of the two certificates ends.
    until: Instant,
    incarnation: u64,
    /// Where the peer sees us.
    seen: Option<SocketAddr>,
    retire_at: Option<Instant>,
}

impl Session {
    pub(super) fn new(made: Made, own: &str, now: Instant) -> Self {
        Self {
            ours: made.ours,
            number: made.number,
            lower: made.ours == (own < made.secure.node()),
            spi: made.spi,
            sealing: Arc::new(made.sealing),
            since: now,
            until: made.until,
            incarnation: made.incarnation,
            seen: made.seen,
            retire_at: None,
            connection: made.connection,
        }
    }
}

impl<C> Session<C> {
    /// Whether it may carry nothing more.
    fn is_over(&self, settings: SessionSettings, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.since);
        age >= settings.rekey_after * HARD_AGE + HARD_SLACK
            || self.sealing.packets() >= HARD_PACKETS
            || now >= self.until
    }

    /// Which of several sessions is used: the highest, the same for both sides.
    const fn rank(&self) -> (u64, bool) {
        (self.number, self.lower)
    }
}

/// Addresses as they are advertised: others say that there is NAT between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) ours: SocketAddr,
    pub(super) theirs: SocketAddr,
}

/// What is to be done about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Nothing,
    /// Open a session.
    Open,
    /// Close all sessions: nobody uses them.
    Close,
}

/// One peer's sessions.
pub(super) struct Line<C = Connection> {
    pub(super) secure: Arc<SecurePeer>,
    pub(super) sessions: Vec<Session<C>>,
    /// When the last handshake was finished.
    pub(super) handshake: Option<Instant>,
    /// What went wrong last.
    pub(super) trouble: Option<String>,
    opening: bool,
    open_at: Instant,
    again: Duration,
    tries: u32,
    used_at: Instant,
    /// Ended because nobody used it: no new one before somebody wants it.
    resting: bool,
    /// The highest number there was.
    number: u64,
    /// Where the peer was last.
    last_remote: Option<SocketAddr>,
    /// Somebody wants a session.
    wanted: bool,
    /// QUIC packets of the best session so far, and when anything was heard last.
    packets: u64,
    heard_at: Instant,
}

impl<C> std::fmt::Debug for Line<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("sessions", &self.sessions.len())
            .field("opening", &self.opening)
            .finish_non_exhaustive()
    }
}

impl<C> Line<C> {
    pub(super) fn new(secure: Arc<SecurePeer>, now: Instant) -> Self {
        Self {
            secure,
            sessions: Vec::new(),
            handshake: None,
            trouble: None,
            opening: false,
            open_at: now,
            again: AGAIN_MIN,
            tries: 0,
            used_at: now,
            resting: false,
            number: 0,
            last_remote: None,
            wanted: false,
            packets: 0,
            heard_at: now,
        }
    }

    /// The session that frames go by.
    pub(super) fn best(&self) -> Option<&Session<C>> {
        self.sessions.iter().max_by_key(|session| session.rank())
    }

    /// A session was made. Gives those that are dead for sure: the peer has started anew since.
    pub(super) fn add(&mut self, session: Session<C>, now: Instant) -> Vec<Session<C>> {
        if session.ours {
            self.opening = false;
        }
        self.handshake = Some(now);
        self.heard_at = now;
        self.trouble = None;
        self.again = AGAIN_MIN;
        self.open_at = now + AGAIN_MIN;
        self.tries = 0;
        self.resting = false;
        self.wanted = false;
        self.used_at = now;
        self.number = self.number.max(session.number);
        let incarnation = session.incarnation;
        let dead = self
            .sessions
            .extract_if(.., |other| other.incarnation != incarnation)
            .collect();
        self.sessions.push(session);
        let best = self.best().map(Session::rank);
        for other in &mut self.sessions {
            if Some(other.rank()) != best && other.retire_at.is_none() {
                other.retire_at = Some(now + OVERLAP);
            }
        }
        dead
    }

    /// Whether a session may have that number: the highest there was and one more, or some more, if the other side knows of
    /// sessions that we don't.
    pub(super) const fn believes(&self, number: u64) -> bool {
        number <= self.number.saturating_add(NUMBER_LEAP)
    }

    /// So many packets came in the session that frames go by; frames are heard beside.
    pub(super) fn listen(&mut self, packets: u64, now: Instant) {
        let frames = self.secure.take_heard();
        if frames || packets != self.packets {
            self.packets = packets;
            self.heard_at = now;
        }
    }

    /// For how long nothing was heard from a peer that should be there, if that is longer than it should.
    pub(super) fn silent(&self, now: Instant) -> Option<Duration> {
        let silent = now.saturating_duration_since(self.heard_at);
        (!self.sessions.is_empty() && silent >= SILENT_AFTER).then_some(silent)
    }

    /// A session could not be opened.
    pub(super) fn failed(&mut self, why: String, now: Instant) {
        self.opening = false;
        // Frames that come will say so again.
        self.wanted = false;
        self.trouble = Some(why);
        self.open_at = now + self.again;
        self.again = (self.again * 2).min(AGAIN_MAX);
        self.tries = self.tries.wrapping_add(1);
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, spi: Spi, why: String, idle: bool) {
        let before = self.sessions.len();
        self.sessions.retain(|session| session.spi != spi);
        let was_last = before > 0 && self.sessions.is_empty();
        if let Some(best) = self.best().map(Session::rank) {
            for session in &mut self.sessions {
                if session.rank() == best {
                    session.retire_at = None;
                }
            }
        }
        if was_last {
            if let Some(sealing) = &*self.secure.sealing() {
                self.last_remote = Some(sealing.remote);
            }
            self.resting = idle;
            if !idle {
                self.trouble = Some(why);
            }
        }
    }

    /// Sessions whose overlap is over.
    pub(super) fn retired(&mut self, now: Instant) -> Vec<Session<C>> {
        self.sessions
            .extract_if(.., |session| session.retire_at.is_some_and(|at| at <= now))
            .collect()
    }

    /// Sessions that may carry nothing more: keys that should have been replaced long ago, and ends of certificates.
    pub(super) fn over(&mut self, settings: SessionSettings, now: Instant) -> Vec<Session<C>> {
        let over: Vec<_> = self
            .sessions
            .extract_if(.., |session| session.is_over(settings, now))
            .collect();
        if !over.is_empty() && self.sessions.is_empty() {
            if let Some(sealing) = &*self.secure.sealing() {
                self.last_remote = Some(sealing.remote);
            }
            // Why no other could be made, if that was tried.
            self.trouble
                .get_or_insert_with(|| "the session was too old".to_owned());
        }
        over
    }

    /// All sessions: nobody uses them any more.
    pub(super) fn rest(&mut self) -> Vec<Session<C>> {
        if let Some(sealing) = &*self.secure.sealing() {
            self.last_remote = Some(sealing.remote);
        }
        self.resting = true;
        std::mem::take(&mut self.sessions)
    }

    /// Where to open a session to, the advertised address or where the peer was last, in turn; and its number.
    pub(super) fn call(&mut self, advertised: SocketAddr) -> Call {
        let now = self.secure.sealing().as_ref().map(|sealing| sealing.remote);
        let known = now.or(self.last_remote);
        let to = match known {
            Some(known) if self.tries.is_multiple_of(2) => known,
            Some(_) | None => advertised,
        };
        self.opening = true;
        let number = self.number.saturating_add(1);
        Call { to, number }
    }

    /// What is due.
    pub(super) fn next(&mut self, settings: SessionSettings, ends: Ends, now: Instant) -> Next {
        if self.secure.take_use() {
            self.used_at = now;
        }
        self.wanted |= self.secure.take_want();
        if self.wanted {
            self.resting = false;
        }
        let may_open = !self.opening && now >= self.open_at;
        let Some(best) = self.best() else {
            let keep = self.secure.keep() && !self.resting;
            let wanted = keep || self.wanted || self.secure.has_waiting();
            return if wanted && may_open {
                Next::Open
            } else {
                Next::Nothing
            };
        };
        let unused = now.saturating_duration_since(self.used_at);
        // Who is behind NAT can't be called back.
        let sealing = self.secure.sealing();
        let nat = best.seen.is_some_and(|seen| seen != ends.ours)
            || sealing
                .as_ref()
                .is_some_and(|sealing| sealing.remote != ends.theirs);
        drop(sealing);
        if unused >= settings.idle_after && !nat {
            return Next::Close;
        }
        let limit = if best.ours {
            settings.rekey_after
        } else {
            settings.rekey_after + settings.rekey_after / PATIENCE_DIVISOR
        };
        let old = now.saturating_duration_since(best.since) >= limit;
        if (old || best.sealing.packets() >= PACKETS_MAX) && may_open {
            return Next::Open;
        }
        Next::Nothing
    }
}

#[cfg(test)]
mod tests;
