//! The sockets of encrypted tunnels: one UDP port for all, sessions and frames, in and out. The group (SO_REUSEPORT) has
//! one socket for QUIC and one for each worker, and the kernel tells datagrams apart by their first bytes
//! ([`sys::steer_by_spi`]), so no frame passes through the session's runtime and no handshake through a worker.
//!
//! They are bound to every address of the host, unlike those of VXLAN: peers are known by their keys, so an address that
//! changes under us (roaming) is no matter, and the kernel chooses the source by the route. Where somebody else has the
//! port on another address, they are bound to the underlay address alone.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::sync_channel;

use socket2::Socket;

use super::bind::{self, ANSWERS_MAX, TunnelError, failed};
use super::esp::EspWorker;
use super::prober::{Prober, Way};
use super::sealed::SealedTrains;
use super::sys::{self, SocketOption};
use crate::peer::{Lane, Peers};

/// Where and how encrypted tunnels are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EspConfig {
    /// The advertised underlay address: says the address family, and is bound to where the port isn't free everywhere.
    pub local: IpAddr,
    /// The UDP port, for sessions and frames.
    pub port: u16,
    /// How many workers to make; 0 counts as 1.
    pub workers: usize,
    /// Hand trains of datagrams to the kernel (UDP_SEGMENT).
    pub gso: bool,
}

/// What the keeper of sessions gets: see [`crate::session`].
#[derive(Debug)]
pub struct EspEnd {
    /// For QUIC.
    pub(crate) socket: UdpSocket,
    /// For frames that have waited for a session.
    pub(crate) trains: SealedTrains,
    /// As it is advertised.
    pub(crate) local: SocketAddr,
    pub(crate) peers: Peers,
}

/// The encrypted transport of this host.
#[derive(Debug)]
pub struct EspTunnel;

impl EspTunnel {
    /// Binds the port, makes one worker per thread that will carry frames, and measures the path MTU to each peer with a
    /// session, as [`super::VxlanTunnel::bind_measuring`] does.
    ///
    /// # Errors
    /// [`TunnelError`], naming address and port. Nothing stays bound then.
    pub fn bind(
        config: EspConfig,
        peers: Peers,
        changed: Box<dyn Fn() + Send>,
    ) -> Result<(Vec<EspWorker>, EspEnd), TunnelError> {
        let workers = config.workers.max(1);
        let (mut group, place) = group(config, 1 + workers)?;
        let step = "shared between sessions and workers";
        let count = u32::try_from(workers).unwrap_or(u32::MAX);
        sys::steer_by_spi(group[0].as_fd(), count).map_err(failed(place, step))?;
        tracing::info!(%place, workers, "encrypted tunnels bound");
        let (answers, answered) = sync_channel(ANSWERS_MAX);
        let quic = group.remove(0);
        let trains = |socket: &Socket, lane, gso| {
            let socket = socket.try_clone().map_err(failed(place, "used twice"))?;
            Ok::<_, TunnelError>(SealedTrains::new(socket, lane, gso))
        };
        // Worker 0's lane for what is sent beside the workers, which is rare.
        let lane = Lane::of_worker(0);
        let probes = Way::Encrypted(Box::new(trains(&quic, lane, false)?));
        let end = EspEnd {
            trains: trains(&quic, lane, config.gso)?,
            socket: quic.into(),
            local: SocketAddr::new(config.local, config.port),
            peers: peers.clone(),
        };
        let mut made = Vec::with_capacity(workers);
        for (worker, socket) in group.into_iter().enumerate() {
            let lane = Lane::of_worker(worker);
            let trains = trains(&socket, lane, config.gso)?;
            let shared = (peers.reader(lane), peers.opener(), peers.sessions().clone());
            made.push(EspWorker::new(socket, trains, shared, answers.clone()));
        }
        Prober::new(probes, peers, answered, changed)
            .spawn()
            .map_err(failed(place, "given a thread"))?;
        Ok((made, end))
    }
}

/// `count` sockets on one port, in order, and where they are bound.
fn group(config: EspConfig, count: usize) -> Result<(Vec<Socket>, SocketAddr), TunnelError> {
    if config.port == 0 {
        return Err(TunnelError::PortZero);
    }
    let everywhere = match config.local {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let bound = |address| {
        let place = SocketAddr::new(address, config.port);
        let socket = member(place)?;
        bind::bind(&socket, place)?;
        Ok((socket, place))
    };
    let (first, place) = match bound(everywhere) {
        Err(TunnelError::PortTaken { .. }) => bound(config.local)?,
        result => result?,
    };
    // Only now: a stranger's socket would have been joined.
    let step = "shared between sessions and workers";
    first.set_reuse_port(true).map_err(failed(place, step))?;
    let mut group = vec![first];
    while group.len() < count {
        let socket = member(place)?;
        socket.set_reuse_port(true).map_err(failed(place, step))?;
        bind::bind(&socket, place)?;
        group.push(socket);
    }
    Ok((group, place))
}

fn member(place: SocketAddr) -> Result<Socket, TunnelError> {
    let socket = bind::listener(place)?;
    let option = match place {
        SocketAddr::V4(_) => SocketOption::ReceiveTos4,
        SocketAddr::V6(_) => SocketOption::ReceiveTos6,
    };
    sys::set(socket.as_fd(), option, 1).map_err(failed(place, "set up for marks"))?;
    Ok(socket)
}
