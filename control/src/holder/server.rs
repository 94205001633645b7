//! The holder's process: one thread, one poll, a map from names to file descriptors.
//!
//! It doesn't watch the TAPs while an agent is connected. A watcher would be woken, or at least asked, for each frame,
//! and the agent watches them anyway; so dead ones are looked for once a second while nobody is connected.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use socket2::Socket;

use super::protocol::{self, Deposit, Incoming, LIST_PAGE, MESSAGE_MAX_LEN, Reply, Request};
use super::socket::{self, Listener};
use super::{FDS_MAX, HolderError, NAME_MAX_LEN, sys};
use crate::privileges;

/// How long it waits for an agent while it holds nothing.
const GRACE: Duration = Duration::from_secs(2);
/// How often it looks for dead file descriptors while no agent is connected.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// Connections at a time; beyond, the oldest without authority goes.
const CLIENTS_MAX: usize = 8;
/// The kernel's OOM killer should take nearly anybody else: the holder is small and its death takes all ports with it.
const OOM_SCORE: &str = "-998";

/// The holder's main: serves `socket_path` until it is told to end (SIGTERM) or has nothing to do.
///
/// Ignores SIGHUP and SIGINT, sets the umask and raises the limit of file descriptors, all for the process.
///
/// # Errors
/// [`HolderError`] when the socket cannot be served: another file or another holder is there, or the directory isn't.
pub fn run(socket_path: &Path) -> Result<(), HolderError> {
    sys::ignore_terminal_signals();
    sys::raise_fd_limit();
    // Lowering it takes CAP_SYS_RESOURCE; without, the holder is as likely a victim as others.
    let _ = std::fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    let terminate = terminate_fd().map_err(HolderError::socket("take signals for", socket_path))?;
    let listener = Listener::bind(socket_path)?;
    privileges::keep_only(privileges::HOLDER);
    let mut holder = Holder {
        listener,
        clients: Vec::new(),
        held: BTreeMap::new(),
        alone_since: Instant::now(),
        buffer: vec![0; MESSAGE_MAX_LEN],
    };
    holder
        .serve(&terminate)
        .map_err(HolderError::socket("serve", socket_path))
}

