//! One TCP flow: its connection, its socket, and its turn.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::Socket;
use weft_switch::port::SendError;
use weft_wire::{IpProtocol, MacAddr};

use super::super::answer::{Ends, Head, ports, quote};
use super::super::dial;
use super::super::inside::{Counters, Inside, Notice};
use super::super::refusal::Refusal;
use super::super::shared::Shared;
use super::super::tcp::{Connection, End, MAX_PIECES, Outside, State};
use super::super::timers::Armed;
use super::Key;

/// Superframes that a flow may carry before the next one has its turn.
const TURN: usize = 8;
/// When a flow that finds no memory looks again.
const NO_MEMORY: Duration = Duration::from_millis(20);

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    pub(super) mac: MacAddr,
    pub(super) connection: Connection,
    pub(super) socket: Socket,
    /// The socket may have bytes, or an end.
    pub(super) readable: bool,
    /// The socket's peer has finished: what is read ends with nothing.
    pub(super) hung_up: bool,
    /// The socket may have room.
    pub(super) writable: bool,
    /// The socket was told that no more comes.
    shut: bool,
    pub(super) queued: bool,
    pub(super) dialling: bool,
    /// No memory: when to look again.
    again: Option<std::time::Instant>,
    pub(super) armed: Armed,
    pub(super) held: usize,
}

/// How a flow's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more to do until something happens.
    Done,
    /// More could be done at once.
    More,
    /// The network has no room.
    Blocked,
    /// It is over.
    Over,
}

/// A socket as a connection writes to it.
pub(super) struct Out<'a> {
    pub(super) socket: BorrowedFd<'a>,
    pub(super) writable: &'a mut bool,
    pub(super) counters: &'a Counters,
}

impl Outside for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !*self.writable || bytes.is_empty() {
            return Ok(0);
        }
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        match send(self.socket.as_raw_fd(), bytes, flags) {
            Ok(count) => {
                *self.writable = count == bytes.len();
                Counters::add(&self.counters.out_bytes, count);
                Ok(count)
            }
            Err(Errno::EAGAIN) => {
                *self.writable = false;
                Ok(0)
            }
            Err(Errno::EINTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}

impl Flow {
    pub(super) fn new(key: Key, mac: MacAddr, connection: Connection, socket: Socket) -> Self {
        let dialling = connection.state() == State::Dialling;
        Self {
            key,
            mac,
            connection,
            socket,
            readable: false,
            hung_up: false,
            writable: false,
            shut: false,
            queued: false,
            dialling,
            again: None,
            armed: Armed::default(),
            held: 0,
        }
    }

    /// Books the memory that the flow holds now.
    pub(super) fn account(&mut self, shared: &mut Shared) {
        let held = self.connection.held();
        shared.held = (shared.held + held).saturating_sub(self.held);
        self.held = held;
    }

    /// When the flow has to be looked at again.
    pub(super) fn next_timeout(&mut self) -> std::time::Instant {
        let own = self.connection.next_timeout();
        self.again.take().map_or(own, |again| again.min(own))
    }

    /// Does what can be done now.
    pub(super) fn turn(&mut self, inside: &mut Inside, shared: &mut Shared) -> Turn {
        if self.connection.state() == State::Dialling && self.writable {
            self.end_dial(inside, shared);
        }
        for _ in 0..TURN {
            self.say(inside, shared);
            let heard = self.hear(inside, shared);
            if heard != Turn::Done {
                return heard;
            }
            match self.connection.state() {
                State::Dead => return Turn::Over,
                State::Open => {}
                State::Dialling | State::Answered | State::Calling | State::Finished => {
                    return Turn::Done;
                }
            }
            if !self.readable || !self.connection.wants_bytes() {
                return Turn::Done;
            }
            if shared.room() == 0 && self.held > 0 {
                self.again = Some(shared.now + NO_MEMORY);
                return Turn::Done;
            }
            self.read(shared);
            self.account(shared);
        }
        Turn::More
    }

    /// The socket is connected, or isn't going to be.
    fn end_dial(&mut self, inside: &mut Inside, shared: &mut Shared) {
        let error = match self.socket.take_error() {
            Ok(None) => return self.connection.handle_dialled(shared.now),
            Ok(Some(error)) | Err(error) => error,
        };
        inside.counters.refusals.count(Refusal::Outside);
        if error.kind() == io::ErrorKind::ConnectionRefused
            || error.kind() == io::ErrorKind::ConnectionReset
        {
            return self.connection.reset(End::ByOutside);
        }
        let key = &self.key.1;
        if let Some(error) = dial::explain(&error, key.outside.ip()) {
            let transport = ports(key, self.connection.first_heard());
            let quoted = quote(key, IpProtocol::TCP, transport, 20);
            let (to, about) = (key.inside.ip(), key.outside.ip());
            let notice = Notice {
                mac: self.mac,
                to,
                error,
                quoted: &quoted,
            };
            inside.say(about, &notice, shared.now);
        }
        self.connection.give_up();
    }

    /// Towards the outside: what waits, and the end.
    fn say(&mut self, inside: &Inside, shared: &mut Shared) {
        if self.writable {
            let mut out = Out {
                socket: self.socket.as_fd(),
                writable: &mut self.writable,
                counters: &inside.counters,
            };
            self.connection.handle_writable(&mut out, shared.now);
        }
        if !self.shut && self.connection.outside_may_finish() {
            self.shut = true;
            // An error is one that reading tells of too.
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Towards the container: segments that may be sent.
    fn hear(&mut self, inside: &Inside, shared: &Shared) -> Turn {
        let ends = Ends::inward(&self.key.1, self.mac);
        while let Some(segment) = self.connection.poll_transmit() {
            let head = Head::tcp(&ends, &self.key.1, &segment);
            let mut pieces = [&[][..]; MAX_PIECES];
            let count = self.connection.payload(&segment, &mut pieces);
            match inside.send(head.bytes(), &pieces[..count], head.offload) {
                Ok(()) => {
                    Counters::add(&inside.counters.in_bytes, segment.len);
                    self.connection.handle_sent(&segment, shared.now);
                }
                Err(SendError::Full) => return Turn::Blocked,
                Err(SendError::Down | SendError::Gone | SendError::Malformed) => {
                    return Turn::Over;
                }
            }
        }
        Turn::Done
    }

    fn read(&mut self, shared: &mut Shared) {
        let mut buffer = shared.pool.take();
        let len = self.connection.read_len().min(buffer.len());
        match nix::unistd::read(&self.socket, &mut buffer[..len]) {
            Ok(0) => {
                self.readable = false;
                self.connection.finish();
                shared.pool.put(buffer);
            }
            Ok(count) => {
                // Less than was asked for: there is no more, but maybe the end (epoll(7)).
                self.readable = count == len || self.hung_up;
                let now = shared.now;
                self.connection.push(buffer, count, &mut shared.pool, now);
            }
            Err(error) => {
                shared.pool.put(buffer);
                if error == Errno::EAGAIN {
                    self.readable = false;
                } else if error != Errno::EINTR {
                    self.connection.reset(End::ByOutside);
                }
            }
        }
    }
}
