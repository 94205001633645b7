//! The loop of one core: wait, read a frame, decide, write it out, next. It owns one queue of every port, one receive
//! socket and its send sockets; nothing stands between reading and writing.
//!
//! Fairness: a wake serves each ready file descriptor at most [`BUDGET`] frames, so a flooding port can't starve the
//! others. Idle costs nothing: after a while without work it sleeps ([`Patience`]), and the wait has no time-out. Changes
//! arrive as commands with an eventfd.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use weft_wire::{EthernetFrame, FrameRef, Mtu, Offload, PortId, Rewrite, fragment};

use crate::answers::{Answers, Asker};
use crate::burst::Burst;
use crate::datapath::Datapath;
use crate::gateway::GATEWAY_MAC;
use crate::patience::{Next, Patience};
use crate::port::{Queue, RECV_BUFFER_LEN, RecvError, SendError};
use crate::stats::Lane;
use crate::switch::{PortEvent, Shared};
use crate::table::{PortEntry, Tables};
use crate::uplink::{TooBig, Uplink};
use crate::verdict::{Action, DropReason, Routed, Source};

/// Frames (superframes, datagram batches) of one file descriptor per wake.
const BUDGET: usize = 64;
/// Ready file descriptors per wake.
const EVENTS: usize = 128;

/// What an epoll event is about. A number below 2^63 is that of a queue, see [`QueueKey`].
const WAKE: u64 = u64::MAX;
/// The first input of the uplink, which has so many at most; the next ones have the numbers below.
const UPLINK: u64 = u64::MAX - 1;
const UPLINK_INPUTS: u64 = 16;
const LAST_UPLINK: u64 = UPLINK - UPLINK_INPUTS + 1;

/// A queue that a worker reads: port, and which queue of it, since a port may have more queues than there are workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct QueueKey {
    port: PortId,
    queue: u16,
}

