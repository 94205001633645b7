//! The Internet checksum (RFC 1071). Summing payload is the costliest thing weft does to a byte, hence the wide sum.
//!
//! The sum is kept in the machine's byte order (RFC 1071 section 2 (B): ones' complement sums may be taken in either)
//! and turned only once, at the end. While under way it has 64 bits: 2^64 - 1 is a multiple of 2^16 - 1, so that adding
//! 64-bit words with end-around carry and folding at the end gives the sum of the 16-bit words.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ipv4::IpProtocol;

mod lanes;
#[cfg(target_arch = "x86_64")]
mod sys;

/// Bytes from which on many lanes are faster than one, the detection of what the processor has included.
const MANY: usize = 128;

/// A ones' complement sum under way. Pieces must start at even offsets of what is summed: only the last may be odd.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(
    /// In machine order, with the carries out of 64 bits brought around.
    u64,
);

impl Sum {
    /// Nothing summed.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`, an odd last one padded with zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() < MANY {
            return Self(few(bytes));
        }
        #[cfg(target_arch = "x86_64")]
        return Self(sys::sum(bytes));
        #[cfg(not(target_arch = "x86_64"))]
        Self(lanes::sum(bytes))
    }

    /// This sum and `bytes`, which start at an even offset.
    #[inline]
    #[must_use]
    pub fn and(self, bytes: &[u8]) -> Self {
        self.plus(Self::of(bytes))
    }

    /// This sum and a 16-bit number (in host order, as it is meant).
    #[inline]
    #[must_use]
    pub fn and_u16(self, value: u16) -> Self {
        self.plus(Self(u64::from(value.to_be())))
    }

    /// This sum and a 32-bit number (in host order).
    #[inline]
    #[must_use]
    pub fn and_u32(self, value: u32) -> Self {
        self.plus(Self(u64::from(value.to_be())))
    }

    /// Both sums together.
    #[inline]
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(plus_around(self.0, other.0))
    }

    /// This sum as if a 16-bit number had not been in it (RFC 1624: add its complement).
    #[inline]
    #[must_use]
    pub fn less_u16(self, value: u16) -> Self {
        self.and_u16(!value)
    }

    /// The sum in 16 bits, not complemented: what goes into the field of a checksum to be finished by offload.
    #[inline]
    pub fn folded(self) -> u16 {
        let sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        let sum = (sum >> 16) + (sum & 0xffff);
        #[expect(clippy::cast_possible_truncation, reason = "33 bits, 32, 17, 16")]
        u16::from_be(sum as u16)
    }

    /// The checksum: the complement of the sum. Over bytes that contain a right checksum it is 0.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.folded()
    }

    /// The checksum for a field in which 0 means "none" (UDP, RFC 768): 0xffff instead, which is the same number in
    /// ones' complement, hence right for TCP too.
    #[inline]
    pub fn finish_nonzero(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// End-around carry. Zero only if both are.
#[inline(always)]
const fn plus_around(a: u64, b: u64) -> u64 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u64
}

/// The sum of a header or of what is left after the lanes.
#[inline]
fn few(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_ne_bytes(*word));
    plus_around(words.fold(0, plus_around), last(rest))
}

/// Less than 8 bytes as if zeros followed, taken in at most three reads.
#[inline(always)]
fn last(bytes: &[u8]) -> u64 {
    let (fours, bytes) = bytes.as_chunks::<4>();
    let (twos, ones) = bytes.as_chunks::<2>();
    let four = fours.first().map_or(0, |four| u32::from_ne_bytes(*four));
    let two = twos.first().map_or(0, |two| u16::from_ne_bytes(*two));
    let one = ones.first().map_or(0, |one| u16::from_ne_bytes([*one, 0]));
    u64::from(four) + u64::from(two) + u64::from(one)
}

/// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768); `len` is of transport header and data.
#[inline]
pub fn pseudo_header_v4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: IpProtocol,
    len: u16,
) -> Sum {
    Sum::of(&source.octets())
        .and(&destination.octets())
        .and_u16(u16::from(protocol.0))
        .and_u16(len)
}

/// The pseudo header over IPv6 (RFC 8200 section 8.1); `len` is of the upper-layer header and data.
#[inline]
pub fn pseudo_header_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: IpProtocol,
    len: u32,
) -> Sum {
    Sum::of(&source.octets())
        .and(&destination.octets())
        .and(&len.to_be_bytes())
        .and_u16(u16::from(protocol.0))
}

#[cfg(test)]
mod tests;
