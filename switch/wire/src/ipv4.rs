//! IPv4 (RFC 791): header with options, lengths and fragmentation. The payload is what the total length says, so
//! Ethernet padding never gets through.

use std::net::Ipv4Addr;

use crate::checksum::Sum;
use crate::error::{Layer, WireError, array_at, be16, head, until};

/// Bytes of a header without options.
pub const IPV4_HEADER_LEN: usize = 20;

pub(crate) mod field {
    pub(crate) const TRAFFIC_CLASS: usize = 1;
    pub(crate) const TOTAL_LENGTH: usize = 2;
    pub(crate) const IDENTIFICATION: usize = 4;
    pub(crate) const FRAGMENT: usize = 6;
    pub(crate) const TTL: usize = 8;
    pub(crate) const PROTOCOL: usize = 9;
    pub(crate) const CHECKSUM: usize = 10;
    pub(crate) const SOURCE: usize = 12;
    pub(crate) const DESTINATION: usize = 16;
}

/// What an IP payload is (IANA protocol numbers; for IPv6 after the extension headers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// ICMP for IPv4.
    pub const ICMP4: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// DCCP.
    pub const DCCP: Self = Self(33);
    /// ICMPv6.
    pub const ICMP6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDP_LITE: Self = Self(136);

    /// Whether the first four bytes are a source and a destination port.
    pub const fn has_ports(self) -> bool {
        matches!(
            self,
            Self::TCP | Self::UDP | Self::DCCP | Self::SCTP | Self::UDP_LITE
        )
    }
}

/// An IPv4 packet whose header is well-formed and whose payload is all there.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// Header and payload, without anything behind the total length.
    bytes: &'a [u8],
    fixed: &'a [u8; IPV4_HEADER_LEN],
    header_len: usize,
}

impl<'a> Ipv4<'a> {
    /// Looks at an Ethernet payload. The header checksum is not verified here, see [`Self::checksum_is_valid`].
    ///
    /// # Errors
    /// [`WireError::Truncated`] if header or payload end too early, [`WireError::Malformed`] for another version, an
    /// IHL below 5 or a total length below the header's.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let fixed = head::<IPV4_HEADER_LEN>(bytes, Layer::Ipv4)?;
        let malformed = |what| WireError::Malformed {
            layer: Layer::Ipv4,
            what,
        };
        let [version_ihl, ..] = *fixed;
        if version_ihl >> 4 != 4 {
            return Err(malformed("version is not 4"));
        }
        let header_len = usize::from(version_ihl & 0x0f) * 4;
        if header_len < IPV4_HEADER_LEN {
            return Err(malformed("header length is below 20"));
        }
        let total_len = usize::from(be16(fixed, field::TOTAL_LENGTH));
        if total_len < header_len {
            return Err(malformed("total length is below the header length"));
        }
        let bytes = until(bytes, total_len, Layer::Ipv4)?;
        Ok(Self {
            bytes,
            fixed,
            header_len,
        })
    }

    /// Bytes of the header with options, 20 ..= 60.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes of header and payload.
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    pub const fn traffic_class(&self) -> u8 {
        self.fixed[field::TRAFFIC_CLASS]
    }

    /// Identification, for reassembly.
    pub const fn identification(&self) -> u16 {
        be16(self.fixed, field::IDENTIFICATION)
    }

    /// DF: routers must not fragment it.
    pub const fn dont_fragment(&self) -> bool {
        be16(self.fixed, field::FRAGMENT) & 0x4000 != 0
    }

    /// MF: further fragments follow.
    pub const fn more_fragments(&self) -> bool {
        be16(self.fixed, field::FRAGMENT) & 0x2000 != 0
    }

    /// Where the payload belongs in the reassembled one, in bytes.
    pub const fn fragment_offset(&self) -> usize {
        (be16(self.fixed, field::FRAGMENT) & 0x1fff) as usize * 8
    }

    /// Part of a larger packet: the payload is no (whole) transport header with data.
    pub const fn is_fragment(&self) -> bool {
        be16(self.fixed, field::FRAGMENT) & 0x3fff != 0
    }

    /// Time to live.
    pub const fn ttl(&self) -> u8 {
        self.fixed[field::TTL]
    }

    /// What the payload is.
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol(self.fixed[field::PROTOCOL])
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4, _>(self.fixed, field::SOURCE))
    }

    /// Whom it is for.
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4, _>(self.fixed, field::DESTINATION))
    }

    /// Header with options.
    pub fn header(&self) -> &'a [u8] {
        self.bytes.get(..self.header_len).unwrap_or_default()
    }

    /// From the header's end to the total length.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    /// Whether the header checksum is right (RFC 1071).
    pub fn checksum_is_valid(&self) -> bool {
        Sum::of(self.header()).finish() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 20, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        packet.extend(payload);
        packet[3] = u8::try_from(packet.len()).unwrap();
        packet
    }

    #[test]
    fn padding_behind_the_total_length_is_no_payload() {
        let mut bytes = packet(&[1, 2, 3]);
        bytes.extend([0; 20]);
        let ip = Ipv4::new(&bytes).unwrap();
        assert_eq!((ip.total_len(), ip.payload()), (23, &[1, 2, 3][..]));
        assert!(ip.dont_fragment() && !ip.is_fragment());
        assert_eq!(
            (ip.identification(), ip.ttl(), ip.protocol()),
            (7, 64, IpProtocol::UDP)
        );
    }

    #[test]
    fn every_field_that_lies_is_refused() {
        let good = packet(&[1, 2, 3]);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Ipv4::new(&bytes).map(|_| ())
        };
        let malformed = |what| {
            Err(WireError::Malformed {
                layer: Layer::Ipv4,
                what,
            })
        };
        assert_eq!(with(0, 0x65), malformed("version is not 4"));
        for ihl in 0..5 {
            assert_eq!(with(0, 0x40 | ihl), malformed("header length is below 20"));
        }
        assert_eq!(
            with(0, 0x4f),
            malformed("total length is below the header length")
        );
        assert_eq!(
            with(3, 19),
            malformed("total length is below the header length")
        );
        assert_eq!(
            with(3, 0),
            malformed("total length is below the header length")
        );
        let (layer, needed, present) = (Layer::Ipv4, 24, 23);
        assert_eq!(
            with(3, 24),
            Err(WireError::Truncated {
                layer,
                needed,
                present
            })
        );
        for len in 0..good.len() {
            assert!(matches!(
                Ipv4::new(&good[..len]),
                Err(WireError::Truncated { .. })
            ));
        }
    }

    #[test]
    fn fragments_are_known_by_offset_or_more() {
        let mut bytes = packet(&[]);
        for (field, fragment) in [
            (0x4000, false),
            (0x2000, true),
            (0x0001, true),
            (0x8000, false),
        ] {
            bytes[6..8].copy_from_slice(&u16::to_be_bytes(field));
            assert_eq!(
                Ipv4::new(&bytes).unwrap().is_fragment(),
                fragment,
                "{field:#06x}"
            );
        }
        bytes[6..8].copy_from_slice(&[0x3f, 0xff]);
        assert_eq!(Ipv4::new(&bytes).unwrap().fragment_offset(), 65_528);
    }

    #[test]
    fn one_flipped_bit_breaks_the_header_checksum() {
        let mut bytes = packet(&[]);
        let checksum = Sum::of(&bytes).finish();
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        assert!(Ipv4::new(&bytes).unwrap().checksum_is_valid());
        bytes[8] ^= 1;
        assert!(!Ipv4::new(&bytes).unwrap().checksum_is_valid());
    }
}
