//! What a router changes in a frame that it passes on: the addresses of the link and the time to live (RFC 1812 section
//! 5.3.1, RFC 8200 section 3), with the IPv4 header's checksum. Nothing that transport checksums or offload speak of.

use crate::checksum::Sum;
use crate::ethernet::{EtherType, EthernetFrame};
use crate::ipv4::{self, IPV4_HEADER_LEN};
use crate::ipv6::{self, IPV6_HEADER_LEN};
use crate::mac::MacAddr;

/// Bytes of both MACs.
const MACS: usize = 12;

/// What a frame becomes on the next link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// The router's MAC there.
    pub source: MacAddr,
    /// The next hop's MAC.
    pub destination: MacAddr,
}

impl Rewrite {
    /// Changes a frame, or a superframe, in place. False, and nothing changed, if it carries no IP packet or one that may
    /// live no longer. A wrong header checksum stays wrong.
    #[inline]
    pub fn apply(&self, frame: &mut [u8]) -> bool {
        let Ok(ethernet) = EthernetFrame::new(frame) else {
            return false;
        };
        let (ethertype, at) = (ethernet.ethertype(), ethernet.payload_offset());
        let Some(packet) = frame.get_mut(at..) else {
            return false;
        };
        let passed = match ethertype {
            EtherType::IPV4 => pass_v4(packet),
            EtherType::IPV6 => pass_v6(packet),
            _ => None,
        };
        if passed.is_none() {
            return false;
        }
        self.readdress(frame);
        true
    }

    /// Writes both MACs into a frame, and nothing else.
    #[inline]
    pub fn readdress(&self, frame: &mut [u8]) {
        let macs = [self.destination, self.source].map(MacAddr::octets);
        if let Some(place) = frame.get_mut(..MACS) {
            place.copy_from_slice(macs.as_flattened());
        }
    }
}

/// A hop less to live; `None` if there is none left.
fn one_less(time: u8) -> Option<u8> {
    (time > 1).then(|| time - 1)
}

#[inline]
fn pass_v4(packet: &mut [u8]) -> Option<()> {
    let header = packet.first_chunk_mut::<IPV4_HEADER_LEN>()?;
    let word = |header: &[u8; IPV4_HEADER_LEN]| {
        u16::from_be_bytes([header[ipv4::field::TTL], header[ipv4::field::PROTOCOL]])
    };
    let before = word(header);
    header[ipv4::field::TTL] = one_less(header[ipv4::field::TTL])?;
    let sum: &mut [u8; 2] = header[ipv4::field::CHECKSUM..].first_chunk_mut()?;
    // RFC 1624, equation 3.
    let changed = Sum::ZERO
        .and_u16(!u16::from_be_bytes(*sum))
        .less_u16(before)
        .and_u16(before - 0x0100)
        .finish();
    *sum = changed.to_be_bytes();
    Some(())
}

#[inline]
fn pass_v6(packet: &mut [u8]) -> Option<()> {
    let header = packet.first_chunk_mut::<IPV6_HEADER_LEN>()?;
    header[ipv6::field::HOP_LIMIT] = one_less(header[ipv6::field::HOP_LIMIT])?;
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::ipv4::Ipv4;
    use crate::ipv6::Ipv6;

    const REWRITE: Rewrite = Rewrite {
        source: MacAddr([2, 0, 0, 0, 0, 0xfe]),
        destination: MacAddr([2, 0, 0, 0, 0, 9]),
    };

    fn packet(v6: bool, time: u8, ends: [u8; 2]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let packet = match v6 {
            true => link.ipv6([ends[0]; 16], [ends[1]; 16], time),
            false => link.ipv4([10, 0, 0, ends[0]], [10, 1, 0, ends[1]], time),
        };
        let mut frame = Vec::new();
        packet.tcp(1, 2, 3, 4).write(&mut frame, &[7; 99]).unwrap();
        frame
    }

    proptest! {
        #[test]
        fn a_right_header_stays_right_and_the_rest_as_it_was(
            v6: bool, time in 2u8.., ends: [u8; 2],
        ) {
            let before = packet(v6, time, ends);
            let mut after = before.clone();
            prop_assert!(REWRITE.apply(&mut after));
            prop_assert_eq!(&after[..6], &REWRITE.destination.octets());
            prop_assert_eq!(&after[6..12], &REWRITE.source.octets());
            let (changed, header) = if v6 {
                prop_assert_eq!(Ipv6::new(&after[14..]).unwrap().hop_limit(), time - 1);
                (21..22, 54)
            } else {
                let ip = Ipv4::new(&after[14..]).unwrap();
                prop_assert_eq!(ip.ttl(), time - 1);
                prop_assert!(ip.checksum_is_valid());
                (22..26, 34)
            };
            for at in 12..header {
                prop_assert!(changed.contains(&at) || before[at] == after[at], "byte {}", at);
            }
            prop_assert_eq!(&before[header..], &after[header..]);
        }

        #[test]
        fn a_wrong_header_stays_wrong(time in 2u8.., bit in 0usize..16) {
            let mut frame = packet(false, time, [1, 2]);
            frame[24 + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(REWRITE.apply(&mut frame));
            prop_assert!(!Ipv4::new(&frame[14..]).unwrap().checksum_is_valid());
        }
    }

    #[test]
    fn what_has_lived_long_enough_and_what_is_short_is_left_as_it_is() {
        for v6 in [false, true] {
            for time in [0, 1] {
                let frame = packet(v6, time, [1, 2]);
                let mut same = frame.clone();
                assert!(!REWRITE.apply(&mut same));
                assert_eq!(frame, same);
            }
            let whole = packet(v6, 64, [1, 2]);
            for len in 0..if v6 { 54 } else { 34 } {
                let mut short = whole[..len].to_vec();
                assert!(!REWRITE.apply(&mut short), "{len} bytes");
                assert_eq!(short, whole[..len]);
            }
        }
        let mut arp = packet(false, 64, [1, 2]);
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(!REWRITE.apply(&mut arp));
    }
}
