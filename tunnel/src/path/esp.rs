//! Encrypted datagrams <-> sockets: a worker's end of the encrypted tunnels, beside `udp`'s of those in clear. Out, a
//! frame is sealed under the key of the peer's session, or laid by until there is one. In, a datagram's SPI says whose
//! it is: its outer address says nothing, and may change. Nothing is ever sent in clear from here, and nothing that
//! came unsealed goes any further.

use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use socket2::Socket;
use weft_wire::{Coalescer, FrameRef, Loopback, PeerId, Vni};

use super::encap::ETHERNET_HEADER_LEN;
use super::prober::Answer;
use super::sealed::SealedTrains;
use super::sys::{Inbox, Train};
use super::udp::{SendError, tell};
use crate::carriage::Carriage;
use crate::drop::TunnelDrop;
use crate::ecn;
use crate::esp::{
    Arrival, ESP_HEADER_LEN, GRE_HEADER_LEN, GreError, GreHeader, OpenError, Spi, classify,
};
use crate::peer::{Lane, Peer, PeerReader, PeerTable};
use crate::secure::{Laid, Opener, Opening, Sessions};

/// One worker's end of the encrypted tunnels: to be owned by one thread.
#[derive(Debug)]
pub struct EspWorker {
    socket: Socket,
    peers: PeerReader,
    opener: Opener,
    sessions: Sessions,
    trains: SealedTrains,
    inbox: Inbox,
    coalescer: Coalescer<(PeerId, Vni)>,
    /// To whom answers to probes are given.
    answers: SyncSender<Answer>,
}

/// What is sealed in a datagram.
enum Inside {
    /// A frame of the network; where it is.
    Frame(Vni, Range<usize>),
    /// A probe, or the answer to one.
    Loopback(Loopback),
}

impl EspWorker {
    pub(super) fn new(
        socket: Socket,
        trains: SealedTrains,
        (peers, opener, sessions): (PeerReader, Opener, Sessions),
        answers: SyncSender<Answer>,
    ) -> Self {
        Self {
            socket,
            peers,
            opener,
            sessions,
            trains,
            inbox: Inbox::new(),
            coalescer: Coalescer::default(),
            answers,
        }
    }

    /// What to poll for input.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the network's frames travel encrypted: then they are for [`Self::send`] and nobody else.
    #[inline]
    pub fn carries(&mut self, vni: Vni) -> bool {
        self.peers.parts().0.carriage(vni) == Some(Carriage::Encrypted)
    }

    /// Seals a frame for a peer and sends it; a short one may wait for others until [`Self::flush`]. Without a session
    /// one is asked for, and the frame waits for it.
    ///
    /// # Errors
    /// [`SendError`] says why it was dropped; it is counted already. What befalls a frame that waited is only counted.
    pub fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), SendError> {
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        let Some(peer) = table.by_id(peer) else {
            strangers.dropped(lane, TunnelDrop::UnknownPeer);
            return Err(TunnelDrop::UnknownPeer.into());
        };
        if table.carriage(vni) != Some(Carriage::Encrypted) {
            peer.counters.dropped(lane, TunnelDrop::NotCarried, 1);
            return Err(TunnelDrop::NotCarried.into());
        }
        let Some(secure) = &peer.secure else {
            peer.counters.dropped(lane, TunnelDrop::NoSession, 1);
            return Err(TunnelDrop::NoSession.into());
        };
        secure.note_use();
        secure.path.note_use();
        if let Some(sealing) = &*secure.sealing() {
            return self.trains.send((peer, secure), sealing, vni, frame);
        }
        match self.sessions.lay_by(secure, vni, frame) {
            Laid::By => Ok(()),
            Laid::Ready(sealing) => self.trains.send((peer, secure), &sealing, vni, frame),
            Laid::Refused => {
                peer.counters.dropped(lane, TunnelDrop::NoSession, 1);
                Err(TunnelDrop::NoSession.into())
            }
        }
    }

    /// Sends what waits for company. To be called when no frame follows at once.
    pub fn flush(&mut self) {
        self.trains.flush();
    }

    /// Takes one batch of datagrams and gives `sink` the frames that were sealed in them; adjacent segments of a flow as
    /// one superframe. Returns how many datagrams were taken, dropped ones included.
    pub fn receive(&mut self, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        let trains = self.inbox.receive(self.socket.as_fd());
        let mut sink = |(peer, vni), frame: FrameRef<'_>| sink(peer, vni, frame);
        let mut taken = 0;
        for i in 0..trains {
            let Some(train) = self.inbox.train(i) else {
                taken += 1;
                continue;
            };
            taken += train.count();
            self.take(train, &mut sink);
        }
        self.coalescer.flush(self.inbox.buffer(), &mut sink);
        taken
    }

    /// Opens what of a train can be opened.
    #[inline]
    fn take(&mut self, train: Train, sink: &mut impl FnMut((PeerId, Vni), FrameRef<'_>)) {
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        let openings = self.opener.openings();
        // Mostly all are of one peer.
        let mut last: Option<(Spi, &Arc<Opening>, &Peer)> = None;
        for datagram in train.datagrams() {
            let bytes = &mut self.inbox.buffer_mut()[datagram.clone()];
            let spi = match classify(bytes) {
                Arrival::Esp(spi) if !train.truncated => spi,
                Arrival::Quic if !train.truncated => {
                    self.sessions.stray(train.from, bytes);
                    continue;
                }
                Arrival::Esp(_) | Arrival::Quic | Arrival::KeepAlive | Arrival::Unknown => {
                    strangers.stranger(lane, train.from.ip(), 1, bytes.len());
                    continue;
                }
            };
            let known = last.filter(|(of, ..)| *of == spi);
            let is_first = known.is_none();
            let Some((_, opening, peer)) = known.or_else(|| {
                let opening = openings.get(&spi)?;
                Some((spi, opening, owner(table, opening)?))
            }) else {
                match table.by_address(train.from.ip()) {
                    Some(peer) => ask_back(&self.sessions, lane, peer),
                    None => strangers.stranger(lane, train.from.ip(), 1, bytes.len()),
                }
                continue;
            };
            let inside = match open(opening, table, bytes, (datagram.start, train.ecn)) {
                Ok(inside) => inside,
                Err(reason) => {
                    peer.counters.dropped(lane, reason, 1);
                    continue;
                }
            };
            if is_first {
                note(opening, train.from);
            }
            last = Some((spi, opening, peer));
            match inside {
                Inside::Frame(vni, frame) => {
                    peer.counters.received(lane, 1, frame.len());
                    let buffer = self.inbox.buffer();
                    self.coalescer.push(buffer, (peer.id, vni), frame, sink);
                }
                Inside::Loopback(Loopback::Message { id }) => {
                    if let Some(sealing) = &*opening.secure.sealing() {
                        // A full socket loses it; it is asked for again.
                        let _ = self.trains.send_loopback(sealing, &Loopback::reply(id));
                    }
                }
                Inside::Loopback(Loopback::Reply { id }) => tell(Some(&self.answers), peer, id),
            }
        }
    }
}

