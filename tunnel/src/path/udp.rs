//! Datagrams <-> sockets: a worker's end of the tunnels. Out, frames come from the switch with the peer they are for;
//! in, they go to the switch with the peer they are from. Knows nothing of ports or MACs.
//!
//! A worker owns its listening socket, its buffers and its view of the peers; only the pool of sending sockets is
//! shared. It never waits: a full socket drops the frame, as a full queue of a switch does.
//!
//! Now each segment is a datagram of its own, handed over in batches by `sendmmsg`. Trains (UDP_SEGMENT) and UDP_GRO
//! change `Outbox` and `Inbox` of `sys`, not what the switch sees.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::{SockAddr, Socket};
use weft_wire::{FrameRef, PeerId, Vni, flow_hash};

use super::bind::SourcePool;
use super::encap::{Encap, decap};
use super::sys::{Datagram, Inbox, Outbox};
use crate::drop::TunnelDrop;
use crate::peer::{Peer, PeerReader, PeerTable};

/// How often an error of an earlier send (an ICMP message that came meanwhile) is passed over.
const PENDING_ERROR_RETRIES: usize = 1;

/// One worker's end of the VXLAN tunnels: to be owned by one thread.
#[derive(Debug)]
pub struct VxlanWorker {
    listener: Socket,
    sources: Arc<SourcePool>,
    peers: PeerReader,
    outbox: Outbox,
    inbox: Inbox,
}

impl VxlanWorker {
    pub(super) fn new(listener: Socket, sources: Arc<SourcePool>, peers: PeerReader) -> Self {
        Self {
            listener,
            sources,
            peers,
            outbox: Outbox::new(),
            inbox: Inbox::new(),
        }
    }

    /// What to poll for input.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.listener.as_fd()]
    }

    /// Sends a frame to a peer: cut, checksummed and encapsulated. A frame that the kernel doesn't take whole counts
    /// as dropped, whatever left before.
    ///
    /// # Errors
    /// [`TunnelDrop`] says why it was dropped; it is counted already.
    pub fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TunnelDrop> {
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        let Some(peer) = table.by_id(peer) else {
            strangers.dropped(lane, TunnelDrop::UnknownPeer);
            return Err(TunnelDrop::UnknownPeer);
        };
        let encap = if peer.allows(vni) {
            Encap::new(vni, frame)
        } else {
            Err(TunnelDrop::NetworkNotAllowed)
        };
        let result = encap.and_then(|encap| {
            let socket = self.sources.of_flow(flow_hash(frame.bytes));
            let (sent, result) = transmit(&mut self.outbox, socket, &peer.destination, &encap);
            peer.counters.datagrams_sent(lane, sent);
            result
        });
        match result {
            Ok(()) => peer.counters.sent(lane, frame.bytes.len()),
            Err(reason) => peer.counters.dropped(lane, reason),
        }
        result
    }

    /// Takes one batch of datagrams and gives `sink` the frames that may come in, with their peer and network. Returns
    /// how many datagrams were taken, dropped ones included; 0 when there are none.
    pub fn receive(&mut self, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        let taken = self.inbox.receive(self.listener.as_fd());
        let lane = self.peers.lane;
        let (table, strangers) = self.peers.parts();
        // Datagrams of one peer mostly come together.
        let mut last = None;
        for i in 0..taken {
            let Some(datagram) = self.inbox.datagram(i) else {
                continue;
            };
            let Some(peer) = sender(table, datagram.from, last) else {
                strangers.stranger(lane, datagram.from, datagram.bytes.len());
                continue;
            };
            last = Some(peer);
            match admit(peer, &datagram) {
                Ok((vni, frame)) => {
                    peer.counters.received(lane, frame.bytes.len());
                    sink(peer.id, vni, frame);
                }
                Err(reason) => peer.counters.dropped(lane, reason),
            }
        }
        taken
    }
}

/// Who sent a datagram. Its port says nothing: it is the sender's flow entropy.
#[inline]
fn sender<'t>(table: &'t PeerTable, from: IpAddr, last: Option<&'t Peer>) -> Option<&'t Peer> {
    last.filter(|peer| peer.address == from)
        .or_else(|| table.by_address(from))
}

/// What a known peer sent, if it may.
#[inline]
fn admit<'d>(peer: &Peer, datagram: &Datagram<'d>) -> Result<(Vni, FrameRef<'d>), TunnelDrop> {
    if datagram.truncated {
        return Err(TunnelDrop::Truncated);
    }
    let (vni, frame) = decap(datagram.bytes)?;
    if !peer.allows(vni) {
        return Err(TunnelDrop::NetworkNotAllowed);
    }
    Ok((vni, frame))
}

/// Hands all datagrams of a frame to the kernel, or those before the first that it refuses. Says how many it took.
fn transmit(
    outbox: &mut Outbox,
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    encap: &Encap<'_>,
) -> (usize, Result<(), TunnelDrop>) {
    let mut sent = 0;
    let mut retries = PENDING_ERROR_RETRIES;
    while sent < encap.count() {
        match outbox.send(socket, to, encap, sent) {
            Ok(taken) => sent += taken,
            Err(error) => match refusal(&error) {
                None => {}
                Some(TunnelDrop::Unreachable) if retries > 0 => retries -= 1,
                Some(reason) => return (sent, Err(reason)),
            },
        }
    }
    (sent, Ok(()))
}

/// What the kernel's refusal of a datagram means; `None` if it is to be tried again.
fn refusal(error: &io::Error) -> Option<TunnelDrop> {
    let reason = match error.raw_os_error().unwrap_or(0) {
        libc::EINTR => return None,
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
    };
    Some(reason)
}
