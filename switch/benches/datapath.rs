//! What a decision costs: one unicast frame between two ports, by the size of the host and of the forwarding database.
//! `cargo bench -p weft-switch`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use weft_switch::datapath::Datapath;
use weft_switch::table::fdb::{Fdb, FdbKey, FdbLimits, Tick};
use weft_switch::{Lane, NetworkMode, NetworkSpec, Place, PortGuard, Source, Tables};
use weft_wire::{FrameRef, MacAddr, Mtu, PortId, VlanId, Vni};

/// Stations of the frames; the rest of the table is others'.
const FLOWS: usize = 64;

fn mac(number: usize) -> MacAddr {
    let [.., a, b, c, d] = number.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn address(number: usize) -> Ipv4Addr {
    let [.., a, b, c] = number.to_be_bytes();
    Ipv4Addr::new(10, a, b, c)
}

fn port(number: usize, ports: usize) -> PortId {
    PortId(u32::try_from(number % ports).expect("few ports"))
}

fn host(ports: usize, entries: usize) -> (Tables, Fdb) {
    let vni = Vni::new(100).expect("a VNI");
    let mut tables = Tables::new(1);
    for number in 0..ports {
        let ips = vec![IpAddr::V4(address(number))];
        tables.add_port(
            vni,
            Some(PortGuard {
                mac: mac(number),
                ips,
            }),
            Vec::new(),
        );
    }
    tables.set_network(NetworkSpec {
        vni,
        name: "blue".to_owned(),
        mtu: Mtu::ETHERNET,
        ageing: Duration::from_secs(300),
        mode: NetworkMode::Routed,
        flood_peers: Vec::new(),
        gateways: vec![std::net::Ipv4Addr::new(10, 32, 0, 1).into()],
        routes: Arc::default(),
        internal: false,
        isolate: false,
    });
    let fdb = Fdb::new(FdbLimits::default());
    for number in 0..entries {
        let key = FdbKey {
            vni,
            vlan: VlanId::UNTAGGED,
            mac: mac(number),
        };
        fdb.own(key, Place::Port(port(number, ports)), 1);
    }
    (tables, fdb)
}

fn frame(from: usize, to: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ethernet2(mac(from).octets(), mac(to).octets())
        .ipv4(address(from).octets(), address(to).octets(), 64)
        .udp(1000, 2000)
        .write(&mut bytes, &[0; 18])
        .expect("a frame");
    bytes
}

fn process(c: &mut Criterion) {
    let mut group = c.benchmark_group("process");
    group.throughput(Throughput::Elements(1));
    for (ports, entries) in [(10, 10), (1_000, 1_000), (10, 100_000), (1_000, 100_000)] {
        let (tables, fdb) = host(ports, entries);
        let datapath = Datapath::new(&tables, &fdb, Lane::of_worker(0));
        let stations = ports.min(entries).min(FLOWS);
        let frames: Vec<(Source, Vec<u8>)> = (0..stations)
            .map(|from| {
                (
                    Source::Port(port(from, ports)),
                    frame(from, (from + 1) % stations),
                )
            })
            .collect();
        let mut actions = Vec::with_capacity(ports);
        let mut next = 0;
        group.bench_function(format!("{ports} ports, {entries} addresses"), |b| {
            b.iter(|| {
                let (source, bytes) = &frames[next];
                next = (next + 1) % frames.len();
                datapath.process(*source, FrameRef::plain(bytes), Tick(5), &mut actions);
                black_box(&actions);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, process);
criterion_main!(benches);
