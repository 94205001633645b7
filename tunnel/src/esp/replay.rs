//! The anti-replay window (RFC 4303 section 3.4.3) for several receiving workers and no lock.
//!
//! As in RFC 6479 the window is a ring of blocks that moves by whole blocks. Here each block's word holds its number
//! beside its bits, so that one compare-and-swap both moves the ring and marks a packet, and the window's upper end
//! needs no variable of its own: a packet is too old exactly when its place in the ring belongs to a later block.
//! Numbers of blocks only grow in a word, hence nothing is accepted twice, whatever the order of the workers.

use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of the ring. A power of two.
const BLOCKS: usize = 256;
/// Packets per block: half of a word, the other half is the block's number.
const BLOCK_PACKETS: u32 = 32;
/// How far a packet may be behind the newest one and still be accepted, at the least: 8,160 packets, about 60 full
/// trains, more than workers of one host are apart.
pub const REPLAY_WINDOW_PACKETS: u32 = (256 - 1) * BLOCK_PACKETS;

/// Why a sequence number was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// Seen before.
    #[error("the sequence number came before")]
    Duplicate,
    /// Too far behind to know, or 0, which no sender uses.
    #[error("the sequence number is older than the window")]
    TooOld,
}

/// Which sequence numbers of one key have come.
#[derive(Debug)]
pub struct ReplayWindow {
    /// Number of the block plus one (0: none yet) above 32 bits, one per packet.
    ring: Box<[AtomicU64]>,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self {
            ring: (0..BLOCKS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

/// A packet's place: index in the ring, number of its block plus one, bit.
const fn place(sequence: u32) -> (usize, u64, u64) {
    let block = sequence / BLOCK_PACKETS;
    let bit = 1 << (sequence % BLOCK_PACKETS);
    (block as usize % BLOCKS, block as u64 + 1, bit)
}

impl ReplayWindow {
    /// Whether a packet could be accepted: cheap, asked before its authenticity is known.
    ///
    /// # Errors
    /// [`Replayed`] when [`Self::accept`] would refuse too.
    #[inline]
    pub fn check(&self, sequence: u32) -> Result<(), Replayed> {
        let (index, block, bit) = place(sequence);
        verdict(
            sequence,
            self.ring[index].load(Ordering::Relaxed),
            block,
            bit,
        )
        .map(drop)
    }

    /// Marks an authenticated packet as received.
    ///
    /// # Errors
    /// [`Replayed`] when it was there before or is too old; of several workers with the same packet one succeeds.
    #[inline]
    pub fn accept(&self, sequence: u32) -> Result<(), Replayed> {
        let (index, block, bit) = place(sequence);
        let mut word = self.ring[index].load(Ordering::Relaxed);
        loop {
            let marked = verdict(sequence, word, block, bit)?;
            // Relaxed suffices: the word is all the state there is, nothing else is published by it.
            let swapped = self.ring[index].compare_exchange_weak(
                word,
                marked,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            match swapped {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
}

/// The word with the packet marked.
const fn verdict(sequence: u32, word: u64, block: u64, bit: u64) -> Result<u64, Replayed> {
    let there = word >> 32;
    if sequence == 0 || there > block {
        return Err(Replayed::TooOld);
    }
    if there < block {
        return Ok(block << 32 | bit);
    }
    if word & bit != 0 {
        return Err(Replayed::Duplicate);
    }
    Ok(word | bit)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_whole_window_behind_the_newest_packet_is_open_once() {
        let window = ReplayWindow::default();
        let newest = 1_000_000;
        window.accept(newest).unwrap();
        for sequence in newest - REPLAY_WINDOW_PACKETS..newest {
            window.accept(sequence).unwrap();
            assert_eq!(window.accept(sequence), Err(Replayed::Duplicate));
        }
        // One ring further back every place belongs to a later block.
        let ring = REPLAY_WINDOW_PACKETS + BLOCK_PACKETS;
        assert_eq!(window.accept(newest - ring), Err(Replayed::TooOld));
    }

    #[test]
    fn zero_is_refused_and_the_last_number_is_not() {
        let window = ReplayWindow::default();
        assert_eq!(window.accept(0), Err(Replayed::TooOld));
        window.accept(1).unwrap();
        window.accept(u32::MAX).unwrap();
        assert_eq!(window.accept(u32::MAX), Err(Replayed::Duplicate));
    }

    #[test]
    fn of_workers_that_race_exactly_one_accepts_each_packet() {
        let window = ReplayWindow::default();
        let accepted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (1..=8_000).filter(|s| window.accept(*s).is_ok()).count()))
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(accepted, 8_000);
    }

    proptest! {
        /// The model is a set and the highest number.
        #[test]
        fn it_does_as_the_model_does(sequences in proptest::collection::vec(1_u32..30_000, 1..2_000)) {
            let window = ReplayWindow::default();
            let (mut seen, mut newest) = (HashSet::new(), 0);
            for sequence in sequences {
                let checked = window.check(sequence);
                let result = window.accept(sequence);
                prop_assert_eq!(checked, result);
                if seen.contains(&sequence) {
                    prop_assert!(result.is_err());
                } else if sequence + REPLAY_WINDOW_PACKETS >= newest {
                    prop_assert_eq!(result, Ok(()));
                }
                if result.is_ok() {
                    prop_assert!(seen.insert(sequence));
                    newest = newest.max(sequence);
                }
            }
        }
    }
}
