//! What is counted per port and per peer. Written by the workers for every frame, read now and then by the control
//! plane.
//!
//! Every worker writes to a [`Lane`] of its own, in cache lines of its own, so that workers that serve the same port
//! don't take lines from each other; readers add the lanes up. Counts are exact; a reader may see a frame a moment
//! before its bytes. A frame that is taken is delivered at least once or dropped for exactly one reason at its source;
//! a delivery that fails is a drop where it failed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::ser::{Serialize, SerializeMap, Serializer};
use weft_wire::PeerId;

use crate::verdict::DropReason;

/// Which worker counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lane(usize);

impl Lane {
    /// The lane of worker `index`.
    pub const fn of_worker(index: usize) -> Self {
        Self(index)
    }
}

/// Frames dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts([u64; DropReason::COUNT]);

impl DropCounts {
    /// How many were dropped for `reason`.
    pub const fn count(&self, reason: DropReason) -> u64 {
        self.0[reason.index()]
    }

    /// Every reason with its count, also those that never occurred.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.0)
    }

    /// All reasons together.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// A map from reason to count, without the reasons that never occurred.
impl Serialize for DropCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (reason, count) in self.iter().filter(|(_, count)| *count > 0) {
            map.serialize_entry(reason.name(), &count)?;
        }
        map.end()
    }
}

/// Counters of a port or peer since it was added. Bytes are those of whole Ethernet frames without FCS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct TrafficStats {
    /// Frames taken from there (a superframe is one), dropped ones included.
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Frames given there.
    pub tx_frames: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames taken from there that went nowhere, and frames that could not be given there.
    pub drops: DropCounts,
}

/// Counters of a port: `rx` came from the container.
pub type PortStats = TrafficStats;
/// Counters of a peer: `rx` came out of its tunnel. What the tunnel itself drops it counts.
pub type PeerDropStats = TrafficStats;

/// One worker's counters. 128 is two lines: what neighbouring-line prefetch takes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tally {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    drops: [AtomicU64; DropReason::COUNT],
}

/// The counters of one port or peer.
#[derive(Debug)]
pub(crate) struct Counters(Box<[Tally]>);

impl Counters {
    pub(crate) fn new(lanes: usize) -> Self {
        Self((0..lanes.max(1)).map(|_| Tally::default()).collect())
    }

    #[inline]
    fn tally(&self, lane: Lane) -> &Tally {
        &self.0[lane.0 % self.0.len()]
    }

    #[inline]
    pub(crate) fn received(&self, lane: Lane, bytes: usize) {
        let tally = self.tally(lane);
        add(&tally.rx_frames, 1);
        add(&tally.rx_bytes, bytes);
    }

    #[inline]
    pub(crate) fn sent(&self, lane: Lane, bytes: usize) {
        self.sent_all(lane, 1, bytes);
    }

    /// So many frames with all these bytes.
    #[inline]
    pub(crate) fn sent_all(&self, lane: Lane, frames: usize, bytes: usize) {
        let tally = self.tally(lane);
        add(&tally.tx_frames, frames);
        add(&tally.tx_bytes, bytes);
    }

    #[inline]
    pub(crate) fn dropped(&self, lane: Lane, reason: DropReason) {
        self.dropped_all(lane, reason, 1);
    }

    #[inline]
    pub(crate) fn dropped_all(&self, lane: Lane, reason: DropReason, frames: usize) {
        add(&self.tally(lane).drops[reason.index()], frames);
    }

    pub(crate) fn sum(&self) -> TrafficStats {
        let mut sum = TrafficStats::default();
        for tally in &self.0 {
            sum.rx_frames += tally.rx_frames.load(Ordering::Relaxed);
            sum.rx_bytes += tally.rx_bytes.load(Ordering::Relaxed);
            sum.tx_frames += tally.tx_frames.load(Ordering::Relaxed);
            sum.tx_bytes += tally.tx_bytes.load(Ordering::Relaxed);
            for (total, count) in sum.drops.0.iter_mut().zip(&tally.drops) {
                *total += count.load(Ordering::Relaxed);
            }
        }
        sum
    }

