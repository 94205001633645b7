//! Congestion marks across a tunnel (RFC 3168, RFC 6040 "normal mode"): the outer packet has the inner one's ECN bits on
//! the way out; a mark that the underlay made is brought in on the way back. Pure.

#![forbid(unsafe_code)]

use weft_wire::{EtherType, EthernetFrame};

/// Congestion experienced.
pub(crate) const CE: u8 = 0b11;
/// The bits of ECN in the traffic class.
const MASK: u8 = 0b11;
/// Where the IPv4 header has its checksum.
const CHECKSUM: usize = 10;

/// A frame whose ends don't know congestion marks came out of a packet that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotCapable;

/// The ECN bits of a frame's packet; 0 if it is no IP.
#[inline]
pub(crate) fn of(frame: &[u8]) -> u8 {
    let Ok(ethernet) = EthernetFrame::new(frame) else {
        return 0;
    };
    match (ethernet.ethertype(), ethernet.payload()) {
        (EtherType::IPV4, [_, class, ..]) => class & MASK,
        (EtherType::IPV6, [_, second, ..]) => (second >> 4) & MASK,
        _ => 0,
    }
}

/// Marks a frame's packet, as the outer one was marked (RFC 6040 section 4.2). What is no IP stays as it is.
///
/// # Errors
/// [`NotCapable`]: it is to be dropped, as the router would have dropped it.
pub(crate) fn mark(frame: &mut [u8]) -> Result<(), NotCapable> {
    let Ok(ethernet) = EthernetFrame::new(frame) else {
        return Ok(());
    };
    let (ethertype, at) = (ethernet.ethertype(), ethernet.payload_offset());
    let packet = &mut frame[at..];
    match ethertype {
        EtherType::IPV4 if packet.len() > CHECKSUM + 1 => {
            let before = packet[1] & MASK;
            if before == 0 {
                return Err(NotCapable);
            }
            packet[1] |= CE;
            let sum = u16::from_be_bytes([packet[CHECKSUM], packet[CHECKSUM + 1]]);
            let sum = less(sum, u16::from(CE - before));
            packet[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
        }
        EtherType::IPV6 if packet.len() > 1 => {
            if (packet[1] >> 4) & MASK == 0 {
                return Err(NotCapable);
            }
            packet[1] |= CE << 4;
        }
        _ => {}
    }
    Ok(())
}

/// The checksum after a word of the header grew by `growth` (RFC 1624 equation 3).
fn less(sum: u16, growth: u16) -> u16 {
    let total = u32::from(!sum) + u32::from(growth);
    let folded = (total & 0xffff) + (total >> 16);
    #[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits")]
    let folded = folded as u16;
    !folded
}

#[cfg(test)]
mod tests {
    use etherparse::{Ethernet2Header, IpNumber, Ipv4Header, Ipv6Header};
    use proptest::prelude::*;

    use super::*;

    fn ipv4(ecn: u8, dscp: u8, ident: u16) -> Vec<u8> {
        let mut header =
            Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        header.ecn = ecn.try_into().unwrap();
        header.dscp = dscp.try_into().unwrap();
        header.identification = ident;
        header.header_checksum = header.calc_header_checksum();
        let mut frame = ethernet(0x0800);
        header.write(&mut frame).unwrap();
        frame
    }

    fn ethernet(ethertype: u16) -> Vec<u8> {
        let header = Ethernet2Header {
            source: [2; 6],
            destination: [4; 6],
            ether_type: ethertype.into(),
        };
        header.to_bytes().to_vec()
    }

    proptest! {
        #[test]
        fn a_mark_comes_in_with_a_right_checksum(ecn in 1_u8..4, dscp in 0_u8..64, ident: u16) {
            let mut frame = ipv4(ecn, dscp, ident);
            prop_assert_eq!(of(&frame), ecn);
            prop_assert_eq!(mark(&mut frame), Ok(()));
            prop_assert_eq!(frame, ipv4(CE, dscp, ident));
        }

        #[test]
        fn no_frame_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..64), ip: bool) {
            if ip && bytes.len() >= 14 {
                bytes[12..14].copy_from_slice(&[8, 0]);
            }
            of(&bytes);
            let _ = mark(&mut bytes);
        }
    }

    #[test]
    fn who_knows_no_marks_gets_none_and_ipv6_has_no_checksum() {
        let mut frame = ipv4(0, 10, 7);
        assert_eq!(mark(&mut frame), Err(NotCapable));
        assert_eq!(frame, ipv4(0, 10, 7));
        let mut header = Ipv6Header {
            traffic_class: 0b1010_1010,
            ..Ipv6Header::default()
        };
        let mut frame = ethernet(0x86dd);
        header.write(&mut frame).unwrap();
        assert_eq!(of(&frame), 0b10);
        mark(&mut frame).unwrap();
        header.traffic_class |= CE;
        let mut marked = ethernet(0x86dd);
        header.write(&mut marked).unwrap();
        assert_eq!(frame, marked);
        assert_eq!(mark(&mut ethernet(0x0806)), Ok(()));
    }
}
