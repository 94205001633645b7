//! Every parser on arbitrary bytes, and the views against etherparse where both read the same thing.

use std::net::Ipv4Addr;

use etherparse::{
    ArpPacketSlice, EtherType as TheirEtherType, Ethernet2Slice, Ipv4HeaderSlice, Ipv6HeaderSlice,
    PacketBuilder, SlicedPacket, TcpSlice, UdpSlice, VlanId,
};
use proptest::prelude::*;
use weft_wire::icmp::{AdvertisementFlags, NeighborEnds};
use weft_wire::{
    Arp, ArpMessage, ArpOperation, EtherType, EthernetFrame, Icmp6, Ipv4, Ipv6, MacAddr,
    NeighborMessage, Tcp, Udp, Vni, VxlanHeader, flow_hash, fuzz,
};

const BUILDS: &str = "a payload of 200 bytes fits";

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

/// A frame that etherparse builds, so that most cases get past the first check; then bytes are damaged.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((0usize..120, any::<u8>()), 0..4);
    (any::<[bool; 3]>(), bytes(), damage, 0usize..220).prop_map(|(kind, payload, damage, len)| {
        let [tag, v6, udp] = kind;
        let link = || PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let tagged = || link().single_vlan(VlanId::try_new(5).expect("a VLAN"));
        let network = match (tag, v6) {
            (true, true) => tagged().ipv6([1; 16], [2; 16], 64),
            (true, false) => tagged().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
            (false, true) => link().ipv6([1; 16], [2; 16], 64),
            (false, false) => link().ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        };
        let mut frame = Vec::new();
        if udp {
            network.udp(7, 9).write(&mut frame, &payload).expect(BUILDS);
        } else {
            network
                .tcp(7, 9, 1, 1024)
                .ack(5)
                .write(&mut frame, &payload)
                .expect(BUILDS);
        }
        for (at, value) in damage {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(len);
        frame
    })
}

