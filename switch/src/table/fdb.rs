//! The forwarding database: behind which port or peer a station is.
//!
//! # What is in it
//! **Learned** entries come from the source addresses of admitted frames. They age; a station that shows elsewhere has
//! moved at once. **Owned** entries are facts of the control plane with an epoch. They neither age nor yield to what
//! frames say; a newer epoch replaces them, an older one, or its removal that arrives late, does nothing. An equal
//! epoch replaces too: the same fact may be told again when a peer or port got another number.
//!
//! # Complications
//! - Anybody behind a port can send from as many MACs as he likes. So every port and every peer may fill a part of the
//!   table only, the table has an end, and the hash is keyed. What isn't learned is flooded, which is slower, not wrong.
//!   Owned entries are taken whatever the limits say: the control plane bounds them.
//! - An entry that is past its age is not there for [`Fdb::lookup`], whether or not [`Fdb::expire`] has come by; for the
//!   limits it is there until then.
//! - Ageing belongs to the network and may change; it is an argument, and the entry keeps only when it was last seen.
//!
//! # Threads
//! All workers read and learn at the same time. Seeing a known station again, also elsewhere, changes atomics of its
//! entry and takes its shard's lock for reading only; a new station takes it for writing, for one insertion. Scans
//! ([`Fdb::expire`] and the flushes) hold one shard's lock at a time: there are 256, so at the limit that is
//! about a thousand entries, some microseconds. Lock order: a shard of `entries`, then a shard of `learned_at`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use weft_wire::{MacAddr, PeerId, PortId, VlanId, Vni};

use super::hash::KeyedHash;

/// Entries at which learning stops: about 16 MiB.
pub const FDB_MAX_ENTRIES: usize = 262_144;
/// Stations learned behind one port: a rack of virtual machines behind a bridge, not a flood.
pub const FDB_MAX_LEARNED_PER_PORT: usize = 4_096;
/// Stations learned behind one peer, which may be a gateway to a whole site.
pub const FDB_MAX_LEARNED_PER_PEER: usize = 65_536;
/// Parts of the table that are locked apart.
const SHARDS: usize = 256;

/// Milliseconds since the switch started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(pub u64);

impl Tick {
    /// How much later it is than `earlier`; nothing if it isn't.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Behind what a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// A port of this host.
    Port(PortId),
    /// A tunnel peer.
    Peer(PeerId),
}

/// Where learning ends.
#[derive(Clone, Copy, Debug)]
pub struct FdbLimits {
    /// Entries of both kinds at which nothing more is learned.
    pub entries: usize,
    /// Learned entries per port.
    pub learned_per_port: usize,
    /// Learned entries per peer.
    pub learned_per_peer: usize,
}

impl Default for FdbLimits {
    fn default() -> Self {
        Self {
            entries: FDB_MAX_ENTRIES,
            learned_per_port: FDB_MAX_LEARNED_PER_PORT,
            learned_per_peer: FDB_MAX_LEARNED_PER_PEER,
        }
    }
}

/// What a station is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// Its network.
    pub vni: Vni,
    /// Its VLAN inside the network.
    pub vlan: VlanId,
    /// Its address.
    pub mac: MacAddr,
}

impl std::hash::Hash for FdbKey {
    #[inline]
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.vlan.value()) << 48 | self.mac.as_u64());
        state.write_u32(self.vni.value());
    }
}

/// What came of showing a source address to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was there.
    Known,
    /// It is new.
    New,
    /// It was elsewhere.
    Moved,
    /// It was not learned: a limit is reached.
    Refused,
    /// The control plane says that it is elsewhere, which stands.
    OwnedAt(Place),
}

/// Why an entry is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdbKind {
    /// Given by the control plane.
    Owned {
        /// Of two facts the one with the newer epoch stands.
        epoch: u64,
    },
    /// From a frame's source address.
    Learned {
        /// How long ago it was last seen.
        age: Duration,
    },
}

/// One entry, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FdbRow {
    /// Network.
    pub vni: Vni,
    /// VLAN inside the network.
    pub vlan: VlanId,
    /// Station.
    pub mac: MacAddr,
    /// Where it is.
    pub place: Place,
    /// Why that is known.
    pub kind: FdbKind,
}

/// How full the table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FdbCounts {
    /// Entries, also those past their age that were not yet swept.
    pub entries: usize,
    /// Stations not learned because a limit was reached, since the start.
    pub refused: u64,
}

#[derive(Debug)]
struct Entry {
    /// A packed [`Place`].
    place: AtomicU64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Owned { epoch: u64 },
    Learned { seen: AtomicU64 },
}

