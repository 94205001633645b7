//! Identifiers that every layer speaks of. Each is a newtype with a checked constructor, so that a bare number is
//! never taken for another kind of number.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// VXLAN Network Identifier (RFC 7348 section 5): 1 ..= 16,777,215.
///
/// Zero is refused: it is legal on the wire, but it is what an unset field looks like. There is no `From<u32>`;
/// see [`Vni::new`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(NonZeroU32);

/// A number that is no VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VNI: it must be between 1 and 16777215")]
pub struct InvalidVni(pub u32);

impl Vni {
    /// The largest VNI: 24 bits.
    pub const MAX: u32 = 0x00ff_ffff;

    /// # Errors
    /// [`InvalidVni`] for 0 and for anything above [`Self::MAX`].
    pub const fn new(value: u32) -> Result<Self, InvalidVni> {
        match NonZeroU32::new(value) {
            Some(vni) if value <= Self::MAX => Ok(Self(vni)),
            _ => Err(InvalidVni(value)),
        }
    }

    /// The number itself.
    pub const fn value(self) -> u32 {
        self.0.get()
    }
}

impl TryFrom<u32> for Vni {
    type Error = InvalidVni;
    fn try_from(value: u32) -> Result<Self, InvalidVni> {
        Self::new(value)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> Self {
        vni.value()
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vni({})", self.0)
    }
}

/// The VLAN a frame belongs to inside its network: 0 for untagged (and priority-tagged) frames, else 1 ..= 4094
/// (IEEE 802.1Q; 4095 is reserved).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VlanId(u16);

impl VlanId {
    /// Frames without a tag, or with a priority tag only.
    pub const UNTAGGED: Self = Self(0);

    /// The VLAN of a tag control information field; `None` for the reserved 4095.
    pub const fn from_tci(tci: u16) -> Option<Self> {
        match tci & 0x0fff {
            0x0fff => None,
            vid => Some(Self(vid)),
        }
    }

    /// The number itself, 0 for untagged.
    pub const fn value(self) -> u16 {
        self.0
    }
}

/// A port of this host's switch: an index into the port table. Reused after the port has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortId(pub u32);

/// A tunnel peer (VTEP) of this host: an index into the peer table. Reused after the peer has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub u32);

impl PortId {
    /// As an index into a table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl PeerId {
    /// As an index into a table.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Maximum transmission unit of a link in bytes: the largest layer 3 packet, without Ethernet header or VLAN tag.
/// 68 (RFC 791) ..= 65,521 (what a TAP takes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Mtu(u16);

/// A number that is no MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not an MTU: it must be between 68 and 65521 bytes")]
pub struct InvalidMtu(pub u32);

impl Mtu {
    /// The smallest MTU of IPv4 (RFC 791).
    pub const MIN: u32 = 68;
    /// 65,535 less an Ethernet header.
    pub const MAX: u32 = 65_521;
    /// What a link that carries IPv6 must pass (RFC 8200 section 5).
    pub const IPV6_MIN: Self = Self(1280);
    /// Ethernet's.
    pub const ETHERNET: Self = Self(1500);

    /// # Errors
    /// [`InvalidMtu`] outside [`Self::MIN`] ..= [`Self::MAX`].
    pub const fn new(value: u32) -> Result<Self, InvalidMtu> {
        if value < Self::MIN || value > Self::MAX {
            return Err(InvalidMtu(value));
        }
        #[expect(clippy::cast_possible_truncation, reason = "MAX fits 16 bits")]
        Ok(Self(value as u16))
    }

    /// Bytes.
    pub const fn bytes(self) -> usize {
        self.0 as usize
    }

    /// Bytes, as netlink wants them.
    pub const fn value(self) -> u32 {
        self.0 as u32
    }
}

impl TryFrom<u32> for Mtu {
    type Error = InvalidMtu;
    fn try_from(value: u32) -> Result<Self, InvalidMtu> {
        Self::new(value)
    }
}

impl From<Mtu> for u32 {
    fn from(mtu: Mtu) -> Self {
        mtu.value()
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Mtu {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let value: u32 = text
            .parse()
            .map_err(|_| format!("{text:?} is not a number of bytes"))?;
        Self::new(value).map_err(|error| error.to_string())
    }
}

impl FromStr for Vni {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let value: u32 = text
            .parse()
            .map_err(|_| format!("{text:?} is not a number"))?;
        Self::new(value).map_err(|error| error.to_string())
    }
}
