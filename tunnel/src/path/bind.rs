//! The sockets of the tunnel, before the first frame: who listens, who sends, and whether the port is ours.
//!
//! **Listening.** One socket per worker on the advertised address (never the wildcard: other addresses of the host are
//! not ours), joined by SO_REUSEPORT; the kernel spreads datagrams by the outer addresses and ports, so the entropy of
//! the sender's source ports spreads the load. Sockets that carry SO_REUSEPORT would silently share the port with a
//! second agent, and probing first leaves a moment between probe and bind. So the first socket is bound *without*
//! SO_REUSEPORT, which fails whenever any socket (also a kernel VXLAN device's) has the port; only then is it given the
//! option, and the rest of the group joins it (Linux makes the group when the second socket binds). Of two agents that
//! start at once exactly one gets the port, because each must pass an exclusive bind. A foreign program of our user
//! that asks for SO_REUSEPORT can still join a group of two or more; whoever can start that can do worse.
//!
//! **Sending.** A pool of sockets bound to ports of 49152 ..= 65535 (RFC 7348 section 5), one of which a frame's flow
//! chooses. The pool is shared by all workers: a flow keeps its source port, and so its place in the receiver's queues,
//! whichever worker carries it, and it costs `source_ports` descriptors instead of `source_ports` x `workers`. Sending
//! an unconnected datagram takes no socket lock in Linux; what workers share is the count of bytes in flight, and only
//! when their flows fell on the same port. A socket of the pool never receives: a filter drops what comes.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};

use socket2::{Domain, Protocol, Socket, Type};

use super::prober::{Answer, Prober, Way};
use super::sys::{self, SocketOption};
use super::udp::VxlanWorker;
use crate::peer::{Lane, Peers};

/// What the kernel may hold for a worker that is busy: 10 ms of 6 Gb/s. It takes memory only when it is used.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
/// What may wait for a slow underlay per source port: 35 ms of 1 Gb/s; more would only add delay.
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// First port for source port entropy (RFC 7348 section 5: the dynamic range of RFC 6335).
const FIRST_SOURCE_PORT: u16 = 49_152;
/// Ports from there to 65,535: a power of two.
const SOURCE_PORT_RANGE: u16 = 16_384;
/// Answers to probes that may wait for who measures paths.
pub(super) const ANSWERS_MAX: usize = 1024;
/// More sockets than this spread nothing better.
const SOURCE_PORTS_MAX: usize = 1024;

/// Where and how the tunnel is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// The advertised underlay address; must be this host's.
    pub local: IpAddr,
    /// UDP port to listen on, mostly [`weft_wire::VXLAN_PORT`].
    pub port: u16,
    /// How many workers to make; 0 counts as 1.
    pub workers: usize,
    /// Source ports that all workers together spread flows over: 1 ..= 1024, taken to the nearest.
    pub source_ports: usize,
    /// Hand trains of datagrams to the kernel (UDP_SEGMENT). Off for kernels that mangle them; refusal is noticed by
    /// itself.
    pub gso: bool,
}

