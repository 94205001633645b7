//! How long a datagram is under way: one is sent, sent back, and the next one goes when it's here. One-way time is half
//! of that.
//!
//! Both sides keep to a core of their own, as on two machines. Left to itself the scheduler now and then runs them on one
//! core, where a datagram through the kernel is a function call and never wakes anything: 2 µs instead of 30, by chance.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{Namespace, must};

/// A datagram that isn't back by then is lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// Payload of a datagram in bytes; its first eight are its number.
const PAYLOAD_LEN: usize = 64;
/// How often the side that answers looks whether it's over.
const ANSWER_TICK: Duration = Duration::from_millis(50);

/// One-way times of many datagrams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    sorted: Vec<Duration>,
    /// Datagrams that did not come back within a second; each counts as a second.
    pub lost: u64,
}

impl Times {
    /// The time that this share (0 to 1) of the datagrams did not exceed.
    #[track_caller]
    pub fn percentile(&self, share: f64) -> Duration {
        assert!(!self.sorted.is_empty(), "nothing was measured");
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a count of samples in memory, then cut to the last one"
        )]
        let rank = (share * self.sorted.len() as f64).ceil() as usize;
        self.sorted[rank.clamp(1, self.sorted.len()) - 1]
    }

    /// How many datagrams there were.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

/// Sends datagrams to and fro for `time` between `from` and address `to` of `to_ns`, one at a time.
#[track_caller]
pub fn one_way_times(from: &Namespace, (to_ns, to): (&Namespace, IpAddr), time: Duration) -> Times {
    let far = to_ns.enter(|| must(UdpSocket::bind((to, 0)), &format!("bind {to}")));
    let address = must(far.local_addr(), "read a socket's address");
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let server = thread::spawn(move || {
        keep_to_core(1);
        answer(&far, &until);
    });
    let near = from.enter(|| must(UdpSocket::bind((unspecified(to), 0)), "bind a socket"));
    must(near.connect(address), &format!("connect to {address}"));
    let client = thread::spawn(move || {
        keep_to_core(0);
        ask(&near, time)
    });
    let times = client.join();
    stop.store(true, Ordering::Relaxed);
    match (times, server.join()) {
        (Ok(times), Ok(())) => times,
        (Err(panic), _) | (_, Err(panic)) => std::panic::resume_unwind(panic),
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    }
}

/// Pins the calling thread to a core, counted from 0 and beginning again when there are fewer.
fn keep_to_core(core: usize) {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    must(set.set(core % cores), "name a core");
    must(sched_setaffinity(Pid::from_raw(0), &set), "pin a thread");
}

fn answer(far: &UdpSocket, stop: &AtomicBool) {
    must(far.set_read_timeout(Some(ANSWER_TICK)), "set a time limit");
    let mut buffer = [0; PAYLOAD_LEN];
    while !stop.load(Ordering::Relaxed) {
        match far.recv_from(&mut buffer) {
            // An answer that finds a full queue is lost like any other.
            Ok((len, back)) => drop(far.send_to(&buffer[..len], back)),
            Err(error) if is_quiet(&error) => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}

fn ask(near: &UdpSocket, time: Duration) -> Times {
    must(near.set_read_timeout(Some(PATIENCE)), "set a time limit");
    let began = Instant::now();
    let (mut sorted, mut lost, mut number) = (Vec::new(), 0, 0_u64);
    while began.elapsed() < time {
        number += 1;
        match round_trip(near, number) {
            Some(round_trip) => sorted.push(round_trip / 2),
            None => {
                sorted.push(PATIENCE);
                lost += 1;
            }
        }
    }
    sorted.sort_unstable();
    Times { sorted, lost }
}

fn round_trip(near: &UdpSocket, number: u64) -> Option<Duration> {
    let mut buffer = [0; PAYLOAD_LEN];
    buffer[..8].copy_from_slice(&number.to_be_bytes());
    let sent = Instant::now();
    // What the own kernel refuses is lost too, and then nothing comes back.
    let _ = near.send(&buffer);
    loop {
        match near.recv(&mut buffer) {
            // A latecomer of an earlier number was counted as lost.
            Ok(_) if buffer[..8] != number.to_be_bytes() => {}
            Ok(_) => return Some(sent.elapsed()),
            Err(error) if is_quiet(&error) => return None,
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}

fn is_quiet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock
            | ErrorKind::TimedOut
            | ErrorKind::Interrupted
            | ErrorKind::ConnectionRefused
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let sorted = (1..=100).map(Duration::from_micros).collect();
        let times = Times { sorted, lost: 0 };
        assert_eq!(times.percentile(0.5), Duration::from_micros(50));
        assert_eq!(times.percentile(0.99), Duration::from_micros(99));
        assert_eq!(times.percentile(1.0), Duration::from_micros(100));
        assert_eq!(times.percentile(0.0), Duration::from_micros(1));
    }
}
