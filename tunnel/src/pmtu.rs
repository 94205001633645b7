//! The largest packet that reaches a peer, found by padded probes that the peer answers (RFC 8899): a state machine per
//! peer, pure, clock and answers passed in. Sizes are bytes of the outer IP packet.
//!
//! It differs from the RFC's machine in three things. A round sends several sizes at once (a ladder), so that a search
//! takes a few round trips: frames wait meanwhile. What the local link refuses costs no packet, so the upper end needs
//! no knowledge of links or routes. And a confirmation that gets lost is repeated beside a small probe: only when the
//! small one, sent later, was answered and the large one was not, three times in a row, it's a black hole and no loss or
//! outage. An ICMP message only makes the search begin; what it says is never believed.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::time::Duration;

/// Sizes that paths are likely to have: minima of IP, tunnels over Ethernet, Ethernet, jumbo frames.
const LIKELY: [u16; 16] = [
    576, 1000, 1200, 1280, 1300, 1350, 1400, 1420, 1450, 1480, 1492, 1500, 2000, 4000, 9000, 9216,
];
/// What any path takes: sent beside a confirmation to tell a black hole from an outage.
const SMALL: u16 = LIKELY[0];
/// One more than the largest packet of IP.
const END: u32 = 65_536;
/// Sizes between two that aren't on the list of likely ones.
const STEPS: u32 = 8;
/// Confirmations in a row that must be lost (MAX_PROBES of RFC 8899 section 5.1.2).
const LOST_MAX: u8 = 3;
/// How long an answer is waited for before the round trip time is known, and at most (RFC 8899: PROBE_TIMER).
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// The least wait for an answer, whatever the round trip time: peers have other things to do.
const ANSWER_MIN: Duration = Duration::from_millis(40);
/// Between two confirmations while frames are sent (CONFIRMATION_TIMER).
const CONFIRM_EVERY: Duration = Duration::from_millis(50);
/// Between two looks whether more goes through (PMTU_RAISE_TIMER), with and without traffic.
const RAISE_EVERY: Duration = Duration::from_secs(5);
const RAISE_IDLE_EVERY: Duration = Duration::from_secs(15);
/// How long a peer that doesn't answer is left alone, at first and at most.
const SILENCE_MIN: Duration = Duration::from_millis(500);
const SILENCE_MAX: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
struct Probe {
    id: u32,
    size: u16,
    sent: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between `low`, which was answered (0: nothing was), and `high`, which doesn't go through.
    Search {
        low: u16,
        high: u32,
        /// The ladder was sent once already.
        again: bool,
        /// Looking for more than is known: given up at the first ladder that brings nothing.
        raise: bool,
    },
    /// Found; `lost` confirmations in a row were not answered.
    Hold { lost: u8, raise_at: Duration },
    /// Nothing is answered.
    Silent,
}

/// The search for one peer's path MTU.
#[derive(Clone, Debug)]
pub(crate) struct PathSearch {
    state: State,
    /// Probes of this round that aren't answered.
    waiting: Vec<Probe>,
    /// A round's outcome.
    best: u16,
    refused: u32,
    small_answered: bool,
    due: Duration,
    round_trip: Option<Duration>,
    silence: Duration,
    current: Option<u16>,
    settled: Option<u16>,
}

impl PathSearch {
    /// A search that begins at once.
    pub(crate) const fn new(now: Duration) -> Self {
        Self {
            state: State::Silent,
            waiting: Vec::new(),
            best: 0,
            refused: END,
            small_answered: false,
            due: now,
            round_trip: None,
            silence: SILENCE_MIN,
            current: None,
            settled: None,
        }
    }

    /// The largest packet that is known to go through now; `None`: the peer has answered nothing yet.
    pub(crate) const fn current(&self) -> Option<u16> {
        self.current
    }

    /// The same without the steps of a search in between.
    pub(crate) const fn settled(&self) -> Option<u16> {
        self.settled
    }

    /// When [`Self::poll`] has something to do, apart from new answers and confirmations.
    pub(crate) const fn due(&self) -> Duration {
        self.due
    }

