//! How much may be on the way to a container, and how long to wait for its answer: NewReno (RFC 5681, RFC 6582) and the
//! retransmission timer (RFC 6298). Between a container and its host nearly nothing is lost; but a port may be rate
//! limited, impaired, or its container asleep.

use std::time::{Duration, Instant};

use super::sequence::{ahead, length};

/// To begin with: the way is one host long.
const INITIAL_WINDOW: u32 = 64 << 10;
/// More than this is never on the way, in bytes.
pub(super) const MAX_FLIGHT: u32 = 1 << 20;
/// RFC 6298 section 2.4 says a second; every kernel says 200 ms.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
const INITIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Duplicate acknowledgments that mean a loss.
const DUPLICATES: u32 = 3;

/// State of one direction.
#[derive(Debug)]
pub(super) struct Congestion {
    window: u32,
    threshold: u32,
    duplicates: u32,
    /// While a loss is being repaired: what had been sent when it was noticed.
    recover: Option<u32>,
    smoothed: Option<Duration>,
    variation: Duration,
    timeout: Duration,
    /// A segment's end and when it was sent, for one segment at a time; none that was sent twice (Karn).
    timed: Option<(u32, Instant)>,
}

impl Default for Congestion {
    fn default() -> Self {
        Self {
            window: INITIAL_WINDOW,
            threshold: MAX_FLIGHT,
            duplicates: 0,
            recover: None,
            smoothed: None,
            variation: Duration::ZERO,
            timeout: INITIAL_TIMEOUT,
            timed: None,
        }
    }
}

impl Congestion {
    /// Bytes that may be on the way.
    pub(super) const fn window(&self) -> u32 {
        self.window
    }

    /// How long to wait for an acknowledgment.
    pub(super) const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// New bytes up to `end` were sent.
    pub(super) fn handle_sent(&mut self, end: u32, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    /// `count` bytes were acknowledged, up to `una`. True if the next hole has to be filled at once (RFC 6582
    /// section 3.2 step 3: a partial acknowledgment).
    pub(super) fn handle_progress(&mut self, una: u32, count: u32, mss: u32, now: Instant) -> bool {
        self.duplicates = 0;
        if let Some((end, sent)) = self.timed
            && ahead(end, una) >= 0
        {
            self.timed = None;
            self.sample(now.saturating_duration_since(sent));
        }
        // As every kernel does: who answers again is not waited for as if it were silent still. While much is sent again
        // nothing can be timed, and each further loss would cost twice as much as the one before.
        self.timeout = self.measured_timeout();
        if let Some(recover) = self.recover {
            if ahead(recover, una) < 0 {
                return true;
            }
            self.recover = None;
            self.window = self.threshold;
            return false;
        }
        let growth = if self.window < self.threshold {
            count
        } else {
            // RFC 5681 section 3.1: about one segment each round trip.
            let share = u64::from(mss) * u64::from(count) / u64::from(self.window.max(1));
            u32::try_from(share).unwrap_or(mss).max(1)
        };
        self.window = self.window.saturating_add(growth).min(MAX_FLIGHT);
        false
    }

    /// The same acknowledgment again, with `flight` bytes on the way up to `sent`. True if the first unacknowledged
    /// segment has to be sent again.
    pub(super) fn handle_duplicate(&mut self, flight: u32, sent: u32, mss: u32) -> bool {
        self.duplicates += 1;
        if self.duplicates != DUPLICATES || self.recover.is_some() {
            return false;
        }
        self.lose(flight, mss);
        self.window = self.threshold;
        self.recover = Some(sent);
        true
    }

    /// Nothing was acknowledged in time: begin anew, slower.
    pub(super) fn handle_timeout(&mut self, flight: u32, mss: u32) {
        self.lose(flight, mss);
        self.window = mss;
        self.recover = None;
        self.duplicates = 0;
        self.timeout = (self.timeout * 2).min(MAX_TIMEOUT);
    }

    fn lose(&mut self, flight: u32, mss: u32) {
        self.threshold = (flight / 2).max(mss * 2);
        self.timed = None;
    }

    /// RFC 6298 section 2.
    fn sample(&mut self, rtt: Duration) {
        let smoothed = match self.smoothed {
            None => {
                self.variation = rtt / 2;
                rtt
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(rtt)) / 4;
                (smoothed * 7 + rtt) / 8
            }
        };
        self.smoothed = Some(smoothed);
    }

