//! What is counted per peer and for strangers. Written by the workers for every datagram, read now and then by the
//! control plane.
//!
//! Each worker writes to a lane of its own (cache lines of its own), so that workers that talk to the same peer don't
//! take lines from each other; workers beyond [`LANES`] share. Readers add the lanes up. Counts are exact; a reader may
//! see a frame a moment before its bytes.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::drop::TunnelDrop;

/// Lanes per peer: 8 x 256 B = 2 KiB. Most hosts run no more workers than that.
const LANES: usize = 8;

/// Which lane a worker writes to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane(usize);

impl Lane {
    pub(crate) const fn of_worker(worker: usize) -> Self {
        Self(worker % LANES)
    }
}

/// Frames dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DropCounts([u64; TunnelDrop::COUNT]);

impl DropCounts {
    /// How many were dropped for `reason`.
    pub const fn count(&self, reason: TunnelDrop) -> u64 {
        self.0[reason.index()]
    }

    /// Every reason with its count, also those that never occurred.
    pub fn iter(&self) -> impl Iterator<Item = (TunnelDrop, u64)> + '_ {
        TunnelDrop::ALL.into_iter().zip(self.0)
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

/// Counters of a peer. Bytes are those of inner Ethernet frames, without encapsulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PeerStats {
    /// Frames handed to the switch (a superframe is one).
    pub rx_frames: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Datagrams they came in; those that were dropped are not among them.
    pub rx_datagrams: u64,
    /// Frames sent whole (a superframe is one).
    pub tx_frames: u64,
    /// Bytes of them, as the container sent them.
    pub tx_bytes: u64,
    /// Datagrams the kernel took, also of superframes that it did not take whole.
    pub tx_datagrams: u64,
    /// Received datagrams and frames to be sent that were dropped (a superframe is one).
    pub drops: DropCounts,
}

/// What no peer can be blamed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StrangerStats {
    /// Datagrams from addresses that are no peer, and frames to peers that have left.
    pub drops: DropCounts,
    /// UDP payload bytes of the datagrams.
    pub bytes: u64,
    /// Where the last such datagram came from.
    pub last: Option<IpAddr>,
}

/// One worker's counters for one peer. 128 is two lines: what neighbouring-line prefetch takes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct PeerLane {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    rx_datagrams: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    tx_datagrams: AtomicU64,
    drops: [AtomicU64; TunnelDrop::COUNT],
}

#[derive(Debug, Default)]
pub(crate) struct PeerCounters([PeerLane; LANES]);

impl PeerCounters {
    #[inline]
    pub(crate) fn received(&self, lane: Lane, frames: usize, bytes: usize) {
        let lane = &self.0[lane.0];
        add(&lane.rx_frames, frames);
        add(&lane.rx_bytes, bytes);
        add(&lane.rx_datagrams, frames);
    }

    #[inline]
    pub(crate) fn sent(&self, lane: Lane, frames: usize, bytes: usize) {
        let lane = &self.0[lane.0];
        add(&lane.tx_frames, frames);
        add(&lane.tx_bytes, bytes);
    }

    #[inline]
    pub(crate) fn datagrams_sent(&self, lane: Lane, count: usize) {
        add(&self.0[lane.0].tx_datagrams, count);
    }

    #[inline]
    pub(crate) fn dropped(&self, lane: Lane, reason: TunnelDrop, frames: usize) {
        add(&self.0[lane.0].drops[reason.index()], frames);
    }

