//! How long a datagram is under way: one is sent, sent back, and the next one goes when it's here. One-way time is half
//! of that.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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
    let server = thread::spawn(move || answer(&far, &until));
    let times = ask(from, address, time);
    stop.store(true, Ordering::Relaxed);
    if let Err(panic) = server.join() {
        std::panic::resume_unwind(panic);
    }
    times
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

#[track_caller]
fn ask(from: &Namespace, address: SocketAddr, time: Duration) -> Times {
    let unspecified: IpAddr = if address.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let near = from.enter(|| must(UdpSocket::bind((unspecified, 0)), "bind a socket"));
    must(near.connect(address), &format!("connect to {address}"));
    must(near.set_read_timeout(Some(PATIENCE)), "set a time limit");
    let began = Instant::now();
    let (mut sorted, mut lost, mut number) = (Vec::new(), 0, 0_u64);
    while began.elapsed() < time {
        number += 1;
        match round_trip(&near, number) {
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