fn mac() -> impl Strategy<Value = MacAddr> {
    any::<[u8; 6]>().prop_map(MacAddr)
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(data in bytes()) {
        fuzz::frame_views(&data);
        fuzz::vnet_segment(&data);
        fuzz::vxlan(&data);
    }

    #[test]
    fn damaged_frames_never_panic(frame in frames(), header: [u8; 10], near in 0u16..80) {
        fuzz::frame_views(&frame);
        fuzz::vnet_segment(&[&header[..], &frame].concat());
        // Headers that are nearly right: gso size and checksum place in range.
        let [n0, n1] = near.to_ne_bytes();
        let gso_type = [0, 1, 4, 5][usize::from(header[0] % 4)];
        let offset = if header[1] & 1 == 0 { 16 } else { 6 };
        let [o0, o1] = u16::to_ne_bytes(offset);
        for near in [[n0, n1], 34u16.to_ne_bytes(), 54u16.to_ne_bytes()] {
            let vnet = [1, gso_type, 0, 0, n0, n1, near[0], near[1], o0, o1];
            fuzz::vnet_segment(&[&vnet[..], &frame].concat());
        }
    }

    #[test]
    fn ethernet_is_read_as_etherparse_reads_it(frame in frames()) {
        let theirs = Ethernet2Slice::from_slice_without_fcs(&frame);
        let Ok(theirs) = theirs else {
            prop_assert!(EthernetFrame::new(&frame).is_err());
            return Ok(());
        };
        let Ok(ours) = EthernetFrame::new(&frame) else {
            let tagged = [TheirEtherType(0x8100), TheirEtherType(0x88a8)];
            prop_assert!(tagged.contains(&theirs.ether_type()) && frame.len() < 18);
            return Ok(());
        };
        prop_assert_eq!(ours.source().octets(), theirs.source());
        prop_assert_eq!(ours.destination().octets(), theirs.destination());
        if ours.vlan().is_none() {
            prop_assert_eq!(ours.ethertype().0, theirs.ether_type().0);
            prop_assert_eq!(ours.payload(), theirs.payload().payload);
        } else if let Ok(packet) = SlicedPacket::from_ethernet(&frame) {
            let ids: Vec<u16> = packet.vlan_ids().iter().map(|id| id.value()).collect();
            let ours = ours.vlan().map(|tci| tci.0 & 0x0fff);
            prop_assert_eq!(ours, ids.first().copied());
        }
    }

    #[test]
    fn ipv4_is_read_as_etherparse_reads_it(frame in frames()) {
        let packet = frame.get(14..).unwrap_or_default();
        let ours = Ipv4::new(packet);
        let Ok(theirs) = Ipv4HeaderSlice::from_slice(packet) else {
            prop_assert!(ours.is_err());
            return Ok(());
        };
        let total = usize::from(theirs.total_len());
        prop_assert_eq!(ours.is_ok(), total >= theirs.slice().len() && total <= packet.len());
        let Ok(ours) = ours else { return Ok(()) };
        prop_assert_eq!(ours.header(), theirs.slice());
        prop_assert_eq!(ours.source(), theirs.source_addr());
        prop_assert_eq!(ours.destination(), theirs.destination_addr());
        prop_assert_eq!(ours.protocol().0, theirs.protocol().0);
        prop_assert_eq!(ours.identification(), theirs.identification());
        prop_assert_eq!(ours.is_fragment(), theirs.is_fragmenting_payload());
        let header = theirs.to_header();
        let valid = header.header_checksum == header.calc_header_checksum();
        // 0x0000 and 0xffff in the field verify alike.
        if header.header_checksum != 0xffff {
            prop_assert_eq!(ours.checksum_is_valid(), valid);
        }
    }

    #[test]
    fn ipv6_is_read_as_etherparse_reads_it(frame in frames()) {
        let packet = frame.get(14..).unwrap_or_default();
        let ours = Ipv6::new(packet);
        let Ok(theirs) = Ipv6HeaderSlice::from_slice(packet) else {
            prop_assert!(ours.is_err());
            return Ok(());
        };
        let complete = packet.len() >= 40 + usize::from(theirs.payload_length());
        prop_assert_eq!(ours.is_ok(), complete);
        let Ok(ours) = ours else { return Ok(()) };
        prop_assert_eq!(ours.source(), theirs.source_addr());
        prop_assert_eq!(ours.destination(), theirs.destination_addr());
        prop_assert_eq!(ours.traffic_class(), theirs.traffic_class());
        prop_assert_eq!(ours.flow_label(), theirs.flow_label().value());
        prop_assert_eq!(ours.next_header(), theirs.next_header().0);
    }

    #[test]
    fn transports_are_read_as_etherparse_reads_them(frame in frames()) {
        for segment in [34, 38, 54, 58].map(|at| frame.get(at..).unwrap_or_default()) {
            let (ours, theirs) = (Tcp::new(segment), TcpSlice::from_slice(segment));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok());
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours.sequence(), theirs.sequence_number());
                prop_assert_eq!(ours.options(), theirs.options());
                prop_assert_eq!(ours.payload(), theirs.payload());
            }
            let (ours, theirs) = (Udp::new(segment), UdpSlice::from_slice(segment));
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) {
                prop_assert_eq!(ours.destination_port(), theirs.destination_port());
                prop_assert_eq!(ours.payload(), theirs.payload());
            }
        }
    }

    #[test]
    fn vxlan_is_read_as_it_was_written(vni in 1u32..=Vni::MAX, inner in bytes()) {
        let vni = Vni::new(vni).unwrap();
        let datagram = [&VxlanHeader::to_bytes(vni)[..], &inner].concat();
        prop_assert_eq!(VxlanHeader::parse(&datagram), Ok((vni, &inner[..])));
    }

    #[test]
    fn arp_is_read_as_it_was_written_by_us_and_by_etherparse(
        macs in [mac(), mac()],
        ips: [u32; 2],
        code: u16,
    ) {
        let operation = match code {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            code => ArpOperation::Other(code),
        };
        let [sender_ip, target_ip] = ips.map(Ipv4Addr::from_bits);
        let [sender_mac, target_mac] = macs;
        let message = ArpMessage { operation, sender_mac, sender_ip, target_mac, target_ip };
        let bytes = message.to_bytes();
        prop_assert_eq!(Arp::new(&bytes).unwrap().message(), message);
        let theirs = ArpPacketSlice::from_slice(&bytes).unwrap();
        prop_assert_eq!(theirs.operation().0, code);
        prop_assert_eq!(theirs.sender_hw_addr(), sender_mac.octets());
        prop_assert_eq!(theirs.target_protocol_addr(), target_ip.octets());
    }

    #[test]
    fn neighbor_messages_are_read_as_they_were_written(
        macs in [mac(), mac()],
        ips: [u128; 3],
        answer: bool,
    ) {
        let [source, destination, target] = ips.map(std::net::Ipv6Addr::from_bits);
        prop_assume!(!target.is_multicast());
        let [source_mac, destination_mac] = macs;
        let ends = NeighborEnds { source_mac, destination_mac, source, destination };
        let message = if answer {
            NeighborMessage::advertisement(target, source_mac, AdvertisementFlags::OVERRIDE)
        } else {
            NeighborMessage::solicitation(target, source_mac)
        };
        let frame = message.to_frame(&ends);
        prop_assert_eq!(EthernetFrame::new(&frame).unwrap().ethertype(), EtherType::IPV6);
        let ip = Ipv6::new(&frame[14..]).unwrap();
        let icmp = Icmp6::new(ip.payload()).unwrap();
        prop_assert_eq!(icmp.neighbor(), Ok(Some(message)));
        let theirs = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(etherparse::TransportSlice::Icmpv6(theirs)) = theirs.transport else {
            panic!("not ICMPv6")
        };
        prop_assert!(theirs.is_checksum_valid(source.octets(), destination.octets()));
    }

    #[test]
    fn the_flow_hash_sees_neither_ttl_nor_checksums(frame in frames(), ttl: u8) {
        let mut routed = frame.clone();
        let is_ipv4 = EthernetFrame::new(&frame).is_ok_and(|f| {
            f.ethertype() == EtherType::IPV4 && f.payload_offset() == 14
        });
        if is_ipv4 && frame.len() > 26 {
            routed[22] = ttl;
            routed[24] ^= ttl;
            prop_assert_eq!(flow_hash(&routed), flow_hash(&frame));
        }
    }
}
