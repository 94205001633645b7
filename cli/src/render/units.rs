//! Numbers for people. JSON has them exactly.

use std::collections::BTreeMap;
use std::fmt::Display;

/// A count with at most four digits: `950`, `12.3k`, `4.0M`.
pub(super) fn count(number: u64) -> String {
    scaled(number, 1000, &["", "k", "M", "G", "T", "P", "E"])
}

/// Bytes: `950 B`, `12.3 KiB`, `4.0 GiB`.
pub(super) fn bytes(number: u64) -> String {
    scaled(
        number,
        1024,
        &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"],
    )
}

/// Bits per second: `100.0mbit`, as `--rate` takes it.
pub(super) fn rate(bits_per_sec: u64) -> String {
    scaled(bits_per_sec, 1000, &["bit", "kbit", "mbit", "gbit", "tbit"])
}

/// One decimal in integers, cut and not rounded: what is shown was really counted.
fn scaled(number: u64, step: u64, units: &[&str]) -> String {
    let (mut whole, mut tenths, mut unit) = (number, 0, 0);
    while whole >= step && unit + 1 < units.len() {
        tenths = (whole % step) * 10 / step;
        whole /= step;
        unit += 1;
    }
    let unit_name = units[unit];
    if unit == 0 {
        format!("{whole}{unit_name}")
    } else {
        format!("{whole}.{tenths}{unit_name}")
    }
}

/// Frames and bytes in one cell.
pub(super) fn traffic(frames: u64, octets: u64) -> String {
    format!("{} ({})", bytes(octets), count(frames))
}

/// Every reason with its count, the most frequent first: `3 spoofed_mac, 1 too_big`; `0` when nothing was dropped.
pub(super) fn drops(drops: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<_> = drops.iter().filter(|(_, count)| **count > 0).collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if reasons.is_empty() {
        return "0".to_owned();
    }
    let told: Vec<_> = reasons
        .into_iter()
        .map(|(reason, number)| format!("{} {reason}", count(*number)))
        .collect();
    told.join(", ")
}

/// A duration in its two largest units: `3m 5s`, `2days 4h`.
pub(super) fn seconds(seconds: u64) -> String {
    let whole = humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Items with commas.
pub(super) fn list<T: Display>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_rounded_up() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1999), "1.9k");
        assert_eq!(count(12_345_678), "12.3M");
        assert_eq!(count(u64::MAX), "18.4E");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
        assert_eq!(traffic(1200, 2048), "2.0 KiB (1.2k)");
    }

    #[test]
    fn drops_tell_every_reason_the_most_frequent_first() {
        let reasons = [("too_big", 1), ("spoofed_mac", 3), ("never", 0)];
        let reasons = reasons
            .map(|(reason, count)| (reason.to_owned(), count))
            .into();
        assert_eq!(drops(&reasons), "3 spoofed_mac, 1 too_big");
        assert_eq!(drops(&BTreeMap::new()), "0");
    }

    #[test]
    fn a_duration_has_at_most_two_units() {
        assert_eq!(seconds(0), "0s");
        assert_eq!(seconds(3 * 86_400 + 4 * 3600 + 5), "3days 4h");
    }
}
