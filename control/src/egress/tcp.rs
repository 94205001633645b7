//! One TCP connection of a container, ended here and carried on by a socket of the host. Pure: segments, bytes and time
//! in, segments and bytes out; `driver` does the IO.
//!
//! What makes this smaller than a TCP stack: the far side of the relay is a stream socket, so bytes in order go straight
//! into it and it is the buffer; the near side is a kernel on this host. What it keeps from the RFCs is all that the
//! container's kernel relies on: three-way handshake, windows that scale, retransmission with backoff, NewReno,
//! selective acknowledgments of what comes too early, half-closed connections, resets and challenge acknowledgments
//! (RFC 5961). Why not a library: `docs/decisions/0015-way-out.md`.
//!
//! States: `Dialling` (a SYN is here; it is answered when the host's socket is connected) -> `Answered` (SYN+ACK sent)
//! -> `Open`; or, towards the container, `Calling` (SYN sent) -> `Open`. `Open` lasts until both have said their FIN, then
//! `Finished` answers what is late. `Dead` is a reset, ours or theirs.

mod congestion;
mod fuzz;
mod options;
mod receive;
mod segment;
mod send;
mod sequence;
mod transmit;

use std::time::Instant;

use weft_wire::{Tcp, TcpFlags};

use congestion::{Congestion, MAX_FLIGHT};
pub(crate) use fuzz::fuzz_segments;
use options::SynOptions;
pub(super) use receive::Outside;
use receive::ReceiveBuffer;
pub(super) use segment::Segment;
use send::SendBuffer;
use sequence::{ahead, length};
pub(super) use transmit::MAX_PIECES;

use super::pool::Pool;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The container's SYN waits for the outside.
    Dialling,
    /// SYN+ACK is on its way.
    Answered,
    /// Our SYN is on its way to the container.
    Calling,
    /// Established, maybe half-closed.
    Open,
    /// Both sides have finished.
    Finished,
    /// Reset.
    Dead,
}

/// What has to be sent beside data.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    ack: bool,
    /// SYN or SYN+ACK.
    handshake: bool,
    /// The first unacknowledged segment, again.
    repair: bool,
    /// A byte beyond a closed window.
    window_probe: bool,
    keepalive: bool,
    reset: bool,
}

/// Why a connection ended otherwise than by both sides' FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The container reset it.
    ByContainer,
    /// It carried nothing for too long, or the container is silent.
    Expired,
    /// The outside reset it.
    ByOutside,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    state: State,
    /// Our initial sequence number.
    initial: u32,
    /// First sequence number not acknowledged.
    una: u32,
    /// Next to be sent.
    next: u32,
    /// Highest sent.
    top: u32,
    /// What the container takes, in bytes.
    their_window: u32,
    /// By how much it shifts its windows; `None`: nobody scales.
    their_shift: Option<u8>,
    mss: u32,
    sack: bool,
    outgoing: SendBuffer,
    /// The outside has finished: FIN follows the last byte.
    finish: bool,
    fin_acknowledged: bool,
    incoming: ReceiveBuffer,
    congestion: Congestion,
    due: Due,
    tries: u32,
    probes: u32,
    /// When to send again, or to probe.
    resend_at: Option<Instant>,
    /// The container was last heard.
    heard: Instant,
    /// Bytes were last carried, or the state changed.
    carried: Instant,
    end: Option<End>,
}

impl Connection {
    /// A SYN from a container, to be answered after [`Self::handle_dialled`]. No segment carries more than `mss` bytes.
    pub(super) fn accept(syn: &Tcp<'_>, initial: u32, mss: u16, now: Instant) -> Self {
        let options = SynOptions::parse(syn.options());
        let mut connection = Self::new(State::Dialling, initial, mss.min(options.mss), now);
        connection.agree(options);
        connection.their_window = u32::from(syn.window());
        connection.incoming = ReceiveBuffer::after(syn.sequence());
        connection
    }

    /// A connection to a container: its SYN is due.
    pub(super) fn call(initial: u32, mss: u16, now: Instant) -> Self {
        let mut connection = Self::new(State::Calling, initial, mss, now);
        connection.due.handshake = true;
        connection
    }

    fn new(state: State, initial: u32, mss: u16, now: Instant) -> Self {
        Self {
            state,
            initial,
            una: initial,
            next: initial,
            top: initial,
            their_window: 0,
            their_shift: None,
            mss: u32::from(mss),
            sack: false,
            outgoing: SendBuffer::default(),
            finish: false,
            fin_acknowledged: false,
            incoming: ReceiveBuffer::after(0),
            congestion: Congestion::default(),
            due: Due::default(),
            tries: 0,
            probes: 0,
            resend_at: None,
            heard: now,
            carried: now,
            end: None,
        }
    }

