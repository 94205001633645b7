//! What the fuzz target (testbed/fuzz) runs on its input, here so that `cargo test` replays the corpus through the same
//! function. Not for use by the switch itself: a broken promise panics.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use weft_wire::{
    Arp, ArpOperation, EtherType, EthernetFrame, FrameRef, Icmp6, IpProtocol, Ipv4, Ipv6, MacAddr,
    Mtu, PeerId, PortId, Rewrite, Vni, checksum::Sum,
};

use crate::answers::{Answers, Asker};
use crate::datapath::Datapath;
use crate::gateway::GATEWAY_MAC;
use crate::stats::Lane;
use crate::table::fdb::{Fdb, FdbKey, FdbLimits, Place, Tick};
use crate::table::routes::{Route, RouteSpec, Routes};
use crate::table::{NetworkMode, NetworkSpec, PortGuard, Tables};
use crate::verdict::{Action, DropReason, Source};

/// Who sends, and an endpoint of the same network behind the tunnel.
const SENDER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// When it is: late enough for every bucket to be full.
const NOW: Tick = Tick(1_000_000);
/// Ethernet, a tag, and the longest error (RFC 4443 section 2.4).
const LONGEST_ERROR: usize = 14 + 4 + 1280;
/// An advertisement is that much longer than the shortest solicitation.
const LINK_OPTION: usize = 8;

fn v4(network: u8, station: u8) -> IpAddr {
    Ipv4Addr::new(10, network, 0, station).into()
}

fn v6(network: u8, station: u8) -> IpAddr {
    Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, station.into()).into()
}

fn vni(number: u8) -> Vni {
    Vni::new(number.into()).expect("not zero")
}

const fn to(address: IpAddr, len: u8, route: Route) -> RouteSpec {
    RouteSpec {
        address,
        len,
        route,
    }
}

/// Routes to both subnets of a network.
fn subnets(number: u8, route: Route) -> [RouteSpec; 2] {
    let (four, six) = (v4(number, 0), v6(number, 0));
    [to(four, 16, route), to(six, 64, route)]
}

/// The table of the router of networks 1 and 2.
fn routes() -> Routes {
    let networks = [1, 2].into_iter().flat_map(|number| {
        let (four, six) = (v4(number, 1), v6(number, 1));
        let gateways = [to(four, 32, Route::Local), to(six, 128, Route::Local)];
        [subnets(number, Route::Connected(vni(number))), gateways]
    });
    // Behind an endpoint of network 2, and behind one that isn't there.
    let behind = [
        to(v4(50, 0), 16, Route::Via(vni(2), v4(2, 9))),
        to(v4(51, 0), 16, Route::Via(vni(2), v4(2, 99))),
    ];
    Routes::new(networks.flatten().chain(behind))
}

/// A host with ports on networks 1 and 2 of one router, an endpoint of each on another host, and network 3 on no router.
struct World {
    tables: Tables,
    fdb: Fdb,
    sender: PortId,
}

impl World {
    fn new(is_guarded: bool) -> Self {
        let mut tables = Tables::new(1);
        let routes = Arc::new(routes());
        let inside = [1, 2, 3].map(|number| subnets(number, Route::Local));
        tables.set_subnets(Arc::new(Routes::new(inside.into_iter().flatten())));
        for number in [1, 2, 3] {
            tables.set_network(NetworkSpec {
                vni: vni(number),
                name: number.to_string(),
                mtu: Mtu::new(1450).expect("in range"),
                ageing: Duration::from_secs(300),
                mode: NetworkMode::Routed,
                flood_peers: vec![PeerId(0)],
                gateways: vec![v4(number, 1), v6(number, 1)],
                routes: Arc::clone(&routes),
                internal: false,
                isolate: false,
            });
        }
        let guard = is_guarded.then(|| PortGuard {
            mac: SENDER,
            ips: vec![v4(1, 9), v6(1, 9)],
        });
        let sender = tables.add_port(vni(1), guard, Vec::new());
        let fdb = Fdb::new(FdbLimits::default());
        let known = [
            (1, 9, SENDER, Place::Port(sender)),
            (1, 8, OTHER, Place::Peer(PeerId(0))),
            (2, 9, OTHER, Place::Peer(PeerId(0))),
        ];
        for (number, station, mac, place) in known {
            let vni = vni(number);
            for ip in [v4(number, station), v6(number, station)] {
                tables.neighbors().set(vni, ip, mac);
            }
            let vlan = weft_wire::VlanId::UNTAGGED;
            fdb.own(FdbKey { vni, vlan, mac }, place, 1);
        }
        Self {
            tables,
            fdb,
            sender,
        }
    }
}

static GUARDED: LazyLock<World> = LazyLock::new(|| World::new(true));
static UNGUARDED: LazyLock<World> = LazyLock::new(|| World::new(false));

/// A frame from a port of a network with a gateway, once from a port with a guard and once from one without: what the
/// gateway makes of ARP, neighbor discovery, echo and what it is to route, and what the sender is told.
///
/// # Panics
/// If an answer is no whole packet with right checksums, is longer than what may be answered, or answers an error; if
/// a packet that is routed was of no use to its next hop.
pub fn gateway(data: &[u8]) {
    for world in [&*GUARDED, &*UNGUARDED] {
        gateway_of(world, data);
    }
}

