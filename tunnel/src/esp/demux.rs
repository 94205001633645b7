//! QUIC and ESP on one UDP port. Every QUIC packet has the fixed bit 0x40 in its first byte (RFC 9000 section 17), as
//! long as greasing it (RFC 9287) is off; the SPIs we hand out have that bit clear, so one bit tells them apart.

/// QUIC's fixed bit, in the first byte of a packet.
const QUIC_FIXED_BIT: u8 = 0x40;
/// The same bit in an SPI.
const SPI_QUIC_BIT: u32 = 0x4000_0000;
/// SPIs below are reserved by IANA (RFC 4303 section 2.1); 0 marks IKE on this port (RFC 3948 section 2.2).
const SPI_MIN: u32 = 256;
/// The whole payload of a NAT keep-alive (RFC 3948 section 2.3).
const KEEP_ALIVE: [u8; 1] = [0xff];

/// A number that cannot be one of our SPIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPI {0:#010x} is reserved or would look like QUIC")]
pub struct InvalidSpi(pub u32);

/// The number a receiver gave to one of its keys: at least 256, bit 30 clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Spi(u32);

impl Spi {
    /// Checks a number from outside.
    ///
    /// # Errors
    /// [`InvalidSpi`] when reserved or when the QUIC bit is set.
    pub const fn new(value: u32) -> Result<Self, InvalidSpi> {
        if value < SPI_MIN || value & SPI_QUIC_BIT != 0 {
            return Err(InvalidSpi(value));
        }
        Ok(Self(value))
    }

    /// The SPI made of random bits; `None` for the few numbers that are reserved: draw again.
    pub const fn from_random(bits: u32) -> Option<Self> {
        match Self::new(bits & !SPI_QUIC_BIT) {
            Ok(spi) => Some(spi),
            Err(_) => None,
        }
    }

    /// As a number.
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// What a datagram on the port of encrypted tunnels is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// For the QUIC endpoint.
    Quic,
    /// For the key with that number, if there is one.
    Esp(Spi),
    /// A NAT keep-alive: it has done its work by coming.
    KeepAlive,
    /// None of these.
    Unknown,
}

/// Tells QUIC, ESP and keep-alives apart by the first bytes. Says nothing about whether they are genuine.
#[inline]
pub fn classify(datagram: &[u8]) -> Arrival {
    if datagram == KEEP_ALIVE {
        return Arrival::KeepAlive;
    }
    match datagram.first() {
        None => return Arrival::Unknown,
        Some(first) if first & QUIC_FIXED_BIT != 0 => return Arrival::Quic,
        Some(_) => {}
    }
    let Some(spi) = datagram.first_chunk::<4>() else {
        return Arrival::Unknown;
    };
    Spi::new(u32::from_be_bytes(*spi)).map_or(Arrival::Unknown, Arrival::Esp)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_and_reserved_datagrams_are_nobody_s() {
        for datagram in [&[][..], &[0], &[0, 0, 1], &[0; 4], &[0, 0, 0, 255, 1]] {
            assert_eq!(classify(datagram), Arrival::Unknown, "{datagram:?}");
        }
        assert_eq!(classify(&[0xff]), Arrival::KeepAlive);
        assert_eq!(classify(&[0xff, 0xff]), Arrival::Quic);
        assert_eq!(classify(&[0, 0, 1, 0]), Arrival::Esp(Spi(256)));
    }

    proptest! {
        #[test]
        fn an_spi_is_never_taken_for_quic(bits: u32, rest: Vec<u8>) {
            let Some(spi) = Spi::from_random(bits) else { return Ok(()) };
            let mut datagram = spi.value().to_be_bytes().to_vec();
            datagram.extend(rest);
            prop_assert_eq!(classify(&datagram), Arrival::Esp(spi));
        }

        #[test]
        fn a_packet_with_the_fixed_bit_is_never_taken_for_esp(first: u8, rest in proptest::collection::vec(any::<u8>(), 1..64)) {
            let mut datagram = vec![first | QUIC_FIXED_BIT];
            datagram.extend(rest);
            prop_assert_eq!(classify(&datagram), Arrival::Quic);
        }
    }
}
