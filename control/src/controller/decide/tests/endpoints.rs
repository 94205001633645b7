use super::super::endpoint::Claims;
use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn an_endpoint_is_refused_for_what_is_wrong_with_it() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    let plain = create(&mut map, &wish("l2", &[])).unwrap();
    let of = (&network.id, network.subnets[0].cidr);
    for number in 0..2 {
        let (changes, _) = allocate(&map, &node_id(number), of).unwrap();
        apply(&mut map, changes);
    }
    let good = endpoint(&network, 0, ("good", &[ip("10.0.0.9")]));
    let changes = endpoint::put(&map, &node_id(0), &good).unwrap();
    apply(&mut map, changes);
    assert!(
        endpoint::put(&map, &node_id(0), &good).unwrap().is_empty(),
        "once more is fine"
    );
    let other = endpoint(&network, 0, ("other", &[ip("10.0.0.10")]));
    for (endpoint, code) in [
        (
            Endpoint {
                name: "good".to_owned(),
                ..other.clone()
            },
            "name_taken",
        ),
        (
            Endpoint {
                mac: good.mac,
                ..other.clone()
            },
            "mac_taken",
        ),
        (
            Endpoint {
                ips: good.ips.clone(),
                ..other.clone()
            },
            "ip_taken",
        ),
        (
            Endpoint {
                ips: vec![ip("10.0.0.70")],
                ..other.clone()
            },
            "foreign_block",
        ),
        (
            Endpoint {
                ips: vec![ip("10.0.9.70")],
                ..other.clone()
            },
            "foreign_block",
        ),
        (
            Endpoint {
                ips: vec![ip("10.0.0.1")],
                ..other.clone()
            },
            "bad_ip",
        ),
        (
            Endpoint {
                ips: vec![ip("10.0.0.8"); 2],
                ..other.clone()
            },
            "bad_ip",
        ),
        (
            Endpoint {
                network: plain.id.clone(),
                ..other.clone()
            },
            "bad_ip",
        ),
        (
            Endpoint {
                network: NetworkId("x".to_owned()),
                ..other.clone()
            },
            "unknown_network",
        ),
        (
            Endpoint {
                mac: MacAddr([0xff; 6]),
                ..other.clone()
            },
            "bad_mac",
        ),
        (
            Endpoint {
                mac: MacAddr::ZERO,
                ..other.clone()
            },
            "bad_mac",
        ),
        (
            Endpoint {
                name: "no space".to_owned(),
                ..other.clone()
            },
            "bad_name",
        ),
        (
            Endpoint {
                aliases: vec![String::new()],
                ..other.clone()
            },
            "bad_name",
        ),
        (
            Endpoint {
                aliases: vec!["a".to_owned(); 65],
                ..other.clone()
            },
            "bad_request",
        ),
        (
            Endpoint {
                node: node_id(1),
                ..other.clone()
            },
            "foreign_endpoint",
        ),
    ] {
        let refusal = endpoint::put(&map, &node_id(0), &endpoint).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
    }
    assert!(
        endpoint::delete(&map, &node_id(0), (&other.id, Claims::Stay))
            .unwrap()
            .is_empty(),
        "unknown is fine"
    );
    assert_eq!(
        endpoint::delete(&map, &node_id(1), (&good.id, Claims::Stay))
            .unwrap_err()
            .code,
        "foreign_endpoint"
    );
}

#[test]
fn a_report_keeps_the_claim_that_a_new_endpoint_uses_in_the_place_of_an_old_one() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    let of = (&network.id, network.subnets[0].cidr);
    let (changes, _) = allocate(&map, &node_id(0), of).unwrap();
    apply(&mut map, changes);
    let claimed = ip("10.0.0.10");
    let (changes, _) = grant(&network.id, &node_id(1), claimed);
    apply(&mut map, changes);
    let old = endpoint(&network, 1, ("web", &[claimed]));
    let changes = endpoint::put(&map, &node_id(1), &old).unwrap();
    apply(&mut map, changes);
    // Connected anew as what it was, while nobody could be told.
    let mut new = old.clone();
    new.id = EndpointId("1-web-again".to_owned());
    let sync = endpoint::sync(&map, &node_id(1), (std::slice::from_ref(&new), Claims::Go));
    assert_eq!(sync.rejected, []);
    apply(&mut map, sync.changes);
    assert_eq!(map.endpoints_of(&network.id).collect::<Vec<_>>(), [&new]);
    assert_eq!(map.block_of(&network.id, claimed).unwrap().node, node_id(1));
    // With its last user the claim goes, unless the node gives claims back itself.
    let owner = |map: &ClusterMap, gone: Vec<Change>| {
        let mut after = map.clone();
        apply(&mut after, gone);
        assert_eq!(after.endpoints.len(), 0);
        after.block_of(&network.id, claimed).unwrap().node.clone()
    };
    for (claims, then) in [(Claims::Go, node_id(0)), (Claims::Stay, node_id(1))] {
        let sync = endpoint::sync(&map, &node_id(1), (&[], claims));
        assert_eq!(owner(&map, sync.changes), then);
        let gone = endpoint::delete(&map, &node_id(1), (&new.id, claims)).unwrap();
        assert_eq!(owner(&map, gone), then);
    }
}

#[test]
fn addresses_in_use_stay_with_their_node_when_the_store_was_set_back() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    // Its block was given after the copy was made that is the store now.
    let ours = endpoint(&network, 0, ("ours", &[ip("10.0.0.9")]));
    let sync = endpoint::sync(&map, &node_id(0), (std::slice::from_ref(&ours), Claims::Go));
    assert_eq!(sync.rejected, []);
    apply(&mut map, sync.changes);
    assert_eq!(
        map.block_of(&network.id, ip("10.0.0.9")).unwrap().node,
        node_id(0)
    );
    // What another node says it has of that is refused as ever.
    let theirs = endpoint(&network, 1, ("theirs", &[ip("10.0.0.9")]));
    let sync = endpoint::sync(&map, &node_id(1), (&[theirs], Claims::Go));
    assert_eq!(sync.rejected[0].1.code, "ip_taken");
    assert!(sync.changes.is_empty());
    let outside = endpoint(&network, 1, ("outside", &[ip("10.9.0.9")]));
    let sync = endpoint::sync(&map, &node_id(1), (&[outside], Claims::Go));
    assert_eq!(sync.rejected[0].1.code, "bad_ip");
}
