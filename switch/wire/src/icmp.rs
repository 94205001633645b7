//! ICMP (RFC 792), ICMPv6 (RFC 4443) and the part of neighbor discovery that resolves addresses (RFC 4861 sections
//! 4.3, 4.4): read by spoof check and neighbour answering, built by the latter. Router discovery is not read here.

use std::net::Ipv6Addr;

use crate::MacAddr;
use crate::checksum::pseudo_header_v6;
use crate::error::{Layer, WireError, array_at, be16, head};
use crate::ethernet::{ETHERNET_HEADER_LEN, EtherType, ethernet_header};
use crate::ipv4::IpProtocol;
use crate::ipv6::{self, IPV6_HEADER_LEN};

/// Bytes that every ICMP and ICMPv6 message starts with: type, code, checksum, four of the message's own.
pub const ICMP_HEADER_LEN: usize = 8;
/// Bytes of a neighbor message with one link-layer address option.
pub const NEIGHBOR_LEN: usize = NEIGHBOR_LEN_U8 as usize;
/// Bytes of an Ethernet frame with such a message.
pub const NEIGHBOR_FRAME_LEN: usize = ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + NEIGHBOR_LEN;
/// Hop limit that proves a neighbor message was not routed (RFC 4861 section 7.1).
pub const NEIGHBOR_HOP_LIMIT: u8 = 255;

const NEIGHBOR_LEN_U8: u8 = 32;
const NEIGHBOR_FIXED_LEN: usize = 24;
const OPTION_LEN: usize = 8;

pub(crate) mod field {
    pub(super) const TYPE: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(crate) const CHECKSUM: usize = 2;
    pub(super) const FLAGS: usize = 4;
    pub(super) const TARGET: usize = 8;
    pub(super) const OPTIONS: usize = 24;
}

mod option {
    pub(super) const SOURCE_LINK_ADDRESS: u8 = 1;
    pub(super) const TARGET_LINK_ADDRESS: u8 = 2;
}

const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// An ICMP message for IPv4.
#[derive(Clone, Copy, Debug)]
pub struct Icmp4<'a> {
    bytes: &'a [u8],
    header: &'a [u8; ICMP_HEADER_LEN],
}

impl<'a> Icmp4<'a> {
    /// Looks at an IPv4 payload (no fragment). The checksum is not verified.
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 8 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        Ok(Self {
            bytes,
            header: head(bytes, Layer::Icmp4)?,
        })
    }

    /// Message type, 8 = echo request, 0 = echo reply, 3 = unreachable.
    pub const fn message_type(&self) -> u8 {
        self.header[field::TYPE]
    }

    /// Code within the type.
    pub const fn code(&self) -> u8 {
        self.header[field::CODE]
    }

    /// The checksum field.
    pub const fn checksum(&self) -> u16 {
        be16(self.header, field::CHECKSUM)
    }

    /// Everything after the first eight bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(ICMP_HEADER_LEN..).unwrap_or_default()
    }
}

/// An ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp6<'a> {
    bytes: &'a [u8],
    header: &'a [u8; ICMP_HEADER_LEN],
}

impl<'a> Icmp6<'a> {
    /// Looks at the upper layer of an IPv6 packet (no fragment). The checksum is not verified, see
    /// [`Self::checksum_is_valid`].
    ///
    /// # Errors
    /// [`WireError::Truncated`] below 8 bytes.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        Ok(Self {
            bytes,
            header: head(bytes, Layer::Icmp6)?,
        })
    }

    /// Message type, 128 = echo request, 135 = neighbor solicitation, 2 = packet too big.
    pub const fn message_type(&self) -> u8 {
        self.header[field::TYPE]
    }

    /// Code within the type.
    pub const fn code(&self) -> u8 {
        self.header[field::CODE]
    }

    /// The checksum field.
    pub const fn checksum(&self) -> u16 {
        be16(self.header, field::CHECKSUM)
    }

    /// Everything after the first eight bytes.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(ICMP_HEADER_LEN..).unwrap_or_default()
    }

    /// Whether the checksum is right between these addresses.
    pub fn checksum_is_valid(&self, source: Ipv6Addr, destination: Ipv6Addr) -> bool {
        let Ok(len) = u32::try_from(self.bytes.len()) else {
            return false;
        };
        let pseudo = pseudo_header_v6(source, destination, IpProtocol::ICMP6, len);
        pseudo.and(self.bytes).finish() == 0
    }

    /// The neighbor solicitation or advertisement, if it is one.
    ///
    /// # Errors
    /// [`WireError`] if the type says so but the message is not well-formed (RFC 4861 sections 7.1.1, 7.1.2).
    pub fn neighbor(&self) -> Result<Option<NeighborMessage>, WireError> {
        let advertisement = match self.message_type() {
            NEIGHBOR_SOLICITATION => false,
            NEIGHBOR_ADVERTISEMENT => true,
            _ => return Ok(None),
        };
        let malformed = |what| WireError::Malformed {
            layer: Layer::Neighbor,
            what,
        };
        let fixed = head::<NEIGHBOR_FIXED_LEN>(self.bytes, Layer::Neighbor)?;
        let target = Ipv6Addr::from(array_at::<16, _>(fixed, field::TARGET));
        if self.code() != 0 {
            return Err(malformed("code is not 0"));
        }
        if target.is_multicast() {
            return Err(malformed("target is a multicast address"));
        }
        let links = link_addresses(self.bytes.get(field::OPTIONS..).unwrap_or_default())?;
        let kind = if advertisement {
            NeighborKind::Advertisement(AdvertisementFlags(fixed[field::FLAGS] & 0xe0))
        } else {
            NeighborKind::Solicitation
        };
        Ok(Some(NeighborMessage {
            kind,
            target,
            source_link: links.0,
            target_link: links.1,
        }))
    }
}

