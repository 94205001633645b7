//! Frames -> trains of datagrams, and trains to the kernel: what is cut from a superframe leaves in one call, and so do
//! short frames that follow each other to the same place. Decides nothing about peers or networks.
//!
//! A train (UDP_SEGMENT) has datagrams of equal size and a last one that may be shorter; they share socket and
//! destination. So a superframe is one or two trains, and its payload is not copied. Whole short frames wait in
//! [`Trains`] for others of their size until the worker says [`Trains::flush`] (before it sleeps), the train is full, or
//! a frame comes that doesn't go with them. Order within a flow stays, because a flow keeps its socket and peer, and
//! whatever can't join the waiting train sends it off first.
//!
//! Kernels that refuse trains (or devices: EIO) are found out by sending the same datagrams one by one: where that works
//! trains are shortened, then given up for good.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use socket2::SockAddr;
use weft_wire::PeerId;

use super::bind::SourcePool;
use super::encap::{Encap, HEAD_LEN};
use super::sys::{self, Outbox, SEND_BATCH};
use crate::drop::TunnelDrop;
use crate::mtu::TRAIN_BYTES_MAX;
use crate::peer::{Lane, Peer, PeerCounters};

/// UDP_MAX_SEGMENTS of Linux before 6.9.
const OLD_KERNEL_TRAIN: usize = 64;
/// Longest datagram that is copied to travel with others: a copy must cost less than the system call it saves.
const JOINED_BYTES_MAX: usize = 4096;
/// How often an error of an earlier send (an ICMP message that came meanwhile) is passed over.
const PENDING_ERROR_RETRIES: usize = 1;

/// One worker's way out.
#[derive(Debug)]
pub(super) struct Trains {
    sources: Arc<SourcePool>,
    outbox: Outbox,
    lane: Lane,
    /// Most datagrams of a train; 1 where the kernel takes none, or shall not.
    longest: usize,
    waiting: Waiting,
}

/// Whole datagrams of one size that go to one place together.
#[derive(Debug)]
struct Waiting {
    bytes: Vec<u8>,
    /// Frames in it, and their bytes.
    count: usize,
    frame_bytes: usize,
    /// Bytes of each datagram, but the last.
    size: usize,
    to: Option<Destination>,
}

#[derive(Debug)]
struct Destination {
    peer: PeerId,
    socket: usize,
    address: SockAddr,
    counters: Arc<PeerCounters>,
}

impl Trains {
    pub(super) fn new(sources: Arc<SourcePool>, lane: Lane, gso: bool) -> Self {
        Self {
            sources,
            outbox: Outbox::new(),
            lane,
            longest: if gso { SEND_BATCH } else { 1 },
            waiting: Waiting {
                bytes: Vec::new(),
                count: 0,
                frame_bytes: 0,
                size: 0,
                to: None,
            },
        }
    }

    /// Sends a frame, or lets it wait for [`Self::flush`]. `len` is the frame's as the container gave it.
    ///
    /// # Errors
    /// Why the kernel didn't take it whole; counted already.
    #[inline]
    pub(super) fn push(
        &mut self,
        peer: &Peer,
        flow: u32,
        encap: &Encap<'_>,
        len: usize,
    ) -> Result<(), TunnelDrop> {
        let socket = self.sources.index_of_flow(flow);
        if encap.is_single() && encap.datagram_len() <= JOINED_BYTES_MAX && self.longest > 1 {
            self.join(peer, socket, encap, len);
            return Ok(());
        }
        self.flush();
        let (sent, result) = transmit(
            &mut self.outbox,
            &mut self.longest,
            self.sources.socket(socket),
            &peer.destination,
            encap,
        );
        peer.counters.datagrams_sent(self.lane, sent);
        match result {
            Ok(()) => peer.counters.sent(self.lane, 1, len),
            Err(reason) => peer.counters.dropped(self.lane, reason, 1),
        }
        result
    }

    #[inline]
    fn join(&mut self, peer: &Peer, socket: usize, encap: &Encap<'_>, len: usize) {
        let datagram_len = encap.datagram_len();
        if !self
            .waiting
            .takes(peer.id, socket, datagram_len, self.longest)
        {
            self.flush();
            self.waiting.start(peer, socket, datagram_len);
        }
        self.waiting.append(encap, len);
        // A shorter one ends a train.
        if datagram_len < self.waiting.size {
            self.flush();
        }
    }

    /// Sends a datagram of the tunnel's own, which is not counted; a full socket loses it.
    pub(super) fn reply(&self, peer: &Peer, datagram: &[u8]) {
        let socket = self.sources.socket(0);
        let _ = sys::send_train(socket, &peer.destination, datagram, datagram.len());
    }

    /// Sends what waits.
    #[inline]
    pub(super) fn flush(&mut self) {
        if self.waiting.count > 0 {
            self.send_waiting();
        }
    }

    fn send_waiting(&mut self) {
        let waiting = &mut self.waiting;
        let Some(to) = waiting.to.as_ref() else {
            return;
        };
        let socket = self.sources.socket(to.socket);
        let (bytes, size) = (&waiting.bytes[..], waiting.size);
        match retried(|| sys::send_train(socket, &to.address, bytes, size)) {
            Ok(()) => {
                to.counters.datagrams_sent(self.lane, waiting.count);
                to.counters
                    .sent(self.lane, waiting.count, waiting.frame_bytes);
            }
            Err(error) => {
                let alone = waiting.count == 1 || !may_be_about_trains(&error);
                let (sent, result) = if alone {
                    (0, Err(refusal(&error)))
                } else {
                    one_by_one(socket, &to.address, bytes, size)
                };
                if sent > 0 {
                    shorten(&mut self.longest, waiting.count, &error);
                }
                let sent_bytes = waiting.frame_bytes * sent / waiting.count;
                to.counters.datagrams_sent(self.lane, sent);
                to.counters.sent(self.lane, sent, sent_bytes);
                if let Err(reason) = result {
                    to.counters.dropped(self.lane, reason, waiting.count - sent);
                }
            }
        }
        waiting.empty();
    }
}

