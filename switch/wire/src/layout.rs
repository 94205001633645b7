//! Where the headers of a frame are: the one walk from Ethernet to transport that offload, segmentation and flow
//! hashing share. Knows offsets only; what to do about a frame that has no such layout is for its users.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::checksum::{Sum, pseudo_header_v4, pseudo_header_v6};
use crate::error::{Layer, WireError, be16, head};
use crate::ethernet::{EtherType, EthernetFrame, VLAN_TAG_LEN};
use crate::ipv4::{IpProtocol, Ipv4};
use crate::ipv6::Ipv6;

/// Tags looked through behind the first: a container may stack VLAN devices, and its kernel leaves checksums unfinished
/// below them too.
const MAX_INNER_TAGS: usize = 2;

/// Addresses of the network layer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Addresses {
    V4 {
        source: Ipv4Addr,
        destination: Ipv4Addr,
    },
    V6 {
        source: Ipv6Addr,
        destination: Ipv6Addr,
    },
}

/// Offsets from the start of the frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) addresses: Addresses,
    /// First byte of the IP header.
    pub(crate) network: usize,
    /// First byte after IP header, options and extension headers.
    pub(crate) transport: usize,
    /// End of the IP packet; Ethernet padding may follow.
    pub(crate) end: usize,
    pub(crate) protocol: IpProtocol,
    /// Part of a larger packet: no transport header to rely on.
    pub(crate) fragment: bool,
    /// See [`crate::ipv6::UpperLayer::in_transit`].
    pub(crate) in_transit: bool,
}

impl Layout {
    /// `None` if the frame carries no IP (behind at most three tags).
    #[inline]
    pub(crate) fn of(bytes: &[u8]) -> Result<Option<Self>, WireError> {
        let ethernet = EthernetFrame::new(bytes)?;
        let (mut ethertype, mut network) = (ethernet.ethertype(), ethernet.payload_offset());
        for _ in 0..MAX_INNER_TAGS {
            if !ethertype.is_tag() {
                break;
            }
            let tag =
                head::<VLAN_TAG_LEN>(bytes.get(network..).unwrap_or_default(), Layer::Ethernet)?;
            ethertype = EtherType(be16(tag, 2));
            network += VLAN_TAG_LEN;
        }
        let packet = bytes.get(network..).unwrap_or_default();
        match ethertype {
            EtherType::IPV4 => {
                let ip = Ipv4::new(packet)?;
                Ok(Some(Self {
                    addresses: Addresses::V4 {
                        source: ip.source(),
                        destination: ip.destination(),
                    },
                    network,
                    transport: network + ip.header_len(),
                    end: network + ip.total_len(),
                    protocol: ip.protocol(),
                    fragment: ip.is_fragment(),
                    in_transit: false,
                }))
            }
            EtherType::IPV6 => {
                let ip = Ipv6::new(packet)?;
                let upper = ip.upper_layer()?;
                Ok(Some(Self {
                    addresses: Addresses::V6 {
                        source: ip.source(),
                        destination: ip.destination(),
                    },
                    network,
                    transport: network + upper.offset,
                    end: network + ip.total_len(),
                    protocol: upper.protocol,
                    fragment: upper.fragment.is_some_and(|fragment| !fragment.is_atomic()),
                    in_transit: upper.in_transit,
                }))
            }
            _ => Ok(None),
        }
    }

    /// The pseudo header for a transport header with data of `len` bytes.
    #[inline]
    pub(crate) fn pseudo_header(&self, len: u16) -> Sum {
        match self.addresses {
            Addresses::V4 {
                source,
                destination,
            } => pseudo_header_v4(source, destination, self.protocol, len),
            Addresses::V6 {
                source,
                destination,
            } => pseudo_header_v6(source, destination, self.protocol, u32::from(len)),
        }
    }
}
