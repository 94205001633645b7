//! What a router does with an IPv4 packet that is longer than the next link takes and that may be cut: it sends it on in
//! fragments (RFC 791 section 3.2, RFC 1812 section 4.2.2.7). In IPv6 only who sends a packet cuts it.

use crate::checksum::Sum;
use crate::ethernet::{EtherType, EthernetFrame};
use crate::frame::FrameRef;
use crate::ids::Mtu;
use crate::ipv4::{IPV4_HEADER_LEN, Ipv4, field};
use crate::segment::{MAX_HEADER_LEN, SegmentPlan};

/// The flag for "more fragments".
const MORE_FRAGMENTS: u16 = 0x2000;
/// Fragments begin at multiples of this.
const UNIT: usize = 8;

/// Whether a router may cut a packet: its sender allows it. Not with options, some of which would have to be in every
/// fragment: nobody sends them.
pub fn may_fragment(packet: &Ipv4<'_>) -> bool {
    !packet.dont_fragment() && packet.header_len() == IPV4_HEADER_LEN && packet.checksum_is_valid()
}

/// Frames ready for a wire whose packets have at most `mtu` bytes and are together what is in `frame`; that may be a
/// superframe, or a fragment itself. `None` if it isn't IPv4 that [`may_fragment`].
pub fn fragment(frame: FrameRef<'_>, mtu: Mtu) -> Option<Vec<Vec<u8>>> {
    let packet = ipv4_of(frame.bytes)?;
    if !may_fragment(&packet) {
        return None;
    }
    // Checksums cover whole datagrams: they are finished before anything is cut.
    let plan = SegmentPlan::new(frame).ok()?;
    let mut pieces = Vec::new();
    let mut header = [0; MAX_HEADER_LEN];
    for i in 0..plan.count() {
        plan.write_header(frame, i, &mut header);
        let header = header.get(..plan.header_len())?;
        let whole = [header, frame.bytes.get(plan.payload(i))?].concat();
        cut(&whole, mtu, &mut pieces)?;
    }
    Some(pieces)
}

fn ipv4_of(frame: &[u8]) -> Option<Ipv4<'_>> {
    let ethernet = EthernetFrame::new(frame).ok()?;
    let is_ipv4 = ethernet.ethertype() == EtherType::IPV4;
    is_ipv4.then(|| Ipv4::new(ethernet.payload()).ok())?
}

fn cut(frame: &[u8], mtu: Mtu, pieces: &mut Vec<Vec<u8>>) -> Option<()> {
    let packet = ipv4_of(frame)?;
    if packet.total_len() <= mtu.bytes() {
        pieces.push(frame.to_vec());
        return Some(());
    }
    let ethernet = EthernetFrame::new(frame).ok()?;
    let link = frame.get(..ethernet.payload_offset())?;
    // The smallest MTU leaves room for six units.
    let size = (mtu.bytes() - IPV4_HEADER_LEN) / UNIT * UNIT;
    let count = packet.payload().len().div_ceil(size);
    for (i, payload) in packet.payload().chunks(size).enumerate() {
        let more = i + 1 < count || packet.more_fragments();
        let offset = packet.fragment_offset() + i * size;
        let mut header: [u8; IPV4_HEADER_LEN] = packet.header().try_into().ok()?;
        // Beyond what an offset can say is no place in any packet.
        let units = u16::try_from(offset / UNIT)
            .ok()
            .filter(|units| *units < MORE_FRAGMENTS)?;
        let place = units | if more { MORE_FRAGMENTS } else { 0 };
        let total = u16::try_from(IPV4_HEADER_LEN + payload.len()).ok()?;
        write(&mut header, field::TOTAL_LENGTH, total);
        write(&mut header, field::FRAGMENT, place);
        write(&mut header, field::CHECKSUM, 0);
        let checksum = Sum::of(&header).finish();
        write(&mut header, field::CHECKSUM, checksum);
        pieces.push([link, &header, payload].concat());
    }
    Some(())
}

