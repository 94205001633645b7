//! The PROXY protocol (HAProxy's proxy-protocol.txt): what is said before a client's first byte, so that a server learns
//! who that is.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// What every header of version 2 begins with (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_COMMAND: u8 = 0x21;
/// TCP over IPv4, over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// How a container is told who its client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyProtocol {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyProtocol {
    /// What is said about a client at `from` that has connected to `to`.
    pub(super) fn header(self, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let (from, to) = alike(from, to);
        match self {
            Self::V1 => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                let (ip, to_ip) = (from.ip(), to.ip());
                let (port, to_port) = (from.port(), to.port());
                format!("PROXY {family} {ip} {to_ip} {port} {to_port}\r\n").into_bytes()
            }
            Self::V2 => binary(from, to),
        }
    }
}

fn binary(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    for end in [from, to] {
        match end.ip() {
            IpAddr::V4(ip) => addresses.extend(ip.octets()),
            IpAddr::V6(ip) => addresses.extend(ip.octets()),
        }
    }
    addresses.extend(from.port().to_be_bytes());
    addresses.extend(to.port().to_be_bytes());
    let family = if from.is_ipv4() { TCP4 } else { TCP6 };
    let len = u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes();
    let head = [&SIGNATURE[..], &[VERSION_COMMAND, family], &len];
    [&head.concat()[..], &addresses].concat()
}

/// Both ends in one family: IPv4 as itself if both are, else as IPv6.
fn alike(from: SocketAddr, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (from, to) = (plain(from), plain(to));
    if from.is_ipv4() == to.is_ipv4() {
        return (from, to);
    }
    let wide = |end: SocketAddr| match end.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), end.port()),
        IpAddr::V6(_) => end,
    };
    (wide(from), wide(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification() {
        let (from, to) = ("192.168.0.1:56324", "192.168.0.11:443");
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        assert_eq!(
            ProxyProtocol::V1.header(from, to),
            b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"
        );
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
        expected.extend([192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb]);
        assert_eq!(ProxyProtocol::V2.header(from, to), expected);
    }

    #[test]
    fn a_client_of_a_dual_stack_socket_is_of_its_own_family() {
        let from = "[::ffff:192.0.2.1]:1".parse().unwrap();
        let to = "192.0.2.2:2".parse().unwrap();
        let line = ProxyProtocol::V1.header(from, to);
        assert_eq!(line, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n");
        let six = ProxyProtocol::V2.header("[2001:db8::1]:1".parse().unwrap(), to);
        assert_eq!((six.len(), six[13], six[15]), (16 + 36, TCP6, 36));
    }
}
