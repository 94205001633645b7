//! What agent and holder say to each other: one JSON object per message of a SEQPACKET socket, file descriptors beside
//! it. Each request gets one reply, in order.
//!
//! Either side may be older. Unknown fields are skipped; an unknown request is refused by name; so new requests may be
//! added, and the meaning of the ones here may not change.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use socket2::Socket;

use super::sys;

/// Bytes of the longest message.
pub(super) const MESSAGE_MAX_LEN: usize = 64 * 1024;
/// Deposits in one `List` reply: at most 128 bytes of name, which JSON may write as six each.
pub(super) const LIST_PAGE: usize = 64;

/// What an agent asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum Request {
    /// First of all: this agent takes over.
    Hello,
    /// Holds the file descriptors that come with it, instead of what was held under that name.
    Keep { name: String },
    /// Closes what is held under that name, if anything.
    Forget { name: String },
    /// The deposits whose names come after this one.
    List {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Duplicates of what is held under that name.
    Fetch { name: String },
}

/// What the holder answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "re", rename_all = "snake_case")]
pub(super) enum Reply {
    /// Done.
    Done,
    /// Not done.
    Refused { why: String },
    /// Some deposits in order of name; ask for what comes after the last if there are more.
    Deposits { deposits: Vec<Deposit>, more: bool },
    /// File descriptors come with it, or none are held.
    Fds { fds: usize },
}

/// A deposit in a list.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Deposit {
    pub(super) name: String,
    pub(super) fds: usize,
}

/// A message as it came.
#[derive(Debug)]
pub(super) struct Incoming<T> {
    /// What it says, or why that is not understood.
    pub(super) body: Result<T, String>,
    /// What came with it.
    pub(super) fds: Vec<OwnedFd>,
}

/// Sends a message as a whole.
///
/// # Errors
/// `WouldBlock` if a non-blocking socket, or one with a timeout, is full; `InvalidInput` if the message is too long.
pub(super) fn send<T: Serialize>(
    socket: &Socket,
    body: &T,
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let bytes = serde_json::to_vec(body)?;
    if bytes.len() > MESSAGE_MAX_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [IoSlice::new(&bytes)];
    loop {
        match sendmsg::<()>(
            socket.as_raw_fd(),
            &parts,
            rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives a message; `None` when the other side has closed.
///
/// # Errors
/// `WouldBlock` if a non-blocking socket, or one with a timeout, has none.
pub(super) fn receive<T: DeserializeOwned>(
    socket: &Socket,
    buffer: &mut [u8],
) -> io::Result<Option<Incoming<T>>> {
    let received = sys::receive(socket, buffer)?;
    if received.len == 0 {
        return Ok(None);
    }
    let body = if received.cut {
        Err("the message is too long".to_owned())
    } else if received.fds_lost {
        Err("the receiver ran out of file descriptors".to_owned())
    } else {
        serde_json::from_slice(&buffer[..received.len]).map_err(|error| error.to_string())
    };
    Ok(Some(Incoming {
        body,
        fds: received.fds,
    }))
}
