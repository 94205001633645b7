use super::*;
use crate::model::{Block, Change, Egress, Endpoint, EndpointId, Object, Transport};
use weft_wire::Vni;

const HERE: &str = "here";
const THERE: &str = "there";

fn network(cidr: &str, gateway: &str) -> Network {
    Network {
        id: NetworkId("n".into()),
        name: "blue".into(),
        vni: Vni::new(4096).unwrap(),
        subnets: vec![Subnet {
            cidr: cidr.parse().unwrap(),
            ip_range: None,
            gateway: gateway.parse().unwrap(),
            aux_addresses: [("router".to_owned(), "10.32.0.5".parse().unwrap())].into(),
        }],
        transport: Transport::Vxlan,
        internal: false,
        egress: Egress::Nat,
        mtu: None,
        ageing_secs: 300,
        made_by: None,
        vteps: BTreeSet::new(),
        isolate: false,
    }
}

struct World {
    map: ClusterMap,
    ports: Vec<Endpoint>,
    busy: Busy,
    returning: Returning,
    network: Network,
}

impl World {
    fn new(cidr: &str, gateway: &str) -> Self {
        let network = network(cidr, gateway);
        let mut map = ClusterMap::default();
        map.apply(1, Change::Put(Object::Network(network.clone())));
        Self {
            map,
            ports: Vec::new(),
            busy: Busy::new(),
            returning: Returning::new(),
            network,
        }
    }

    fn block(&mut self, prefix: &str, node: &str) {
        let block = Block {
            network: self.network.id.clone(),
            prefix: prefix.parse().unwrap(),
            node: NodeId(node.into()),
        };
        self.map
            .apply(self.map.revision + 1, Change::Put(Object::Block(block)));
    }

    fn endpoint(&mut self, ip: &str, node: &str) {
        let endpoint = Endpoint {
            id: EndpointId(ip.into()),
            network: self.network.id.clone(),
            node: NodeId(node.into()),
            name: format!("e{ip}"),
            aliases: vec![],
            mac: MacAddr([2, 0, 0, 0, 0, 1]),
            ips: vec![ip.parse().unwrap()],
            epoch: 1,
        };
        if node == HERE {
            return self.ports.push(endpoint);
        }
        self.map.apply(
            self.map.revision + 1,
            Change::Put(Object::Endpoint(endpoint)),
        );
    }

    /// One of ours that has no port any more, which the controller wasn't told yet.
    fn leftover(&mut self, ip: &str) {
        self.endpoint(ip, HERE);
        let endpoint = self.ports.pop().unwrap();
        self.map.apply(
            self.map.revision + 1,
            Change::Put(Object::Endpoint(endpoint)),
        );
    }

    fn with_local<T>(&self, ask: impl FnOnce(&Local<'_>) -> T) -> T {
        ask(&Local {
            node: &NodeId(HERE.into()),
            ports: self.ports.iter().collect(),
            busy: self.busy.clone(),
            returning: self.returning.clone(),
        })
    }

    fn choose(&self) -> Choice {
        let subnet = &self.network.subnets[0];
        self.with_local(|local| choose(&self.map, local, (&self.network, subnet)))
    }

    fn judge(&self, ip: &str) -> Fixed {
        let ip = ip.parse().unwrap();
        self.with_local(|local| judge(&self.map, local, (&self.network, ip)))
    }
}

fn address(ip: &str) -> Choice {
    Choice::Address(ip.parse().unwrap())
}

#[test]
fn the_lowest_free_address_of_our_blocks_is_chosen() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    assert_eq!(world.choose(), Choice::NeedBlock);
    world.block("10.32.0.64/26", THERE);
    assert_eq!(world.choose(), Choice::NeedBlock);
    world.block("10.32.0.0/26", HERE);
    assert_eq!(world.choose(), address("10.32.0.2"));
    world.endpoint("10.32.0.2", HERE);
    world
        .busy
        .insert((world.network.id.clone(), "10.32.0.3".parse().unwrap()));
    assert_eq!(world.choose(), address("10.32.0.4"));
}

#[test]
fn an_address_claimed_by_another_node_inside_our_block_is_skipped() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.0/26", HERE);
    world.block("10.32.0.2/32", THERE);
    assert_eq!(world.choose(), address("10.32.0.3"));
    assert_eq!(world.judge("10.32.0.2"), Fixed::Claim);
}

