use super::*;
use crate::model::{Change, Egress, Endpoint, Object, Router, RouterId, StaticRoute, Subnet};

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
        encrypted_port: None,
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
        egress: Egress::Nat,
        mtu: None,
        ageing_secs: 300,
        made_by: None,
        vteps: vteps.iter().map(|text| ip(text)).collect(),
        isolate: false,
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
        ips: vec![ip(&format!("10.32.0.{id}"))],
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
        encrypts: true,
        measured: Arc::default(),
    };
    plan(Part::of(map, None), &here, ports.iter().cloned())
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
            ips: &[],
            is_host: false,
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
        ips: &[],
        is_host: false,
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
            ips: &[],
            is_host: false,
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

fn router(map: &mut ClusterMap, networks: &[&str], routes: &[(&str, &str)]) {
    let networks = networks.iter().map(|name| NetworkId((*name).into()));
    let routes = routes.iter().map(|(prefix, via)| StaticRoute {
        prefix: prefix.parse().unwrap(),
        via: ip(via),
    });
    let router = Router {
        id: RouterId("core".into()),
        name: "core".into(),
        networks: networks.collect(),
        routes: routes.collect(),
    };
    put(map, Object::Router(router));
}

fn route(prefix: &str, network: Option<u32>, via: Option<&str>) -> WantedRoute {
    WantedRoute {
        prefix: prefix.parse().unwrap(),
        network: network.map(vni),
        via: via.map(ip),
    }
}

#[test]
fn gateways_route_what_their_router_has_and_others_their_own() {
    let mut map = ClusterMap::default();
    network(&mut map, "blue", 1, Some("10.32.0.0/16"), &[]);
    network(&mut map, "green", 2, Some("10.33.0.0/16"), &[]);
    network(&mut map, "red", 3, Some("10.34.0.0/16"), &[]);
    let static_routes = [("10.50.0.0/16", "10.33.0.7"), ("10.51.0.0/16", "10.34.0.7")];
    router(&mut map, &["blue", "green"], &static_routes);
    let wanted = plan_of(&map, &[]);
    // The tests' networks all have one gateway.
    let gateway = route("10.32.0.1/32", None, None);
    let both = [
        route("10.32.0.0/16", Some(1), None),
        gateway,
        route("10.33.0.0/16", Some(2), None),
        gateway,
        route("10.50.0.0/16", Some(2), Some("10.33.0.7")),
    ];
    assert_eq!(*wanted.networks[&vni(1)].routes, both);
    assert_eq!(*wanted.networks[&vni(2)].routes, both);
    let own = [route("10.34.0.0/16", Some(3), None), gateway];
    assert_eq!(*wanted.networks[&vni(3)].routes, own);
}

#[test]
fn neighbors_are_endpoints_of_all_hosts_and_of_two_claims_the_clusters_stands() {
    let mut map = ClusterMap::default();
    node(&mut map, "h2", "10.99.0.2", 1500);
    network(&mut map, "blue", 4096, Some("10.32.0.0/16"), &[]);
    endpoint(&mut map, 2, "blue", "h2");
    let (theirs, ours) = (ip("10.32.0.2"), ip("10.32.0.9"));
    let ips = [theirs, ours];
    let (id, blue) = (EndpointId("mine".into()), NetworkId("blue".into()));
    let port = |refused| {
        let port = LocalPort {
            id: &id,
            network: &blue,
            vni: vni(4096),
            mac: mac(9),
            epoch: 9,
            ips: &ips,
            is_host: false,
            refused,
        };
        plan_of(&map, &[port])
    };
    let owner = |wanted: &Wanted, ip| wanted.neighbors[&(vni(4096), ip)];
    let refused = port(true);
    assert_eq!(
        (owner(&refused, theirs), owner(&refused, ours)),
        (mac(2), mac(9))
    );
    assert_eq!(owner(&port(false), theirs), mac(9));
}

