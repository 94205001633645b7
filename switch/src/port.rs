//! A port is a TAP: the only way of a frame into and out of this host's switch. A [`Queue`] is one file descriptor of
//! it, owned by one worker; [`create_tap`] makes the device, `control` moves it into its namespace and brings it up.
//!
//! Frames come from the container's kernel and go to the datapath as they were read: superframe, unfinished checksum
//! and all, with the [`Offload`](weft_wire::Offload) that says so. On the way out an offloading port hands the same to
//! the other container's kernel; a plain port gets frames that are complete, as on a wire. This module knows neither
//! networks nor addresses.
//!
//! Lifetime: the device lives as long as any of its file descriptors, wherever it was moved, and dies with the network
//! namespace it is in. That shows as `POLLERR` and as `EBADFD` here ([`RecvError::Gone`]).

mod packet;
mod service;
mod sys;
mod tap;

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use weft_wire::{
    FrameRef, MAX_COALESCED, MAX_HEADER_LEN, SegmentPlan, VNET_HDR_LEN, VnetError, VnetHdr,
};

pub use packet::{link_mac, open_link};
pub use service::service_pair;
pub use sys::{device_name, device_netns};
pub use tap::{PortError, TapDevice, create_tap};

/// What a buffer for [`Queue::recv`] must hold: vnet header and the largest superframe. A shorter one would cut frames
/// without a word from the kernel.
pub const RECV_BUFFER_LEN: usize = VNET_HDR_LEN + 65_550;

/// The two kinds of TAP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// Fast: a vnet header before each frame, superframes and unfinished checksums both ways.
    Offload,
    /// Frames exactly as on a wire both ways, one queue.
    Plain,
}

/// A frame as [`Queue::recv`] gives it, borrowed from the caller's buffer.
pub type Received<'b> = FrameRef<'b>;

/// Why [`Queue::recv`] gave no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// Nothing to read now.
    #[error("nothing to read")]
    Empty,
    /// The device is gone, usually with its namespace. It doesn't come back.
    #[error("the TAP device is gone")]
    Gone,
    /// A frame was read whose vnet header contradicts it. It is to be counted and dropped.
    #[error("bad vnet header: {0}")]
    Malformed(VnetError),
}

/// Why [`Queue::send`] did not deliver a frame (of a superframe: not all of it).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The kernel had no room for it.
    #[error("the container's kernel has no room for the frame")]
    Full,
    /// The interface is down.
    #[error("the interface is down")]
    Down,
    /// The device is gone, usually with its namespace. It doesn't come back.
    #[error("the TAP device is gone")]
    Gone,
    /// The frame cannot be made what the port takes, or the kernel refuses it.
    #[error("the port does not take this frame")]
    Malformed,
}

/// How frames are read; they are written to all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Medium {
    /// A TAP, or a pair of sockets: one read, one frame.
    Stream,
    /// A packet socket, which takes VLAN tags out of frames.
    Link,
}

/// One queue of a TAP: one non-blocking file descriptor.
///
/// Reading and writing are atomic per frame, so several threads may use it through a shared reference. A reader by
/// turns gets a frame each; nobody gets half of one.
#[derive(Debug)]
pub struct Queue {
    fd: OwnedFd,
    kind: PortKind,
    medium: Medium,
    /// The kernel cuts superframes of UDP (USO, Linux 6.2).
    takes_datagrams: bool,
}

impl Queue {
    /// Adopts a file descriptor: a fresh one of [`create_tap`], or one that outlived an agent. The device's offload
    /// state is set anew, since nobody knows what the last owner left; the fd becomes non-blocking.
    ///
    /// # Errors
    /// `EBADFD` when the device is gone; `InvalidInput` when the fd is a TAP of the other kind, or a TUN; what the
    /// kernel says when it is no TAP at all.
    pub fn from_fd(fd: OwnedFd, kind: PortKind) -> io::Result<Self> {
        let takes_datagrams = tap::prepare(fd.as_fd(), kind)?;
        Ok(Self {
            fd,
            kind,
            medium: Medium::Stream,
            takes_datagrams,
        })
    }

