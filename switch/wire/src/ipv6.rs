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
