//! The Internet checksum (RFC 1071). Summing payload is the costliest thing weft does to a byte, hence the wide sum.
//!
//! The sum is kept in the machine's byte order (RFC 1071 section 2 (B): ones' complement sums may be taken in either)
//! and turned only once, at the end.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::ipv4::IpProtocol;

/// A ones' complement sum under way. Pieces must start at even offsets of what is summed: only the last may be odd.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(
    /// At most 33 bits, in machine order.
    u64,
);

impl Sum {
    /// Nothing summed.
    pub const ZERO: Self = Self(0);

    /// The sum of `bytes`, an odd last one padded with zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        let mut lanes = [0u128; 4];
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u128::from(u64::from_ne_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        // A frame is below 2^20 bytes: the lanes are far from 128 bits.
        let mut sum = a + b + c + d;
        let (words, rest) = rest.as_chunks::<8>();
        for word in words {
            sum += u128::from(u64::from_ne_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u128::from(u64::from_ne_bytes(last));
        Self(narrow(sum))
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

    /// Both sums together.
    #[inline]
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(narrow(u128::from(self.0) + u128::from(other.0)))
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
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 16 bits")]
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

/// Ends the carries of a sum of 64-bit words: 128 bits to 33.
#[inline]
fn narrow(sum: u128) -> u64 {
    let mask = u128::from(u32::MAX);
    let sum = (sum & mask) + ((sum >> 32) & mask) + ((sum >> 64) & mask) + (sum >> 96);
    #[expect(clippy::cast_possible_truncation, reason = "four numbers of 32 bits")]
    let sum = sum as u64;
    (sum & 0xffff_ffff) + (sum >> 32)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The sum as RFC 1071 section 4.1 writes it.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!((sum.folded(), sum.finish()), (0xddf2, !0xddf2));
        assert_eq!(Sum::ZERO.finish(), 0xffff);
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_all_ones() {
        assert_eq!(Sum::of(&[0xff, 0xff]).finish(), 0);
        assert_eq!(Sum::of(&[0xff, 0xff]).finish_nonzero(), 0xffff);
        assert_eq!(Sum::of(&[0x00, 0x01]).finish_nonzero(), 0xfffe);
    }

    #[test]
    fn a_superframe_of_all_ones_does_not_overflow() {
        let ones = vec![0xff; 65_550];
        assert_eq!(Sum::of(&ones).finish(), slow(&ones));
        let mut sum = Sum::ZERO;
        for _ in 0..1000 {
            sum = sum.and(&ones).and_u16(0xffff);
        }
        assert_eq!(sum.finish(), 0);
    }

    proptest! {
        #[test]
        fn the_wide_sum_is_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sum::of(&bytes).finish(), slow(&bytes));
        }

        #[test]
        fn pieces_sum_as_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..300),
            at in 0usize..150,
            value: u16,
        ) {
            let at = (at * 2).min(bytes.len() & !1);
            let sum = Sum::of(&bytes[..at]).and(&bytes[at..]);
            prop_assert_eq!(sum.finish(), slow(&bytes));
            let whole = [&value.to_be_bytes()[..], &bytes].concat();
            prop_assert_eq!(sum.and_u16(value).finish(), slow(&whole));
            // +0 and -0 are the same number in ones' complement.
            let back = sum.and_u16(value).less_u16(value).finish();
            prop_assert_eq!(back % 0xffff, sum.finish() % 0xffff);
        }
    }
}
