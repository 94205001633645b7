//! Two connections speak with each other over a link that loses, doubles and delays, in virtual time.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const INITIAL: u32 = u32::MAX - 700;

/// What the outside of an end took, and how much more it takes.
#[derive(Debug)]
struct Sink {
    taken: Vec<u8>,
    room: usize,
}

impl Outside for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

/// One end with what it has to say.
struct Side {
    connection: Connection,
    sink: Sink,
    say: Vec<u8>,
    said: usize,
}

/// Both ends, and the segments between them by time of arrival.
struct World {
    now: Instant,
    ends: [Option<Side>; 2],
    pool: Pool,
    wire: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    sent: u64,
    random: u64,
    /// Of 256.
    loss: u8,
    jitter: u64,
    /// Bytes that each outside takes per millisecond.
    appetite: usize,
}

fn encode(segment: &Segment, connection: &Connection) -> Vec<u8> {
    let mut pieces = [&[][..]; MAX_PIECES];
    let count = connection.payload(segment, &mut pieces);
    let mut bytes = vec![0; 20];
    bytes[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    bytes[8..12].copy_from_slice(&segment.acknowledgment.to_be_bytes());
    bytes[12] = u8::try_from((20 + segment.options().len()) * 4).unwrap();
    bytes[13] = segment.flags.0;
    bytes[14..16].copy_from_slice(&segment.window.to_be_bytes());
    bytes.extend_from_slice(segment.options());
    let payload = pieces[..count].concat();
    assert_eq!(payload.len(), segment.len);
    bytes.extend(payload);
    bytes
}

impl World {
    fn new(say: [Vec<u8>; 2], loss: u8, jitter: u64, appetite: usize, mss: u16) -> Self {
        let now = Instant::now();
        let [caller, answerer] = say;
        let caller = Side {
            connection: Connection::call(INITIAL, mss, now),
            sink: Sink {
                taken: Vec::new(),
                room: 0,
            },
            say: caller,
            said: 0,
        };
        let mut world = Self {
            now,
            ends: [Some(caller), None],
            pool: Pool::default(),
            wire: BTreeMap::new(),
            sent: 0,
            random: 0x9e37_79b9_7f4a_7c15,
            loss,
            jitter,
            appetite,
        };
        world.pump(0);
        // The first SYN makes the other end, as a packet of a new flow does.
        let (_, syn) = world.wire.pop_first().unwrap().1;
        let syn = Tcp::new(&syn).unwrap();
        let mut connection = Connection::accept(&syn, 77, mss, now);
        connection.handle_dialled(now);
        world.ends[1] = Some(Side {
            connection,
            sink: Sink {
                taken: Vec::new(),
                room: 0,
            },
            say: answerer,
            said: 0,
        });
        world
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Lets an end read from its outside and send what it may.
    fn pump(&mut self, side: usize) {
        let Some(mut end) = self.ends[side].take() else {
            return;
        };
        end.connection.handle_writable(&mut end.sink, self.now);
        loop {
            while let Some(segment) = end.connection.poll_transmit() {
                assert!(segment.len <= end.connection.read_len());
                let bytes = encode(&segment, &end.connection);
                end.connection.handle_sent(&segment, self.now);
                let chance = self.random();
                let handshake = segment.flags.contains(TcpFlags::SYN) && self.sent == 0;
                let copies = match chance & 0xff {
                    lost if lost < u64::from(self.loss) && !handshake => 0,
                    doubled if doubled > 250 && self.loss > 0 => 2,
                    _ => 1,
                };
                for _ in 0..copies {
                    let delay = 100 + self.random() % (self.jitter + 1);
                    self.sent += 1;
                    let at = self.now + Duration::from_micros(delay);
                    self.wire.insert((at, self.sent), (1 - side, bytes.clone()));
                }
            }
            if !end.connection.wants_bytes() {
                break;
            }
            let left = end.say.len() - end.said;
            if left == 0 {
                end.connection.finish();
                continue;
            }
            let mut buffer = self.pool.take();
            let len = left.min(end.connection.read_len()).min(buffer.len());
            buffer[..len].copy_from_slice(&end.say[end.said..end.said + len]);
            end.said += len;
            end.connection.push(buffer, len, &mut self.pool, self.now);
        }
        self.ends[side] = Some(end);
    }

    fn deliver(&mut self, side: usize, bytes: &[u8]) {
        let end = self.ends[side].as_mut().unwrap();
        let segment = Tcp::new(bytes).unwrap();
        let (sink, now) = (&mut end.sink, self.now);
        end.connection
            .handle_segment(&segment, 1 << 20, sink, &mut self.pool, now);
    }

    /// Until both ends are through, or virtual time is up.
    fn run(&mut self, patience: Duration) {
        let deadline = self.now + patience;
        // A world that stands still is a bug, not a long test.
        for _ in 0..2_000_000 {
            if self.now >= deadline {
                return;
            }
            for side in [0, 1] {
                self.pump(side);
            }
            let states = [0, 1].map(|i| self.ends[i].as_ref().unwrap().connection.state());
            if states
                .iter()
                .all(|state| matches!(state, State::Finished | State::Dead))
            {
                return;
            }
            let living = self.ends.iter().flatten().map(|end| &end.connection);
            let living = living.filter(|connection| connection.state() != State::Dead);
            let next = living.map(Connection::next_timeout).min().unwrap();
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let tick = self.now + Duration::from_millis(1);
            self.now = arrival
                .map_or(tick, |at| at.min(tick))
                .min(next.max(self.now));
            if self.now == tick {
                for end in self.ends.iter_mut().flatten() {
                    end.sink.room += self.appetite;
                }
            }
            while let Some(first) = self.wire.first_entry().filter(|e| e.key().0 <= self.now) {
                let (side, bytes) = first.remove();
                self.deliver(side, &bytes);
            }
            for end in self.ends.iter_mut().flatten() {
                if end.connection.next_timeout() <= self.now {
                    end.connection.handle_timeout(self.now);
                }
            }
        }
    }

    fn heard(&self, side: usize) -> &[u8] {
        &self.ends[side].as_ref().unwrap().sink.taken
    }

    fn connection(&mut self, side: usize) -> &mut Connection {
        &mut self.ends[side].as_mut().unwrap().connection
    }
}

fn stream(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i * 13 + i / 251 + seed) % 251).unwrap())
        .collect()
}

