//! Echo requests (ping): sent from one raw socket of each family, under identifiers of our own, and their answers and
//! errors brought back. What else a container says in ICMP stays here: its errors are about flows that end here anyway.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockaddrStorage, recvfrom};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use weft_switch::gateway::GATEWAY_MAC;
use weft_wire::checksum::Sum;
use weft_wire::{IpProtocol, Ipv4, MacAddr};

use super::answer::{Ends, IcmpError, echo_reply, quote};
use super::dial;
use super::inside::{Counters, Inside, Notice, may_be_told};
use super::packet::{FlowKey, Packet};
use super::refusal::Refusal;
use super::shared::{Shared, Via};
use super::timers::Armed;
use super::token::Token;

/// Pings under way at most: identifiers have 16 bits, and others on this host ping too.
const MAX_FLOWS: usize = 4_096;
/// Of one container.
const MAX_FLOWS_PER_CONTAINER: usize = 256;
/// A ping that asks no more (RFC 5508 REQ-1 wants 60 s).
const IDLE: Duration = Duration::from_secs(60);
/// Messages read before others have their turn.
const TURN: usize = 64;
/// Our socket's number of a family.
const V4: u64 = 4;
const V6: u64 = 6;

/// Who pings whom under which identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    network: u64,
    inside: IpAddr,
    outside: IpAddr,
    identifier: u16,
}

impl Key {
    /// As the ends of a flow: ping has no ports.
    fn flow(&self) -> FlowKey {
        FlowKey {
            inside: SocketAddr::new(self.inside, 0),
            outside: SocketAddr::new(self.outside, 0),
        }
    }
}

#[derive(Debug)]
struct Flow {
    key: Key,
    mac: MacAddr,
    used: Instant,
}

/// All pings.
#[derive(Debug, Default)]
pub(super) struct Echo {
    v4: Option<Raw>,
    v6: Option<Raw>,
    by_key: HashMap<Key, u16>,
    /// By family and our identifier.
    flows: HashMap<(u64, u16), Flow>,
    armed: Armed,
    identification: u32,
}

#[derive(Debug)]
struct Raw {
    socket: Socket,
    ttl: u8,
}

impl Raw {
    fn open(family: u64, shared: &Shared) -> io::Result<Self> {
        let (domain, protocol) = match family {
            V4 => (Domain::IPV4, Protocol::ICMPV4),
            _ => (Domain::IPV6, Protocol::ICMPV6),
        };
        let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
        shared.watch(&socket, Token::Echo(family), EpollFlags::EPOLLIN)?;
        Ok(Self { socket, ttl: 0 })
    }

    fn send(&mut self, to: IpAddr, ttl: u8, message: &[u8]) -> io::Result<()> {
        if self.ttl != ttl {
            match to {
                IpAddr::V4(_) => self.socket.set_ttl_v4(u32::from(ttl))?,
                IpAddr::V6(_) => self.socket.set_unicast_hops_v6(u32::from(ttl))?,
            }
            self.ttl = ttl;
        }
        let to = SockAddr::from(SocketAddr::new(to, 0));
        self.socket.send_to(message, &to).map(drop)
    }
}

const fn family(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    }
}

impl Echo {
    /// Whether an ICMP packet is an echo request.
    pub(super) fn is_request(packet: &Packet<'_>) -> bool {
        let request = if packet.protocol == IpProtocol::ICMP4 {
            8
        } else {
            128
        };
        matches!(packet.upper, [kind, 0, ..] if *kind == request)
    }

    /// An echo request for the gateway itself that came in fragments: the switch answers only what is in one frame. The
    /// reply is as long, and so goes back in fragments.
    pub(super) fn answer(&mut self, inside: &Inside, packet: &Packet<'_>) {
        if let Err(why) = checked(packet) {
            return inside.counters.refusals.count(why);
        }
        if !may_be_told(packet.source) {
            return inside.counters.refusals.count(Refusal::Malformed);
        }
        let ends = Ends {
            source_mac: GATEWAY_MAC,
            mac: packet.mac,
            source: packet.destination,
            destination: packet.source,
        };
        let rest = packet.upper.get(4..).unwrap_or_default();
        let (protocol, message) = echo_reply(&ends, rest);
        self.identification = self.identification.wrapping_add(1);
        inside.send_upper(&ends, protocol, &message, self.identification);
    }

