//! The holder's socket in the file system: paths of any length, leftovers of a holder that died, and who may connect.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::{Mode, umask};
use nix::unistd::Uid;
use socket2::{Domain, SockAddr, Socket, Type};

use super::HolderError;

/// Connections that wait to be accepted: one agent at a time, and somebody who looks.
const BACKLOG: i32 = 8;
/// A holder that lives is seen by its accepting, or by its not refusing.
const STALE_PATIENCE: Duration = Duration::from_secs(1);
/// `sun_path` has 108 bytes, the last a NUL.
const PATH_MAX_LEN: usize = 107;

/// A listening socket that takes its file with it.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    path: PathBuf,
    /// Device and inode, so that nobody else's file is removed.
    file: (u64, u64),
}

impl Listener {
    /// Binds the path, mode 0600, if no live holder serves it. Sets the process's umask.
    pub(super) fn bind(path: &Path) -> Result<Self, HolderError> {
        umask(Mode::from_bits_truncate(0o177));
        let socket = match bind(path) {
            Err(HolderError::Socket { source, .. })
                if source.kind() == io::ErrorKind::AddrInUse =>
            {
                remove_stale(path)?;
                bind(path)?
            }
            result => result?,
        };
        socket
            .listen(BACKLOG)
            .and_then(|()| socket.set_nonblocking(true))
            .map_err(HolderError::socket("listen on", path))?;
        let file = identity(path).map_err(HolderError::socket("find", path))?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            file,
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // If it fails the next holder removes it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Connects and makes sure that the listener is the same user's, or root's. Every wait on the socket, that for a place
/// in the listener's backlog included, ends after `patience`.
pub(super) fn connect(path: &Path, patience: Duration) -> Result<Socket, HolderError> {
    let socket = new_socket()
        .and_then(|socket| {
            socket.set_read_timeout(Some(patience))?;
            socket.set_write_timeout(Some(patience))?;
            Ok(socket)
        })
        .map_err(HolderError::socket("make a socket for", path))?;
    let address = Address::of(path)?;
    socket.connect(&address.address).map_err(|source| {
        // The listener lives but accepts nobody.
        if source.kind() == io::ErrorKind::WouldBlock {
            let path = path.to_owned();
            return HolderError::NoAnswer { path };
        }
        HolderError::socket("connect to", path)(source)
    })?;
    let uid = peer(&socket).map_err(HolderError::socket("connect to", path))?;
    if !is_ours(uid) {
        return Err(HolderError::Foreign {
            path: path.to_owned(),
            uid: uid.as_raw(),
        });
    }
    Ok(socket)
}

/// The user on the other side.
pub(super) fn peer(socket: &Socket) -> io::Result<Uid> {
    Ok(Uid::from_raw(getsockopt(socket, PeerCredentials)?.uid()))
}

/// The process on the other side; of a connection to a listener, the one that called `listen`.
pub(super) fn peer_pid(socket: &Socket) -> io::Result<i32> {
    Ok(getsockopt(socket, PeerCredentials)?.pid())
}

/// Whether file descriptors may be given to and taken from that user.
pub(super) fn is_ours(uid: Uid) -> bool {
    uid.is_root() || uid == Uid::effective()
}

fn bind(path: &Path) -> Result<Socket, HolderError> {
    let failed = HolderError::socket("bind", path);
    let socket = new_socket().map_err(&failed)?;
    let address = Address::of(path)?;
    socket.bind(&address.address).map_err(&failed)?;
    Ok(socket)
}

fn new_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::SEQPACKET, None)
}

/// A socket nobody listens on any more refuses connections; so does a file that is no socket.
fn remove_stale(path: &Path) -> Result<(), HolderError> {
    let failed = HolderError::socket("replace", path);
    if !path
        .symlink_metadata()
        .map_err(&failed)?
        .file_type()
        .is_socket()
    {
        return Err(HolderError::NotASocket {
            path: path.to_owned(),
        });
    }
    match connect(path, STALE_PATIENCE) {
        Err(HolderError::Socket { source, .. })
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(error),
        Ok(_) => Err(HolderError::AlreadyRunning {
            path: path.to_owned(),
        }),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = path.symlink_metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A path in the form the kernel takes. One that is too long is named through its open directory.
#[derive(Debug)]
struct Address {
    address: SockAddr,
    _directory: Option<File>,
}

impl Address {
    fn of(path: &Path) -> Result<Self, HolderError> {
        if path.as_os_str().len() <= PATH_MAX_LEN {
            let address = SockAddr::unix(path).map_err(HolderError::socket("name", path))?;
            return Ok(Self {
                address,
                _directory: None,
            });
        }
        let too_long = || HolderError::NameTooLong {
            path: path.to_owned(),
        };
        let (parent, file) = path.parent().zip(path.file_name()).ok_or_else(too_long)?;
        let directory = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(parent)
            .map_err(HolderError::socket("open the directory of", path))?;
        let short = Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(file);
        if short.as_os_str().len() > PATH_MAX_LEN {
            return Err(too_long());
        }
        let address = SockAddr::unix(short).map_err(HolderError::socket("name", path))?;
        Ok(Self {
            address,
            _directory: Some(directory),
        })
    }
}
