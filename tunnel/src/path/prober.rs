//! The thread that measures paths: carries out what each peer's [`PathSearch`] wants with a socket of its own, and tells
//! workers and control plane what came out. Answers arrive at the workers, which pass them on by a channel that never
//! makes them wait. Static VTEPs are not probed: they answer nothing.
//!
//! Paths of encrypted tunnels are measured by a second such thread, with sealed probes from the tunnel's own port: what
//! is on the way may treat one port otherwise than another.
//!
//! It wakes a few times a second to see which peers are sent frames; a peer without traffic costs a comparison then and a
//! probe now and then. All peers together get at most [`PROBES_PER_TICK`] rounds of probes per tick.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use socket2::Socket;
use weft_wire::{LOOPBACK_MIN_LEN, Loopback};

use super::sealed::SealedTrains;
use crate::carriage::Carriage;
use crate::mtu::udp_ip_headers;
use crate::peer::{PathMtu, Peer, PeerTable, Peers};
use crate::pmtu::PathSearch;

/// Between two looks while frames are sent to anybody, and otherwise.
const TICK: Duration = Duration::from_millis(25);
const IDLE_TICK: Duration = Duration::from_millis(150);
/// How long a peer counts as active after the last frame was seen.
const ACTIVE_FOR: Duration = Duration::from_secs(2);
/// Rounds of probes that may begin per tick: bounds what many peers cost.
const PROBES_PER_TICK: usize = 64;

/// A peer's answer to a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Whose, by the outer source address.
    pub(super) from: IpAddr,
    /// Which probe.
    pub(super) id: u32,
}

/// What the thread owns.
pub(super) struct Prober {
    way: Way,
    peers: Peers,
    answered: Receiver<Answer>,
    changed: Box<dyn Fn() + Send>,
    paths: HashMap<IpAddr, Path>,
    started: Instant,
    ids: RandomState,
    next_id: u64,
    buffer: Vec<u8>,
    sizes: Vec<u16>,
}

struct Path {
    search: PathSearch,
    active_until: Duration,
}

/// How probes travel.
pub(super) enum Way {
    /// In VXLAN, from a socket of their own.
    Clear(Socket),
    /// Sealed, in a session.
    Encrypted(Box<SealedTrains>),
}

impl Way {
    const fn carriage(&self) -> Carriage {
        match self {
            Self::Clear(_) => Carriage::Clear,
            Self::Encrypted(_) => Carriage::Encrypted,
        }
    }

    /// What is known of the way to a peer; `None` if it can't be probed.
    fn path<'p>(&self, peer: &'p Peer) -> Option<&'p PathMtu> {
        match self {
            Self::Clear(_) => peer.is_agent().then_some(&*peer.path),
            Self::Encrypted(_) => {
                let secure = peer.secure.as_ref()?;
                secure.sealing().is_some().then_some(&secure.path)
            }
        }
    }

    /// Sends a probe that makes a packet of `size` bytes; `None` if none is as short.
    fn probe(
        &mut self,
        peer: &Peer,
        (id, size): (u32, u16),
        buffer: &mut Vec<u8>,
    ) -> Option<io::Result<()>> {
        let len = usize::from(size).checked_sub(udp_ip_headers(peer.address))?;
        match self {
            Self::Clear(socket) => {
                if len < LOOPBACK_MIN_LEN {
                    return None;
                }
                buffer.resize(len, 0);
                Loopback::write_message(id, buffer);
                // An error of an earlier probe may be reported instead of sending.
                let sent = socket.send_to(buffer, &peer.destination);
                let sent = sent.or_else(|_| socket.send_to(buffer, &peer.destination));
                Some(sent.map(drop))
            }
            Self::Encrypted(trains) => {
                let sealing = peer.secure.as_ref()?.sealing();
                trains.probe(sealing.as_ref()?, id, len)
            }
        }
    }
}

impl Prober {
    pub(super) fn new(
        way: Way,
        peers: Peers,
        answered: Receiver<Answer>,
        changed: Box<dyn Fn() + Send>,
    ) -> Self {
        Self {
            way,
            peers,
            answered,
            changed,
            paths: HashMap::new(),
            started: Instant::now(),
            ids: RandomState::new(),
            next_id: 0,
            buffer: Vec::new(),
            sizes: Vec::new(),
        }
    }

