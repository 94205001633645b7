//! Sockets of the host: opened without waiting, and what their errors mean to a container.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::answer::IcmpError;

/// When a silent peer outside is asked whether it is still there. Both halves of a flow are watched alike.
const KEEPALIVE: Duration = Duration::from_secs(120);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Begins a connection; it is there, or has failed, when the socket is writable.
///
/// # Errors
/// What is known to fail at once.
pub(super) fn connect(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    prepare(&socket)?;
    match socket.connect(&SockAddr::from(to)) {
        Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
        Ok(()) | Err(_) => Ok(socket),
    }
}

/// What every socket of a TCP flow has.
///
/// # Errors
/// The kernel's.
pub(super) fn prepare(socket: &Socket) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE)
        .with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&keepalive)
}

/// A socket for one UDP flow: connected, and told of ICMP errors.
///
/// # Errors
/// The kernel's; no route among them.
pub(super) fn datagrams(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(to),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.connect(&SockAddr::from(to))?;
    Ok(socket)
}

/// What a container is to be told of an error; `None`: the host's own trouble, nothing to tell.
pub(super) fn explain(error: &io::Error, about: IpAddr) -> Option<IcmpError> {
    let errno = error.raw_os_error().map(Errno::from_raw)?;
    if matches!(
        errno,
        Errno::ENETUNREACH | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT
    ) {
        return Some(IcmpError::no_route(about));
    }
    if matches!(
        errno,
        Errno::EHOSTUNREACH | Errno::ETIMEDOUT | Errno::EHOSTDOWN
    ) {
        return Some(IcmpError::unreachable(about));
    }
    if matches!(errno, Errno::EACCES | Errno::EPERM) {
        return Some(IcmpError::prohibited(about));
    }
    if errno == Errno::ECONNREFUSED {
        return Some(IcmpError::port_unreachable(about));
    }
    None
}
