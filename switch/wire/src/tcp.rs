//! TCP (RFC 9293): the header as far as segmentation, merging and flow steering need it. Options are bytes here.

use crate::error::{Layer, WireError, be16, be32, head, until};

/// Bytes of a header without options.
pub const TCP_HEADER_LEN: usize = 20;

pub(crate) mod field {
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const SEQUENCE: usize = 4;
    pub(crate) const ACKNOWLEDGMENT: usize = 8;
    pub(crate) const DATA_OFFSET: usize = 12;
    pub(crate) const FLAGS: usize = 13;
    pub(crate) const WINDOW: usize = 14;
    pub(crate) const CHECKSUM: usize = 16;
}

/// The eight control bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push: hand the data to the application.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgment number is significant.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is significant.
    pub const URG: Self = Self(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Self = Self(0x80);

    /// Whether all of `flags` are set.
    pub const fn contains(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// These flags and those.
    #[must_use]
    pub const fn with(self, flags: Self) -> Self {
        Self(self.0 | flags.0)
    }

    /// These flags but not those.
    #[must_use]
    pub const fn without(self, flags: Self) -> Self {
        Self(self.0 & !flags.0)
    }
}

/// A TCP segment whose header is all there.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    bytes: &'a [u8],
    fixed: &'a [u8; TCP_HEADER_LEN],
    header_len: usize,
}

impl<'a> Tcp<'a> {
    /// Looks at an IP payload (no fragment). The checksum is not verified.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if the header ends too early, [`WireError::Malformed`] for a data offset below 5.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let fixed = head::<TCP_HEADER_LEN>(bytes, Layer::Tcp)?;
        let header_len = usize::from(fixed[field::DATA_OFFSET] >> 4) * 4;
        if header_len < TCP_HEADER_LEN {
            let what = "data offset is below 20";
            return Err(WireError::Malformed {
                layer: Layer::Tcp,
                what,
            });
        }
        until(bytes, header_len, Layer::Tcp)?;
        Ok(Self {
            bytes,
            fixed,
            header_len,
        })
    }

    /// Source port.
    pub const fn source_port(&self) -> u16 {
        be16(self.fixed, field::SOURCE_PORT)
    }

    /// Destination port.
    pub const fn destination_port(&self) -> u16 {
        be16(self.fixed, field::DESTINATION_PORT)
    }

    /// Sequence number of the first payload byte.
    pub const fn sequence(&self) -> u32 {
        be32(self.fixed, field::SEQUENCE)
    }

    /// Acknowledgment number.
    pub const fn acknowledgment(&self) -> u32 {
        be32(self.fixed, field::ACKNOWLEDGMENT)
    }

    /// Control bits.
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(self.fixed[field::FLAGS])
    }

    /// Receive window, unscaled.
    pub const fn window(&self) -> u16 {
        be16(self.fixed, field::WINDOW)
    }

    /// The checksum field as it is, finished or not.
    pub const fn checksum(&self) -> u16 {
        be16(self.fixed, field::CHECKSUM)
    }

    /// Bytes of the header with options, 20 ..= 60.
    pub const fn header_len(&self) -> usize {
        self.header_len
    }

    /// The option bytes, padding included.
    pub fn options(&self) -> &'a [u8] {
        self.bytes
            .get(TCP_HEADER_LEN..self.header_len)
            .unwrap_or_default()
    }

    /// Everything after the header.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_payload_are_parted_by_the_data_offset() {
        let mut bytes = [0u8; 26];
        bytes[..2].copy_from_slice(&[0x12, 0x34]);
        bytes[4..8].copy_from_slice(&[1, 2, 3, 4]);
        bytes[12..14].copy_from_slice(&[0x60, 0x19]);
        bytes[20..].copy_from_slice(&[1, 1, 1, 0, 7, 8]);
        let tcp = Tcp::new(&bytes).unwrap();
        assert_eq!((tcp.source_port(), tcp.sequence()), (0x1234, 0x0102_0304));
        assert_eq!(
            tcp.flags(),
            TcpFlags::FIN.with(TcpFlags::PSH).with(TcpFlags::ACK)
        );
        assert_eq!(
            (tcp.options(), tcp.payload()),
            (&[1, 1, 1, 0][..], &[7, 8][..])
        );
    }

    #[test]
    fn a_data_offset_too_small_or_beyond_the_end_is_refused() {
        let mut bytes = [0u8; 59];
        for words in 0..5 {
            bytes[12] = words << 4;
            assert!(matches!(Tcp::new(&bytes), Err(WireError::Malformed { .. })));
        }
        bytes[12] = 0xf0;
        let (layer, needed, present) = (Layer::Tcp, 60, 59);
        assert_eq!(
            Tcp::new(&bytes).unwrap_err(),
            WireError::Truncated {
                layer,
                needed,
                present
            }
        );
        assert!(matches!(
            Tcp::new(&bytes[..19]),
            Err(WireError::Truncated { needed: 20, .. })
        ));
    }
}
