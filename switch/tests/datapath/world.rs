//! A host with three ports and two peers, and frames to send there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use etherparse::PacketBuilder;
use weft_switch::datapath::Datapath;
use weft_switch::table::fdb::{Fdb, FdbKey, FdbLimits, Tick};
use weft_switch::{
    Action, DropReason, Lane, NetworkMode, NetworkSpec, Place, PortGuard, Source, Tables,
    TrafficStats,
};
use weft_wire::{FrameRef, MacAddr, Mtu, PeerId, PortId, VlanId, Vni};

pub(crate) const PORTS: [PortId; 3] = [PortId(0), PortId(1), PortId(2)];
pub(crate) const PEERS: [PeerId; 2] = [PeerId(0), PeerId(1)];
/// In flight from port 0 unless a test says otherwise.
pub(crate) const FROM_A: Source = Source::Port(PortId(0));

pub(crate) fn blue() -> Vni {
    Vni::new(100).unwrap()
}

/// The MAC of station `number`; those of the ports are 0, 1 and 2.
pub(crate) const fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

/// The addresses of the station behind port `number`.
pub(crate) const fn ip4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 32, 0, number)
}

pub(crate) fn ip6(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)
}

pub(crate) fn from_port(number: u32) -> Source {
    Source::Port(PortId(number))
}

pub(crate) fn from_peer(number: u32) -> Source {
    Source::Peer {
        peer: PeerId(number),
        vni: blue(),
    }
}

pub(crate) fn to_peer(number: u32) -> Action {
    Action::ToPeer {
        peer: PeerId(number),
        vni: blue(),
    }
}

pub(crate) fn to_port(number: u32) -> Action {
    Action::ToPort(PortId(number))
}

pub(crate) fn drop_for(reason: DropReason) -> Vec<Action> {
    vec![Action::Drop(reason)]
}

pub(crate) struct World {
    pub(crate) tables: Tables,
    pub(crate) fdb: Fdb,
    pub(crate) now: Tick,
}

impl World {
    /// Network blue with three ports, without guards, and two peers.
    pub(crate) fn new(mode: NetworkMode) -> Self {
        let mut tables = Tables::new(2);
        tables.set_network(network(mode));
        for id in PORTS {
            assert_eq!(tables.add_port(blue(), None, Vec::new()), id);
        }
        Self {
            tables,
            fdb: Fdb::new(FdbLimits::default()),
            now: Tick(1_000_000),
        }
    }

    /// Routed, and each port has the guard of its station.
    pub(crate) fn guarded() -> Self {
        let mut world = Self::new(NetworkMode::Routed);
        for (id, number) in PORTS.into_iter().zip(0u8..) {
            let ips = vec![IpAddr::V4(ip4(number)), IpAddr::V6(ip6(number.into()))];
            assert!(world.tables.set_guard(
                id,
                Some(PortGuard {
                    mac: mac(number),
                    ips
                })
            ));
        }
        world
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now.0 += u64::try_from(time.as_millis()).unwrap();
    }

    pub(crate) fn own(&self, station: u8, place: Place, epoch: u64) {
        self.fdb.own(key(station), place, epoch);
    }

    /// On another network.
    pub(crate) fn own_on(&self, vni: Vni, station: u8, place: Place) {
        self.fdb.own(
            FdbKey {
                vni,
                ..key(station)
            },
            place,
            1,
        );
    }

    /// On another network.
    pub(crate) fn place_on(&self, vni: Vni, mac: MacAddr) -> Option<Place> {
        let station = FdbKey { vni, mac, ..key(0) };
        let ageing = Duration::from_secs(300);
        self.fdb.lookup(station, self.now, ageing)
    }

    pub(crate) fn place_of(&self, station: u8) -> Option<Place> {
        self.fdb
            .lookup(key(station), self.now, Duration::from_secs(300))
    }

    /// Sends a frame that is complete as it stands.
    pub(crate) fn send(&self, from: Source, bytes: &[u8]) -> Vec<Action> {
        self.send_frame(from, FrameRef::plain(bytes))
    }

