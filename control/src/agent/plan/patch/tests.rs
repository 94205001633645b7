//! However endpoints come and go, patching what was planned comes to the same as planning it anew.

use std::sync::Arc;

use proptest::prelude::*;
use weft_wire::Mtu;

use super::super::{PathMtus, plan};
use super::*;
use crate::model::{Coverage, EndpointId, Node, Revision, Subnet, Transport};

const NODES: u8 = 4;
const NETWORKS: u8 = 4;

fn node_id(number: u8) -> NodeId {
    NodeId(format!("h{number}"))
}

fn network_id(number: u8) -> NetworkId {
    NetworkId(format!("net{number}"))
}

fn vni(number: u8) -> Vni {
    Vni::new(4096 + u32::from(number)).unwrap()
}

fn underlay(node: u8) -> IpAddr {
    [10, 99, 0, node].into()
}

/// The last one carries no encrypted networks.
fn node(number: u8) -> Object {
    Object::Node(Node {
        id: node_id(number),
        name: format!("h{number}"),
        underlay: underlay(number),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: (number + 1 < NODES).then_some(4788),
        transports: vec![Transport::Vxlan],
        version: String::new(),
    })
}

/// A plain L2 one, an encrypted one, one with a static VTEP that is also a node's, and one of which nothing is heard.
fn network(number: u8) -> Object {
    let cidr = format!("10.{number}.0.0/16").parse().unwrap();
    let subnet = Subnet {
        cidr,
        ip_range: None,
        gateway: [10, number, 0, 1].into(),
        aux_addresses: BTreeMap::new(),
    };
    let vteps: &[IpAddr] = match number {
        2 => &[[10, 99, 1, 1].into(), underlay(1)],
        _ => &[],
    };
    Object::Network(Network {
        id: network_id(number),
        name: format!("net{number}"),
        vni: vni(number),
        subnets: (number != 0).then_some(subnet).into_iter().collect(),
        transport: match number {
            1 => Transport::Quic,
            _ => Transport::Vxlan,
        },
        internal: false,
        egress: Default::default(),
        mtu: None,
        ageing_secs: 300,
        made_by: None,
        vteps: vteps.iter().copied().collect(),
        isolate: false,
    })
}

