//! A network as the way out sees it: the inside port, the gateway's addresses, and what is allowed.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::port::{Queue, SendError};
use weft_wire::{FrameRef, IpProtocol, MacAddr, Mtu, Offload, Tail};

use super::answer::{Ends, IcmpError, fragments, whole_frame};
use super::packet::Packet;
use super::refusal::{Refusal, Refusals};
use crate::model::Egress;

/// ICMP errors that a network's gateway sends at most in a [`PERIOD`] (RFC 1812 section 4.3.2.8).
const MAX_ERRORS: u32 = 200;
const PERIOD: Duration = Duration::from_millis(200);

/// What a network's way out is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkSpec {
    /// The gateway's addresses.
    pub(crate) gateways: Vec<IpAddr>,
    /// Of the network.
    pub(crate) mtu: Mtu,
    /// How its endpoints reach the outside: here only by NAT.
    pub(crate) way: Egress,
}

/// Counters of a network's way out. Flows are those that are there now.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) tcp: AtomicU64,
    pub(crate) udp: AtomicU64,
    pub(crate) echo: AtomicU64,
    /// Flows since the start.
    pub(crate) opened: AtomicU64,
    /// Bytes that went out.
    pub(crate) out_bytes: AtomicU64,
    /// Bytes that came in.
    pub(crate) in_bytes: AtomicU64,
    pub(super) refusals: Refusals,
}

impl Counters {
    /// What was refused, by reason.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.refusals.named()
    }

    pub(super) fn add(counter: &AtomicU64, count: usize) {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// An ICMP error for a container.
#[derive(Clone, Copy, Debug)]
pub(super) struct Notice<'a> {
    pub(super) mac: MacAddr,
    pub(super) to: IpAddr,
    pub(super) error: IcmpError,
    /// Its packet, from the IP header on, or the beginning of it.
    pub(super) quoted: &'a [u8],
}

/// A network.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) queue: Queue,
    pub(super) spec: NetworkSpec,
    pub(super) counters: Arc<Counters>,
    /// There may be something to read.
    pub(super) readable: bool,
    /// TCP flows that wait for room.
    pub(super) blocked: Vec<u64>,
    errors: u32,
    since: Instant,
}

impl NetworkSpec {
    /// Why nothing new gets out here.
    pub(super) const fn closed(&self) -> Option<Refusal> {
        match self.way {
            Egress::Nat => None,
            // What the host's port would have taken is here only while there is none.
            Egress::Kernel => Some(Refusal::NoHostPort),
            Egress::Off => Some(Refusal::Off),
        }
    }
}

impl Inside {
    pub(super) fn new(
        queue: Queue,
        spec: NetworkSpec,
        counters: Arc<Counters>,
        now: Instant,
    ) -> Self {
        Self {
            queue,
            spec,
            counters,
            readable: true,
            blocked: Vec::new(),
            errors: 0,
            since: now,
        }
    }

    /// Largest payload of a TCP segment.
    pub(super) fn mss(&self, to: IpAddr) -> u16 {
        let headers = if to.is_ipv4() { 40 } else { 60 };
        let mss = self.spec.mtu.bytes().saturating_sub(headers);
        u16::try_from(mss).unwrap_or(u16::MAX)
    }

    /// Largest payload of a datagram that needs no fragments.
    pub(super) fn datagram_max(&self, to: IpAddr) -> usize {
        let headers = if to.is_ipv4() { 28 } else { 48 };
        self.spec.mtu.bytes().saturating_sub(headers)
    }

    /// The gateway's address of that family.
    pub(super) fn gateway(&self, like: IpAddr) -> Option<IpAddr> {
        let gateways = self.spec.gateways.iter().copied();
        gateways
            .into_iter()
            .find(|gateway| gateway.is_ipv4() == like.is_ipv4())
    }

    /// Writes headers and payload as one frame.
    ///
    /// # Errors
    /// No room, or the port is gone.
    pub(super) fn send(
        &self,
        head: &[u8],
        payload: &[&[u8]],
        offload: Offload,
    ) -> Result<(), SendError> {
        self.queue.send(FrameRef {
            bytes: head,
            tail: Tail::new(payload),
            offload,
        })
    }

    /// Writes a complete frame; says whether it found room, and counts it if not.
    pub(super) fn send_whole(&self, frame: &[u8]) -> bool {
        let sent = self.queue.send(FrameRef::plain(frame)).is_ok();
        if !sent {
            self.counters.refusals.count(Refusal::Congested);
        }
        sent
    }

    /// Writes an IP packet, in fragments if it is too long for the network.
    pub(super) fn send_upper(&self, ends: &Ends, protocol: IpProtocol, upper: &[u8], id: u32) {
        let headers = if ends.destination.is_ipv4() { 20 } else { 40 };
        if headers + upper.len() <= self.spec.mtu.bytes() {
            self.send_whole(&whole_frame(ends, protocol, upper));
            return;
        }
        for frame in fragments(ends, protocol, upper, self.spec.mtu.bytes(), id) {
            self.send_whole(&frame);
        }
    }

    /// Counts a refused packet and says so to who sent it.
    pub(super) fn refuse(
        &mut self,
        packet: &Packet<'_>,
        why: Refusal,
        error: IcmpError,
        now: Instant,
    ) {
        self.counters.refusals.count(why);
        let notice = Notice {
            mac: packet.mac,
            to: packet.source,
            error,
            quoted: packet.ip,
        };
        self.say(packet.destination, &notice, now);
    }

    /// Sends an ICMP error from the gateway, about a packet to `about`.
    pub(super) fn say(&mut self, about: IpAddr, notice: &Notice<'_>, now: Instant) {
        let from = self.gateway(notice.to).unwrap_or(about);
        self.say_from(from, notice, now);
    }

    /// Sends an ICMP error that `from` said.
    pub(super) fn say_from(&mut self, from: IpAddr, notice: &Notice<'_>, now: Instant) {
        if now.saturating_duration_since(self.since) >= PERIOD {
            self.since = now;
            self.errors = 0;
        }
        if self.errors >= MAX_ERRORS || !may_be_told(notice.to) {
            return;
        }
        self.errors += 1;
        let ends = Ends {
            source_mac: GATEWAY_MAC,
            mac: notice.mac,
            source: from,
            destination: notice.to,
        };
        self.send_whole(&notice.error.frame(&ends, notice.quoted));
    }
}

/// RFC 1122 section 3.2.2: never to what is no single host.
pub(super) fn may_be_told(to: IpAddr) -> bool {
    !to.is_multicast() && !to.is_unspecified() && !to.is_loopback()
}
