//! The answer to an echo request (RFC 792, RFC 4443 section 4.2), whoever it asks.

use crate::checksum::{Sum, pseudo_header_v6};
use crate::ethernet::{EtherType, EthernetFrame};
use crate::icmp::{self, ICMP_HEADER_LEN, Icmp6};
use crate::icmp_error::{header_v4, header_v6};
use crate::ipv4::{IPV4_HEADER_LEN, IpProtocol, Ipv4};
use crate::ipv6::Ipv6;
use crate::mac::MacAddr;

const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;

/// The reply to the request in `frame`, from whom it was sent to, back to whom it came from. IP options are not sent back.
///
/// `None` for everything but a whole echo request between two stations with a right checksum: fragments are not put
/// together, and what is sent to or from a group would be a flood.
pub fn echo_reply(frame: &[u8]) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new(frame).ok()?;
    if !ethernet.destination().is_station() || !ethernet.source().is_station() {
        return None;
    }
    let mut reply = frame.get(..ethernet.payload_offset())?.to_vec();
    let ends = [ethernet.source(), ethernet.destination()].map(MacAddr::octets);
    reply[..12].copy_from_slice(ends.as_flattened());
    match ethernet.ethertype() {
        EtherType::IPV4 => reply_v4(&Ipv4::new(ethernet.payload()).ok()?, &mut reply)?,
        EtherType::IPV6 => reply_v6(&Ipv6::new(ethernet.payload()).ok()?, &mut reply)?,
        _ => return None,
    }
    Some(reply)
}

fn reply_v4(packet: &Ipv4<'_>, reply: &mut Vec<u8>) -> Option<()> {
    let (source, destination) = (packet.source(), packet.destination());
    let group = |ip: std::net::Ipv4Addr| {
        ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_loopback()
    };
    if packet.protocol() != IpProtocol::ICMP4
        || packet.is_fragment()
        || !packet.checksum_is_valid()
        || group(source)
        || group(destination)
    {
        return None;
    }
    let (header, data) = packet.payload().split_first_chunk::<ICMP_HEADER_LEN>()?;
    if header[..2] != [ECHO_REQUEST_V4, 0] || Sum::of(packet.payload()).finish() != 0 {
        return None;
    }
    let message = answered(header, ECHO_REPLY_V4, Sum::of(data));
    let len = u16::try_from(IPV4_HEADER_LEN + ICMP_HEADER_LEN + data.len()).ok()?;
    reply.extend(header_v4(len, destination.octets(), source.octets()));
    reply.extend(message);
    reply.extend(data);
    Some(())
}

fn reply_v6(packet: &Ipv6<'_>, reply: &mut Vec<u8>) -> Option<()> {
    let (source, destination) = (packet.source(), packet.destination());
    if source.is_unspecified() || source.is_multicast() || destination.is_multicast() {
        return None;
    }
    let upper = packet.upper_layer().ok()?;
    if upper.protocol != IpProtocol::ICMP6 || upper.fragment.is_some() {
        return None;
    }
    let request = packet.upper_payload(&upper);
    let (header, data) = request.split_first_chunk::<ICMP_HEADER_LEN>()?;
    let valid = Icmp6::new(request)
        .ok()?
        .checksum_is_valid(source, destination);
    if header[..2] != [ECHO_REQUEST_V6, 0] || !valid {
        return None;
    }
    let len = u16::try_from(request.len()).ok()?;
    let pseudo = pseudo_header_v6(destination, source, IpProtocol::ICMP6, len.into());
    let message = answered(header, ECHO_REPLY_V6, pseudo.and(data));
    reply.extend(header_v6(len, destination.octets(), source.octets()));
    reply.extend(message);
    reply.extend(data);
    Some(())
}