impl QueueKey {
    const fn data(self) -> u64 {
        (self.queue as u64) << 32 | self.port.0 as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the parts are taken apart")]
    const fn of(data: u64) -> Self {
        Self {
            port: PortId(data as u32),
            queue: (data >> 32) as u16,
        }
    }
}

/// A change for a worker.
#[derive(Debug)]
pub(crate) enum Command {
    /// Read from this queue of a port, its first, second and so on, from now on.
    Add(PortId, u16, Arc<Queue>),
    /// Let go of a port; answered when done.
    Remove(PortId, SyncSender<()>),
    /// Answer: no frame is in flight that was decided by an older version of anything.
    Settle(SyncSender<()>),
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
    queues: HashMap<QueueKey, Arc<Queue>>,
    buffer: Box<[u8]>,
    actions: Vec<Action>,
    patience: Patience,
    answers: Answers,
    burst: Burst,
    started: Instant,
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
        let input = |data| EpollEvent::new(EpollFlags::EPOLLIN, data);
        epoll.add(&wake, input(WAKE))?;
        for (number, fd) in (0..UPLINK_INPUTS).zip(uplink.fds()) {
            epoll.add(fd, input(UPLINK - number))?;
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
            patience: Patience::default(),
            answers: Answers::new(),
            burst: Burst::new(),
            started: Instant::now(),
        })
    }

    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let ready = self.wait(&mut events);
            // The tables are held for this wake only: who removes a port waits for that.
            let tables = self.shared.tables.load_full();
            let mut woken = false;
            for event in &events[..ready] {
                match event.data() {
                    WAKE => woken = true,
                    data @ LAST_UPLINK..=UPLINK => self.serve_uplink(&tables, UPLINK - data),
                    data => self.serve_port(&tables, QueueKey::of(data), event.events()),
                }
            }
            drop(tables);
            if woken && self.obey() {
                return;
            }
        }
    }

    /// Waits for events: polls for a while where that pays, then sleeps. Gives how many there are.
    fn wait(&mut self, events: &mut [EpollEvent]) -> usize {
        // An interrupted wait is a wait without events.
        let look = |events: &mut [EpollEvent], limit| self.epoll.wait(events, limit).unwrap_or(0);
        let mut gave_way = Duration::ZERO;
        loop {
            let ready = look(events, EpollTimeout::ZERO);
            let now = self.started.elapsed();
            if ready > 0 {
                self.patience.work(now);
                return ready;
            }
            if self.patience.nothing(now, gave_way) == Next::Sleep {
                let ready = look(events, EpollTimeout::NONE);
                let woken = self.started.elapsed();
                self.patience.slept(woken.saturating_sub(now));
                self.patience.work(woken);
                return ready;
            }
            std::thread::yield_now();
            gave_way = self.started.elapsed().saturating_sub(now);
        }
    }

    /// Carries out commands; true at the end.
    fn obey(&mut self) -> bool {
        // Reading resets it; that it was reset already is no matter.
        let _ = self.wake.read();
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Add(port, queue, fd) => self.add(QueueKey { port, queue }, fd),
                Command::Remove(id, done) => {
                    self.remove(id);
                    // Who asked may have given up.
                    let _ = done.send(());
                }
                Command::Settle(done) => {
                    let _ = done.send(());
                }
                Command::Stop => return true,
            }
        }
        false
    }

    fn add(&mut self, key: QueueKey, queue: Arc<Queue>) {
        let id = key.port;
        match self
            .epoll
            .add(&queue, EpollEvent::new(EpollFlags::EPOLLIN, key.data()))
        {
            Ok(()) => {
                self.queues.insert(key, queue);
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
        for (_, queue) in self.queues.extract_if(|key, _| key.port == id) {
            // Closing would do it too, but others may hold the same file open.
            let _ = self.epoll.delete(&queue);
        }
    }

    fn serve_port(&mut self, tables: &Tables, key: QueueKey, flags: EpollFlags) {
        let id = key.port;
        let Some(queue) = self.queues.get(&key).cloned() else {
            return;
        };
        let Some(port) = tables.port(id) else { return };
        let now = self.shared.now();
        let (lane, index) = (Lane::of_worker(self.index), self.index);
        let datapath = Datapath::new(tables, &self.shared.fdb, lane);
        for _ in 0..BUDGET {
            let frame = match queue.recv(&mut self.buffer) {
                Ok(frame) => frame,
                Err(RecvError::Empty) => break,
                Err(RecvError::Malformed(_)) => {
                    // How long it was is not known.
                    port.counters.received(lane, 0);
                    port.counters.dropped(lane, DropReason::BadOffload);
                    continue;
                }
                Err(RecvError::Gone) => {
                    self.flush(tables);
                    self.remove(id);
                    self.shared.tell_gone(id, port);
                    return;
                }
            };
            datapath.process(Source::Port(id), frame, now, &mut self.actions);
            let mut out = Egress {
                tables,
                lane,
                index,
                uplink: Some(&mut *self.uplink),
                burst: Some(&mut self.burst),
            };
            let (too_big, bytes) = if let [Action::Routed(routed)] = *self.actions {
                let (start, len, offload) = (queue.frame_start(), frame.bytes.len(), frame.offload);
                // The only one who gets it: it is rewritten where it lies.
                let bytes = &mut self.buffer[start..start + len];
                (out.route(routed, bytes, offload), &*bytes)
            } else {
                (out.carry_out(&self.actions, frame), frame.bytes)
            };
            let from = Asker { tables, id, now };
            let answer = self.answers.answer(from, bytes, (too_big, &self.actions));
            if port.guard.is_none() {
                self.answers.overhear(from, bytes);
            }
            if let Some(claim) = self.answers.take_claim(from) {
                (self.shared.notify)(PortEvent::Claims(id, claim));
            }
            if answer.is_none() && matches!(*self.actions, [Action::Answer]) {
                port.counters.dropped(lane, DropReason::NotAnswered);
            }
            if let Some(answer) = answer {
                out.write(port, FrameRef::plain(&answer));
            }
        }
        self.flush(tables);
        if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.remove(id);
            self.shared.tell_gone(id, port);
        }
    }

    /// Writes and sends what was held back.
    fn flush(&mut self, tables: &Tables) {
        let mut out = Egress {
            tables,
            lane: Lane::of_worker(self.index),
            index: self.index,
            uplink: None,
            burst: Some(&mut self.burst),
        };
        out.write_burst();
        self.uplink.flush();
    }

    fn serve_uplink(&mut self, tables: &Tables, input: u64) {
        let input = usize::try_from(input).expect("there are few");
        let now = self.shared.now();
        let (lane, index) = (Lane::of_worker(self.index), self.index);
        let datapath = Datapath::new(tables, &self.shared.fdb, lane);
        let actions = &mut self.actions;
        self.uplink
            .receive(input, &mut |peer, vni, frame: FrameRef<'_>| {
                datapath.process(Source::Peer { peer, vni }, frame, now, actions);
                // Split horizon: nothing that came out of a tunnel goes into one.
                let mut out = Egress {
                    tables,
                    lane,
                    index,
                    uplink: None,
                    burst: None,
                };
                let _ = out.carry_out(actions, frame);
            });
    }
}

/// The ways out of a worker.
struct Egress<'a> {
    tables: &'a Tables,
    lane: Lane,
    index: usize,
    uplink: Option<&'a mut dyn Uplink>,
    /// Holds back what may be joined; nothing is where there is none.
    burst: Option<&'a mut Burst>,
}

