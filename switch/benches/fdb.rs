//! What the forwarding database costs by its size: stations looked up and seen again in an order that no cache foresees.
//! `cargo bench -p weft-switch --bench fdb`.

use std::hint::black_box;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use weft_switch::Place;
use weft_switch::table::fdb::{Fdb, FdbKey, FdbLimits, Tick};
use weft_wire::{MacAddr, PortId, VlanId, Vni};

const SIZES: [usize; 3] = [10, 1_000, 100_000];
const AGEING: Duration = Duration::from_secs(300);
/// The stations come in steps of this prime, modulo their number: all of them, never two neighbours.
const STRIDE: usize = 7_919;
const NOW: Tick = Tick(5);

fn keys(count: usize) -> Vec<FdbKey> {
    let vni = Vni::new(100).expect("a VNI");
    let key = |number: usize| {
        let [.., a, b, c, d] = number.to_be_bytes();
        FdbKey {
            vni,
            vlan: VlanId::UNTAGGED,
            mac: MacAddr([2, 0, a, b, c, d]),
        }
    };
    (0..count).map(|at| key(at * STRIDE % count)).collect()
}

fn measure(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    fill: impl Fn(&Fdb, FdbKey),
    work: impl Fn(&Fdb, FdbKey),
) {
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let (fdb, keys) = (Fdb::new(FdbLimits::default()), keys(size));
        for key in &keys {
            fill(&fdb, *key);
        }
        let mut stations = keys.iter().cycle();
        group.bench_function(format!("{name}, {size} addresses"), |b| {
            b.iter(|| {
                let key = stations.next().expect("there are stations");
                work(&fdb, *key);
            });
        });
    }
}

fn fdb(c: &mut Criterion) {
    let place = Place::Port(PortId(1));
    let mut group = c.benchmark_group("fdb");
    let owned = |fdb: &Fdb, key| {
        fdb.own(key, place, 1);
    };
    measure(&mut group, "lookup", owned, |fdb, key| {
        black_box(fdb.lookup(key, NOW, AGEING));
    });
    let learned = |fdb: &Fdb, key| {
        fdb.learn(key, place, NOW);
    };
    measure(&mut group, "seen again", learned, |fdb, key| {
        black_box(fdb.learn(key, place, NOW));
    });
    group.finish();
}

criterion_group!(benches, fdb);
criterion_main!(benches);
