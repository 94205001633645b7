//! Sockets that listen for clients of published ports.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Connections that may wait to be taken.
const BACKLOG: i32 = 1024;

/// Sockets that listen at a port: at one address, or at all when `ip` is `None`.
///
/// # Errors
/// The kernel's: the address is taken, or not the host's.
pub(crate) fn listen(stream: bool, ip: Option<IpAddr>, port: u16) -> io::Result<Vec<Socket>> {
    if let Some(ip) = ip {
        return open(stream, SocketAddr::new(ip, port)).map(|socket| vec![socket]);
    }
    let v4 = open(stream, SocketAddr::new([0; 4].into(), port))?;
    match open(stream, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        // A host without IPv6.
        Err(_) => Ok(vec![v4]),
    }
}

fn open(stream: bool, at: SocketAddr) -> io::Result<Socket> {
    let (kind, protocol) = match stream {
        true => (Type::STREAM, Protocol::TCP),
        false => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(at), kind.nonblocking(), Some(protocol))?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if stream {
        // What a predecessor's connections leave must not keep its successor out.
        socket.set_reuse_address(true)?;
    } else {
        // Answers leave from where the question came to.
        match at {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
        }
    }
    socket.bind(&SockAddr::from(at))?;
    if stream {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
