//! One worker's end of the tunnels, as the switch asks for it.

use std::os::fd::BorrowedFd;

use weft_switch::{TooBig, Uplink};
use weft_tunnel::{EspWorker, SendError, VxlanWorker};
use weft_wire::{FrameRef, PeerId, Vni};

/// One worker's end of the tunnels, as the switch asks for it. Each refuses by itself what isn't its to carry.
pub(super) struct TunnelUplink {
    pub(super) clear: VxlanWorker,
    pub(super) encrypted: Option<EspWorker>,
}

/// The number of the encrypted tunnels' file descriptor: the one after those in clear.
const ENCRYPTED_INPUT: usize = 1;

impl Uplink for TunnelUplink {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.clear.fds();
        debug_assert_eq!(fds.len(), ENCRYPTED_INPUT);
        fds.extend(self.encrypted.as_ref().map(EspWorker::fd));
        fds
    }

    fn send(&mut self, peer: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TooBig> {
        let mut sealed = None;
        if let Some(encrypted) = &mut self.encrypted
            && encrypted.carries(vni)
        {
            sealed = Some(encrypted.send(peer, vni, frame));
        }
        let sent = sealed.unwrap_or_else(|| self.clear.send(peer, vni, frame));
        // What it drops it has counted at the peer by the time it says so.
        match sent {
            Err(SendError { mtu: Some(mtu), .. }) => Err(TooBig { mtu }),
            Ok(()) | Err(SendError { mtu: None, .. }) => Ok(()),
        }
    }

    fn flush(&mut self) {
        self.clear.flush();
        if let Some(encrypted) = &mut self.encrypted {
            encrypted.flush();
        }
    }

    fn receive(&mut self, input: usize, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        match &mut self.encrypted {
            Some(encrypted) if input == ENCRYPTED_INPUT => encrypted.receive(sink),
            Some(_) | None => self.clear.receive(sink),
        }
    }
}