#[test]
fn network_broadcast_and_gateway_are_never_given() {
    let mut world = World::new("10.0.0.0/29", "10.0.0.6");
    world.block("10.0.0.0/29", HERE);
    for last in 1..=5 {
        let ip = format!("10.0.0.{last}");
        assert_eq!(world.choose(), address(&ip));
        world.endpoint(&ip, HERE);
    }
    assert_eq!(world.choose(), Choice::NeedBlock);
    for ip in ["10.0.0.0", "10.0.0.6", "10.0.0.7"] {
        assert!(matches!(world.judge(ip), Fixed::Unusable(_)), "{ip}");
    }
}

#[test]
fn reserved_addresses_are_never_given_and_say_for_whom() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.4/30", HERE);
    assert_eq!(world.choose(), address("10.32.0.4"));
    world.endpoint("10.32.0.4", HERE);
    assert_eq!(world.choose(), address("10.32.0.6"));
    let Fixed::Unusable(why) = world.judge("10.32.0.5") else {
        panic!()
    };
    assert!(why.contains("reserved for router"), "{why}");
}

#[test]
fn a_block_that_is_given_back_gives_nothing_any_more() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.0/26", HERE);
    let key = (world.network.id.clone(), "10.32.0.0/26".parse().unwrap());
    world.returning.insert(key);
    assert_eq!(world.choose(), Choice::NeedBlock);
    assert_eq!(world.judge("10.32.0.9"), Fixed::Claim);
    world.block("10.32.0.64/26", HERE);
    assert_eq!(world.choose(), address("10.32.0.64"));
}

#[test]
fn ipv6_blocks_are_walked_lazily_and_skip_the_anycast_address() {
    let mut world = World::new("fd00:32::/64", "fd00:32::1");
    world.block("fd00:32::/68", HERE);
    assert_eq!(world.choose(), address("fd00:32::2"));
}

#[test]
fn a_fixed_address_is_judged_by_who_has_it() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.0/26", HERE);
    assert_eq!(world.judge("10.32.0.9"), Fixed::Ours);
    assert_eq!(world.judge("10.32.9.9"), Fixed::Claim);
    world.endpoint("10.32.0.9", THERE);
    let held = Fixed::Held {
        endpoint: "e10.32.0.9".into(),
        node: NodeId(THERE.into()),
    };
    assert_eq!(world.judge("10.32.0.9"), held);
    world
        .busy
        .insert((world.network.id.clone(), "10.32.0.10".parse().unwrap()));
    assert_eq!(world.judge("10.32.0.10"), Fixed::Busy);
    assert!(matches!(world.judge("10.33.0.1"), Fixed::Unusable(_)));
}

#[test]
fn a_mac_follows_its_ipv4_address_and_is_a_local_station() {
    let mac = mac_for(
        &["fd00::2".parse().unwrap(), "10.32.0.2".parse().unwrap()],
        1,
    );
    assert_eq!(mac.to_string(), "02:57:0a:20:00:02");
    let mac = mac_for(&[], 0x1234_5678_9abc_def0);
    assert!(mac.is_station() && mac.octets()[0] & 2 == 2);
}

#[test]
fn what_the_map_still_has_of_a_port_that_is_gone_holds_nothing() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.0/26", HERE);
    world.leftover("10.32.0.2");
    assert_eq!(world.choose(), address("10.32.0.2"));
    assert_eq!(world.judge("10.32.0.2"), Fixed::Ours);
    // One claimed in another node's block stays ours as long as the map says so.
    world.block("10.32.0.64/26", THERE);
    world.block("10.32.0.70/32", HERE);
    world.leftover("10.32.0.70");
    assert_eq!(world.judge("10.32.0.70"), Fixed::Ours);
}

#[test]
fn an_address_of_a_port_of_ours_is_held_though_the_map_does_not_know_it_yet() {
    let mut world = World::new("10.32.0.0/16", "10.32.0.1");
    world.block("10.32.0.0/26", HERE);
    world.endpoint("10.32.0.2", HERE);
    let held = Fixed::Held {
        endpoint: "e10.32.0.2".into(),
        node: NodeId(HERE.into()),
    };
    assert_eq!(world.judge("10.32.0.2"), held);
    assert_eq!(world.choose(), address("10.32.0.3"));
}
