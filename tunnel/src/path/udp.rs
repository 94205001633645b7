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
use weft_wire::ethernet::VLAN_TAG_LEN;
use weft_wire::{
    Coalescer, EthernetFrame, FrameRef, Loopback, Mtu, PeerId, Vni, VxlanHeader, clamp_mss,
    flow_hash,
};

use super::bind::SourcePool;
use super::encap::{Encap, decap};
use super::prober::Answer;
use super::sys::Inbox;
use super::train::Trains;
use crate::carriage::Carriage;
use crate::drop::TunnelDrop;
use crate::mtu::mtu_of_frame;
use crate::peer::{Peer, PeerReader, PeerTable};

/// The longest TCP segment without data: Ethernet with tags, IPv6 with some extension headers, TCP with all its options.
pub(super) const SYN_MAX_LEN: usize = 192;

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
    /// [`SendError`] says why it was dropped; it is counted already. What befalls a frame that waited is only counted.
    pub fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), SendError> {
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        let Some(peer) = table.by_id(peer) else {
            strangers.dropped(lane, TunnelDrop::UnknownPeer);
            return Err(TunnelDrop::UnknownPeer.into());
        };
        peer.path.note_use();
        let frame_max = peer.path.frame_max();
        // Only short frames begin connections.
        let clamped = if frame.len() <= SYN_MAX_LEN && peer.path.is_known() {
            clamp_mss(frame, frame_max)
        } else {
            None
        };
        let frame = clamped
            .as_deref()
            .map_or(frame, |bytes| FrameRef::new(bytes, frame.offload));
        let encap = if table.carriage(vni) != Some(Carriage::Clear) {
            Err(TunnelDrop::NotCarried)
        } else if peer.allows(vni) {
            Encap::new(VxlanHeader::to_bytes(vni), frame, frame_max)
        } else {
            Err(TunnelDrop::NetworkNotAllowed)
        };
        match encap {
            Ok(encap) => {
                let flow = flow_hash(frame.bytes);
                let pushed = self.trains.push(peer, flow, &encap, frame.bytes.len());
                pushed.map_err(SendError::from)
            }
            Err(reason) => {
                peer.counters.dropped(lane, reason, 1);
                let mtu = (reason == TunnelDrop::TooBig).then(|| packet_max(frame, frame_max));
                Err(SendError { reason, mtu })
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
        // Datagrams of one peer mostly come together, and so do those of a network.
        let mut last = None;
        let mut clear = None;
        let mut taken = 0;
        for i in 0..trains {
            let Some(train) = self.inbox.train(i) else {
                taken += 1;
                continue;
            };
            taken += train.count();
            let Some(peer) = sender(table, train.from.ip(), last) else {
                strangers.stranger(lane, train.from.ip(), train.count(), train.len);
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
                let admitted = admit(peer, &buffer[datagram]).and_then(|(vni, len)| {
                    if clear != Some(vni) {
                        // What isn't known here the switch drops, and says so.
                        if table.carriage(vni) == Some(Carriage::Encrypted) {
                            return Err(TunnelDrop::InClear);
                        }
                        clear = Some(vni);
                    }
                    Ok((vni, len))
                });
                match admitted {
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

/// The largest layer 3 packet in frames of at most `frame_max` bytes that have the headers of this one.
pub(super) fn packet_max(frame: FrameRef<'_>, frame_max: usize) -> Mtu {
    let tag = EthernetFrame::new(frame.bytes).is_ok_and(|ethernet| ethernet.vlan().is_some());
    let tag_len = if tag { VLAN_TAG_LEN } else { 0 };
    mtu_of_frame(frame_max.saturating_sub(tag_len))
}

/// Why a frame was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendError {
    /// As it is counted.
    pub reason: TunnelDrop,
    /// The largest layer 3 packet that gets to that peer, if that was the reason and is known.
    pub mtu: Option<Mtu>,
}

impl From<TunnelDrop> for SendError {
    fn from(reason: TunnelDrop) -> Self {
        Self { reason, mtu: None }
    }
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

pub(super) fn tell(answers: Option<&SyncSender<Answer>>, peer: &Peer, id: u32) {
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
