//! The fd holder: a small process that keeps the TAPs' file descriptors while the agent is dead or being replaced. As
//! long as one is open the kernel keeps the device, its addresses and its routes, and the container notices nothing but
//! a pause.
//!
//! The agent starts it ([`HolderClient::connect_or_spawn`]), deposits the file descriptors of each port under a name,
//! and fetches them after a restart. The holder reads no frames and knows nothing of ports; a deposit is a name and some
//! file descriptors. It ends by itself when it holds nothing and nobody is connected.
//!
//! It is the one process that must not die: so it does as little as possible, on one thread, and what it doesn't
//! understand it answers with a refusal. An agent of another version talks to it after an update: requests and replies
//! have named fields and skip what they don't know (`protocol`).

mod client;
mod protocol;
mod server;
mod socket;
mod sys;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

pub use client::HolderClient;
pub use server::run;
pub use sys::raise_fd_limit;

/// Names are at most this long, in bytes.
pub const NAME_MAX_LEN: usize = 128;
/// File descriptors of one deposit: what one message can carry (SCM_MAX_FD of the kernel).
pub const FDS_MAX: usize = 253;

/// A deposit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// How many file descriptors it has.
    pub fds: usize,
}

/// Why the holder doesn't hold.
#[derive(Debug, thiserror::Error)]
pub enum HolderError {
    /// The socket cannot be made or reached.
    #[error("fd holder: cannot {what} {path}: {source}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The path doesn't fit, not even relative to its directory.
    #[error("fd holder: the last part of socket path {path} is too long: shorten it")]
    NameTooLong {
        /// The socket.
        path: PathBuf,
    },
    /// Another file is in the way.
    #[error("fd holder: {path} is there and is no socket: move it away, or name another path")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Another holder serves this socket.
    #[error("fd holder: another one serves {path} already")]
    AlreadyRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The process behind the socket belongs to somebody else.
    #[error(
        "fd holder: the process that serves {path} belongs to user {uid}: end it, and check who may write there"
    )]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// Its user id.
        uid: u32,
    },
    /// The program cannot be started.
    #[error("fd holder: cannot start {exe}: {source}")]
    Spawn {
        /// The program.
        exe: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The program ended at once.
    #[error(
        "fd holder: {exe} ended at once ({status}); `{exe} fd-holder --socket {path}` says why"
    )]
    Ended {
        /// The program.
        exe: PathBuf,
        /// The socket.
        path: PathBuf,
        /// How it ended.
        status: ExitStatus,
    },
    /// No answer in time. The connection is of no use any more.
    #[error("fd holder: no answer on {path}")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
    },
    /// The holder died or gave the connection to a newer agent.
    #[error("fd holder: the connection to {path} was closed: it ended, or a newer agent took over")]
    Closed {
        /// The socket.
        path: PathBuf,
    },
    /// An answer that answers something else. The connection is of no use any more.
    #[error("fd holder: unexpected answer on {path}")]
    Unexpected {
        /// The socket.
        path: PathBuf,
    },
    /// The holder says no.
    #[error("fd holder: {what} refused: {why}")]
    Refused {
        /// The request.
        what: &'static str,
        /// Its words.
        why: String,
    },
}

impl HolderError {
    /// Whether there is no holder, or one that was just ending.
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Closed { .. } => true,
            Self::Socket { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                )
            }
            Self::NameTooLong { .. }
            | Self::NotASocket { .. }
            | Self::AlreadyRunning { .. }
            | Self::Foreign { .. }
            | Self::Spawn { .. }
            | Self::Ended { .. }
            | Self::NoAnswer { .. }
            | Self::Unexpected { .. }
            | Self::Refused { .. } => false,
        }
    }

    fn socket(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Socket {
            what,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests;