    /// Runs until no worker is left.
    pub(super) fn spawn(self) -> io::Result<()> {
        let name = match self.way {
            Way::Clear(_) => "weft-pmtu",
            Way::Encrypted(_) => "weft-pmtu-esp",
        };
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || self.run())
            .map(drop)
    }

    fn run(mut self) {
        let mut table = Arc::new(PeerTable::default());
        let mut wait = Duration::ZERO;
        loop {
            match self.answered.recv_timeout(wait) {
                Ok(answer) => self.take(answer),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok(answer) = self.answered.try_recv() {
                self.take(answer);
            }
            self.hear_of_packets_too_big();
            let newest = self.peers.snapshot();
            if !Arc::ptr_eq(&newest, &table) {
                self.follow(&newest);
                table = newest;
            }
            wait = self.tick(&table);
        }
    }

    fn take(&mut self, answer: Answer) {
        let now = self.started.elapsed();
        if let Some(path) = self.paths.get_mut(&answer.from) {
            path.search.answered(answer.id, now);
        }
    }

    /// An ICMP message reached our socket. It could be anybody's: whoever has a large probe on its way looks again.
    fn hear_of_packets_too_big(&mut self) {
        let mut heard = false;
        // The port of encrypted tunnels hears of nothing: it has more to do than to sort ICMP messages.
        if let Way::Clear(socket) = &self.way {
            while let Some(too_big) = next_error(socket) {
                heard |= too_big;
            }
        }
        if heard {
            let now = self.started.elapsed();
            for path in self.paths.values_mut() {
                path.search.hinted(now);
            }
        }
    }

    /// Forgets those that have left.
    fn follow(&mut self, table: &PeerTable) {
        self.paths
            .retain(|address, _| table.by_address(*address).is_some());
    }

    /// Serves whoever is due; how long nobody will be.
    fn tick(&mut self, table: &PeerTable) -> Duration {
        let now = self.started.elapsed();
        let mut next = IDLE_TICK;
        let mut begun = 0;
        let mut news = false;
        for peer in table.peers() {
            let Some(known) = self.way.path(peer) else {
                self.paths.remove(&peer.address);
                continue;
            };
            // Taken out and put back: sending needs the rest of us.
            let mut path = self.paths.remove(&peer.address).unwrap_or_else(|| Path {
                search: PathSearch::new(now),
                active_until: Duration::ZERO,
            });
            if known.take_use() {
                if now >= path.active_until {
                    path.search.wake(now);
                }
                path.active_until = now + ACTIVE_FOR;
            }
            let active = now < path.active_until;
            if path.search.due() <= now && begun < PROBES_PER_TICK {
                begun += 1;
                self.serve(peer, &mut path.search, active);
            }
            news |= known.set(
                (peer.address, self.way.carriage()),
                path.search.current(),
                path.search.settled(),
            );
            let soonest = if active { TICK } else { IDLE_TICK };
            let due = path.search.due().saturating_sub(now);
            next = next.min(due.clamp(Duration::from_millis(1), soonest));
            self.paths.insert(peer.address, path);
        }
        if news {
            (self.changed)();
        }
        next
    }

    fn serve(&mut self, peer: &Peer, search: &mut PathSearch, active: bool) {
        // A search where nothing but the local link refuses goes on at once: 16 bits, a few at a time.
        for _ in 0..16 {
            let now = self.started.elapsed();
            if search.due() > now {
                return;
            }
            let mut sizes = std::mem::take(&mut self.sizes);
            search.poll(now, active, &mut sizes);
            let tried = !sizes.is_empty();
            for size in sizes.drain(..) {
                self.probe(peer, search, size);
            }
            self.sizes = sizes;
            if tried {
                search.all_tried(now);
            }
        }
    }

    fn probe(&mut self, peer: &Peer, search: &mut PathSearch, size: u16) {
        self.next_id = self.next_id.wrapping_add(1);
        #[expect(clippy::cast_possible_truncation, reason = "32 bits of a keyed hash")]
        let id = self.ids.hash_one(self.next_id) as u32;
        let Some(sent) = self.way.probe(peer, (id, size), &mut self.buffer) else {
            return;
        };
        let now = self.started.elapsed();
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => search.refused(size, now),
            // What isn't sent for another reason isn't answered either.
            Ok(()) | Err(_) => search.sent(size, id, now),
        }
    }
}

/// Takes an error from the socket's queue: whether it is an ICMP message that a packet was too big. What the local link
/// refused is queued too, and known already from sending.
fn next_error(socket: &Socket) -> Option<bool> {
    let mut payload = [0; 1];
    let mut pieces = [IoSliceMut::new(&mut payload)];
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags);
    let message = message.ok()?;
    let too_big = message.cmsgs().is_ok_and(|mut messages| {
        messages.any(|message| {
            matches!(message, ControlMessageOwned::Ipv4RecvErr(error, _) if is_icmp_too_big(&error))
                || matches!(message, ControlMessageOwned::Ipv6RecvErr(error, _) if is_icmp_too_big(&error))
        })
    });
    Some(too_big)
}

fn is_icmp_too_big(error: &libc::sock_extended_err) -> bool {
    let origins = [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6];
    origins.contains(&error.ee_origin) && i32::try_from(error.ee_errno) == Ok(libc::EMSGSIZE)
}

impl std::fmt::Debug for Prober {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prober")
            .field("paths", &self.paths.len())
            .finish_non_exhaustive()
    }
}
