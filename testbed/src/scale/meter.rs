//! What the controller takes: bytes on the wire, processor time, memory.

use std::time::{Duration, Instant};

use weft_testbed::lab::verdict::{processor_time, resident_kib};

/// What was used up to a moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at: Instant,
    bytes: u64,
    processor: Duration,
}

/// What was used between two readings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Wall clock.
    pub(crate) time: Duration,
    /// Sent by controller and agents together, with IP headers.
    pub(crate) bytes: u64,
    /// The controller's processor time.
    pub(crate) processor: Duration,
}

/// Reads for a controller with that process id.
pub(crate) fn read(pid: u32) -> Reading {
    Reading {
        at: Instant::now(),
        bytes: loopback_bytes(),
        processor: processor_time(pid),
    }
}

impl Reading {
    /// Since this reading; the controller may be another process by now, which began with nothing.
    pub(crate) fn until_now(self, pid: u32) -> Usage {
        let now = read(pid);
        Usage {
            time: now.at - self.at,
            bytes: now.bytes - self.bytes,
            processor: now.processor.saturating_sub(self.processor),
        }
    }
}

/// The controller's resident memory in MiB.
pub(crate) fn memory_mib(pid: u32) -> u64 {
    resident_kib(pid) / 1024
}

/// All that was sent in this network namespace.
fn loopback_bytes() -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let line = table
        .lines()
        .find_map(|line| line.trim().strip_prefix("lo:"));
    // Eight columns of what was received come first.
    let sent = line.and_then(|line| line.split_whitespace().nth(8));
    sent.and_then(|sent| sent.parse().ok()).unwrap_or(0)
}

/// Datagrams of this network namespace that found no room in a socket (RFC 4113 counts them among udpInErrors).
pub(crate) fn overflows() -> u64 {
    let tables = std::fs::read_to_string("/proc/self/net/snmp").unwrap_or_default();
    let mut udp = tables.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let found = columns.find(|(name, _)| *name == "RcvbufErrors");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
