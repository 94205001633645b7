//! When which flow has to be looked at again. A flow has at most one entry that counts; one that was moved later is found
//! out when it comes up.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::token::Token;

/// Entries in order of time.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Token)>>,
}

/// A flow's own side of it: for when it has an entry.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Armed(Option<Instant>);

impl Armed {
    /// Sees to it that the flow comes up at `at` at the latest.
    pub(super) fn arm(&mut self, token: Token, at: Instant, timers: &mut Timers) {
        if self.0.is_none_or(|armed| at < armed) {
            self.0 = Some(at);
            timers.heap.push(Reverse((at, token)));
        }
    }

    /// Whether it has an entry.
    pub(super) const fn is_armed(&self) -> bool {
        self.0.is_some()
    }

    /// An entry came up. False if it is not the one that counts.
    pub(super) fn disarm(&mut self, at: Instant) -> bool {
        let counts = self.0 == Some(at);
        if counts {
            self.0 = None;
        }
        counts
    }
}

impl Timers {
    /// When the next entry comes up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// The next entry that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Token)> {
        let Reverse((at, _)) = self.heap.peek()?;
        if *at > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn only_the_earliest_entry_of_a_flow_counts() {
        let (start, token) = (Instant::now(), Token::Tcp(1));
        let at = |ms| start + Duration::from_millis(ms);
        let (mut timers, mut armed) = (Timers::default(), Armed::default());
        armed.arm(token, at(50), &mut timers);
        armed.arm(token, at(90), &mut timers);
        armed.arm(token, at(20), &mut timers);
        assert_eq!(timers.next(), Some(at(20)));
        assert_eq!(timers.pop(at(19)), None);
        assert_eq!(timers.pop(at(60)), Some((at(20), token)));
        assert!(armed.disarm(at(20)));
        assert_eq!(timers.pop(at(60)), Some((at(50), token)));
        assert!(!armed.disarm(at(50)));
        assert_eq!(timers.pop(at(600)), None);
    }
}
