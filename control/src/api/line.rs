//! What a port's frames go through on their way: limits, and impairments for test beds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The lowest rate: a full frame takes 1.5 seconds.
const MIN_BITS_PER_SEC: u64 = 8_000;
/// The longest delay.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// The longest burst, in bytes.
const MAX_BURST: u64 = 1 << 30;

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bits per second, Ethernet header included; at least 8000.
    pub bits_per_sec: u64,
    /// Bytes that pass at once after a pause; 10 ms at the rate, and at least a superframe, when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst_bytes: Option<u64>,
}

/// How fast a port may be, each way; `None`: as fast as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// What the container gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_port: Option<RateLimit>,
    /// What the container sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_port: Option<RateLimit>,
}

/// What becomes of frames in one direction. Parts are 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impairment {
    /// Microseconds that a frame takes.
    #[serde(default)]
    pub delay_us: u64,
    /// Microseconds more or less, uniformly; the order stays.
    #[serde(default)]
    pub jitter_us: u64,
    /// The part that is lost.
    #[serde(default)]
    pub loss: f64,
    /// The part that comes twice.
    #[serde(default)]
    pub duplicate: f64,
    /// The part that isn't delayed and so overtakes others.
    #[serde(default)]
    pub reorder: f64,
}

/// Both directions of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Impairments {
    /// Of what the container gets.
    #[serde(default)]
    pub to_port: Impairment,
    /// Of what the container sends.
    #[serde(default)]
    pub from_port: Impairment,
    /// The same seed and the same frames have the same fate.
    #[serde(default)]
    pub seed: u64,
}

/// A change of a port; `None` leaves what is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortChange {
    /// The port's network; needed where this host has ports of that name on several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Other limits; empty ones end them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// Other impairments; those of a perfect line end them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub impairments: Option<Impairments>,
}

/// What became of a port's frames in one direction of its line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineTraffic {
    /// Frames that came to the line; of a superframe that is cut for it, its packets.
    pub frames: u64,
    /// Lost, as it was wished.
    pub lost: u64,
    /// Came twice, as it was wished.
    pub duplicated: u64,
    /// Overtook others, as it was wished.
    pub reordered: u64,
    /// Dropped, since the limit let no more through.
    pub limited: u64,
}

/// The line of a port that has limits or impairments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortLine {
    /// What was asked for.
    #[serde(default)]
    pub limits: Limits,
    /// What was asked for.
    #[serde(default)]
    pub impairments: Impairments,
    /// What the container gets, since the line was made.
    #[serde(default)]
    pub to_port: LineTraffic,
    /// What the container sent.
    #[serde(default)]
    pub from_port: LineTraffic,
    /// Frames at the end of the line that the container's kernel didn't take (its interface is down, its ring is full).
    #[serde(default)]
    pub not_taken: u64,
    /// Frames that were malformed, or that the switch had no room for.
    #[serde(default)]
    pub refused: u64,
}

impl Limits {
    /// # Errors
    /// Why it can't be, naming the flag.
    pub(crate) fn check(&self) -> Result<(), String> {
        for limit in [self.to_port, self.from_port].into_iter().flatten() {
            if limit.bits_per_sec < MIN_BITS_PER_SEC {
                return Err(format!(
                    "a rate of {} bit/s is less than a frame a second: take at least {MIN_BITS_PER_SEC} bit/s",
                    limit.bits_per_sec
                ));
            }
            if limit
                .burst_bytes
                .is_some_and(|burst| !(1..=MAX_BURST).contains(&burst))
            {
                return Err(format!("a burst is 1 to {MAX_BURST} bytes"));
            }
        }
        Ok(())
    }
}

impl Impairments {
    /// # Errors
    /// Why it can't be, naming what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        [self.to_port, self.from_port]
            .iter()
            .try_for_each(Impairment::check)
    }
}

impl Impairment {
    fn check(&self) -> Result<(), String> {
        let parts = [
            ("loss", self.loss),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
        ];
        for (name, part) in parts {
            if !(0.0..=1.0).contains(&part) {
                return Err(format!("{name} is a part of all frames, 0% to 100%"));
            }
        }
        if Duration::from_micros(self.delay_us) > MAX_DELAY {
            return Err(format!("a delay is at most {} s", MAX_DELAY.as_secs()));
        }
        if self.jitter_us > self.delay_us {
            return Err(
                "a jitter is at most the delay: a frame can't arrive before it was sent".to_owned(),
            );
        }
        if self.reorder > 0.0 && self.delay_us == 0 {
            return Err("reorder needs a delay: what overtakes is what isn't delayed".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impaired(change: impl FnOnce(&mut Impairment)) -> Result<(), String> {
        let mut impairment = Impairment {
            delay_us: 20_000,
            ..Impairment::default()
        };
        change(&mut impairment);
        Impairments {
            from_port: impairment,
            ..Impairments::default()
        }
        .check()
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(impaired(|_| {}), Ok(()));
        assert_eq!(impaired(|line| line.jitter_us = 20_000), Ok(()));
        assert!(impaired(|line| line.jitter_us = 20_001).is_err());
        assert!(impaired(|line| line.loss = 1.01).is_err());
        assert!(impaired(|line| line.loss = -0.1).is_err());
        assert!(impaired(|line| line.duplicate = f64::NAN).is_err());
        assert!(impaired(|line| line.delay_us = u64::MAX).is_err());
        let without_delay = |line: &mut Impairment| (line.delay_us, line.reorder) = (0, 0.1);
        assert!(impaired(without_delay).is_err());
    }

    #[test]
    fn a_limit_lets_something_through() {
        let limits = |bits_per_sec, burst_bytes| Limits {
            to_port: Some(RateLimit {
                bits_per_sec,
                burst_bytes,
            }),
            from_port: None,
        };
        assert!(limits(8_000, None).check().is_ok());
        assert!(limits(7_999, None).check().is_err());
        assert!(limits(8_000, Some(0)).check().is_err());
    }
}
