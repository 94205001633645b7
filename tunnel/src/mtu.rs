//! What encapsulation costs and what therefore fits. Asked by the control plane when it gives interfaces their MTU; no
//! frame passes here. Knows nothing of routes: the underlay's MTU is measured or read by others.

use std::net::IpAddr;

use weft_wire::{Mtu, VXLAN_HEADER_LEN};

use crate::carriage::Carriage;
use crate::esp::{GRE_HEADER_LEN, payload_max, sealed_len};

/// Inner Ethernet header, which the underlay carries as payload.
const ETHERNET_HEADER_LEN: usize = 14;
/// Outer UDP header (RFC 768).
const UDP_HEADER_LEN: usize = 8;
/// Outer IPv4 header without options (RFC 791).
const IPV4_HEADER_LEN: usize = 20;
/// Outer IPv6 header without extensions (RFC 8200).
const IPV6_HEADER_LEN: usize = 40;
/// What the length fields of IP and UDP can say, whatever a link takes (loopback takes 65,536).
const IP_PACKET_MAX_BYTES: usize = 65_535;

/// UDP payload of all datagrams of a train together: what an IPv4 packet has room for.
pub(crate) const TRAIN_BYTES_MAX: usize = 65_507;
/// Most datagrams of a train: UDP_MAX_SEGMENTS of Linux 6.9.
pub(crate) const TRAIN_SEGMENTS_MAX: usize = 128;
/// IPv4 and TCP without options: what a segment has least of.
const TCP_IP_HEADERS_LEN: usize = 40;
/// What TCP takes off a device's GSO size for headers (MAX_TCP_HEADER + 1 of Linux, rounded).
const TCP_RESERVE: usize = 321;
/// What a device has without asking (GSO_LEGACY_MAX_SIZE of Linux).
const LEGACY_GSO_MAX_SIZE: usize = 65_536;

/// Bytes of an underlay packet that are not the inner IP packet: 50 over IPv4, 70 over IPv6.
///
/// A frame with an 802.1Q tag (plain L2 networks only) needs four more.
pub const fn overhead(underlay: IpAddr) -> usize {
    let ip = match underlay {
        IpAddr::V4(_) => IPV4_HEADER_LEN,
        IpAddr::V6(_) => IPV6_HEADER_LEN,
    };
    ip + UDP_HEADER_LEN + VXLAN_HEADER_LEN + ETHERNET_HEADER_LEN
}

/// The longest inner Ethernet frame that a packet of `packet` bytes to `underlay` carries.
pub(crate) const fn frame_in_packet(packet: usize, underlay: IpAddr, carriage: Carriage) -> usize {
    match carriage {
        Carriage::Clear => (packet + ETHERNET_HEADER_LEN).saturating_sub(overhead(underlay)),
        Carriage::Encrypted => payload_max(packet.saturating_sub(udp_ip_headers(underlay)))
            .saturating_sub(GRE_HEADER_LEN),
    }
}

/// The layer 3 MTU where frames have at most `frame` bytes.
pub(crate) fn mtu_of_frame(frame: usize) -> Mtu {
    let packet = u32::try_from(frame.saturating_sub(ETHERNET_HEADER_LEN)).unwrap_or(Mtu::MAX);
    Mtu::new(packet.clamp(Mtu::MIN, Mtu::MAX)).expect("clamped to what an MTU can be")
}

/// Bytes of a packet to `underlay` that are IP and UDP header.
pub(crate) const fn udp_ip_headers(underlay: IpAddr) -> usize {
    overhead(underlay) - VXLAN_HEADER_LEN - ETHERNET_HEADER_LEN
}

/// The largest inner MTU that needs no fragments on an underlay of `underlay_mtu`; [`Mtu::MIN`] where not even that
/// fits, so that what is sent is refused as too big and counted.
pub fn inner_mtu(underlay_mtu: Mtu, underlay: IpAddr, carriage: Carriage) -> Mtu {
    let packet = underlay_mtu.bytes().min(IP_PACKET_MAX_BYTES);
    mtu_of_frame(frame_in_packet(packet, underlay, carriage))
}

