//! Clients of published ports that speak by datagrams. Anybody can write any source address on those: a client that the
//! container hasn't answered is not kept for long, is the first to go when room is needed, and no port takes all the room.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::packet::FlowKey;

/// Clients at most, of all ports.
const MAX_GUESTS: usize = 16_384;
/// Clients of one port.
const MAX_PER_PORT: usize = MAX_GUESTS / 4;
/// How long a client is remembered (RFC 4787 REQ-5).
const IDLE: Duration = Duration::from_secs(180);
/// How long one is that had no answer yet.
pub(super) const UNANSWERED: Duration = Duration::from_secs(30);

/// A network and the flow in it that is a client's.
pub(super) type Key = (u64, FlowKey);

/// A client.
#[derive(Debug)]
pub(super) struct Guest {
    /// The socket that it speaks to.
    pub(super) listener: u64,
    pub(super) client: SocketAddr,
    /// The host's address that it speaks to.
    pub(super) at: Option<IpAddr>,
    came: Instant,
    used: Instant,
    answered: bool,
}

impl Guest {
    pub(super) const fn new(
        listener: u64,
        (client, at): (SocketAddr, Option<IpAddr>),
        now: Instant,
    ) -> Self {
        Self {
            listener,
            client,
            at,
            came: now,
            used: now,
            answered: false,
        }
    }
}

/// All clients.
#[derive(Debug, Default)]
pub(super) struct Guests {
    by_client: HashMap<(u64, SocketAddr), Key>,
    guests: HashMap<Key, Guest>,
    /// How many each socket has.
    counts: HashMap<u64, usize>,
    /// Those without an answer, by socket, in the order in which they came. Some are gone, or answered meanwhile.
    waiting: HashMap<u64, VecDeque<(Key, Instant)>>,
}

impl Guests {
    pub(super) fn is_empty(&self) -> bool {
        self.guests.is_empty()
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        self.guests.contains_key(key)
    }

    /// A client that is known spoke.
    pub(super) fn heard(&mut self, listener: u64, client: SocketAddr, now: Instant) -> Option<Key> {
        let key = *self.by_client.get(&(listener, client))?;
        self.guests.get_mut(&key)?.used = now;
        Some(key)
    }

    /// The container answered.
    pub(super) fn answered(&mut self, key: &Key, now: Instant) -> Option<&Guest> {
        let guest = self.guests.get_mut(key)?;
        guest.used = now;
        guest.answered = true;
        Some(guest)
    }

    /// A new client. False when there is no room and nobody has to make any.
    pub(super) fn admit(&mut self, key: Key, guest: Guest) -> bool {
        let listener = guest.listener;
        let own = self.counts.get(&listener).copied().unwrap_or(0);
        let room = if own >= MAX_PER_PORT {
            self.evict(listener)
        } else {
            self.guests.len() < MAX_GUESTS || self.evict(listener) || self.evict_any()
        };
        if !room {
            return false;
        }
        let waiting = self.waiting.entry(listener).or_default();
        waiting.push_back((key, guest.came));
        *self.counts.entry(listener).or_default() += 1;
        self.by_client.insert((listener, guest.client), key);
        self.guests.insert(key, guest);
        true
    }

    /// Makes one socket's oldest client without an answer go. False when it has none.
    fn evict(&mut self, listener: u64) -> bool {
        while let Some((key, came)) = self.next_waiting(listener) {
            let waits =
                |guest: &Guest| guest.listener == listener && guest.came == came && !guest.answered;
            if self.guests.get(&key).is_some_and(waits) {
                self.remove(&key);
                return true;
            }
        }
        self.waiting.remove(&listener);
        false
    }

    fn next_waiting(&mut self, listener: u64) -> Option<(Key, Instant)> {
        self.waiting.get_mut(&listener)?.pop_front()
    }