/// The first bytes of the reply: another type, the request's identifier and sequence number, and the checksum over
/// them and `rest`.
fn answered(request: &[u8; ICMP_HEADER_LEN], kind: u8, rest: Sum) -> [u8; ICMP_HEADER_LEN] {
    let mut header = *request;
    header[0] = kind;
    header[icmp::field::CHECKSUM..][..2].fill(0);
    let sum = rest.plus(Sum::of(&header)).finish();
    header[icmp::field::CHECKSUM..][..2].copy_from_slice(&sum.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const ASKED: [u8; 6] = [2, 0, 0, 0, 0, 2];
    const DATA: &[u8] = b"twenty-one bytes odd!";

    fn request(v6: bool) -> Vec<u8> {
        let mut frame = Vec::new();
        let ethernet = PacketBuilder::ethernet2(ASKER, ASKED);
        if v6 {
            let (here, there) = ([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], {
                let mut ip = [0; 16];
                (ip[0], ip[15]) = (0xfd, 1);
                ip
            });
            let packet = ethernet.ipv6(here, there, 64);
            let packet = packet.icmpv6_echo_request(7, 8);
            packet.write(&mut frame, DATA).unwrap();
        } else {
            let packet = ethernet.ipv4([10, 0, 0, 9], [10, 0, 0, 1], 3);
            let packet = packet.icmpv4_echo_request(7, 8);
            packet.write(&mut frame, DATA).unwrap();
        }
        frame
    }

    #[test]
    fn a_request_is_answered_with_its_data_and_right_checksums() {
        for v6 in [false, true] {
            let reply = echo_reply(&request(v6)).unwrap();
            assert_eq!((&reply[..6], &reply[6..12]), (&ASKER[..], &ASKED[..]));
            let packet = EthernetFrame::new(&reply).unwrap();
            if v6 {
                let ip = Ipv6::new(packet.payload()).unwrap();
                assert_eq!(
                    ip.source(),
                    "fd00::1".parse::<std::net::Ipv6Addr>().unwrap()
                );
                assert_eq!(ip.hop_limit(), 64);
                let message = Icmp6::new(ip.payload()).unwrap();
                assert!(message.checksum_is_valid(ip.source(), ip.destination()));
            } else {
                let ip = Ipv4::new(packet.payload()).unwrap();
                assert_eq!(ip.source(), std::net::Ipv4Addr::new(10, 0, 0, 1));
                assert!(ip.checksum_is_valid() && ip.ttl() == 64);
                assert_eq!(Sum::of(ip.payload()).finish(), 0);
            }
            let sliced = SlicedPacket::from_ethernet(&reply).unwrap();
            match sliced.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => {
                    assert!(matches!(icmp.icmp_type(), Icmpv4Type::EchoReply(echo)
                        if (echo.id, echo.seq) == (7, 8)));
                    assert_eq!(icmp.payload(), DATA);
                }
                TransportSlice::Icmpv6(icmp) => {
                    assert!(matches!(icmp.icmp_type(), Icmpv6Type::EchoReply(echo)
                        if (echo.id, echo.seq) == (7, 8)));
                    assert_eq!(icmp.payload(), DATA);
                }
                TransportSlice::Udp(_) | TransportSlice::Tcp(_) | TransportSlice::Igmp(_) => {
                    panic!("no ICMP")
                }
            }
        }
    }

    #[test]
    fn a_reply_is_not_answered() {
        for v6 in [false, true] {
            let reply = echo_reply(&request(v6)).unwrap();
            assert_eq!(echo_reply(&reply), None);
        }
    }

    #[test]
    fn short_and_damaged_requests_are_not_answered() {
        for v6 in [false, true] {
            let whole = request(v6);
            for len in 0..whole.len() {
                assert_eq!(echo_reply(&whole[..len]), None, "{len} bytes");
            }
            let transport = if v6 { 54 } else { 34 };
            for at in transport..whole.len() {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x10;
                assert_eq!(echo_reply(&damaged), None, "byte {at}");
            }
        }
    }

    #[test]
    fn groups_and_fragments_are_not_answered() {
        let mut group = request(false);
        group[0] |= 1;
        assert_eq!(echo_reply(&group), None);
        let mut fragment = request(false);
        fragment[20] = 0x20;
        fragment[24..26].fill(0);
        let sum = Sum::of(&fragment[14..34]).finish().to_be_bytes();
        fragment[24..26].copy_from_slice(&sum);
        assert!(Ipv4::new(&fragment[14..]).unwrap().is_fragment());
        assert_eq!(echo_reply(&fragment), None);
    }
}
