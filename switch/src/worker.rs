//! The loop of one core: wait, read a frame, decide, write it out, next. It owns one queue of every port, one receive
//! socket and its send sockets; nothing stands between reading and writing.
//!
//! Fairness: a wake serves each ready file descriptor at most [`BUDGET`] frames, so a flooding port can't starve the
//! others. Idle costs nothing: the wait has no time-out. Changes arrive as commands with an eventfd.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use weft_wire::{FrameRef, PortId};

use crate::datapath::Datapath;
use crate::port::{Queue, RECV_BUFFER_LEN, RecvError, SendError};
use crate::switch::{PortEvent, Shared};
use crate::table::{PortEntry, Tables};
use crate::uplink::Uplink;
use crate::verdict::{Action, DropReason, Source};

/// Frames (superframes, datagram batches) of one file descriptor per wake.
const BUDGET: usize = 64;
/// Ready file descriptors per wake.
const EVENTS: usize = 128;

/// What an epoll event is about: the upper half of its data.
const KIND_WAKE: u64 = 0;
const KIND_UPLINK: u64 = 1;
const KIND_PORT: u64 = 2;
const KIND_SHIFT: u32 = 32;

/// A change for a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read from this queue of a port from now on.
    Add(PortId, Arc<Queue>),
    /// Let go of a port; answered when done.
    Remove(PortId, SyncSender<()>),
    /// End.
    Stop,
}

/// One worker.
pub(crate) struct Worker {
    index: usize,
    shared: Arc<Shared>,
    uplink: Box<dyn Uplink>,
    epoll: Epoll,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    queues: HashMap<PortId, Arc<Queue>>,
    buffer: Box<[u8]>,
    actions: Vec<Action>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        shared: Arc<Shared>,
        uplink: Box<dyn Uplink>,
        wake: Arc<EventFd>,
        commands: Receiver<Command>,
    ) -> nix::Result<Self> {
        let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::EPOLL_CLOEXEC)?;
        let input = |kind: u64| EpollEvent::new(EpollFlags::EPOLLIN, kind << KIND_SHIFT);
        epoll.add(&wake, input(KIND_WAKE))?;
        for fd in uplink.fds() {
            epoll.add(fd, input(KIND_UPLINK))?;
        }
        Ok(Self {
            index,
            shared,
            uplink,
            epoll,
            wake,
            commands,
            queues: HashMap::new(),
            buffer: vec![0; RECV_BUFFER_LEN].into_boxed_slice(),
            actions: Vec::with_capacity(EVENTS),
        })
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            // An interrupted wait is a wait without events.
            let ready = self.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or(0);
            // The tables are held for this wake only: who removes a port waits for that.
            let tables = self.shared.tables.load_full();
            let mut woken = false;
            for event in &events[..ready] {
                let id = PortId(u32::try_from(event.data() & u64::from(u32::MAX)).unwrap_or(0));
                match event.data() >> KIND_SHIFT {
                    KIND_PORT => self.serve_port(&tables, id, event.events()),
                    KIND_UPLINK => self.serve_uplink(&tables),
                    _ => woken = true,
                }
            }
            drop(tables);
            if woken && self.obey() {
                return;
            }
        }
    }

    /// Carries out commands; true at the end.
    fn obey(&mut self) -> bool {
        // Reading resets it; that it was reset already is no matter.
        let _ = self.wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Add(id, queue) => self.add(id, queue),
                Command::Remove(id, done) => {
                    self.remove(id);
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn add(&mut self, id: PortId, queue: Arc<Queue>) {
        let data = KIND_PORT << KIND_SHIFT | u64::from(id.0);
        match self.epoll.add(&queue, EpollEvent::new(EpollFlags::EPOLLIN, data)) {
            Ok(()) => {
                self.queues.insert(id, queue);
            }
            Err(error) => {
                tracing::error!(port = id.0, %error, "port cannot be polled");
                if let Some(entry) = self.shared.tables.load().port(id) {
                    self.shared.tell_gone(id, entry);
                }
            }
        }
    }

    fn remove(&mut self, id: PortId) {
        if let Some(queue) = self.queues.remove(&id) {
            // Closing would do it too, but others may hold the same file open.
            let _ = self.epoll.delete(&queue);
        }
    }

    fn serve_port(&mut self, tables: &Tables, id: PortId, flags: EpollFlags) {
        let Some(queue) = self.queues.get(&id).cloned() else { return };
        let Some(port) = tables.port(id) else { return };
        let now = self.shared.now();
        let datapath = Datapath::new(tables, &self.shared.fdb);
        for _ in 0..BUDGET {
            let frame = match queue.recv(&mut self.buffer) {
                Ok(frame) => frame,
                Err(RecvError::Empty) => break,
                Err(RecvError::Malformed(_)) => {
                    port.counters.drops.add(DropReason::BadOffload);
                    continue;
                }
                Err(RecvError::Gone) => {
                    self.remove(id);
                    self.shared.tell_gone(id, port);
                    return;
                }
            };
            port.counters.rx.add(frame.bytes.len());
            datapath.process(Source::Port(id), frame, now, &mut self.actions);
            let mut out = Egress { tables, index: self.index, uplink: Some(&mut *self.uplink) };
            for action in &self.actions {
                if let Some(reason) = out.carry_out(*action, frame) {
                    port.counters.drops.add(reason);
                }
            }
        }
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.remove(id);
            self.shared.tell_gone(id, port);
        }
    }

    fn serve_uplink(&mut self, tables: &Tables) {
        let now = self.shared.now();
        let shared = &*self.shared;
        let (actions, index) = (&mut self.actions, self.index);
        let datapath = Datapath::new(tables, &shared.fdb);
        self.uplink.receive(&mut |peer, vni, frame: FrameRef<'_>| {
            datapath.process(Source::Peer { peer, vni }, frame, now, actions);
            // Split horizon: nothing that came out of a tunnel goes into one.
            let mut out = Egress { tables, index, uplink: None };
            for action in actions.iter() {
                if let Some(reason) = out.carry_out(*action, frame) {
                    shared.count_peer_drop(peer, reason);
                }
            }
        });
    }
}