    /// Another handle on the same queue: both read from the same ring.
    ///
    /// # Errors
    /// Out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            fd: self.fd.try_clone()?,
            kind: self.kind,
            medium: self.medium,
            takes_datagrams: self.takes_datagrams,
        })
    }

    /// Which kind of TAP it belongs to.
    pub const fn kind(&self) -> PortKind {
        self.kind
    }

    /// Where in its buffer [`Self::recv`] puts the frame.
    #[inline]
    pub const fn frame_start(&self) -> usize {
        match self.kind {
            PortKind::Offload => VNET_HDR_LEN,
            PortKind::Plain => 0,
        }
    }

    /// Whether a superframe of datagrams may be written, for the container's kernel to cut.
    #[inline]
    pub const fn takes_datagrams(&self) -> bool {
        self.takes_datagrams
    }

    /// Reads one frame into `buffer`, at least [`RECV_BUFFER_LEN`] bytes.
    ///
    /// # Errors
    /// [`RecvError`]; after `Malformed` the next frame can be read.
    #[inline]
    pub fn recv<'b>(&self, buffer: &'b mut [u8]) -> Result<Received<'b>, RecvError> {
        let range = self.read(buffer)?;
        if range.is_empty() {
            // No TAP gives nothing; it is how an inside port ends.
            return Err(RecvError::Gone);
        }
        let bytes = &buffer[range];
        match self.kind {
            PortKind::Plain => Ok(FrameRef::plain(bytes)),
            PortKind::Offload => {
                // The kernel never gives less than the header; were it so, the frame is empty and admit refuses it.
                let Some((header, frame)) = bytes.split_first_chunk::<VNET_HDR_LEN>() else {
                    return Ok(FrameRef::plain(&[]));
                };
                let offload = VnetHdr::parse(header)
                    .offload(frame)
                    .map_err(RecvError::Malformed)?;
                Ok(FrameRef {
                    tail: weft_wire::Tail::NONE,
                    bytes: frame,
                    offload,
                })
            }
        }
    }

    #[inline]
    fn read(&self, buffer: &mut [u8]) -> Result<Range<usize>, RecvError> {
        loop {
            let read = match self.medium {
                Medium::Stream => nix::unistd::read(&self.fd, buffer).map(|len| 0..len),
                Medium::Link => packet::recv(self.fd.as_fd(), buffer),
            };
            match read {
                Ok(range) => return Ok(range),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(recv_error(error)),
            }
        }
    }

    /// Writes one frame: as it is to an offloading port, finished and segmented to a plain one. There a superframe
    /// that is refused half-way stays half-sent: it was separate frames by then.
    ///
    /// # Errors
    /// [`SendError`].
    #[inline]
    pub fn send(&self, frame: FrameRef<'_>) -> Result<(), SendError> {
        match self.kind {
            PortKind::Offload => {
                let header = VnetHdr::from_offload(&frame.offload, frame.bytes).to_bytes();
                if frame.tail.is_empty() {
                    return self.write(&[IoSlice::new(&header), IoSlice::new(frame.bytes)]);
                }
                self.write_scattered(&header, frame)
            }
            PortKind::Plain if frame.offload.is_none() && frame.tail.is_empty() => {
                self.write(&[IoSlice::new(frame.bytes)])
            }
            PortKind::Plain => self.send_segments(frame.gathered(&mut Vec::new())),
        }
    }

    /// Writes a coalesced superframe from where its pieces lie.
    fn write_scattered(&self, header: &[u8], frame: FrameRef<'_>) -> Result<(), SendError> {
        const HEADS: usize = 2;
        let pieces = frame.tail.pieces();
        let mut parts = [IoSlice::new(&[]); HEADS + MAX_COALESCED];
        let Some(tail) = parts.get_mut(HEADS..HEADS + pieces.len()) else {
            return self.send(frame.gathered(&mut Vec::new()));
        };
        for (part, piece) in tail.iter_mut().zip(pieces) {
            *part = IoSlice::new(piece);
        }
        parts[0] = IoSlice::new(header);
        parts[1] = IoSlice::new(frame.bytes);
        self.write(&parts[..HEADS + pieces.len()])
    }

    fn send_segments(&self, frame: FrameRef<'_>) -> Result<(), SendError> {
        let plan = SegmentPlan::new(frame).map_err(|_| SendError::Malformed)?;
        let mut header = [0; MAX_HEADER_LEN];
        let header = &mut header[..plan.header_len()];
        for i in 0..plan.count() {
            plan.write_header(frame, i, header);
            self.write(&[
                IoSlice::new(header),
                IoSlice::new(&frame.bytes[plan.payload(i)]),
            ])?;
        }
        Ok(())
    }

    #[inline]
    fn write(&self, parts: &[IoSlice<'_>]) -> Result<(), SendError> {
        loop {
            match nix::sys::uio::writev(&self.fd, parts) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(send_error(error)),
            }
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `EFAULT` is what a reader of a device gets that is just being unregistered. An error that is none of these says
/// nothing about the device: there is just no frame.
fn recv_error(error: Errno) -> RecvError {
    if matches!(error, Errno::EBADFD | Errno::EFAULT | Errno::ECONNRESET) {
        RecvError::Gone
    } else {
        RecvError::Empty
    }
}

fn send_error(error: Errno) -> SendError {
    if matches!(error, Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) {
        SendError::Full
    } else if matches!(error, Errno::EIO | Errno::ENETDOWN | Errno::ENXIO) {
        SendError::Down
    } else if matches!(error, Errno::EBADFD | Errno::EPIPE | Errno::ECONNRESET) {
        SendError::Gone
    } else {
        SendError::Malformed
    }
}

#[cfg(test)]
mod tests;
