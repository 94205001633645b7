use super::*;
use crate::model::{Change, EndpointId, NodeId, Object, Subnet, Transport};
use weft_wire::Vni;

/// An endpoint of this host and its namespace.
pub(crate) type Here = (Endpoint, (u64, u64));

/// Networks blue (10.1.0.0/24, fd01::/64), green (10.2.0.0/24, internal) and red (10.3.0.0/24). On this host: c1 on blue
/// and green, c2 on blue. Elsewhere: web1, web2 with alias `web` on blue, db on green, far on red.
pub(crate) fn world() -> (ClusterMap, Vec<Endpoint>, Vec<Here>) {
    let mut map = ClusterMap::default();
    let networks: [(&str, u32, &[&str], bool); 3] = [
        ("blue", 1, &["10.1.0.0/24", "fd01::/64"], false),
        ("green", 2, &["10.2.0.0/24"], true),
        ("red", 3, &["10.3.0.0/24"], false),
    ];
    for (name, vni, subnets, internal) in networks {
        let network = Network {
            id: NetworkId(name.into()),
            name: name.into(),
            vni: Vni::new(vni).unwrap(),
            subnets: subnets
                .iter()
                .map(|cidr| {
                    let cidr: IpNet = cidr.parse().unwrap();
                    Subnet {
                        cidr,
                        ip_range: None,
                        gateway: cidr.hosts().next().unwrap(),
                        aux_addresses: BTreeMap::new(),
                    }
                })
                .collect(),
            transport: Transport::Vxlan,
            internal,
            isolate: false,
            made_by: None,
            egress: crate::model::Egress::default(),
            mtu: None,
            ageing_secs: 300,
            vteps: BTreeSet::new(),
        };
        map.apply(u64::from(vni), Change::Put(Object::Network(network)));
    }
    let elsewhere = vec![
        endpoint("blue", "web1", &["web"], &["10.1.0.11", "fd01::11"]),
        endpoint("blue", "web2", &["web"], &["10.1.0.12"]),
        endpoint("green", "db", &[], &["10.2.0.5"]),
        endpoint("red", "far", &["web"], &["10.3.0.9"]),
    ];
    let here = vec![
        (
            endpoint("blue", "c1", &["C1-Alias"], &["10.1.0.2", "fd01::2"]),
            (4, 1),
        ),
        (endpoint("green", "c1", &[], &["10.2.0.2"]), (4, 1)),
        (endpoint("blue", "c2", &[], &["10.1.0.3"]), (4, 2)),
    ];
    (map, elsewhere, here)
}

/// The index over [`world`].
pub(crate) fn names() -> Names {
    let (map, elsewhere, here) = world();
    let here: Vec<LocalName<'_>> = here
        .iter()
        .map(|(endpoint, netns)| LocalName {
            endpoint,
            netns: *netns,
        })
        .collect();
    Names::new(&map, elsewhere.iter(), &here)
}

/// The MAC of an endpoint of [`world`] by its IPv4 address.
pub(crate) fn mac(ip: &str) -> MacAddr {
    let ip: std::net::Ipv4Addr = ip.parse().unwrap();
    let [a, b, c, d] = ip.octets();
    MacAddr([2, 0x57, a, b, c, d])
}

fn endpoint(network: &str, name: &str, aliases: &[&str], ips: &[&str]) -> Endpoint {
    Endpoint {
        id: EndpointId(format!("{network}-{name}")),
        network: NetworkId(network.into()),
        node: NodeId("n".into()),
        name: name.into(),
        aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        mac: mac(ips[0]),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        epoch: 1,
    }
}

fn found(names: &Names, asker: (&str, &str), name: &str) -> Vec<(String, Vec<String>)> {
    let view = names.seen_by(&NetworkId(asker.0.into()), mac(asker.1));
    view.places(name)
        .map(|(network, name)| {
            let hosts = network.hosts(name).map(|host| host.name.clone());
            (network.name.clone(), hosts.collect())
        })
        .collect()
}

fn on(network: &str, hosts: &[&str]) -> (String, Vec<String>) {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    (network.to_owned(), hosts)
}

