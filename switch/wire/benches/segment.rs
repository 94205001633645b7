//! What cutting costs: all headers of a superframe with checksums over the payload, which is not copied. An element is a
//! segment. `cargo bench -p weft-wire --bench segment`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_wire::{FrameRef, MAX_HEADER_LEN, SegmentPlan};

mod common;

fn cut(frame: FrameRef<'_>) {
    let plan = SegmentPlan::new(frame).expect("a superframe");
    let mut header = [0; MAX_HEADER_LEN];
    for i in 0..plan.count() {
        plan.write_header(frame, i, &mut header);
        black_box(&header);
    }
}

fn segment(c: &mut Criterion) {
    let cases = [
        ("ipv4-1448", false, 44 * 1448, 1448),
        ("ipv6-1428", true, 44 * 1428, 1428),
        ("ipv4-1398", false, 45 * 1398, 1398),
        ("ipv4-88", false, 700 * 88, 88),
    ];
    for (name, v6, payload, size) in cases {
        let (bytes, offload) = common::tcp(v6, 40_000, payload, size);
        let count = payload / usize::from(size);
        for (unit, throughput) in [
            ("bytes", Throughput::Bytes(bytes.len() as u64)),
            ("segments", Throughput::Elements(count as u64)),
        ] {
            let mut group = c.benchmark_group(format!("segment/{unit}"));
            group.throughput(throughput);
            group.bench_function(name, |b| {
                b.iter(|| cut(FrameRef::new(black_box(&bytes), offload)));
            });
            group.finish();
        }
    }
}

criterion_group!(benches, segment);
criterion_main!(benches);
