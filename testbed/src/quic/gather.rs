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
