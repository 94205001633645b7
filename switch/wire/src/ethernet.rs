//! Ethernet II and one 802.1Q tag (IEEE 802.3, 802.1Q): the first thing that is read of every frame. Knows nothing of
//! what the payload means. A second tag is not looked through: it is the ethertype of the first one's payload.

use crate::error::{Layer, WireError, array_at, be16, head};
use crate::{MacAddr, VlanId};

/// Bytes of an Ethernet header without tag.
pub const ETHERNET_HEADER_LEN: usize = 14;
/// Bytes of an 802.1Q tag.
pub const VLAN_TAG_LEN: usize = 4;

mod field {
    pub(super) const DESTINATION: usize = 0;
    pub(super) const SOURCE: usize = 6;
    pub(super) const ETHERTYPE: usize = 12;
    /// Of a tag, from its start: the control information follows the TPID.
    pub(super) const TCI: usize = 2;
}

/// What an Ethernet payload is (IEEE 802 numbers). Below 0x0600 it is a length (802.3 with LLC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// An 802.1Q customer tag follows.
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// An 802.1ad service tag follows.
    pub const SERVICE_VLAN: Self = Self(0x88a8);

    /// Whether this announces a tag.
    pub const fn is_tag(self) -> bool {
        self.0 == Self::VLAN.0 || self.0 == Self::SERVICE_VLAN.0
    }
}

/// Tag control information: priority, drop eligibility and VLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tci(pub u16);

impl Tci {
    /// The VLAN, [`VlanId::UNTAGGED`] for a priority tag; `None` for the reserved 4095.
    pub const fn id(self) -> Option<VlanId> {
        VlanId::from_tci(self.0)
    }

    /// Priority code point, 0 ..= 7.
    pub const fn priority(self) -> u8 {
        (self.0 >> 13) as u8
    }

    /// Drop eligible indicator.
    pub const fn drop_eligible(self) -> bool {
        self.0 & 0x1000 != 0
    }
}

/// A frame whose Ethernet header, with at most one tag, is known to be there.
#[derive(Clone, Copy, Debug)]
pub struct EthernetFrame<'a> {
    bytes: &'a [u8],
    header: &'a [u8; ETHERNET_HEADER_LEN],
    tag: Option<Tci>,
    ethertype: EtherType,
    payload_offset: usize,
}

impl<'a> EthernetFrame<'a> {
    /// Looks at a frame without FCS.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if the header or the tag it announces does not fit.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header = head::<ETHERNET_HEADER_LEN>(bytes, Layer::Ethernet)?;
        let outer = EtherType(be16(header, field::ETHERTYPE));
        if !outer.is_tag() {
            let payload_offset = ETHERNET_HEADER_LEN;
            return Ok(Self {
                bytes,
                header,
                tag: None,
                ethertype: outer,
                payload_offset,
            });
        }
        let payload_offset = ETHERNET_HEADER_LEN + VLAN_TAG_LEN;
        let tagged = head::<{ ETHERNET_HEADER_LEN + VLAN_TAG_LEN }>(bytes, Layer::Ethernet)?;
        let tag = Some(Tci(be16(tagged, field::ETHERTYPE + field::TCI)));
        let ethertype = EtherType(be16(tagged, field::ETHERTYPE + VLAN_TAG_LEN));
        Ok(Self {
            bytes,
            header,
            tag,
            ethertype,
            payload_offset,
        })
    }

    /// Whom it is for.
    pub fn destination(&self) -> MacAddr {
        MacAddr(array_at(self.header, field::DESTINATION))
    }

    /// Who sent it.
    pub fn source(&self) -> MacAddr {
        MacAddr(array_at(self.header, field::SOURCE))
    }

    /// The tag's control information if the frame is tagged (0x8100 or 0x88a8).
    pub const fn vlan(&self) -> Option<Tci> {
        self.tag
    }

    /// What the payload is, after the tag.
    pub const fn ethertype(&self) -> EtherType {
        self.ethertype
    }

    /// Everything after header and tag, with padding if the sender padded.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.payload_offset..).unwrap_or_default()
    }

    /// Where the payload starts: 14, or 18 with a tag.
    pub const fn payload_offset(&self) -> usize {
        self.payload_offset
    }

    /// The whole frame.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// An untagged Ethernet header.
pub fn ethernet_header(
    destination: MacAddr,
    source: MacAddr,
    ethertype: EtherType,
) -> [u8; ETHERNET_HEADER_LEN] {
    let mut header = [0; ETHERNET_HEADER_LEN];
    header[field::DESTINATION..field::SOURCE].copy_from_slice(&destination.octets());
    header[field::SOURCE..field::ETHERTYPE].copy_from_slice(&source.octets());
    header[field::ETHERTYPE..].copy_from_slice(&ethertype.0.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(rest: &[u8]) -> Vec<u8> {
        [&[0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2][..], rest].concat()
    }

    #[test]
    fn an_untagged_frame_shows_addresses_and_payload() {
        let bytes = frame(&[0x08, 0x00, 0xaa]);
        let frame = EthernetFrame::new(&bytes).unwrap();
        assert_eq!(frame.destination(), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(frame.source(), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!((frame.vlan(), frame.ethertype()), (None, EtherType::IPV4));
        assert_eq!((frame.payload_offset(), frame.payload()), (14, &[0xaa][..]));
        assert_eq!(
            ethernet_header(frame.destination(), frame.source(), EtherType::IPV4),
            bytes[..14]
        );
    }

    #[test]
    fn both_kinds_of_tag_are_taken_off_once() {
        for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
            let bytes = frame(&[
                tpid[0], tpid[1], 0xb0, 0x64, 0x81, 0x00, 0x00, 0x05, 0x86, 0xdd,
            ]);
            let frame = EthernetFrame::new(&bytes).unwrap();
            let tci = frame.vlan().unwrap();
            assert_eq!(tci.id().map(VlanId::value), Some(100));
            assert_eq!((tci.priority(), tci.drop_eligible()), (5, true));
            assert_eq!(
                (frame.ethertype(), frame.payload_offset()),
                (EtherType::VLAN, 18)
            );
        }
    }

    #[test]
    fn the_reserved_vlan_is_no_vlan() {
        assert_eq!(Tci(0x0fff).id(), None);
        assert_eq!(Tci(0xe000).id(), Some(VlanId::UNTAGGED));
    }

    #[test]
    fn a_runt_and_a_tag_at_the_very_end_are_truncated() {
        let truncated = |needed, present| WireError::Truncated {
            layer: Layer::Ethernet,
            needed,
            present,
        };
        assert_eq!(EthernetFrame::new(&[]).unwrap_err(), truncated(14, 0));
        assert_eq!(EthernetFrame::new(&[0; 13]).unwrap_err(), truncated(14, 13));
        assert!(EthernetFrame::new(&[0; 14]).is_ok());
        let tagged = frame(&[0x81, 0x00, 0, 1, 0x08]);
        assert_eq!(
            EthernetFrame::new(&tagged[..14]).unwrap_err(),
            truncated(18, 14)
        );
        assert_eq!(EthernetFrame::new(&tagged).unwrap_err(), truncated(18, 17));
    }
}
