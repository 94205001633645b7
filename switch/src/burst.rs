//! What a worker holds back of a port's frames until it has read what is there: short datagrams to one other port, which
//! are written as one.

use weft_wire::{DatagramRun, FrameRef, PortId};

/// A run of datagrams and where it goes.
#[derive(Debug)]
pub(crate) struct Burst {
    to: PortId,
    run: DatagramRun,
    /// Bytes of the frames that it was made of.
    bytes: usize,
}

/// A finished burst.
#[derive(Debug)]
pub(crate) struct Joined<'a> {
    pub(crate) to: PortId,
    pub(crate) frame: FrameRef<'a>,
    /// How many frames it was made of, and their bytes.
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Burst {
    pub(crate) fn new() -> Self {
        Self {
            to: PortId(0),
            run: DatagramRun::default(),
            bytes: 0,
        }
    }

    /// Keeps a frame that goes on with what is kept; false if it must go by itself, after what is kept.
    #[inline]
    pub(crate) fn append(&mut self, to: PortId, frame: FrameRef<'_>) -> bool {
        let kept = self.to == to && self.run.append(frame);
        if kept {
            self.bytes += frame.len();
        }
        kept
    }

    /// Keeps a frame to begin with; false if others can't follow it. What was kept before must be taken.
    #[inline]
    pub(crate) fn start(&mut self, to: PortId, frame: FrameRef<'_>) -> bool {
        let kept = self.run.start(frame);
        if kept {
            (self.to, self.bytes) = (to, frame.len());
        }
        kept
    }

    /// What is kept. It is forgotten by [`Self::clear`].
    #[inline]
    pub(crate) fn joined(&mut self) -> Option<Joined<'_>> {
        let (to, frames, bytes) = (self.to, self.run.count(), self.bytes);
        let frame = self.run.frame()?;
        Some(Joined {
            to,
            frame,
            frames,
            bytes,
        })
    }

    #[inline]
    pub(crate) fn clear(&mut self) {
        self.run.clear();
    }
}
