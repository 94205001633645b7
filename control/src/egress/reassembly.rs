//! Fragments of containers, put together (RFC 791 section 3.2, RFC 8200 section 4.5). Bounded in memory, in packets of
//! one container, in pieces and in time; an overlap makes an end of the whole packet (RFC 5722).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::packet::Fragment;
use super::refusal::Refusal;

/// How long the rest of a packet may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of all unfinished packets.
const MAX_HELD: usize = 8 << 20;
/// Unfinished packets of one container.
const MAX_PER_CONTAINER: usize = 32;
/// Pieces of a packet: the largest one in an MTU of 576 has 120.
const MAX_PIECES: usize = 128;
/// A payload never ends beyond this.
const MAX_LEN: usize = 65_535;

/// What makes fragments one packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    network: u64,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    identification: u32,
}

#[derive(Debug)]
struct Unfinished {
    pieces: BTreeMap<usize, Vec<u8>>,
    /// Where the payload ends, once the last fragment was seen.
    end: Option<usize>,
    held: usize,
    since: Instant,
}

/// All unfinished packets.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    packets: HashMap<Key, Unfinished>,
    held: usize,
}

impl Reassembly {
    /// Takes a fragment; gives the payload when it was the last that was missing.
    ///
    /// # Errors
    /// There is no room, or the fragment contradicts the others: the packet is given up.
    pub(super) fn handle(
        &mut self,
        network: u64,
        fragment: &Fragment<'_>,
        now: Instant,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let key = Key {
            network,
            source: fragment.source,
            destination: fragment.destination,
            protocol: fragment.protocol.0,
            identification: fragment.identification,
        };
        let len = fragment.bytes.len();
        let end = fragment.offset + len;
        let odd = fragment.more && !len.is_multiple_of(8);
        if odd || len == 0 || end > MAX_LEN {
            self.give_up(&key);
            return Err(Refusal::Fragment);
        }
        if !self.packets.contains_key(&key) && !self.has_room(&key) || self.held + len > MAX_HELD {
            return Err(Refusal::Fragment);
        }
        let packet = self.packets.entry(key).or_insert_with(|| Unfinished {
            pieces: BTreeMap::new(),
            end: None,
            held: 0,
            since: now,
        });
        match packet.take(fragment.offset, fragment.bytes, fragment.more) {
            Ok(added) => self.held += added,
            Err(why) => {
                self.give_up(&key);
                return Err(why);
            }
        }
        if self
            .packets
            .get(&key)
            .is_none_or(|packet| !packet.is_whole())
        {
            return Ok(None);
        }
        let whole = self.give_up(&key);
        Ok(whole.map(|packet| packet.pieces.into_values().flatten().collect()))
    }

    fn has_room(&self, key: &Key) -> bool {
        let same = |other: &&Key| (other.network, other.source) == (key.network, key.source);
        self.packets.keys().filter(same).count() < MAX_PER_CONTAINER
    }

    fn give_up(&mut self, key: &Key) -> Option<Unfinished> {
        let packet = self.packets.remove(key)?;
        self.held -= packet.held;
        Some(packet)
    }

    /// Gives up packets whose rest doesn't come; says of which networks.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let late = |packet: &Unfinished| now.saturating_duration_since(packet.since) >= PATIENCE;
        let packets = self.packets.iter().filter(|(_, packet)| late(packet));
        let late: Vec<Key> = packets.map(|(key, _)| *key).collect();
        for key in &late {
            self.give_up(key);
        }
        late.into_iter().map(|key| key.network).collect()
    }

    /// When [`Self::expire`] is to be called; `None`: nothing is unfinished.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let packets = self.packets.values();
        packets.map(|packet| packet.since + PATIENCE).min()
    }
}

impl Unfinished {
    /// Keeps a piece; says how many bytes that are. One that is here already is no mistake.
    fn take(&mut self, offset: usize, bytes: &[u8], more: bool) -> Result<usize, Refusal> {
        if self.pieces.get(&offset).is_some_and(|piece| piece == bytes) {
            return Ok(0);
        }
        let end = offset + bytes.len();
        let before = self.pieces.range(..=offset).next_back();
        let after = self.pieces.range(offset..).next();
        let overlaps = before.is_some_and(|(at, piece)| at + piece.len() > offset)
            || after.is_some_and(|(at, _)| *at < end);
        let beyond = self
            .end
            .is_some_and(|known| end > known || (!more && end != known));
        let behind = || self.pieces.last_key_value();
        let cut = !more && behind().is_some_and(|(at, piece)| at + piece.len() > end);
        if overlaps || beyond || cut || self.pieces.len() >= MAX_PIECES {
            return Err(Refusal::Fragment);
        }
        if !more {
            self.end = Some(end);
        }
        self.pieces.insert(offset, bytes.to_vec());
        self.held += bytes.len();
        Ok(bytes.len())
    }

