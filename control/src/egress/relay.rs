//! TCP flows: each a [`Connection`] with a container and a socket of the host. This is where the bytes move.

mod flow;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use socket2::Socket;
use weft_wire::{MacAddr, Tcp, TcpFlags};

use super::answer::{Ends, Head, IcmpError};
use super::dial;
use super::inside::Inside;
use super::packet::{FlowKey, Packet};
use super::refusal::Refusal;
use super::shared::{Shared, Via};
use super::tcp::{Connection, End, Segment, State};
use super::token::Token;
use flow::{Flow, Out, Turn};

/// TCP flows at most, of all networks.
const MAX_FLOWS: usize = 32_768;
/// Of one container.
const MAX_FLOWS_PER_CONTAINER: usize = 16_384;
/// Dials under way of one container: a port scan holds no more sockets than that.
const MAX_DIALS_PER_CONTAINER: usize = 1_024;
/// Network and ends: what a segment's flow is found by.
type Key = (u64, FlowKey);

/// What one container has.
#[derive(Debug, Default)]
struct Share {
    flows: usize,
    dials: usize,
}

/// All TCP flows.
#[derive(Debug, Default)]
pub(super) struct Relay {
    by_key: HashMap<Key, u64>,
    flows: HashMap<u64, Flow>,
    containers: HashMap<(u64, IpAddr), Share>,
    /// Flows that have something to do.
    ready: VecDeque<u64>,
}

