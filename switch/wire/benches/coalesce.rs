//! What merging costs: a batch of segments with all their checksums verified; an element is a segment.
//! `cargo bench -p weft-wire --bench coalesce`.

use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_wire::{Coalescer, FrameRef};

mod common;

/// Frames one after the other, as they lie in a receive buffer.
struct Batch {
    buffer: Vec<u8>,
    frames: Vec<Range<usize>>,
}

impl Batch {
    fn of<'f>(frames: impl Iterator<Item = &'f [u8]>) -> Self {
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for frame in frames {
            ranges.push(buffer.len()..buffer.len() + frame.len());
            buffer.extend_from_slice(frame);
        }
        Self {
            buffer,
            frames: ranges,
        }
    }

    /// The segments of `flows` superframes, taken from each in turn.
    fn interleaved(v6: bool, flows: u16, each: usize, size: u16) -> Self {
        let flows: Vec<_> = (1..=flows)
            .map(|port| {
                let (bytes, offload) = common::tcp(v6, port, each * usize::from(size), size);
                common::segments(&bytes, offload)
            })
            .collect();
        let turn = |i: usize| flows.iter().map(move |segments| &segments[i][..]);
        Self::of((0..each).flat_map(turn))
    }

    /// Datagrams of 64 bytes, which are passed on as they are.
    fn foreign() -> Self {
        let (mut frame, _) = common::tcp(false, 1, 64, 32);
        frame[23] = 17;
        frame.truncate(14 + 20 + 8 + 64);
        frame[16..18].copy_from_slice(&[0, 92]);
        Self::of(std::iter::repeat_n(&frame[..], 64))
    }
}

fn coalesce(c: &mut Criterion) {
    let cases = [
        ("1-flow-ipv4", Batch::interleaved(false, 1, 44, 1398)),
        ("1-flow-ipv6", Batch::interleaved(true, 1, 44, 1378)),
        ("4-flows", Batch::interleaved(false, 4, 16, 1398)),
        ("16-flows", Batch::interleaved(false, 16, 4, 1398)),
        ("64-flows", Batch::interleaved(false, 64, 2, 1398)),
        ("foreign", Batch::foreign()),
    ];
    for (name, batch) in &cases {
        let mut coalescer = Coalescer::default();
        for (unit, throughput) in [
            ("bytes", Throughput::Bytes(batch.buffer.len() as u64)),
            ("segments", Throughput::Elements(batch.frames.len() as u64)),
        ] {
            let mut group = c.benchmark_group(format!("coalesce/{unit}"));
            group.throughput(throughput);
            group.bench_function(*name, |b| {
                b.iter(|| {
                    let mut sink = |key: u64, frame: FrameRef<'_>| {
                        black_box((key, frame));
                    };
                    for frame in &batch.frames {
                        coalescer.push(&batch.buffer, 1, frame.clone(), &mut sink);
                    }
                    coalescer.flush(&batch.buffer, &mut sink);
                });
            });
            group.finish();
        }
    }
}

criterion_group!(benches, coalesce);
criterion_main!(benches);
