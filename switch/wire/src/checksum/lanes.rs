//! The sum of many bytes for every processor: four chains of additions with carry, which two ports take turns with.

use super::{few, plus_around};

/// The sum, an odd last byte padded with zero.
#[inline]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    let mut lanes = [0u128; 4];
    let (words, rest) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<4>();
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block) {
            // 128 bits do not overflow before there are 2^64 words.
            *lane += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let blocks = lanes.into_iter().map(around).fold(0, plus_around);
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    plus_around(words.fold(blocks, plus_around), few(rest))
}

/// 128 bits to 64.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are taken apart"
)]
const fn around(lane: u128) -> u64 {
    plus_around(lane as u64, (lane >> 64) as u64)
}