    pub(super) fn sum(&self) -> PeerStats {
        let mut sum = PeerStats::default();
        for lane in &self.0 {
            sum.rx_frames += lane.rx_frames.load(Ordering::Relaxed);
            sum.rx_bytes += lane.rx_bytes.load(Ordering::Relaxed);
            sum.rx_datagrams += lane.rx_datagrams.load(Ordering::Relaxed);
            sum.tx_frames += lane.tx_frames.load(Ordering::Relaxed);
            sum.tx_bytes += lane.tx_bytes.load(Ordering::Relaxed);
            sum.tx_datagrams += lane.tx_datagrams.load(Ordering::Relaxed);
            add_drops(&mut sum.drops, &lane.drops);
        }
        sum
    }
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct StrangerLane {
    bytes: AtomicU64,
    drops: [AtomicU64; TunnelDrop::COUNT],
}

#[derive(Debug, Default)]
pub(crate) struct StrangerCounters {
    lanes: [StrangerLane; LANES],
    last: LastAddress,
}

impl StrangerCounters {
    #[inline]
    pub(crate) fn stranger(&self, lane: Lane, from: IpAddr, datagrams: usize, bytes: usize) {
        let tally = &self.lanes[lane.0];
        add(&tally.bytes, bytes);
        add(&tally.drops[TunnelDrop::Stranger.index()], datagrams);
        self.last.store(from);
    }

    #[inline]
    pub(crate) fn dropped(&self, lane: Lane, reason: TunnelDrop) {
        add(&self.lanes[lane.0].drops[reason.index()], 1);
    }

    pub(super) fn sum(&self) -> StrangerStats {
        let mut sum = StrangerStats {
            last: self.last.load(),
            ..StrangerStats::default()
        };
        for lane in &self.lanes {
            sum.bytes += lane.bytes.load(Ordering::Relaxed);
            add_drops(&mut sum.drops, &lane.drops);
        }
        sum
    }
}

/// An address that many write and few read, without a lock: a version that is odd while somebody writes. A writer that
/// finds another one writing leaves it at that (theirs is as good a last address as ours); a reader that meets a writer
/// tries again a few times. The payload is atomic too, so a lost race is a wrong answer at worst, and is detected.
#[derive(Debug, Default)]
struct LastAddress {
    /// 0: nothing was written yet.
    version: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
}

impl LastAddress {
    /// Writers hold it for two stores: more tries than this meet a flood of strangers, not a slow writer.
    const READ_TRIES: usize = 100;

    fn store(&self, address: IpAddr) {
        let [high, low] = halves(address);
        let version = self.version.load(Ordering::Relaxed);
        if version != 0
            && self.high.load(Ordering::Relaxed) == high
            && self.low.load(Ordering::Relaxed) == low
        {
            return; // Strangers come in floods: don't take the line from other workers for nothing.
        }
        let odd = version.wrapping_add(1);
        if !version.is_multiple_of(2)
            || self
                .version
                .compare_exchange(version, odd, Ordering::SeqCst, Ordering::Relaxed)
                .is_err()
        {
            return;
        }
        // SeqCst: neither store may be seen before the odd version.
        self.high.store(high, Ordering::SeqCst);
        self.low.store(low, Ordering::SeqCst);
        // Never back to 0, which says that there is no address.
        let even = odd.checked_add(1).unwrap_or(2);
        self.version.store(even, Ordering::SeqCst);
    }

    fn load(&self) -> Option<IpAddr> {
        for _ in 0..Self::READ_TRIES {
            let before = self.version.load(Ordering::SeqCst);
            let high = self.high.load(Ordering::SeqCst);
            let low = self.low.load(Ordering::SeqCst);
            if before == 0 {
                return None;
            }
            if before.is_multiple_of(2) && self.version.load(Ordering::SeqCst) == before {
                let bits = u128::from(high) << 64 | u128::from(low);
                return Some(Ipv6Addr::from_bits(bits).to_canonical());
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// Any address as IPv6 (IPv4 mapped, RFC 4291 section 2.5.5.2), in two halves.
fn halves(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
    .to_bits();
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are taken apart"
    )]
    [(bits >> 64) as u64, bits as u64]
}

fn add_drops(sum: &mut DropCounts, lane: &[AtomicU64; TunnelDrop::COUNT]) {
    for (total, count) in sum.0.iter_mut().zip(lane) {
        *total += count.load(Ordering::Relaxed);
    }
}

#[inline]
fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