/// The most that a container's kernel shall hand over at once (IFLA_GSO_MAX_SIZE, bytes), so that a superframe of TCP
/// becomes one train of datagrams. Without it the kernel makes 46 segments of 1450, of which 44 fit in a train: a
/// second call for two, and half a superframe for the receiver.
pub fn superframe_max(inner: Mtu, carriage: Carriage) -> u32 {
    let packet = inner.bytes();
    let datagram = match carriage {
        Carriage::Clear => ETHERNET_HEADER_LEN + VXLAN_HEADER_LEN + packet,
        Carriage::Encrypted => sealed_len(GRE_HEADER_LEN + ETHERNET_HEADER_LEN + packet),
    };
    let segments = (TRAIN_BYTES_MAX / datagram).clamp(1, TRAIN_SEGMENTS_MAX);
    let payload = segments * packet.saturating_sub(TCP_IP_HEADERS_LEN);
    let size = (payload + TCP_RESERVE).min(LEGACY_GSO_MAX_SIZE);
    u32::try_from(size).expect("at most 65,536")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mtu(bytes: u32) -> Mtu {
        Mtu::new(bytes).unwrap()
    }

    #[test]
    fn an_ethernet_underlay_leaves_1450_over_ipv4_and_1430_over_ipv6() {
        assert_eq!(
            inner_mtu(mtu(1500), [10, 0, 0, 1].into(), Carriage::Clear),
            mtu(1450)
        );
        assert_eq!(
            inner_mtu(mtu(1500), [0; 16].into(), Carriage::Clear),
            mtu(1430)
        );
    }

    #[test]
    fn an_underlay_too_small_for_anything_leaves_the_least_mtu() {
        assert_eq!(
            inner_mtu(mtu(68), [10, 0, 0, 1].into(), Carriage::Clear),
            mtu(68)
        );
        assert_eq!(
            inner_mtu(mtu(120), [0; 16].into(), Carriage::Clear),
            mtu(68)
        );
    }

    #[test]
    fn a_superframe_of_tcp_fits_in_one_train() {
        // With timestamps a segment of MTU 1450 has 1,398 bytes: 44 of them, and not 45.
        let room = superframe_max(mtu(1450), Carriage::Clear) as usize - TCP_RESERVE;
        assert_eq!(room / 1398, 44);
        assert_eq!(44 * 1410, room);
        assert_eq!(
            superframe_max(mtu(8950), Carriage::Clear) as usize - TCP_RESERVE,
            7 * 8910
        );
        assert_eq!(superframe_max(mtu(Mtu::MAX), Carriage::Clear), 65_536);
        assert_eq!(
            superframe_max(mtu(Mtu::MIN), Carriage::Clear) as usize,
            128 * 28 + TCP_RESERVE
        );
    }

    #[test]
    fn the_largest_underlay_leaves_what_is_left_of_it() {
        assert_eq!(
            inner_mtu(mtu(Mtu::MAX), [10, 0, 0, 1].into(), Carriage::Clear),
            mtu(Mtu::MAX - 50)
        );
    }

    #[test]
    fn encryption_takes_26_more_and_what_is_left_fills_the_packet() {
        let inner = |packet, address| inner_mtu(mtu(packet), address, Carriage::Encrypted);
        assert_eq!(inner(1500, [10, 0, 0, 1].into()), mtu(1424));
        assert_eq!(inner(1500, [0; 16].into()), mtu(1404));
        assert_eq!(inner(68, [10, 0, 0, 1].into()), mtu(68));
        for packet in 120..2000_usize {
            let frame = frame_in_packet(packet, [10, 0, 0, 1].into(), Carriage::Encrypted);
            assert!(28 + sealed_len(GRE_HEADER_LEN + frame) <= packet);
            assert!(28 + sealed_len(GRE_HEADER_LEN + frame + 1) > packet);
        }
        // 44 datagrams of 1,472 bytes are a train.
        let room = superframe_max(mtu(1424), Carriage::Encrypted) as usize - TCP_RESERVE;
        assert_eq!(room, 44 * 1384);
    }
}
