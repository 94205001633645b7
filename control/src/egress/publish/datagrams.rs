//! Datagrams of clients to published ports, and a container's answers. A client keeps its end in the network while it
//! speaks and for a while after.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::libc::{in_addr, in_pktinfo, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg,
};
use socket2::Socket;

use super::super::answer::Ends;
use super::super::datagrams::deliver;
use super::super::inside::{Counters, Inside};
use super::super::packet::Packet;
use super::super::refusal::Refusal;
use super::super::shared::Shared;
use super::super::timers::Armed;
use super::super::token::Token;
use super::Published;
use super::guests::{Guest, Guests, UNANSWERED};
use crate::model::NetworkId;

/// Datagrams read before others have their turn.
const TURN: usize = 64;

/// All clients, and what goes to and fro.
#[derive(Debug, Default)]
pub(in crate::egress) struct Visits {
    guests: Guests,
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
            let key = match self.guests.heard(number, client, shared.now) {
                Some(key) => key,
                None => {
                    let guests = &self.guests;
                    let taken = |key| guests.has(&(place, key));
                    let ends = listening.ends(client, inside, &mut self.next_own, taken);
                    let Some(key) = ends.map(|key| (place, key)) else {
                        continue;
                    };
                    let guest = Guest::new(number, (client, at), shared.now);
                    if !self.guests.admit(key, guest) {
                        inside.counters.refusals.count(Refusal::Full);
                        continue;
                    }
                    let due = shared.now + UNANSWERED;
                    self.armed.arm(Token::Visits, due, &mut shared.timers);
                    key
                }
            };
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
        if self.guests.is_empty() {
            return false;
        }
        let Ok((source, destination, payload)) = packet.udp() else {
            return false;
        };
        let key = (network, packet.flow(source, destination));
        let Some(guest) = self.guests.answered(&key, now) else {
            return false;
        };
        let size = packet.datagram.unwrap_or(payload.len()).max(1);
        if let Some((_, listening)) = published.get(guest.listener) {
            // An empty datagram is one, too.
            let empty = payload.is_empty().then_some(payload);
            for datagram in payload.chunks(size).chain(empty) {
                if send(&listening.socket, guest, datagram) {
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
        self.guests.expire(now);
        if !self.guests.is_empty() {
            let due = now + UNANSWERED;
            self.armed.arm(Token::Visits, due, &mut shared.timers);
        }
    }

    /// Listeners, or a network, are gone.
    pub(in crate::egress) fn forget(&mut self, listeners: &[u64], network: Option<u64>) {
        self.guests
            .retain(|key, guest| !listeners.contains(&guest.listener) && Some(key.0) != network);
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

fn send(socket: &Socket, guest: &Guest, payload: &[u8]) -> bool {
    let fd = socket.as_raw_fd();
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let to = SockaddrStorage::from(guest.client);
    let parts = [IoSlice::new(payload)];
    let sent = match guest.at {
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
