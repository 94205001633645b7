//! UDP (RFC 768).

use crate::error::{Layer, WireError, be16, head, until};

/// Bytes of the header.
pub const UDP_HEADER_LEN: usize = 8;

pub(crate) mod field {
    pub(crate) const SOURCE_PORT: usize = 0;
    pub(crate) const DESTINATION_PORT: usize = 2;
    pub(crate) const LENGTH: usize = 4;
    pub(crate) const CHECKSUM: usize = 6;
}

/// A UDP datagram that is all there.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    /// Header and payload, without anything behind the length.
    bytes: &'a [u8],
    header: &'a [u8; UDP_HEADER_LEN],
}

impl<'a> Udp<'a> {
    /// Looks at an IP payload (no fragment). The checksum is not verified.
    ///
    /// # Errors
    /// [`WireError::Truncated`] if header or payload end too early, [`WireError::Malformed`] for a length below 8.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header = head::<UDP_HEADER_LEN>(bytes, Layer::Udp)?;
        let len = usize::from(be16(header, field::LENGTH));
        if len < UDP_HEADER_LEN {
            return Err(WireError::Malformed {
                layer: Layer::Udp,
                what: "length is below 8",
            });
        }
        Ok(Self {
            bytes: until(bytes, len, Layer::Udp)?,
            header,
        })
    }

    /// Source port.
    pub const fn source_port(&self) -> u16 {
        be16(self.header, field::SOURCE_PORT)
    }

    /// Destination port.
    pub const fn destination_port(&self) -> u16 {
        be16(self.header, field::DESTINATION_PORT)
    }

    /// The checksum field as it is, finished or not; 0 means none was computed.
    pub const fn checksum(&self) -> u16 {
        be16(self.header, field::CHECKSUM)
    }

    /// Everything after the header, up to the length field's end.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(UDP_HEADER_LEN..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_field_ends_the_payload() {
        let udp = [0, 1, 0, 2, 0, 9, 0xab, 0xcd, 7, 0, 0];
        let udp = Udp::new(&udp).unwrap();
        assert_eq!((udp.source_port(), udp.destination_port()), (1, 2));
        assert_eq!((udp.checksum(), udp.payload()), (0xabcd, &[7][..]));
    }

    #[test]
    fn a_length_below_the_header_or_beyond_the_end_is_refused() {
        let with = |len| Udp::new(&[0, 1, 0, 2, 0, len, 0, 0, 7]).map(|_| ());
        assert!(matches!(with(0), Err(WireError::Malformed { .. })));
        assert!(matches!(with(7), Err(WireError::Malformed { .. })));
        assert!(with(8).is_ok() && with(9).is_ok());
        assert!(matches!(
            with(10),
            Err(WireError::Truncated {
                needed: 10,
                present: 9,
                ..
            })
        ));
        assert!(matches!(
            Udp::new(&[0; 7]),
            Err(WireError::Truncated { needed: 8, .. })
        ));
    }
}
