//! What the switch asks of a tunnel. The agent plugs the two together; neither crate knows the other.

use std::os::fd::BorrowedFd;

use weft_wire::{FrameRef, Mtu, PeerId, Vni};

/// A frame is longer than the path to a peer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Layer 3 packets of so many bytes get there.
    pub mtu: Mtu,
}

/// One worker's end of the tunnels. What it drops it counts itself, at the peer.
pub trait Uplink: Send {
    /// What the worker waits on for input, in the order of their numbers. Asked once, at the start.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Sends a frame, whole as it came from a port: finishing checksums and cutting superframes is the tunnel's part.
    /// Never blocks; may keep it until [`Self::flush`].
    ///
    /// # Errors
    /// [`TooBig`] when no packet to the peer takes it; its sender is told then. What is dropped for another reason is no
    /// error here.
    fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TooBig>;

    /// Sends what was kept. The worker calls it when no frame follows at once.
    fn flush(&mut self);

    /// Takes one batch of frames that have come at file descriptor number `input`, and says how many datagrams that
    /// were; 0 when there were none.
    fn receive(&mut self, input: usize, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize;
}