    fn reset(&self) {
        for tally in &self.0 {
            let totals = [
                &tally.rx_frames,
                &tally.rx_bytes,
                &tally.tx_frames,
                &tally.tx_bytes,
            ];
            for count in totals.into_iter().chain(&tally.drops) {
                count.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[inline]
fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

/// Peers per page of the ledger, and pages.
const PAGE: usize = 128;
/// Peers that have counters of their own: as many as a table of tunnels will ever hold. Those above share one set.
pub(crate) const MAX_COUNTED_PEERS: usize = PAGE * PAGE;

type Page = Box<[OnceLock<Counters>]>;

/// The counters of all peers, made when a peer first shows. Grows by pages that never move, so that readers need no
/// lock: a peer is not announced to the switch before its frames come.
#[derive(Debug)]
pub(crate) struct PeerLedger {
    lanes: usize,
    pages: Box<[OnceLock<Page>]>,
    /// Of peers beyond [`MAX_COUNTED_PEERS`].
    beyond: Counters,
}

impl PeerLedger {
    pub(crate) fn new(lanes: usize) -> Self {
        let pages = (0..PAGE).map(|_| OnceLock::new()).collect();
        Self {
            lanes,
            pages,
            beyond: Counters::new(lanes),
        }
    }

    #[inline]
    pub(crate) fn counters(&self, peer: PeerId) -> &Counters {
        let Some(page) = self.pages.get(peer.index() / PAGE) else {
            return &self.beyond;
        };
        let page = page.get_or_init(|| (0..PAGE).map(|_| OnceLock::new()).collect());
        page[peer.index() % PAGE].get_or_init(|| Counters::new(self.lanes))
    }

    /// The sums of a peer; zeros for one that never showed.
    pub(crate) fn sum(&self, peer: PeerId) -> TrafficStats {
        if peer.index() >= MAX_COUNTED_PEERS {
            return self.beyond.sum();
        }
        self.present(peer).map(Counters::sum).unwrap_or_default()
    }

    /// Starts a peer's counts anew: its number may be given to another.
    pub(crate) fn reset(&self, peer: PeerId) {
        if let Some(counters) = self.present(peer) {
            counters.reset();
        }
    }

    fn present(&self, peer: PeerId) -> Option<&Counters> {
        self.pages.get(peer.index() / PAGE)?.get()?[peer.index() % PAGE].get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_add_up_and_reasons_keep_apart() {
        let counters = Counters::new(2);
        counters.received(Lane(0), 60);
        counters.received(Lane(1), 40);
        counters.received(Lane(2), 1);
        counters.sent(Lane(1), 7);
        counters.dropped(Lane(0), DropReason::Runt);
        counters.dropped(Lane(1), DropReason::Runt);
        counters.dropped(Lane(1), DropReason::TooBig);
        let sum = counters.sum();
        assert_eq!((sum.rx_frames, sum.rx_bytes), (3, 101));
        assert_eq!((sum.tx_frames, sum.tx_bytes), (1, 7));
        assert_eq!(sum.drops.count(DropReason::Runt), 2);
        assert_eq!(sum.drops.total(), 3);
    }

    #[test]
    fn a_peer_counts_from_its_first_frame_and_starts_anew_when_it_left() {
        let ledger = PeerLedger::new(1);
        for peer in [0, 129, u32::MAX] {
            let peer = PeerId(peer);
            assert_eq!(ledger.sum(peer), TrafficStats::default());
            ledger.counters(peer).received(Lane(0), 60);
            assert_eq!(ledger.sum(peer).rx_frames, 1);
        }
        ledger.reset(PeerId(129));
        assert_eq!(ledger.sum(PeerId(129)), TrafficStats::default());
        assert_eq!(ledger.sum(PeerId(0)).rx_bytes, 60);
    }
}
