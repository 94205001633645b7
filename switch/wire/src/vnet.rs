//! The ten bytes before each frame of an offloading TAP (`struct virtio_net_hdr`, virtio 1.2 section 5.1.6, in the
//! machine's byte order): raw here, turned into an [`Offload`] only after it was checked against the frame.
//!
//! The check is also a security border. A container writes this header, and whoever finishes the checksum later writes
//! two bytes where it points, after the spoof check has looked at the frame. So a checksum is accepted only behind what
//! that check looks at: in an IP packet, from the transport header on, and in TCP and ICMP nowhere but in the field
//! that is made for it. Over UDP and protocols unknown here it may lie further in: a tunnel inside the container leaves
//! the inner checksum unfinished.

use std::num::NonZeroU16;

use crate::error::{Layer, WireError, head};
use crate::frame::{Gso, GsoKind, Offload, PartialChecksum};
use crate::ipv4::IpProtocol;
use crate::layout::{Addresses, Layout};
use crate::{icmp, tcp, udp};

/// Bytes of the header (without `num_buffers`).
pub const VNET_HDR_LEN: usize = 10;

mod field {
    pub(super) const FLAGS: usize = 0;
    pub(super) const GSO_TYPE: usize = 1;
    pub(super) const HDR_LEN: usize = 2;
    pub(super) const GSO_SIZE: usize = 4;
    pub(super) const CSUM_START: usize = 6;
    pub(super) const CSUM_OFFSET: usize = 8;
}

mod flag {
    pub(super) const NEEDS_CSUM: u8 = 1;
}

mod gso_type {
    pub(super) const NONE: u8 = 0;
    pub(super) const TCP4: u8 = 1;
    pub(super) const TCP6: u8 = 4;
    pub(super) const UDP_L4: u8 = 5;
    /// A bit beside the type.
    pub(super) const ECN: u8 = 0x80;
}

/// The header as the kernel writes it, unchecked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct VnetHdr {
    /// 1 = the checksum is to be finished, 2 = it is known to be good.
    pub flags: u8,
    /// 0 none, 1 TCP over IPv4, 3 UDP fragmentation, 4 TCP over IPv6, 5 UDP segmentation; 0x80 = TCP with ECN.
    pub gso_type: u8,
    /// Bytes of all headers: a hint that may be wrong.
    pub hdr_len: u16,
    /// Payload bytes of a segment.
    pub gso_size: u16,
    /// First byte that the checksum covers.
    pub csum_start: u16,
    /// Where the checksum is, from `csum_start`.
    pub csum_offset: u16,
}

/// A vnet header that contradicts its frame or asks for what was not offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// UFO (3), or a type that did not exist when this was written.
    #[error("gso type {0:#04x} was not offered to the device")]
    UnknownGsoType(u8),
    /// A superframe that says nothing of its checksum (virtio 1.2 section 5.1.6.2 demands it).
    #[error("superframe without checksum offload")]
    GsoWithoutChecksum,
    /// Segments of no payload.
    #[error("superframe with gso size 0")]
    ZeroGsoSize,
    /// The headers of the frame are not well-formed.
    #[error("offload asked for a frame that is malformed: {0}")]
    Frame(#[from] WireError),
    /// The frame carries no IP.
    #[error("offload asked for a frame that carries no IP")]
    NotIp,
    /// The superframe's protocol is not the one its gso type names, or it is a fragment.
    #[error("the superframe does not carry what its gso type says")]
    WrongProtocol,
    /// The IP packet does not end where the superframe ends.
    #[error("the superframe's IP length does not match its size")]
    WrongLength,
    /// The checksum lies before the transport header, beyond the end, or not where the protocol has it.
    #[error("checksum start {start} offset {offset} does not fit the frame")]
    BadChecksumPlace {
        /// `csum_start` as it came.
        start: u16,
        /// `csum_offset` as it came.
        offset: u16,
    },
}

impl VnetHdr {
    /// Takes the fields out of the bytes, whatever they are.
    pub const fn parse(bytes: &[u8; VNET_HDR_LEN]) -> Self {
        const fn u16_at(bytes: &[u8; VNET_HDR_LEN], at: usize) -> u16 {
            u16::from_ne_bytes([bytes[at], bytes[at + 1]])
        }
        Self {
            flags: bytes[field::FLAGS],
            gso_type: bytes[field::GSO_TYPE],
            hdr_len: u16_at(bytes, field::HDR_LEN),
            gso_size: u16_at(bytes, field::GSO_SIZE),
            csum_start: u16_at(bytes, field::CSUM_START),
            csum_offset: u16_at(bytes, field::CSUM_OFFSET),
        }
    }

