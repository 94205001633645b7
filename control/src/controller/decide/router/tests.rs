use super::super::network;
use super::super::tests::{apply, cluster, wish};
use super::*;
use crate::model::NetworkId;

/// Networks blue, green and lab (plain L2), and router core.
fn map() -> ClusterMap {
    let mut map = cluster();
    for (name, subnets) in [
        ("blue", &["10.32.0.0/16", "fd32::/64"][..]),
        ("green", &["10.33.0.0/16"]),
        ("lab", &[]),
    ] {
        let id = NetworkId(format!("id-{name}"));
        let changes = network::create(&map, &wish(name, subnets), id).unwrap();
        apply(&mut map, changes);
    }
    done(&mut map, "core", RouterChange::Create);
    map
}

fn decide(map: &ClusterMap, name: &str, what: RouterChange) -> Decision<Vec<Change>> {
    change(map, name, &what, RouterId(format!("id-{name}")))
}

#[track_caller]
fn done(map: &mut ClusterMap, name: &str, what: RouterChange) {
    let changes = decide(map, name, what).unwrap();
    apply(map, changes);
}

#[track_caller]
fn refused(map: &ClusterMap, name: &str, what: RouterChange) -> Refusal {
    let refusal = decide(map, name, what).unwrap_err();
    assert!(refusal.hint.is_some(), "{refusal}");
    refusal
}

fn networks(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn with(names: &[&str]) -> RouterChange {
    RouterChange::Connect {
        networks: networks(names),
    }
}

fn without(names: &[&str]) -> RouterChange {
    RouterChange::Disconnect {
        networks: networks(names),
    }
}

fn to(prefix: &str, via: &str) -> RouterChange {
    RouterChange::AddRoute {
        route: StaticRoute {
            prefix: prefix.parse().unwrap(),
            via: via.parse().unwrap(),
        },
    }
}

fn not_to(prefix: &str) -> RouterChange {
    RouterChange::RemoveRoute {
        prefix: prefix.parse().unwrap(),
    }
}

#[test]
fn a_router_is_made_once_and_goes_without_its_networks() {
    let mut map = map();
    let code = |map: &ClusterMap, name, what| refused(map, name, what).code;
    assert_eq!(code(&map, "core", RouterChange::Create), "name_taken");
    assert_eq!(code(&map, "a b", RouterChange::Create), "bad_name");
    assert_eq!(code(&map, "edge", RouterChange::Remove), "unknown_router");
    done(&mut map, "core", with(&["blue", "green"]));
    done(&mut map, "core", RouterChange::Remove);
    assert!(map.routers.is_empty());
    assert!(map.network_named("blue").is_some());
}

#[test]
fn networks_are_on_one_router_all_or_none() {
    let mut map = map();
    done(&mut map, "core", with(&["blue", "green", "blue"]));
    let blue = NetworkId("id-blue".to_owned());
    assert_eq!(map.router_of(&blue).unwrap().name, "core");
    assert_eq!(decide(&map, "core", with(&["green"])).unwrap(), []);
    done(&mut map, "edge", RouterChange::Create);
    let taken = refused(&map, "edge", with(&["green"]));
    assert_eq!(taken.code, "on_router");
    assert!(taken.message.contains("core"), "{taken}");
    for (names, code) in [(&["lab"][..], "no_subnet"), (&["nope"], "unknown_network")] {
        assert_eq!(refused(&map, "edge", with(names)).code, code);
    }
    let code = refused(&map, "edge", without(&["blue"])).code;
    assert_eq!(code, "not_on_router");
    done(&mut map, "core", without(&["blue"]));
    done(&mut map, "edge", with(&["blue"]));
    assert_eq!(map.router_of(&blue).unwrap().name, "edge");
}

#[test]
fn networks_with_the_same_addresses_never_meet() {
    let mut map = map();
    done(&mut map, "core", with(&["blue"]));
    // As a store may have them that a later weft wrote.
    let mut twin = map.network_named("green").unwrap().clone();
    twin.subnets[0].cidr = "10.32.128.0/17".parse().unwrap();
    apply(&mut map, vec![Change::Put(Object::Network(twin))]);
    let refusal = refused(&map, "core", with(&["green"]));
    assert_eq!(refusal.code, "subnet_overlaps");
    assert!(refusal.message.contains("blue"), "{refusal}");
}

#[test]
fn what_is_encrypted_is_not_routed_into_the_clear() {
    let mut map = map();
    done(&mut map, "core", with(&["blue"]));
    let mut secret = map.network_named("green").unwrap().clone();
    secret.transport = Transport::Quic;
    apply(&mut map, vec![Change::Put(Object::Network(secret))]);
    let code = refused(&map, "core", with(&["green"])).code;
    assert_eq!(code, "mixed_encryption");
}

#[test]
fn a_route_leads_to_a_host_of_a_network_of_the_router() {
    let mut map = map();
    done(&mut map, "core", with(&["blue", "green"]));
    done(&mut map, "core", to("10.50.0.0/16", "10.33.0.7"));
    done(&mut map, "core", to("0.0.0.0/0", "10.32.0.9"));
    done(&mut map, "core", to("fd50::/48", "fd32::9"));
    done(&mut map, "core", to("10.50.0.0/16", "10.33.0.8"));
    let routes = &map.router_named("core").unwrap().routes;
    let shown: Vec<String> = routes
        .iter()
        .map(|route| format!("{} {}", route.prefix, route.via))
        .collect();
    assert_eq!(
        shown,
        [
            "0.0.0.0/0 10.32.0.9",
            "10.50.0.0/16 10.33.0.8",
            "fd50::/48 fd32::9"
        ]
    );
    for (prefix, via, code) in [
        ("10.50.1.0/16", "10.33.0.7", "bad_route"),
        ("10.51.0.0/16", "10.34.0.7", "bad_route"),
        ("10.51.0.0/16", "fd32::9", "bad_route"),
        ("10.51.0.0/16", "10.33.0.1", "bad_route"),
        ("10.51.0.0/16", "10.33.0.0", "bad_route"),
        ("10.32.7.0/24", "10.33.0.7", "subnet_overlaps"),
        ("10.32.0.0/16", "10.33.0.7", "subnet_overlaps"),
    ] {
        let refusal = refused(&map, "core", to(prefix, via));
        assert_eq!(refusal.code, code, "{prefix} via {via}");
    }
    assert_eq!(
        refused(&map, "core", without(&["green"])).code,
        "route_in_use"
    );
    done(&mut map, "core", not_to("10.50.0.0/16"));
    done(&mut map, "core", without(&["green"]));
    let again = refused(&map, "core", not_to("10.50.0.0/16"));
    assert_eq!(again.code, "unknown_route");
}

#[test]
fn a_network_that_lies_around_a_route_is_not_connected() {
    let mut map = map();
    done(&mut map, "core", with(&["green"]));
    done(&mut map, "core", to("10.32.7.0/24", "10.33.0.7"));
    let refusal = refused(&map, "core", with(&["blue"]));
    assert_eq!(refusal.code, "subnet_overlaps");
}

#[test]
fn a_network_on_a_router_is_in_use() {
    let mut map = map();
    done(&mut map, "core", with(&["blue"]));
    let refusal = network::remove(&map, "blue").unwrap_err();
    assert_eq!(refusal.code, "network_in_use");
    assert!(refusal.message.contains("core"), "{refusal}");
    let (_, gone) = network::prune(&map);
    assert_eq!(gone, ["green", "lab"]);
    done(&mut map, "core", without(&["blue"]));
    assert!(network::remove(&map, "blue").is_ok());
}