    /// Puts the sizes to be probed now into `sizes`; each is followed by [`Self::sent`] or [`Self::refused`]. To be called
    /// when it is due, and again when all probes were refused. `active`: frames were sent to the peer lately.
    pub(crate) fn poll(&mut self, now: Duration, active: bool, sizes: &mut Vec<u16>) {
        sizes.clear();
        if now < self.due {
            return;
        }
        match self.state {
            State::Silent if self.silence > SILENCE_MIN => return self.knock(now, sizes),
            State::Silent => self.begin(0, END, false),
            State::Search { .. } => self.end_round(now),
            State::Hold { lost, raise_at } => self.confirm(now, active, lost, raise_at, sizes),
        }
        if let State::Search { low, high, .. } = self.state {
            ladder(low, high, sizes);
            self.best = 0;
            self.refused = END;
            self.due = now + self.patience();
        }
    }

    /// A peer that was silent before is asked for a sign of life only: a ladder to each of many costs.
    fn knock(&mut self, now: Duration, sizes: &mut Vec<u16>) {
        self.begin(0, END, false);
        // As if this were the repetition: without an answer it is the end.
        if let State::Search { again, .. } = &mut self.state {
            *again = true;
        }
        (self.best, self.refused) = (0, END);
        sizes.extend([SMALL; 2]);
        self.due = now + self.patience();
    }

    fn begin(&mut self, low: u16, high: u32, raise: bool) {
        self.waiting.clear();
        self.state = State::Search {
            low,
            high,
            again: false,
            raise,
        };
    }

    fn patience(&self) -> Duration {
        self.round_trip
            .map_or(ANSWER_MAX, |time| (time * 3).clamp(ANSWER_MIN, ANSWER_MAX))
    }

    /// A probe left.
    pub(crate) fn sent(&mut self, size: u16, id: u32, now: Duration) {
        self.waiting.push(Probe {
            id,
            size,
            sent: now,
        });
    }

    /// The local link doesn't take that size.
    pub(crate) fn refused(&mut self, size: u16, now: Duration) {
        match self.state {
            State::Search { .. } => self.refused = self.refused.min(u32::from(size)),
            State::Hold { .. } if self.current.is_some_and(|current| size >= current) => {
                self.begin(0, u32::from(size), false);
                self.best = 0;
                self.refused = END;
                self.due = now;
            }
            State::Hold { .. } | State::Silent => {}
        }
    }

    /// All probes of the round left or were refused: without any to wait for the next round may follow at once.
    pub(crate) fn all_tried(&mut self, now: Duration) {
        if self.waiting.is_empty() && matches!(self.state, State::Search { .. }) {
            self.due = now;
        }
    }

    /// The peer answered a probe. What it was not asked is ignored.
    pub(crate) fn answered(&mut self, id: u32, now: Duration) {
        let Some(at) = self.waiting.iter().position(|probe| probe.id == id) else {
            return;
        };
        let probe = self.waiting.swap_remove(at);
        let took = now.saturating_sub(probe.sent);
        self.round_trip = Some(
            self.round_trip
                .map_or(took, |before| (before * 7 + took) / 8),
        );
        self.silence = SILENCE_MIN;
        match self.state {
            State::Search { .. } => {
                self.best = self.best.max(probe.size);
                self.all_tried(now);
            }
            State::Hold { lost, .. } => {
                if Some(probe.size) == self.current {
                    if lost > 0 {
                        self.set_lost(0);
                    }
                } else {
                    self.small_answered = true;
                }
            }
            State::Silent => {}
        }
    }

    /// Something on a path said that a packet was too big: if a probe of ours is on its way, look at once.
    pub(crate) fn hinted(&mut self, now: Duration) {
        if matches!(self.state, State::Hold { .. })
            && let Some(current) = self.current
            && self.waiting.iter().any(|probe| probe.size == current)
        {
            self.begin(0, u32::from(current) + 1, false);
            self.best = 0;
            self.refused = END;
            self.due = now;
        }
    }

