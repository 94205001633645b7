//! What workers and the keeper of sessions share about a peer's encrypted side: the key to seal with and where to send
//! to, the keys to open with, and frames that wait for a session.
//!
//! A worker reads without waiting: the sealing key behind the peer it has looked up anyway, the opening key by the SPI
//! of a datagram. Only while a peer has no session it takes a lock, to lay the frame by. The keeper is the one writer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::cache::Cache;
use arc_swap::{ArcSwap, ArcSwapOption};
use socket2::SockAddr;
use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use weft_wire::{FrameRef, Offload, PeerId, Vni};

use crate::esp::{OpeningKey, SealingKey, Spi};
use crate::peer::PathMtu;

/// Frames that wait for a session with one peer, and their bytes: some superframes, many short ones.
const WAITING_FRAMES: usize = 64;
const WAITING_BYTES: usize = 512 << 10;
/// QUIC packets of workers that may wait for the keeper.
const STRAYS_MAX: usize = 64;
/// How long a frame waits: whoever sent it repeats it by then.
pub(crate) const WAITING_FOR: Duration = Duration::from_secs(3);

/// Who a peer must prove to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecureSpec {
    /// What its certificate must name.
    pub node: String,
    /// UDP port on which it takes encrypted tunnels.
    pub port: u16,
    /// Both sides have ports on an encrypted network: the session is made without waiting for a frame.
    pub keep: bool,
}

/// A peer's encrypted side.
#[derive(Debug)]
pub(crate) struct SecurePeer {
    node: String,
    port: u16,
    keep: AtomicBool,
    sealing: ArcSwapOption<Sealing>,
    waiting: Mutex<Waiting>,
    /// Somebody wants a session.
    wanted: AtomicBool,
    /// A datagram was sealed or opened since this was asked last.
    used: AtomicBool,
    /// A datagram was opened since this was asked last.
    heard: AtomicBool,
    pub(crate) path: PathMtu,
}

/// How frames are sealed, and where they go.
#[derive(Debug)]
pub(crate) struct Sealing {
    pub(crate) key: Arc<SealingKey>,
    /// Of the key that opens what the peer seals in the same session.
    opens: Spi,
    pub(crate) remote: SocketAddr,
    /// The same, as the kernel wants it.
    pub(crate) to: SockAddr,
}

impl Sealing {
    fn new(key: Arc<SealingKey>, (opens, remote): (Spi, SocketAddr)) -> Self {
        Self {
            key,
            opens,
            remote,
            to: remote.into(),
        }
    }
}

/// Frames that wait for a session, oldest first.
#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<Held>,
    bytes: usize,
}

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) vni: Vni,
    bytes: Vec<u8>,
    offload: Offload,
    since: Instant,
}

impl Held {
    /// As it was sent.
    pub(crate) fn frame(&self) -> FrameRef<'_> {
        FrameRef::new(&self.bytes, self.offload)
    }
}

/// What became of a frame without a session.
#[derive(Debug)]
pub(crate) enum Laid {
    /// It waits.
    By,
    /// A session has come up meanwhile.
    Ready(Arc<Sealing>),
    /// Too many wait already.
    Refused,
}

impl SecurePeer {
    pub(crate) fn new(spec: &SecureSpec) -> Self {
        Self {
            node: spec.node.clone(),
            port: spec.port,
            keep: AtomicBool::new(spec.keep),
            sealing: ArcSwapOption::empty(),
            waiting: Mutex::default(),
            wanted: AtomicBool::new(false),
            used: AtomicBool::new(false),
            heard: AtomicBool::new(false),
            path: PathMtu::default(),
        }
    }

    /// Whether it is the peer of `spec`.
    pub(crate) fn is(&self, spec: &SecureSpec) -> bool {
        self.node == spec.node && self.port == spec.port
    }

    pub(crate) fn node(&self) -> &str {
        &self.node
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn keep(&self) -> bool {
        self.keep.load(Ordering::Relaxed)
    }

    pub(crate) fn set_keep(&self, keep: bool) {
        self.keep.store(keep, Ordering::Relaxed);
    }

    /// How to seal now, if there is a session.
    #[inline]
    pub(crate) fn sealing(&self) -> arc_swap::Guard<Option<Arc<Sealing>>> {
        self.sealing.load()
    }

    /// Notes that there is traffic. The memory is written only if that is news.
    #[inline]
    pub(crate) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the peer was heard.
    #[inline]
    pub(crate) fn note_heard(&self) {
        if !self.heard.load(Ordering::Relaxed) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the peer was heard since this was asked last.
    pub(crate) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::Relaxed)
    }