    fn agree(&mut self, options: SynOptions) {
        self.mss = self.mss.min(u32::from(options.mss));
        self.their_shift = options.shift;
        self.sack = options.sack;
    }

    /// Where it is in its life.
    pub(super) const fn state(&self) -> State {
        self.state
    }

    /// Why it is `Dead`.
    pub(super) const fn end(&self) -> Option<End> {
        self.end
    }

    /// Memory in use, in bytes.
    pub(super) fn held(&self) -> usize {
        self.outgoing.held() + self.incoming.held()
    }

    /// The sequence number of the container's SYN: what an ICMP error quotes.
    pub(super) const fn first_heard(&self) -> u32 {
        self.incoming.next().wrapping_sub(1)
    }

    /// The outside is connected: the SYN is answered.
    pub(super) fn handle_dialled(&mut self, now: Instant) {
        if self.state == State::Dialling {
            self.state = State::Answered;
            self.due.handshake = true;
            self.carried = now;
        }
    }

    /// Whether bytes of the outside are to be read now: what was read before is on its way, and more may follow it.
    pub(super) fn wants_bytes(&self) -> bool {
        self.state == State::Open
            && !self.finish
            && length(self.unsent()) < self.mss
            && length(self.outgoing.len()) < MAX_FLIGHT.min(self.their_window.max(self.mss))
    }

    /// Bytes that the outside said: the first `len` of a pool's buffer.
    pub(super) fn push(&mut self, buffer: Vec<u8>, len: usize, pool: &mut Pool, now: Instant) {
        self.outgoing.push(buffer, len, pool);
        self.carried = now;
        self.arm(now);
    }

    /// The outside has said everything.
    pub(super) fn finish(&mut self) {
        self.finish = true;
    }

    /// The outside is gone: the container is told.
    pub(super) fn reset(&mut self, why: End) {
        if self.state != State::Dead {
            self.state = State::Dead;
            self.end = Some(why);
            self.due = Due {
                reset: true,
                ..Due::default()
            };
        }
    }

    /// The dial has failed otherwise than by a refusal: the container was told by ICMP.
    pub(super) fn give_up(&mut self) {
        self.die(End::ByOutside);
    }

    /// The container has said everything, and the outside has all of it: it is to be told so.
    pub(super) fn outside_may_finish(&self) -> bool {
        self.incoming.finished() && self.incoming.waiting() == 0
    }

    /// The outside has room again.
    pub(super) fn handle_writable(&mut self, outside: &mut impl Outside, now: Instant) {
        if self.incoming.waiting() == 0 {
            return;
        }
        match self.incoming.flush(outside) {
            Ok(()) => {
                self.carried = now;
                self.due.ack |= self.incoming.owes_window();
                self.settle(now);
            }
            Err(_) => self.reset(End::ByOutside),
        }
    }

    /// A segment of the container. At most `room` bytes may be held for it in all.
    pub(super) fn handle_segment(
        &mut self,
        segment: &Tcp<'_>,
        room: usize,
        outside: &mut impl Outside,
        pool: &mut Pool,
        now: Instant,
    ) {
        let flags = segment.flags();
        self.heard = now;
        self.probes = 0;
        match self.state {
            State::Dialling => {
                // A SYN again is the one that we have; anything else is nothing that could follow it.
                if flags.contains(TcpFlags::RST) {
                    self.die(End::ByContainer);
                }
                return;
            }
            State::Calling => return self.handle_answer(segment, now),
            State::Answered | State::Open | State::Finished => {}
            State::Dead => return,
        }
        let len = segment.payload().len();
        if flags.contains(TcpFlags::RST) {
            return self.handle_reset(segment.sequence());
        }
        if flags.contains(TcpFlags::SYN) {
            // Ours was lost, or it begins anew: RFC 5961 section 4.
            self.due.handshake |= self.state == State::Answered;
            self.due.ack |= self.state != State::Answered;
            return;
        }
        if !self.incoming.accepts(segment.sequence(), len) {
            self.due.ack = true;
            return;
        }
        if !flags.contains(TcpFlags::ACK) || !self.handle_acknowledgment(segment, pool, now) {
            return;
        }
        if len > 0 {
            let taken =
                self.incoming
                    .handle_data(segment.sequence(), segment.payload(), room, outside);
            if taken.is_err() {
                return self.reset(End::ByOutside);
            }
            self.due.ack = true;
            self.carried = now;
        }
        let end = segment.sequence().wrapping_add(length(len));
        let finished = match flags.contains(TcpFlags::FIN) {
            true => {
                self.due.ack = true;
                self.incoming.handle_fin(end)
            }
            false => len > 0 && self.incoming.late_fin(),
        };
        if finished {
            self.carried = now;
        }
        self.settle(now);
    }