    /// An echo request of a container.
    pub(super) fn handle_packet(
        &mut self,
        network: u64,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) {
        let (header, data) = match checked(packet) {
            Ok(parts) => parts,
            Err(why) => return inside.counters.refusals.count(why),
        };
        let [kind, code, _, _, i0, i1, s0, s1] = *header;
        let key = Key {
            network,
            inside: packet.source,
            outside: packet.destination,
            identifier: u16::from_be_bytes([i0, i1]),
        };
        let Some(ours) = self.find(key, inside, packet, shared) else {
            return;
        };
        let [i0, i1] = ours.to_be_bytes();
        let mut message = vec![kind, code, 0, 0, i0, i1, s0, s1];
        message.extend_from_slice(data);
        if packet.destination.is_ipv4() {
            // The kernel does it for ICMPv6 (RFC 3542 section 3.1).
            let checksum = Sum::of(&message).finish().to_be_bytes();
            message[2..4].copy_from_slice(&checksum);
        }
        let ttl = packet.ttl.saturating_sub(1);
        match self.send(packet.destination, ttl, &message, shared) {
            Ok(()) => Counters::add(&inside.counters.out_bytes, data.len()),
            Err(error) => match dial::explain(&error, packet.destination) {
                Some(error) => inside.refuse(packet, Refusal::Outside, error, shared.now),
                None => inside.counters.refusals.count(Refusal::HostResources),
            },
        }
    }

    fn send(&mut self, to: IpAddr, ttl: u8, message: &[u8], shared: &Shared) -> io::Result<()> {
        let family = family(to);
        let raw = if family == V4 {
            &mut self.v4
        } else {
            &mut self.v6
        };
        if raw.is_none() {
            *raw = Some(Raw::open(family, shared)?);
        }
        raw.as_mut()
            .map_or(Ok(()), |raw| raw.send(to, ttl, message))
    }

    /// Our identifier for a ping, an old or a new one.
    fn find(
        &mut self,
        key: Key,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) -> Option<u16> {
        let family = family(key.outside);
        if let Some(ours) = self.by_key.get(&key).copied() {
            if let Some(flow) = self.flows.get_mut(&(family, ours)) {
                flow.used = shared.now;
                flow.mac = packet.mac;
            }
            return Some(ours);
        }
        let same = |flow: &&Flow| (flow.key.network, flow.key.inside) == (key.network, key.inside);
        if self.flows.len() >= MAX_FLOWS {
            inside.counters.refusals.count(Refusal::Full);
            return None;
        }
        if self.flows.values().filter(same).count() >= MAX_FLOWS_PER_CONTAINER {
            inside.counters.refusals.count(Refusal::ContainerFull);
            return None;
        }
        // Ping has no ports: no published one is meant.
        if let Err(why) = shared.allow(Via::Tcp, SocketAddr::new(key.outside, 0)) {
            if why == Refusal::Multicast {
                inside.counters.refusals.count(why);
            } else {
                let error = IcmpError::prohibited(packet.destination);
                inside.refuse(packet, why, error, shared.now);
            }
            return None;
        }
        // Less than one in sixteen is taken.
        let ours = std::iter::repeat_with(rand::random::<u16>)
            .find(|ours| !self.flows.contains_key(&(family, *ours)))?;
        self.by_key.insert(key, ours);
        let flow = Flow {
            key,
            mac: packet.mac,
            used: shared.now,
        };
        self.flows.insert((family, ours), flow);
        inside.counters.echo.fetch_add(1, Ordering::Relaxed);
        inside.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.armed
            .arm(Token::Echo(0), shared.now + IDLE, &mut shared.timers);
        Some(ours)
    }