/// The source and target link-layer addresses among the options; unknown options are skipped.
fn link_addresses(mut options: &[u8]) -> Result<(Option<MacAddr>, Option<MacAddr>), WireError> {
    let (mut source, mut target) = (None, None);
    while !options.is_empty() {
        let header = head::<OPTION_LEN>(options, Layer::Neighbor)?;
        let len = usize::from(header[1]) * OPTION_LEN;
        let Some((this, rest)) = options.split_at_checked(len).filter(|_| len > 0) else {
            let what = "option length is 0 or beyond the end";
            return Err(WireError::Malformed {
                layer: Layer::Neighbor,
                what,
            });
        };
        match this {
            [option::SOURCE_LINK_ADDRESS, _, address @ ..] if len == OPTION_LEN => {
                source = MacAddr::from_slice(address);
            }
            [option::TARGET_LINK_ADDRESS, _, address @ ..] if len == OPTION_LEN => {
                target = MacAddr::from_slice(address);
            }
            _ => {}
        }
        options = rest;
    }
    Ok((source, target))
}

/// The flags of an advertisement, as the high bits of their byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdvertisementFlags(u8);

impl AdvertisementFlags {
    /// None.
    pub const NONE: Self = Self(0);
    /// R: the sender is a router.
    pub const ROUTER: Self = Self(0x80);
    /// S: answers a solicitation.
    pub const SOLICITED: Self = Self(0x40);
    /// O: replaces what the receiver has cached.
    pub const OVERRIDE: Self = Self(0x20);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These flags and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }
}

/// Question or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighborKind {
    /// Who has the target address?
    Solicitation,
    /// The target link-layer address has the target address.
    Advertisement(AdvertisementFlags),
}

/// The meaning of a neighbor solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborMessage {
    /// Question or answer.
    pub kind: NeighborKind,
    /// The address asked for or spoken of; never multicast in a message that was read.
    pub target: Ipv6Addr,
    /// Source link-layer address option (solicitations).
    pub source_link: Option<MacAddr>,
    /// Target link-layer address option (advertisements).
    pub target_link: Option<MacAddr>,
}

/// Both ends of a neighbor message, for building a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighborEnds {
    /// Ethernet source.
    pub source_mac: MacAddr,
    /// Ethernet destination.
    pub destination_mac: MacAddr,
    /// IPv6 source.
    pub source: Ipv6Addr,
    /// IPv6 destination.
    pub destination: Ipv6Addr,
}

impl NeighborMessage {
    /// The question who has `target`, asked by the owner of `link`.
    pub const fn solicitation(target: Ipv6Addr, link: MacAddr) -> Self {
        let kind = NeighborKind::Solicitation;
        Self {
            kind,
            target,
            source_link: Some(link),
            target_link: None,
        }
    }

    /// The statement that `link` has `target`.
    pub const fn advertisement(target: Ipv6Addr, link: MacAddr, flags: AdvertisementFlags) -> Self {
        let kind = NeighborKind::Advertisement(flags);
        Self {
            kind,
            target,
            source_link: None,
            target_link: Some(link),
        }
    }

    /// The whole frame with checksum. Carries the one option that belongs to the kind (source link-layer address in a
    /// solicitation, target link-layer address in an advertisement), which is the Ethernet source unless the message
    /// names another.
    pub fn to_frame(&self, ends: &NeighborEnds) -> [u8; NEIGHBOR_FRAME_LEN] {
        let mut frame = [0; NEIGHBOR_FRAME_LEN];
        let (ethernet, packet) = frame.split_at_mut(ETHERNET_HEADER_LEN);
        ethernet.copy_from_slice(&ethernet_header(
            ends.destination_mac,
            ends.source_mac,
            EtherType::IPV6,
        ));
        let (header, message) = packet.split_at_mut(IPV6_HEADER_LEN);
        header[ipv6::field::VERSION_CLASS_FLOW] = 0x60;
        header[ipv6::field::PAYLOAD_LENGTH + 1] = NEIGHBOR_LEN_U8;
        header[ipv6::field::NEXT_HEADER] = IpProtocol::ICMP6.0;
        header[ipv6::field::HOP_LIMIT] = NEIGHBOR_HOP_LIMIT;
        header[ipv6::field::SOURCE..ipv6::field::DESTINATION]
            .copy_from_slice(&ends.source.octets());
        header[ipv6::field::DESTINATION..].copy_from_slice(&ends.destination.octets());
        message.copy_from_slice(&self.to_bytes(ends));
        frame
    }

