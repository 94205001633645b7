//! The sessions' socket. The kernel sorts datagrams by their first bytes, but receive offload (GRO) joins them before that:
//! a short QUIC packet at the end of a train of frames comes to a worker, which hands it over here.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use tokio::sync::mpsc::Receiver;

use crate::secure::Stray;

/// quinn's socket, with what workers found.
#[derive(Debug)]
pub(super) struct SessionSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    strays: Mutex<Receiver<Stray>>,
}

impl SessionSocket {
    pub(super) const fn new(inner: Arc<dyn AsyncUdpSocket>, strays: Receiver<Stray>) -> Self {
        Self {
            inner,
            strays: Mutex::new(strays),
        }
    }

    fn next_stray(&self, cx: &mut Context<'_>) -> Option<Stray> {
        let mut strays = self.strays.lock().unwrap_or_else(PoisonError::into_inner);
        match strays.poll_recv(cx) {
            Poll::Ready(stray) => stray,
            Poll::Pending => None,
        }
    }
}

impl AsyncUdpSocket for SessionSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.inner).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        if let Some(stray) = self.next_stray(cx)
            && let (Some(buffer), Some(meta)) = (buffers.first_mut(), meta.first_mut())
            && let Some(room) = buffer.get_mut(..stray.bytes.len())
        {
            room.copy_from_slice(&stray.bytes);
            meta.addr = stray.from;
            meta.len = stray.bytes.len();
            meta.stride = stray.bytes.len();
            meta.ecn = None;
            meta.dst_ip = None;
            return Poll::Ready(Ok(1));
        }
        self.inner.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
