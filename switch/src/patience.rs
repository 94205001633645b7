//! How long a worker looks for work before it sleeps. Waking a thread on an idle core costs more than forwarding a
//! frame: 10 to 20 µs, which a container's question and its answer would pay at every hop. So a worker that has just had
//! work polls for a while, giving way to whoever wants the core. It does so only where that pays:
//! - the time it polls grows when work comes soon after it went to sleep, and shrinks to nothing when sleeps are long,
//!   so an idle agent costs nothing and rare frames cost one wake each;
//! - where giving way takes long somebody else uses the core; it isn't idle, so waking is cheap, and polling would take
//!   time from the very programs that wait for frames.

use std::time::Duration;

/// The longest that is polled: a few times what a wake costs.
const MAX: Duration = Duration::from_micros(100);
/// The shortest that is worth it.
const MIN: Duration = Duration::from_micros(10);
/// Giving way to nobody takes about 1 µs; this is a program that ran.
const CONTENDED: Duration = Duration::from_micros(5);

/// What a worker that found no work does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look again.
    Poll,
    /// Sleep until there is work.
    Sleep,
}

/// One worker's patience. Times are since any fixed moment.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// How long it polls now.
    budget: Duration,
    /// When it last had work.
    worked: Duration,
}

impl Patience {
    /// There was work.
    #[inline]
    pub(crate) const fn work(&mut self, now: Duration) {
        self.worked = now;
    }

    /// There was none, and giving way took `gave_way`.
    #[inline]
    pub(crate) fn nothing(&self, now: Duration, gave_way: Duration) -> Next {
        let polled = now.saturating_sub(self.worked);
        if polled < self.budget && gave_way < CONTENDED {
            Next::Poll
        } else {
            Next::Sleep
        }
    }

    /// It slept for `slept`.
    pub(crate) fn slept(&mut self, slept: Duration) {
        self.budget = if slept <= MAX {
            (self.budget * 2).clamp(MIN, MAX)
        } else if self.budget > MIN {
            self.budget / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn us(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    fn patient() -> Patience {
        let mut patience = Patience::default();
        for _ in 0..10 {
            patience.slept(us(30));
        }
        patience
    }

    #[test]
    fn an_idle_worker_sleeps_at_once() {
        assert_eq!(Patience::default().nothing(us(0), us(0)), Next::Sleep);
        let mut patience = patient();
        for _ in 0..10 {
            patience.slept(us(1_000_000));
        }
        patience.work(us(500));
        assert_eq!(patience.nothing(us(500), us(0)), Next::Sleep);
    }

    #[test]
    fn a_busy_one_polls_and_gives_up_after_a_while() {
        let mut patience = patient();
        patience.work(us(500));
        assert_eq!(patience.nothing(us(501), us(1)), Next::Poll);
        assert_eq!(patience.nothing(us(599), us(1)), Next::Poll);
        assert_eq!(patience.nothing(us(601), us(1)), Next::Sleep);
    }

    #[test]
    fn it_sleeps_where_others_want_the_core() {
        let mut patience = patient();
        patience.work(us(500));
        assert_eq!(patience.nothing(us(501), us(50)), Next::Sleep);
    }

    #[test]
    fn one_long_pause_does_not_end_it() {
        let mut patience = patient();
        patience.slept(us(5_000));
        patience.work(us(500));
        assert_eq!(patience.nothing(us(501), us(1)), Next::Poll);
    }
}
