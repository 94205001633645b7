//! UDP flows: each a connected socket of the host, so that the kernel tells answers and ICMP errors apart for us. A flow
//! ends when nothing was heard for a while (RFC 4787 REQ-5; as Linux's connection tracking has it).

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};
use socket2::Socket;
use std::os::fd::AsRawFd;
use weft_wire::{IpProtocol, MacAddr};

use super::answer::{Ends, Head, IcmpError, datagram, ports, quote};
use super::dial;
use super::errors::{self, Told};
use super::inside::{Counters, Inside, Notice};
use super::packet::{FlowKey, Packet};
use super::refusal::Refusal;
use super::shared::{Shared, Via};
use super::timers::Armed;
use super::token::Token;

/// UDP flows at most, of all networks.
const MAX_FLOWS: usize = 16_384;
/// Of one container: a port scan holds no more sockets than that.
const MAX_FLOWS_PER_CONTAINER: usize = 4_096;
/// A question that nobody has answered yet.
const UNANSWERED: Duration = Duration::from_secs(30);
/// A conversation.
const ANSWERED: Duration = Duration::from_secs(180);
/// Datagrams read before others have their turn.
const TURN: usize = 64;

type Key = (u64, FlowKey);

#[derive(Debug)]
struct Flow {
    key: Key,
    mac: MacAddr,
    socket: Socket,
    /// As the socket has it; 0: the host's own.
    ttl: u8,
    answered: bool,
    used: Instant,
    armed: Armed,
}

impl Flow {
    fn ends_at(&self) -> Instant {
        self.used + if self.answered { ANSWERED } else { UNANSWERED }
    }
}

/// All UDP flows.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    by_key: HashMap<Key, u64>,
    flows: HashMap<u64, Flow>,
    containers: HashMap<(u64, IpAddr), usize>,
    /// Of fragmented datagrams to containers.
    identification: u32,
}

impl Datagrams {
    /// A UDP packet of a container.
    pub(super) fn handle_packet(
        &mut self,
        network: u64,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) {
        let (source, destination, payload) = match packet.udp() {
            Ok(parts) => parts,
            Err(why) => return inside.counters.refusals.count(why),
        };
        let key = (network, packet.flow(source, destination));
        let id = match self.by_key.get(&key).copied() {
            Some(id) => id,
            None => match self.begin(key, inside, packet, shared) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        flow.mac = packet.mac;
        flow.used = shared.now;
        let ttl = packet.ttl.saturating_sub(1);
        if flow.ttl != ttl && set_ttl(&flow.socket, packet.destination, ttl).is_ok() {
            flow.ttl = ttl;
        }
        match send(&flow.socket, payload, packet.datagram) {
            Ok(count) => Counters::add(&inside.counters.out_bytes, count),
            // The error queue tells more of it, or has: see `handle_event`.
            Err(Errno::EMSGSIZE | Errno::ECONNREFUSED | Errno::EHOSTUNREACH) => {}
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                inside.counters.refusals.count(Refusal::HostResources);
            }
            Err(error) => match dial::explain(&error.into(), packet.destination) {
                Some(error) => inside.refuse(packet, Refusal::Outside, error, shared.now),
                None => inside.counters.refusals.count(Refusal::HostResources),
            },
        }
    }

