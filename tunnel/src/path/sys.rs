//! The system calls of the tunnel: socket options that no crate has, `sendmmsg` from scattered memory, `recvmmsg` into
//! one block. Comes last on the way out and first on the way in; decides nothing.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::SockAddr;

use super::encap::{Encap, HEAD_LEN};

/// Datagrams per `sendmmsg`: one superframe of an Ethernet underlay (45 of 1,450 bytes) goes in one call.
const SEND_BATCH: usize = 64;
/// Datagrams per `recvmmsg`.
const RECEIVE_BATCH: usize = 32;
/// Room for any UDP payload, and for what UDP_GRO joins. With [`RECEIVE_BATCH`] 2 MiB per worker, of which only pages
/// that were written to are resident: 128 KiB after datagrams of an Ethernet underlay, nothing before the first.
const SLOT_LEN: usize = 1 << 16;
/// Receive errors passed over per call: reading one clears it, so more than this are not left over from the past.
const RECEIVE_ERRORS_MAX: usize = 3;

/// Options of a UDP socket.
#[derive(Clone, Copy, Debug)]
pub(super) enum SocketOption {
    /// SO_RCVBUF beyond rmem_max (bytes).
    ReceiveBufferForce,
    /// SO_SNDBUF beyond wmem_max (bytes).
    SendBufferForce,
    /// IP_MTU_DISCOVER.
    MtuProbe4,
    /// IPV6_MTU_DISCOVER.
    MtuProbe6,
    /// IPV6_DONTFRAG: without it IPv6 fragments at the source whatever the other option says.
    DontFragment6,
    /// UDP_NO_CHECK6_RX: take datagrams without checksum over IPv6.
    NoCheck6Rx,
}

impl SocketOption {
    const fn level_and_name(self) -> (libc::c_int, libc::c_int) {
        match self {
            Self::ReceiveBufferForce => (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE),
            Self::SendBufferForce => (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE),
            Self::MtuProbe4 => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            Self::MtuProbe6 => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
            Self::DontFragment6 => (libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG),
            Self::NoCheck6Rx => (libc::IPPROTO_UDP, libc::UDP_NO_CHECK6_RX),
        }
    }
}

/// Sets an option whose value is an integer.
pub(super) fn set(
    socket: BorrowedFd<'_>,
    option: SocketOption,
    value: libc::c_int,
) -> io::Result<()> {
    let (level, name) = option.level_and_name();
    // SAFETY:
    // - every option of `SocketOption` takes a c_int, whose address and size are passed;
    // - the kernel reads it during the call only.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&value).cast(),
            len_of::<libc::c_int>(),
        )
    };
    checked(result).map(drop)
}

/// Makes the kernel drop whatever arrives at the socket, so that nobody can fill its receive buffer.
pub(super) fn receive_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    // "Accept 0 bytes", the whole program.
    let mut program = libc::sock_filter {
        code: 0x06, // BPF_RET | BPF_K
        jt: 0,
        jf: 0,
        k: 0,
    };
    let filter = libc::sock_fprog {
        len: 1,
        filter: &raw mut program,
    };
    // SAFETY:
    // - SO_ATTACH_FILTER takes a sock_fprog, whose address and size are passed;
    // - its `filter` points to `len` = 1 instruction that lives to the end of this function;
    // - the kernel copies both during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            ptr::from_ref(&filter).cast(),
            len_of::<libc::sock_fprog>(),
        )
    };
    checked(result).map(drop)
}

