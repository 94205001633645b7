//! IPv6 (RFC 8200): the fixed header and the walk over extension headers, which is total and bounded whatever the
//! chain claims.

use std::net::Ipv6Addr;

use crate::error::{Layer, WireError, array_at, be16, be32, head, until};
use crate::ipv4::IpProtocol;

/// Bytes of the fixed header.
pub const IPV6_HEADER_LEN: usize = 40;
/// Longest chain of extension headers that is walked. RFC 8200 knows six kinds; more is an attack on the walker.
pub const MAX_EXTENSION_HEADERS: usize = 8;

pub(crate) mod field {
    pub(crate) const VERSION_CLASS_FLOW: usize = 0;
    pub(crate) const PAYLOAD_LENGTH: usize = 4;
    pub(crate) const NEXT_HEADER: usize = 6;
    pub(crate) const HOP_LIMIT: usize = 7;
    pub(crate) const SOURCE: usize = 8;
    pub(crate) const DESTINATION: usize = 24;
}

mod next_header {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION_OPTIONS: u8 = 60;
}

/// A fragment header (RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentInfo {
    /// Identification, for reassembly.
    pub identification: u32,
    /// Where the fragment belongs in the reassembled payload, in bytes.
    pub offset: usize,
    /// Further fragments follow.
    pub more: bool,
}

impl FragmentInfo {
    /// An "atomic fragment" (RFC 6946) is a whole packet with a fragment header.
    pub const fn is_atomic(&self) -> bool {
        self.offset == 0 && !self.more
    }
}

/// What the extension headers lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// What is there.
    pub protocol: IpProtocol,
    /// Where it starts, from the start of the IPv6 header; 40 without extension headers. May be the packet's end.
    pub offset: usize,
    /// Part of a larger packet. If its offset is not 0, no header of `protocol` is to be found at `offset`.
    pub fragment: Option<FragmentInfo>,
    /// A routing header with segments left: the header's destination is not the final one that checksums cover.
    pub in_transit: bool,
}

/// An IPv6 packet whose payload is all there.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    /// Header and payload, without anything behind the payload length.
    bytes: &'a [u8],
    fixed: &'a [u8; IPV6_HEADER_LEN],
}

impl<'a> Ipv6<'a> {
    /// Looks at an Ethernet payload. A jumbogram (RFC 2675) appears as a packet with an empty payload.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if header or payload end too early, [`WireError::Malformed`] for another version.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let fixed = head::<IPV6_HEADER_LEN>(bytes, Layer::Ipv6)?;
        if fixed[field::VERSION_CLASS_FLOW] >> 4 != 6 {
            return Err(WireError::Malformed {
                layer: Layer::Ipv6,
                what: "version is not 6",
            });
        }
        let end = IPV6_HEADER_LEN + usize::from(be16(fixed, field::PAYLOAD_LENGTH));
        Ok(Self {
            bytes: until(bytes, end, Layer::Ipv6)?,
            fixed,
        })
    }

    /// Bytes of header and payload.
    pub const fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    pub const fn traffic_class(&self) -> u8 {
        (self.fixed[field::VERSION_CLASS_FLOW] << 4)
            | (self.fixed[field::VERSION_CLASS_FLOW + 1] >> 4)
    }

    /// Flow label, 20 bits.
    pub const fn flow_label(&self) -> u32 {
        be32(self.fixed, field::VERSION_CLASS_FLOW) & 0x000f_ffff
    }

    /// What follows the fixed header: an extension header or the upper layer.
    pub const fn next_header(&self) -> u8 {
        self.fixed[field::NEXT_HEADER]
    }

    /// Hop limit.
    pub const fn hop_limit(&self) -> u8 {
        self.fixed[field::HOP_LIMIT]
    }

    /// Who sent it.
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(array_at::<16, _>(self.fixed, field::SOURCE))
    }

    /// Whom it is for, or the next stop with a routing header.
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(array_at::<16, _>(self.fixed, field::DESTINATION))
    }

    /// Everything after the fixed header, extension headers included.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(IPV6_HEADER_LEN..).unwrap_or_default()
    }

    /// The payload of the upper layer.
    pub fn upper_payload(&self, upper: &UpperLayer) -> &'a [u8] {
        self.bytes.get(upper.offset..).unwrap_or_default()
    }

    /// Walks the extension headers. ESP (encrypted) and anything unknown end the walk as upper layers.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if the chain leaves the packet, [`WireError::Malformed`] if it is longer than
    /// [`MAX_EXTENSION_HEADERS`].
    pub fn upper_layer(&self) -> Result<UpperLayer, WireError> {
        let mut upper = UpperLayer {
            protocol: IpProtocol(self.next_header()),
            offset: IPV6_HEADER_LEN,
            fragment: None,
            in_transit: false,
        };
        for _ in 0..=MAX_EXTENSION_HEADERS {
            if !self.step(&mut upper)? {
                return Ok(upper);
            }
        }
        let what = "chain is longer than 8";
        Err(WireError::Malformed {
            layer: Layer::Ipv6Extension,
            what,
        })
    }

    /// Passes one extension header; false if there is none to pass.
    fn step(&self, upper: &mut UpperLayer) -> Result<bool, WireError> {
        let rest = self.upper_payload(upper);
        let header = || head::<8>(rest, Layer::Ipv6Extension);
        let len = match upper.protocol.0 {
            next_header::HOP_BY_HOP | next_header::DESTINATION_OPTIONS => {
                (usize::from(header()?[1]) + 1) * 8
            }
            next_header::ROUTING => {
                upper.in_transit |= header()?[3] != 0;
                (usize::from(header()?[1]) + 1) * 8
            }
            // RFC 4302 section 2.2: in 4-byte words, minus 2.
            next_header::AUTHENTICATION => (usize::from(header()?[1]) + 2) * 4,
            next_header::FRAGMENT => {
                let info = fragment_info(header()?);
                upper.fragment = Some(info);
                if info.offset != 0 {
                    upper.protocol = IpProtocol(header()?[0]);
                    upper.offset += 8;
                    return Ok(false);
                }
                8
            }
            _ => return Ok(false),
        };
        until(rest, len, Layer::Ipv6Extension)?;
        upper.protocol = IpProtocol(header()?[0]);
        upper.offset += len;
        Ok(true)
    }
}