    /// What round trips say, without backoff.
    fn measured_timeout(&self) -> Duration {
        self.smoothed.map_or(INITIAL_TIMEOUT, |smoothed| {
            (smoothed + self.variation * 4).clamp(MIN_TIMEOUT, MAX_TIMEOUT)
        })
    }
}

/// How much of what waits may be sent now: what both windows leave, and no crumbs while something is on the way (RFC 9293
/// section 3.8.6.2.1).
pub(super) fn allowance(window: u32, flight: u32, unsent: usize, mss: u32) -> usize {
    let open = window.saturating_sub(flight);
    let unsent = length(unsent);
    let now = open.min(unsent);
    if now < unsent && now < mss && flight > 0 {
        return 0;
    }
    usize::try_from(now).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    #[test]
    fn three_duplicates_repair_once_and_halve() {
        let mut state = Congestion::default();
        let resent: Vec<bool> = (0..6)
            .map(|_| state.handle_duplicate(40_000, 50_000, MSS))
            .collect();
        assert_eq!(resent, [false, false, true, false, false, false]);
        assert_eq!(state.window(), 20_000);
        let now = Instant::now();
        assert!(
            state.handle_progress(49_999, 9_999, MSS, now),
            "a partial answer: the next hole"
        );
        assert!(!state.handle_progress(50_000, 1, MSS, now));
        assert_eq!(state.window(), 20_000);
    }

    #[test]
    fn silence_doubles_the_wait_and_an_answer_sets_it_back() {
        let mut state = Congestion::default();
        let start = Instant::now();
        state.handle_timeout(10_000, MSS);
        state.handle_timeout(10_000, MSS);
        assert_eq!(
            (state.timeout(), state.window()),
            (Duration::from_secs(4), MSS)
        );
        state.handle_sent(100, start);
        state.handle_progress(100, 100, MSS, start + Duration::from_millis(1));
        assert_eq!(state.timeout(), MIN_TIMEOUT);
        for _ in 0..20 {
            state.handle_timeout(10_000, MSS);
        }
        assert_eq!(state.timeout(), MAX_TIMEOUT);
    }

    #[test]
    fn what_was_sent_twice_is_not_timed_but_ends_the_backoff() {
        let mut state = Congestion::default();
        let start = Instant::now();
        state.handle_sent(100, start);
        state.handle_timeout(100, MSS);
        state.handle_progress(100, 100, MSS, start + Duration::from_secs(30));
        assert_eq!(state.timeout(), INITIAL_TIMEOUT);
    }

    #[test]
    fn crumbs_wait_while_something_is_on_the_way() {
        assert_eq!(allowance(10_000, 9_500, 5_000, 1000), 0);
        assert_eq!(allowance(10_000, 9_500, 400, 1000), 400);
        assert_eq!(allowance(500, 0, 5_000, 1000), 500);
        assert_eq!(allowance(10_000, 12_000, 5_000, 1000), 0);
        assert_eq!(allowance(70_000, 0, 65_000, 1000), 65_000);
    }

    #[test]
    fn the_window_grows_fast_then_slowly_and_ends() {
        let mut state = Congestion::default();
        let now = Instant::now();
        state.handle_progress(1, INITIAL_WINDOW, MSS, now);
        assert_eq!(state.window(), 2 * INITIAL_WINDOW);
        state.handle_timeout(8 * MSS, MSS);
        state.handle_progress(2, 3 * MSS, MSS, now);
        assert_eq!(state.window(), 4 * MSS);
        state.handle_progress(3, 4 * MSS, MSS, now);
        assert_eq!(state.window(), 5 * MSS);
        for i in 0..100_000 {
            state.handle_progress(i, 60_000, MSS, now);
        }
        assert_eq!(state.window(), MAX_FLIGHT);
    }
}