    /// Without overlaps, the sum of the pieces says it.
    fn is_whole(&self) -> bool {
        self.end == Some(self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weft_wire::{IpProtocol, MacAddr};

    use super::*;

    fn piece(identification: u32, offset: usize, bytes: &[u8], more: bool) -> Fragment<'_> {
        Fragment {
            mac: MacAddr::ZERO,
            source: IpAddr::from([10, 0, 0, 2]),
            destination: IpAddr::from([192, 0, 2, 2]),
            ttl: 64,
            protocol: IpProtocol::UDP,
            identification,
            offset,
            more,
            bytes,
        }
    }

    #[test]
    fn a_packet_is_whole_when_nothing_is_missing() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        let mut take =
            |offset, bytes: &[u8], more| reassembly.handle(1, &piece(7, offset, bytes, more), now);
        assert_eq!(take(16, b"end", false), Ok(None));
        assert_eq!(take(0, &[1; 8], true), Ok(None));
        assert_eq!(take(0, &[1; 8], true), Ok(None), "twice is once");
        let whole = [&[1; 8][..], &[2; 8], b"end"].concat();
        assert_eq!(take(8, &[2; 8], true), Ok(Some(whole)));
        assert_eq!((reassembly.held, reassembly.packets.len()), (0, 0));
    }

    #[test]
    fn what_contradicts_itself_ends_the_packet() {
        let now = Instant::now();
        type Part = (usize, usize, bool);
        let bad: [&[Part]; 7] = [
            &[(0, 16, true), (8, 16, true)],
            &[(8, 16, true), (0, 16, true)],
            &[(16, 3, false), (24, 8, true)],
            &[(16, 3, false), (16, 4, false)],
            &[(24, 8, true), (16, 4, false)],
            &[(0, 7, true)],
            &[(65_528, 8, false)],
        ];
        for parts in bad {
            let mut reassembly = Reassembly::default();
            let bytes = [0; 64];
            let results = parts.iter().map(|(offset, len, more)| {
                let bytes = &bytes[..*len];
                reassembly.handle(1, &piece(7, *offset, bytes, *more), now)
            });
            let last = results.last().unwrap();
            assert_eq!(last, Err(Refusal::Fragment), "{parts:?}");
            assert_eq!((reassembly.held, reassembly.packets.len()), (0, 0));
        }
    }

    #[test]
    fn what_never_ends_is_bounded_and_given_up() {
        let now = Instant::now();
        let mut reassembly = Reassembly::default();
        for id in 0..1000 {
            let _ = reassembly.handle(1, &piece(id, 0, &[0; 8], true), now);
        }
        assert_eq!(reassembly.packets.len(), MAX_PER_CONTAINER);
        for i in 0..1000 {
            let _ = reassembly.handle(1, &piece(0, 16 + i * 16, &[0; 8], true), now);
        }
        assert!(reassembly.held <= 8 * (MAX_PIECES + MAX_PER_CONTAINER));
        let at = reassembly.next_timeout().unwrap();
        assert_eq!(at, now + PATIENCE);
        assert!(reassembly.expire(at).len() >= MAX_PER_CONTAINER - 1);
        assert_eq!((reassembly.held, reassembly.next_timeout()), (0, None));
    }

    proptest! {
        #[test]
        fn any_order_makes_the_packet(len in 1usize..3000, cut in 1usize..40, seed: u64) {
            let bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            let size = cut * 8;
            let mut pieces: Vec<(usize, &[u8])> = bytes.chunks(size).enumerate().collect();
            prop_assume!(pieces.len() <= MAX_PIECES);
            let last = pieces.len() - 1;
            let mut random = seed | 1;
            for i in (1..pieces.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                pieces.swap(i, usize::try_from(random >> 33).unwrap() % (i + 1));
            }
            let mut reassembly = Reassembly::default();
            let now = Instant::now();
            let mut whole = None;
            for (i, part) in pieces {
                prop_assert!(whole.is_none());
                whole = reassembly.handle(1, &piece(9, i * size, part, i != last), now).unwrap();
            }
            prop_assert_eq!(whole, Some(bytes));
        }
    }
}
