//! The one ioctl of namespace files (linux/nsfs.h) that has no safe wrapper.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The CLONE_NEW* flag of the kind of namespace that a file of nsfs is.
pub(super) fn kind(fd: BorrowedFd<'_>) -> io::Result<i32> {
    /// _IO(0xb7, 3)
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    if kind < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(kind)
}