    fn begin(
        &mut self,
        key: Key,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) -> Option<u64> {
        if let Err(why) = self.admit(&key) {
            inside.counters.refusals.count(why);
            return None;
        }
        if key.1.outside.port() == 0 {
            inside.counters.refusals.count(Refusal::Malformed);
            return None;
        }
        if let Err(why) = shared.allow(Via::Udp, key.1.outside) {
            if why == Refusal::Multicast {
                inside.counters.refusals.count(why);
            } else {
                let error = IcmpError::prohibited(packet.destination);
                inside.refuse(packet, why, error, shared.now);
            }
            return None;
        }
        let id = shared.number();
        let opened = dial::datagrams(key.1.outside).and_then(|socket| {
            shared.watch(&socket, Token::Udp(id), EpollFlags::EPOLLIN)?;
            Ok(socket)
        });
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => {
                match dial::explain(&error, packet.destination) {
                    Some(error) => inside.refuse(packet, Refusal::Outside, error, shared.now),
                    None => inside.counters.refusals.count(Refusal::HostResources),
                }
                return None;
            }
        };
        self.add((id, key), packet.mac, socket, inside, shared);
        Some(id)
    }

    fn admit(&self, key: &Key) -> Result<(), Refusal> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(Refusal::Full);
        }
        match self.containers.get(&(key.0, key.1.inside.ip())) {
            Some(count) if *count >= MAX_FLOWS_PER_CONTAINER => Err(Refusal::ContainerFull),
            Some(_) | None => Ok(()),
        }
    }

    fn add(
        &mut self,
        (id, key): (u64, Key),
        mac: MacAddr,
        socket: Socket,
        inside: &Inside,
        shared: &mut Shared,
    ) {
        *self
            .containers
            .entry((key.0, key.1.inside.ip()))
            .or_default() += 1;
        inside.counters.udp.fetch_add(1, Ordering::Relaxed);
        inside.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.by_key.insert(key, id);
        let mut flow = Flow {
            key,
            mac,
            socket,
            ttl: 0,
            answered: false,
            used: shared.now,
            armed: Armed::default(),
        };
        let at = flow.ends_at();
        flow.armed.arm(Token::Udp(id), at, &mut shared.timers);
        self.flows.insert(id, flow);
    }

    /// Something came for a flow's socket.
    pub(super) fn handle_event(
        &mut self,
        id: u64,
        events: EpollFlags,
        networks: &mut HashMap<u64, Inside>,
        shared: &mut Shared,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        let Some(inside) = networks.get_mut(&flow.key.0) else {
            return;
        };
        if events.contains(EpollFlags::EPOLLERR) {
            while let Some(told) = errors::next(&flow.socket) {
                tell(flow, &told, inside, shared.now);
            }
            // An error that was queued is pending too: it is taken, or it would be `send`'s.
            let _ = flow.socket.take_error();
        }
        if !events.contains(EpollFlags::EPOLLIN) {
            return;
        }
        let mut buffer = shared.pool.take();
        for _ in 0..TURN {
            match nix::unistd::read(&flow.socket, &mut buffer) {
                Ok(len) => {
                    flow.answered = true;
                    flow.used = shared.now;
                    self.identification = self.identification.wrapping_add(1);
                    let payload = buffer.get(..len).unwrap_or_default();
                    let ends = Ends::inward(&flow.key.1, flow.mac);
                    deliver(inside, &ends, &flow.key.1, payload, self.identification);
                }
                Err(_) => break,
            }
        }
        shared.pool.put(buffer);
    }

    /// A flow's time may be up.
    pub(super) fn handle_timer(
        &mut self,
        id: u64,
        at: Instant,
        networks: &HashMap<u64, Inside>,
        shared: &mut Shared,
    ) {
        let Some(flow) = self.flows.get_mut(&id) else {
            return;
        };
        if !flow.armed.disarm(at) {
            return;
        }
        let ends_at = flow.ends_at();
        if ends_at > shared.now {
            flow.armed.arm(Token::Udp(id), ends_at, &mut shared.timers);
        } else if let Some(inside) = networks.get(&flow.key.0) {
            self.remove(id, inside);
        }
    }

    fn remove(&mut self, id: u64, inside: &Inside) {
        let Some(flow) = self.flows.remove(&id) else {
            return;
        };
        self.by_key.remove(&flow.key);
        inside.counters.udp.fetch_sub(1, Ordering::Relaxed);
        let container = (flow.key.0, flow.key.1.inside.ip());
        if let Some(count) = self.containers.get_mut(&container) {
            *count -= 1;
            if *count == 0 {
                self.containers.remove(&container);
            }
        }
    }

    /// Ends the flows of a network, or of one container of it.
    pub(super) fn forget(&mut self, network: u64, container: Option<&[IpAddr]>, inside: &Inside) {
        let gone = self.flows.iter().filter(|(_, flow)| {
            let ip = flow.key.1.inside.ip();
            flow.key.0 == network && container.is_none_or(|ips| ips.contains(&ip))
        });
        let gone: Vec<u64> = gone.map(|(id, _)| *id).collect();
        for id in gone {
            self.remove(id, inside);
        }
    }
}

/// Writes a datagram into a network, in fragments if it is too long for it.
pub(super) fn deliver(inside: &Inside, ends: &Ends, key: &FlowKey, payload: &[u8], id: u32) {
    Counters::add(&inside.counters.in_bytes, payload.len());
    if payload.len() > inside.datagram_max(ends.destination) {
        let upper = datagram(ends, key, payload);
        return inside.send_upper(ends, IpProtocol::UDP, &upper, id);
    }
    let head = Head::udp(ends, key, payload.len(), None);
    if inside.send(head.bytes(), &[payload], head.offload).is_err() {
        inside.counters.refusals.count(Refusal::Congested);
    }
}

/// Passes an ICMP error on to the container, as if it had come for its own datagram.
fn tell(flow: &Flow, told: &Told, inside: &mut Inside, now: Instant) {
    inside.counters.refusals.count(Refusal::Outside);
    let key = &flow.key.1;
    let quoted = quote(key, IpProtocol::UDP, ports(key, 0), 8);
    let to = key.inside.ip();
    let notice = Notice {
        mac: flow.mac,
        to,
        error: told.error,
        quoted: &quoted,
    };
    match told.from {
        Some(from) => inside.say_from(from, &notice, now),
        None => inside.say(key.outside.ip(), &notice, now),
    }
}

/// Sends a datagram, or a run of datagrams of `size` bytes each.
fn send(socket: &Socket, payload: &[u8], size: Option<usize>) -> Result<usize, Errno> {
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let size = size.filter(|size| *size < payload.len());
    let Some(size) = size.and_then(|size| u16::try_from(size).ok()) else {
        let sent = nix::sys::socket::send(fd, payload, flags);
        // An error of an earlier datagram is reported once.
        return match sent {
            Err(Errno::ECONNREFUSED) => nix::sys::socket::send(fd, payload, flags),
            sent => sent,
        };
    };
    let run = [ControlMessage::UdpGsoSegments(&size)];
    let all = sendmsg::<SockaddrStorage>(fd, &[IoSlice::new(payload)], &run, flags, None);
    match all {
        // Too many for the kernel, or a device that doesn't take them: one by one.
        Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::EIO) => {
            let mut sent = 0;
            for datagram in payload.chunks(usize::from(size)) {
                sent += nix::sys::socket::send(fd, datagram, flags)?;
            }
            Ok(sent)
        }
        result => result,
    }
}

fn set_ttl(socket: &Socket, to: IpAddr, ttl: u8) -> io::Result<()> {
    match to {
        IpAddr::V4(_) => socket.set_ttl_v4(u32::from(ttl)),
        IpAddr::V6(_) => socket.set_unicast_hops_v6(u32::from(ttl)),
    }
}
