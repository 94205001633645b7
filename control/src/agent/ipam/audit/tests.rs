use super::*;
use crate::model::{Change, Egress, Network, Node, Object, Subnet, Transport};
use weft_wire::{MacAddr, Mtu, Vni};

const HERE: &str = "here";
const THERE: &str = "there";

struct World {
    map: ClusterMap,
    ports: Vec<(Endpoint, bool)>,
    under_way: Vec<Endpoint>,
    returning: Returning,
    connected: Option<BTreeSet<NodeId>>,
}

fn endpoint(ip: &str, node: &str) -> Endpoint {
    Endpoint {
        id: EndpointId(format!("{node}-{ip}")),
        network: NetworkId("n".into()),
        node: NodeId(node.into()),
        name: format!("e{ip}"),
        aliases: vec![],
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        ips: vec![ip.parse().unwrap()],
        epoch: 1,
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            map: ClusterMap::default(),
            ports: Vec::new(),
            under_way: Vec::new(),
            returning: Returning::new(),
            connected: Some([HERE, THERE].map(|node| NodeId(node.into())).into()),
        };
        for node in [HERE, THERE] {
            world.put(Object::Node(Node {
                id: NodeId(node.into()),
                name: format!("host-{node}"),
                underlay: "10.99.0.1".parse().unwrap(),
                underlay_mtu: Mtu::ETHERNET,
                vxlan_port: 4789,
                encrypted_port: None,
                transports: vec![],
                version: String::new(),
            }));
        }
        world.put(Object::Network(Network {
            id: NetworkId("n".into()),
            name: "blue".into(),
            vni: Vni::new(4096).unwrap(),
            subnets: vec![Subnet {
                cidr: "10.32.0.0/16".parse().unwrap(),
                ip_range: None,
                gateway: "10.32.0.1".parse().unwrap(),
                aux_addresses: BTreeMap::new(),
            }],
            transport: Transport::Vxlan,
            internal: false,
            isolate: false,
            egress: Egress::Nat,
            made_by: None,
            mtu: None,
            ageing_secs: 300,
            vteps: BTreeSet::new(),
        }));
        world
    }

    fn put(&mut self, object: Object) {
        self.map.apply(self.map.revision + 1, Change::Put(object));
    }

    fn block(&mut self, prefix: &str, node: &str) {
        self.put(Object::Block(Block {
            network: NetworkId("n".into()),
            prefix: prefix.parse().unwrap(),
            node: NodeId(node.into()),
        }));
    }

    /// A port of this node that the cluster knows.
    fn port(&mut self, ip: &str) {
        self.put(Object::Endpoint(endpoint(ip, HERE)));
        self.ports.push((endpoint(ip, HERE), true));
    }

    fn found(&self) -> Vec<(String, String, bool, Cure)> {
        let books = Books {
            map: &self.map,
            node: &NodeId(HERE.into()),
            ports: self
                .ports
                .iter()
                .map(|(endpoint, alive)| OwnPort {
                    endpoint,
                    alive: *alive,
                    refused: None,
                })
                .collect(),
            under_way: self.under_way.iter().collect(),
            returning: &self.returning,
            connected: self.connected.as_ref(),
        };
        let found = audit(&books).into_iter();
        found
            .map(|(finding, cure)| {
                assert_eq!(finding.network, "blue");
                assert_eq!(finding.fixable, cure != Cure::Hand);
                (finding.kind, finding.what, finding.fault, cure)
            })
            .collect()
    }
}

fn finding(kind: &str, what: &str, fault: bool, cure: Cure) -> (String, String, bool, Cure) {
    (kind.to_owned(), what.to_owned(), fault, cure)
}

fn give_back(prefix: &str) -> Cure {
    Cure::GiveBack(NetworkId("n".into()), prefix.parse().unwrap())
}

#[test]
fn books_that_agree_say_nothing() {
    let mut world = World::new();
    world.block("10.32.0.0/26", HERE);
    world.block("10.32.0.64/26", THERE);
    world.block("10.32.0.70/32", HERE);
    world.port("10.32.0.2");
    world.port("10.32.0.70");
    world.put(Object::Endpoint(endpoint("10.32.0.65", THERE)));
    assert_eq!(world.found(), []);
}

#[test]
fn an_address_that_two_have_is_found() {
    let mut world = World::new();
    world.block("10.32.0.0/26", HERE);
    world.port("10.32.0.2");
    world.put(Object::Endpoint(endpoint("10.32.0.2", THERE)));
    assert_eq!(
        world.found(),
        [finding("given_twice", "10.32.0.2", true, Cure::Hand)]
    );
}

#[test]
fn an_address_without_a_live_namespace_is_found() {
    let mut world = World::new();
    world.block("10.32.0.0/26", HERE);
    world.port("10.32.0.2");
    world.ports[0].1 = false;
    let id = world.ports[0].0.id.clone();
    let dead = finding("dead_namespace", "10.32.0.2", true, Cure::TakeDown(id));
    assert_eq!(world.found(), [dead]);
    // The cluster remembers what is no port any more.
    world.ports.clear();
    let left = finding("leftover", "10.32.0.2", true, Cure::Tell);
    let idle = finding(
        "idle_block",
        "10.32.0.0/26",
        false,
        give_back("10.32.0.0/26"),
    );
    assert_eq!(world.found(), [left, idle]);
    // One that is just being taken down isn't forgotten.
    world.under_way.push(endpoint("10.32.0.2", HERE));
    assert_eq!(world.found(), []);
}

#[test]
fn a_port_that_the_cluster_does_not_know_or_that_has_a_foreign_address_is_found() {
    let mut world = World::new();
    world.block("10.32.0.0/26", THERE);
    world.ports.push((endpoint("10.32.0.2", HERE), true));
    assert_eq!(
        world.found(),
        [
            finding("foreign_address", "10.32.0.2", true, Cure::Tell),
            finding("unreported", "10.32.0.2", true, Cure::Tell),
        ]
    );
    // While no controller answers the map is late: that is no fault.
    world.connected = None;
    assert_eq!(world.found(), []);
}

#[test]
fn claims_and_blocks_that_nobody_needs_are_found() {
    let mut world = World::new();
    world.block("10.32.0.0/26", HERE);
    world.block("10.32.0.5/32", HERE);
    world.block("10.32.9.9/32", HERE);
    world.port("10.32.0.5");
    // The address of the inner block says nothing for the outer one.
    assert_eq!(
        world.found(),
        [
            finding(
                "idle_block",
                "10.32.0.0/26",
                false,
                give_back("10.32.0.0/26")
            ),
            finding(
                "unused_claim",
                "10.32.9.9/32",
                false,
                give_back("10.32.9.9/32")
            ),
        ]
    );
    world
        .returning
        .insert((NetworkId("n".into()), "10.32.0.0/26".parse().unwrap()));
    assert_eq!(world.found().len(), 1);
}

#[test]
fn addresses_of_a_node_that_is_away_are_told() {
    let mut world = World::new();
    world.put(Object::Endpoint(endpoint("10.32.0.65", THERE)));
    world.connected = Some([NodeId(HERE.into())].into());
    assert_eq!(
        world.found(),
        [finding("absent_node", "1 addresses", false, Cure::Hand)]
    );
}