impl Relay {
    /// Whether some flow could go on at once.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty()
    }

    /// A TCP packet of a container.
    pub(super) fn handle_packet(
        &mut self,
        network: u64,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) {
        let segment = match packet.tcp() {
            Ok(segment) => segment,
            Err(why) => return inside.counters.refusals.count(why),
        };
        let key = (
            network,
            packet.flow(segment.source_port(), segment.destination_port()),
        );
        if let Some(id) = self.by_key.get(&key).copied() {
            let begins =
                segment.flags().contains(TcpFlags::SYN) && !segment.flags().contains(TcpFlags::ACK);
            let over = self.flows.get(&id).is_some_and(|flow| {
                matches!(flow.connection.state(), State::Finished | State::Dead)
            });
            if !(begins && over) {
                return self.handle_segment(id, inside, &segment, packet.mac, shared);
            }
            // RFC 9293 section 3.6.1: what lingers makes room for what begins.
            self.remove(id, inside, shared);
        }
        self.begin(key, inside, packet, &segment, shared);
    }

    fn handle_segment(
        &mut self,
        id: u64,
        inside: &Inside,
        segment: &Tcp<'_>,
        mac: MacAddr,
        shared: &mut Shared,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.mac = mac;
        let room = shared.room() + flow.held;
        let mut out = Out {
            socket: flow.socket.as_fd(),
            writable: &mut flow.writable,
            counters: &inside.counters,
        };
        let now = shared.now;
        flow.connection
            .handle_segment(segment, room, &mut out, &mut shared.pool, now);
        flow.account(shared);
        self.queue(id);
    }

    /// A segment of no flow: a SYN begins one.
    fn begin(
        &mut self,
        key: Key,
        inside: &mut Inside,
        packet: &Packet<'_>,
        segment: &Tcp<'_>,
        shared: &mut Shared,
    ) {
        let flags = segment.flags();
        if !flags.contains(TcpFlags::SYN) || flags.contains(TcpFlags::ACK) {
            if !flags.contains(TcpFlags::RST) {
                inside.counters.refusals.count(Refusal::NoFlow);
                refuse_segment(inside, packet, &key.1, segment);
            }
            return;
        }
        if let Err(why) = self.admit(&key, shared) {
            // Without an answer it is tried again, when there may be room.
            return inside.counters.refusals.count(why);
        }
        if let Err(why) = shared.allow(Via::Tcp, key.1.outside) {
            let error = IcmpError::prohibited(packet.destination);
            return inside.refuse(packet, why, error, shared.now);
        }
        let socket = match dial::connect(key.1.outside) {
            Ok(socket) => socket,
            Err(error) => return fail(inside, packet, segment, &key.1, &error, shared),
        };
        let mss = inside.mss(packet.source);
        let connection = Connection::accept(segment, rand::random(), mss, shared.now);
        self.add((key, packet.mac), connection, socket, inside, shared);
    }

    /// Whether there is room for one more flow.
    fn admit(&self, key: &Key, _: &Shared) -> Result<(), Refusal> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(Refusal::Full);
        }
        match self.containers.get(&(key.0, key.1.inside.ip())) {
            Some(share)
                if share.flows >= MAX_FLOWS_PER_CONTAINER
                    || share.dials >= MAX_DIALS_PER_CONTAINER =>
            {
                Err(Refusal::ContainerFull)
            }
            Some(_) | None => Ok(()),
        }
    }

    fn add(
        &mut self,
        (key, mac): (Key, MacAddr),
        connection: Connection,
        socket: Socket,
        inside: &Inside,
        shared: &mut Shared,
    ) {
        let id = shared.number();
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        if shared.watch(&socket, Token::Tcp(id), flags).is_err() {
            return inside.counters.refusals.count(Refusal::HostResources);
        }
        let dialling = connection.state() == State::Dialling;
        let share = self
            .containers
            .entry((key.0, key.1.inside.ip()))
            .or_default();
        share.flows += 1;
        share.dials += usize::from(dialling);
        inside.counters.tcp.fetch_add(1, Ordering::Relaxed);
        inside.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.by_key.insert(key, id);
        self.flows
            .insert(id, Flow::new(key, mac, connection, socket));
        self.queue(id);
    }

    /// A client of a published port, to be connected with the container at `key`'s inside end from its outside end; `first`
    /// is what the container hears before the client's own words.
    pub(super) fn adopt(
        &mut self,
        network: u64,
        inside: &Inside,
        (key, mac): (FlowKey, MacAddr),
        (socket, first): (Socket, Option<Vec<u8>>),
        shared: &mut Shared,
    ) {
        let key = (network, key);
        if self.flows.len() >= MAX_FLOWS || self.by_key.contains_key(&key) {
            return inside.counters.refusals.count(Refusal::Full);
        }
        let mss = inside.mss(key.1.inside.ip());
        let mut connection = Connection::call(rand::random(), mss, shared.now);
        if let Some(first) = first {
            let mut buffer = shared.pool.take();
            if let Some(room) = buffer.get_mut(..first.len()) {
                room.copy_from_slice(&first);
                connection.push(buffer, first.len(), &mut shared.pool, shared.now);
            }
        }
        self.add((key, mac), connection, socket, inside, shared);
    }

    /// Whether a flow has these ends.
    pub(super) fn has(&self, network: u64, key: FlowKey) -> bool {
        self.by_key.contains_key(&(network, key))
    }

    /// Whether a packet is of a flow that is there.
    pub(super) fn knows(&self, network: u64, packet: &Packet<'_>) -> bool {
        let Some([s0, s1, d0, d1]) = packet.upper.first_chunk::<4>().copied() else {
            return false;
        };
        let (source, destination) = (u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1]));
        self.has(network, packet.flow(source, destination))
    }

    fn queue(&mut self, id: u64) {
        if let Some(flow) = self.flows.get_mut(&id)
            && !flow.queued
        {
            flow.queued = true;
            self.ready.push_back(id);
        }
    }

    /// The network has room again.
    pub(super) fn unblock(&mut self, inside: &mut Inside) {
        for id in std::mem::take(&mut inside.blocked) {
            self.queue(id);
        }
    }

    /// Something happened on a flow's socket.
    pub(super) fn handle_event(&mut self, id: u64, events: EpollFlags) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let ended = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
        flow.hung_up |= events.intersects(ended);
        flow.readable |= events.intersects(EpollFlags::EPOLLIN | ended);
        flow.writable |= events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR);
        self.queue(id);
    }

    /// A flow's time is up.
    pub(super) fn handle_timer(&mut self, id: u64, at: std::time::Instant, shared: &Shared) {
        if let Some(flow) = self.flows.get_mut(&id)
            && flow.armed.disarm(at)
        {
            flow.connection.handle_timeout(shared.now);
            self.queue(id);
        }
    }

    /// Gives each flow that has something to do one turn.
    pub(super) fn drive(&mut self, networks: &mut HashMap<u64, Inside>, shared: &mut Shared) {
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(flow) = self.flows.get_mut(&id) else {
                continue;
            };
            flow.queued = false;
            let network = flow.key.0;
            let Some(inside) = networks.get_mut(&network) else {
                continue;
            };
            if flow.dialling && flow.writable {
                flow.dialling = false;
                if let Some(share) = self.containers.get_mut(&(network, flow.key.1.inside.ip())) {
                    share.dials = share.dials.saturating_sub(1);
                }
            }
            let turn = flow.turn(inside, shared);
            flow.account(shared);
            match turn {
                Turn::Over => {
                    self.remove(id, inside, shared);
                    continue;
                }
                Turn::More => self.queue(id),
                Turn::Blocked => inside.blocked.push(id),
                Turn::Done => {}
            }
            if let Some(flow) = self.flows.get_mut(&id) {
                let at = flow.next_timeout();
                flow.armed.arm(Token::Tcp(id), at, &mut shared.timers);
            }
        }
    }

    fn remove(&mut self, id: u64, inside: &Inside, shared: &mut Shared) {
        let Some(flow) = self.flows.remove(&id) else {
            return;
        };
        self.by_key.remove(&flow.key);
        shared.held = shared.held.saturating_sub(flow.held);
        inside.counters.tcp.fetch_sub(1, Ordering::Relaxed);
        let container = (flow.key.0, flow.key.1.inside.ip());
        if let Some(share) = self.containers.get_mut(&container) {
            share.flows = share.flows.saturating_sub(1);
            share.dials = share.dials.saturating_sub(usize::from(flow.dialling));
            if share.flows == 0 {
                self.containers.remove(&container);
            }
        }
        let cut_off = flow
            .connection
            .end()
            .is_some_and(|end| end != End::ByOutside);
        // What the container has said to its end is still on its way out: closing lets the kernel go on with that.
        if cut_off && !flow.connection.outside_may_finish() {
            // The outside hears of a reset as of a reset.
            let _ = flow.socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Ends the flows of a network, or of one container of it, without a word to it: it is gone.
    pub(super) fn forget(
        &mut self,
        network: u64,
        container: Option<&[IpAddr]>,
        inside: &Inside,
        shared: &mut Shared,
    ) {
        let gone = self.flows.iter().filter(|(_, flow)| {
            let ip = flow.key.1.inside.ip();
            flow.key.0 == network && container.is_none_or(|ips| ips.contains(&ip))
        });
        let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(flow) = self.flows.get_mut(&id) {
                flow.connection.reset(End::Expired);
            }
            self.remove(id, inside, shared);
        }
    }
}

