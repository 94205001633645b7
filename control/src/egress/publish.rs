//! Published ports: sockets of the host whose clients are connected with a container by the same relay that carries what
//! goes out. TCP clients are accepted here; datagrams have a table of their own, since one socket has many clients.

mod datagrams;
mod guests;
mod socket;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use socket2::Socket;
use weft_wire::MacAddr;

use super::dial;
use super::inside::Inside;
use super::packet::FlowKey;
use super::proxy::ProxyProtocol;
use super::relay::Relay;
use super::shared::{Shared, Via};
use super::token::Token;
use crate::model::{Egress, NetworkId};
pub(super) use datagrams::Visits;
pub(crate) use socket::listen;

/// Connections taken before others have their turn.
const TURN: usize = 64;
/// Our ends of connections into a network: dynamic ports (RFC 6335 section 6).
const FIRST_OWN: u16 = 49_152;
/// Ends tried before a client is turned away.
const TRIES: usize = 64;

/// A listening socket and where its clients go.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: Socket,
    /// TCP, or UDP.
    pub(crate) stream: bool,
    /// The container.
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) mac: MacAddr,
    pub(crate) port: u16,
    /// How it is told who its client is.
    pub(crate) proxy: Option<ProxyProtocol>,
    /// Clients appear under their own address, where that is possible; else all under the gateway's.
    pub(crate) keep_source: bool,
}

/// All listening sockets.
#[derive(Debug, Default)]
pub(super) struct Published {
    listeners: HashMap<u64, (NetworkId, Listening)>,
    /// By the endpoint whose they are.
    owners: HashMap<String, Vec<u64>>,
    next_own: u16,
}

impl Published {
    /// Takes over the sockets of an endpoint.
    pub(super) fn add(
        &mut self,
        owner: String,
        network: &NetworkId,
        listeners: Vec<Listening>,
        shared: &mut Shared,
    ) {
        for listening in listeners {
            let number = shared.number();
            let token = Token::Listener(number);
            if let Err(error) = shared.watch(&listening.socket, token, EpollFlags::EPOLLIN) {
                tracing::warn!(%error, endpoint = %owner, "a published port is deaf");
                continue;
            }
            self.owners.entry(owner.clone()).or_default().push(number);
            self.listeners.insert(number, (network.clone(), listening));
        }
        shared.published = self.addresses();
    }

    /// Closes the sockets of an endpoint; says which they were.
    pub(super) fn remove(&mut self, owner: &str, shared: &mut Shared) -> Vec<u64> {
        let numbers = self.owners.remove(owner).unwrap_or_default();
        for number in &numbers {
            self.listeners.remove(number);
        }
        shared.published = self.addresses();
        numbers
    }

    /// Where they listen: containers may come by there too.
    fn addresses(&self) -> HashSet<(Via, SocketAddr)> {
        let addresses = self.listeners.values().filter_map(|(_, listening)| {
            let via = if listening.stream { Via::Tcp } else { Via::Udp };
            Some((via, listening.socket.local_addr().ok()?.as_socket()?))
        });
        let both = addresses.flat_map(|(via, address)| {
            // A socket for everything of IPv6 is one for IPv4 too, unless it says otherwise; then ours is beside it.
            let any = address.ip() == IpAddr::from([0; 16]);
            let v4 = any.then(|| (via, SocketAddr::new([0; 4].into(), address.port())));
            [Some((via, address)), v4]
        });
        both.flatten().collect()
    }

    /// A listening socket and the network it leads into.
    fn get(&self, number: u64) -> Option<(&NetworkId, &Listening)> {
        let (network, listening) = self.listeners.get(&number)?;
        Some((network, listening))
    }

    /// Whether a listener is one for streams; `None`: it is gone.
    pub(super) fn is_stream(&self, number: u64) -> Option<bool> {
        self.get(number).map(|(_, listening)| listening.stream)
    }

    /// Takes clients that wait.
    pub(super) fn accept(
        &mut self,
        number: u64,
        numbers: &HashMap<NetworkId, u64>,
        (networks, relay): (&HashMap<u64, Inside>, &mut Relay),
        shared: &mut Shared,
    ) {
        let Some((network, listening)) = self.listeners.get(&number) else {
            return;
        };
        let place = numbers.get(network).copied();
        let mut next_own = self.next_own;
        for _ in 0..TURN {
            let (socket, client) = match listening.socket.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.raw_os_error() == Some(Errno::ECONNABORTED as i32) => continue,
                // Out of file descriptors: those that wait are taken when there are some again.
                Err(_) => break,
            };
            let client = client.as_socket();
            let inside = match place {
                Some(place) => networks.get(&place).map(|inside| (place, inside)),
                None => None,
            };
            // Without its network the client finds nobody, as if nobody listened.
            let (Some((place, inside)), Some(client)) = (inside, client) else {
                continue;
            };
            let taken = |key| relay.has(place, key);
            let Some(key) = listening.ends(client, inside, &mut next_own, taken) else {
                continue;
            };
            if socket.set_nonblocking(true).is_err() || dial::prepare(&socket).is_err() {
                continue;
            }
            let to = socket.local_addr().ok().and_then(|to| to.as_socket());
            let said = listening.proxy.zip(to);
            let first = said.map(|(proxy, to)| proxy.header(client, to));
            let way = (key, listening.mac);
            relay.adopt(place, inside, way, (socket, first), shared);
        }
        self.next_own = next_own;
    }
}

impl Listening {
    /// Both ends of a client's way into the container.
    fn ends(
        &self,
        client: SocketAddr,
        inside: &Inside,
        next_own: &mut u16,
        taken: impl Fn(FlowKey) -> bool,
    ) -> Option<FlowKey> {
        let ip = client.ip().to_canonical();
        let same = |own: &&IpAddr| own.is_ipv4() == ip.is_ipv4();
        let own = self.ips.iter().find(same).or(self.ips.first())?;
        let to = SocketAddr::new(*own, self.port);
        let key = |outside| FlowKey {
            inside: to,
            outside,
        };
        let kept = key(SocketAddr::new(ip, client.port()));
        // Answers to others than the gateway are the kernel's, where it routes.
        let keeps = self.keep_source && inside.spec.way != Egress::Kernel;
        if keeps && own.is_ipv4() == ip.is_ipv4() && is_elsewhere(ip) && !taken(kept) {
            return Some(kept);
        }
        let gateway = inside.gateway(*own)?;
        for _ in 0..TRIES {
            *next_own = next_own.checked_add(1).unwrap_or(FIRST_OWN).max(FIRST_OWN);
            let key = key(SocketAddr::new(gateway, *next_own));
            if !taken(key) {
                return Some(key);
            }
        }
        None
    }
}

/// A container can answer this address: it isn't one that means itself or its link.
fn is_elsewhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified()),
        IpAddr::V6(ip) => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified()),
    }
}
