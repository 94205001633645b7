//! The inside port: frames between the switch and the host's own services (DNS, DHCP, the way out), framed as on a fast
//! TAP, so that superframes and unfinished checksums pass both ways.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};

use super::{Medium, PortKind, Queue};

/// What each end may have on the way, in bytes of kernel memory: some sixty superframes.
const BUFFER: usize = 8 << 20;

/// Both ends of an inside port: one for [`Switch::add_port`](crate::Switch::add_port), one for the services. A frame is
/// one message of a SOCK_SEQPACKET socket pair; neither end waits. When one end is closed, the other is
/// [`Gone`](super::RecvError::Gone).
///
/// # Errors
/// Out of file descriptors.
pub fn service_pair() -> io::Result<(Queue, Queue)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let (left, right) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&left, &right] {
        // Beyond wmem_max needs CAP_NET_ADMIN; without it the kernel's maximum has to do.
        if setsockopt(end, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(end, sockopt::SndBuf, &BUFFER)?;
        }
    }
    Ok((adopt(left), adopt(right)))
}

fn adopt(fd: OwnedFd) -> Queue {
    Queue {
        fd,
        kind: PortKind::Offload,
        medium: Medium::Stream,
        // The services are no kernel that cuts them.
        takes_datagrams: false,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use etherparse::PacketBuilder;
    use weft_wire::{FrameRef, Gso, GsoKind, Offload, PartialChecksum};

    use super::super::{RECV_BUFFER_LEN, RecvError, SendError};
    use super::*;

    fn superframe() -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 2000, 7, 1000)
            .write(&mut bytes, &vec![0x5a; 60_000])
            .unwrap();
        bytes
    }

    #[test]
    fn a_superframe_passes_as_it_is() {
        let (left, right) = service_pair().unwrap();
        let bytes = superframe();
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 16,
            }),
            gso: Some(Gso {
                kind: GsoKind::Tcp4,
                size: NonZeroU16::new(1410).unwrap(),
                ecn: false,
            }),
        };
        let frame = FrameRef {
            offload,
            ..FrameRef::plain(&bytes)
        };
        left.send(frame).unwrap();
        left.send(FrameRef::plain(&bytes[..60])).unwrap();
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        let received = right.recv(&mut buffer).unwrap();
        assert_eq!((received.bytes, received.offload), (&*bytes, offload));
        let received = right.recv(&mut buffer).unwrap();
        assert_eq!(
            (received.bytes, received.offload),
            (&bytes[..60], Offload::default())
        );
        assert_eq!(right.recv(&mut buffer).unwrap_err(), RecvError::Empty);
    }

    #[test]
    fn nobody_waits_for_a_reader_that_is_slow() {
        let (left, _right) = service_pair().unwrap();
        let bytes = superframe();
        let refused = (0..1_000).find_map(|_| left.send(FrameRef::plain(&bytes)).err());
        assert_eq!(refused, Some(SendError::Full));
    }

    #[test]
    fn an_end_without_another_is_gone() {
        let (left, right) = service_pair().unwrap();
        drop(right);
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        assert_eq!(left.recv(&mut buffer).unwrap_err(), RecvError::Gone);
        let refused = left.send(FrameRef::plain(&[0; 60]));
        assert_eq!(refused, Err(SendError::Gone));
    }
}
