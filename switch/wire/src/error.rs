//! Why bytes are not the header they were taken for. One small `Copy` error for all views, so that refusing a frame
//! costs nothing; what a refusal means (drop, pass on, count) is for the caller to know.

/// The header that was looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Ethernet, with its 802.1Q tag if there is one.
    Ethernet,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4 with options.
    Ipv4,
    /// IPv6 without extension headers.
    Ipv6,
    /// The chain of IPv6 extension headers.
    Ipv6Extension,
    /// ICMP for IPv4.
    Icmp4,
    /// ICMPv6.
    Icmp6,
    /// Neighbor discovery, an ICMPv6 body.
    Neighbor,
    /// TCP with options.
    Tcp,
    /// UDP.
    Udp,
}

impl Layer {
    /// As it is written in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ethernet => "Ethernet header",
            Self::Arp => "ARP packet",
            Self::Ipv4 => "IPv4 header",
            Self::Ipv6 => "IPv6 header",
            Self::Ipv6Extension => "IPv6 extension header",
            Self::Icmp4 => "ICMP message",
            Self::Icmp6 => "ICMPv6 message",
            Self::Neighbor => "neighbor discovery message",
            Self::Tcp => "TCP header",
            Self::Udp => "UDP header",
        }
    }
}

impl std::fmt::Display for Layer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes that are not the header they were taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the header, or before what its length field promises.
    #[error("{layer} needs {needed} bytes, {present} are there")]
    Truncated {
        /// What was looked for.
        layer: Layer,
        /// Bytes it takes, as far as known.
        needed: usize,
        /// Bytes there are.
        present: usize,
    },
    /// A field has a value that no such header can have.
    #[error("{layer}: {what}")]
    Malformed {
        /// What was looked for.
        layer: Layer,
        /// The field and what is wrong with it.
        what: &'static str,
    },
}

/// The first `N` bytes, or the error that says how many are missing.
pub(crate) fn head<const N: usize>(bytes: &[u8], layer: Layer) -> Result<&[u8; N], WireError> {
    bytes.first_chunk().ok_or(WireError::Truncated {
        layer,
        needed: N,
        present: bytes.len(),
    })
}

/// The bytes up to `end`, or the error that says how many are missing.
pub(crate) fn until(bytes: &[u8], end: usize, layer: Layer) -> Result<&[u8], WireError> {
    bytes.get(..end).ok_or(WireError::Truncated {
        layer,
        needed: end,
        present: bytes.len(),
    })
}

/// Big-endian 16 bits at a constant place of a fixed-size header: the bounds are known when compiling.
#[inline(always)]
pub(crate) const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// Big-endian 32 bits at a constant place of a fixed-size header.
#[inline(always)]
pub(crate) const fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// `M` bytes at a constant place of a fixed-size header.
#[inline(always)]
pub(crate) fn array_at<const M: usize, const N: usize>(header: &[u8; N], at: usize) -> [u8; M] {
    std::array::from_fn(|i| header[at + i])
}
