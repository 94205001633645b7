//! Inner frame <-> datagram. Pure: bytes in, bytes out; sockets and peers are `udp`'s and `esp`'s.

#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use weft_wire::{
    FrameRef, MAX_HEADER_LEN, SegmentError, SegmentPlan, VXLAN_HEADER_LEN, Vni, VxlanHeader,
};

use crate::drop::TunnelDrop;
use crate::esp::GRE_HEADER_LEN;

/// Bytes of the header that says the network: VXLAN's, and that of GRE with a key.
const NETWORK_HEADER_LEN: usize = VXLAN_HEADER_LEN;
const _: () = assert!(NETWORK_HEADER_LEN == GRE_HEADER_LEN);
/// Room for what is written before a segment's payload: that header and the copy of the inner headers.
pub(super) const HEAD_LEN: usize = NETWORK_HEADER_LEN + MAX_HEADER_LEN;

/// What a datagram's sender may at least have meant as a frame: destination, source, ethertype.
pub(super) const ETHERNET_HEADER_LEN: usize = 14;

/// A frame on its way out: datagram `i` is [`Self::write_head`] followed by [`Self::payload`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Encap<'f> {
    frame: FrameRef<'f>,
    plan: SegmentPlan,
    network: [u8; NETWORK_HEADER_LEN],
}

impl<'f> Encap<'f> {
    /// Each datagram begins with `network`; the way takes inner frames of at most `limit` bytes.
    ///
    /// # Errors
    /// [`TunnelDrop::Runt`], [`TunnelDrop::Malformed`], [`TunnelDrop::TooBig`].
    #[inline]
    pub(super) fn new(
        network: [u8; NETWORK_HEADER_LEN],
        frame: FrameRef<'f>,
        limit: usize,
    ) -> Result<Self, TunnelDrop> {
        if frame.bytes.len() < ETHERNET_HEADER_LEN {
            return Err(TunnelDrop::Runt);
        }
        let plan = SegmentPlan::with_limit(frame, limit).map_err(|error| match error {
            SegmentError::TooLong { .. } => TunnelDrop::TooBig,
            SegmentError::Offload(_)
            | SegmentError::ChecksumBeyondEnd { .. }
            | SegmentError::HeaderTooLong { .. }
            | SegmentError::Scattered
            | SegmentError::TooManySegments { .. } => TunnelDrop::Malformed,
        })?;
        Ok(Self {
            frame,
            plan,
            network,
        })
    }

    /// How many datagrams the frame becomes.
    #[inline]
    pub(super) const fn count(&self) -> usize {
        self.plan.count()
    }

    /// Bytes of each datagram but the last, which may be shorter.
    #[inline]
    pub(super) fn datagram_len(&self) -> usize {
        self.len_of(0)
    }

    /// Bytes of datagram `i`.
    #[inline]
    pub(super) fn len_of(&self, i: usize) -> usize {
        NETWORK_HEADER_LEN + self.plan.wire_len(i)
    }

    /// Whether it is one datagram.
    #[inline]
    pub(super) const fn is_single(&self) -> bool {
        self.plan.count() == 1
    }

    /// Writes what comes before datagram `i`'s payload and returns its length.
    #[inline]
    pub(super) fn write_head(&self, i: usize, out: &mut [u8; HEAD_LEN]) -> usize {
        let (network, inner) = out.split_at_mut(NETWORK_HEADER_LEN);
        network.copy_from_slice(&self.network);
        if self.plan.header_len() > 0 {
            self.plan.write_header(self.frame, i, inner);
        }
        NETWORK_HEADER_LEN + self.plan.header_len()
    }

    /// The slice of the frame that ends datagram `i`.
    #[inline]
    pub(super) fn payload(&self, i: usize) -> &'f [u8] {
        &self.frame.bytes[self.plan.payload(i)]
    }
}

/// Network and inner frame of a datagram.
///
/// # Errors
/// [`TunnelDrop::Truncated`], [`TunnelDrop::BadHeader`], [`TunnelDrop::BadVni`], [`TunnelDrop::Runt`].
#[inline]
pub(super) fn decap(datagram: &[u8]) -> Result<(Vni, &[u8]), TunnelDrop> {
    let (vni, inner) = VxlanHeader::parse(datagram)?;
    if inner.len() < ETHERNET_HEADER_LEN {
        return Err(TunnelDrop::Runt);
    }
    // The outer checksum was the kernel's to verify. Whether the inner one is finished can't be seen (facts.md
    // section 4): it is taken to be, as RFC 7348 demands.
    Ok((vni, inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn datagram(encap: &Encap<'_>, i: usize) -> Vec<u8> {
        let mut head = [0; HEAD_LEN];
        let len = encap.write_head(i, &mut head);
        [&head[..len], encap.payload(i)].concat()
    }

    #[test]
    fn a_runt_is_refused_on_both_ways() {
        let vni = Vni::new(7).unwrap();
        let runt = [0; 13];
        assert_eq!(
            Encap::new(
                VxlanHeader::to_bytes(vni),
                FrameRef::plain(&runt),
                usize::MAX
            )
            .err(),
            Some(TunnelDrop::Runt)
        );
        let bytes = [&VxlanHeader::to_bytes(vni)[..], &runt[..]].concat();
        assert_eq!(decap(&bytes).err(), Some(TunnelDrop::Runt));
        assert_eq!(decap(&bytes[..8]).err(), Some(TunnelDrop::Runt));
    }

    #[test]
    fn each_flaw_of_a_header_has_its_reason() {
        let good = [&[8, 0, 0, 0, 0, 0, 7, 0][..], &[0; 60][..]].concat();
        assert!(decap(&good).is_ok());
        assert_eq!(decap(&[]).err(), Some(TunnelDrop::Truncated));
        assert_eq!(decap(&good[..7]).err(), Some(TunnelDrop::Truncated));
        let mut no_flag = good.clone();
        no_flag[0] = 0xf7;
        assert_eq!(decap(&no_flag).err(), Some(TunnelDrop::BadHeader));
        let mut no_vni = good.clone();
        no_vni[6] = 0;
        assert_eq!(decap(&no_vni).err(), Some(TunnelDrop::BadVni));
    }

    #[test]
    fn reserved_bits_are_ignored_on_receipt() {
        let bytes = [&[0xff, 1, 2, 3, 0, 0, 7, 0xff][..], &[0; 60][..]].concat();
        let (vni, frame) = decap(&bytes).unwrap();
        assert_eq!((vni.value(), frame.len()), (7, 60));
    }

    proptest! {
        #[test]
        fn decap_undoes_encap(value in 1..=Vni::MAX, bytes in prop::collection::vec(any::<u8>(), 14..2000)) {
            let vni = Vni::new(value).unwrap();
            let encap = Encap::new(VxlanHeader::to_bytes(vni), FrameRef::plain(&bytes), usize::MAX).unwrap();
            prop_assert_eq!(encap.count(), 1);
            let datagram = datagram(&encap, 0);
            let (out, frame) = decap(&datagram).unwrap();
            prop_assert_eq!((out, frame), (vni, &bytes[..]));
        }

        #[test]
        fn no_datagram_makes_decap_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decap(&bytes);
        }
    }
}
