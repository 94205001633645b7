use weft_wire::MacAddr;

use super::*;
use crate::api::NetworkCreate;
use crate::model::{EndpointId, NetworkId, NodeId};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wish(name: &str, subnet: &str) -> Wish {
    Wish {
        create: NetworkCreate {
            name: name.to_owned(),
            subnets: vec![net(subnet)],
            ..NetworkCreate::default()
        },
        encrypted: None,
        internal: None,
        isolate: None,
        gateway: false,
    }
}

fn endpoint(id: &str) -> EndpointEntry {
    EndpointEntry {
        network: "n1".to_owned(),
        endpoint: Endpoint {
            id: EndpointId(id.to_owned()),
            network: NetworkId("1".to_owned()),
            node: NodeId("2".to_owned()),
            name: id.to_owned(),
            aliases: Vec::new(),
            mac: MacAddr::ZERO,
            ips: vec![ip("10.40.0.2")],
            epoch: 1,
        },
        joined: false,
        since: 100,
    }
}

#[test]
fn an_address_is_dockers_from_request_to_release() {
    let mut ledger = Ledger::default();
    let pool = ledger.open_pool(net("10.40.0.0/16"), None, 100);
    assert!(ledger.hold(&pool, ip("10.40.0.9"), 100));
    assert!(!ledger.hold(&pool, ip("10.40.0.9"), 100), "twice");
    assert!(!ledger.hold("other", ip("10.40.0.9"), 100), "no such pool");
    assert_eq!(ledger.held().count(), 0, "of no network yet");
    ledger.add_network("n1", wish("shop", "10.40.0.0/16"), 100);
    let held: Vec<_> = ledger.held().collect();
    assert_eq!(held, [("shop", ip("10.40.0.9"))]);
    ledger.release(&pool, ip("10.40.0.9"));
    ledger.release("other", ip("10.40.0.9"));
    assert_eq!(ledger.held().count(), 0);
    assert!(ledger.hold(&pool, ip("10.40.0.9"), 100));
    ledger.close_pool(&pool);
    assert_eq!(ledger.held().count(), 0);
}

#[test]
fn a_network_gets_the_newest_pool_of_its_range() {
    let mut ledger = Ledger::default();
    let range = net("10.40.0.0/16");
    let dead = ledger.open_pool(range, Some(net("10.40.1.0/24")), 100);
    let first = ledger.open_pool(range, Some(net("10.40.8.0/24")), 101);
    assert_eq!(ledger.wished_ranges(&[range]), [net("10.40.8.0/24")]);
    ledger.add_network("n1", wish("shop", "10.40.0.0/16"), 101);
    assert_eq!(
        ledger.pool(&first).unwrap().network.as_deref(),
        Some("shop")
    );
    assert_eq!(ledger.pool(&dead).unwrap().network, None);
    // A second Docker network on the same overlay has a pool of its own.
    let second = ledger.open_pool(range, None, 102);
    assert_ne!(first, second);
    ledger.add_network("n2", wish("shop", "10.40.0.0/16"), 102);
    assert_eq!(
        ledger.pool(&second).unwrap().network.as_deref(),
        Some("shop")
    );
    ledger.remove_network("n1");
    assert!(ledger.wish_of("shop").is_some());
    ledger.remove_network("n2");
    assert!(ledger.wish_of("shop").is_none());
}

#[test]
fn what_docker_forgot_is_found_when_it_is_old_enough() {
    let mut ledger = Ledger::default();
    let kept = ledger.open_pool(net("10.40.0.0/16"), None, 100);
    ledger.add_network("n1", wish("shop", "10.40.0.0/16"), 100);
    let lost = ledger.open_pool(net("10.41.0.0/16"), None, 100);
    ledger.add_network("n2", wish("lost", "10.41.0.0/16"), 100);
    let never = ledger.open_pool(net("10.42.0.0/16"), None, 100);
    ledger.add_endpoint("e1", endpoint("1"));
    ledger.add_endpoint("e2", endpoint("2"));
    let known = Known {
        networks: BTreeSet::from(["n1".to_owned()]),
        endpoints: BTreeSet::from(["e1".to_owned()]),
    };
    assert_eq!(
        ledger.forgotten(&known, 100),
        Forgotten::default(),
        "too young"
    );
    let forgotten = ledger.forgotten(&known, 101);
    assert_eq!(forgotten.endpoints, ["e2"]);
    assert_eq!(forgotten.networks, ["n2"]);
    assert_eq!(forgotten.pools, [lost, never]);
    assert!(!forgotten.pools.contains(&kept));
}