    /// The container answers our SYN, or refuses.
    fn handle_answer(&mut self, segment: &Tcp<'_>, now: Instant) {
        let flags = segment.flags();
        if !flags.contains(TcpFlags::ACK)
            || segment.acknowledgment() != self.initial.wrapping_add(1)
        {
            return;
        }
        if flags.contains(TcpFlags::RST) {
            return self.die(End::ByContainer);
        }
        if !flags.contains(TcpFlags::SYN) {
            return;
        }
        self.agree(SynOptions::parse(segment.options()));
        self.incoming = ReceiveBuffer::after(segment.sequence());
        self.their_window = u32::from(segment.window());
        self.establish(now);
        self.due.ack = true;
    }

    fn establish(&mut self, now: Instant) {
        self.state = State::Open;
        self.una = self.initial.wrapping_add(1);
        self.next = self.una;
        self.top = self.una;
        self.due.handshake = false;
        self.resend_at = None;
        self.tries = 0;
        self.carried = now;
    }

    /// RFC 5961 section 3: only the very next sequence number proves that it is the container's.
    fn handle_reset(&mut self, at: u32) {
        if at == self.incoming.next() {
            self.die(End::ByContainer);
        } else if self.incoming.accepts(at, 0) {
            self.due.ack = true;
        }
    }

    fn die(&mut self, why: End) {
        self.state = State::Dead;
        self.end = Some(why);
        self.due = Due::default();
    }

    /// False if the segment is not to be looked at further.
    fn handle_acknowledgment(&mut self, segment: &Tcp<'_>, pool: &mut Pool, now: Instant) -> bool {
        let ack = segment.acknowledgment();
        if self.state == State::Answered {
            if ack != self.initial.wrapping_add(1) {
                self.reset(End::ByContainer);
                return false;
            }
            self.establish(now);
        }
        if ahead(self.top, ack) > 0 {
            self.due.ack = true;
            return false;
        }
        let window = u32::from(segment.window()) << self.their_shift.unwrap_or(0);
        let progress = ahead(self.una, ack);
        if progress > 0 {
            self.acknowledge(ack, pool, now);
        } else if progress == 0 {
            let same = window == self.their_window && segment.payload().is_empty();
            let flight = self.flight();
            if same && flight > 0 && !segment.flags().contains(TcpFlags::FIN) {
                self.due.repair |= self.congestion.handle_duplicate(flight, self.top, self.mss);
            }
        }
        if progress >= 0 {
            self.their_window = window;
            self.tries = 0;
            self.arm(now);
        }
        true
    }

    fn acknowledge(&mut self, ack: u32, pool: &mut Pool, now: Instant) {
        let count = ack.wrapping_sub(self.una);
        // One more than there are bytes is our FIN.
        let bytes = usize::try_from(count).unwrap_or(usize::MAX);
        self.fin_acknowledged |= self.finish && bytes > self.outgoing.len();
        self.outgoing.acknowledge(bytes, pool);
        self.una = ack;
        if ahead(self.next, ack) > 0 {
            self.next = ack;
        }
        let hole = self.congestion.handle_progress(ack, count, self.mss, now);
        self.due.repair |= hole && self.flight() > 0;
        self.tries = 0;
        self.resend_at = None;
        self.arm(now);
        self.carried = now;
    }

    /// Sequence numbers sent and not acknowledged.
    fn flight(&self) -> u32 {
        self.next.wrapping_sub(self.una)
    }

    /// Bytes not sent, or to be sent again.
    fn unsent(&self) -> usize {
        let flight = usize::try_from(self.flight()).unwrap_or(usize::MAX);
        self.outgoing.len().saturating_sub(flight)
    }

    fn settle(&mut self, now: Instant) {
        if self.state == State::Open && self.fin_acknowledged && self.outside_may_finish() {
            self.state = State::Finished;
            self.carried = now;
        }
    }
}

#[cfg(test)]
mod tests;