/// A dial that failed at once.
fn fail(
    inside: &mut Inside,
    packet: &Packet<'_>,
    segment: &Tcp<'_>,
    key: &FlowKey,
    error: &std::io::Error,
    shared: &Shared,
) {
    if error.kind() == std::io::ErrorKind::ConnectionRefused {
        inside.counters.refusals.count(Refusal::Outside);
        return refuse_segment(inside, packet, key, segment);
    }
    match dial::explain(error, packet.destination) {
        Some(error) => inside.refuse(packet, Refusal::Outside, error, shared.now),
        None => inside.counters.refusals.count(Refusal::HostResources),
    }
}

/// Answers a segment with a reset (RFC 9293 section 3.10.7.1).
fn refuse_segment(inside: &Inside, packet: &Packet<'_>, key: &FlowKey, segment: &Tcp<'_>) {
    let flags = segment.flags();
    let reset = if flags.contains(TcpFlags::ACK) {
        Segment::reset(segment.acknowledgment(), 0, TcpFlags::RST)
    } else {
        let span = segment.payload().len()
            + usize::from(flags.contains(TcpFlags::SYN))
            + usize::from(flags.contains(TcpFlags::FIN));
        let next = segment
            .sequence()
            .wrapping_add(u32::try_from(span).unwrap_or(0));
        Segment::reset(0, next, TcpFlags::RST.with(TcpFlags::ACK))
    };
    let ends = Ends::inward(key, packet.mac);
    let head = Head::tcp(&ends, key, &reset);
    if inside.send(head.bytes(), &[], head.offload).is_err() {
        inside.counters.refusals.count(Refusal::Congested);
    }
}
