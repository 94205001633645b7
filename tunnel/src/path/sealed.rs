//! Frames -> trains of ESP packets, and trains to the kernel. What is cut from a superframe is copied once, sealed in
//! place and leaves in one call; short frames to the same place wait for each other as those of VXLAN do (see `train`).
//!
//! All packets leave from the one port that also takes them: who is behind NAT is reached there, and a firewall needs
//! one rule.

use std::sync::Arc;

use socket2::{SockAddr, Socket};
use std::os::fd::AsFd;
use weft_wire::{FrameRef, Loopback, PeerId, Vni, clamp_mss};

use super::encap::{Encap, HEAD_LEN};
use super::sys::{self, SEND_BATCH, SocketOption};
use super::train::{may_be_about_trains, one_by_one, refusal, retried, shorten};
use super::udp::{SYN_MAX_LEN, SendError, packet_max};
use crate::drop::TunnelDrop;
use crate::ecn;
use crate::esp::{ESP_HEADER_LEN, GRE_HEADER_LEN, GreHeader, payload_max, sealed_len};
use crate::mtu::TRAIN_BYTES_MAX;
use crate::peer::{Lane, Peer, PeerCounters};
use crate::secure::{Sealing, SecurePeer};

/// A way out for sealed frames.
#[derive(Debug)]
pub(crate) struct SealedTrains {
    socket: Socket,
    lane: Lane,
    /// Most datagrams of a train; 1 where the kernel takes none, or shall not.
    longest: usize,
    /// ECN bits that the socket gives to packets.
    ecn: u8,
    buffer: Box<[u8]>,
    waiting: Waiting,
}

/// Sealed packets of one size that go to one place together: the beginning of the buffer.
#[derive(Debug, Default)]
struct Waiting {
    bytes: usize,
    /// Packets, frames that end in them, and those frames' bytes as the container gave them.
    count: usize,
    frames: usize,
    frame_bytes: usize,
    /// Bytes of each packet, but the last.
    size: usize,
    ecn: u8,
    to: Option<Destination>,
}

#[derive(Debug)]
struct Destination {
    peer: PeerId,
    address: SockAddr,
    counters: Arc<PeerCounters>,
}

impl SealedTrains {
    pub(super) fn new(socket: Socket, lane: Lane, gso: bool) -> Self {
        Self {
            socket,
            lane,
            longest: if gso { SEND_BATCH } else { 1 },
            ecn: 0,
            buffer: vec![0; TRAIN_BYTES_MAX].into_boxed_slice(),
            waiting: Waiting::default(),
        }
    }

    /// Sends a frame to a peer that has a session, or lets it wait for [`Self::flush`].
    ///
    /// # Errors
    /// Why it was dropped; counted already.
    pub(crate) fn send(
        &mut self,
        (peer, secure): (&Peer, &SecurePeer),
        sealing: &Sealing,
        vni: Vni,
        frame: FrameRef<'_>,
    ) -> Result<(), SendError> {
        let path = &secure.path;
        let frame_max = path.frame_max();
        // Only short frames begin connections.
        let clamped = if frame.len() <= SYN_MAX_LEN && path.is_known() {
            clamp_mss(frame, frame_max)
        } else {
            None
        };
        let frame = clamped
            .as_deref()
            .map_or(frame, |bytes| FrameRef::new(bytes, frame.offload));
        let sent = Encap::new(GreHeader::to_bytes(vni), frame, frame_max)
            .and_then(|encap| self.push(peer, sealing, &encap, frame));
        sent.map_err(|reason| {
            peer.counters.dropped(self.lane, reason, 1);
            let mtu = (reason == TunnelDrop::TooBig && path.is_known())
                .then(|| packet_max(frame, frame_max));
            SendError { reason, mtu }
        })
    }

    /// Cuts and seals. An error is not counted yet.
    fn push(
        &mut self,
        peer: &Peer,
        sealing: &Sealing,
        encap: &Encap<'_>,
        frame: FrameRef<'_>,
    ) -> Result<(), TunnelDrop> {
        let count = encap.count();
        if sealed_len(encap.len_of(0)) > self.buffer.len() {
            return Err(TunnelDrop::TooBig);
        }
        let ecn = ecn::of(frame.bytes);
        let numbers = u32::try_from(count).map_err(|_| TunnelDrop::Malformed)?;
        // At the end of its numbers a key seals nothing; a new session is on its way long before.
        let sequences = sealing.key.reserve(numbers);
        let sequences = sequences.map_err(|_| TunnelDrop::NoSession)?;
        for (i, sequence) in sequences.enumerate() {
            let payload = encap.len_of(i);
            let len = sealed_len(payload);
            if !self.waiting.takes((peer, sealing, ecn), len, self.longest) {
                self.flush_all()?;
                self.waiting.start((peer, sealing, ecn), len);
            }
            let packet = &mut self.buffer[self.waiting.bytes..self.waiting.bytes + len];
            write_payload(encap, i, &mut packet[ESP_HEADER_LEN..]);
            sealing
                .key
                .seal(sequence, packet, payload)
                .map_err(|_| TunnelDrop::SendFailed)?;
            self.waiting.bytes += len;
            self.waiting.count += 1;
            if i + 1 == count {
                self.waiting.frames += 1;
                self.waiting.frame_bytes += frame.len();
            }
            // A shorter one ends a train.
            if len < self.waiting.size {
                self.flush();
            }
        }
        if count > 1 {
            self.flush();
        }
        Ok(())
    }

