//! The ioctls of `/dev/net/tun` (linux/if_tun.h), and nothing else: all `unsafe` of the ports.

use std::ffi::{c_int, c_short, c_uint, c_ulong};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// What a TUN/TAP file descriptor is attached to.
#[derive(Debug)]
pub(super) struct Attachment {
    /// The device's name now, in whatever namespace it is.
    pub(super) name: String,
    /// `IFF_TAP`, `IFF_VNET_HDR` and so on.
    pub(super) flags: c_int,
}

/// TUNSETIFF: creates the device, or attaches a further queue to it.
pub(super) fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: c_int) -> io::Result<()> {
    let mut request = request(name)?;
    request.ifr_ifru.ifru_flags = short(flags);
    // SAFETY:
    // - TUNSETIFF reads and writes one `struct ifreq`, and `request` is one that lives through the call;
    // - its name is NUL-terminated (`request` refuses longer ones).
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
}

/// TUNGETIFF: what the file descriptor is attached to. `EBADFD` if its device is gone.
pub(super) fn attachment(fd: BorrowedFd<'_>) -> io::Result<Attachment> {
    let mut request = request("")?;
    // SAFETY: TUNGETIFF writes one `struct ifreq`, and `request` is one that lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut request) })?;
    // SAFETY: any bits are a `c_short`, and the kernel filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let name: Vec<u8> = request
        .ifr_name
        .iter()
        .map(|byte| byte.to_ne_bytes()[0])
        .take_while(|byte| *byte != 0)
        .collect();
    Ok(Attachment {
        name: String::from_utf8_lossy(&name).into_owned(),
        flags: c_int::from(flags.cast_unsigned()),
    })
}

/// TUNSETOFFLOAD: what the container's kernel may leave undone. Per device, not per file descriptor.
pub(super) fn set_offload(fd: BorrowedFd<'_>, mask: c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, c_ulong::from(mask)) })
}

/// TUNSETVNETHDRSZ: bytes before each frame. Per device.
pub(super) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one `int`, which lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// The network namespace a TAP is in now (TUNGETDEVNETNS), wherever it was moved. The answer keeps the namespace alive:
/// drop it soon.
///
/// # Errors
/// `EBADFD` when the device is gone; `EPERM` without CAP_NET_ADMIN in that namespace.
pub fn device_netns(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: TUNGETDEVNETNS takes no argument.
    let netns = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETDEVNETNS) };
    if netns < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this file descriptor for us and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(netns) })
}

/// The name a TAP has now, in whatever namespace it is.
///
/// # Errors
/// `EBADFD` when the device is gone.
pub fn device_name(fd: BorrowedFd<'_>) -> io::Result<String> {
    Ok(attachment(fd)?.name)
}

/// Takes the file descriptor out of a wrapper that speaks of raw numbers only.
pub(super) fn into_owned(wrapper: impl IntoRawFd) -> OwnedFd {
    // SAFETY: `into_raw_fd` gives ownership away, and this is the only taker.
    unsafe { OwnedFd::from_raw_fd(wrapper.into_raw_fd()) }
}

fn request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: `ifreq` is a C struct of integers, addresses and a pointer that we never follow: all zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
}

/// The flags' bits in the width that `ifreq` has for them.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags are 16 bits, bit 15 is no sign here"
)]
const fn short(flags: c_int) -> c_short {
    flags as c_short
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
