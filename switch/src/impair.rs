//! A port behind a worse line, for test beds and for rate limits: delay, jitter, loss, reordering, duplication and a
//! token bucket, each way apart.
//!
//! [`Line`] is one direction, pure: frames and time in, frames that are due out. [`relay`] is the thread that stands
//! between a TAP and the switch and moves frames along the lines of both directions; a port without impairment knows
//! nothing of all this.

pub mod line;
pub mod relay;

use std::num::NonZeroU64;
use std::time::Duration;

pub use line::{Line, LineStats};
pub use relay::{Relay, RelayStats};

/// What becomes of frames on their way in one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// How long a frame takes.
    pub delay: Duration,
    /// Uniformly up to so much more or less. Frames don't overtake each other by it.
    pub jitter: Duration,
    /// The part of frames that is lost, 0 to 1.
    pub loss: f64,
    /// The part of frames that comes twice, 0 to 1.
    pub duplicate: f64,
    /// The part of frames that isn't delayed, and so overtakes others, 0 to 1. Needs a delay.
    pub reorder: f64,
    /// A token bucket before the delay.
    pub rate: Option<Rate>,
    /// Bytes on the line and before it, beyond which frames are dropped.
    pub limit: usize,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            rate: None,
            limit: usize::MAX,
        }
    }
}

impl Impairment {
    /// Whether it leaves every frame as it is.
    pub fn is_nothing(&self) -> bool {
        let limit = self.limit;
        *self
            == Self {
                limit,
                ..Self::default()
            }
    }

    /// What a line takes before it drops, if nobody says: what a tenth of a second makes at its rate, and what its delay
    /// holds.
    pub fn fitting_limit(&self) -> usize {
        const LEAST: u64 = 128 << 10;
        const MOST: u64 = 64 << 20;
        let queue = Duration::from_millis(100) + self.delay + self.jitter;
        let bytes = self.rate.map_or(MOST, |rate| {
            let bits = u128::from(rate.bits.get()) * queue.as_micros() / 1_000_000;
            u64::try_from(bits / 8).unwrap_or(MOST) + rate.burst
        });
        usize::try_from(bytes.clamp(LEAST, MOST)).unwrap_or(usize::MAX)
    }

    /// Whether it looks at single packets: a superframe is cut before it, so that a loss is that of one packet.
    fn is_by_packet(&self) -> bool {
        let by_chance = self.loss + self.duplicate + self.reorder > 0.0;
        by_chance || self.rate.is_some_and(|rate| rate.bits.get() < FAST)
    }
}

/// Bits per second from which a rate is that of superframes: one of 64 KiB takes half a millisecond.
const FAST: u64 = 1_000_000_000;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bits per second, Ethernet header included.
    pub bits: NonZeroU64,
    /// Bytes that pass at once after a pause.
    pub burst: u64,
}

impl Rate {
    /// How long so many bytes take.
    fn time_of(self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 8 * 1_000_000_000 / u128::from(self.bits.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// Both directions of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairments {
    /// Of what the container gets.
    pub to_port: Impairment,
    /// Of what the container sends.
    pub from_port: Impairment,
    /// The same seed and the same frames have the same fate.
    pub seed: u64,
}
