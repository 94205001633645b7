//! What the container said: bytes in order go to the host's socket at once; what that doesn't take waits here, and so do
//! bytes that came too early. Both are bounded by the window, and nothing that was acknowledged is ever given up.

use std::collections::VecDeque;
use std::io;

use super::sequence::{ahead, at_or_before, length};

/// Largest receive window in bytes. A container is some 0.1 ms away: more in flight would only wait.
pub(super) const MAX_WINDOW: usize = 512 << 10;
/// Ranges that came too early, per flow. A hostile container's single bytes must not make many.
const MAX_EARLY: usize = 32;

/// Where the bytes go: the host's socket.
pub(in crate::egress) trait Outside {
    /// Takes what it can of `bytes` now, and says how much: 0 when it is full.
    ///
    /// # Errors
    /// The other side is gone.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// Bytes ahead of what is next.
#[derive(Debug)]
struct Early {
    from: u32,
    bytes: Vec<u8>,
}

impl Early {
    fn to(&self) -> u32 {
        self.from.wrapping_add(length(self.bytes.len()))
    }
}

/// The receiving half.
#[derive(Debug)]
pub(super) struct ReceiveBuffer {
    /// Sequence number of the next byte in order.
    next: u32,
    /// First sequence number beyond what was offered.
    edge: u32,
    /// In order, acknowledged, not yet taken outside.
    waiting: VecDeque<u8>,
    early: Vec<Early>,
    early_len: usize,
    /// Where the container's FIN is, if it has come.
    fin: Option<u32>,
    finished: bool,
}

impl ReceiveBuffer {
    /// After a SYN whose sequence number is `initial`.
    pub(super) const fn after(initial: u32) -> Self {
        let next = initial.wrapping_add(1);
        Self {
            next,
            edge: next,
            waiting: VecDeque::new(),
            early: Vec::new(),
            early_len: 0,
            fin: None,
            finished: false,
        }
    }

    /// What to acknowledge.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// The container has said everything, and it was taken in.
    pub(super) const fn finished(&self) -> bool {
        self.finished
    }

    /// Bytes that the host's socket has to take yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Memory in use, in bytes.
    pub(super) fn held(&self) -> usize {
        self.waiting.capacity() + self.early_len
    }

    /// How much may come from `next` on. The right edge never moves back (RFC 9293 section 3.8.6).
    pub(super) fn window(&self) -> usize {
        let free = length(MAX_WINDOW.saturating_sub(self.waiting.len()));
        let edge = self.next.wrapping_add(free);
        let edge = if ahead(self.edge, edge) > 0 {
            edge
        } else {
            self.edge
        };
        usize::try_from(ahead(self.next, edge)).unwrap_or(0)
    }

    /// This much was offered.
    pub(super) fn offered(&mut self, window: usize) {
        let edge = self.next.wrapping_add(length(window));
        if ahead(self.edge, edge) > 0 {
            self.edge = edge;
        }
    }

    /// Whether the container knows of so little room that it has to be told of more.
    pub(super) fn owes_window(&self) -> bool {
        let known = usize::try_from(ahead(self.next, self.edge)).unwrap_or(0);
        known < MAX_WINDOW / 4 && self.window() >= MAX_WINDOW / 2
    }

    /// Whether a segment has anything to do with what is awaited (RFC 9293 section 3.10.7.4, first step).
    pub(super) fn accepts(&self, from: u32, len: usize) -> bool {
        let to = from.wrapping_add(length(len));
        ahead(self.edge, from) <= 0 && ahead(self.next, to) >= 0
    }