#[test]
fn both_streams_arrive_and_both_ends_finish() {
    let say = [stream(3_000_000, 1), stream(5_000_000, 2)];
    let mut world = World::new(say.clone(), 0, 0, 1 << 20, 1460);
    let start = world.now;
    world.run(Duration::from_secs(20));
    assert!(world.heard(1) == say[0] && world.heard(0) == say[1]);
    let states = [0, 1].map(|i| world.connection(i).state());
    assert_eq!(states, [State::Finished; 2]);
    // Nothing was lost: no timer had to help.
    assert!(
        world.now - start < Duration::from_secs(1),
        "{:?}",
        world.now - start
    );
    assert_eq!(world.connection(0).held() + world.connection(1).held(), 0);
}

#[test]
fn an_outside_that_stops_taking_closes_the_window_and_opens_it_again() {
    let say = [stream(4_000_000, 1), Vec::new()];
    let mut world = World::new(say.clone(), 0, 0, 0, 1460);
    world.run(Duration::from_secs(5));
    assert!(world.heard(1).is_empty());
    let held = world.connection(1).held();
    assert!(held > 100_000 && held <= 2 << 20, "{held}");
    assert_eq!(world.connection(0).state(), State::Open);
    world.appetite = 100_000;
    world.run(Duration::from_secs(100));
    assert!(world.heard(1) == say[0]);
}

#[test]
fn a_half_closed_connection_carries_the_other_half() {
    let say = [Vec::new(), stream(100_000, 3)];
    let mut world = World::new(say.clone(), 0, 0, 10, 1000);
    world.run(Duration::from_secs(60));
    assert!(world.heard(0) == say[1]);
    assert!(matches!(world.connection(0).state(), State::Finished));
}

