//! Hashing of the small fixed keys of the tables: two multiplications a word, keyed at random for each table. Stations
//! choose their MACs, so an unkeyed hash would let one of them make all its entries collide.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// Makes hashers with one random key.
#[derive(Clone, Debug)]
pub(crate) struct KeyedHash {
    seed: u64,
    key: u64,
}

impl Default for KeyedHash {
    fn default() -> Self {
        // The standard library's random keys come from the operating system once per process and differ per use.
        let random = RandomState::new();
        Self {
            seed: random.hash_one(0u8),
            key: random.hash_one(1u8) | 1,
        }
    }
}

impl BuildHasher for KeyedHash {
    type Hasher = KeyedHasher;

    #[inline]
    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher {
            state: self.seed,
            key: self.key,
        }
    }
}

/// The state of one hash.
#[derive(Clone, Debug)]
pub(crate) struct KeyedHasher {
    state: u64,
    key: u64,
}

impl KeyedHasher {
    /// The 128-bit product folded: every bit of the word reaches every bit of the state.
    #[inline]
    fn mix(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.key ^ 0x9e37_79b9_7f4a_7c15);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the halves are taken apart"
        )]
        let (high, low) = ((product >> 64) as u64, product as u64);
        self.state = high ^ low.rotate_left(29);
    }
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.mix(u64::from(byte));
        }
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    #[inline]
    fn finish(&self) -> u64 {
        let mut last = self.clone();
        last.mix(self.key);
        last.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_words_spread_over_high_and_low_bits() {
        let hash = KeyedHash::default();
        let mut high = std::collections::HashSet::new();
        let mut low = std::collections::HashSet::new();
        for word in 0u64..4096 {
            let value = hash.hash_one(word);
            high.insert(value >> 52);
            low.insert(value & 0xfff);
        }
        // 4096 balls into 4096 bins leave about 63 % of the bins filled.
        assert!((2300..2900).contains(&high.len()), "{}", high.len());
        assert!((2300..2900).contains(&low.len()), "{}", low.len());
    }

    #[test]
    fn tables_have_keys_of_their_own() {
        assert_ne!(
            KeyedHash::default().hash_one(7u64),
            KeyedHash::default().hash_one(7u64)
        );
    }
}
