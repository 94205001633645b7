//! The system calls of the tunnel: socket options that no crate has, trains of datagrams from scattered memory
//! (`sendmmsg` with UDP_SEGMENT), trains into one block (`recvmmsg` with UDP_GRO). Comes last on the way out and first on the way in; decides nothing.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use socket2::SockAddr;

use super::encap::{Encap, HEAD_LEN};
use crate::mtu::TRAIN_SEGMENTS_MAX;

/// Datagrams per call: one superframe of an Ethernet underlay (45 of 1,450 bytes) goes in one, and so does the longest
/// train that any kernel takes (UDP_MAX_SEGMENTS: 128 since Linux 6.9, 64 before).
pub(super) const SEND_BATCH: usize = TRAIN_SEGMENTS_MAX;
/// Trains per `recvmmsg`.
const RECEIVE_BATCH: usize = 64;
/// So many at once are bulk: more is on its way, and worth another call.
const RECEIVE_BULK: usize = 4;
/// Trains of a first call after quiet ones.
const RECEIVE_LEAST: usize = 4;
/// Room for any UDP payload, and for what UDP_GRO joins. With [`RECEIVE_BATCH`] 4 MiB per worker, of which only pages
/// that were written to are resident: 256 KiB after datagrams of an Ethernet underlay, nothing before the first.
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
    /// IP_RECVERR: report ICMP errors at an unconnected socket.
    ReceiveErrors4,
    /// IPV6_RECVERR.
    ReceiveErrors6,
    /// UDP_GRO: hand datagrams of a flow over together.
    Gro,
    /// IP_TOS: what sent packets have.
    Tos4,
    /// IPV6_TCLASS.
    Tos6,
    /// IP_RECVTOS: say what received packets had.
    ReceiveTos4,
    /// IPV6_RECVTCLASS.
    ReceiveTos6,
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
            Self::ReceiveErrors4 => (libc::IPPROTO_IP, libc::IP_RECVERR),
            Self::ReceiveErrors6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
            Self::Gro => (libc::IPPROTO_UDP, libc::UDP_GRO),
            Self::Tos4 => (libc::IPPROTO_IP, libc::IP_TOS),
            Self::Tos6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            Self::ReceiveTos4 => (libc::IPPROTO_IP, libc::IP_RECVTOS),
            Self::ReceiveTos6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS),
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
    let program = [instruction(0x06, 0, 0)]; // BPF_RET | BPF_K
    attach(socket, libc::SO_ATTACH_FILTER, &program)
}

/// Spreads datagrams over the sockets of a group (SO_REUSEPORT), in the order in which they were bound: those with
/// QUIC's fixed bit (RFC 9000 section 17) to the first, all others to the `workers` that follow, by their first four
/// bytes, which are the SPI of ESP. What is shorter goes to the first too.
pub(super) fn steer_by_spi(group: BorrowedFd<'_>, workers: u32) -> io::Result<()> {
    let program = [
        instruction(0x30, 0, 0), // BPF_LD | BPF_B | BPF_ABS: the first byte
        jump_if_set(0x40, 0, 1), // QUIC's fixed bit
        instruction(0x06, 0, 0), // BPF_RET | BPF_K: the first socket
        instruction(0x20, 0, 0), // BPF_LD | BPF_W | BPF_ABS: the SPI
        instruction(0x94, workers.max(1), 0), // BPF_ALU | BPF_MOD | BPF_K
        instruction(0x04, 1, 0), // BPF_ALU | BPF_ADD | BPF_K
        instruction(0x16, 0, 0), // BPF_RET | BPF_A
    ];
    attach(group, libc::SO_ATTACH_REUSEPORT_CBPF, &program)
}

const fn instruction(code: u16, k: u32, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf, k }
}

/// BPF_JMP | BPF_JSET | BPF_K.
const fn jump_if_set(bits: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter {
        code: 0x45,
        jt,
        jf,
        k: bits,
    }
}

/// Gives the kernel a classic BPF program.
fn attach(
    socket: BorrowedFd<'_>,
    option: libc::c_int,
    program: &[libc::sock_filter],
) -> io::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY:
    // - both options take a sock_fprog, whose address and size are passed;
    // - its `filter` points to `len` instructions, which the slice keeps alive;
    // - the kernel copies both during the call and writes to neither.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(&filter).cast(),
            len_of::<libc::sock_fprog>(),
        )
    };
    checked(result).map(drop)
}