#[test]
fn an_address_without_an_endpoint_is_forgotten_in_time() {
    let mut ledger = Ledger::default();
    assert!(ledger.is_empty());
    let pool = ledger.open_pool(net("10.40.0.0/16"), None, 100);
    let (aux, used, lone) = (ip("10.40.0.7"), ip("10.40.0.2"), ip("10.40.0.3"));
    assert!(ledger.hold(&pool, aux, 100));
    ledger.add_network("n1", wish("shop", "10.40.0.0/16"), 100);
    assert!(!ledger.is_empty(), "dockerd asks for its networks too");
    assert!(ledger.hold(&pool, used, 100) && ledger.hold(&pool, lone, 110));
    ledger.add_endpoint("e1", endpoint("1"));
    let known = Known {
        networks: BTreeSet::from(["n1".to_owned()]),
        endpoints: BTreeSet::from(["e1".to_owned()]),
    };
    let forgotten = |ledger: &Ledger, before| ledger.forgotten(&known, before).addresses;
    assert_eq!(forgotten(&ledger, 110), [], "too young");
    assert_eq!(forgotten(&ledger, 111), [(pool.clone(), lone)]);
    ledger.release(&pool, lone);
    assert_eq!(forgotten(&ledger, 111), []);
    // Docker gives an address back just after its endpoint: it isn't given to another in between.
    ledger.remove_endpoint("e1", 200);
    assert_eq!(forgotten(&ledger, 200), []);
    assert_eq!(forgotten(&ledger, 201), [(pool.clone(), used)]);
    // What an agent wrote that kept no such ages stays as it is.
    ledger.release(&pool, used);
    let text = serde_json::to_string(&ledger).unwrap();
    assert!(!text.contains("held_since"), "{text}");
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    assert_eq!(ledger.held().count(), 1, "--aux-address is kept");
}

#[test]
fn it_is_the_same_after_being_written_and_read() {
    let mut ledger = Ledger::default();
    let pool = ledger.open_pool(net("10.40.0.0/16"), Some(net("10.40.8.0/24")), 100);
    ledger.add_network("n1", wish("shop", "10.40.0.0/16"), 100);
    ledger.hold(&pool, ip("10.40.8.9"), 100);
    ledger.add_endpoint("e1", endpoint("1"));
    ledger.note_joined("e1");
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    assert!(ledger.endpoint("e1").unwrap().joined);
    ledger.release_everywhere(&[ip("10.40.8.9")]);
    assert_eq!(ledger.held().count(), 0);
    assert_eq!(
        ledger.remove_endpoint("e1", 100).map(|entry| entry.since),
        Some(100)
    );
    assert_eq!(ledger.endpoints().count(), 0);
}

#[test]
fn the_overlay_that_a_range_was_asked_of_counts_until_its_network_is_made() {
    let mut ledger = Ledger::default();
    let (v4, v6) = (net("10.40.0.0/16"), net("fd40::/64"));
    let older = ledger.open_pool(v4, None, 100);
    ledger.note_asked_of(&older, "old".to_owned());
    let plain = ledger.open_pool(v4, None, 101);
    assert_eq!(ledger.asked_of(&[v4]), None, "the newest counts");
    ledger.close_pool(&plain);
    let pool = ledger.open_pool(v6, None, 102);
    ledger.note_asked_of(&pool, "shop".to_owned());
    assert_eq!(ledger.asked_of(&[v6]).as_deref(), Some("shop"));
    assert_eq!(ledger.asked_of(&[v4, v6]).as_deref(), Some("old"));
    assert_eq!(ledger.asked_of(&[]), None);
    let text = serde_json::to_string(&ledger).unwrap();
    assert_eq!(serde_json::from_str::<Ledger>(&text).unwrap(), ledger);
    ledger.add_network("n1", wish("shop", "fd40::/64"), 102);
    assert_eq!(ledger.asked_of(&[v6]), None);
    // What an agent wrote that knew nothing of it.
    let before = text
        .replace(r#","asked_of":"shop""#, "")
        .replace(r#","asked_of":"old""#, "");
    assert!(!before.contains("asked_of"), "{before}");
    let before: Ledger = serde_json::from_str(&before).unwrap();
    assert_eq!(before.asked_of(&[v4, v6]), None);
}