fn fragment_info(header: &[u8; 8]) -> FragmentInfo {
    let field = be16(header, 2);
    FragmentInfo {
        identification: be32(header, 4),
        offset: usize::from(field & 0xfff8),
        more: field & 1 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet whose payload starts with a header of kind `next`.
    fn packet(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x6a, 0xb1, 0x23, 0x45, 0, 0, next, 64];
        bytes.extend(Ipv6Addr::LOCALHOST.octets());
        bytes.extend(Ipv6Addr::UNSPECIFIED.octets());
        bytes.extend(payload);
        let len = u16::try_from(payload.len()).unwrap();
        bytes[4..6].copy_from_slice(&len.to_be_bytes());
        bytes
    }

    fn upper(next: u8, payload: &[u8]) -> Result<UpperLayer, WireError> {
        Ipv6::new(&packet(next, payload)).unwrap().upper_layer()
    }

    #[test]
    fn the_fixed_header_is_read() {
        let mut bytes = packet(6, &[1, 2]);
        bytes.push(0);
        let ip = Ipv6::new(&bytes).unwrap();
        assert_eq!((ip.traffic_class(), ip.flow_label()), (0xab, 0x1_2345));
        assert_eq!(
            (ip.next_header(), ip.hop_limit(), ip.total_len()),
            (6, 64, 42)
        );
        assert_eq!(
            (ip.source(), ip.payload()),
            (Ipv6Addr::LOCALHOST, &[1, 2][..])
        );
        assert_eq!(ip.upper_layer().unwrap().offset, 40);
    }

    #[test]
    fn short_and_foreign_packets_are_refused() {
        let bytes = packet(6, &[1, 2]);
        for len in 0..bytes.len() {
            assert!(matches!(
                Ipv6::new(&bytes[..len]),
                Err(WireError::Truncated { .. })
            ));
        }
        let mut other = bytes;
        other[0] = 0x45;
        assert!(matches!(
            Ipv6::new(&other),
            Err(WireError::Malformed { .. })
        ));
    }

    #[test]
    fn every_kind_of_extension_header_is_passed_by_its_own_length() {
        let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop
        chain.extend([43, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options
        chain.extend([51, 0, 4, 0, 0, 0, 0, 0]); // routing, no segments left
        chain.extend([44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // authentication, 3 words
        chain.extend([17, 0, 0, 0, 0, 0, 0, 9]); // atomic fragment
        let upper = upper(0, &chain).unwrap();
        assert_eq!(
            (upper.protocol, upper.offset),
            (IpProtocol::UDP, 40 + chain.len())
        );
        assert!(
            upper
                .fragment
                .is_some_and(|f| f.is_atomic() && f.identification == 9)
        );
        assert!(!upper.in_transit);
    }

    #[test]
    fn segments_left_mean_that_the_destination_is_not_final() {
        assert!(upper(43, &[6, 0, 4, 1, 0, 0, 0, 0]).unwrap().in_transit);
    }

    #[test]
    fn nothing_is_read_behind_a_fragment_header_that_is_not_the_first() {
        let later = upper(44, &[0, 0, 0x01, 0x01, 0, 0, 0, 9]).unwrap();
        assert_eq!((later.protocol, later.offset), (IpProtocol(0), 48));
        let (identification, offset, more) = (9, 256, true);
        assert_eq!(
            later.fragment,
            Some(FragmentInfo {
                identification,
                offset,
                more
            })
        );
    }

    #[test]
    fn an_endless_chain_and_a_chain_beyond_the_end_are_refused() {
        let endless = [0u8, 0, 0, 0, 0, 0, 0, 0].repeat(5000);
        let error = upper(0, &endless).unwrap_err();
        assert!(matches!(
            error,
            WireError::Malformed {
                layer: Layer::Ipv6Extension,
                ..
            }
        ));
        let mut longest = [60u8, 0, 0, 0, 0, 0, 0, 0].repeat(MAX_EXTENSION_HEADERS);
        let last = longest.len() - 8;
        longest[last] = 6;
        assert_eq!(upper(60, &longest).unwrap().protocol, IpProtocol::TCP);
        for next in [0, 43, 44, 51, 60] {
            assert!(
                matches!(upper(next, &[]), Err(WireError::Truncated { .. })),
                "{next}"
            );
        }
        assert!(matches!(
            upper(0, &[6, 1, 0, 0, 0, 0, 0, 0]),
            Err(WireError::Truncated { .. })
        ));
    }
}
