//! Whose a frame is that reached the gateway: the name server's, DHCP's, or none of these. Pure and total: frames come
//! from containers.

#![deny(clippy::disallowed_methods)]

use std::net::{IpAddr, SocketAddr};

use weft_wire::{EtherType, EthernetFrame, Icmp6, IpProtocol, Ipv4, Ipv6, MacAddr, Tcp, Udp};

/// Port of the name server (RFC 1035 section 4.2).
pub(crate) const DNS_PORT: u16 = 53;
/// Port of DHCP servers (RFC 2131 section 4.1).
pub(crate) const DHCP_SERVER_PORT: u16 = 67;
/// Port of DHCPv6 servers (RFC 9915 section 7.2).
pub(crate) const DHCP6_SERVER_PORT: u16 = 547;
/// ICMPv6 type (RFC 4861 section 4.1).
const ROUTER_SOLICITATION: u8 = 133;

/// A UDP datagram with where it came from and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Datagram<'f> {
    /// The sender's MAC: which port it is.
    pub(crate) mac: MacAddr,
    /// The sender.
    pub(crate) source: SocketAddr,
    /// One of the gateway's addresses, or all servers.
    pub(crate) destination: SocketAddr,
    /// What it says.
    pub(crate) payload: &'f [u8],
}

/// Who is to have a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class<'f> {
    /// A question to the name server.
    DnsUdp(Datagram<'f>),
    /// A TCP segment to the name server, from that MAC: an IP packet.
    DnsTcp(MacAddr, &'f [u8]),
    /// A message to DHCP.
    Dhcp4(Datagram<'f>),
    /// A message to DHCPv6.
    Dhcp6(Datagram<'f>),
    /// Who are the routers of this link? Asked from that MAC and address.
    RouterSolicitation(MacAddr, std::net::Ipv6Addr),
    /// None of these: for the way out.
    Other,
}

/// Looks at a frame that came from a port of this host. `gateways` are the gateway's own addresses. No checksum is
/// verified: the sender is a kernel beside ours, and mostly left it unfinished.
pub(crate) fn classify<'f>(frame: &'f [u8], gateways: &[IpAddr]) -> Class<'f> {
    let Ok(ethernet) = EthernetFrame::new(frame) else {
        return Class::Other;
    };
    let class = match ethernet.ethertype() {
        EtherType::IPV4 => classify_v4(&ethernet, gateways),
        EtherType::IPV6 => classify_v6(&ethernet, gateways),
        _ => None,
    };
    class.unwrap_or(Class::Other)
}

fn classify_v4<'f>(ethernet: &EthernetFrame<'f>, gateways: &[IpAddr]) -> Option<Class<'f>> {
    let packet = Ipv4::new(ethernet.payload()).ok()?;
    if packet.is_fragment() {
        return None;
    }
    let ends = (
        IpAddr::V4(packet.source()),
        IpAddr::V4(packet.destination()),
    );
    let is_ours = gateways.contains(&ends.1);
    match packet.protocol() {
        IpProtocol::UDP => {
            let datagram = datagram(ethernet.source(), ends, packet.payload())?;
            match datagram.destination.port() {
                DNS_PORT if is_ours => Some(Class::DnsUdp(datagram)),
                DHCP_SERVER_PORT if is_ours || packet.destination().is_broadcast() => {
                    Some(Class::Dhcp4(datagram))
                }
                _ => None,
            }
        }
        IpProtocol::TCP if is_ours => {
            let packet_bytes = ethernet.payload().get(..packet.total_len())?;
            segment(ethernet.source(), packet_bytes, packet.payload())
        }
        _ => None,
    }
}

fn classify_v6<'f>(ethernet: &EthernetFrame<'f>, gateways: &[IpAddr]) -> Option<Class<'f>> {
    let packet = Ipv6::new(ethernet.payload()).ok()?;
    let upper = packet.upper_layer().ok()?;
    if upper.fragment.is_some() || upper.in_transit {
        return None;
    }
    let payload = packet.upper_payload(&upper);
    let ends = (
        IpAddr::V6(packet.source()),
        IpAddr::V6(packet.destination()),
    );
    let is_ours = gateways.contains(&ends.1);
    match upper.protocol {
        IpProtocol::UDP => {
            let datagram = datagram(ethernet.source(), ends, payload)?;
            match datagram.destination.port() {
                DNS_PORT if is_ours => Some(Class::DnsUdp(datagram)),
                DHCP6_SERVER_PORT if is_ours || packet.destination().is_multicast() => {
                    Some(Class::Dhcp6(datagram))
                }
                _ => None,
            }
        }
        IpProtocol::TCP if is_ours => {
            let packet_bytes = ethernet.payload().get(..packet.total_len())?;
            segment(ethernet.source(), packet_bytes, payload)
        }
        IpProtocol::ICMP6 => {
            let message = Icmp6::new(payload).ok()?;
            (message.message_type() == ROUTER_SOLICITATION)
                .then(|| Class::RouterSolicitation(ethernet.source(), packet.source()))
        }
        _ => None,
    }
}

