//! Loopback messages of Ethernet OAM (IEEE 802.1Q clause 21, ITU-T Y.1731 section 9.2 and 9.3): a message with a
//! transaction id, padded by a Data TLV, and its reply. The tunnel measures paths with them.
//!
//! They travel in VXLAN with VNI 0, which RFC 8971 sets apart for management: a VTEP that doesn't know them has no network
//! of that number and drops them. Unlike the standard's, our reply has no padding: what one way takes is measured, the
//! way back may be smaller, and nobody gets more than was sent.

use crate::VXLAN_HEADER_LEN;

/// Ethertype of connectivity fault management.
const ETHERTYPE: [u8; 2] = [0x89, 0x02];
/// Group address of class 1 (to the other end of the maintenance association), level 0.
const TO_END: [u8; 6] = [0x01, 0x80, 0xc2, 0x00, 0x00, 0x30];
/// A locally administered station: who sent it is known by the outer address.
const FROM: [u8; 6] = [0x02, 0, 0, 0, 0, 0];
/// VXLAN header with the I flag and VNI 0.
const VXLAN: [u8; VXLAN_HEADER_LEN] = [0x08, 0, 0, 0, 0, 0, 0, 0];
/// Where the fields of a datagram are.
const AT_ETHERTYPE: usize = VXLAN_HEADER_LEN + 12;
const AT_LEVEL: usize = VXLAN_HEADER_LEN + 14;
const AT_OPCODE: usize = AT_LEVEL + 1;
const AT_TLVS: usize = AT_LEVEL + 3;
const AT_ID: usize = AT_LEVEL + 4;
const AT_DATA: usize = AT_ID + 4;
/// Type, length.
const TLV_HEADER_LEN: usize = 3;
/// From the end of the common header to the first TLV: the transaction id.
const FIRST_TLV_OFFSET: u8 = 4;
const REPLY: u8 = 2;
const MESSAGE: u8 = 3;
const DATA_TLV: u8 = 3;
const END_TLV: u8 = 0;

/// The shortest datagram of a loopback message, VXLAN header included.
pub const LOOPBACK_MIN_LEN: usize = AT_DATA + TLV_HEADER_LEN + 1;

/// A loopback message or its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loopback {
    /// To be answered.
    Message {
        /// Chosen by the sender.
        id: u32,
    },
    /// The answer.
    Reply {
        /// Of the message.
        id: u32,
    },
}

impl Loopback {
    /// Reads a UDP payload, VXLAN header included; `None` if it is something else.
    pub fn parse(datagram: &[u8]) -> Option<Self> {
        let header = datagram.get(..AT_DATA)?;
        let vni = &header[4..7];
        if header[0] & 0x08 == 0 || vni != [0; 3] || header[AT_ETHERTYPE..AT_LEVEL] != ETHERTYPE {
            return None;
        }
        // Version 0 of any level; the transaction id is where it belongs.
        if header[AT_LEVEL] & 0x1f != 0 || header[AT_TLVS] != FIRST_TLV_OFFSET {
            return None;
        }
        let id = u32::from_be_bytes(*header[AT_ID..].first_chunk()?);
        match header[AT_OPCODE] {
            MESSAGE => Some(Self::Message { id }),
            REPLY => Some(Self::Reply { id }),
            _ => None,
        }
    }

    /// Fills `out` with a message that is as long as `out`.
    ///
    /// # Panics
    /// If `out` is shorter than [`LOOPBACK_MIN_LEN`].
    pub fn write_message(id: u32, out: &mut [u8]) {
        out.fill(0);
        out[..AT_DATA].copy_from_slice(&header(TO_END, MESSAGE, id));
        let data = out.len() - LOOPBACK_MIN_LEN;
        out[AT_DATA] = DATA_TLV;
        let length = u16::try_from(data).expect("a UDP payload is below 64 KiB");
        out[AT_DATA + 1..AT_DATA + TLV_HEADER_LEN].copy_from_slice(&length.to_be_bytes());
        // The end TLV is the zero at the end.
    }

    /// The reply to message `id`.
    pub fn reply(id: u32) -> [u8; AT_DATA + 1] {
        let mut out = [END_TLV; AT_DATA + 1];
        out[..AT_DATA].copy_from_slice(&header(FROM, REPLY, id));
        out
    }
}

fn header(to: [u8; 6], opcode: u8, id: u32) -> [u8; AT_DATA] {
    let mut out = [0; AT_DATA];
    out[..VXLAN_HEADER_LEN].copy_from_slice(&VXLAN);
    out[VXLAN_HEADER_LEN..VXLAN_HEADER_LEN + 6].copy_from_slice(&to);
    out[VXLAN_HEADER_LEN + 6..AT_ETHERTYPE].copy_from_slice(&FROM);
    out[AT_ETHERTYPE..AT_LEVEL].copy_from_slice(&ETHERTYPE);
    out[AT_OPCODE] = opcode;
    out[AT_TLVS] = FIRST_TLV_OFFSET;
    out[AT_ID..].copy_from_slice(&id.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_loopback_message_is_none() {
        let good = Loopback::reply(7);
        assert_eq!(Loopback::parse(&good), Some(Loopback::Reply { id: 7 }));
        for at in [0, 5, AT_ETHERTYPE, AT_LEVEL, AT_OPCODE, AT_TLVS] {
            let mut bad = good;
            bad[at] ^= 0x1f;
            assert_eq!(Loopback::parse(&bad), None, "byte {at}");
        }
        for len in 0..AT_DATA {
            assert_eq!(Loopback::parse(&good[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn a_vtep_that_knows_only_vxlan_finds_no_network() {
        let reply = Loopback::reply(7);
        assert_eq!(
            crate::VxlanHeader::parse(&reply),
            Err(crate::VxlanError::ZeroVni)
        );
    }

    proptest! {
        #[test]
        fn parsing_undoes_writing(id in any::<u32>(), len in LOOPBACK_MIN_LEN..9000) {
            let mut out = vec![0xff; len];
            Loopback::write_message(id, &mut out);
            prop_assert_eq!(Loopback::parse(&out), Some(Loopback::Message { id }));
            prop_assert_eq!(Loopback::parse(&Loopback::reply(id)), Some(Loopback::Reply { id }));
            prop_assert!(Loopback::reply(id).len() <= len);
            let data = usize::from(u16::from_be_bytes([out[AT_DATA + 1], out[AT_DATA + 2]]));
            prop_assert_eq!(AT_DATA + TLV_HEADER_LEN + data + 1, len);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Loopback::parse(&bytes);
        }
    }
}