    /// Whether there was traffic since this was asked last.
    pub(crate) fn take_use(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody wanted a session since this was asked last.
    pub(crate) fn take_want(&self) -> bool {
        self.wanted.swap(false, Ordering::Relaxed)
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lays a frame by until there is a session.
    fn lay_by(&self, vni: Vni, frame: FrameRef<'_>) -> Laid {
        let mut waiting = self.waiting();
        // The keeper publishes a session under this lock.
        if let Some(sealing) = self.sealing.load_full() {
            return Laid::Ready(sealing);
        }
        let full =
            waiting.frames.len() >= WAITING_FRAMES || waiting.bytes + frame.len() > WAITING_BYTES;
        if full {
            return Laid::Refused;
        }
        waiting.bytes += frame.len();
        let mut bytes = frame.bytes.to_vec();
        for piece in frame.tail.pieces() {
            bytes.extend_from_slice(piece);
        }
        waiting.frames.push(Held {
            vni,
            bytes,
            offload: frame.offload,
            since: Instant::now(),
        });
        Laid::By
    }

    /// A session is there, or another one: what has waited is given to `send` before any worker can send.
    pub(crate) fn publish(
        &self,
        key: Arc<SealingKey>,
        (opens, remote): (Spi, SocketAddr),
        mut send: impl FnMut(&Sealing, Held),
    ) {
        let sealing = Arc::new(Sealing::new(key, (opens, remote)));
        let mut waiting = self.waiting();
        waiting.bytes = 0;
        for held in waiting.frames.drain(..) {
            send(&sealing, held);
        }
        self.sealing.store(Some(sealing));
    }

    /// There is no session any more.
    pub(crate) fn unpublish(&self) {
        self.sealing.store(None);
    }

    /// Gives up frames that have waited for too long; how many.
    pub(crate) fn expire(&self, now: Instant) -> usize {
        let mut waiting = self.waiting();
        let before = waiting.frames.len();
        waiting
            .frames
            .retain(|held| now.saturating_duration_since(held.since) < WAITING_FOR);
        waiting.bytes = waiting.frames.iter().map(|held| held.bytes.len()).sum();
        before - waiting.frames.len()
    }

    /// Whether frames wait.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting().frames.is_empty()
    }

    /// Authentic datagrams that `opens` opened come from another address than before: ours go there from now on (as RFC 7296
    /// section 2.23 has it for peers behind NAT, and for every peer). Only those of the session that frames go by now count:
    /// one that was held back under an older key says nothing of where the peer is.
    #[inline]
    fn follow(&self, opens: Spi, from: SocketAddr) {
        let moved = |sealing: &Sealing| sealing.opens == opens && sealing.remote != from;
        if !self.sealing.load().as_deref().is_some_and(moved) {
            return;
        }
        self.sealing.rcu(|sealing| {
            let sealing = sealing.as_ref()?;
            if !moved(sealing) {
                return Some(Arc::clone(sealing));
            }
            let key = Arc::clone(&sealing.key);
            Some(Arc::new(Sealing::new(key, (opens, from))))
        });
    }
}

/// What opens the datagrams with one SPI.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) key: OpeningKey,
    pub(crate) peer: PeerId,
    pub(crate) secure: Arc<SecurePeer>,
}

impl Opening {
    pub(crate) const fn new(key: OpeningKey, peer: PeerId, secure: Arc<SecurePeer>) -> Self {
        Self { key, peer, secure }
    }

    /// Notes where authentic datagrams came from.
    #[inline]
    pub(crate) fn came_from(&self, from: SocketAddr) {
        self.secure.follow(self.key.spi(), from);
    }
}

/// A QUIC packet that came to a worker.
#[derive(Debug)]
pub(crate) struct Stray {
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

type Openings = HashMap<Spi, Arc<Opening>>;

/// Keys and requests for sessions: what the workers and the keeper share beside the peers' own parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sessions {
    openings: Arc<ArcSwap<Openings>>,
    wake: Arc<Notify>,
    strays: Arc<OnceLock<Sender<Stray>>>,
}

impl Sessions {
    /// What the keeper waits for: peers that want a session, or another table.
    pub(crate) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Where QUIC packets that came to workers come out; once.
    pub(crate) fn strays(&self) -> Receiver<Stray> {
        let (to, strays) = channel(STRAYS_MAX);
        // A second keeper would get none.
        let _ = self.strays.set(to);
        strays
    }

    /// Hands a QUIC packet over; what the keeper has no time for is lost, as in a full socket.
    pub(crate) fn stray(&self, from: SocketAddr, bytes: &[u8]) {
        if let Some(to) = self.strays.get() {
            let bytes = bytes.to_vec();
            let _ = to.try_send(Stray { from, bytes });
        }
    }

    /// Makes the keeper look at the peers.
    pub(crate) fn look(&self) {
        self.wake.notify_one();
    }

    /// Somebody wants a session with the peer.
    pub(crate) fn want(&self, peer: &SecurePeer) {
        if !peer.wanted.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Lays a frame by and asks for a session.
    pub(crate) fn lay_by(&self, peer: &SecurePeer, vni: Vni, frame: FrameRef<'_>) -> Laid {
        let laid = peer.lay_by(vni, frame);
        if !matches!(laid, Laid::Ready(_)) {
            self.want(peer);
        }
        laid
    }

    /// Adds a key under an SPI that no other has; which.
    pub(crate) fn open_with(&self, opening: impl Fn(Spi) -> Opening) -> Spi {
        let mut taken = None;
        self.openings.rcu(|openings| {
            let mut openings = Openings::clone(openings);
            let spi = taken
                .filter(|spi| !openings.contains_key(spi))
                .unwrap_or_else(|| free_spi(&openings));
            taken = Some(spi);
            openings.insert(spi, Arc::new(opening(spi)));
            openings
        });
        taken.expect("rcu calls at least once")
    }

    /// Forgets a key.
    pub(crate) fn close(&self, spi: Spi) {
        self.openings.rcu(|openings| {
            let mut openings = Openings::clone(openings);
            openings.remove(&spi);
            openings
        });
    }

    pub(crate) fn opener(&self) -> Opener {
        Opener(Cache::new(Arc::clone(&self.openings)))
    }
}

/// A number that nobody has, in no order that others could foresee.
fn free_spi(openings: &Openings) -> Spi {
    loop {
        let spi = Spi::from_random(random());
        if let Some(spi) = spi.filter(|spi| !openings.contains_key(spi)) {
            return spi;
        }
    }
}

/// 32 bits of the system's randomness.
fn random() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random numbers never end");
    u32::from_ne_bytes(bytes)
}

/// What a worker reads opening keys through.
pub(crate) struct Opener(Cache<Arc<ArcSwap<Openings>>, Arc<Openings>>);

impl Opener {
    /// The keys as they are now.
    #[inline]
    pub(crate) fn openings(&mut self) -> &Openings {
        self.0.load()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