/// Where a batch on its way out is laid out: headers are written here, payload stays where it is.
pub(super) struct Outbox {
    heads: Box<[[u8; HEAD_LEN]]>,
    pieces: Box<[[libc::iovec; 2]]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `pieces` and `messages` are written and read by the kernel within one call of `send`
// only, which borrows the outbox exclusively; between calls nothing follows them, so any thread may own them.
unsafe impl Send for Outbox {}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            heads: vec![[0; HEAD_LEN]; SEND_BATCH].into_boxed_slice(),
            pieces: vec![[EMPTY_PIECE; 2]; SEND_BATCH].into_boxed_slice(),
            messages: vec![empty_message(); SEND_BATCH].into_boxed_slice(),
        }
    }

    /// Sends the datagrams of `encap` from number `first` on, at most a batch; says how many the kernel took, at
    /// least 1. Never waits.
    ///
    /// # Errors
    /// What the kernel says about datagram `first`.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        to: &SockAddr,
        encap: &Encap<'_>,
        first: usize,
    ) -> io::Result<usize> {
        let count = encap.count().saturating_sub(first).min(SEND_BATCH);
        let slots = self.heads.iter_mut().zip(self.pieces.iter_mut());
        let slots = slots.zip(self.messages.iter_mut()).take(count);
        for (i, ((head, pieces), message)) in slots.enumerate() {
            let head_len = encap.write_head(first + i, head);
            let payload = encap.payload(first + i);
            pieces[0] = libc::iovec {
                iov_base: head.as_mut_ptr().cast(),
                iov_len: head_len,
            };
            // The kernel only reads it, though iovec has no const.
            pieces[1] = libc::iovec {
                iov_base: payload.as_ptr().cast_mut().cast(),
                iov_len: payload.len(),
            };
            let header = &mut message.msg_hdr;
            header.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_namelen = to.len();
            header.msg_iov = pieces.as_mut_ptr();
            header.msg_iovlen = pieces.len();
        }
        // SAFETY:
        // - `messages` has at least `count` (<= SEND_BATCH) entries, all filled above;
        // - each msg_iov points to 2 iovecs of `pieces`, whose bases point to the first `head_len` bytes of a head
        //   and to a payload that `encap` borrows: all outlive the call, and sending only reads them;
        // - msg_name points to `to.len()` bytes of `to`; msg_control is null with length 0.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count_of(count),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        checked(result)
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("slots", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// A received datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'b> {
    /// Outer source address.
    pub(super) from: IpAddr,
    /// UDP payload.
    pub(super) bytes: &'b [u8],
    /// The end of it is lost.
    pub(super) truncated: bool,
}

/// Where a batch is received into.
pub(super) struct Inbox {
    /// [`RECEIVE_BATCH`] slots of [`SLOT_LEN`].
    buffer: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    pieces: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `pieces` and `messages` are written and read by the kernel within one call of `receive`
// only, which borrows the inbox exclusively; between calls nothing follows them, so any thread may own them.
unsafe impl Send for Inbox {}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            // Zeroed by the allocator, that is, not touched: see `SLOT_LEN`.
            buffer: vec![0; RECEIVE_BATCH * SLOT_LEN].into_boxed_slice(),
            names: vec![empty_name(); RECEIVE_BATCH].into_boxed_slice(),
            pieces: vec![EMPTY_PIECE; RECEIVE_BATCH].into_boxed_slice(),
            messages: vec![empty_message(); RECEIVE_BATCH].into_boxed_slice(),
        }
    }

    /// Takes what is there, at most a batch, and says how many datagrams [`Self::datagram`] has; 0 when there are
    /// none. Errors of the socket (left by ICMP or by an interface that went down) are cleared by reading them.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> usize {
        let mut errors = 0;
        loop {
            match self.receive_once(socket) {
                Ok(taken) => return taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if errors < RECEIVE_ERRORS_MAX => errors += 1,
                Err(_) => return 0,
            }
        }
    }

    fn receive_once(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let slots = self.buffer.chunks_exact_mut(SLOT_LEN);
        let slots = slots.zip(self.names.iter_mut()).zip(self.pieces.iter_mut());
        for (((slot, name), piece), message) in slots.zip(self.messages.iter_mut()) {
            *piece = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            };
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = len_of::<libc::sockaddr_storage>();
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_flags = 0;
        }
        // SAFETY:
        // - `messages` has RECEIVE_BATCH entries, all filled above;
        // - each has its own iovec, slot (SLOT_LEN writable bytes) and name (a whole sockaddr_storage), which this
        //   exclusive borrow keeps alive and unshared during the call; msg_control is null with length 0;
        // - a null timeout is allowed.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count_of(RECEIVE_BATCH),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        checked(result)
    }

    /// Datagram `i` of the last batch; `None` if there is none, or from no address.
    #[inline]
    pub(super) fn datagram(&self, i: usize) -> Option<Datagram<'_>> {
        let message = self.messages.get(i)?;
        let slot = self.buffer.chunks_exact(SLOT_LEN).nth(i)?;
        Some(Datagram {
            from: address_of(self.names.get(i)?)?,
            bytes: slot.get(..message.msg_len as usize)?,
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
        })
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("slots", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// The IP address in a socket address.
#[inline]
fn address_of(name: &libc::sockaddr_storage) -> Option<IpAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is at least as large and as strictly aligned as sockaddr_in, every bit pattern
            // of which is a value; the family says that it is one.
            let v4 = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let octets = v4.sin_addr.s_addr.to_ne_bytes();
            Some(Ipv4Addr::from(octets).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

const EMPTY_PIECE: libc::iovec = libc::iovec {
    iov_base: ptr::null_mut(),
    iov_len: 0,
};

fn empty_message() -> libc::mmsghdr {
    // SAFETY: mmsghdr is integers and raw pointers, for all of which zero is a value.
    unsafe { mem::zeroed() }
}

fn empty_name() -> libc::sockaddr_storage {
    // SAFETY: sockaddr_storage is integers only, for which zero is a value.
    unsafe { mem::zeroed() }
}

fn len_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).expect("socket structures are small")
}

fn count_of(messages: usize) -> libc::c_uint {
    libc::c_uint::try_from(messages).expect("batches are small")
}

/// A system call's result: a count, or the error it left in errno.
fn checked(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