fn gateway_of(world: &World, frame: &[u8]) {
    let mut actions = Vec::new();
    let datapath = Datapath::new(&world.tables, &world.fdb, Lane::of_worker(0));
    let from = Source::Port(world.sender);
    datapath.process(from, FrameRef::plain(frame), NOW, &mut actions);
    assert!(!actions.is_empty(), "every frame has an end");
    if let [Action::Routed(routed)] = *actions {
        let rewrite = Rewrite {
            source: GATEWAY_MAC,
            destination: routed.destination,
        };
        check_routed(frame, rewrite);
    }
    let asker = Asker {
        tables: &world.tables,
        id: world.sender,
        now: NOW,
    };
    let mut answers = Answers::new();
    let answer = answers.answer(asker, frame, (None, &actions));
    answers.overhear(asker, frame);
    if let Some(claim) = answers.take_claim(asker) {
        let ethernet = EthernetFrame::new(frame).expect("it was read before");
        assert_eq!(claim.mac, ethernet.source());
    }
    if let Some(answer) = answer {
        check_answer(frame, &answer, &actions);
        let again = returned(&answer);
        datapath.process(from, FrameRef::plain(&again), NOW, &mut actions);
        let again = Answers::new().answer(asker, &again, (None, &actions));
        assert!(
            again.is_none() || !is_error(&answer),
            "an error is not answered"
        );
    }
}

/// The next hop gets the same packet with a hop less to live.
fn check_routed(frame: &[u8], rewrite: Rewrite) {
    let mut routed = frame.to_vec();
    assert!(rewrite.apply(&mut routed), "the datapath saw that it lives");
    let (before, after) = (view(frame), view(&routed));
    assert_eq!(after.source(), GATEWAY_MAC);
    match before.ethertype() {
        EtherType::IPV4 => {
            let of = |packet: &EthernetFrame<'_>| {
                let packet = Ipv4::new(packet.payload()).expect("it was read before");
                (packet.ttl(), packet.checksum_is_valid())
            };
            let (ttl, is_right) = of(&before);
            assert_eq!(of(&after), (ttl - 1, is_right));
        }
        EtherType::IPV6 => {
            let of = |packet: &EthernetFrame<'_>| {
                let packet = Ipv6::new(packet.payload()).expect("it was read before");
                packet.hop_limit()
            };
            assert_eq!(of(&after), of(&before) - 1);
        }
        other => panic!("{other:?} is not routed"),
    }
}

/// It is for who asked, whole, right, and no longer than it may be.
fn check_answer(frame: &[u8], answer: &[u8], actions: &[Action]) {
    let (asked, answer_view) = (view(frame), view(answer));
    let to = answer_view.destination();
    let resolver = Arp::new(asked.payload()).ok().map(|arp| arp.sender_mac());
    assert!(to == asked.source() || to.is_multicast() || Some(to) == resolver);
    assert!(answer_view.source().is_station());
    let longest = LONGEST_ERROR.max(frame.len() + LINK_OPTION);
    assert!(answer.len() <= longest, "{} bytes", answer.len());
    assert!(
        actions != [Action::Drop(DropReason::SpoofedMac)],
        "who has another's MAC gets nothing"
    );
    match answer_view.ethertype() {
        EtherType::ARP => {
            let arp = Arp::new(answer_view.payload()).expect("a whole message");
            assert_eq!(arp.operation(), ArpOperation::Reply);
            assert_eq!(arp.sender_mac(), answer_view.source());
        }
        EtherType::IPV4 => {
            let packet = Ipv4::new(answer_view.payload()).expect("a whole packet");
            assert!(packet.checksum_is_valid() && !packet.is_fragment());
            assert_eq!(packet.protocol(), IpProtocol::ICMP4);
            assert_eq!(Sum::of(packet.payload()).finish(), 0);
        }
        EtherType::IPV6 => {
            let packet = Ipv6::new(answer_view.payload()).expect("a whole packet");
            let upper = packet.upper_layer().expect("whole headers");
            assert_eq!(upper.protocol, IpProtocol::ICMP6);
            let message = Icmp6::new(packet.upper_payload(&upper)).expect("a whole message");
            assert!(message.checksum_is_valid(packet.source(), packet.destination()));
        }
        other => panic!("{other:?} answers nothing"),
    }
}

fn view(frame: &[u8]) -> EthernetFrame<'_> {
    EthernetFrame::new(frame).expect("it was read before")
}

/// The answer, as its receiver would send it to the gateway.
fn returned(answer: &[u8]) -> Vec<u8> {
    let mut again = answer.to_vec();
    again[..6].copy_from_slice(&GATEWAY_MAC.octets());
    again[6..12].copy_from_slice(&SENDER.octets());
    again
}

/// An ICMP error of either family.
fn is_error(frame: &[u8]) -> bool {
    let ethernet = view(frame);
    match ethernet.ethertype() {
        EtherType::IPV4 => {
            let packet = Ipv4::new(ethernet.payload()).expect("it was read before");
            matches!(packet.payload().first(), Some(3 | 11))
        }
        EtherType::IPV6 => {
            let packet = Ipv6::new(ethernet.payload()).expect("it was read before");
            matches!(packet.payload().first(), Some(0..128))
        }
        _ => false,
    }
}