#[test]
fn names_and_aliases_of_all_hosts_are_known() {
    let names = names();
    let c2 = ("blue", "10.1.0.3");
    assert_eq!(found(&names, c2, "web1"), [on("blue", &["web1"])]);
    assert_eq!(found(&names, c2, "web"), [on("blue", &["web1", "web2"])]);
    assert_eq!(found(&names, c2, "c1-alias"), [on("blue", &["c1"])]);
    assert_eq!(found(&names, c2, "c2"), [on("blue", &["c2"])]);
    assert_eq!(
        found(&names, c2, "web.blue"),
        [on("blue", &["web1", "web2"])]
    );
    for nobody in ["web3", "web.red", "web.", ".blue", "blue", "", "webxblue"] {
        assert_eq!(found(&names, c2, nobody), [], "{nobody}");
    }
}

#[test]
fn what_an_asker_knows_is_on_the_networks_of_its_namespace() {
    let names = names();
    assert_eq!(found(&names, ("blue", "10.1.0.3"), "db"), []);
    assert_eq!(
        found(&names, ("blue", "10.1.0.2"), "db"),
        [on("green", &["db"])]
    );
    assert_eq!(
        found(&names, ("blue", "10.1.0.2"), "db.green"),
        [on("green", &["db"])]
    );
    // Where it asked comes first.
    let both = found(&names, ("green", "10.2.0.2"), "c1");
    assert_eq!(both, [on("green", &["c1"]), on("blue", &["c1"])]);
    // A MAC of another network is nobody here.
    assert_eq!(found(&names, ("blue", "10.2.0.2"), "db"), []);
    assert_eq!(
        found(&names, ("blue", "9.9.9.9"), "web1"),
        [on("blue", &["web1"])]
    );
    assert_eq!(found(&names, ("grey", "10.1.0.2"), "web1"), []);
}

#[test]
fn a_way_out_needs_one_network_that_has_it() {
    let names = names();
    let way_out = |network: &str, ip| {
        let network = NetworkId(network.into());
        names.seen_by(&network, mac(ip)).has_way_out()
    };
    assert!(way_out("blue", "10.1.0.3") && way_out("green", "10.2.0.2"));
    assert!(!way_out("green", "10.2.0.5") && !way_out("grey", "10.1.0.3"));
}

#[test]
fn addresses_lead_back_to_names() {
    let names = names();
    let view = names.seen_by(&NetworkId("blue".into()), mac("10.1.0.3"));
    let blue = view.networks[0];
    assert_eq!(
        blue.owner("fd01::11".parse().unwrap()).unwrap().name,
        "web1"
    );
    assert_eq!(blue.owner("10.1.0.200".parse().unwrap()), None);
    assert!(
        blue.contains("10.1.0.200".parse().unwrap()) && !blue.contains("10.2.0.5".parse().unwrap())
    );
}

/// With a network's names made anew the index is as one made anew.
#[test]
fn a_networks_names_can_be_made_anew_alone() {
    let (map, mut elsewhere, here) = world();
    let local: Vec<LocalName<'_>> = here
        .iter()
        .map(|(endpoint, netns)| LocalName {
            endpoint,
            netns: *netns,
        })
        .collect();
    let mut names = Names::new(&map, elsewhere.iter(), &local);
    // One goes, one comes, one is called otherwise; and what happens on another network isn't looked at.
    elsewhere.retain(|one| one.name != "web1");
    elsewhere.push(endpoint("blue", "web3", &["web"], &["10.1.0.13"]));
    let blue = map.network(&NetworkId("blue".into())).unwrap();
    let on_blue = elsewhere.iter().filter(|one| one.network == blue.id);
    names.renew(blue, on_blue, &local);
    let anew = Names::new(&map, elsewhere.iter(), &local);
    for name in [
        "web", "web1", "web2", "web3", "c1", "c1-alias", "c2", "db", "far",
    ] {
        let seen = |names: &Names| {
            let view = names.seen_by(&blue.id, here[0].0.mac);
            let hosts = view.networks.iter().flat_map(|network| {
                let hosts: Vec<Host> = network.hosts(name).cloned().collect();
                hosts
            });
            hosts.collect::<Vec<Host>>()
        };
        assert_eq!(seen(&names), seen(&anew), "{name}");
    }
    let web = names.seen_by(&blue.id, here[0].0.mac).networks[0]
        .hosts("web")
        .len();
    assert_eq!(web, 2);
}
