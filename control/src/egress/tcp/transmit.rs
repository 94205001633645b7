//! The sending half of a connection: what is to be sent next, and what happens when time passes.

use std::time::{Duration, Instant};

use weft_wire::TcpFlags;

use super::congestion::allowance;
use super::options::{OptionBytes, SynOptions};
use super::receive::MAX_WINDOW;
use super::segment::{Purpose, Segment};
use super::sequence::ahead;
use super::{Connection, End, State};

/// Our windows are in units of 128 bytes: the largest one needs less than 16 bits so.
const OUR_SHIFT: u8 = 7;
/// Times that a SYN or SYN+ACK is sent before the flow is given up: about half a minute.
const HANDSHAKE_TRIES: u32 = 5;
/// Times that data is sent before the flow is given up (Linux's `tcp_retries2`).
const DATA_TRIES: u32 = 15;
/// How long nothing may be heard of the container before it is asked whether it is still there.
const QUIET: Duration = Duration::from_secs(120);
/// How often it is asked then.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// Unanswered questions that mean it is gone.
const PROBES: u32 = 4;
/// RFC 5382 REQ-5: a flow that carries nothing is kept that long.
const IDLE: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
/// A flow of which one side is finished is kept that long without anything carried.
const HALF_CLOSED_IDLE: Duration = Duration::from_secs(300);
/// How long a finished flow answers what is late. The container's kernel, which ended it, keeps its own TIME-WAIT.
const LINGER: Duration = Duration::from_secs(2);
/// How long a dial may take.
const DIAL_PATIENCE: Duration = Duration::from_secs(75);

/// Payload of the largest superframe: an IP packet has at most 65,535 bytes, and headers take up to 120.
const MAX_PAYLOAD: usize = 65_535 - 120;
/// Pieces that the payload of a segment may lie in.
pub(in crate::egress) const MAX_PIECES: usize = 16;

impl Connection {
    /// Bytes to read from the outside at once: what makes one superframe of whole segments.
    pub(in crate::egress) fn read_len(&self) -> usize {
        let mss = self.mss_len();
        MAX_PAYLOAD / mss * mss
    }

    fn mss_len(&self) -> usize {
        usize::try_from(self.mss).unwrap_or(1).max(1)
    }

    /// The next segment to be sent now. It counts as sent only after [`Self::handle_sent`].
    pub(in crate::egress) fn poll_transmit(&self) -> Option<Segment> {
        let open = match self.state {
            State::Dialling => return None,
            State::Dead => return self.due.reset.then(|| self.rst()),
            State::Answered | State::Calling => {
                return self.due.handshake.then(|| self.handshake());
            }
            State::Open | State::Finished => self.next_data(),
        };
        open.or_else(|| {
            let plain = |purpose, sequence| Some(self.segment(purpose, sequence, 0, 0));
            if self.due.keepalive {
                // One byte that the container has: it must say so.
                return plain(Purpose::Keepalive, self.una.wrapping_sub(1));
            }
            match self.due.ack {
                true => plain(Purpose::Acknowledge, self.newest()),
                false => None,
            }
        })
    }

    /// The sequence number of a bare acknowledgment: behind all that was ever sent, also while some of it is sent again.
    /// With an older one the container would take it for a duplicate and not look at what it acknowledges; if both
    /// sides did that, neither would ever get on. Not beyond the window either, where a probe's byte may be.
    fn newest(&self) -> u32 {
        let edge = self.una.wrapping_add(self.their_window);
        match ahead(edge, self.top) > 0 {
            true => edge,
            false => self.top,
        }
    }

    fn rst(&self) -> Segment {
        let mut segment = self.segment(Purpose::Reset, self.top, 0, 0);
        segment.flags = TcpFlags::RST.with(TcpFlags::ACK);
        segment
    }

    /// SYN, or SYN+ACK: with what we offer, as far as they offered it.
    fn handshake(&self) -> Segment {
        let calling = self.state == State::Calling;
        let options = SynOptions {
            mss: u16::try_from(self.mss).unwrap_or(u16::MAX),
            shift: (calling || self.their_shift.is_some()).then_some(OUR_SHIFT),
            sack: calling || self.sack,
        };
        let (flags, acknowledgment) = match calling {
            true => (TcpFlags::SYN, 0),
            false => (TcpFlags::SYN.with(TcpFlags::ACK), self.incoming.next()),
        };
        Segment {
            flags,
            acknowledgment,
            // Never scaled (RFC 7323 section 2.2).
            window: u16::try_from(self.incoming.window()).unwrap_or(u16::MAX),
            options: options.write(),
            ..self.segment(Purpose::Handshake, self.initial, 0, 0)
        }
    }

    fn next_data(&self) -> Option<Segment> {
        let (buffered, flight) = (self.outgoing.len(), self.flight());
        let ends = self.finish && !self.fin_acknowledged;
        let sent = usize::try_from(flight).unwrap_or(usize::MAX);
        if self.due.repair && flight > 0 {
            let len = buffered.min(sent).min(self.mss_len());
            let mut segment = self.segment(Purpose::Repair, self.una, 0, len);
            if ends && segment.len == buffered && sent > buffered {
                segment.flags = segment.flags.with(TcpFlags::FIN);
            }
            return Some(segment);
        }
        let window = self.their_window.min(self.congestion.window());
        let allowed = allowance(window, flight, self.unsent(), self.mss);
        if allowed > 0 {
            let mut segment =
                self.segment(Purpose::Data, self.next, sent, allowed.min(self.read_len()));
            if sent + segment.len == buffered {
                segment.flags = segment.flags.with(TcpFlags::PSH);
                if ends {
                    segment.flags = segment.flags.with(TcpFlags::FIN);
                }
            }
            return Some(segment);
        }
        if ends && sent == buffered {
            let mut segment = self.segment(Purpose::Data, self.next, 0, 0);
            segment.flags = segment.flags.with(TcpFlags::FIN);
            return Some(segment);
        }
        (self.due.window_probe && self.unsent() > 0)
            .then(|| self.segment(Purpose::WindowProbe, self.next, sent, 1))
    }