    /// The same of the socket that has most of them.
    fn evict_any(&mut self) -> bool {
        loop {
            let most = self.waiting.iter().max_by_key(|(_, waiting)| waiting.len());
            let Some(listener) = most.map(|(listener, _)| *listener) else {
                return false;
            };
            // A queue without any is gone now.
            if self.evict(listener) {
                return true;
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        let Some(guest) = self.guests.remove(key) else {
            return;
        };
        self.by_client.remove(&(guest.listener, guest.client));
        if let Some(count) = self.counts.get_mut(&guest.listener) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&guest.listener);
            }
        }
    }

    /// Clients that say no more are forgotten.
    pub(super) fn expire(&mut self, now: Instant) {
        self.retain(|_, guest| {
            let idle = if guest.answered { IDLE } else { UNANSWERED };
            now.saturating_duration_since(guest.used) < idle
        });
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Key, &Guest) -> bool) {
        let gone: Vec<Key> = (self.guests.iter())
            .filter(|(key, guest)| !keep(key, guest))
            .map(|(key, _)| *key)
            .collect();
        for key in &gone {
            self.remove(key);
        }
        let guests = &self.guests;
        self.waiting.retain(|_, waiting| {
            waiting.retain(|(key, came)| {
                let guest = guests.get(key);
                guest.is_some_and(|guest| guest.came == *came && !guest.answered)
            });
            !waiting.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: usize) -> SocketAddr {
        let [_, _, b, c] = u32::try_from(number).unwrap().to_be_bytes();
        SocketAddr::from(([192, 0, b, c], 1000))
    }

    /// The key of a client's flow to a socket.
    fn key(listener: u64, number: usize) -> Key {
        let place = u16::try_from(listener).unwrap();
        let flow = FlowKey {
            inside: SocketAddr::from(([10, 32, 0, 2], place)),
            outside: client(number),
        };
        (1, flow)
    }

    fn come(guests: &mut Guests, listener: u64, number: usize, now: Instant) -> bool {
        let guest = Guest::new(listener, (client(number), None), now);
        guests.admit(key(listener, number), guest)
    }

    #[test]
    fn forged_sources_take_neither_all_room_nor_that_of_who_was_answered() {
        let start = Instant::now();
        let mut guests = Guests::default();
        assert!(come(&mut guests, 1, 0, start));
        assert!(guests.answered(&key(1, 0), start).is_some());
        for number in 1..=MAX_PER_PORT * 2 {
            let now = start + Duration::from_millis(number as u64);
            assert!(come(&mut guests, 1, number, now));
        }
        assert_eq!(guests.guests.len(), MAX_PER_PORT);
        assert!(guests.has(&key(1, 0)), "who was answered stays");
        assert!(!guests.has(&key(1, 1)), "the oldest goes");
        assert!(guests.has(&key(1, MAX_PER_PORT * 2)));
        // Other ports fill the rest; then whoever has most makes room.
        for listener in 2..=5 {
            for number in 0..MAX_PER_PORT {
                assert!(come(&mut guests, listener, number, start));
            }
        }
        assert_eq!(guests.guests.len(), MAX_GUESTS);
        assert!(guests.has(&key(1, 0)));
        assert_eq!(guests.by_client.len(), MAX_GUESTS);
        assert_eq!(guests.counts.values().sum::<usize>(), MAX_GUESTS);
        let waiting = guests.waiting.values().map(VecDeque::len);
        assert!(waiting.sum::<usize>() <= MAX_GUESTS);
    }

    #[test]
    fn a_port_whose_clients_were_all_answered_takes_no_more() {
        let start = Instant::now();
        let mut guests = Guests::default();
        for number in 0..MAX_PER_PORT {
            assert!(come(&mut guests, 1, number, start));
            assert!(guests.answered(&key(1, number), start).is_some());
        }
        assert!(!come(&mut guests, 1, MAX_PER_PORT, start));
        assert!(come(&mut guests, 2, 0, start), "another port does");
    }

    #[test]
    fn who_was_answered_is_remembered_for_longer() {
        let start = Instant::now();
        let mut guests = Guests::default();
        assert!(come(&mut guests, 1, 1, start) && come(&mut guests, 1, 2, start));
        assert_eq!(guests.heard(1, client(3), start), None);
        assert!(guests.answered(&key(1, 2), start).is_some());
        guests.expire(start + UNANSWERED);
        assert!(!guests.has(&key(1, 1)) && guests.has(&key(1, 2)));
        let late = start + IDLE / 2;
        assert_eq!(guests.heard(1, client(2), late), Some(key(1, 2)));
        guests.expire(start + IDLE);
        assert!(guests.has(&key(1, 2)), "it spoke meanwhile");
        guests.expire(late + IDLE);
        assert!(guests.is_empty() && guests.waiting.is_empty() && guests.counts.is_empty());
        // A key may be another client's later.
        assert!(come(&mut guests, 1, 2, late));
        guests.retain(|key, _| key.0 != 1);
        assert!(guests.is_empty() && guests.by_client.is_empty());
    }
}
