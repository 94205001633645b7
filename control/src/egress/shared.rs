//! What all kinds of flows use: the event loop's file descriptor, time, timers, buffers, limits.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::policy::Policy;
use super::pool::Pool;
use super::refusal::Refusal;
use super::timers::Timers;
use super::token::Token;

/// Memory that all flows together may hold, in bytes. A flow that finds none still gets along, one segment at a time.
const MAX_MEMORY: usize = 256 << 20;
/// How old the list of the host's addresses may be.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// The transport of a published port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Via {
    Tcp,
    Udp,
}

/// Shared state.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoll: Epoll,
    pub(super) now: Instant,
    pub(super) timers: Timers,
    pub(super) pool: Pool,
    pub(super) policy: Policy,
    /// Where published ports listen: reachable for containers too.
    pub(super) published: HashSet<(Via, SocketAddr)>,
    /// Memory that flows hold, in bytes.
    pub(super) held: usize,
    numbers: u64,
    looked: Option<Instant>,
}

impl Shared {
    pub(super) fn new(now: Instant) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC)?,
            now,
            timers: Timers::default(),
            pool: Pool::default(),
            policy: Policy::default(),
            published: HashSet::new(),
            held: 0,
            numbers: 0,
            looked: None,
        })
    }

    /// A number that nothing had before.
    pub(super) fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Listens to events of a file descriptor.
    ///
    /// # Errors
    /// The host's limit of watched descriptors.
    pub(super) fn watch(&self, fd: impl AsFd, token: Token, flags: EpollFlags) -> io::Result<()> {
        let event = EpollEvent::new(flags, token.to_bits());
        Ok(self.epoll.add(fd, event)?)
    }

    /// Memory that is left, in bytes.
    pub(super) fn room(&self) -> usize {
        MAX_MEMORY.saturating_sub(self.held)
    }

    /// Whether a container may reach `to`.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn allow(&mut self, via: Via, to: SocketAddr) -> Result<(), Refusal> {
        let stale = |looked: Instant| self.now.saturating_duration_since(looked) >= ADDRESSES_EVERY;
        if self.looked.is_none_or(stale) {
            self.looked = Some(self.now);
            self.policy.host = host_addresses();
        }
        let any = match to.ip() {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        let published = [to, SocketAddr::new(any, to.port())]
            .iter()
            .any(|address| self.published.contains(&(via, *address)));
        self.policy.check(to.ip(), published)
    }
}

/// All addresses of this host's links.
fn host_addresses() -> BTreeSet<IpAddr> {
    let Ok(links) = getifaddrs() else {
        return BTreeSet::new();
    };
    let addresses = links.filter_map(|link| link.address);
    addresses
        .filter_map(|address| {
            let v4 = address
                .as_sockaddr_in()
                .map(|address| IpAddr::V4(address.ip()));
            v4.or_else(|| {
                address
                    .as_sockaddr_in6()
                    .map(|address| IpAddr::V6(address.ip()))
            })
        })
        .collect()
}