    /// Sends a frame and returns what is to be done. Of all counters only those of the source have moved: one frame and
    /// its bytes, and the drop if it was one.
    pub(crate) fn send_frame(&self, from: Source, frame: FrameRef<'_>) -> Vec<Action> {
        let mut expected = self.counters();
        let mut actions = Vec::new();
        let lane = Lane::of_worker(1);
        Datapath::new(&self.tables, &self.fdb, lane).process(from, frame, self.now, &mut actions);
        assert!(!actions.is_empty(), "every frame has an end");
        let drops: Vec<DropReason> = actions.iter().filter_map(reason).collect();
        assert!(
            drops.is_empty() || actions.len() == 1,
            "deliveries or one drop: {actions:?}"
        );
        if let Some((stats, by_reason)) = expected.get_mut(&place_of(from)) {
            stats.rx_frames += 1;
            stats.rx_bytes += frame.bytes.len() as u64;
            for reason in drops {
                *by_reason.entry(reason).or_default() += 1;
            }
        }
        assert_eq!(self.counters(), expected);
        actions
    }

    fn counters(&self) -> BTreeMap<Place, (TrafficStats, BTreeMap<DropReason, u64>)> {
        let ports = PORTS.into_iter().filter_map(|id| {
            self.tables
                .port_stats(id)
                .map(|stats| (Place::Port(id), stats))
        });
        let peers = PEERS
            .into_iter()
            .map(|id| (Place::Peer(id), self.tables.peer_stats(id)));
        ports
            .chain(peers)
            .map(|(place, stats)| {
                let drops = stats.drops.iter().filter(|(_, count)| *count > 0).collect();
                (
                    place,
                    (
                        TrafficStats {
                            drops: Default::default(),
                            ..stats
                        },
                        drops,
                    ),
                )
            })
            .collect()
    }
}

fn place_of(source: Source) -> Place {
    match source {
        Source::Port(port) => Place::Port(port),
        Source::Peer { peer, .. } => Place::Peer(peer),
    }
}

fn reason(action: &Action) -> Option<DropReason> {
    match action {
        Action::Drop(reason) => Some(*reason),
        Action::ToPort(_) | Action::ToPeer { .. } | Action::Routed(_) | Action::Answer => None,
    }
}

pub(crate) fn network(mode: NetworkMode) -> NetworkSpec {
    NetworkSpec {
        vni: blue(),
        name: "blue".to_owned(),
        mtu: Mtu::new(1450).unwrap(),
        ageing: Duration::from_secs(300),
        mode,
        flood_peers: PEERS.to_vec(),
        gateways: match mode {
            NetworkMode::Routed => vec![IpAddr::V4(ip4(254))],
            NetworkMode::PlainL2 => Vec::new(),
        },
        routes: Arc::default(),
        internal: false,
        isolate: false,
    }
}

fn key(station: u8) -> FdbKey {
    FdbKey {
        vni: blue(),
        vlan: VlanId::UNTAGGED,
        mac: mac(station),
    }
}

/// A frame of an ethertype nobody looks into.
pub(crate) fn frame(to: MacAddr, from: MacAddr) -> Vec<u8> {
    let mut bytes = [to.octets(), from.octets()].concat();
    bytes.extend([0x88, 0xb5]);
    bytes.resize(60, 0);
    bytes
}

/// Puts a tag with this control information into a frame.
pub(crate) fn tagged(mut frame: Vec<u8>, tpid: u16, tci: u16) -> Vec<u8> {
    let [[a, b], [c, d]] = [tpid, tci].map(u16::to_be_bytes);
    frame.splice(12..12, [a, b, c, d]);
    frame
}

/// A UDP datagram with so many bytes of payload.
pub(crate) fn udp(from: (u8, IpAddr), to: (u8, IpAddr), len: usize) -> Vec<u8> {
    let link = PacketBuilder::ethernet2(mac(from.0).octets(), mac(to.0).octets());
    let packet = match (from.1, to.1) {
        (IpAddr::V4(from), IpAddr::V4(to)) => link.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => link.ipv6(from.octets(), to.octets(), 64),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            panic!("addresses of two families")
        }
    };
    let mut bytes = Vec::new();
    packet
        .udp(1000, 2000)
        .write(&mut bytes, &vec![0x5a; len])
        .unwrap();
    bytes
}