fn datagram(mac: MacAddr, ends: (IpAddr, IpAddr), bytes: &[u8]) -> Option<Datagram<'_>> {
    let udp = Udp::new(bytes).ok()?;
    Some(Datagram {
        mac,
        source: SocketAddr::new(ends.0, udp.source_port()),
        destination: SocketAddr::new(ends.1, udp.destination_port()),
        payload: udp.payload(),
    })
}

fn segment<'f>(mac: MacAddr, packet: &'f [u8], bytes: &[u8]) -> Option<Class<'f>> {
    let tcp = Tcp::new(bytes).ok()?;
    (tcp.destination_port() == DNS_PORT).then_some(Class::DnsTcp(mac, packet))
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const HOST: [u8; 6] = [2, 0x57, 10, 1, 0, 2];
    const GATEWAY: [u8; 6] = [2, 0x77, 0x65, 0x66, 0x74, 1];

    fn gateways() -> [IpAddr; 2] {
        ["10.1.0.1".parse().unwrap(), "fd01::1".parse().unwrap()]
    }

    fn udp(destination: &str, port: u16) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(HOST, GATEWAY);
        let ip = match destination.parse().unwrap() {
            IpAddr::V4(ip) => ethernet.ipv4([10, 1, 0, 2], ip.octets(), 64),
            IpAddr::V6(ip) => ethernet.ipv6([0xfd; 16], ip.octets(), 64),
        };
        let mut frame = Vec::new();
        ip.udp(5000, port).write(&mut frame, b"question").unwrap();
        frame
    }

    fn tcp(destination: [u8; 4], port: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(HOST, GATEWAY)
            .ipv4([10, 1, 0, 2], destination, 64)
            .tcp(5000, port, 1, 1000)
            .write(&mut frame, b"")
            .unwrap();
        frame
    }

    #[test]
    fn questions_to_the_gateway_are_the_name_servers() {
        for gateway in ["10.1.0.1", "fd01::1"] {
            let frame = udp(gateway, 53);
            let Class::DnsUdp(datagram) = classify(&frame, &gateways()) else {
                panic!("{gateway}");
            };
            assert_eq!(datagram.payload, b"question");
            assert_eq!(datagram.mac, MacAddr(HOST));
            assert_eq!(datagram.source.port(), 5000);
            assert_eq!(
                datagram.destination.ip(),
                gateway.parse::<IpAddr>().unwrap()
            );
        }
        let frame = tcp([10, 1, 0, 1], 53);
        let class = classify(&frame, &gateways());
        assert_eq!(class, Class::DnsTcp(MacAddr(HOST), &frame[14..]));
    }

    #[test]
    fn questions_to_others_are_not() {
        for frame in [
            udp("8.8.8.8", 53),
            udp("10.1.0.1", 54),
            udp("fd01::2", 53),
            udp("10.1.0.2", 67),
            tcp([8, 8, 8, 8], 53),
            tcp([10, 1, 0, 1], 80),
        ] {
            assert_eq!(classify(&frame, &gateways()), Class::Other);
        }
        assert_eq!(classify(&udp("10.1.0.1", 53), &[]), Class::Other);
    }

    #[test]
    fn dhcp_is_known_by_its_ports() {
        for to in ["255.255.255.255", "10.1.0.1"] {
            assert!(matches!(
                classify(&udp(to, 67), &gateways()),
                Class::Dhcp4(_)
            ));
        }
        for to in ["ff02::1:2", "fd01::1"] {
            assert!(matches!(
                classify(&udp(to, 547), &gateways()),
                Class::Dhcp6(_)
            ));
        }
    }

    #[test]
    fn who_asks_for_routers_is_heard() {
        let mut frame = Vec::new();
        let source = "fe80::57".parse::<std::net::Ipv6Addr>().unwrap();
        let all_routers = "ff02::2".parse::<std::net::Ipv6Addr>().unwrap();
        PacketBuilder::ethernet2(HOST, [0x33, 0x33, 0, 0, 0, 2])
            .ipv6(source.octets(), all_routers.octets(), 255)
            .icmpv6_raw(133, 0, [0; 4])
            .write(&mut frame, &[])
            .unwrap();
        let class = classify(&frame, &gateways());
        assert_eq!(class, Class::RouterSolicitation(MacAddr(HOST), source));
    }

    #[test]
    fn no_beginning_of_a_frame_and_no_fragment_is_taken_for_one() {
        for whole in [
            udp("10.1.0.1", 53),
            udp("fd01::1", 547),
            tcp([10, 1, 0, 1], 53),
        ] {
            for len in 0..whole.len() {
                assert_eq!(classify(&whole[..len], &gateways()), Class::Other, "{len}");
            }
        }
        let mut fragment = udp("10.1.0.1", 53);
        // More fragments follow.
        fragment[14 + 6] |= 0x20;
        assert_eq!(classify(&fragment, &gateways()), Class::Other);
    }
}
