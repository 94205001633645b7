//! What ESP carries: an Ethernet frame behind a GRE header with key (RFC 2784, RFC 2890; protocol 0x6558, Transparent
//! Ethernet Bridging), the key being the VNI. It is what a kernel `gretap` device with `key VNI` sends.

use weft_wire::Vni;

/// Bytes of the header.
pub const GRE_HEADER_LEN: usize = 8;
/// Only the K flag, version 0; protocol Transparent Ethernet Bridging.
const FLAGS_AND_PROTOCOL: [u8; 4] = [0x20, 0x00, 0x65, 0x58];

/// An opened payload that names no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GreError {
    /// Shorter than the header.
    #[error("a GRE header with key needs 8 bytes, {present} are there")]
    Truncated {
        /// Bytes there are.
        present: usize,
    },
    /// Other flags, another version or no Ethernet inside.
    #[error("not GRE with exactly a key and Ethernet inside")]
    NotBridging,
    /// The key is no VNI.
    #[error("GRE key {key} is no VNI")]
    BadVni {
        /// The key.
        key: u32,
    },
}

/// Reading and writing the header.
#[derive(Clone, Copy, Debug)]
pub struct GreHeader;

impl GreHeader {
    /// Splits an opened payload into network and inner frame.
    ///
    /// # Errors
    /// [`GreError`], one variant per cause.
    #[inline]
    pub fn parse(payload: &[u8]) -> Result<(Vni, &[u8]), GreError> {
        let Some((header, inner)) = payload.split_first_chunk::<GRE_HEADER_LEN>() else {
            return Err(GreError::Truncated {
                present: payload.len(),
            });
        };
        let [a, b, c, d, key @ ..] = *header;
        if [a, b, c, d] != FLAGS_AND_PROTOCOL {
            return Err(GreError::NotBridging);
        }
        let key = u32::from_be_bytes(key);
        let vni = Vni::new(key).map_err(|_| GreError::BadVni { key })?;
        Ok((vni, inner))
    }

    /// The header for `vni`.
    pub const fn to_bytes(vni: Vni) -> [u8; GRE_HEADER_LEN] {
        Self::with_key(vni.value())
    }

    /// The header of what the tunnel's ends say to each other, in no network: key 0, as RFC 8971 has it for VXLAN.
    pub const fn management() -> [u8; GRE_HEADER_LEN] {
        Self::with_key(0)
    }

    const fn with_key(key: u32) -> [u8; GRE_HEADER_LEN] {
        let [a, b, c, d] = FLAGS_AND_PROTOCOL;
        let [k0, k1, k2, k3] = key.to_be_bytes();
        [a, b, c, d, k0, k1, k2, k3]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_gretap_s_and_comes_back() {
        let header = GreHeader::to_bytes(Vni::new(0x0012_3456).unwrap());
        assert_eq!(header, [0x20, 0, 0x65, 0x58, 0, 0x12, 0x34, 0x56]);
        let (vni, inner) = GreHeader::parse(&header).unwrap();
        assert_eq!((vni.value(), inner), (0x0012_3456, &[][..]));
    }

    #[test]
    fn each_fault_has_its_name() {
        let good = GreHeader::to_bytes(Vni::new(1).unwrap());
        for present in 0..GRE_HEADER_LEN {
            let truncated = Err(GreError::Truncated { present });
            assert_eq!(GreHeader::parse(&good[..present]), truncated);
        }
        for byte in 0..4 {
            let mut other = good;
            other[byte] ^= 1;
            assert_eq!(GreHeader::parse(&other), Err(GreError::NotBridging));
        }
        for key in [0, 0x0100_0000] {
            let mut other = good;
            other[4..].copy_from_slice(&u32::to_be_bytes(key));
            assert_eq!(GreHeader::parse(&other), Err(GreError::BadVni { key }));
        }
    }
}