/// The ways out of a worker.
struct Egress<'a> {
    tables: &'a Tables,
    index: usize,
    uplink: Option<&'a mut dyn Uplink>,
}

impl Egress<'_> {
    /// Carries one action out. A reason comes back if the frame is to be counted as dropped at its source; what a port
    /// doesn't take is counted there.
    fn carry_out(&mut self, action: Action, frame: FrameRef<'_>) -> Option<DropReason> {
        match action {
            Action::Drop(reason) => return Some(reason),
            Action::ToPort(id) => match self.tables.port(id) {
                Some(port) => self.write(port, frame),
                None => return Some(DropReason::PortGone),
            },
            Action::ToPeer { peer, vni } => match &mut self.uplink {
                Some(uplink) => uplink.send(peer, vni, frame),
                None => return Some(DropReason::SplitHorizon),
            },
        }
        None
    }

    fn write(&self, port: &PortEntry, frame: FrameRef<'_>) {
        let queue = &port.queues[self.index % port.queues.len()];
        let reason = match queue.send(frame) {
            Ok(()) => {
                port.counters.tx.add(frame.bytes.len());
                return;
            }
            Err(SendError::Full) => DropReason::PortFull,
            Err(SendError::Down) => DropReason::PortDown,
            Err(SendError::Gone) => DropReason::PortGone,
            Err(SendError::Malformed) => DropReason::PortRefused,
        };
        port.counters.drops.add(reason);
    }
}

impl Shared {
    /// Tells once that a port's device has gone.
    fn tell_gone(&self, id: PortId, port: &PortEntry) {
        if !port.gone.swap(true, Ordering::Relaxed) {
            (self.notify)(PortEvent::Gone(id));
        }
    }
}

