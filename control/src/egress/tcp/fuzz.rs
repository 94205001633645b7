//! What the fuzz target of TCP runs on its input: a container that sends what it likes to one connection. Whatever it is,
//! what goes outside is what it said, in order and once; nothing grows beyond its bounds; and there is always an end of
//! what is to be sent.

use std::io;
use std::time::Instant;

use weft_wire::{Tcp, TcpFlags};

use super::receive::MAX_WINDOW;
use super::{Connection, End, MAX_FLIGHT, MAX_PIECES, Outside, Pool, State};

/// Sequence numbers wrap soon.
const INITIAL: u32 = u32::MAX - 300;
const MSS: u16 = 1460;
/// Segments that may be due at once: a window of the smallest there are.
const MAX_DUE: usize = 1 << 16;

/// The byte that a container says at a place of its stream.
fn said(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap_or_default()
}

/// The host's socket.
#[derive(Debug, Default)]
struct Sink {
    taken: usize,
    room: usize,
}

impl Outside for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        for byte in &bytes[..count] {
            assert_eq!(*byte, said(self.taken), "byte {} outside", self.taken);
            self.taken += 1;
        }
        Ok(count)
    }
}

struct Fuzzed {
    connection: Connection,
    pool: Pool,
    sink: Sink,
    now: Instant,
    /// Sequence number of the first byte of the container's stream.
    first: u32,
}

/// The input: options and payload of a SYN, then operations.
pub(crate) fn fuzz_segments(data: &[u8]) {
    let now = Instant::now();
    let calls = data.first().is_some_and(|first| first & 1 != 0);
    let connection = match Tcp::new(data) {
        Ok(syn) if !calls => Connection::accept(&syn, INITIAL, MSS, now),
        Ok(_) | Err(_) => Connection::call(INITIAL, MSS, now),
    };
    let mut fuzzed = Fuzzed {
        first: connection.first_heard().wrapping_add(1),
        connection,
        pool: Pool::default(),
        sink: Sink::default(),
        now,
    };
    fuzzed.connection.handle_dialled(now);
    fuzzed.drain();
    let (operations, _) = data.as_chunks::<8>();
    for operation in operations {
        fuzzed.step(*operation);
        fuzzed.drain();
        fuzzed.check();
    }
    fuzzed.connection.reset(End::ByOutside);
    fuzzed.drain();
}

impl Fuzzed {
    fn step(&mut self, [what, flags, at, at_high, ack, window, len, len_high]: [u8; 8]) {
        let near = |around: u32, by: u8| around.wrapping_add(u32::from(by)).wrapping_sub(16);
        let long = usize::from(u16::from_le_bytes([len, len_high]));
        match what % 8 {
            0 => self.sink.room = long,
            1 => self.say(long),
            2 => {
                self.now = self.now.max(self.connection.next_timeout());
                self.connection.handle_timeout(self.now);
            }
            3 if flags > 250 => self.connection.finish(),
            3 => self.connection.handle_writable(&mut self.sink, self.now),
            _ => {
                let next = self.connection.incoming.next();
                let sequence = near(next, at).wrapping_add(u32::from(at_high) * 997);
                let acknowledgment = match what & 8 {
                    0 => near(self.connection.top, ack.min(16)),
                    _ => near(self.connection.una, ack),
                };
                // Mostly plain segments: others end most of it at once.
                let flags = match flags {
                    0..=199 => TcpFlags::ACK.0,
                    other => other,
                };
                self.hear((sequence, acknowledgment), flags, window, long % 3_000);
            }
        }
    }

    /// The outside says something, where it is asked to.
    fn say(&mut self, len: usize) {
        if self.connection.wants_bytes() {
            let buffer = self.pool.take();
            let len = len.min(self.connection.read_len()).min(buffer.len());
            self.connection.push(buffer, len, &mut self.pool, self.now);
        }
    }

    fn hear(&mut self, (sequence, ack): (u32, u32), flags: u8, window: u8, len: usize) {
        if self.connection.state() == State::Calling {
            // Its stream begins with what it answers.
            self.first = sequence.wrapping_add(1);
        }
        let mut bytes = vec![0; 20];
        bytes[4..8].copy_from_slice(&sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&ack.to_be_bytes());
        bytes[12] = 5 << 4;
        bytes[13] = flags;
        bytes[14..16].copy_from_slice(&[window, window]);
        let offset = sequence.wrapping_sub(self.first);
        // What is before the stream's beginning is no part of it.
        let place = |i: usize| usize::try_from(offset).unwrap_or(0).wrapping_add(i) & 0xffff_ffff;
        bytes.extend((0..len).map(|i| said(place(i))));
        let segment = Tcp::new(&bytes).expect("made as one");
        let room = MAX_WINDOW;
        let (pool, sink) = (&mut self.pool, &mut self.sink);
        self.connection
            .handle_segment(&segment, room, sink, pool, self.now);
    }

    /// Sends all that is due.
    fn drain(&mut self) {
        for _ in 0..MAX_DUE {
            let Some(segment) = self.connection.poll_transmit() else {
                return;
            };
            let mut pieces = [&[][..]; MAX_PIECES];
            let count = self.connection.payload(&segment, &mut pieces);
            let len: usize = pieces[..count].iter().map(|piece| piece.len()).sum();
            assert_eq!(len, segment.len, "{segment:?}");
            self.connection.handle_sent(&segment, self.now);
        }
        panic!("it never ends: {:?}", self.connection.poll_transmit());
    }

    fn check(&self) {
        let incoming = self.connection.incoming.held();
        assert!(incoming <= 4 * MAX_WINDOW, "{incoming} bytes are kept");
        let outgoing = self.connection.outgoing.len();
        let most = usize::try_from(MAX_FLIGHT).unwrap_or(usize::MAX) + (64 << 10);
        assert!(outgoing <= most, "{outgoing} bytes wait");
    }
}