impl Entry {
    fn place(&self) -> Place {
        unpack(self.place.load(Ordering::Relaxed))
    }

    /// Owned entries are; learned ones until they are `ageing` old.
    fn is_alive(&self, now: Tick, ageing: Duration) -> bool {
        match &self.kind {
            Kind::Owned { .. } => true,
            Kind::Learned { seen } => now.since(Tick(seen.load(Ordering::Relaxed))) < ageing,
        }
    }
}

const PEER_BIT: u64 = 1 << 32;

const fn pack(place: Place) -> u64 {
    match place {
        Place::Port(PortId(id)) => id as u64,
        Place::Peer(PeerId(id)) => id as u64 | PEER_BIT,
    }
}

const fn unpack(packed: u64) -> Place {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is the number"
    )]
    let id = packed as u32;
    if packed & PEER_BIT == 0 {
        Place::Port(PortId(id))
    } else {
        Place::Peer(PeerId(id))
    }
}

/// The forwarding database.
#[derive(Debug)]
pub struct Fdb {
    entries: DashMap<FdbKey, Entry, KeyedHash>,
    /// Learned entries by packed place.
    learned_at: DashMap<u64, usize, KeyedHash>,
    total: AtomicUsize,
    refused: AtomicU64,
    limits: FdbLimits,
}

impl Fdb {
    /// An empty table.
    pub fn new(limits: FdbLimits) -> Self {
        let hash = KeyedHash::default();
        Self {
            entries: DashMap::with_capacity_and_hasher_and_shard_amount(0, hash.clone(), SHARDS),
            learned_at: DashMap::with_capacity_and_hasher_and_shard_amount(0, hash, 16),
            total: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            limits,
        }
    }

    /// Where a station is.
    #[inline]
    pub fn lookup(&self, key: FdbKey, now: Tick, ageing: Duration) -> Option<Place> {
        let entry = self.entries.get(&key)?;
        entry.is_alive(now, ageing).then(|| entry.place())
    }

    /// Notes that a station showed at `place`.
    #[inline]
    pub fn learn(&self, key: FdbKey, place: Place, now: Tick) -> Learned {
        if let Some(entry) = self.entries.get(&key) {
            return self.see_again(&entry, place, now);
        }
        match self.entries.entry(key) {
            // Another worker was faster.
            Slot::Occupied(slot) => self.see_again(slot.get(), place, now),
            Slot::Vacant(slot) => {
                if !self.reserve_entry() {
                    return self.refuse();
                }
                if !self.reserve_place(place) {
                    self.total.fetch_sub(1, Ordering::Relaxed);
                    return self.refuse();
                }
                let kind = Kind::Learned {
                    seen: AtomicU64::new(now.0),
                };
                slot.insert(Entry {
                    place: AtomicU64::new(pack(place)),
                    kind,
                });
                Learned::New
            }
        }
    }

    #[inline]
    fn see_again(&self, entry: &Entry, place: Place, now: Tick) -> Learned {
        let there = entry.place();
        match &entry.kind {
            Kind::Owned { .. } if there == place => Learned::Known,
            Kind::Owned { .. } => Learned::OwnedAt(there),
            Kind::Learned { seen } => {
                let moved = there != place;
                if moved && !self.relocate(entry, there, place) {
                    return self.refuse();
                }
                // Most frames come within a millisecond of the last: don't write the line that others read.
                if seen.load(Ordering::Relaxed) < now.0 {
                    seen.store(now.0, Ordering::Relaxed);
                }
                if moved {
                    Learned::Moved
                } else {
                    Learned::Known
                }
            }
        }
    }

    /// False if there is no room at the new place: who floods the table can't draw stations to himself either.
    fn relocate(&self, entry: &Entry, from: Place, to: Place) -> bool {
        if !self.reserve_place(to) {
            return false;
        }
        let (old, new) = (pack(from), pack(to));
        let order = Ordering::Relaxed;
        match entry.place.compare_exchange(old, new, order, order) {
            Ok(_) => self.release_place(from),
            // Another worker saw it move at the same time; one of the two is right, and the next frame tells.
            Err(_) => self.release_place(to),
        }
        true
    }