    /// As the kernel takes it.
    pub const fn to_bytes(&self) -> [u8; VNET_HDR_LEN] {
        let [h0, h1] = self.hdr_len.to_ne_bytes();
        let [g0, g1] = self.gso_size.to_ne_bytes();
        let [s0, s1] = self.csum_start.to_ne_bytes();
        let [o0, o1] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h0, h1, g0, g1, s0, s1, o0, o1]
    }

    /// What is left to do in `frame`, checked against it. `hdr_len` and "known to be good" are not used.
    ///
    /// # Errors
    /// [`VnetError`], one variant per contradiction; the frame is to be dropped.
    #[inline]
    pub fn offload(&self, frame: &[u8]) -> Result<Offload, VnetError> {
        let needs_checksum = self.flags & flag::NEEDS_CSUM != 0;
        if self.gso_type == gso_type::NONE && !needs_checksum {
            return Ok(Offload::NONE);
        }
        let gso = self.gso()?;
        if !needs_checksum {
            return Err(VnetError::GsoWithoutChecksum);
        }
        let layout = Layout::of(frame)?.ok_or(VnetError::NotIp)?;
        let checksum = PartialChecksum {
            start: self.csum_start,
            offset: self.csum_offset,
        };
        match gso {
            Some(gso) => check_superframe(frame, &layout, gso, checksum)?,
            None => check_checksum(frame, &layout, checksum)?,
        }
        Ok(Offload {
            checksum: Some(checksum),
            gso,
        })
    }

    fn gso(&self) -> Result<Option<Gso>, VnetError> {
        let ecn = self.gso_type & gso_type::ECN != 0;
        let kind = match self.gso_type & !gso_type::ECN {
            gso_type::NONE if !ecn => return Ok(None),
            gso_type::TCP4 => GsoKind::Tcp4,
            gso_type::TCP6 => GsoKind::Tcp6,
            gso_type::UDP_L4 if !ecn => GsoKind::Udp,
            _ => return Err(VnetError::UnknownGsoType(self.gso_type)),
        };
        let size = NonZeroU16::new(self.gso_size).ok_or(VnetError::ZeroGsoSize)?;
        Ok(Some(Gso { kind, size, ecn }))
    }

    /// The header for writing `frame`, whose `offload` was checked when it was made, to an offloading TAP.
    #[inline]
    pub fn from_offload(offload: &Offload, frame: &[u8]) -> Self {
        let Some(PartialChecksum { start, offset }) = offload.checksum else {
            return Self::default();
        };
        let mut header = Self {
            flags: flag::NEEDS_CSUM,
            csum_start: start,
            csum_offset: offset,
            ..Self::default()
        };
        if let Some(gso) = offload.gso {
            let ecn = if gso.ecn { gso_type::ECN } else { 0 };
            header.gso_size = gso.size.get();
            header.gso_type = ecn
                | match gso.kind {
                    GsoKind::Tcp4 => gso_type::TCP4,
                    GsoKind::Tcp6 => gso_type::TCP6,
                    GsoKind::Udp => gso_type::UDP_L4,
                };
            header.hdr_len = start.saturating_add(transport_header_len(gso.kind, start, frame));
        }
        header
    }
}

/// Bytes of the transport header at `start`, from its own length field for TCP.
fn transport_header_len(kind: GsoKind, start: u16, frame: &[u8]) -> u16 {
    match kind {
        GsoKind::Udp => 8,
        GsoKind::Tcp4 | GsoKind::Tcp6 => {
            let data_offset = frame.get(usize::from(start) + tcp::field::DATA_OFFSET);
            u16::from(data_offset.copied().unwrap_or_default() >> 4) * 4
        }
    }
}

/// A checksum where the protocol has it, or further in if it may be a tunnel of the container's own. Nobody leaves a
/// fragment's checksum to be finished: it could not be.
fn check_checksum(
    frame: &[u8],
    layout: &Layout,
    checksum: PartialChecksum,
) -> Result<(), VnetError> {
    let PartialChecksum { start, offset } = checksum;
    let beyond = usize::from(start)
        .checked_sub(layout.transport)
        .filter(|_| !layout.fragment);
    let right_place = beyond.is_some_and(|beyond| match (layout.protocol, beyond) {
        (IpProtocol::TCP, _) => beyond == 0 && usize::from(offset) == tcp::field::CHECKSUM,
        // What neighbor discovery says is checked for spoofing too.
        (IpProtocol::ICMP4 | IpProtocol::ICMP6, _) => {
            beyond == 0 && usize::from(offset) == icmp::field::CHECKSUM
        }
        (IpProtocol::UDP, 0) => usize::from(offset) == udp::field::CHECKSUM,
        _ => true,
    });
    let field_end = usize::from(start) + usize::from(offset) + 2;
    if !right_place || field_end > frame.len() {
        return Err(VnetError::BadChecksumPlace { start, offset });
    }
    Ok(())
}

/// The superframe is what its kind says, has its checksum where the protocol has it, and nothing behind the packet.
pub(crate) fn check_superframe(
    frame: &[u8],
    layout: &Layout,
    gso: Gso,
    checksum: PartialChecksum,
) -> Result<(), VnetError> {
    let (protocol, place) = match (gso.kind, layout.addresses) {
        (GsoKind::Tcp4, Addresses::V4 { .. }) | (GsoKind::Tcp6, Addresses::V6 { .. }) => {
            (IpProtocol::TCP, tcp::field::CHECKSUM)
        }
        (GsoKind::Udp, _) => (IpProtocol::UDP, udp::field::CHECKSUM),
        (GsoKind::Tcp4 | GsoKind::Tcp6, _) => return Err(VnetError::WrongProtocol),
    };
    if layout.protocol != protocol || layout.fragment {
        return Err(VnetError::WrongProtocol);
    }
    if layout.end != frame.len() {
        return Err(VnetError::WrongLength);
    }
    let PartialChecksum { start, offset } = checksum;
    if usize::from(start) != layout.transport || usize::from(offset) != place {
        return Err(VnetError::BadChecksumPlace { start, offset });
    }
    let transport = frame.get(layout.transport..).unwrap_or_default();
    match gso.kind {
        GsoKind::Tcp4 | GsoKind::Tcp6 => tcp::Tcp::new(transport).map(|_| ())?,
        // The length field is not looked at: segmentation writes one for each datagram.
        GsoKind::Udp => {
            head::<{ udp::UDP_HEADER_LEN }>(transport, Layer::Udp)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
