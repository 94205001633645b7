//! What the machine and its kernels counted: processor time of everything, and checksum faults.

use std::fs;
use std::time::Duration;

use super::{Namespace, must};

/// Length of a tick of /proc/stat in milliseconds: USER_HZ is 100 on every Linux (time(7)).
const TICK_MILLIS: u64 = 10;
/// Columns of the `cpu` line that are work: user, nice, system, irq, softirq (proc_stat(5)). Idle, waiting for disks and
/// time stolen by the hypervisor are not.
const BUSY_COLUMNS: [usize; 5] = [0, 1, 2, 5, 6];

/// Processor time that all processes, the kernel and its interrupts have taken since boot, all cores added.
#[track_caller]
pub fn machine_time() -> Duration {
    let stat = must(fs::read_to_string("/proc/stat"), "read /proc/stat");
    match busy_ticks(&stat) {
        Some(ticks) => Duration::from_millis(ticks * TICK_MILLIS),
        None => panic!("/proc/stat has no line for all processors:\n{stat}"),
    }
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let columns: Vec<u64> = line
        .split_whitespace()
        .map(|column| column.parse().ok())
        .collect::<Option<_>>()?;
    BUSY_COLUMNS
        .iter()
        .map(|at| columns.get(*at).copied())
        .sum()
}

/// TCP segments and UDP datagrams, IPv4 and IPv6, that the kernel of this namespace dropped because their checksum was
/// wrong.
#[track_caller]
pub fn checksum_faults(ns: &Namespace) -> u64 {
    let (v4, v6) = ns.enter(|| {
        let read = |name: &str| {
            let path = format!("/proc/thread-self/net/{name}");
            must(fs::read_to_string(&path), &format!("read {path}"))
        };
        (read("snmp"), read("snmp6"))
    });
    let v4: u64 = ["Tcp:", "Udp:"]
        .iter()
        .map(|protocol| {
            let found = snmp_value(&v4, protocol, "InCsumErrors");
            found.unwrap_or_else(|| panic!("/proc/net/snmp has no {protocol} InCsumErrors"))
        })
        .sum();
    // TCP counts both families in one place.
    let v6 = v6.lines().find_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        (name == "Udp6InCsumErrors").then(|| value.trim().parse::<u64>().ok())?
    });
    v4 + v6.unwrap_or(0)
}

/// A value of /proc/net/snmp: a line of names, then a line of values, both beginning with the protocol.
fn snmp_value(text: &str, protocol: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(protocol));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_stolen_time_is_no_work() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy_ticks(stat), Some(7_600_321));
        assert_eq!(busy_ticks("cpu0 1 2 3\n"), None);
        assert_eq!(busy_ticks("cpu 1 2 3\n"), None);
        assert_eq!(busy_ticks("cpu 1 2 x 4 5 6 7\n"), None);
    }

    #[test]
    fn a_counter_is_found_by_its_name_and_not_by_its_place() {
        let text =
            "Udp: In NoPorts InCsumErrors\nUdp: 7 8 9\nUdpLite: In InCsumErrors\nUdpLite: 1 2\n";
        assert_eq!(snmp_value(text, "Udp:", "InCsumErrors"), Some(9));
        assert_eq!(snmp_value(text, "UdpLite:", "InCsumErrors"), Some(2));
        assert_eq!(snmp_value(text, "Udp:", "Out"), None);
        assert_eq!(
            snmp_value("Udp: InCsumErrors\n", "Udp:", "InCsumErrors"),
            None
        );
    }
}
