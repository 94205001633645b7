//! System calls that no safe wrapper has, or none that can be called in a loop: binding a packet socket to an interface,
//! and receiving a batch of datagrams.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Binds a packet socket to the interface of that index: it sends there and nowhere else.
///
/// # Errors
/// What the kernel says.
#[expect(
    clippy::cast_possible_truncation,
    reason = "constants and the size of a struct, in the types that the socket API has"
)]
pub(super) fn bind_to_interface(socket: BorrowedFd<'_>, ifindex: u32) -> io::Result<()> {
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: sockaddr_ll is plain integers and bytes, for which all zeros is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex;
    // SAFETY:
    // - the descriptor is open as long as it is borrowed;
    // - `address` lives until the call returns and the length is its own;
    // - the kernel only reads it.
    let done = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of_val(&address) as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Receives at least one datagram and as many more as wait and fit, one into each buffer; what is longer is cut. Returns
/// how many there were.
///
/// # Errors
/// What the kernel says, such as EAGAIN when a receive time limit has passed.
pub(super) fn receive_batch<const LEN: usize>(
    socket: BorrowedFd<'_>,
    buffers: &mut [[u8; LEN]],
) -> io::Result<usize> {
    let mut slices: Vec<libc::iovec> = buffers
        .iter_mut()
        .map(|buffer| libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: LEN,
        })
        .collect();
    let mut headers: Vec<libc::mmsghdr> = slices
        .iter_mut()
        .map(|slice| {
            // SAFETY: mmsghdr is plain integers and pointers, for which all zeros is a value.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header
        })
        .collect();
    let count = libc::c_uint::try_from(headers.len()).map_err(io::Error::other)?;
    // SAFETY:
    // - the descriptor is open as long as it is borrowed;
    // - `headers` has `count` entries, each with one slice that is a whole buffer of its own;
    // - headers, slices and buffers live until the call returns and nobody else touches them.
    let received = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}