fn write(header: &mut [u8; IPV4_HEADER_LEN], at: usize, value: u16) {
    if let Some(place) = header.get_mut(at..at + 2) {
        place.copy_from_slice(&value.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use etherparse::{IpFragOffset, Ipv4Header, PacketBuilder};
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{Gso, GsoKind, Offload, PartialChecksum};
    use crate::udp::Udp;

    const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

    fn mtu(value: u32) -> Mtu {
        Mtu::new(value).unwrap()
    }

    /// A datagram whose sender allows that it is cut.
    fn datagram(len: usize) -> Vec<u8> {
        let mut ip = Ipv4Header::new(
            0,
            64,
            etherparse::ip_number::UDP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        ip.dont_fragment = false;
        ip.identification = 0x1234;
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(MACS[0], MACS[1])
            .ip(etherparse::IpHeaders::Ipv4(
                ip,
                etherparse::Ipv4Extensions::default(),
            ))
            .udp(1000, 2000)
            .write(&mut frame, &payload)
            .unwrap();
        frame
    }

    /// The payloads of fragments where they belong; and whether one was the last.
    fn put_together(pieces: &[Vec<u8>], limit: Mtu) -> (Vec<u8>, bool) {
        let (mut whole, mut ended) = (Vec::new(), false);
        for piece in pieces {
            let packet = ipv4_of(piece).unwrap();
            assert!(packet.checksum_is_valid() && packet.total_len() <= limit.bytes());
            assert_eq!((packet.identification(), packet.ttl()), (0x1234, 64));
            assert_eq!(
                piece[..12],
                MACS.map(|mac| mac)
                    .iter()
                    .rev()
                    .flatten()
                    .copied()
                    .collect::<Vec<u8>>()[..]
            );
            assert_eq!(
                packet.fragment_offset(),
                whole.len(),
                "in order, without a hole"
            );
            whole.extend_from_slice(packet.payload());
            ended = !packet.more_fragments();
        }
        (whole, ended)
    }

    #[test]
    fn a_datagram_is_cut_at_multiples_of_eight() {
        let frame = datagram(3000);
        let whole = ipv4_of(&frame).unwrap();
        let pieces = fragment(FrameRef::plain(&frame), mtu(1000)).unwrap();
        let lens: Vec<usize> = pieces.iter().map(Vec::len).collect();
        assert_eq!(
            lens,
            [14 + 996, 14 + 996, 14 + 996, 14 + 20 + 3008 - 3 * 976]
        );
        let (payload, ended) = put_together(&pieces, mtu(1000));
        assert!(ended && payload == whole.payload());
        // What fits stays as it is.
        let pieces = fragment(FrameRef::plain(&frame), mtu(3028)).unwrap();
        assert_eq!(pieces, [frame]);
    }

    #[test]
    fn an_unfinished_checksum_and_a_run_of_datagrams_are_finished_first() {
        let bytes = datagram(6000);
        let offload = |gso: bool| Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 6,
            }),
            gso: NonZeroU16::new(2000).filter(|_| gso).map(|size| Gso {
                kind: GsoKind::Udp,
                size,
                ecn: false,
            }),
        };
        for (gso, datagrams) in [(false, 1), (true, 3)] {
            let mut bytes = bytes.clone();
            // As a kernel leaves it: the sum of the pseudo header.
            let pseudo = crate::checksum::pseudo_header_v4(
                [10, 0, 0, 1].into(),
                [10, 0, 0, 2].into(),
                crate::ipv4::IpProtocol::UDP,
                6008,
            );
            bytes[40..42].copy_from_slice(&pseudo.folded().to_be_bytes());
            let frame = FrameRef::new(&bytes, offload(gso));
            let pieces = fragment(frame, mtu(1500)).unwrap();
            let mut seen = 0;
            let mut rest = &pieces[..];
            while let Some(end) = rest
                .iter()
                .position(|piece| !ipv4_of(piece).unwrap().more_fragments())
            {
                let (one, behind) = rest.split_at(end + 1);
                let upper: Vec<u8> = one
                    .iter()
                    .flat_map(|piece| ipv4_of(piece).unwrap().payload().to_vec())
                    .collect();
                let udp = Udp::new(&upper).unwrap();
                assert_eq!(udp.payload().len(), 6000 / datagrams);
                let pseudo = crate::checksum::pseudo_header_v4(
                    [10, 0, 0, 1].into(),
                    [10, 0, 0, 2].into(),
                    crate::ipv4::IpProtocol::UDP,
                    u16::try_from(upper.len()).unwrap(),
                );
                assert_eq!(pseudo.and(&upper).finish(), 0, "its checksum is right");
                seen += 1;
                rest = behind;
            }
            assert_eq!((seen, rest.len()), (datagrams, 0));
        }
    }

    #[test]
    fn what_must_not_be_cut_is_not() {
        let mut kept = datagram(3000);
        kept[20] |= 0x40;
        let mut header: [u8; 20] = kept[14..34].try_into().unwrap();
        header[10..12].copy_from_slice(&[0, 0]);
        let checksum = Sum::of(&header).finish().to_be_bytes();
        kept[24..26].copy_from_slice(&checksum);
        assert!(ipv4_of(&kept).unwrap().checksum_is_valid());
        let mut wrong = datagram(3000);
        wrong[24] ^= 1;
        let mut six = Vec::new();
        PacketBuilder::ethernet2(MACS[0], MACS[1])
            .ipv6([1; 16], [2; 16], 64)
            .udp(1, 2)
            .write(&mut six, &[0; 3000])
            .unwrap();
        for frame in [&kept[..], &wrong, &six, &kept[..20], &[]] {
            assert_eq!(fragment(FrameRef::plain(frame), mtu(1000)), None);
        }
    }

    #[test]
    fn no_fragment_lies_beyond_what_an_offset_can_say() {
        let mut ip = Ipv4Header::new(
            3000,
            64,
            etherparse::ip_number::UDP,
            [10, 0, 0, 1],
            [10, 0, 0, 2],
        )
        .unwrap();
        ip.dont_fragment = false;
        ip.fragment_offset = IpFragOffset::try_new(8190).unwrap();
        let mut frame = [&MACS[1][..], &MACS[0], &[8, 0]].concat();
        ip.write(&mut frame).unwrap();
        frame.extend(vec![0; 3000]);
        assert_eq!(fragment(FrameRef::plain(&frame), mtu(1000)), None);
    }

    proptest! {
        #[test]
        fn cut_twice_is_still_the_packet(len in 0usize..9000, first in 68u32..2000, second in 68u32..2000) {
            let frame = datagram(len);
            let pieces = fragment(FrameRef::plain(&frame), mtu(first)).unwrap();
            let smaller: Vec<Vec<u8>> = pieces
                .iter()
                .flat_map(|piece| fragment(FrameRef::plain(piece), mtu(second)).unwrap())
                .collect();
            for (pieces, limit) in [(pieces, first), (smaller, first.min(second))] {
                let (payload, ended) = put_together(&pieces, mtu(limit));
                prop_assert!(ended);
                prop_assert_eq!(&payload[..], ipv4_of(&frame).unwrap().payload());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), limit in 68u32..200) {
            let _ = fragment(FrameRef::plain(&bytes), mtu(limit));
        }
    }
}
