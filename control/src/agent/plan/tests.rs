use super::*;
use crate::model::{Change, Endpoint, Object, Subnet};

const HERE_IP: &str = "10.99.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn mtu(value: u32) -> Mtu {
    Mtu::new(value).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn vni(value: u32) -> Vni {
    Vni::new(value).unwrap()
}

fn put(map: &mut ClusterMap, object: Object) {
    map.apply(map.revision + 1, Change::Put(object));
}

fn node(map: &mut ClusterMap, name: &str, underlay: &str, underlay_mtu: u32) {
    let node = Node {
        id: NodeId(name.into()),
        name: name.into(),
        underlay: ip(underlay),
        underlay_mtu: mtu(underlay_mtu),
        vxlan_port: 4789,
        transports: vec![Transport::Vxlan],
        version: "1".into(),
    };
    put(map, Object::Node(node));
}

fn network(map: &mut ClusterMap, name: &str, number: u32, cidr: Option<&str>, vteps: &[&str]) {
    let subnets = cidr
        .map(|cidr| Subnet {
            cidr: cidr.parse().unwrap(),
            ip_range: None,
            gateway: ip("10.32.0.1"),
            aux_addresses: BTreeMap::new(),
        })
        .into_iter()
        .collect();
    let network = Network {
        id: NetworkId(name.into()),
        name: name.into(),
        vni: vni(number),
        subnets,
        transport: Transport::Vxlan,
        internal: false,
        mtu: None,
        ageing_secs: 300,
        vteps: vteps.iter().map(|text| ip(text)).collect(),
    };
    put(map, Object::Network(network));
}

fn endpoint(map: &mut ClusterMap, id: u8, network: &str, node: &str) {
    let endpoint = Endpoint {
        id: EndpointId(format!("e{id}")),
        network: NetworkId(network.into()),
        node: NodeId(node.into()),
        name: format!("c{id}"),
        aliases: vec![],
        mac: mac(id),
        ips: vec![],
        epoch: u64::from(id),
    };
    put(map, Object::Endpoint(endpoint));
}

fn plan_of(map: &ClusterMap, ports: &[LocalPort<'_>]) -> Wanted {
    let node = NodeId("h1".into());
    let here = Here {
        node: &node,
        underlay: ip(HERE_IP),
        underlay_mtu: mtu(1500),
        measured: Arc::default(),
    };
    plan(map, &here, ports.iter().cloned())
}

#[test]
fn only_nodes_with_an_endpoint_on_the_network_are_flooded() {
    let mut map = ClusterMap::default();
    node(&mut map, "h1", HERE_IP, 1500);
    node(&mut map, "h2", "10.99.0.2", 1500);
    node(&mut map, "h3", "10.99.0.3", 1500);
    network(&mut map, "blue", 4096, Some("10.32.0.0/16"), &[]);
    endpoint(&mut map, 1, "blue", "h1");
    endpoint(&mut map, 2, "blue", "h2");
    let wanted = plan_of(&map, &[]);
    assert_eq!(wanted.peers.len(), 2);
    assert_eq!(
        wanted.networks[&vni(4096)].flood,
        BTreeSet::from([ip("10.99.0.2")])
    );
    let place = WantedPlace::Peer(ip("10.99.0.2"));
    assert_eq!(
        wanted.macs,
        BTreeMap::from([((vni(4096), mac(2)), (place, 2))])
    );
}

#[test]
fn addresses_of_a_plain_l2_network_are_learned_not_owned() {
    let mut map = ClusterMap::default();
    node(&mut map, "h2", "10.99.0.2", 1500);
    network(&mut map, "lab", 7, None, &[]);
    endpoint(&mut map, 2, "lab", "h2");
    let id = EndpointId("e1".into());
    let wanted = plan_of(
        &map,
        &[LocalPort {
            id: &id,
            network: &NetworkId("lab".into()),
            vni: vni(7),
            mac: mac(1),
            epoch: 1,
            refused: false,
        }],
    );
    assert!(wanted.macs.is_empty() && wanted.networks[&vni(7)].plain_l2);
    assert_eq!(wanted.remote_stations, BTreeSet::from([(vni(7), mac(2))]));
}

#[test]
fn a_local_port_owns_its_address_whatever_the_map_says_unless_it_was_refused() {
    let mut map = ClusterMap::default();
    node(&mut map, "h2", "10.99.0.2", 1500);
    network(&mut map, "blue", 4096, Some("10.32.0.0/16"), &[]);
    endpoint(&mut map, 2, "blue", "h2");
    let id = EndpointId("mine".into());
    let blue = NetworkId("blue".into());
    let mut port = LocalPort {
        id: &id,
        network: &blue,
        vni: vni(4096),
        mac: mac(2),
        epoch: 9,
        refused: false,
    };
    let owner = |port: &LocalPort<'_>| {
        let wanted = plan_of(&map, std::slice::from_ref(port));
        wanted.macs[&(vni(4096), mac(2))].clone()
    };
    assert_eq!(owner(&port), (WantedPlace::Port(id.clone()), 9));
    port.refused = true;
    assert_eq!(owner(&port), (WantedPlace::Peer(ip("10.99.0.2")), 2));
}