#[test]
fn only_the_very_next_sequence_number_resets() {
    let mut world = World::new([stream(10, 1), Vec::new()], 0, 0, 100, 1000);
    for _ in 0..3 {
        world.pump(0);
        world.pump(1);
        while let Some((_, (side, bytes))) = world.wire.pop_first() {
            world.deliver(side, &bytes);
        }
    }
    let next = world.connection(1).incoming.next();
    let mut rst = vec![0; 20];
    rst[12] = 0x50;
    rst[13] = TcpFlags::RST.0;
    rst[4..8].copy_from_slice(&(next + 5).to_be_bytes());
    world.deliver(1, &rst);
    assert_ne!(world.connection(1).state(), State::Dead);
    let challenge = world.connection(1).poll_transmit().unwrap();
    assert_eq!(challenge.flags, TcpFlags::ACK);
    rst[4..8].copy_from_slice(&next.to_be_bytes());
    world.deliver(1, &rst);
    assert_eq!(world.connection(1).state(), State::Dead);
    assert_eq!(world.connection(1).end(), Some(End::ByContainer));
    assert!(
        world.connection(1).poll_transmit().is_none(),
        "a reset is not answered"
    );
}

#[test]
fn a_refused_dial_answers_the_syn_with_a_reset() {
    let world = World::new([Vec::new(), Vec::new()], 0, 0, 0, 1000);
    let now = world.now;
    let mut syn = vec![0; 20];
    syn[7] = 9;
    syn[12] = 0x50;
    syn[13] = TcpFlags::SYN.0;
    let mut connection = Connection::accept(&Tcp::new(&syn).unwrap(), 1, 1000, now);
    assert!(connection.poll_transmit().is_none(), "the dial is not done");
    connection.reset(End::ByOutside);
    let reset = connection.poll_transmit().unwrap();
    assert_eq!(reset.flags, TcpFlags::RST.with(TcpFlags::ACK));
    assert_eq!(reset.acknowledgment, 10);
}

/// What happens at each timeout.
type Act = Box<dyn FnMut(&mut Connection, Instant)>;

#[test]
fn half_open_silent_and_idle_flows_end() {
    let start = Instant::now();
    let mut syn = vec![0; 20];
    syn[12] = 0x50;
    syn[13] = TcpFlags::SYN.0;
    let syn = Tcp::new(&syn).unwrap();
    let expire = |mut connection: Connection, mut act: Act| {
        while connection.state() != State::Dead {
            let at = connection.next_timeout();
            connection.handle_timeout(at);
            act(&mut connection, at);
            while let Some(segment) = connection.poll_transmit() {
                connection.handle_sent(&segment, at);
            }
            assert!(at < start + Duration::from_secs(10_000));
            if connection.state() == State::Dead {
                return at - start;
            }
        }
        unreachable!("it was dead before")
    };
    let dialling = Connection::accept(&syn, 1, 1000, start);
    let took = expire(dialling, Box::new(|_, _| {}));
    assert_eq!(took.as_secs(), 75);
    let mut answered = Connection::accept(&syn, 1, 1000, start);
    answered.handle_dialled(start);
    let first = answered.poll_transmit().unwrap();
    answered.handle_sent(&first, start);
    let took = expire(answered, Box::new(|_, _| {}));
    assert!((15..70).contains(&took.as_secs()), "{took:?}");
    let open = || {
        let mut open = Connection::accept(&syn, 1, 1000, start);
        open.handle_dialled(start);
        open.establish(start);
        open
    };
    let took = expire(open(), Box::new(|_, _| {}));
    assert_eq!(took.as_secs(), 120 + 4 * 15, "the container is silent");
    let took = expire(
        open(),
        Box::new(|open, at| {
            open.heard = at;
            open.probes = 0;
        }),
    );
    assert_eq!(took.as_secs(), 2 * 3600 + 240, "nothing is carried");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Loss, doubling, reordering, slow readers: the streams arrive whole.
    #[test]
    fn streams_survive_a_bad_link(
        lens in (0usize..200_000, 0usize..200_000),
        loss in 0u8..40,
        jitter in 0u64..3_000,
        appetite in 300usize..100_000,
        mss in prop::sample::select(vec![64u16, 536, 1460, 9000]),
    ) {
        let say = [stream(lens.0, 5), stream(lens.1, 6)];
        let mut world = World::new(say.clone(), loss, jitter, appetite, mss);
        world.run(Duration::from_secs(3000));
        prop_assert_eq!(world.heard(1).len(), say[0].len());
        prop_assert_eq!(world.heard(0).len(), say[1].len());
        prop_assert!(world.heard(1) == say[0] && world.heard(0) == say[1]);
    }
}