#[test]
fn a_network_leaves_by_the_hosts_own_port_and_where_there_is_none_that_is_said() {
    let mut map = ClusterMap::default();
    network(&mut map, "blue", 4096, Some("10.32.0.0/16"), &[]);
    let mut blue = map.networks[&NetworkId("blue".into())].object.clone();
    blue.egress = Egress::Kernel;
    put(&mut map, Object::Network(blue.clone()));
    let ids = ["mine", "hosts"].map(|id| EndpointId(id.into()));
    let port = |at: usize, is_host| LocalPort {
        id: &ids[at],
        network: &blue.id,
        vni: vni(4096),
        mac: mac(if is_host { 8 } else { 9 }),
        epoch: 1,
        ips: &[],
        is_host,
        refused: false,
    };
    assert!(plan_of(&map, &[]).warnings.is_empty());
    let closed = plan_of(&map, &[port(0, false)]);
    assert!(closed.exits.is_empty());
    assert!(closed.warnings[0].contains("weft expose blue"));
    let open = plan_of(&map, &[port(0, false), port(1, true)]);
    assert_eq!(open.exits, BTreeMap::from([(ids[1].clone(), mac(8))]));
    assert!(open.warnings.is_empty());
    // Whoever else leaves, leaves otherwise.
    for (egress, internal) in [(Egress::Nat, false), (Egress::Kernel, true)] {
        let mut other = blue.clone();
        (other.egress, other.internal) = (egress, internal);
        put(&mut map, Object::Network(other));
        let wanted = plan_of(&map, &[port(0, false), port(1, true)]);
        assert!(wanted.exits.is_empty() && wanted.warnings.is_empty());
    }
}

/// A node that carries encrypted networks, or doesn't.
fn able(map: &mut ClusterMap, name: &str, underlay: &str, encrypted_port: Option<u16>) {
    node(map, name, underlay, 1500);
    let mut able = map.nodes[&NodeId(name.into())].object.clone();
    able.encrypted_port = encrypted_port;
    able.transports.push(Transport::Quic);
    put(map, Object::Node(able));
}

#[test]
fn an_encrypted_network_goes_to_who_can_protect_it_and_to_no_static_vtep() {
    let mut map = ClusterMap::default();
    able(&mut map, "h2", "10.99.0.2", Some(4788));
    able(&mut map, "h3", "10.99.0.3", None);
    able(&mut map, "h4", "10.99.0.4", Some(4788));
    network(&mut map, "dark", 4096, Some("10.32.0.0/16"), &["10.99.0.9"]);
    let mut dark = map.networks[&NetworkId("dark".into())].object.clone();
    dark.transport = Transport::Quic;
    put(&mut map, Object::Network(dark));
    for (id, host) in [(2, "h2"), (3, "h3"), (4, "h4")] {
        endpoint(&mut map, id, "dark", host);
    }
    let (id, network) = (EndpointId("mine".into()), NetworkId("dark".into()));
    let port = LocalPort {
        id: &id,
        network: &network,
        vni: vni(4096),
        mac: mac(9),
        epoch: 1,
        ips: &[],
        is_host: false,
        refused: false,
    };
    let wanted = plan_of(&map, &[port]);
    let planned = &wanted.networks[&vni(4096)];
    let able = BTreeSet::from([ip("10.99.0.2"), ip("10.99.0.4")]);
    assert_eq!(
        (planned.carriage, &planned.flood),
        (Carriage::Encrypted, &able)
    );
    assert_eq!(planned.mtu, mtu(1424));
    let reached = wanted.macs.keys().map(|(_, mac)| *mac);
    assert_eq!(reached.collect::<Vec<_>>(), [mac(2), mac(4), mac(9)]);
    let secure = |host| wanted.peers[&ip(host)].secure.clone();
    assert!(secure("10.99.0.2").unwrap().keep);
    assert_eq!(secure("10.99.0.2").unwrap().node, "h2");
    assert_eq!(secure("10.99.0.3"), None);
    assert!(!wanted.peers.contains_key(&ip("10.99.0.9")));
    // Without a port here no session is kept; without the means there is none.
    let idle = plan_of(&map, &[]);
    assert!(!idle.peers[&ip("10.99.0.2")].secure.clone().unwrap().keep);
    let node = NodeId("h1".into());
    let here = Here {
        node: &node,
        underlay: ip(HERE_IP),
        underlay_mtu: mtu(1500),
        encrypts: false,
        measured: Arc::default(),
    };
    let alone = plan(Part::of(&map, None), &here, std::iter::empty());
    assert!(alone.networks[&vni(4096)].flood.is_empty() && alone.macs.is_empty());
}