impl Waiting {
    #[inline]
    fn takes(&self, peer: PeerId, socket: usize, len: usize, longest: usize) -> bool {
        self.count > 0
            && self.count < longest
            && len <= self.size
            && self.bytes.len() + len <= TRAIN_BYTES_MAX
            && self
                .to
                .as_ref()
                .is_some_and(|to| (to.peer, to.socket) == (peer, socket))
    }

    fn start(&mut self, peer: &Peer, socket: usize, size: usize) {
        self.size = size;
        let same = |to: &Destination| {
            (to.peer, to.socket) == (peer.id, socket) && Arc::ptr_eq(&to.counters, &peer.counters)
        };
        if !self.to.as_ref().is_some_and(same) {
            self.to = Some(Destination {
                peer: peer.id,
                socket,
                address: peer.destination.clone(),
                counters: Arc::clone(&peer.counters),
            });
        }
    }

    #[inline]
    fn append(&mut self, encap: &Encap<'_>, frame_len: usize) {
        let mut head = [0; HEAD_LEN];
        let head_len = encap.write_head(0, &mut head);
        self.bytes.extend_from_slice(&head[..head_len]);
        self.bytes.extend_from_slice(encap.payload(0));
        self.count += 1;
        self.frame_bytes += frame_len;
    }

    fn empty(&mut self) {
        self.bytes.clear();
        self.count = 0;
        self.frame_bytes = 0;
    }
}

/// Hands all datagrams of a frame to the kernel, or those before the first that it refuses. Says how many it took.
fn transmit(
    outbox: &mut Outbox,
    longest: &mut usize,
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    encap: &Encap<'_>,
) -> (usize, Result<(), TunnelDrop>) {
    let mut sent = 0;
    while sent < encap.count() {
        let train = train_len(encap.count() - sent, encap.datagram_len(), *longest);
        let result = retried(|| outbox.send(socket, to, encap, sent, train));
        let result = match result {
            Err(error) if train > 1 && may_be_about_trains(&error) => {
                let alone = retried(|| outbox.send(socket, to, encap, sent, 1));
                if alone.is_ok() {
                    shorten(longest, train, &error);
                }
                alone
            }
            result => result,
        };
        match result {
            Ok(taken) => sent += taken,
            Err(error) => return (sent, Err(refusal(&error))),
        }
    }
    (sent, Ok(()))
}

/// How many of `count` datagrams of `size` bytes go into each train: as few trains as possible, about equally long.
fn train_len(count: usize, size: usize, longest: usize) -> usize {
    let most = (TRAIN_BYTES_MAX / size.max(1)).min(longest).max(1);
    count.div_ceil(count.div_ceil(most).max(1))
}

/// Each datagram of a train in a call of its own. Says how many the kernel took before the first that it refused.
pub(super) fn one_by_one(
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    bytes: &[u8],
    size: usize,
) -> (usize, Result<(), TunnelDrop>) {
    for (sent, datagram) in bytes.chunks(size).enumerate() {
        if let Err(error) = retried(|| sys::send_train(socket, to, datagram, size)) {
            return (sent, Err(refusal(&error)));
        }
    }
    (bytes.len().div_ceil(size), Ok(()))
}

/// What a kernel or device without (long) trains says; also what it says for other reasons.
pub(super) fn may_be_about_trains(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

/// A train of `refused` datagrams was refused whose datagrams were taken one by one.
pub(super) fn shorten(longest: &mut usize, refused: usize, error: &io::Error) {
    *longest = if refused > OLD_KERNEL_TRAIN && error.raw_os_error() == Some(libc::EINVAL) {
        OLD_KERNEL_TRAIN
    } else {
        1
    };
    tracing::warn!(%error, longest, "the kernel refuses UDP segmentation offload: datagrams are sent in shorter trains");
}

/// Repeats what was interrupted, and what reports an error of the past.
pub(super) fn retried<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut retries = PENDING_ERROR_RETRIES;
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if retries > 0 && refusal(&error) == TunnelDrop::Unreachable => retries -= 1,
            result => return result,
        }
    }
}

/// What the kernel's refusal of a datagram means.
pub(super) fn refusal(error: &io::Error) -> TunnelDrop {
    match error.raw_os_error().unwrap_or(0) {
        libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => TunnelDrop::SocketFull,
        libc::EMSGSIZE => TunnelDrop::TooBig,
        libc::ECONNREFUSED
        | libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EADDRNOTAVAIL
        | libc::EAFNOSUPPORT
        | libc::ENODEV => TunnelDrop::Unreachable,
        libc::EPERM | libc::EACCES => TunnelDrop::Filtered,
        _ => TunnelDrop::SendFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trains_are_few_and_about_equally_long() {
        assert_eq!(train_len(46, 1472, 128), 23);
        assert_eq!(train_len(44, 1472, 128), 44);
        assert_eq!(train_len(45, 1472, 128), 23);
        assert_eq!(train_len(1, 1472, 128), 1);
        assert_eq!(train_len(46, 1472, 1), 1);
        assert_eq!(train_len(4096, 90, 64), 64);
        assert_eq!(train_len(7, 8972, 128), 7);
        assert_eq!(train_len(2, 65_507, 128), 1);
        assert_eq!(train_len(2, 70_000, 128), 1);
    }
}
