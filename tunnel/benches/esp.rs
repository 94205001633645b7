//! Sealing and opening a full segment: what encryption adds to a datagram on the fast path. `cargo bench -p weft-tunnel`.
#![expect(clippy::unwrap_used, reason = "a bench may fail loudly")]

use std::convert::Infallible;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weft_tunnel::esp::{
    ESP_HEADER_LEN, GRE_HEADER_LEN, KeyMaterial, OpeningKey, SealingKey, Sender, Spi, export_keys,
    sealed_len,
};

/// TCP payload of 1448 bytes with its headers, Ethernet's and ours.
const PAYLOAD: usize = GRE_HEADER_LEN + 14 + 52 + 1448;

fn material() -> KeyMaterial {
    export_keys(Sender::Initiator, 0, |out, _, _| {
        out.fill(7);
        Ok::<_, Infallible>(())
    })
    .unwrap()
}

fn seal(key: &SealingKey, packet: &mut [u8]) {
    let sequence = key.reserve(1).unwrap().next().unwrap();
    key.seal(sequence, packet, PAYLOAD).unwrap();
}

fn benches(c: &mut Criterion) {
    let spi = Spi::new(0x1234).unwrap();
    let key = SealingKey::new(spi, &material());
    let mut group = c.benchmark_group("esp");
    group.throughput(Throughput::Bytes(1448));
    let mut packet = vec![0x5a; sealed_len(PAYLOAD)];
    assert!(packet.len() > PAYLOAD + ESP_HEADER_LEN);
    group.bench_function("seal 1448", |b| b.iter(|| seal(&key, &mut packet)));
    let opener = OpeningKey::new(spi, &material());
    group.bench_function("open 1448", |b| {
        b.iter_batched_ref(
            || {
                let mut packet = vec![0x5a; sealed_len(PAYLOAD)];
                seal(&key, &mut packet);
                packet
            },
            |packet| opener.open(packet).map(|payload| payload.len()).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(esp, benches);
criterion_main!(esp);
