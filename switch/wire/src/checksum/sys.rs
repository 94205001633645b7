//! The sum with AVX2, for processors that have it.
#![expect(
    unsafe_code,
    reason = "loads of vectors, and a function that only some processors can run"
)]

use std::arch::is_x86_feature_detected;
use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi16,
    _mm256_setzero_si256, _mm256_xor_si256,
};

use super::{few, lanes, plus_around};

/// Bytes of a vector, and the 16-bit words that it holds.
const VECTOR: usize = 32;
const WORDS: i64 = 16;
/// Sums under way at a time: an addition takes longer than the next one waits.
const CHAINS: usize = 4;
/// Vectors after which the 32-bit sums are taken out. A vector adds two words of at most 2^15 in magnitude to each, so
/// that all chains together are far from 2^31.
const PART: usize = 1 << 11;

/// See [`lanes::sum`].
#[inline]
pub(super) fn sum(bytes: &[u8]) -> u64 {
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, as was just asked (the answer is cached).
        unsafe { sum_avx2(bytes) }
    } else {
        lanes::sum(bytes)
    }
}

#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    let (vectors, rest) = bytes.as_chunks::<VECTOR>();
    let mut sum = few(rest);
    for part in vectors.chunks(PART) {
        sum = plus_around(sum, sum_part(part));
    }
    sum
}

/// At most [`PART`] vectors. The multiply-add instruction takes words as signed: each goes in less 2^15, which is one flip
/// of a bit, and comes back at the end.
#[inline]
#[target_feature(enable = "avx2")]
fn sum_part(vectors: &[[u8; VECTOR]]) -> u64 {
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    let (blocks, rest) = vectors.as_chunks::<CHAINS>();
    for block in blocks {
        for (sum, vector) in sums.iter_mut().zip(block) {
            *sum = _mm256_add_epi32(*sum, pairs(vector));
        }
    }
    for (sum, vector) in sums.iter_mut().zip(rest) {
        *sum = _mm256_add_epi32(*sum, pairs(vector));
    }
    let [a, b, c, d] = sums;
    let total = across(_mm256_add_epi32(
        _mm256_add_epi32(a, b),
        _mm256_add_epi32(c, d),
    ));
    // Not below zero: each word is there with what it lacked.
    (total + (vectors.len() as i64) * (WORDS << 15)).cast_unsigned()
}

/// Sums of neighbouring words, each less 2^15.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs(vector: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the array has the vector's 32 bytes, and this load needs no alignment.
    let words = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
    let signed = _mm256_xor_si256(words, _mm256_set1_epi16(i16::MIN));
    _mm256_madd_epi16(signed, _mm256_set1_epi16(1))
}

/// The sum of a vector's eight numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn across(sums: __m256i) -> i64 {
    // SAFETY: both are 32 bytes, and eight 32-bit numbers may have any bits.
    let numbers: [i32; 8] = unsafe { std::mem::transmute(sums) };
    numbers.into_iter().map(i64::from).sum()
}
