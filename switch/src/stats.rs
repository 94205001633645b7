//! Counters: relaxed atomics that workers add to and operators read. A frame that isn't delivered is counted once, at
//! the port or peer it came from; a copy that a port doesn't take is counted at that port.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::verdict::DropReason;

/// Frames not delivered, by reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::COUNT]);

impl Default for DropCounts {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounts {
    /// Of one reason.
    pub fn count(&self, reason: DropReason) -> u64 {
        self.0[reason.index()]
    }

    /// Each reason with its count, also those that never occurred.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|reason| (*reason, self.count(*reason)))
    }

    /// Of all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a port has done since it was added. A superframe counts as one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Frames from the container.
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames to the container.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames from the container that went nowhere, and frames for it that it didn't take.
    pub drops: DropCounts,
}

/// What the switch let go of a peer's frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerDropStats {
    /// By reason.
    pub drops: DropCounts,
}

/// Counters of drops.
#[derive(Debug)]
pub(crate) struct DropCounters([AtomicU64; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    pub(crate) fn add(&self, reason: DropReason) {
        self.0[reason.index()].fetch_add(1, Relaxed);
    }

    pub(crate) fn counts(&self) -> DropCounts {
        DropCounts(std::array::from_fn(|index| self.0[index].load(Relaxed)))
    }
}

/// Frames and bytes one way.
#[derive(Debug, Default)]
pub(crate) struct FlowCounters {
    frames: AtomicU64,
    bytes: AtomicU64,
}

impl FlowCounters {
    pub(crate) fn add(&self, bytes: usize) {
        self.frames.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }
}

/// Counters of a port.
#[derive(Debug, Default)]
pub(crate) struct PortCounters {
    pub(crate) rx: FlowCounters,
    pub(crate) tx: FlowCounters,
    pub(crate) drops: DropCounters,
}

impl PortCounters {
    pub(crate) fn stats(&self) -> PortStats {
        PortStats {
            rx_frames: self.rx.frames.load(Relaxed),
            rx_bytes: self.rx.bytes.load(Relaxed),
            tx_frames: self.tx.frames.load(Relaxed),
            tx_bytes: self.tx.bytes.load(Relaxed),
            drops: self.drops.counts(),
        }
    }
}
