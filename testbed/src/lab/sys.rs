//! The one system call that no safe wrapper has: binding a packet socket to an interface.

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