#[test]
fn a_port_of_a_network_that_is_gone_is_not_on_the_one_that_has_its_vni_now() {
    let mut map = ClusterMap::default();
    network(&mut map, "green", 4096, Some("10.32.0.0/16"), &[]);
    let id = EndpointId("mine".into());
    let wanted = plan_of(
        &map,
        &[LocalPort {
            id: &id,
            network: &NetworkId("blue".into()),
            vni: vni(4096),
            mac: mac(2),
            epoch: 9,
            refused: false,
        }],
    );
    assert_eq!(wanted.stranded, BTreeSet::from([id]));
    assert!(wanted.macs.is_empty());
}

#[test]
fn a_static_vtep_is_flooded_for_its_networks_and_may_send_only_for_them() {
    let mut map = ClusterMap::default();
    network(&mut map, "blue", 4096, Some("10.32.0.0/16"), &["10.99.0.9"]);
    network(&mut map, "red", 4097, None, &[]);
    let wanted = plan_of(&map, &[]);
    let peer = &wanted.peers[&ip("10.99.0.9")];
    assert_eq!(
        (peer.port, &peer.only),
        (4789, &Some(BTreeSet::from([vni(4096)])))
    );
    assert_eq!(
        wanted.networks[&vni(4096)].flood,
        BTreeSet::from([ip("10.99.0.9")])
    );
    assert!(wanted.networks[&vni(4097)].flood.is_empty());
}

#[test]
fn the_mtu_fits_the_smallest_underlay_unless_it_was_set() {
    let mut map = ClusterMap::default();
    network(&mut map, "blue", 4096, None, &[]);
    assert_eq!(plan_of(&map, &[]).networks[&vni(4096)].mtu, mtu(1450));
    node(&mut map, "h2", "10.99.0.2", 1400);
    assert_eq!(plan_of(&map, &[]).networks[&vni(4096)].mtu, mtu(1350));
    // A node that can't be reached doesn't count, but is named.
    node(&mut map, "h3", "fd99::3", 1280);
    let wanted = plan_of(&map, &[]);
    assert_eq!(wanted.networks[&vni(4096)].mtu, mtu(1350));
    assert!(
        wanted.warnings.iter().any(|warning| warning.contains("h3")),
        "{:?}",
        wanted.warnings
    );
}

#[test]
fn a_narrow_underlay_takes_ipv6_from_nobody_and_is_named() {
    let mut map = ClusterMap::default();
    network(&mut map, "blue", 4096, Some("fd32::/64"), &[]);
    network(&mut map, "red", 4097, Some("10.33.0.0/16"), &[]);
    node(&mut map, "h2", "10.99.0.2", 1300);
    let wanted = plan_of(&map, &[]);
    assert_eq!(wanted.networks[&vni(4096)].mtu, Mtu::IPV6_MIN);
    assert_eq!(wanted.networks[&vni(4097)].mtu, mtu(1250));
    let warning = wanted.warnings.first().unwrap();
    assert!(
        warning.contains("h2") && warning.contains("1250") && warning.contains("blue"),
        "{warning}"
    );
    node(&mut map, "h2", "10.99.0.2", 1500);
    let wanted = plan_of(&map, &[]);
    assert_eq!(wanted.networks[&vni(4096)].mtu, mtu(1450));
    assert!(wanted.warnings.is_empty(), "{:?}", wanted.warnings);
}