    fn to_bytes(self, ends: &NeighborEnds) -> [u8; NEIGHBOR_LEN] {
        let mut message = [0; NEIGHBOR_LEN];
        let (kind, flags, option, link) = match self.kind {
            NeighborKind::Solicitation => (
                NEIGHBOR_SOLICITATION,
                0,
                option::SOURCE_LINK_ADDRESS,
                self.source_link,
            ),
            NeighborKind::Advertisement(flags) => (
                NEIGHBOR_ADVERTISEMENT,
                flags.0,
                option::TARGET_LINK_ADDRESS,
                self.target_link,
            ),
        };
        message[field::TYPE] = kind;
        message[field::FLAGS] = flags;
        message[field::TARGET..field::OPTIONS].copy_from_slice(&self.target.octets());
        message[field::OPTIONS] = option;
        message[field::OPTIONS + 1] = 1;
        let link = link.unwrap_or(ends.source_mac).octets();
        message[field::OPTIONS + 2..].copy_from_slice(&link);
        let pseudo = pseudo_header_v6(
            ends.source,
            ends.destination,
            IpProtocol::ICMP6,
            u32::from(NEIGHBOR_LEN_U8),
        );
        let checksum = pseudo.and(&message).finish();
        message[field::CHECKSUM..field::FLAGS].copy_from_slice(&checksum.to_be_bytes());
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EthernetFrame, Ipv6};

    const LINK: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);
    const TARGET: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
    const ENDS: NeighborEnds = NeighborEnds {
        source_mac: LINK,
        destination_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        source: TARGET,
        destination: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
    };

    fn read(message: &[u8]) -> Result<Option<NeighborMessage>, WireError> {
        Icmp6::new(message)?.neighbor()
    }

    #[test]
    fn neighbor_frames_are_read_as_they_were_built() {
        let flags = AdvertisementFlags::SOLICITED.with(AdvertisementFlags::OVERRIDE);
        for message in [
            NeighborMessage::solicitation(TARGET, LINK),
            NeighborMessage::advertisement(TARGET, LINK, flags),
        ] {
            let frame = message.to_frame(&ENDS);
            let ethernet = EthernetFrame::new(&frame).unwrap();
            assert_eq!(ethernet.destination(), ENDS.destination_mac);
            let ip = Ipv6::new(ethernet.payload()).unwrap();
            assert_eq!((ip.hop_limit(), ip.total_len()), (NEIGHBOR_HOP_LIMIT, 72));
            let icmp = Icmp6::new(ip.payload()).unwrap();
            assert!(icmp.checksum_is_valid(ip.source(), ip.destination()));
            assert!(!icmp.checksum_is_valid(ip.source(), Ipv6Addr::LOCALHOST));
            assert_eq!(icmp.neighbor(), Ok(Some(message)));
        }
    }

    #[test]
    fn other_messages_are_no_neighbor_messages() {
        assert_eq!(read(&[128, 0, 0, 0, 0, 1, 0, 1]), Ok(None));
        assert!(read(&[128, 0, 0, 0, 0, 1, 0]).is_err());
    }

    #[test]
    fn options_are_walked_to_the_end_or_refused() {
        let good = NeighborMessage::solicitation(TARGET, LINK).to_bytes(&ENDS);
        for len in 8..good.len() {
            // Only a message without any option is complete before its end.
            assert_eq!(read(&good[..len]).is_ok(), len == 24, "{len}");
        }
        let mut zero_length = good;
        zero_length[25] = 0;
        assert!(matches!(
            read(&zero_length),
            Err(WireError::Malformed { .. })
        ));
        let mut too_long = good;
        too_long[25] = 2;
        assert!(matches!(read(&too_long), Err(WireError::Malformed { .. })));
        let nonce = [&good[..24], &[14, 1, 1, 2, 3, 4, 5, 6], &good[24..]].concat();
        assert_eq!(read(&nonce).unwrap().unwrap().source_link, Some(LINK));
    }

    #[test]
    fn a_message_about_a_group_or_with_a_code_is_refused() {
        let mut group = NeighborMessage::solicitation(TARGET, LINK).to_bytes(&ENDS);
        group[8] = 0xff;
        assert!(matches!(read(&group), Err(WireError::Malformed { .. })));
        let mut code = NeighborMessage::solicitation(TARGET, LINK).to_bytes(&ENDS);
        code[1] = 1;
        assert!(matches!(read(&code), Err(WireError::Malformed { .. })));
    }

    #[test]
    fn an_echo_request_shows_its_payload() {
        let bytes = [8, 0, 0xab, 0xcd, 0, 1, 0, 2, 5];
        let icmp = Icmp4::new(&bytes).unwrap();
        assert_eq!(
            (icmp.message_type(), icmp.code(), icmp.checksum()),
            (8, 0, 0xabcd)
        );
        assert_eq!(icmp.payload(), [5]);
        assert!(Icmp4::new(&bytes[..7]).is_err());
    }
}