    fn set_lost(&mut self, count: u8) {
        if let State::Hold { lost, .. } = &mut self.state {
            *lost = count;
        }
    }

    fn end_round(&mut self, now: Duration) {
        let State::Search {
            low,
            high,
            again,
            raise,
        } = self.state
        else {
            return;
        };
        let reached = low.max(self.best);
        let mut high = high.min(self.refused).max(u32::from(reached) + 1);
        let missing = self.waiting.iter().map(|probe| probe.size);
        let missing = missing.filter(|size| *size > reached).min();
        self.waiting.clear();
        if let Some(size) = missing
            && again
        {
            high = high.min(u32::from(size));
        }
        if reached > 0 {
            self.current = Some(reached);
        }
        let again = missing.is_some() && !again;
        let nothing = reached == low && !again && missing.is_some();
        if reached == 0 && (nothing || high <= 1) {
            self.fall_silent(now);
        } else if u32::from(reached) + 1 >= high || (raise && nothing) {
            self.hold(now, reached);
        } else {
            self.state = State::Search {
                low: reached,
                high,
                again,
                raise,
            };
        }
    }

    /// Nobody answers, or the link is down.
    fn fall_silent(&mut self, now: Duration) {
        self.state = State::Silent;
        self.due = now + self.silence;
        self.silence = (self.silence * 2).min(SILENCE_MAX);
    }

    fn hold(&mut self, now: Duration, reached: u16) {
        self.settled = Some(reached);
        self.small_answered = false;
        self.state = State::Hold {
            lost: 0,
            raise_at: now + RAISE_EVERY,
        };
        self.due = now + CONFIRM_EVERY;
    }

    fn confirm(
        &mut self,
        now: Duration,
        active: bool,
        lost: u8,
        raise_at: Duration,
        sizes: &mut Vec<u16>,
    ) {
        let Some(current) = self.current else {
            return self.begin(0, END, false);
        };
        let unanswered = self.waiting.iter().any(|probe| probe.size == current);
        self.waiting.clear();
        let lost = match (unanswered, lost) {
            (false, _) => 0,
            (true, 0) => 1,
            // Nothing at all came back: an outage, which no size cures.
            (true, _) if !self.small_answered => 1,
            (true, lost) => lost + 1,
        };
        self.small_answered = false;
        if lost >= LOST_MAX {
            return self.begin(0, u32::from(current) + 1, false);
        }
        let idle_raise = raise_at + (RAISE_IDLE_EVERY - RAISE_EVERY);
        if lost == 0 && now >= if active { raise_at } else { idle_raise } {
            return self.begin(current, END, true);
        }
        self.set_lost(lost);
        if !active && lost == 0 {
            // It is asked again at the next frame, see `wake`.
            self.due = idle_raise;
            return;
        }
        sizes.push(current);
        if lost > 0 && current > SMALL {
            sizes.push(SMALL);
        }
        self.due = now + self.patience().max(CONFIRM_EVERY);
    }

    /// Frames are sent again: confirm at once.
    pub(crate) fn wake(&mut self, now: Duration) {
        if matches!(self.state, State::Hold { .. }) && self.waiting.is_empty() {
            self.due = self.due.min(now + CONFIRM_EVERY);
        }
    }
}

/// Sizes above `low` and below `high`, in ascending order; the largest among them.
fn ladder(low: u16, high: u32, sizes: &mut Vec<u16>) {
    let low = u32::from(low);
    let between = |size: &u32| *size > low && *size < high;
    let likely = LIKELY.into_iter().map(u32::from).filter(between);
    let mut all: Vec<u32> = likely
        .chain([low.max(SMALL.into()) + 1, high - 1])
        .filter(between)
        .collect();
    if all.len() < 4 {
        let step = |i| low + (high - low) * i / STEPS;
        all.extend((1..STEPS).map(step).filter(between));
    }
    all.sort_unstable();
    all.dedup();
    sizes.extend(all.into_iter().filter_map(|size| u16::try_from(size).ok()));
}

#[cfg(test)]
mod tests;