/// Whose key it is, if that peer is still who it was when the key was made.
#[inline]
fn owner<'t>(table: &'t PeerTable, opening: &Opening) -> Option<&'t Peer> {
    let peer = table.by_id(opening.peer)?;
    let secure = peer.secure.as_ref()?;
    Arc::ptr_eq(secure, &opening.secure).then_some(peer)
}

/// A peer sends under a key that we don't have: one of us has started anew. If we have no session, make one.
fn ask_back(sessions: &Sessions, lane: Lane, peer: &Peer) {
    peer.counters.dropped(lane, TunnelDrop::UnknownKey, 1);
    if let Some(secure) = &peer.secure
        && secure.sealing().is_none()
    {
        sessions.want(secure);
    }
}

#[inline]
fn note(opening: &Opening, from: SocketAddr) {
    opening.secure.note_use();
    opening.secure.note_heard();
    opening.came_from(from);
}

/// Opens a datagram that lies at `start` in the inbox, in place.
#[inline]
fn open(
    opening: &Opening,
    table: &PeerTable,
    datagram: &mut [u8],
    (start, outer_ecn): (usize, u8),
) -> Result<Inside, TunnelDrop> {
    let payload = opening.key.open(datagram).map_err(|error| match error {
        OpenError::Replayed(_) => TunnelDrop::Replayed,
        OpenError::WrongSpi => TunnelDrop::UnknownKey,
        OpenError::BadLength { .. } | OpenError::Forged => TunnelDrop::Forged,
        OpenError::BadPadding | OpenError::NextHeader(_) => TunnelDrop::BadHeader,
    })?;
    let vni = match GreHeader::parse(payload) {
        Ok((vni, _)) => vni,
        Err(GreError::BadVni { key: 0 }) => {
            return Loopback::parse(&payload[GRE_HEADER_LEN..])
                .map(Inside::Loopback)
                .ok_or(TunnelDrop::BadVni);
        }
        Err(GreError::BadVni { .. }) => return Err(TunnelDrop::BadVni),
        Err(GreError::Truncated { .. }) => return Err(TunnelDrop::Truncated),
        Err(GreError::NotBridging) => return Err(TunnelDrop::BadHeader),
    };
    // What isn't known here the switch drops, and says so.
    if table.carriage(vni) == Some(Carriage::Clear) {
        return Err(TunnelDrop::NotCarried);
    }
    let frame = &mut payload[GRE_HEADER_LEN..];
    if frame.len() < ETHERNET_HEADER_LEN {
        return Err(TunnelDrop::Runt);
    }
    if outer_ecn == ecn::CE {
        ecn::mark(frame).map_err(|ecn::NotCapable| TunnelDrop::Congested)?;
    }
    let at = start + ESP_HEADER_LEN + GRE_HEADER_LEN;
    Ok(Inside::Frame(vni, at..at + frame.len()))
}
