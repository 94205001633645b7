//! Sequence numbers: 32 bits that wrap around (RFC 9293 section 3.4).

/// How far `to` is ahead of `from`; negative if it is behind.
#[inline]
#[expect(
    clippy::cast_possible_wrap,
    reason = "the wrap is the arithmetic of sequence numbers"
)]
pub(super) const fn ahead(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from) as i32
}

/// `to` is behind `from` or there.
#[inline]
pub(super) const fn at_or_before(to: u32, from: u32) -> bool {
    ahead(from, to) <= 0
}

/// A length in sequence numbers. Nothing here is longer than a window.
#[inline]
pub(super) fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX / 2)
}