    /// ICMP came for this host: maybe for one of ours.
    pub(super) fn handle_event(
        &mut self,
        family: u64,
        networks: &mut HashMap<u64, Inside>,
        shared: &mut Shared,
    ) {
        let mut buffer = shared.pool.take();
        for _ in 0..TURN {
            let raw = if family == V4 { &self.v4 } else { &self.v6 };
            let Some((len, from)) = raw.as_ref().and_then(|raw| receive(raw, &mut buffer)) else {
                break;
            };
            let bytes = buffer.get(..len).unwrap_or_default();
            let Some(heard) = hear(family, bytes) else {
                continue;
            };
            let identifier = match heard {
                Heard::Reply { identifier, .. } | Heard::Error { identifier, .. } => identifier,
            };
            let Some(flow) = self.flows.get(&(family, identifier)) else {
                continue;
            };
            let Some(inside) = networks.get_mut(&flow.key.network) else {
                continue;
            };
            self.identification = self.identification.wrapping_add(1);
            bring(flow, heard, from, (inside, self.identification), shared.now);
        }
        shared.pool.put(buffer);
    }

    /// Pings that ask no more are forgotten.
    pub(super) fn handle_timer(
        &mut self,
        at: Instant,
        networks: &HashMap<u64, Inside>,
        shared: &mut Shared,
    ) {
        if !self.armed.disarm(at) {
            return;
        }
        let old = |flow: &Flow| shared.now.saturating_duration_since(flow.used) >= IDLE;
        self.retain(networks, |flow| !old(flow));
        if !self.flows.is_empty() {
            self.armed
                .arm(Token::Echo(0), shared.now + IDLE / 4, &mut shared.timers);
        }
    }

    /// Ends the pings of a network, or of one container of it.
    pub(super) fn forget(
        &mut self,
        network: u64,
        container: Option<&[IpAddr]>,
        networks: &HashMap<u64, Inside>,
    ) {
        self.retain(networks, |flow| {
            let theirs = container.is_none_or(|ips| ips.contains(&flow.key.inside));
            !(flow.key.network == network && theirs)
        });
    }

    fn retain(&mut self, networks: &HashMap<u64, Inside>, keep: impl Fn(&Flow) -> bool) {
        let by_key = &mut self.by_key;
        self.flows.retain(|_, flow| {
            let stays = keep(flow);
            if !stays {
                by_key.remove(&flow.key);
                if let Some(inside) = networks.get(&flow.key.network) {
                    inside.counters.echo.fetch_sub(1, Ordering::Relaxed);
                }
            }
            stays
        });
    }
}

/// Header and data of an echo request that is whole and has the right checksum.
fn checked<'a>(packet: &Packet<'a>) -> Result<(&'a [u8; 8], &'a [u8]), Refusal> {
    let parts = packet.upper.split_first_chunk::<8>();
    let parts = parts.ok_or(Refusal::Malformed)?;
    match packet.destination {
        IpAddr::V4(_) if packet.unfinished || Sum::of(packet.upper).finish() == 0 => Ok(parts),
        IpAddr::V4(_) => Err(Refusal::BadChecksum),
        IpAddr::V6(_) => packet.verify(packet.upper).map(|()| parts),
    }
}

fn receive(raw: &Raw, buffer: &mut [u8]) -> Option<(usize, IpAddr)> {
    let fd = raw.socket.as_raw_fd();
    let (len, from) = recvfrom::<SockaddrStorage>(fd, buffer).ok()?;
    let from = from?;
    let v4 = from.as_sockaddr_in().map(|from| IpAddr::V4(from.ip()));
    let from = v4.or_else(|| from.as_sockaddr_in6().map(|from| IpAddr::V6(from.ip())))?;
    Some((len, from))
}

/// What a message is to a ping of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard<'a> {
    /// `rest`: sequence number and data.
    Reply { identifier: u16, rest: &'a [u8] },
    /// About a request to `to`.
    Error {
        identifier: u16,
        sequence: [u8; 2],
        error: IcmpError,
        to: IpAddr,
    },
}

