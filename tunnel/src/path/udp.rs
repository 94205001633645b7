//! Datagrams <-> sockets: a worker's end of the tunnels. Out, frames come from the switch with the peer they are for;
//! in, they go to the switch with the peer they are from. Knows nothing of ports or MACs.
//!
//! A worker owns its listening socket, its buffers and its view of the peers; only the pool of sending sockets is
//! shared. It never waits: a full socket drops the frame, as a full queue of a switch does.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use socket2::Socket;
use weft_wire::{Coalescer, FrameRef, Loopback, PeerId, Vni, flow_hash};

use super::bind::SourcePool;
use super::encap::{Encap, decap};
use super::prober::Answer;
use super::sys::Inbox;
use super::train::Trains;
use crate::drop::TunnelDrop;
use crate::peer::{Peer, PeerReader, PeerTable};

/// One worker's end of the VXLAN tunnels: to be owned by one thread.
#[derive(Debug)]
pub struct VxlanWorker {
    listener: Socket,
    peers: PeerReader,
    trains: Trains,
    inbox: Inbox,
    coalescer: Coalescer<(PeerId, Vni)>,
    /// To whom answers to probes are given; nobody if paths aren't measured.
    answers: Option<SyncSender<Answer>>,
}

impl VxlanWorker {
    pub(super) fn new(
        listener: Socket,
        sources: Arc<SourcePool>,
        peers: PeerReader,
        gso: bool,
        answers: Option<SyncSender<Answer>>,
    ) -> Self {
        Self {
            listener,
            trains: Trains::new(sources, peers.lane, gso),
            peers,
            inbox: Inbox::new(),
            coalescer: Coalescer::default(),
            answers,
        }
    }

    /// What to poll for input.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.listener.as_fd()]
    }

    /// Sends a frame to a peer: cut, checksummed and encapsulated. A short one may wait for others until
    /// [`Self::flush`]. A frame that the kernel doesn't take whole counts as dropped, whatever left before.
    ///
    /// # Errors
    /// [`TunnelDrop`] says why it was dropped; it is counted already. What befalls a frame that waited is only counted.
    pub fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TunnelDrop> {
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        let Some(peer) = table.by_id(peer) else {
            strangers.dropped(lane, TunnelDrop::UnknownPeer);
            return Err(TunnelDrop::UnknownPeer);
        };
        let encap = if peer.allows(vni) {
            Encap::new(vni, frame, peer.path.frame_max())
        } else {
            Err(TunnelDrop::NetworkNotAllowed)
        };
        match encap {
            Ok(encap) => {
                let flow = flow_hash(frame.bytes);
                self.trains.push(peer, flow, &encap, frame.bytes.len())
            }
            Err(reason) => {
                peer.counters.dropped(lane, reason, 1);
                Err(reason)
            }
        }
    }

    /// Sends what waits. To be called when no frame follows at once.
    pub fn flush(&mut self) {
        self.trains.flush();
    }

    /// Takes one batch of datagrams and gives `sink` the frames that may come in, with their peer and network; adjacent
    /// segments of a flow as one superframe. Returns how many datagrams were taken, dropped ones included; 0 when there
    /// are none.
    pub fn receive(&mut self, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        let trains = self.inbox.receive(self.listener.as_fd());
        let buffer = self.inbox.buffer();
        let mut sink = |(peer, vni), frame: FrameRef<'_>| sink(peer, vni, frame);
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        // Datagrams of one peer mostly come together.
        let mut last = None;
        let mut taken = 0;
        for i in 0..trains {
            let Some(train) = self.inbox.train(i) else {
                taken += 1;
                continue;
            };
            taken += train.count();
            let Some(peer) = sender(table, train.from, last) else {
                strangers.stranger(lane, train.from, train.count(), train.bytes.len());
                continue;
            };
            last = Some(peer);
            if train.truncated {
                peer.counters
                    .dropped(lane, TunnelDrop::Truncated, train.count());
                continue;
            }
            for datagram in train.datagrams() {
                let end = datagram.end;
                if let Some(loopback) = loopback(peer, &buffer[datagram.clone()]) {
                    match loopback {
                        // One short answer for each longer question, and nobody waits for it.
                        Loopback::Message { id } => self.trains.reply(peer, &Loopback::reply(id)),
                        Loopback::Reply { id } => tell(self.answers.as_ref(), peer, id),
                    }
                    continue;
                }
                match admit(peer, &buffer[datagram]) {
                    Ok((vni, len)) => {
                        peer.counters.received(lane, 1, len);
                        let key = (peer.id, vni);
                        self.coalescer.push(buffer, key, end - len..end, &mut sink);
                    }
                    Err(reason) => peer.counters.dropped(lane, reason, 1),
                }
            }
        }
        self.coalescer.flush(buffer, &mut sink);
        taken
    }
}

/// Who sent a datagram. Its port says nothing: it is the sender's flow entropy.
#[inline]
fn sender<'t>(table: &'t PeerTable, from: IpAddr, last: Option<&'t Peer>) -> Option<&'t Peer> {
    last.filter(|peer| peer.address == from)
        .or_else(|| table.by_address(from))
}

/// A loopback message of another agent. What a static VTEP says in VNI 0 is an error of its configuration.
#[inline]
fn loopback(peer: &Peer, datagram: &[u8]) -> Option<Loopback> {
    let vni = datagram.get(4..7)?;
    if vni != [0; 3] || !peer.is_agent() {
        return None;
    }
    Loopback::parse(datagram)
}

fn tell(answers: Option<&SyncSender<Answer>>, peer: &Peer, id: u32) {
    if let Some(answers) = answers {
        // A full channel loses an answer as a full socket would.
        let _ = answers.try_send(Answer {
            from: peer.address,
            id,
        });
    }
}

/// Of what a known peer sent, if it may: the network, and the length of the frame at the datagram's end.
#[inline]
fn admit(peer: &Peer, datagram: &[u8]) -> Result<(Vni, usize), TunnelDrop> {
    let (vni, frame) = decap(datagram)?;
    if !peer.allows(vni) {
        return Err(TunnelDrop::NetworkNotAllowed);
    }
    Ok((vni, frame.len()))
}
