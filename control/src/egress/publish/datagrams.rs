//! Datagrams of clients to published ports, and a container's answers. A client keeps its end in the network while it
//! speaks and for a while after.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use socket2::Socket;

use super::super::answer::Ends;
use super::super::datagrams::deliver;
use super::super::inside::{Counters, Inside};
use super::super::packet::{FlowKey, Packet};
use super::super::refusal::Refusal;
use super::super::shared::Shared;
use super::super::timers::Armed;
use super::super::token::Token;
use super::Published;
use crate::model::NetworkId;

/// Clients at most, of all ports.
const MAX_VISITS: usize = 16_384;
/// How long a client is remembered (RFC 4787 REQ-5).
const IDLE: Duration = Duration::from_secs(180);
/// Datagrams read before others have their turn.
const TURN: usize = 64;

type Key = (u64, FlowKey);

/// A client.
#[derive(Debug)]
struct Visit {
    listener: u64,
    client: SocketAddr,
    /// The host's address that it speaks to.
    at: Option<IpAddr>,
    used: Instant,
}

/// All clients.
#[derive(Debug, Default)]
pub(in crate::egress) struct Visits {
    by_client: HashMap<(u64, SocketAddr), Key>,
    visits: HashMap<Key, Visit>,
    armed: Armed,
    next_own: u16,
    identification: u32,
}

impl Visits {
    /// Datagrams came for a published port.
    pub(in crate::egress) fn handle_event(
        &mut self,
        number: u64,
        published: &Published,
        (numbers, networks): (&HashMap<NetworkId, u64>, &HashMap<u64, Inside>),
        shared: &mut Shared,
    ) {
        let Some((network, listening)) = published.get(number) else {
            return;
        };
        let place = numbers.get(network).copied();
        let inside = place.and_then(|place| Some((place, networks.get(&place)?)));
        let mut buffer = shared.pool.take();
        for _ in 0..TURN {
            let Some((len, client, at)) = receive(&listening.socket, &mut buffer) else {
                break;
            };
            let Some((place, inside)) = inside else {
                continue;
            };
            let key = match self.by_client.get(&(number, client)).copied() {
                Some(key) => key,
                None => {
                    if self.visits.len() >= MAX_VISITS {
                        inside.counters.refusals.count(Refusal::Full);
                        continue;
                    }
                    let visits = &self.visits;
                    let taken = |key| visits.contains_key(&(place, key));
                    let ends = listening.ends(client, inside, &mut self.next_own, taken);
                    let Some(key) = ends.map(|key| (place, key)) else {
                        continue;
                    };
                    self.by_client.insert((number, client), key);
                    let visit = Visit {
                        listener: number,
                        client,
                        at,
                        used: shared.now,
                    };
                    self.visits.insert(key, visit);
                    let due = shared.now + IDLE;
                    self.armed.arm(Token::Visits, due, &mut shared.timers);
                    key
                }
            };
            if let Some(visit) = self.visits.get_mut(&key) {
                visit.used = shared.now;
            }
            self.identification = self.identification.wrapping_add(1);
            let payload = buffer.get(..len).unwrap_or_default();
            let ends = Ends::inward(&key.1, listening.mac);
            deliver(inside, &ends, &key.1, payload, self.identification);
        }
        shared.pool.put(buffer);
    }

    /// A datagram of a container: true if it answers a client.
    pub(in crate::egress) fn handle_packet(
        &mut self,
        network: u64,
        inside: &Inside,
        packet: &Packet<'_>,
        published: &Published,
        now: Instant,
    ) -> bool {
        if self.visits.is_empty() {
            return false;
        }
        let Ok((source, destination, payload)) = packet.udp() else {
            return false;
        };
        let key = (network, packet.flow(source, destination));
        let Some(visit) = self.visits.get_mut(&key) else {
            return false;
        };
        visit.used = now;
        let size = packet.datagram.unwrap_or(payload.len()).max(1);
        if let Some((_, listening)) = published.get(visit.listener) {
            // An empty datagram is one, too.
            let empty = payload.is_empty().then_some(payload);
            for datagram in payload.chunks(size).chain(empty) {
                if send(&listening.socket, visit, datagram) {
                    Counters::add(&inside.counters.out_bytes, datagram.len());
                } else {
                    inside.counters.refusals.count(Refusal::HostResources);
                }
            }
        }
        true
    }

    /// Clients that say no more are forgotten.
    pub(in crate::egress) fn handle_timer(&mut self, at: Instant, shared: &mut Shared) {
        if !self.armed.disarm(at) {
            return;
        }
        let now = shared.now;
        self.retain(|_, visit| now.saturating_duration_since(visit.used) < IDLE);
        if !self.visits.is_empty() {
            let due = now + IDLE / 6;
            self.armed.arm(Token::Visits, due, &mut shared.timers);
        }
    }

    /// Listeners, or a network, are gone.
    pub(in crate::egress) fn forget(&mut self, listeners: &[u64], network: Option<u64>) {
        self.retain(|key, visit| !listeners.contains(&visit.listener) && Some(key.0) != network);
    }

    fn retain(&mut self, keep: impl Fn(&Key, &Visit) -> bool) {
        let by_client = &mut self.by_client;
        self.visits.retain(|key, visit| {
            let stays = keep(key, visit);
            if !stays {
                by_client.remove(&(visit.listener, visit.client));
            }
            stays
        });
    }
}

/// The next datagram: its length, who sent it, and where to.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the kernel's other messages were not asked for"
)]
fn receive(socket: &Socket, buffer: &mut [u8]) -> Option<(usize, SocketAddr, Option<IpAddr>)> {
    let mut room = nix::cmsg_space!(in6_pktinfo);
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut room), flags).ok()?;
    let at = message.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(IpAddr::from(
            u32::from_be(info.ipi_spec_dst.s_addr).to_be_bytes(),
        )),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let from = message.address?;
    let v4 = from
        .as_sockaddr_in()
        .map(|from| SocketAddr::from((from.ip(), from.port())));
    let v6 = || {
        let from = from.as_sockaddr_in6()?;
        // With its scope, for a client on the link.
        Some(SocketAddr::V6((*from).into()))
    };
    Some((message.bytes, v4.or_else(v6)?, at))
}

fn send(socket: &Socket, visit: &Visit, payload: &[u8]) -> bool {
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let to = SockaddrStorage::from(visit.client);
    let parts = [IoSlice::new(payload)];
    let sent = match visit.at {
        Some(IpAddr::V4(at)) => {
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr {
                    s_addr: at.to_bits().to_be(),
                },
                ipi_addr: in_addr { s_addr: 0 },
            };
            let control = [ControlMessage::Ipv4PacketInfo(&info)];
            sendmsg(fd, &parts, &control, flags, Some(&to))
        }
        Some(IpAddr::V6(at)) => {
            let info = in6_pktinfo {
                ipi6_addr: nix::libc::in6_addr {
                    s6_addr: at.octets(),
                },
                ipi6_ifindex: 0,
            };
            let control = [ControlMessage::Ipv6PacketInfo(&info)];
            sendmsg(fd, &parts, &control, flags, Some(&to))
        }
        None => sendmsg(fd, &parts, &[], flags, Some(&to)),
    };
    sent.is_ok()
}