/// Few addresses, so that endpoints of one network have the same, as they may for a moment.
fn endpoint() -> impl Strategy<Value = Endpoint> {
    let addresses = prop::collection::btree_set(2..6_u8, 0..3);
    let fields = (0..12_u8, 0..4_u8, addresses, 0..3_u64);
    fields.prop_map(|(id, mac, addresses, epoch)| {
        let (network, node) = (id % NETWORKS, id / NETWORKS % NODES);
        let ips = addresses.into_iter().filter(|_| network != 0);
        Endpoint {
            id: EndpointId(format!("e{id}")),
            network: network_id(network),
            node: node_id(node),
            name: format!("e{id}"),
            aliases: Vec::new(),
            mac: MacAddr([2, 0, 0, 0, 0, mac]),
            ips: ips.map(|last| [10, network, 0, last].into()).collect(),
            epoch,
        }
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => endpoint().prop_map(|endpoint| Change::Put(Object::Endpoint(endpoint))),
        3 => (0..12_u8).prop_map(|id| Change::Delete(Key::Endpoint(EndpointId(format!("e{id}"))))),
        1 => (0..NODES).prop_map(|id| Change::Put(node(id))),
        1 => (0..NETWORKS).prop_map(|id| Change::Put(network(id))),
    ]
}

/// A change of what this host has: its port on that network, with that MAC and address.
fn port() -> impl Strategy<Value = Option<(u8, u8, bool)>> {
    prop::option::of((0..NETWORKS, 2..6_u8, any::<bool>()))
}

struct Agent {
    node: NodeId,
    map: ClusterMap,
    coverage: Coverage,
    touched: Touched,
    port: Option<(u8, u8, bool)>,
    applied: Wanted,
}

impl Agent {
    fn new() -> Self {
        let mut map = ClusterMap::default();
        let nodes = (0..NODES).map(node);
        for (revision, object) in (1..).zip(nodes.chain((0..NETWORKS).map(network))) {
            map.apply(revision, Change::Put(object));
        }
        Self {
            node: node_id(0),
            map,
            coverage: Coverage::of(Some((0..NETWORKS - 1).map(network_id).collect())),
            touched: Touched::everything(),
            port: None,
            applied: Wanted::default(),
        }
    }

    /// As the agent does when it is told.
    fn hear(&mut self, changes: Vec<Change>) {
        let nodes = self.map.nodes.len();
        for change in &changes {
            self.touched.note((&self.map, &self.node), change);
        }
        let first: Revision = self.map.revision + 1;
        let changes: Vec<_> = (first..).zip(changes).collect();
        let up_to = self.map.revision + changes.len() as Revision;
        self.coverage
            .changed((&mut self.map, &self.node), changes, up_to);
        if self.map.nodes.len() != nodes {
            self.touched.touch_everything();
        }
    }

    fn with_ports<T>(&self, work: impl FnOnce(&[LocalPort<'_>]) -> T) -> T {
        let Some((network, last, refused)) = self.port else {
            return work(&[]);
        };
        let ips = [IpAddr::from([10, network, 0, last])];
        work(&[LocalPort {
            id: &EndpointId("own".to_owned()),
            network: &network_id(network),
            vni: vni(network),
            mac: MacAddr([2, 0, 0, 0, 0, last - 2]),
            epoch: 1,
            ips: if network == 0 { &[] } else { &ips },
            is_host: false,
            refused,
        }])
    }

    /// Follows, and says whether by a patch.
    fn follow(&mut self) -> Result<bool, TestCaseError> {
        let here = Here {
            node: &self.node,
            underlay: underlay(0),
            underlay_mtu: Mtu::ETHERNET,
            encrypts: true,
            measured: Arc::new(PathMtus::new()),
        };
        let part = Part::of(&self.map, self.coverage.has());
        let now = (&self.applied, &self.touched);
        let (anew, patch) = self.with_ports(|ports| {
            let anew = plan(part, &here, ports.iter().cloned());
            (anew, patch(part, &here, ports, now))
        });
        self.touched = Touched::default();
        let patched = patch.is_some();
        match patch {
            Some(patch) => self.applied.patch(patch),
            None => self.applied = anew.clone(),
        }
        prop_assert_eq!(&self.applied, &anew);
        Ok(patched)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_patched_plan_is_as_one_made_anew(
        steps in prop::collection::vec((prop::collection::vec(change(), 0..4), prop::option::weighted(0.2, port())), 1..25)
    ) {
        let mut agent = Agent::new();
        for (changes, port) in steps {
            if let Some(port) = port {
                agent.port = port;
                agent.touched.touch_everything();
            }
            agent.hear(changes);
            agent.follow()?;
        }
    }
}

#[test]
fn what_changes_on_a_host_that_stays_is_patched() {
    let mut agent = Agent::new();
    let put = |id: u8, last: u8, epoch| {
        let network = id % NETWORKS;
        Change::Put(Object::Endpoint(Endpoint {
            id: EndpointId(format!("e{id}")),
            network: network_id(network),
            node: node_id(1),
            name: format!("e{id}"),
            aliases: Vec::new(),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            ips: vec![[10, network, 0, last].into()],
            epoch,
        }))
    };
    agent.hear(vec![put(2, 5, 1), put(6, 6, 1)]);
    assert!(!agent.follow().unwrap(), "nothing was planned yet");
    // Another address, a newer one, and one that is gone.
    agent.hear(vec![put(2, 7, 2)]);
    assert!(agent.follow().unwrap());
    agent.hear(vec![put(10, 8, 1)]);
    assert!(agent.follow().unwrap());
    agent.hear(vec![Change::Delete(Key::Endpoint(EndpointId(
        "e6".to_owned(),
    )))]);
    assert!(agent.follow().unwrap());
    assert_eq!(
        (agent.applied.macs.len(), agent.applied.neighbors.len()),
        (2, 2)
    );
    // Only how far the map is.
    agent.hear(Vec::new());
    assert!(agent.follow().unwrap());
    // The last ones: the host is no peer any more.
    let gone = ["e2", "e10"].map(|id| Change::Delete(Key::Endpoint(EndpointId(id.to_owned()))));
    agent.hear(gone.to_vec());
    assert!(!agent.follow().unwrap());
}