    /// A segment with an acknowledgment, `len` bytes from `offset` on, or what of them lies in few enough pieces.
    fn segment(&self, purpose: Purpose, sequence: u32, offset: usize, len: usize) -> Segment {
        let mut pieces = [&[][..]; MAX_PIECES];
        let (_, len) = self.outgoing.pieces(offset, len, &mut pieces);
        let shift = self.our_shift();
        let window = self.incoming.window().div_ceil(1 << shift);
        Segment {
            purpose,
            sequence,
            acknowledgment: self.incoming.next(),
            flags: TcpFlags::ACK,
            window: u16::try_from(window).unwrap_or(u16::MAX),
            // Not beside payload, which fills the segment.
            options: match self.sack && len == 0 {
                true => OptionBytes::sack(self.incoming.early()),
                false => OptionBytes::default(),
            },
            offset,
            len,
            mss: u16::try_from(self.mss).unwrap_or(u16::MAX),
        }
    }

    fn our_shift(&self) -> u8 {
        self.their_shift.map_or(0, |_| OUR_SHIFT)
    }

    /// Where the payload of a segment lies; says in how many pieces.
    pub(in crate::egress) fn payload<'a>(
        &'a self,
        segment: &Segment,
        out: &mut [&'a [u8]],
    ) -> usize {
        self.outgoing.pieces(segment.offset, segment.len, out).0
    }

    /// A segment of [`Self::poll_transmit`] was sent.
    pub(in crate::egress) fn handle_sent(&mut self, segment: &Segment, now: Instant) {
        match segment.purpose {
            Purpose::Reset => {
                self.due.reset = false;
                return;
            }
            Purpose::Handshake => {
                self.due.handshake = false;
                self.top = self.initial.wrapping_add(1);
                self.incoming.offered(usize::from(segment.window));
                self.resend_at = Some(now + self.congestion.timeout());
                return;
            }
            Purpose::Data | Purpose::WindowProbe => {
                self.next = segment.sequence.wrapping_add(segment.span());
                self.due.window_probe = false;
                if ahead(self.top, self.next) > 0 {
                    self.top = self.next;
                    self.congestion.handle_sent(self.next, now);
                }
                self.arm(now);
            }
            Purpose::Repair => {
                self.due.repair = false;
                self.resend_at = Some(now + self.congestion.timeout());
            }
            Purpose::Keepalive => self.due.keepalive = false,
            Purpose::Acknowledge => {}
        }
        self.due.ack = false;
        self.incoming
            .offered(usize::from(segment.window) << self.our_shift());
    }

    /// Something waits for an acknowledgment, or for a window: not for ever.
    pub(super) fn arm(&mut self, now: Instant) {
        if self.resend_at.is_none() && (self.flight() > 0 || self.unsent() > 0) {
            self.resend_at = Some(now + self.congestion.timeout());
        }
    }

    /// When [`Self::handle_timeout`] is to be called next.
    pub(in crate::egress) fn next_timeout(&self) -> Instant {
        let resend = self.resend_at;
        let own = match self.state {
            State::Dialling => self.carried + DIAL_PATIENCE,
            State::Answered | State::Calling => self.carried + IDLE,
            State::Open => self.quiet_until().min(self.carried + self.patience()),
            State::Finished => return self.carried + LINGER,
            State::Dead => return self.carried,
        };
        resend.map_or(own, |resend| resend.min(own))
    }

    fn quiet_until(&self) -> Instant {
        self.heard + QUIET + PROBE_EVERY * self.probes
    }

    fn patience(&self) -> Duration {
        match self.finish || self.incoming.finished() {
            true => HALF_CLOSED_IDLE,
            false => IDLE,
        }
    }

    /// Time has passed.
    pub(in crate::egress) fn handle_timeout(&mut self, now: Instant) {
        let resend = self.resend_at.is_some_and(|at| at <= now);
        match self.state {
            State::Dead => {}
            State::Finished if self.carried + LINGER <= now => self.die(End::Expired),
            State::Dialling if self.carried + DIAL_PATIENCE <= now => self.die(End::Expired),
            State::Finished | State::Dialling => {}
            State::Answered | State::Calling if resend => {
                self.tries += 1;
                self.congestion.handle_timeout(0, self.mss);
                self.resend_at = Some(now + self.congestion.timeout());
                self.due.handshake = true;
                if self.tries >= HANDSHAKE_TRIES {
                    self.reset(End::Expired);
                }
            }
            State::Answered | State::Calling => {}
            State::Open => {
                if resend {
                    self.send_again(now);
                }
                if self.quiet_until() <= now {
                    self.probes += 1;
                    self.due.keepalive = true;
                }
                if self.probes > PROBES || self.carried + self.patience() <= now {
                    self.reset(End::Expired);
                }
            }
        }
    }

    fn send_again(&mut self, now: Instant) {
        self.tries += 1;
        if self.tries >= DATA_TRIES {
            return self.reset(End::Expired);
        }
        let flight = self.flight();
        self.congestion.handle_timeout(flight, self.mss);
        if flight > 0 {
            self.next = self.una;
        } else {
            self.due.window_probe = self.unsent() > 0;
        }
        self.due.repair = false;
        self.resend_at = None;
        self.arm(now);
    }
}

/// Our largest window is what the field can say.
const _: () = assert!(MAX_WINDOW >> OUR_SHIFT <= 0xffff);