/// Where trains on their way out are laid out: headers are written here, payload stays where it is.
pub(super) struct Outbox {
    heads: Box<[[u8; HEAD_LEN]]>,
    pieces: Box<[[libc::iovec; 2]]>,
    sizes: Box<[SegmentSize]>,
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
            sizes: vec![SegmentSize::new(); SEND_BATCH].into_boxed_slice(),
            messages: vec![empty_message(); SEND_BATCH].into_boxed_slice(),
        }
    }

    /// Sends the datagrams of `encap` from number `first` on, at most a batch, in trains of at most `train` (1: each
    /// on its own); says how many datagrams the kernel took, at least 1. Never waits.
    ///
    /// # Errors
    /// What the kernel says about the train that begins with datagram `first`.
    pub(super) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        to: &SockAddr,
        encap: &Encap<'_>,
        first: usize,
        train: usize,
    ) -> io::Result<usize> {
        let count = encap.count().saturating_sub(first).min(SEND_BATCH);
        let slots = self.heads.iter_mut().zip(self.pieces.iter_mut());
        for (i, (head, pieces)) in slots.take(count).enumerate() {
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
        }
        let trains = self.pieces[..count].chunks_mut(train.max(1));
        let used = trains.len();
        let slots = self.sizes.iter_mut().zip(self.messages.iter_mut());
        for (pieces, (size, message)) in trains.zip(slots) {
            let header = &mut message.msg_hdr;
            header.msg_name = to.as_ptr().cast_mut().cast();
            header.msg_namelen = to.len();
            header.msg_iov = pieces.as_mut_ptr().cast();
            header.msg_iovlen = 2 * pieces.len();
            (header.msg_control, header.msg_controllen) = if pieces.len() > 1 {
                size.set(encap.datagram_len());
                (ptr::from_mut(size).cast(), mem::size_of::<SegmentSize>())
            } else {
                (ptr::null_mut(), 0)
            };
        }
        // SAFETY:
        // - `messages` has at least `used` (<= count <= SEND_BATCH) entries, all filled above;
        // - each msg_iov points to 2 iovecs per datagram of its own part of `pieces`, whose bases point to the first
        //   `head_len` bytes of a head and to a payload that `encap` borrows: all outlive the call, and sending only
        //   reads them;
        // - msg_name points to `to.len()` bytes of `to`; msg_control is null with length 0, or a whole `SegmentSize`.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.messages.as_mut_ptr(),
                count_of(used),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        let taken = checked(result)?;
        Ok(count.min(taken * train.max(1)))
    }
}

impl std::fmt::Debug for Outbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox")
            .field("slots", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// Sends `bytes` as datagrams of `size` each (the last may be shorter): one train, or one datagram. Never waits.
///
/// # Errors
/// What the kernel says; nothing was sent then.
pub(super) fn send_train(
    socket: BorrowedFd<'_>,
    to: &SockAddr,
    bytes: &[u8],
    size: usize,
) -> io::Result<()> {
    let mut piece = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut segment = SegmentSize::new();
    let mut header = empty_message().msg_hdr;
    header.msg_name = to.as_ptr().cast_mut().cast();
    header.msg_namelen = to.len();
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    if bytes.len() > size {
        segment.set(size);
        header.msg_control = ptr::from_mut(&mut segment).cast();
        header.msg_controllen = mem::size_of::<SegmentSize>();
    }
    // SAFETY: name, iovec and control message of `header` point to `to`, `piece` (which points to `bytes`) and
    // `segment`, which outlive the call; sending only reads them.
    let result = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const header,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(result)
        .map(drop)
        .map_err(|_| io::Error::last_os_error())
}

/// The control message UDP_SEGMENT: how a train is to be cut. Laid out as `CMSG_SPACE(2)`.
#[derive(Clone, Copy)]
#[repr(C)]
struct SegmentSize {
    header: libc::cmsghdr,
    /// Bytes of each datagram but the last.
    size: u16,
    padding: [u8; 6],
}

const _: () = {
    // SAFETY: CMSG_SPACE and CMSG_LEN only calculate.
    let (space, len) = unsafe { (libc::CMSG_SPACE(2), libc::CMSG_LEN(2)) };
    assert!(mem::size_of::<SegmentSize>() == space as usize);
    assert!(mem::offset_of!(SegmentSize, size) + 2 == len as usize);
};

impl SegmentSize {
    fn new() -> Self {
        // SAFETY: cmsghdr is integers only, for which zero is a value.
        let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
        // SAFETY: CMSG_LEN only calculates.
        header.cmsg_len = unsafe { libc::CMSG_LEN(2) } as _;
        header.cmsg_level = libc::SOL_UDP;
        header.cmsg_type = libc::UDP_SEGMENT;
        Self {
            header,
            size: 0,
            padding: [0; 6],
        }
    }

    fn set(&mut self, bytes: usize) {
        self.size = u16::try_from(bytes).expect("a datagram is shorter than 64 KiB");
    }
}

/// Datagrams of one sender that the kernel handed over together (UDP_GRO): one, or several of equal size and a last
/// that may be shorter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train {
    /// Outer source address and port.
    pub(super) from: SocketAddr,
    /// Bytes of the UDP payloads, one after the other.
    pub(super) len: usize,
    /// Where in [`Inbox::buffer`] they start.
    pub(super) start: usize,
    /// Bytes of each but the last; at least 1.
    pub(super) size: usize,
    /// The end of it is lost.
    pub(super) truncated: bool,
    /// ECN bits of the outer packets, as far as the socket was told to say (RFC 3168 section 5).
    pub(super) ecn: u8,
}

