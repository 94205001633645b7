//! The peer table: lookups, restrictions, and counters that outlive a table.

use super::*;
use crate::TunnelDrop;

fn spec(id: u32, address: &str) -> PeerSpec {
    PeerSpec {
        id: PeerId(id),
        address: address.parse().unwrap(),
        port: 4789,
        networks: PeerNetworks::All,
        secure: None,
    }
}

fn vni(value: u32) -> Vni {
    Vni::new(value).unwrap()
}

#[test]
fn peers_are_found_by_id_and_by_address_however_sparse_the_ids() {
    let specs = vec![
        spec(0, "10.0.0.1"),
        spec(2, "fd00::2"),
        spec(u32::MAX, "10.0.0.3"),
    ];
    let table = PeerTable::new(specs.clone(), &PeerTable::default());
    assert_eq!(table.len(), 3);
    for spec in specs {
        assert_eq!(table.by_id(spec.id).unwrap().address, spec.address);
        assert_eq!(table.by_address(spec.address).unwrap().id, spec.id);
    }
    assert!(table.by_id(PeerId(1)).is_none());
    assert!(table.by_address("10.0.0.2".parse().unwrap()).is_none());
}

#[test]
fn a_static_vtep_speaks_only_for_the_networks_it_was_added_to() {
    let mut one = spec(0, "10.0.0.1");
    one.networks = PeerNetworks::Only(vec![vni(9), vni(3)]);
    let table = PeerTable::new(vec![one, spec(1, "10.0.0.2")], &PeerTable::default());
    let peer = table.by_id(PeerId(0)).unwrap();
    assert!(peer.allows(vni(3)) && peer.allows(vni(9)));
    assert!(!peer.allows(vni(4)));
    assert!(table.by_id(PeerId(1)).unwrap().allows(vni(4)));
}

#[test]
fn of_two_specs_with_one_address_or_id_the_later_counts() {
    let specs = vec![
        spec(0, "10.0.0.1"),
        spec(1, "10.0.0.1"),
        spec(1, "10.0.0.2"),
    ];
    let table = PeerTable::new(specs, &PeerTable::default());
    let left: Vec<_> = table.iter().collect();
    assert_eq!(left, [(PeerId(1), "10.0.0.2".parse().unwrap())]);
}

#[test]
fn counters_outlive_a_table_but_not_the_peer() {
    let peers = Peers::default();
    let lane = Lane::of_worker(3);
    peers.set(vec![spec(0, "10.0.0.1"), spec(1, "10.0.0.2")]);
    let table = peers.snapshot();
    for peer in &table.peers {
        peer.counters.received(lane, 1, 100);
        peer.counters.dropped(lane, TunnelDrop::Runt, 1);
    }

    peers.set(vec![
        spec(0, "10.0.0.1"),
        spec(1, "10.0.0.9"),
        spec(2, "10.0.0.3"),
    ]);
    let kept = peers.stats(PeerId(0)).unwrap();
    assert_eq!(
        (kept.rx_frames, kept.rx_bytes, kept.rx_datagrams),
        (1, 100, 1)
    );
    assert_eq!(kept.drops.count(TunnelDrop::Runt), 1);
    assert_eq!(kept.drops.total(), 1);
    let reused_id = peers.stats(PeerId(1)).unwrap();
    assert_eq!(reused_id, PeerStats::default());
    assert_eq!(peers.stats(PeerId(3)), None);
}

#[test]
fn a_reader_sees_a_new_table_at_once() {
    let peers = Peers::default();
    let mut reader = peers.reader(Lane::of_worker(0));
    assert!(reader.parts().0.is_empty());
    peers.set(vec![spec(5, "10.0.0.1")]);
    assert!(reader.parts().0.by_id(PeerId(5)).is_some());
    peers.set(Vec::new());
    assert!(reader.parts().0.is_empty());
}

#[test]
fn the_last_stranger_is_remembered_whole_while_many_write() {
    let peers = Peers::default();
    assert_eq!(peers.stranger_stats().last, None);
    let addresses: [IpAddr; 3] = [
        "10.0.0.1".parse().unwrap(),
        "fd00:1:2:3:4:5:6:7".parse().unwrap(),
        "2001:db8::1".parse().unwrap(),
    ];
    std::thread::scope(|scope| {
        for (worker, address) in addresses.into_iter().enumerate() {
            let strangers = Arc::clone(&peers.strangers);
            scope.spawn(move || {
                for _ in 0..10_000 {
                    strangers.stranger(Lane::of_worker(worker), address, 1, 10);
                }
            });
        }
        for _ in 0..10_000 {
            let last = peers.stranger_stats().last;
            assert!(
                last.is_none_or(|last| addresses.contains(&last)),
                "{last:?}"
            );
        }
    });
    let stats = peers.stranger_stats();
    assert_eq!(stats.drops.count(TunnelDrop::Stranger), 30_000);
    assert_eq!(stats.bytes, 300_000);
    assert!(stats.last.is_some());
}
