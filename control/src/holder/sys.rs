//! What the holder needs of the C library beyond its safe wrappers: receiving file descriptors without losing any,
//! starting a process that outlives this one, limits and signals.

use std::ffi::{c_int, c_uint};
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use socket2::Socket;

use super::FDS_MAX;

/// Bytes for the control message with [`FDS_MAX`] file descriptors (1,032 on 64 bits), and some more.
const CONTROL_LEN: usize = 2048;
const _: () = assert!(CONTROL_LEN >= FDS_MAX * size_of::<c_int>() + 64);

/// Room for control messages, aligned as the kernel wants `struct cmsghdr`.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

/// A message as the kernel gave it.
#[derive(Debug)]
pub(super) struct Received {
    /// Bytes in the buffer; 0 when the other side has closed.
    pub(super) len: usize,
    /// All file descriptors that came, also when some were lost.
    pub(super) fds: Vec<OwnedFd>,
    /// The message was longer than the buffer.
    pub(super) cut: bool,
    /// This process could not take all file descriptors.
    pub(super) fds_lost: bool,
}

/// recvmsg with SCM_RIGHTS. Unlike nix's it also owns what came with a cut control message, which would be leaked
/// otherwise.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: `msghdr` is a C struct of integers and pointers: all zeros are valid.
    let mut header: libc::msghdr = unsafe { zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN as _;
    let len = loop {
        // SAFETY: `header` points to one iovec over `buffer` and to `control`, with their lengths; all three live
        // through the call and nothing else refers to them meanwhile.
        let len =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(len) {
            Ok(len) => break len,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    };
    Ok(Received {
        len,
        fds: take_fds(&header),
        cut: header.msg_flags & libc::MSG_TRUNC != 0,
        fds_lost: header.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// Owns the file descriptors of a header that recvmsg has just filled. Call it once per header.
fn take_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled `header`, whose control buffer is still alive: the macros walk within its length.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !next.is_null() {
        // SAFETY: `next` came from CMSG_FIRSTHDR or CMSG_NXTHDR, which give aligned headers inside the buffer only.
        let message = unsafe { &*next };
        if message.cmsg_level == libc::SOL_SOCKET && message.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_DATA is the address behind the header `next`, no access.
            let data = unsafe { libc::CMSG_DATA(next) };
            let bytes = message.cmsg_len as usize - (data as usize - next as usize);
            for index in 0..bytes / size_of::<c_int>() {
                // SAFETY:
                // - the kernel wrote `bytes` bytes of file descriptors at `data`, and `index` stays within them;
                // - it made them for this process in this very call, so nobody else owns them.
                let fd = unsafe {
                    OwnedFd::from_raw_fd(data.cast::<c_int>().add(index).read_unaligned())
                };
                fds.push(fd);
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR; `next` is a header of this buffer.
        next = unsafe { libc::CMSG_NXTHDR(header, next) };
    }
    fds
}

/// Has the process that `command` starts leave this one's session and inherit no file descriptor but standard ones.
pub(super) fn detach(command: &mut Command) {
    let in_child = || {
        // SAFETY: setsid has no arguments and touches no memory. It fails for a group leader only, and a fresh child
        // is none.
        unsafe { libc::setsid() };
        let (first, flags): (c_uint, c_int) = (3, 4); // CLOSE_RANGE_CLOEXEC
        // SAFETY: this only marks file descriptors of the child to be closed by exec; it closes none that Rust still
        // uses before that. A kernel without it (before 5.11) says ENOSYS, and then ours are close-on-exec anyway.
        unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, flags) };
        Ok(())
    };
    // SAFETY: between fork and exec `in_child` makes two system calls: no allocation, no lock.
    unsafe { command.pre_exec(in_child) };
}

/// Lets this process have as many file descriptors as it may without asking anybody (RLIMIT_NOFILE). The usual 1024 are
/// few for holder and agent: each queue of each port takes one in the holder and two in the agent.
pub fn raise_fd_limit() {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: getrlimit writes one `rlimit`, setrlimit reads one; `limit` lives through both.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Ignores what a terminal sends: it was meant for the agent.
pub(super) fn ignore_terminal_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT] {
        // SAFETY: SIG_IGN runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