/// For the fuzz target: either family's.
pub(super) fn hear_any(v4: bool, bytes: &[u8]) {
    if let Some(Heard::Reply { rest, .. }) = hear(if v4 { V4 } else { V6 }, bytes) {
        assert!(rest.len() < bytes.len());
    }
}

/// Reads what a raw socket gave: IPv4 comes with its header, IPv6 without. Total.
fn hear(family: u64, bytes: &[u8]) -> Option<Heard<'_>> {
    let message = match family {
        V4 => Ipv4::new(bytes).ok()?.payload(),
        _ => bytes,
    };
    let (header, rest) = message.split_first_chunk::<4>()?;
    let [kind, code, ..] = *header;
    let (four, data) = rest.split_first_chunk::<4>()?;
    match (family, kind) {
        (V4, 0) | (V6, 129) => Some(Heard::Reply {
            identifier: u16::from_be_bytes([four[0], four[1]]),
            rest: &rest[2..],
        }),
        (V4, 3 | 11) | (V6, 1..=3) => {
            let (to, identifier, sequence) = quoted_request(family, data)?;
            let rest = u32::from_be_bytes(*four);
            Some(Heard::Error {
                identifier,
                sequence,
                error: IcmpError { kind, code, rest },
                to,
            })
        }
        _ => None,
    }
}

/// Destination, identifier and sequence number of an echo request whose beginning an error quotes.
fn quoted_request(family: u64, quoted: &[u8]) -> Option<(IpAddr, u16, [u8; 2])> {
    // Cut off, so the views that check lengths don't take it.
    let (to, upper, request) = match family {
        V4 => {
            let header_len = usize::from(quoted.first()? & 0x0f) * 4;
            let to = *quoted.get(16..)?.first_chunk::<4>()?;
            let protocol = IpProtocol(*quoted.get(9)?);
            let upper = quoted
                .get(header_len..)
                .filter(|_| protocol == IpProtocol::ICMP4)?;
            (IpAddr::from(to), upper, 8)
        }
        _ => {
            let to = *quoted.get(24..)?.first_chunk::<16>()?;
            let protocol = IpProtocol(*quoted.get(6)?);
            let upper = quoted.get(40..).filter(|_| protocol == IpProtocol::ICMP6)?;
            (IpAddr::from(to), upper, 128)
        }
    };
    match *upper.first_chunk::<8>()? {
        [kind, 0, _, _, i0, i1, s0, s1] if kind == request => {
            Some((to, u16::from_be_bytes([i0, i1]), [s0, s1]))
        }
        _ => None,
    }
}

/// Brings an answer to the container that asked.
fn bring(
    flow: &Flow,
    heard: Heard<'_>,
    from: IpAddr,
    (inside, id): (&mut Inside, u32),
    now: Instant,
) {
    let key = flow.key;
    let identifier = key.identifier.to_be_bytes();
    match heard {
        Heard::Reply { rest, .. } if from == key.outside => {
            let ends = Ends {
                source_mac: GATEWAY_MAC,
                mac: flow.mac,
                source: key.outside,
                destination: key.inside,
            };
            let (protocol, message) = echo_reply(&ends, &[&identifier, rest].concat());
            Counters::add(&inside.counters.in_bytes, rest.len());
            inside.send_upper(&ends, protocol, &message, id);
        }
        Heard::Error {
            error,
            to,
            sequence: [s0, s1],
            ..
        } if to == key.outside => {
            inside.counters.refusals.count(Refusal::Outside);
            let (protocol, kind) = match to {
                IpAddr::V4(_) => (IpProtocol::ICMP4, 8),
                IpAddr::V6(_) => (IpProtocol::ICMP6, 128),
            };
            let [i0, i1] = identifier;
            let request = [kind, 0, 0, 0, i0, i1, s0, s1];
            let quoted = quote(&key.flow(), protocol, request, 8);
            let notice = Notice {
                mac: flow.mac,
                to: key.inside,
                error,
                quoted: &quoted,
            };
            inside.say_from(from, &notice, now);
        }
        // Somebody else's ping under the same identifier.
        Heard::Reply { .. } | Heard::Error { .. } => {}
    }
}

#[cfg(test)]
mod tests;
