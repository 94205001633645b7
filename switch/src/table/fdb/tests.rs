//! The table against a model that is slow and obviously right, and with several threads at once.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIMITS: FdbLimits = FdbLimits {
    entries: 6,
    learned_per_port: 2,
    learned_per_peer: 3,
};
const PLACES: [Place; 4] = [
    Place::Port(PortId(0)),
    Place::Port(PortId(1)),
    Place::Peer(PeerId(0)),
    Place::Peer(PeerId(1)),
];

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

/// Network 3 has left.
fn ageing(vni: Vni) -> Option<Duration> {
    [None, Some(300), Some(100), None][vni.value() as usize].map(Duration::from_millis)
}

/// Every station there is: three networks, two VLANs, two addresses.
fn stations() -> Vec<FdbKey> {
    let vlan = |tci| VlanId::from_tci(tci).unwrap();
    (0u8..12)
        .map(|i| FdbKey {
            vni: vni(u32::from(i % 3) + 1),
            vlan: vlan(u16::from(i / 3 % 2) * 5),
            mac: MacAddr([2, 0, 0, 0, 0, i / 6]),
        })
        .collect()
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Learn(usize, usize),
    Own(usize, usize, u64),
    Disown(usize, u64),
    Forget(usize),
    FlushPlace(usize),
    FlushNetwork(u32),
    Expire,
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let (station, place, epoch) = (0..12usize, 0..4usize, 0..4u64);
    prop_oneof![
        8 => (station.clone(), place.clone()).prop_map(|(s, p)| Event::Learn(s, p)),
        3 => (station.clone(), place.clone(), epoch.clone())
            .prop_map(|(s, p, e)| Event::Own(s, p, e)),
        2 => (station.clone(), epoch).prop_map(|(s, e)| Event::Disown(s, e)),
        1 => station.prop_map(Event::Forget),
        1 => place.prop_map(Event::FlushPlace),
        1 => (1..4u32).prop_map(Event::FlushNetwork),
        2 => Just(Event::Expire),
        4 => (0..250u64).prop_map(Event::Pass),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ModelKind {
    Owned(u64),
    Learned(Tick),
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<FdbKey, (Place, ModelKind)>,
    refused: u64,
    now: Tick,
}

impl Model {
    fn has_room_at(&self, place: Place) -> bool {
        let learned = |(there, kind): &&(Place, ModelKind)| {
            *there == place && matches!(kind, ModelKind::Learned(_))
        };
        let limit = match place {
            Place::Port(_) => LIMITS.learned_per_port,
            Place::Peer(_) => LIMITS.learned_per_peer,
        };
        self.entries.values().filter(learned).count() < limit
    }

    fn learn(&mut self, key: FdbKey, place: Place) -> Learned {
        let fresh = (place, ModelKind::Learned(self.now));
        let outcome = match self.entries.get(&key).copied() {
            Some((there, ModelKind::Owned(_))) if there == place => return Learned::Known,
            Some((there, ModelKind::Owned(_))) => return Learned::OwnedAt(there),
            Some((there, ModelKind::Learned(_))) if there == place => Learned::Known,
            Some(_) if self.has_room_at(place) => Learned::Moved,
            None if self.has_room_at(place) && self.entries.len() < LIMITS.entries => Learned::New,
            Some(_) | None => {
                self.refused += 1;
                return Learned::Refused;
            }
        };
        self.entries.insert(key, fresh);
        outcome
    }

    fn own(&mut self, key: FdbKey, place: Place, epoch: u64) -> bool {
        if let Some((_, ModelKind::Owned(present))) = self.entries.get(&key)
            && *present > epoch
        {
            return false;
        }
        self.entries.insert(key, (place, ModelKind::Owned(epoch)));
        true
    }

    fn disown(&mut self, key: FdbKey, epoch: u64) -> bool {
        let stale = matches!(self.entries.get(&key),
            Some((_, ModelKind::Owned(present))) if *present <= epoch);
        if stale {
            self.entries.remove(&key);
        }
        stale
    }

    fn is_alive(&self, kind: ModelKind, ageing: Duration) -> bool {
        match kind {
            ModelKind::Owned(_) => true,
            ModelKind::Learned(seen) => Duration::from_millis(self.now.0 - seen.0) < ageing,
        }
    }

    fn remove_where(&mut self, gone: impl Fn(&FdbKey, Place, ModelKind) -> bool) -> usize {
        let before = self.entries.len();
        self.entries
            .retain(|key, (place, kind)| !gone(key, *place, *kind));
        before - self.entries.len()
    }

    fn expire(&mut self) -> usize {
        let now = self.now;
        self.remove_where(|key, _, kind| match kind {
            ModelKind::Owned(_) => false,
            ModelKind::Learned(seen) => {
                ageing(key.vni).is_none_or(|most| Duration::from_millis(now.0 - seen.0) >= most)
            }
        })
    }

    fn rows(&self) -> Vec<FdbRow> {
        let row = |(key, (place, kind)): (&FdbKey, &(Place, ModelKind))| {
            let alive = self.is_alive(*kind, ageing(key.vni).unwrap_or_default());
            let kind = match *kind {
                ModelKind::Owned(epoch) => FdbKind::Owned { epoch },
                ModelKind::Learned(seen) => FdbKind::Learned {
                    age: self.now.since(seen),
                },
            };
            let FdbKey { vni, vlan, mac } = *key;
            alive.then_some(FdbRow {
                vni,
                vlan,
                mac,
                place: *place,
                kind,
            })
        };
        self.entries.iter().filter_map(row).collect()
    }
}

fn apply(fdb: &Fdb, model: &mut Model, event: Event) {
    let stations = stations();
    let learned = |kind| matches!(kind, ModelKind::Learned(_));
    match event {
        Event::Learn(s, p) => {
            let outcome = fdb.learn(stations[s], PLACES[p], model.now);
            assert_eq!(outcome, model.learn(stations[s], PLACES[p]));
        }
        Event::Own(s, p, e) => {
            let outcome = fdb.own(stations[s], PLACES[p], e);
            assert_eq!(outcome, model.own(stations[s], PLACES[p], e));
        }
        Event::Disown(s, e) => assert_eq!(fdb.disown(stations[s], e), model.disown(stations[s], e)),
        Event::Forget(s) => {
            let FdbKey { vni, mac, .. } = stations[s];
            let gone = model
                .remove_where(|key, _, kind| key.vni == vni && key.mac == mac && learned(kind));
            assert_eq!(fdb.forget(vni, mac), gone);
        }
        Event::FlushPlace(p) => {
            let gone = model.remove_where(|_, place, _| place == PLACES[p]);
            assert_eq!(fdb.flush_place(PLACES[p]), gone);
        }
        Event::FlushNetwork(n) => {
            let gone = model.remove_where(|key, _, _| key.vni == vni(n));
            assert_eq!(fdb.flush_network(vni(n)), gone);
        }
        Event::Expire => assert_eq!(fdb.expire(model.now, ageing), model.expire()),
        Event::Pass(millis) => model.now.0 += millis,
    }
}

fn compare(fdb: &Fdb, model: &Model) {
    let counts = FdbCounts {
        entries: model.entries.len(),
        refused: model.refused,
    };
    assert_eq!(fdb.counts(), counts);
    for key in stations() {
        for most in [0, 100, 300].map(Duration::from_millis) {
            let expected = model.entries.get(&key).copied();
            let expected = expected.filter(|(_, kind)| model.is_alive(*kind, most));
            assert_eq!(
                fdb.lookup(key, model.now, most),
                expected.map(|(place, _)| place)
            );
        }
    }
    let mut rows = fdb.rows(model.now, ageing);
    rows.sort_by_key(|row| (row.vni, row.vlan, row.mac));
    assert_eq!(rows, model.rows());
}

proptest! {
    #[test]
    fn any_sequence_of_events_leaves_what_the_model_has(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let (fdb, mut model) = (Fdb::new(LIMITS), Model::default());
        for event in events {
            apply(&fdb, &mut model, event);
            compare(&fdb, &model);
        }
    }
}

fn station(number: u32) -> FdbKey {
    let [a, b, c, d] = number.to_be_bytes();
    FdbKey {
        vni: vni(1),
        vlan: VlanId::UNTAGGED,
        mac: MacAddr([2, 0, a, b, c, d]),
    }
}

#[test]
fn a_flooder_fills_his_share_and_leaves_the_others_theirs() {
    let fdb = Fdb::new(FdbLimits::default());
    let now = Tick(0);
    for number in 0..10_000 {
        fdb.learn(station(number), Place::Port(PortId(0)), now);
    }
    assert_eq!(fdb.counts().entries, FDB_MAX_LEARNED_PER_PORT);
    assert_eq!(
        fdb.counts().refused,
        10_000 - FDB_MAX_LEARNED_PER_PORT as u64
    );
    assert_eq!(
        fdb.learn(station(20_000), Place::Port(PortId(1)), now),
        Learned::New
    );
    // Nor can he draw a station to himself that is elsewhere.
    assert_eq!(
        fdb.learn(station(20_000), Place::Port(PortId(0)), now),
        Learned::Refused
    );
    let there = fdb.lookup(station(20_000), now, Duration::from_secs(1));
    assert_eq!(there, Some(Place::Port(PortId(1))));
}

#[test]
fn workers_that_learn_the_same_stations_at_once_leave_exact_counts() {
    let fdb = Fdb::new(FdbLimits::default());
    let place = |worker: u32| Place::Port(PortId(worker));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let fdb = &fdb;
            scope.spawn(move || {
                for round in 0..20u64 {
                    for number in 0..500 {
                        fdb.learn(station(number), place(worker), Tick(round));
                        if number % 97 == 0 {
                            fdb.flush_place(place(worker));
                        }
                    }
                }
            });
        }
    });
    let flushed: usize = (0..4).map(|worker| fdb.flush_place(place(worker))).sum();
    assert!(flushed <= 500);
    assert_eq!(fdb.counts().entries, 0);
    assert!(fdb.learned_at.is_empty(), "{:?}", fdb.learned_at);
}

#[test]
fn a_station_that_is_seen_everywhere_at_once_is_counted_at_one_place() {
    let fdb = Fdb::new(FdbLimits::default());
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let fdb = &fdb;
            scope.spawn(move || {
                for round in 0..100_000u64 {
                    let place = Place::Port(PortId(u32::try_from(round % 4).unwrap() ^ worker));
                    fdb.learn(station(0), place, Tick(round));
                }
            });
        }
    });
    let counts: Vec<usize> = fdb.learned_at.iter().map(|item| *item.value()).collect();
    assert_eq!((counts, fdb.counts().entries), (vec![1], 1));
}
