//! What an event or a timer is about, as the 64 bits that epoll keeps. Numbers are never used again, so that an event
//! of something that is gone finds nothing.

/// Bits of the number.
const NUMBER_BITS: u32 = 56;

/// Something that has a file descriptor or a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Token {
    /// Somebody has a command for the engine.
    Wake,
    /// A network's inside port.
    Inside(u64),
    /// A TCP flow.
    Tcp(u64),
    /// A UDP flow.
    Udp(u64),
    /// The raw socket of a family: 4 or 6.
    Echo(u64),
    /// A listening socket of a published port.
    Listener(u64),
    /// Packets that are being put together.
    Fragments,
    /// Clients of published ports that speak in datagrams.
    Visits,
}

impl Token {
    pub(super) const fn to_bits(self) -> u64 {
        let (kind, number) = match self {
            Self::Wake => (0, 0),
            Self::Inside(number) => (1, number),
            Self::Tcp(number) => (2, number),
            Self::Udp(number) => (3, number),
            Self::Echo(number) => (4, number),
            Self::Listener(number) => (5, number),
            Self::Fragments => (6, 0),
            Self::Visits => (7, 0),
        };
        (kind << NUMBER_BITS) | number
    }

    pub(super) const fn from_bits(bits: u64) -> Self {
        let number = bits & ((1 << NUMBER_BITS) - 1);
        match bits >> NUMBER_BITS {
            1 => Self::Inside(number),
            2 => Self::Tcp(number),
            3 => Self::Udp(number),
            4 => Self::Echo(number),
            5 => Self::Listener(number),
            6 => Self::Fragments,
            7 => Self::Visits,
            _ => Self::Wake,
        }
    }
}