    /// Takes a segment's bytes; those in order go outside. At most `room` more bytes may be kept here.
    ///
    /// # Errors
    /// The outside is gone.
    pub(super) fn handle_data(
        &mut self,
        from: u32,
        bytes: &[u8],
        room: usize,
        outside: &mut impl Outside,
    ) -> io::Result<()> {
        let known = usize::try_from(ahead(from, self.next)).unwrap_or(0);
        let Some(new) = bytes.get(known..).filter(|new| !new.is_empty()) else {
            return Ok(());
        };
        let from = from.wrapping_add(length(known));
        // Not beyond its end, if it has said where that is.
        let edge = self.fin.unwrap_or(self.edge);
        let offered = usize::try_from(ahead(from, edge)).unwrap_or(0);
        let new = new.get(..offered.min(new.len())).unwrap_or_default();
        if self.finished || new.is_empty() {
            return Ok(());
        }
        if from != self.next {
            self.keep_early(from, new, room);
            return Ok(());
        }
        self.pass_on(new, room, outside)?;
        while self
            .early
            .first()
            .is_some_and(|early| at_or_before(early.from, self.next))
        {
            let early = self.early.remove(0);
            self.early_len -= early.bytes.len();
            let known = usize::try_from(ahead(early.from, self.next)).unwrap_or(0);
            let new = early.bytes.get(known..).unwrap_or_default();
            self.pass_on(new, room, outside)?;
        }
        Ok(())
    }

    /// Bytes in order. What finds no room isn't acknowledged: the container sends it again.
    fn pass_on(&mut self, bytes: &[u8], room: usize, outside: &mut impl Outside) -> io::Result<()> {
        let taken = match self.waiting.is_empty() {
            true => outside.write(bytes)?,
            false => 0,
        };
        let rest = bytes.get(taken..).unwrap_or_default();
        let kept = rest.len().min(room.saturating_sub(self.waiting.len()));
        self.waiting.extend(rest.get(..kept).unwrap_or_default());
        self.next = self.next.wrapping_add(length(taken + kept));
        Ok(())
    }

    fn keep_early(&mut self, from: u32, bytes: &[u8], room: usize) {
        let at = self
            .early
            .partition_point(|early| at_or_before(early.from, from));
        let mut skip = 0;
        if let Some(before) = at.checked_sub(1).and_then(|i| self.early.get(i)) {
            skip = usize::try_from(ahead(from, before.to())).unwrap_or(0);
        }
        let mut end = bytes.len();
        if let Some(after) = self.early.get(at) {
            end = end.min(usize::try_from(ahead(from, after.from)).unwrap_or(0));
        }
        let Some(new) = bytes.get(skip..end).filter(|new| !new.is_empty()) else {
            return;
        };
        if self.early_len + new.len() > room {
            return;
        }
        let from = from.wrapping_add(length(skip));
        let full = self.early.len() >= MAX_EARLY;
        let before = at.checked_sub(1).and_then(|i| self.early.get_mut(i));
        match before.filter(|before| before.to() == from) {
            Some(before) => before.bytes.extend_from_slice(new),
            None if full => return,
            None => self.early.insert(
                at,
                Early {
                    from,
                    bytes: new.to_vec(),
                },
            ),
        }
        self.early_len += new.len();
    }

    /// The container says that `at` is its end; true once everything before it is here, and it counts.
    pub(super) fn handle_fin(&mut self, at: u32) -> bool {
        if self.finished || ahead(self.next, at) < 0 || ahead(self.edge, at) > 0 {
            return false;
        }
        let fin = *self.fin.get_or_insert(at);
        if fin != self.next {
            return false;
        }
        self.next = self.next.wrapping_add(1);
        self.finished = true;
        // What it said of bytes behind its end contradicts that.
        self.early.clear();
        self.early_len = 0;
        true
    }

    /// A FIN that came before the bytes in front of it.
    pub(super) fn late_fin(&mut self) -> bool {
        self.fin.is_some_and(|at| self.handle_fin(at))
    }

    /// The outside has room again.
    ///
    /// # Errors
    /// The outside is gone.
    pub(super) fn flush(&mut self, outside: &mut impl Outside) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let (first, _) = self.waiting.as_slices();
            let taken = outside.write(first)?;
            if taken == 0 {
                return Ok(());
            }
            self.waiting.drain(..taken);
        }
        // What was needed once needn't be kept.
        self.waiting = VecDeque::new();
        Ok(())
    }

    /// What came too early, as blocks of a selective acknowledgment.
    pub(super) fn early(&self) -> impl Iterator<Item = (u32, u32)> {
        self.early.iter().map(|early| (early.from, early.to()))
    }
}

#[cfg(test)]
mod tests;