    /// Sets a fact of the control plane. False if a newer one stands.
    pub fn own(&self, key: FdbKey, place: Place, epoch: u64) -> bool {
        let entry = Entry {
            place: AtomicU64::new(pack(place)),
            kind: Kind::Owned { epoch },
        };
        match self.entries.entry(key) {
            Slot::Occupied(mut slot) => {
                match &slot.get().kind {
                    Kind::Owned { epoch: present } if *present > epoch => return false,
                    Kind::Owned { .. } => {}
                    Kind::Learned { .. } => self.release_place(slot.get().place()),
                }
                slot.insert(entry);
            }
            Slot::Vacant(slot) => {
                self.total.fetch_add(1, Ordering::Relaxed);
                slot.insert(entry);
            }
        }
        true
    }

    /// Takes a fact back. False if it is not there, or if a newer one stands.
    pub fn disown(&self, key: FdbKey, epoch: u64) -> bool {
        let removed = self.entries.remove_if(&key, |_, entry| match &entry.kind {
            Kind::Owned { epoch: present } => *present <= epoch,
            Kind::Learned { .. } => false,
        });
        if removed.is_some() {
            self.total.fetch_sub(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Removes the learned entries that are past their age; `ageing` says how old they get in a network, `None` that
    /// it isn't there. Returns how many.
    pub fn expire(&self, now: Tick, ageing: impl Fn(Vni) -> Option<Duration>) -> usize {
        if self.learned_at.is_empty() {
            return 0;
        }
        self.remove_where(|key, entry| match &entry.kind {
            Kind::Owned { .. } => false,
            Kind::Learned { .. } => {
                ageing(key.vni).is_none_or(|ageing| !entry.is_alive(now, ageing))
            }
        })
    }

    /// Forgets everything, owned or learned, that is at `place`. Returns how many entries that were.
    pub fn flush_place(&self, place: Place) -> usize {
        self.remove_where(|_, entry| entry.place() == place)
    }

    /// Forgets what was learned of an address, in every VLAN of the network. Returns how many entries that were.
    pub fn forget(&self, vni: Vni, mac: MacAddr) -> usize {
        self.remove_where(|key, entry| match &entry.kind {
            Kind::Owned { .. } => false,
            Kind::Learned { .. } => key.vni == vni && key.mac == mac,
        })
    }

    /// Forgets a network. Returns how many entries that were.
    pub fn flush_network(&self, vni: Vni) -> usize {
        self.remove_where(|key, _| key.vni == vni)
    }

    fn remove_where(&self, condemned: impl Fn(&FdbKey, &Entry) -> bool) -> usize {
        let mut removed = 0;
        self.entries.retain(|key, entry| {
            if !condemned(key, entry) {
                return true;
            }
            removed += 1;
            if let Kind::Learned { .. } = entry.kind {
                self.release_place(entry.place());
            }
            self.total.fetch_sub(1, Ordering::Relaxed);
            false
        });
        removed
    }

    /// All entries that a lookup would find, in no order.
    pub fn rows(&self, now: Tick, ageing: impl Fn(Vni) -> Option<Duration>) -> Vec<FdbRow> {
        let mut rows = Vec::with_capacity(self.counts().entries);
        for item in &self.entries {
            let (key, entry) = item.pair();
            if !entry.is_alive(now, ageing(key.vni).unwrap_or(Duration::ZERO)) {
                continue;
            }
            let kind = match &entry.kind {
                Kind::Owned { epoch } => FdbKind::Owned { epoch: *epoch },
                Kind::Learned { seen } => FdbKind::Learned {
                    age: now.since(Tick(seen.load(Ordering::Relaxed))),
                },
            };
            let FdbKey { vni, vlan, mac } = *key;
            rows.push(FdbRow {
                vni,
                vlan,
                mac,
                place: entry.place(),
                kind,
            });
        }
        rows
    }

    /// How full it is.
    pub fn counts(&self) -> FdbCounts {
        FdbCounts {
            entries: self.total.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn refuse(&self) -> Learned {
        self.refused.fetch_add(1, Ordering::Relaxed);
        Learned::Refused
    }

    fn reserve_entry(&self) -> bool {
        let order = Ordering::Relaxed;
        let grow = |total| (total < self.limits.entries).then_some(total + 1);
        self.total.fetch_update(order, order, grow).is_ok()
    }

    fn reserve_place(&self, place: Place) -> bool {
        let limit = match place {
            Place::Port(_) => self.limits.learned_per_port,
            Place::Peer(_) => self.limits.learned_per_peer,
        };
        let mut count = self.learned_at.entry(pack(place)).or_insert(0);
        let room = *count < limit;
        *count += usize::from(room);
        room
    }

    fn release_place(&self, place: Place) {
        if let Slot::Occupied(mut slot) = self.learned_at.entry(pack(place)) {
            *slot.get_mut() -= 1;
            if *slot.get() == 0 {
                slot.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests;