fn terminate_fd() -> io::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(
        &signals,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

#[derive(Debug)]
struct Holder {
    listener: Listener,
    clients: Vec<Client>,
    held: BTreeMap<String, Vec<OwnedFd>>,
    /// Since when nobody is connected; without meaning while somebody is.
    alone_since: Instant,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    socket: Socket,
    /// It has said something. There is one such client: a connection that only looks whether somebody answers doesn't
    /// depose the agent, one that speaks does.
    authority: bool,
}

impl Holder {
    fn serve(&mut self, terminate: &SignalFd) -> io::Result<()> {
        loop {
            let ready = self.wait(terminate)?;
            if ready.terminate {
                return Ok(());
            }
            // Backwards: a client that goes doesn't move those still to be served.
            for index in (0..ready.clients.len()).rev() {
                if ready.clients[index] {
                    self.serve_client(index);
                }
            }
            if ready.listener {
                self.accept();
            }
            if self.clients.is_empty() {
                self.sweep();
                if self.held.is_empty() && self.alone_since.elapsed() >= GRACE {
                    return Ok(());
                }
            }
        }
    }

    fn wait(&self, terminate: &SignalFd) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(terminate.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.socket.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        Ok(Ready {
            terminate: ready[0],
            listener: ready[1],
            clients: ready[2..].to_vec(),
        })
    }

    fn timeout(&self) -> PollTimeout {
        if !self.clients.is_empty() {
            return PollTimeout::NONE;
        }
        let until = if self.held.is_empty() {
            GRACE.saturating_sub(self.alone_since.elapsed()) + Duration::from_millis(1)
        } else {
            SWEEP_EVERY
        };
        PollTimeout::try_from(until).unwrap_or(PollTimeout::ZERO)
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.socket.accept() {
            let welcome = socket::peer(&socket).is_ok_and(socket::is_ours)
                && socket.set_nonblocking(true).is_ok();
            if !welcome {
                continue;
            }
            if self.clients.len() == CLIENTS_MAX
                && let Some(oldest) = self.clients.iter().position(|client| !client.authority)
            {
                self.clients.remove(oldest);
            }
            self.clients.push(Client {
                socket,
                authority: false,
            });
        }
    }

    fn serve_client(&mut self, index: usize) {
        // A connection that another one in this round deposed.
        let Some(client) = self.clients.get(index) else {
            return;
        };
        match protocol::receive(&client.socket, &mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(Some(message)) => {
                let index = if message.body.is_ok() {
                    self.give_authority(index)
                } else {
                    index
                };
                if self.answer(index, message).is_err() {
                    self.remove(index);
                }
            }
            Ok(None) | Err(_) => self.remove(index),
        }
    }

    /// Closes the one that had the authority before, and says where the new one is now.
    fn give_authority(&mut self, index: usize) -> usize {
        if self.clients[index].authority {
            return index;
        }
        let old = self.clients.iter().position(|client| client.authority);
        self.clients[index].authority = true;
        let Some(old) = old else { return index };
        self.clients.remove(old);
        if old < index { index - 1 } else { index }
    }

    fn remove(&mut self, index: usize) {
        self.clients.remove(index);
        if self.clients.is_empty() {
            self.alone_since = Instant::now();
        }
    }

    /// # Errors
    /// The client is gone, or doesn't take its replies.
    fn answer(&mut self, index: usize, message: Incoming<Request>) -> io::Result<()> {
        let socket = &self.clients[index].socket;
        let reply = match message.body {
            Err(why) => Reply::Refused { why },
            Ok(Request::Hello) => Reply::Done,
            Ok(Request::Keep { name }) => keep(&mut self.held, name, message.fds),
            Ok(Request::Forget { name }) => {
                self.held.remove(&name);
                Reply::Done
            }
            Ok(Request::List { after }) => list(&self.held, after),
            Ok(Request::Fetch { name }) => {
                let held = self.held.get(&name).map(Vec::as_slice).unwrap_or_default();
                let fds: Vec<_> = held.iter().map(AsFd::as_fd).collect();
                return protocol::send(socket, &Reply::Fds { fds: fds.len() }, &fds);
            }
        };
        protocol::send(socket, &reply, &[])
    }

    /// Lets go of deposits whose device is gone: it says so by POLLERR, which needs no asking for.
    fn sweep(&mut self) {
        self.held.retain(|_, held| {
            let mut fds: Vec<PollFd<'_>> = held
                .iter()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::empty()))
                .collect();
            let polled = poll(&mut fds, PollTimeout::ZERO);
            polled.is_err() || fds.iter().all(|fd| fd.any() == Some(false))
        });
    }
}

/// What a wait ended with.
#[derive(Debug)]
struct Ready {
    terminate: bool,
    listener: bool,
    /// In the order of the clients at that time.
    clients: Vec<bool>,
}

fn keep(held: &mut BTreeMap<String, Vec<OwnedFd>>, name: String, fds: Vec<OwnedFd>) -> Reply {
    if !(1..=NAME_MAX_LEN).contains(&name.len()) {
        return Reply::Refused {
            why: format!("a name has 1 to {NAME_MAX_LEN} bytes"),
        };
    }
    if !(1..=FDS_MAX).contains(&fds.len()) {
        return Reply::Refused {
            why: format!("a deposit has 1 to {FDS_MAX} file descriptors"),
        };
    }
    held.insert(name, fds);
    Reply::Done
}

fn list(held: &BTreeMap<String, Vec<OwnedFd>>, after: Option<String>) -> Reply {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut rest = held.range::<String, _>((from, Bound::Unbounded));
    let deposits = rest
        .by_ref()
        .take(LIST_PAGE)
        .map(|(name, fds)| Deposit {
            name: name.clone(),
            fds: fds.len(),
        })
        .collect();
    Reply::Deposits {
        deposits,
        more: rest.next().is_some(),
    }
}
