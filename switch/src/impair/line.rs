//! One direction: when which frame arrives, if at all. Pure; time is what the caller says it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use weft_wire::{FrameRef, Offload, Tail};

use super::Impairment;

/// What became of the frames of a line. A superframe that isn't cut is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineStats {
    /// Frames that came to it.
    pub frames: u64,
    /// Lost, as it was wished.
    pub lost: u64,
    /// Came twice, as it was wished.
    pub duplicated: u64,
    /// Overtook others, as it was wished.
    pub reordered: u64,
    /// Dropped since more bytes than its limit were on it.
    pub overflowed: u64,
}

impl std::ops::Add for LineStats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            overflowed: self.overflowed + other.overflowed,
        }
    }
}

/// A frame that was taken off a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedFrame {
    bytes: Vec<u8>,
    offload: Offload,
}

impl OwnedFrame {
    fn new(frame: FrameRef<'_>) -> Self {
        let mut buffer = Vec::new();
        let whole = frame.gathered(&mut buffer);
        Self {
            bytes: whole.bytes.to_vec(),
            offload: whole.offload,
        }
    }

    /// As ports take it.
    pub fn as_ref(&self) -> FrameRef<'_> {
        FrameRef {
            bytes: &self.bytes,
            offload: self.offload,
            tail: Tail::NONE,
        }
    }
}

/// On its way: ordered by when it is due, then by when it came.
#[derive(Debug)]
struct OnTheWay {
    due: Duration,
    number: u64,
    frame: OwnedFrame,
}

impl PartialEq for OnTheWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for OnTheWay {}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// One direction of an impaired port.
#[derive(Debug)]
pub struct Line {
    impairment: Impairment,
    random: StdRng,
    /// When the bucket will be full again (the theoretical arrival time of ITU-T I.371's virtual scheduling).
    full_at: Duration,
    /// When the last frame that wasn't to overtake is due.
    last: Duration,
    number: u64,
    bytes: usize,
    frames: BinaryHeap<Reverse<OnTheWay>>,
    stats: LineStats,
}

impl Line {
    /// An empty line.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        Self {
            impairment,
            random: StdRng::seed_from_u64(seed),
            full_at: Duration::ZERO,
            last: Duration::ZERO,
            number: 0,
            bytes: 0,
            frames: BinaryHeap::new(),
            stats: LineStats::default(),
        }
    }

    /// Whether superframes are to be cut before they come here.
    pub fn wants_packets(&self) -> bool {
        self.impairment.is_by_packet()
    }

    /// A frame begins its way.
    pub fn push(&mut self, now: Duration, frame: FrameRef<'_>) {
        self.stats.frames += 1;
        if self.chance(self.impairment.loss) {
            self.stats.lost += 1;
            return;
        }
        let frame = OwnedFrame::new(frame);
        if self.chance(self.impairment.duplicate) {
            self.stats.duplicated += 1;
            self.begin(now, frame.clone());
        }
        self.begin(now, frame);
    }

    fn begin(&mut self, now: Duration, frame: OwnedFrame) {
        let len = frame.bytes.len();
        // One frame there is always room for.
        if self.bytes > 0 && self.bytes + len > self.impairment.limit {
            self.stats.overflowed += 1;
            return;
        }
        let leaves = self.leaves_at(now, len);
        let overtakes = !self.impairment.delay.is_zero() && self.chance(self.impairment.reorder);
        let due = if overtakes {
            self.stats.reordered += 1;
            leaves
        } else {
            self.last = self.last.max(leaves + self.delay());
            self.last
        };
        self.bytes += len;
        self.number += 1;
        let number = self.number;
        self.frames.push(Reverse(OnTheWay { due, number, frame }));
    }

    /// When the token bucket lets a frame of `len` bytes go.
    fn leaves_at(&mut self, now: Duration, len: usize) -> Duration {
        let Some(rate) = self.impairment.rate else {
            return now;
        };
        let cost = rate.time_of(u64::try_from(len).unwrap_or(u64::MAX));
        self.full_at = self.full_at.max(now).saturating_add(cost);
        // What is longer than the bucket goes when that is full.
        let ahead = rate.time_of(rate.burst).max(cost);
        now.max(self.full_at.saturating_sub(ahead))
    }

    fn delay(&mut self) -> Duration {
        let Impairment { delay, jitter, .. } = self.impairment;
        if jitter.is_zero() {
            return delay;
        }
        let spread = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX / 4);
        let offset = self.random.random_range(0..=spread.saturating_mul(2));
        (delay + Duration::from_nanos(offset)).saturating_sub(jitter)
    }

    fn chance(&mut self, part: f64) -> bool {
        part > 0.0 && self.random.random_bool(part.clamp(0.0, 1.0))
    }

    /// When the next frame arrives.
    pub fn next_due(&self) -> Option<Duration> {
        Some(self.frames.peek()?.0.due)
    }

    /// A frame that has arrived by now, the first first.
    pub fn pop(&mut self, now: Duration) -> Option<OwnedFrame> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(arrived) = self.frames.pop()?;
        self.bytes -= arrived.frame.bytes.len();
        Some(arrived.frame)
    }

    /// What became of frames so far.
    pub const fn stats(&self) -> LineStats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
