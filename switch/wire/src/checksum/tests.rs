//! Against the sum as RFC 1071 writes it.

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
    fn the_wide_sum_is_the_slow_sum(bytes in prop::collection::vec(any::<u8>(), 0..4200)) {
        prop_assert_eq!(Sum::of(&bytes).finish(), slow(&bytes));
    }

    #[test]
    fn pieces_sum_as_the_whole(
        bytes in prop::collection::vec(any::<u8>(), 0..4200),
        at in 0usize..2100,
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

#[test]
fn every_length_and_start_sums_as_slowly() {
    let bytes: Vec<u8> = (0..4200u32)
        .map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8)
        .collect();
    let ones = vec![0xff; 4200];
    for bytes in [bytes, ones] {
        for len in 0..=4096 {
            let start = len % 64;
            let bytes = &bytes[start..start + len];
            assert_eq!(Sum::of(bytes).finish(), slow(bytes), "{len} from {start}");
        }
    }
}

#[test]
fn lanes_of_every_width_agree() {
    for len in 0..2000 {
        let bytes: Vec<u8> = (0..len)
            .map(|at: usize| u8::try_from(at * 131 % 255).unwrap())
            .collect();
        assert_eq!(Sum(lanes::sum(&bytes)).finish(), slow(&bytes), "{len}");
        #[cfg(target_arch = "x86_64")]
        assert_eq!(Sum(sys::sum(&bytes)).finish(), slow(&bytes), "{len}");
        assert_eq!(Sum(few(&bytes)).finish(), slow(&bytes), "{len}");
    }
}

#[test]
fn a_megabyte_does_not_overflow() {
    for byte in [0x00, 0x7f, 0x80, 0xff] {
        let bytes = vec![byte; (1 << 21) + 77];
        assert_eq!(Sum::of(&bytes).finish(), slow(&bytes), "{byte:#x}");
    }
}