impl Train {
    /// Where in [`Inbox::buffer`] each datagram's payload is; an empty datagram is one too.
    #[inline]
    pub(super) fn datagrams(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (size, start) = (self.size, self.start);
        let end = start + self.len;
        (0..self.count()).map(move |i| start + i * size..(start + (i + 1) * size).min(end))
    }

    /// How many datagrams.
    #[inline]
    pub(super) const fn count(&self) -> usize {
        let count = self.len.div_ceil(self.size);
        if count == 0 { 1 } else { count }
    }
}

/// Room for the control message UDP_GRO (an int) of a received train, and for one more that we did not ask for.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_LEN]);

const CONTROL_LEN: usize = 64;

/// Where a batch is received into.
pub(super) struct Inbox {
    /// How many trains the next batch may have: what is prepared for one that doesn't come is work for nothing.
    expected: usize,
    /// [`RECEIVE_BATCH`] slots of [`SLOT_LEN`].
    buffer: Box<[u8]>,
    names: Box<[libc::sockaddr_storage]>,
    controls: Box<[Control]>,
    pieces: Box<[libc::iovec]>,
    messages: Box<[libc::mmsghdr]>,
}

// SAFETY: the raw pointers in `pieces` and `messages` are written and read by the kernel within one call of `receive`
// only, which borrows the inbox exclusively; between calls nothing follows them, so any thread may own them.
unsafe impl Send for Inbox {}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            expected: RECEIVE_LEAST,
            // Zeroed by the allocator, that is, not touched: see `SLOT_LEN`.
            buffer: vec![0; RECEIVE_BATCH * SLOT_LEN].into_boxed_slice(),
            names: vec![empty_name(); RECEIVE_BATCH].into_boxed_slice(),
            controls: vec![Control([0; CONTROL_LEN]); RECEIVE_BATCH].into_boxed_slice(),
            pieces: vec![EMPTY_PIECE; RECEIVE_BATCH].into_boxed_slice(),
            messages: vec![empty_message(); RECEIVE_BATCH].into_boxed_slice(),
        }
    }

    /// Takes what is there, at most a batch, and says how many trains [`Self::train`] has; 0 when there are none.
    /// Errors of the socket (left by ICMP or by an interface that went down) are cleared by reading them.
    pub(super) fn receive(&mut self, socket: BorrowedFd<'_>) -> usize {
        let mut errors = 0;
        let mut taken = 0;
        while taken < RECEIVE_BATCH {
            let room = taken..(taken + self.expected).min(RECEIVE_BATCH);
            match self.receive_once(socket, room.clone()) {
                Ok(more) => {
                    taken += more;
                    // What comes while a bulk is taken belongs to the same superframes.
                    if more < room.len() && more < RECEIVE_BULK {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if errors < RECEIVE_ERRORS_MAX => errors += 1,
                Err(_) => break,
            }
        }
        self.expected = (2 * taken).clamp(RECEIVE_LEAST, RECEIVE_BATCH);
        taken
    }

    /// Receives into these slots.
    fn receive_once(&mut self, socket: BorrowedFd<'_>, room: Range<usize>) -> io::Result<usize> {
        let slots = self.buffer[room.start * SLOT_LEN..room.end * SLOT_LEN]
            .chunks_exact_mut(SLOT_LEN)
            .zip(&mut self.names[room.clone()])
            .zip(&mut self.controls[room.clone()])
            .zip(&mut self.pieces[room.clone()])
            .zip(&mut self.messages[room.clone()]);
        for ((((slot, name), control), piece), message) in slots {
            *piece = libc::iovec {
                iov_base: slot.as_mut_ptr().cast(),
                iov_len: slot.len(),
            };
            let header = &mut message.msg_hdr;
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_namelen = len_of::<libc::sockaddr_storage>();
            header.msg_iov = piece;
            header.msg_iovlen = 1;
            header.msg_control = ptr::from_mut(control).cast();
            header.msg_controllen = CONTROL_LEN;
            header.msg_flags = 0;
        }
        // SAFETY:
        // - the slice of `messages` has `room.len()` entries, all filled above;
        // - each has its own iovec, slot (SLOT_LEN writable bytes), name (a whole sockaddr_storage) and control buffer
        //   (CONTROL_LEN bytes), which this exclusive borrow keeps alive and unshared during the call;
        // - a null timeout is allowed.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.messages[room.clone()].as_mut_ptr(),
                count_of(room.len()),
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        checked(result)
    }

    /// The memory that the trains of the last batch lie in.
    #[inline]
    pub(super) fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// The same, to be opened in place.
    #[inline]
    pub(super) fn buffer_mut(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Train `i` of the last batch; `None` if there is none, or from no address.
    #[inline]
    pub(super) fn train(&self, i: usize) -> Option<Train> {
        let message = self.messages.get(i)?;
        let start = i * SLOT_LEN;
        let len = Some(message.msg_len as usize).filter(|len| *len <= SLOT_LEN)?;
        let given = message.msg_hdr.msg_controllen.min(CONTROL_LEN);
        let control = self.controls.get(i)?.0.get(..given)?;
        let said = Said::of(control);
        Some(Train {
            from: address_of(self.names.get(i)?)?,
            len,
            start,
            size: said.size.unwrap_or(len).max(1),
            truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            ecn: said.ecn,
        })
    }
}

/// What the kernel said beside a train.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// UDP_GRO: bytes of each datagram but the last.
    size: Option<usize>,
    /// Of IP_TOS or IPV6_TCLASS.
    ecn: u8,
}

impl Said {
    /// Reads the control messages that the kernel wrote.
    #[inline]
    fn of(mut control: &[u8]) -> Self {
        const HEADER_LEN: usize = mem::size_of::<libc::cmsghdr>();
        let mut said = Self::default();
        while let Some(header) = control.get(..HEADER_LEN) {
            // SAFETY: `header` has the bytes of a cmsghdr, integers for which every pattern is a value; no alignment is
            // asked for.
            let header: libc::cmsghdr = unsafe { ptr::read_unaligned(header.as_ptr().cast()) };
            let len = header.cmsg_len;
            let Some(data) = control.get(HEADER_LEN..len) else {
                break;
            };
            let int = data
                .first_chunk()
                .map(|int| libc::c_int::from_ne_bytes(*int));
            match (header.cmsg_level, header.cmsg_type) {
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    said.size = int.and_then(|size| usize::try_from(size).ok());
                }
                // One byte.
                (libc::IPPROTO_IP, libc::IP_TOS) => {
                    said.ecn = data.first().map_or(0, |tos| tos & 3);
                }
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                    said.ecn = int
                        .and_then(|class| u8::try_from(class & 3).ok())
                        .unwrap_or(0);
                }
                _ => {}
            }
            let next = len.next_multiple_of(mem::align_of::<libc::cmsghdr>());
            let Some(rest) = control.get(next..) else {
                break;
            };
            control = rest;
        }
        said
    }
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox")
            .field("slots", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// Address and port in a socket address.
#[inline]
fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is at least as large and as strictly aligned as sockaddr_in, every bit pattern
            // of which is a value; the family says that it is one.
            let v4 = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let octets = v4.sin_addr.s_addr.to_ne_bytes();
            Some((Ipv4Addr::from(octets), u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for sockaddr_in6.
            let v6 = unsafe { *ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            Some(
                (
                    Ipv6Addr::from(v6.sin6_addr.s6_addr),
                    u16::from_be(v6.sin6_port),
                )
                    .into(),
            )
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