/// Why the tunnel can't be bound.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// The address can't be the end of a tunnel.
    #[error(
        "underlay address {address} can't be a tunnel's end: it is {kind}; give an address of one interface of this host"
    )]
    UnusableAddress {
        /// The address.
        address: IpAddr,
        /// What it is instead.
        kind: &'static str,
    },
    /// Port 0 would be another port each time.
    #[error("UDP port 0 is no VXLAN port; use 4789 unless all hosts agree on another")]
    PortZero,
    /// No interface of this host (or namespace) has the address.
    #[error(
        "underlay address {address} is not on this host; `ip address` shows what is (an IPv6 address may still be tentative)"
    )]
    AddressNotHere {
        /// The address.
        address: IpAddr,
    },
    /// Somebody else has the port.
    #[error(
        "UDP port {port} of {address} is taken: by another weft agent, a kernel VXLAN device (`ip -d link show type vxlan`) or the program that `ss -ulnp` shows"
    )]
    PortTaken {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// Fewer source ports are free than are wanted.
    #[error(
        "only {found} of {wanted} source ports are free in 49152-65535 of {address}; `ss -uanp` shows who has them"
    )]
    SourcePortsTaken {
        /// The address.
        address: IpAddr,
        /// How many could be had.
        found: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// The kernel refuses the socket for another reason.
    #[error(
        "a UDP socket for {address} port {port} can't be {step}: {source}; check limits on open files and privileges"
    )]
    Socket {
        /// The address.
        address: IpAddr,
        /// The port, 0 before there is one.
        port: u16,
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The VXLAN transport of this host.
#[derive(Debug)]
pub struct VxlanTunnel;

impl VxlanTunnel {
    /// Binds the sockets and makes one worker per thread that will carry frames.
    ///
    /// # Errors
    /// [`TunnelError`], naming address and port. Nothing stays bound then.
    pub fn bind(config: VxlanConfig, peers: Peers) -> Result<Vec<VxlanWorker>, TunnelError> {
        Self::workers(config, &peers, None)
    }

    /// The same, and measures the path MTU to each peer that is an agent as long as there are workers, with a thread of
    /// its own. `changed` is called from there when [`Peers::path_mtu`] says something new of any peer; it must not
    /// wait.
    ///
    /// # Errors
    /// [`TunnelError`], naming address and port. Nothing stays bound then.
    pub fn bind_measuring(
        config: VxlanConfig,
        peers: Peers,
        changed: Box<dyn Fn() + Send>,
    ) -> Result<Vec<VxlanWorker>, TunnelError> {
        let (answers, answered) = sync_channel(ANSWERS_MAX);
        let workers = Self::workers(config, &peers, Some(&answers))?;
        let place = SocketAddr::new(config.local, 0);
        let socket = probe_socket(place)?;
        Prober::new(Way::Clear(socket), peers, answered, changed)
            .spawn()
            .map_err(failed(place, "given a thread"))?;
        Ok(workers)
    }

    fn workers(
        config: VxlanConfig,
        peers: &Peers,
        answers: Option<&SyncSender<Answer>>,
    ) -> Result<Vec<VxlanWorker>, TunnelError> {
        check(config)?;
        let listeners = listeners(config)?;
        let sources = Arc::new(SourcePool::bind(config)?);
        tracing::info!(
            address = %config.local,
            port = config.port,
            workers = listeners.len(),
            source_ports = sources.sockets.len(),
            "vxlan bound"
        );
        let workers = listeners.into_iter().enumerate();
        Ok(workers
            .map(|(worker, listener)| {
                let peers = peers.reader(Lane::of_worker(worker));
                VxlanWorker::new(
                    listener,
                    Arc::clone(&sources),
                    peers,
                    config.gso,
                    answers.cloned(),
                )
            })
            .collect())
    }
}

pub(super) fn check(config: VxlanConfig) -> Result<(), TunnelError> {
    let address = config.local;
    let kind = match address {
        _ if address.is_unspecified() => "the wildcard",
        _ if address.is_multicast() => "a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        // It would need an interface beside it, here and at every peer.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => "link-local",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4 address written as IPv6",
        IpAddr::V4(_) | IpAddr::V6(_) if config.port == 0 => return Err(TunnelError::PortZero),
        IpAddr::V4(_) | IpAddr::V6(_) => return Ok(()),
    };
    Err(TunnelError::UnusableAddress { address, kind })
}

/// The group that listens; see the module's head for the order of its steps.
fn listeners(config: VxlanConfig) -> Result<Vec<Socket>, TunnelError> {
    let place = SocketAddr::new(config.local, config.port);
    let workers = config.workers.max(1);
    let first = listener(place)?;
    bind(&first, place)?;
    if workers == 1 {
        return Ok(vec![first]);
    }
    let step = "shared between workers";
    first.set_reuse_port(true).map_err(failed(place, step))?;
    let mut group = vec![first];
    while group.len() < workers {
        let socket = listener(place)?;
        socket.set_reuse_port(true).map_err(failed(place, step))?;
        bind(&socket, place)?;
        group.push(socket);
    }
    Ok(group)
}

pub(super) fn listener(place: SocketAddr) -> Result<Socket, TunnelError> {
    let socket = socket(place)?;
    let set_up = failed(place, "set up for receiving");
    grow(
        &socket,
        SocketOption::ReceiveBufferForce,
        RECEIVE_BUFFER_BYTES,
    )
    .or_else(|_| socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES))
    .map_err(&set_up)?;
    if let Err(error) = sys::set(socket.as_fd(), SocketOption::Gro, 1) {
        tracing::info!(%error, "no UDP receive offload (UDP_GRO, Linux 5.0): datagrams come one by one");
    }
    if place.is_ipv6() {
        // RFC 7348 section 5 and RFC 6935: a zero outer checksum must be accepted.
        sys::set(socket.as_fd(), SocketOption::NoCheck6Rx, 1).map_err(&set_up)?;
    }
    Ok(socket)
}

/// A socket as both ways need it: nonblocking, one address family, outer packets with DF and no regard for a cached
/// path MTU (anybody could forge the ICMP that fills it).
fn socket(place: SocketAddr) -> Result<Socket, TunnelError> {
    let kind = Type::DGRAM.nonblocking();
    let socket = Socket::new(Domain::for_address(place), kind, Some(Protocol::UDP))
        .map_err(failed(place, "opened"))?;
    let set_up = failed(place, "set up");
    let fd = socket.as_fd();
    if place.is_ipv6() {
        socket.set_only_v6(true).map_err(&set_up)?;
        sys::set(fd, SocketOption::MtuProbe6, libc::IPV6_PMTUDISC_PROBE).map_err(&set_up)?;
        sys::set(fd, SocketOption::DontFragment6, 1).map_err(&set_up)?;
    } else {
        sys::set(fd, SocketOption::MtuProbe4, libc::IP_PMTUDISC_PROBE).map_err(&set_up)?;
    }
    Ok(socket)
}

