//! The agent's end: finds the holder or starts one, and asks it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::Socket;

use super::protocol::{self, MESSAGE_MAX_LEN, Reply, Request};
use super::{Held, HolderError, socket, sys};

/// How long a reply may take. The holder does nothing that waits; this is for a machine under stress.
const REPLY_WITHIN: Duration = Duration::from_secs(5);
/// How long a fresh holder may take until it answers.
const START_WITHIN: Duration = Duration::from_secs(10);
/// How often a fresh holder is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A connection to the fd holder. Its calls block, each for 5 seconds at most.
#[derive(Debug)]
pub struct HolderClient {
    socket: Socket,
    path: PathBuf,
    /// A reply was missed: later ones would be taken for answers to other requests.
    broken: bool,
    buffer: Vec<u8>,
}

impl HolderClient {
    /// Connects to the holder that serves `socket_path` and takes over from any other agent; starts one, detached, by
    /// `exe fd-holder --socket PATH` if there is none.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn connect_or_spawn(socket_path: &Path, exe: &Path) -> Result<Self, HolderError> {
        match Self::connect(socket_path) {
            Err(error) if error.is_absent() => {}
            result => return result,
        }
        let mut child = spawn(socket_path, exe)?;
        let connected = Self::await_start(socket_path, exe, &mut child);
        // It outlives this process; if it ends before, it must not stay as a zombie.
        let _ = thread::Builder::new()
            .name("fd-holder".to_owned())
            .spawn(move || child.wait());
        connected
    }

    /// Connects to the holder that serves `socket_path` and takes over from any other agent.
    ///
    /// # Errors
    /// [`HolderError`]; `Socket` with `NotFound` or `ConnectionRefused` when there is no holder.
    pub fn connect(socket_path: &Path) -> Result<Self, HolderError> {
        let socket = socket::connect(socket_path, REPLY_WITHIN)?;
        let mut client = Self {
            socket,
            path: socket_path.to_owned(),
            broken: false,
            buffer: vec![0; MESSAGE_MAX_LEN],
        };
        client.ask_done("the connection", &Request::Hello, &[])?;
        Ok(client)
    }

    fn await_start(path: &Path, exe: &Path, child: &mut Child) -> Result<Self, HolderError> {
        let deadline = Instant::now() + START_WITHIN;
        loop {
            match Self::connect(path) {
                Err(error) if error.is_absent() => {}
                result => return result,
            }
            if let Ok(Some(status)) = child.try_wait() {
                // It may have found that another one had been faster.
                return Self::connect(path).map_err(|_| HolderError::Ended {
                    exe: exe.to_owned(),
                    path: path.to_owned(),
                    status,
                });
            }
            if Instant::now() > deadline {
                return Err(HolderError::NoAnswer {
                    path: path.to_owned(),
                });
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Deposits duplicates of `fds` under `name`, instead of what was there.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn keep(&mut self, name: &str, fds: &[BorrowedFd<'_>]) -> Result<(), HolderError> {
        let request = Request::Keep {
            name: name.to_owned(),
        };
        self.ask_done("to keep file descriptors", &request, fds)
    }

    /// Has the holder close what is under `name`; fine if nothing is.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn forget(&mut self, name: &str) -> Result<(), HolderError> {
        let request = Request::Forget {
            name: name.to_owned(),
        };
        self.ask_done("to forget file descriptors", &request, &[])
    }

    /// All deposits, in order of their names.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn list(&mut self) -> Result<Vec<Held>, HolderError> {
        let mut all: Vec<Held> = Vec::new();
        loop {
            let after = all.last().map(|held| held.name.clone());
            let (reply, _) = self.ask("the list", &Request::List { after }, &[])?;
            let Reply::Deposits { deposits, more } = reply else {
                return Err(self.unexpected());
            };
            if more && deposits.is_empty() {
                return Err(self.unexpected());
            }
            let deposits = deposits.into_iter();
            all.extend(deposits.map(|held| Held {
                name: held.name,
                fds: held.fds,
            }));
            if !more {
                return Ok(all);
            }
        }
    }

    /// Duplicates of what is under `name`, in the order of the deposit; none if nothing is.
    ///
    /// # Errors
    /// [`HolderError`].
    pub fn fetch(&mut self, name: &str) -> Result<Vec<OwnedFd>, HolderError> {
        let request = Request::Fetch {
            name: name.to_owned(),
        };
        let (reply, fds) = self.ask("file descriptors", &request, &[])?;
        match reply {
            Reply::Fds { fds: count } if count == fds.len() => Ok(fds),
            Reply::Fds { .. } | Reply::Done | Reply::Refused { .. } | Reply::Deposits { .. } => {
                Err(self.unexpected())
            }
        }
    }

    /// Whether the holder is there and this is still its agent. Asks the kernel, not the holder: between requests there
    /// is nothing to read but the end.
    pub fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        !self.broken && poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].any() == Some(false)
    }

    /// The holder's process id.
    pub fn pid(&self) -> Option<i32> {
        socket::peer_pid(&self.socket).ok()
    }

    fn ask_done(
        &mut self,
        what: &'static str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), HolderError> {
        match self.ask(what, request, fds)?.0 {
            Reply::Done => Ok(()),
            Reply::Refused { .. } | Reply::Deposits { .. } | Reply::Fds { .. } => {
                Err(self.unexpected())
            }
        }
    }

    /// One request and its reply; a refusal is an error.
    fn ask(
        &mut self,
        what: &'static str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), HolderError> {
        if self.broken {
            return Err(HolderError::Closed {
                path: self.path.clone(),
            });
        }
        protocol::send(&self.socket, request, fds).map_err(|error| self.failed(error))?;
        let received = protocol::receive::<Reply>(&self.socket, &mut self.buffer);
        let Some(incoming) = received.map_err(|error| self.failed(error))? else {
            self.broken = true;
            return Err(HolderError::Closed {
                path: self.path.clone(),
            });
        };
        match incoming.body {
            Ok(Reply::Refused { why }) => Err(HolderError::Refused { what, why }),
            Ok(reply) => Ok((reply, incoming.fds)),
            Err(_) => Err(self.unexpected()),
        }
    }

    fn failed(&mut self, error: io::Error) -> HolderError {
        let path = self.path.clone();
        // Nothing was sent then, and no reply will come.
        if error.kind() == io::ErrorKind::InvalidInput {
            return HolderError::Socket {
                what: "send to",
                path,
                source: error,
            };
        }
        self.broken = true;
        let kind = error.kind();
        if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
            return HolderError::NoAnswer { path };
        }
        if matches!(
            kind,
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ) {
            return HolderError::Closed { path };
        }
        HolderError::Socket {
            what: "talk to",
            path,
            source: error,
        }
    }

    fn unexpected(&mut self) -> HolderError {
        self.broken = true;
        HolderError::Unexpected {
            path: self.path.clone(),
        }
    }
}

impl AsFd for HolderClient {
    /// For polling: readable when [`Self::is_alive`] has become false.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn spawn(path: &Path, exe: &Path) -> Result<Child, HolderError> {
    let failed = |source| HolderError::Spawn {
        exe: exe.to_owned(),
        source,
    };
    // It starts in another directory.
    let program = std::path::absolute(exe).map_err(failed)?;
    let socket = std::path::absolute(path).map_err(failed)?;
    let mut command = Command::new(program);
    command
        .arg("fd-holder")
        .arg("--socket")
        .arg(socket)
        // The agent's way in is nothing that has to stay around.
        .env_remove(crate::api::TOKEN_ENV)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::detach(&mut command);
    command.spawn().map_err(failed)
}
