//! Small UDP datagrams from one namespace to another, as fast as one sender can: an open load. Nothing asks the sender
//! to slow down, so what is measured is how much of a flood a switch brings through.

use std::io::{ErrorKind, IoSlice};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt};

use super::sys::receive_batch;
use super::{Namespace, must};

/// Datagrams per system call.
const BATCH: usize = 64;
/// Bytes that wait for the receiver at most: enough that its own turn on a processor is not what is measured.
const RECEIVE_BUFFER: usize = 8 << 20;
/// The receiver gives up waiting for stragglers after this long without one.
const SILENCE: Duration = Duration::from_millis(100);
/// Longest datagram that is received whole; longer ones are cut, and counted.
const DATAGRAM_MAX: usize = 256;

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    offered: AtomicU64,
    received: AtomicU64,
}

/// Datagrams so far, and when that was.
#[derive(Clone, Copy, Debug)]
pub struct Count {
    /// When it was counted.
    pub at: Instant,
    /// Datagrams that the sender tried to send, also those that its kernel refused because a queue was full.
    pub offered: u64,
    /// Datagrams that the receiver read.
    pub received: u64,
}

impl Flood {
    /// Starts to send datagrams of `len` bytes to address `to` of `to_ns`.
    #[track_caller]
    pub fn start(from: &Namespace, (to_ns, to): (&Namespace, IpAddr), len: usize) -> Self {
        let sink = to_ns.enter(|| must(UdpSocket::bind((to, 0)), &format!("bind {to}")));
        must(
            setsockopt(&sink, RcvBufForce, &RECEIVE_BUFFER),
            "widen a receive buffer",
        );
        must(sink.set_read_timeout(Some(SILENCE)), "set a time limit");
        let address = must(sink.local_addr(), "read a socket's address");
        let unspecified: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let source = from.enter(|| must(UdpSocket::bind((unspecified, 0)), "bind a socket"));
        must(source.connect(address), &format!("connect to {address}"));
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let receiver = thread::spawn(move || receive(&sink, &theirs));
        let theirs = Arc::clone(&shared);
        let sender = thread::spawn(move || send(&source, len, &theirs));
        Self {
            shared,
            sender,
            receiver,
        }
    }

    /// How far it is.
    pub fn count(&self) -> Count {
        self.shared.count()
    }

    /// Ends it, waits for what is still under way, and counts.
    #[track_caller]
    pub fn finish(self) -> Count {
        self.shared.stop.store(true, Ordering::Release);
        let ended = [self.sender.join(), self.receiver.join()];
        for end in ended {
            if let Err(panic) = end {
                std::panic::resume_unwind(panic);
            }
        }
        self.shared.count()
    }
}

impl Shared {
    fn count(&self) -> Count {
        Count {
            at: Instant::now(),
            offered: self.offered.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }
}

fn send(source: &UdpSocket, len: usize, shared: &Shared) {
    let payload = vec![0x5a; len];
    let messages = [[IoSlice::new(&payload)]; BATCH];
    let addresses: [Option<()>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::<()>::preallocate(BATCH, None);
    while !shared.stop.load(Ordering::Acquire) {
        let sent = sendmmsg(
            source.as_raw_fd(),
            &mut headers,
            &messages,
            addresses,
            [],
            MsgFlags::empty(),
        );
        let offered = match sent {
            // A batch that was cut short met a full queue.
            Ok(results) => results.count().saturating_add(1).min(BATCH),
            Err(Errno::ENOBUFS | Errno::EAGAIN) => 1,
            Err(Errno::EINTR) => 0,
            // The network is being taken down or changed; the load goes on.
            Err(
                Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EHOSTUNREACH | Errno::ECONNREFUSED,
            ) => 0,
            Err(error) => panic!("cannot send a batch of datagrams: {error}"),
        };
        shared.offered.fetch_add(offered as u64, Ordering::Relaxed);
    }
}

fn receive(sink: &UdpSocket, shared: &Shared) {
    let mut buffers = vec![[0; DATAGRAM_MAX]; BATCH];
    loop {
        let ended = shared.stop.load(Ordering::Acquire);
        match receive_batch(sink.as_fd(), &mut buffers) {
            Ok(count) => {
                shared.received.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock && ended => break,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("cannot receive a batch of datagrams: {error}"),
        }
    }
}