    /// Sends what waits.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if self.waiting.count > 0 {
            // Counted there.
            let _ = self.send_waiting();
        }
    }

    /// The same amid a frame: an error is about the frames before and about this one.
    fn flush_all(&mut self) -> Result<(), TunnelDrop> {
        if self.waiting.count > 0 {
            return self.send_waiting();
        }
        Ok(())
    }

    fn send_waiting(&mut self) -> Result<(), TunnelDrop> {
        let waiting = &mut self.waiting;
        let Some(to) = waiting.to.as_ref() else {
            return Ok(());
        };
        if self.ecn != waiting.ecn {
            let option = if to.address.is_ipv6() {
                SocketOption::Tos6
            } else {
                SocketOption::Tos4
            };
            // A kernel that refuses sends without marks.
            let _ = sys::set(self.socket.as_fd(), option, waiting.ecn.into());
            self.ecn = waiting.ecn;
        }
        let socket = self.socket.as_fd();
        let (bytes, size) = (&self.buffer[..waiting.bytes], waiting.size);
        let (sent, result) = match retried(|| sys::send_train(socket, &to.address, bytes, size)) {
            Ok(()) => (waiting.count, Ok(())),
            Err(error) if waiting.count == 1 || !may_be_about_trains(&error) => {
                (0, Err(refusal(&error)))
            }
            Err(error) => {
                let (sent, result) = one_by_one(socket, &to.address, bytes, size);
                if sent > 0 {
                    shorten(&mut self.longest, waiting.count, &error);
                }
                (sent, result)
            }
        };
        let counters = &to.counters;
        counters.datagrams_sent(self.lane, sent);
        match result {
            Ok(()) => counters.sent(self.lane, waiting.frames, waiting.frame_bytes),
            // Which frames got through isn't known of trains with several packets of one frame.
            Err(reason) => counters.dropped(self.lane, reason, waiting.frames),
        }
        waiting.empty();
        result
    }

    /// Sends a loopback message or reply of the tunnel's own, which is not counted.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn send_loopback(
        &mut self,
        sealing: &Sealing,
        message: &[u8],
    ) -> std::io::Result<()> {
        self.flush();
        let payload = GRE_HEADER_LEN + message.len();
        let len = sealed_len(payload);
        let Some(packet) = self.buffer.get_mut(..len) else {
            return Err(std::io::Error::from_raw_os_error(libc::EMSGSIZE));
        };
        let inside = &mut packet[ESP_HEADER_LEN..];
        inside[..GRE_HEADER_LEN].copy_from_slice(&GreHeader::management());
        inside[GRE_HEADER_LEN..payload].copy_from_slice(message);
        let used_up = || std::io::Error::other("the session's key is used up");
        let sequence = sealing.key.reserve(1).ok().and_then(|mut one| one.next());
        let sequence = sequence.ok_or_else(used_up)?;
        sealing
            .key
            .seal(sequence, packet, payload)
            .map_err(|_| used_up())?;
        sys::send_train(self.socket.as_fd(), &sealing.to, packet, len)
    }

    /// Sends a probe in a datagram of about `udp` bytes: as many as an ESP packet can have at most. `None` if no probe is
    /// as short.
    pub(super) fn probe(
        &mut self,
        sealing: &Sealing,
        id: u32,
        udp: usize,
    ) -> Option<std::io::Result<()>> {
        let len = payload_max(udp).checked_sub(GRE_HEADER_LEN)?;
        if len < weft_wire::LOOPBACK_MIN_LEN {
            return None;
        }
        let mut message = vec![0; len];
        Loopback::write_message(id, &mut message);
        Some(self.send_loopback(sealing, &message))
    }
}

/// What is sealed of datagram `i`.
#[inline]
fn write_payload(encap: &Encap<'_>, i: usize, out: &mut [u8]) {
    let payload = encap.payload(i);
    let mut head = [0; HEAD_LEN];
    let head_len = encap.write_head(i, &mut head);
    out[..head_len].copy_from_slice(&head[..head_len]);
    out[head_len..head_len + payload.len()].copy_from_slice(payload);
}

impl Waiting {
    #[inline]
    fn takes(
        &self,
        (peer, sealing, ecn): (&Peer, &Sealing, u8),
        len: usize,
        longest: usize,
    ) -> bool {
        self.count > 0
            && self.count < longest
            && len <= self.size
            && self.bytes + len <= TRAIN_BYTES_MAX
            && self.ecn == ecn
            && self
                .to
                .as_ref()
                .is_some_and(|to| to.peer == peer.id && to.address == sealing.to)
    }

    fn start(&mut self, (peer, sealing, ecn): (&Peer, &Sealing, u8), size: usize) {
        self.size = size;
        self.ecn = ecn;
        let same = |to: &Destination| {
            to.peer == peer.id
                && to.address == sealing.to
                && Arc::ptr_eq(&to.counters, &peer.counters)
        };
        if !self.to.as_ref().is_some_and(same) {
            self.to = Some(Destination {
                peer: peer.id,
                address: sealing.to.clone(),
                counters: Arc::clone(&peer.counters),
            });
        }
    }

    fn empty(&mut self) {
        (self.bytes, self.count, self.frames, self.frame_bytes) = (0, 0, 0, 0);
    }
}
