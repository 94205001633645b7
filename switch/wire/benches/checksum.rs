//! What summing costs, from the first-level cache: headers, a segment's payload, a whole superframe.
//! `cargo bench -p weft-wire --bench checksum`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_wire::checksum::Sum;

/// An IPv4 header, a TCP header with timestamps, a small datagram, a segment of a tunnel and of an Ethernet, a jumbo
/// frame, the payload of a superframe.
const LENGTHS: [usize; 8] = [20, 32, 128, 512, 1398, 1448, 8948, 65_160];

fn sum(c: &mut Criterion) {
    let mut group = c.benchmark_group("checksum");
    for len in LENGTHS {
        let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(len).collect();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(BenchmarkId::from_parameter(len), |b| {
            b.iter(|| Sum::of(black_box(&bytes)).finish());
        });
    }
    group.finish();
}

criterion_group!(benches, sum);
criterion_main!(benches);