pub(super) fn bind(socket: &Socket, place: SocketAddr) -> Result<(), TunnelError> {
    let (address, port) = (place.ip(), place.port());
    socket
        .bind(&place.into())
        .map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => TunnelError::PortTaken { address, port },
            Some(libc::EADDRNOTAVAIL) => TunnelError::AddressNotHere { address },
            Some(_) | None => failed(place, "bound")(source),
        })
}

pub(super) fn failed(place: SocketAddr, step: &'static str) -> impl Fn(io::Error) -> TunnelError {
    move |source| TunnelError::Socket {
        address: place.ip(),
        port: place.port(),
        step,
        source,
    }
}

/// Beyond the host's limits, which takes CAP_NET_ADMIN.
fn grow(socket: &Socket, option: SocketOption, bytes: usize) -> io::Result<()> {
    let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
    sys::set(socket.as_fd(), option, bytes)
}

/// The sockets that send, shared by all workers.
#[derive(Debug)]
pub(super) struct SourcePool {
    sockets: Box<[Socket]>,
}

impl SourcePool {
    fn bind(config: VxlanConfig) -> Result<Self, TunnelError> {
        let address = config.local;
        let wanted = config.source_ports.clamp(1, SOURCE_PORTS_MAX);
        let mut sockets = Vec::with_capacity(wanted);
        for port in shuffled_ports().filter(|port| *port != config.port) {
            if sockets.len() == wanted {
                break;
            }
            let place = SocketAddr::new(address, port);
            let socket = sender(place)?;
            match bind(&socket, place) {
                Ok(()) => sockets.push(socket),
                Err(TunnelError::PortTaken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if sockets.len() < wanted {
            let found = sockets.len();
            return Err(TunnelError::SourcePortsTaken {
                address,
                found,
                wanted,
            });
        }
        Ok(Self {
            sockets: sockets.into_boxed_slice(),
        })
    }

    /// Which socket sends a flow, always the same.
    #[inline]
    pub(super) fn index_of_flow(&self, hash: u32) -> usize {
        // Scaled, not taken modulo: the hash's high bits choose, and no division is needed.
        let index = (u64::from(hash) * self.sockets.len() as u64) >> 32;
        usize::try_from(index).expect("below the number of sockets")
    }

    /// Socket `index` of [`Self::index_of_flow`].
    #[inline]
    pub(super) fn socket(&self, index: usize) -> BorrowedFd<'_> {
        self.sockets[index].as_fd()
    }
}

fn sender(place: SocketAddr) -> Result<Socket, TunnelError> {
    let socket = socket(place)?;
    let set_up = failed(place, "set up for sending");
    grow(&socket, SocketOption::SendBufferForce, SEND_BUFFER_BYTES)
        .or_else(|_| socket.set_send_buffer_size(SEND_BUFFER_BYTES))
        .map_err(&set_up)?;
    sys::receive_nothing(socket.as_fd()).map_err(&set_up)?;
    Ok(socket)
}

/// The socket that probes leave from: hears of packets that were too big for a path.
fn probe_socket(place: SocketAddr) -> Result<Socket, TunnelError> {
    let socket = socket(place)?;
    let set_up = failed(place, "set up for probing");
    let errors = match place {
        SocketAddr::V4(_) => SocketOption::ReceiveErrors4,
        SocketAddr::V6(_) => SocketOption::ReceiveErrors6,
    };
    sys::set(socket.as_fd(), errors, 1).map_err(&set_up)?;
    sys::receive_nothing(socket.as_fd()).map_err(&set_up)?;
    bind(&socket, place)?;
    Ok(socket)
}

/// All ports of the range, each once, in an order that nobody can foresee: an odd step visits every number of a range
/// whose size is a power of two.
fn shuffled_ports() -> impl Iterator<Item = u16> {
    // The standard library's hash keys are random: all the randomness that is needed.
    let [start_low, start_high, step_low, step_high, ..] =
        RandomState::new().build_hasher().finish().to_le_bytes();
    let start = u16::from_le_bytes([start_low, start_high]);
    let step = u16::from_le_bytes([step_low, step_high]) | 1;
    (0..SOURCE_PORT_RANGE).map(move |i| {
        FIRST_SOURCE_PORT + start.wrapping_add(i.wrapping_mul(step)) % SOURCE_PORT_RANGE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_ports_are_the_whole_dynamic_range() {
        let mut ports: Vec<u16> = shuffled_ports().collect();
        ports.sort_unstable();
        assert!(ports.into_iter().eq(FIRST_SOURCE_PORT..=u16::MAX));
    }

    #[test]
    fn addresses_that_no_packet_may_come_from_are_refused() {
        for address in [
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "fe80::1",
            "::ffff:127.0.0.1",
        ] {
            let local = address.parse().unwrap();
            let config = VxlanConfig {
                local,
                port: 4789,
                workers: 1,
                source_ports: 1,
                gso: true,
            };
            let error = check(config).unwrap_err();
            assert!(
                matches!(error, TunnelError::UnusableAddress { .. }),
                "{address}: {error}"
            );
        }
    }
}
