//! Waiting until the world is as it should be, and counting what a process holds.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::names_in;
use std::path::Path;

/// Between two looks.
const TICK: Duration = Duration::from_millis(10);

/// So long a test waits for what has no deadline of its own: much longer than it takes, also on a slow machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits until `holds`; returns how long that took. The test ends here when it takes longer than `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(TICK);
    }
    began.elapsed()
}

/// Waits until `look` returns `wanted`; shows both when it doesn't.
#[track_caller]
pub fn wait_for<T: PartialEq + std::fmt::Debug>(
    limit: Duration,
    what: &str,
    wanted: &T,
    look: impl Fn() -> T,
) {
    let deadline = Instant::now() + limit;
    loop {
        let seen = look();
        if seen == *wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not within {limit:?}: {what}\n  seen   {seen:?}\n  wanted {wanted:?}"
        );
        thread::sleep(TICK);
    }
}

/// What grew between two sets of counters; what did not change is left out.
pub fn growth(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> BTreeMap<String, u64> {
    let grown = after
        .iter()
        .map(|(name, now)| (name.clone(), now - before.get(name).copied().unwrap_or(0)));
    grown.filter(|(_, count)| *count > 0).collect()
}

/// Counters as a test writes them down.
pub fn counts(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs
        .iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

/// Open file descriptors of a process.
pub fn open_files(pid: u32) -> usize {
    names_in(Path::new(&format!("/proc/{pid}/fd"))).len()
}

/// Resident memory of a process in KiB.
#[track_caller]
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("process {pid} is gone: /proc shows no VmRSS"))
}

/// Processor time of a process so far, all threads, user and system. Counted in ticks of 10 ms.
#[track_caller]
pub fn processor_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces; utime and stime are the 12th and 13th fields after it (proc_pid_stat(5)).
    let fields = stat
        .rsplit_once(')')
        .map(|(_, rest)| rest.split_whitespace().collect::<Vec<_>>());
    let ticks = fields.and_then(|fields| {
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    });
    match ticks {
        Some(ticks) => Duration::from_millis(ticks * 10),
        None => panic!("process {pid} is gone: /proc shows no processor time"),
    }
}

/// The middle one.
#[track_caller]
pub fn median(mut times: Vec<Duration>) -> Duration {
    assert!(!times.is_empty(), "a median needs something measured");
    times.sort_unstable();
    times[times.len() / 2]
}
