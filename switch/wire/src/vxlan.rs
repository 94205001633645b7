//! VXLAN (RFC 7348 section 5): eight bytes between the outer UDP header and the inner frame. Sends what every receiver
//! takes (reserved bits zero) and takes what the RFC allows (reserved bits ignored).

use crate::Vni;
use crate::error::be32;

/// Bytes of the header.
pub const VXLAN_HEADER_LEN: usize = 8;
/// UDP destination port assigned by IANA.
pub const VXLAN_PORT: u16 = 4789;

mod field {
    pub(super) const FLAGS: usize = 0;
    pub(super) const VNI_RESERVED: usize = 4;
}

/// I: the VNI field is valid.
const FLAG_VNI: u8 = 0x08;

/// A datagram that is no VXLAN for any of our networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VxlanError {
    /// Shorter than the header.
    #[error("a VXLAN header needs 8 bytes, {present} are there")]
    Truncated {
        /// Bytes there are.
        present: usize,
    },
    /// The I flag is clear: the header names no network.
    #[error("the VXLAN header has no VNI: its I flag is not set")]
    NoVniFlag,
    /// VNI 0, which no network of ours has.
    #[error("VXLAN header with VNI 0")]
    ZeroVni,
}

/// Reading and writing the header.
#[derive(Clone, Copy, Debug)]
pub struct VxlanHeader;

impl VxlanHeader {
    /// Splits a UDP payload into network and inner frame (which may be empty: it is the switch that refuses runts).
    ///
    /// # Errors
    /// [`VxlanError`], one variant per cause.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<(Vni, &[u8]), VxlanError> {
        let Some((header, inner)) = datagram.split_first_chunk::<VXLAN_HEADER_LEN>() else {
            return Err(VxlanError::Truncated {
                present: datagram.len(),
            });
        };
        if header[field::FLAGS] & FLAG_VNI == 0 {
            return Err(VxlanError::NoVniFlag);
        }
        let vni = Vni::new(be32(header, field::VNI_RESERVED) >> 8);
        Ok((vni.map_err(|_| VxlanError::ZeroVni)?, inner))
    }

    /// Fills `out` with the header for `vni`.
    #[inline]
    pub fn write(vni: Vni, out: &mut [u8; VXLAN_HEADER_LEN]) {
        *out = Self::to_bytes(vni);
    }

    /// The header for `vni`.
    pub const fn to_bytes(vni: Vni) -> [u8; VXLAN_HEADER_LEN] {
        let [high, middle, low, reserved] = (vni.value() << 8).to_be_bytes();
        [FLAG_VNI, 0, 0, 0, high, middle, low, reserved]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_the_rfc_s_header() {
        let mut header = [0xff; 8];
        VxlanHeader::write(Vni::new(0x0012_3456).unwrap(), &mut header);
        assert_eq!(header, [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }

    #[test]
    fn reserved_bits_are_ignored_on_receipt() {
        let datagram = [0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xff, 1, 2, 3];
        let (vni, inner) = VxlanHeader::parse(&datagram).unwrap();
        assert_eq!((vni.value(), inner), (1, &[1, 2, 3][..]));
    }

    #[test]
    fn each_fault_has_its_name() {
        for present in 0..8 {
            let short = &[8, 0, 0, 0, 0, 0, 1, 0][..present];
            assert_eq!(
                VxlanHeader::parse(short),
                Err(VxlanError::Truncated { present })
            );
        }
        let no_flag = [0xf7, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(VxlanHeader::parse(&no_flag), Err(VxlanError::NoVniFlag));
        let zero = [8, 0, 0, 0, 0, 0, 0, 0xff];
        assert_eq!(VxlanHeader::parse(&zero), Err(VxlanError::ZeroVni));
    }
}