impl Egress<'_> {
    /// Rewrites a frame and sends it to its next hop. If it was too big for the way there, gives the MTU of that, and the
    /// frame has the MACs that it came with.
    #[inline]
    fn route(&mut self, routed: Routed, bytes: &mut [u8], offload: Offload) -> Option<Mtu> {
        let rewrite = Rewrite {
            source: GATEWAY_MAC,
            destination: routed.destination,
        };
        let before = EthernetFrame::new(bytes)
            .ok()
            .map(|frame| (frame.source(), frame.destination()));
        // The datapath saw that it may live a hop longer.
        rewrite.apply(bytes);
        let frame = FrameRef::new(bytes, offload);
        let too_big = match routed.cut {
            None => self.carry_out(&[routed.delivery()], frame),
            Some(mtu) => Some(mtu),
        };
        let too_big = too_big.filter(|mtu| !self.send_cut(routed.delivery(), frame, *mtu));
        if let (Some(_), Some((source, destination))) = (too_big, before) {
            let rewrite = Rewrite {
                source,
                destination,
            };
            rewrite.readdress(bytes);
        }
        too_big
    }

    /// Sends a packet in fragments, if its sender allows it.
    fn send_cut(&mut self, to: Action, frame: FrameRef<'_>, mtu: Mtu) -> bool {
        let Some(pieces) = fragment(frame, mtu) else {
            return false;
        };
        for piece in &pieces {
            // The path to a peer may be narrower than the network.
            if let Some(path) = self.carry_out(&[to], FrameRef::plain(piece)) {
                for smaller in fragment(FrameRef::plain(piece), path).iter().flatten() {
                    self.carry_out(&[to], FrameRef::plain(smaller));
                }
            }
        }
        true
    }

    /// Carries out what was decided on a frame, all from the one buffer it was read into. If it was too big for a tunnel,
    /// gives the MTU of that.
    #[inline]
    fn carry_out(&mut self, actions: &[Action], frame: FrameRef<'_>) -> Option<Mtu> {
        let mut too_big = None;
        if let [Action::ToPort(id)] = *actions {
            self.deliver(id, frame);
            return None;
        }
        self.write_burst();
        for action in actions {
            match *action {
                // Counted by the datapath; who reads the port answers, and rewrites.
                Action::Drop(_) | Action::Answer | Action::Routed(_) => {}
                Action::ToPort(id) => {
                    // The decision was made on these tables: the port is there.
                    if let Some(port) = self.tables.port(id) {
                        self.write(port, frame);
                    }
                }
                Action::ToPeer { peer, vni } => {
                    // No uplink means that the frame came from one, and then there is no such action.
                    if let Some(uplink) = &mut self.uplink {
                        if let Err(TooBig { mtu }) = uplink.send(peer, vni, frame) {
                            too_big = Some(mtu);
                        }
                        self.tables.peer_counters(peer).sent(self.lane, frame.len());
                    }
                }
            }
        }
        too_big
    }

    /// Writes a frame to the one port that it is for, or holds it back for others to join it.
    #[inline]
    fn deliver(&mut self, id: PortId, frame: FrameRef<'_>) {
        // The decision was made on these tables: the port is there.
        let Some(port) = self.tables.port(id) else {
            return;
        };
        if let Some(burst) = &mut self.burst {
            if burst.append(id, frame) {
                return;
            }
            self.write_burst();
        }
        if let Some(burst) = &mut self.burst
            && queue_of(port, self.index).takes_datagrams()
            && burst.start(id, frame)
        {
            return;
        }
        self.write(port, frame);
    }

    /// Writes what is held back.
    #[inline]
    fn write_burst(&mut self) {
        let Some(burst) = self.burst.take() else {
            return;
        };
        if let Some(joined) = burst.joined() {
            if let Some(port) = self.tables.port(joined.to) {
                self.write_all(port, joined.frame, (joined.frames, joined.bytes));
            }
            burst.clear();
        }
        self.burst = Some(burst);
    }

    #[inline]
    fn write(&self, port: &PortEntry, frame: FrameRef<'_>) {
        self.write_all(port, frame, (1, frame.len()));
    }

    /// Writes a frame that is to be counted as so many with so many bytes.
    #[inline]
    fn write_all(&self, port: &PortEntry, frame: FrameRef<'_>, (frames, bytes): (usize, usize)) {
        let reason = match queue_of(port, self.index).send(frame) {
            Ok(()) => return port.counters.sent_all(self.lane, frames, bytes),
            Err(SendError::Full) => DropReason::PortFull,
            Err(SendError::Down) => DropReason::PortDown,
            Err(SendError::Gone) => DropReason::PortGone,
            Err(SendError::Malformed) => DropReason::PortRefused,
        };
        port.counters.dropped_all(self.lane, reason, frames);
    }
}

/// Where worker `index` writes.
#[inline]
fn queue_of(port: &PortEntry, index: usize) -> &Queue {
    &port.queues[index % port.queues.len()]
}

impl Shared {
    /// Tells once that a port's device has gone.
    fn tell_gone(&self, id: PortId, port: &PortEntry) {
        if !port.gone.swap(true, Ordering::Relaxed) {
            (self.notify)(PortEvent::Gone(id));
        }
    }
}
