//! Datagrams become superframes: those of a batch are laid one after the other, and what is adjacent in a TCP flow is
//! given on as one, as weft's tunnels do.

use std::ops::Range;

use weft_wire::{Coalescer, FrameRef, Vni, VxlanHeader};

/// The frames of a batch.
#[derive(Debug, Default)]
pub(crate) struct Gatherer {
    bytes: Vec<u8>,
    frames: Vec<(Vni, Range<usize>)>,
    coalescer: Coalescer<Vni>,
}

impl Gatherer {
    /// Takes a datagram. One that has no frame of a network is dropped.
    pub(crate) fn add(&mut self, datagram: &[u8]) {
        let Ok((vni, frame)) = VxlanHeader::parse(datagram) else {
            return;
        };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        self.frames.push((vni, start..self.bytes.len()));
    }

    /// Gives `sink` what was taken, and says how many datagrams that were.
    pub(crate) fn give(&mut self, mut sink: impl FnMut(Vni, FrameRef<'_>)) -> usize {
        let count = self.frames.len();
        for (vni, frame) in self.frames.drain(..) {
            self.coalescer.push(&self.bytes, vni, frame, &mut sink);
        }
        self.coalescer.flush(&self.bytes, &mut sink);
        self.bytes.clear();
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_switch::TooBig;
    use weft_wire::Mtu;

    use super::*;
    use crate::cut::Cutter;

    fn there_and_back(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let vni = Vni::new(7).expect("not 0");
        let (mut cutter, mut gatherer) = (Cutter::default(), Gatherer::default());
        for frame in frames {
            let cut = cutter.cut(vni, FrameRef::plain(frame), 1434, |datagram| {
                gatherer.add(&datagram);
            });
            assert_eq!(cut, Ok(1));
        }
        let mut back = Vec::new();
        let count = gatherer.give(|of, frame| {
            assert_eq!(of, vni);
            back.push(frame.gathered(&mut Vec::new()).bytes.to_vec());
        });
        assert_eq!(count, frames.len());
        back
    }

    proptest! {
        #[test]
        fn what_is_no_stream_comes_back_as_it_was(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 14..1426), 0..8),
        ) {
            prop_assert_eq!(there_and_back(&frames), frames);
        }

        #[test]
        fn no_datagram_makes_it_panic(datagram in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut gatherer = Gatherer::default();
            gatherer.add(&datagram);
            gatherer.give(|_, _| {});
        }
    }

    #[test]
    fn a_datagram_of_no_network_is_dropped() {
        let mut gatherer = Gatherer::default();
        gatherer.add(&[8, 0, 0]);
        gatherer.add(&[8, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(gatherer.give(|_, _| panic!("a frame of nobody")), 0);
    }

    #[test]
    fn a_frame_without_room_is_answered_with_what_fits() {
        let vni = Vni::new(7).expect("not 0");
        let frame = [0; 1427];
        let cut = Cutter::default().cut(vni, FrameRef::plain(&frame), 1434, |_| panic!("sent"));
        let mtu = Mtu::new(1412).expect("an MTU");
        assert_eq!(cut, Err(TooBig { mtu }));
    }
}
