//! Making TAP devices, and setting up file descriptors of TAPs that somebody made. What follows, the move into a
//! namespace, addresses and link state, is netlink's and not done here.
//!
//! All queues are opened here, before the device is moved: TUNSETIFF looks the name up in the namespace in which
//! `/dev/net/tun` was opened, so a later queue would make a new device instead.

use std::ffi::{c_int, c_uint};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::net::if_::if_nametoindex;
use weft_wire::VNET_HDR_LEN;

use super::{PortKind, sys};

const TUN_DEVICE: &str = "/dev/net/tun";
/// Bytes of an interface name without the NUL (IFNAMSIZ - 1).
const NAME_MAX_LEN: usize = 15;
/// What a device can have (MAX_TAP_QUEUES of drivers/net/tun.c).
const QUEUES_MAX: usize = 256;

/// As the ioctl wants it.
const VNET_HEADER_LEN: c_int = 10;
const _: () = assert!(VNET_HEADER_LEN.unsigned_abs() as usize == VNET_HDR_LEN);

/// Checksum, TSO for both families with ECN.
const TSO: c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
/// UDP segmentation, Linux 6.2; only both together.
const USO: c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TAP that was just made, in the caller's network namespace, down and without address.
#[derive(Debug)]
pub struct TapDevice {
    /// Interface name.
    pub name: String,
    /// Interface index in the namespace it was made in; a move may change it.
    pub ifindex: u32,
    /// Which kind.
    pub kind: PortKind,
    /// The only handles: when the last is closed the device is destroyed, wherever it is.
    pub queues: Vec<OwnedFd>,
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// An interface of that name exists in this namespace.
    #[error("cannot make TAP {name}: an interface of that name exists here")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// The kernel would not take that name.
    #[error(
        "cannot make TAP {name:?}: an interface name is 1 to 15 bytes without '/', ':', '%' or space"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// More queues than the kind has: 1 for a plain TAP, 1 to 256 for a fast one.
    #[error(
        "cannot make TAP {name} with {queues} queues: a plain TAP has 1, a fast one 1 to {QUEUES_MAX}"
    )]
    BadQueueCount {
        /// The name.
        name: String,
        /// What was asked for.
        queues: usize,
    },
    /// `/dev/net/tun` is not there.
    #[error(
        "cannot make TAP {name}: there is no {TUN_DEVICE}; load the module tun, or pass the device into this container"
    )]
    NoTunDevice {
        /// The name.
        name: String,
    },
    /// CAP_NET_ADMIN is missing.
    #[error("cannot make TAP {name}: permission denied; run as root or with CAP_NET_ADMIN")]
    Permission {
        /// The name.
        name: String,
    },
    /// Anything else the kernel says.
    #[error("cannot make TAP {name}: {source}")]
    System {
        /// The name.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Makes a TAP in the caller's network namespace.
///
/// # Errors
/// [`PortError`]; no device is left then.
pub fn create_tap(name: &str, kind: PortKind, queues: usize) -> Result<TapDevice, PortError> {
    check_name(name)?;
    let fds = match (kind, queues) {
        (PortKind::Offload, 1..=QUEUES_MAX) => create_offload(name, queues),
        (PortKind::Plain, 1) => create_plain(name),
        (PortKind::Offload | PortKind::Plain, _) => {
            return Err(PortError::BadQueueCount {
                name: name.to_owned(),
                queues,
            });
        }
    }
    .map_err(|source| explain(name, source))?;
    let ifindex = if_nametoindex(name).map_err(|errno| explain(name, errno.into()))?;
    Ok(TapDevice {
        name: name.to_owned(),
        ifindex,
        kind,
        queues: fds,
    })
}

fn create_offload(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if queues > 1 {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut fds = Vec::with_capacity(queues);
    for index in 0..queues {
        let fd = open_tun()?;
        // The first makes the device and must not find another's; the rest join it.
        let exclusive = if index == 0 { libc::IFF_TUN_EXCL } else { 0 };
        sys::set_iff(fd.as_fd(), name, flags | exclusive)?;
        fds.push(fd);
    }
    prepare(fds[0].as_fd(), PortKind::Offload)?;
    Ok(fds)
}

/// By the tun-tap crate, which knows no IFF_TUN_EXCL: without the check it would join a device that is there.
fn create_plain(name: &str) -> io::Result<Vec<OwnedFd>> {
    if if_nametoindex(name).is_ok() {
        return Err(Errno::EBUSY.into());
    }
    let iface = tun_tap::Iface::without_packet_info(name, tun_tap::Mode::Tap)?;
    let fd = sys::into_owned(iface);
    prepare(fd.as_fd(), PortKind::Plain)?;
    Ok(vec![fd])
}

fn open_tun() -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(
        TUN_DEVICE,
        flags,
        nix::sys::stat::Mode::empty(),
    )?)
}

/// Makes a file descriptor of a TAP what [`super::Queue`] relies on. The offload mask and the header's size belong to
/// the device and outlive its owners, so they are set here and not only when it is made.
/// Says whether the kernel cuts superframes of UDP.
pub(super) fn prepare(fd: BorrowedFd<'_>, kind: PortKind) -> io::Result<bool> {
    let attachment = sys::attachment(fd)?;
    let has_header = attachment.flags & libc::IFF_VNET_HDR != 0;
    let wants_header = kind == PortKind::Offload;
    let is_tap = attachment.flags & libc::IFF_TAP != 0;
    if !is_tap || has_header != wants_header {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is not a TAP of the expected kind", attachment.name),
        ));
    }
    let takes_datagrams = match kind {
        PortKind::Offload => {
            sys::set_vnet_header_len(fd, VNET_HEADER_LEN)?;
            offer_offloads(fd)? & USO != 0
        }
        // Without a header to say so, a superframe would look like a frame.
        PortKind::Plain => {
            sys::set_offload(fd, 0)?;
            false
        }
    };
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(takes_datagrams)
}

/// The most that this kernel takes, and what that is: an unknown bit is refused as a whole.
fn offer_offloads(fd: BorrowedFd<'_>) -> io::Result<libc::c_uint> {
    for mask in [TSO | USO, TSO] {
        match sys::set_offload(fd, mask) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            done => return done.map(|()| mask),
        }
    }
    sys::set_offload(fd, 0).map(|()| 0)
}

/// What dev_valid_name() of the kernel refuses, and `%`, which it would replace by a number.
fn check_name(name: &str) -> Result<(), PortError> {
    let good = (1..=NAME_MAX_LEN).contains(&name.len())
        && !matches!(name, "." | "..")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if good {
        return Ok(());
    }
    Err(PortError::BadName {
        name: name.to_owned(),
    })
}

fn explain(name: &str, source: io::Error) -> PortError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => PortError::NameTaken { name },
        Some(libc::EPERM | libc::EACCES) => PortError::Permission { name },
        Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => PortError::NoTunDevice { name },
        Some(_) | None => PortError::System { name, source },
    }
}
