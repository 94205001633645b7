use super::*;

#[test]
fn a_network_gets_the_first_gateway_and_the_lowest_free_vni() {
    let mut map = cluster();
    let blue = create(&mut map, &wish("blue", &["10.32.0.0/16", "fd32::/64"])).unwrap();
    assert_eq!(blue.vni, Vni::new(4096).unwrap());
    assert_eq!(
        [blue.subnets[0].gateway, blue.subnets[1].gateway],
        [ip("10.32.0.1"), ip("fd32::1")]
    );
    assert_eq!(
        (blue.ageing_secs, blue.mtu, blue.transport),
        (300, None, Transport::Vxlan)
    );
    let red = create(
        &mut map,
        &NetworkCreate {
            vni: Vni::new(4097).ok(),
            ..wish("red", &[])
        },
    )
    .unwrap();
    assert!(red.is_plain_l2());
    assert_eq!(
        create(&mut map, &wish("green", &[])).unwrap().vni,
        Vni::new(4098).unwrap()
    );
    let changes = network::remove(&map, "blue").unwrap();
    apply(&mut map, changes);
    assert_eq!(
        create(&mut map, &wish("grey", &["10.32.0.0/16"]))
            .unwrap()
            .vni,
        Vni::new(4096).unwrap()
    );
}

#[test]
fn bad_subnets_are_refused_saying_what_was_meant() {
    let mut map = cluster();
    create(&mut map, &wish("blue", &["10.32.0.0/16", "fd32::/64"])).unwrap();
    for (subnets, code, says) in [
        (
            vec!["10.1.2.3/16"],
            "bad_subnet",
            "did you mean 10.1.0.0/16",
        ),
        (vec!["fd01::1/64"], "bad_subnet", "did you mean fd01::/64"),
        (vec!["10.1.0.0/31"], "bad_subnet", "/30"),
        (vec!["10.1.0.0/32"], "bad_subnet", "/30"),
        (vec!["fd01::/127"], "bad_subnet", "/126"),
        (vec!["127.0.0.0/24"], "bad_subnet", "loopback"),
        (vec!["224.1.0.0/16"], "bad_subnet", "multicast"),
        (vec!["169.254.7.0/24"], "bad_subnet", "link-local"),
        (vec!["0.0.0.0/0"], "bad_subnet", "this network"),
        (vec!["::/0"], "bad_subnet", "unspecified"),
        (vec!["fe80::/64"], "bad_subnet", "link-local"),
        (vec!["ff02::/64"], "bad_subnet", "multicast"),
        (
            vec!["10.32.5.0/24"],
            "subnet_overlaps",
            "10.32.0.0/16 of network blue",
        ),
        (vec!["10.0.0.0/8"], "subnet_overlaps", "network blue"),
        (vec!["fd32::/48"], "subnet_overlaps", "network blue"),
        (
            vec!["10.1.0.0/16", "10.1.7.0/24"],
            "subnet_overlaps",
            "same network",
        ),
    ] {
        let refusal = refused(&map, &wish("n", &subnets));
        assert_eq!(refusal.code, code, "{subnets:?}");
        assert!(refusal.to_string().contains(says), "{refusal}");
    }
    let many: Vec<String> = (0..17)
        .map(|number| format!("10.1.{number}.0/24"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&map, &wish("n", &many)).code, "bad_subnet");
    create(&mut map, &wish("ok", &["10.1.0.0/30", "fd01::/126"])).unwrap();
}

#[test]
fn gateways_and_ip_ranges_belong_to_a_subnet() {
    let mut map = cluster();
    let base = || wish("n", &["10.1.0.0/24", "fd01::/64"]);
    let gateways = |list: &[&str]| NetworkCreate {
        gateways: list.iter().map(|text| ip(text)).collect(),
        ..base()
    };
    for list in [
        &["10.1.0.0"][..],
        &["10.1.0.255"],
        &["10.2.0.1"],
        &["fd01::"],
        &["10.1.0.5", "10.1.0.6"],
    ] {
        assert_eq!(
            refused(&map, &gateways(list)).code,
            "bad_gateway",
            "{list:?}"
        );
    }
    let ranges = |list: &[&str]| NetworkCreate {
        ip_ranges: list.iter().map(|text| text.parse().unwrap()).collect(),
        ..base()
    };
    for list in [
        &["10.1.0.9/28"][..],
        &["10.2.0.0/28"],
        &["10.1.0.0/16"],
        &["10.1.0.0/31"],
        &["10.1.0.0/28", "10.1.0.32/28"],
    ] {
        assert_eq!(
            refused(&map, &ranges(list)).code,
            "bad_ip_range",
            "{list:?}"
        );
    }
    let both = NetworkCreate {
        ip_ranges: vec!["10.1.0.128/25".parse().unwrap()],
        gateways: vec![ip("10.1.0.254")],
        ..base()
    };
    let network = create(&mut map, &both).unwrap();
    assert_eq!(network.subnets[0].pool(), "10.1.0.128/25".parse().unwrap());
    assert_eq!(network.subnets[0].gateway, ip("10.1.0.254"));
    assert_eq!(network.subnets[1].gateway, ip("fd01::1"));
    let orphan = NetworkCreate {
        gateways: vec![ip("10.1.0.1")],
        ..wish("l2", &[])
    };
    assert_eq!(refused(&map, &orphan).code, "bad_gateway");
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn what_a_network_cannot_be_is_refused() {
    let mut map = cluster();
    create(
        &mut map,
        &NetworkCreate {
            vni: Vni::new(7).ok(),
            ..wish("blue", &["fd32::/64"])
        },
    )
    .unwrap();
    let small = Mtu::new(1279).ok();
    for (wish, code) in [
        (wish("blue", &[]), "name_taken"),
        (wish("no/slash", &[]), "bad_name"),
        (wish("", &[]), "bad_name"),
        (
            NetworkCreate {
                encrypted: true,
                ..wish("n", &[])
            },
            "unsupported",
        ),
        (
            NetworkCreate {
                vni: Vni::new(7).ok(),
                ..wish("n", &[])
            },
            "vni_taken",
        ),
        (
            NetworkCreate {
                mtu: small,
                ..wish("n", &["fd01::/64"])
            },
            "bad_mtu",
        ),
        (
            NetworkCreate {
                ageing_secs: Some(0),
                ..wish("n", &[])
            },
            "bad_ageing",
        ),
        (
            NetworkCreate {
                ageing_secs: Some(1_000_001),
                ..wish("n", &[])
            },
            "bad_ageing",
        ),
    ] {
        let refusal = refused(&map, &wish);
        assert_eq!(refusal.code, code);
        assert!(code == "bad_name" || refusal.hint.is_some(), "{refusal:?}");
    }
    create(
        &mut map,
        &NetworkCreate {
            mtu: small,
            ..wish("v4", &["10.1.0.0/16"])
        },
    )
    .unwrap();
    let change = |mtu, ageing_secs| NetworkChange {
        mtu,
        ageing_secs,
        egress: None,
    };
    assert_eq!(
        network::change(&map, "blue", &change(small, None))
            .unwrap_err()
            .code,
        "bad_mtu"
    );
    assert_eq!(
        network::change(&map, "blue", &change(None, Some(0)))
            .unwrap_err()
            .code,
        "bad_ageing"
    );
    assert_eq!(
        network::change(&map, "gone", &change(None, None))
            .unwrap_err()
            .code,
        "unknown_network"
    );
    assert!(
        network::change(&map, "blue", &change(None, Some(300)))
            .unwrap()
            .is_empty()
    );
    let changes = network::change(&map, "blue", &change(Some(Mtu::IPV6_MIN), Some(9))).unwrap();
    apply(&mut map, changes);
    let blue = map.network_named("blue").unwrap();
    assert_eq!((blue.mtu, blue.ageing_secs), (Some(Mtu::IPV6_MIN), 9));
}

#[test]
fn static_vteps_are_single_hosts_that_no_agent_runs() {
    let mut map = cluster();
    create(&mut map, &wish("blue", &[])).unwrap();
    for (address, code) in [
        ("0.0.0.0", "bad_vtep"),
        ("::", "bad_vtep"),
        ("224.0.0.1", "bad_vtep"),
        ("255.255.255.255", "bad_vtep"),
        ("192.0.2.2", "vtep_is_node"),
    ] {
        assert_eq!(
            network::add_vtep(&map, "blue", ip(address))
                .unwrap_err()
                .code,
            code,
            "{address}"
        );
    }
    let changes = network::add_vtep(&map, "blue", ip("192.0.2.99")).unwrap();
    apply(&mut map, changes);
    assert!(
        network::add_vtep(&map, "blue", ip("192.0.2.99"))
            .unwrap()
            .is_empty(),
        "once more is fine"
    );
    // And no node may come where one is.
    let refusal = node::join(&map, &node_id(9), ("n9", &facts("192.0.2.99"))).unwrap_err();
    assert_eq!(refusal.code, "underlay_taken");
    assert_eq!(
        network::remove_vtep(&map, "blue", ip("192.0.2.98"))
            .unwrap_err()
            .code,
        "unknown_vtep"
    );
    let changes = network::remove_vtep(&map, "blue", ip("192.0.2.99")).unwrap();
    apply(&mut map, changes);
    assert!(map.network_named("blue").unwrap().vteps.is_empty());
}

#[test]
fn prune_takes_only_networks_without_endpoints_and_removal_names_at_most_three() {
    let mut map = cluster();
    let used = create(&mut map, &wish("used", &["10.0.0.0/16"])).unwrap();
    create(&mut map, &wish("b", &[])).unwrap();
    create(&mut map, &wish("a", &["10.1.0.0/16"])).unwrap();
    let (changes, block) = allocate(&map, &node_id(0), (&used.id, used.subnets[0].cidr)).unwrap();
    apply(&mut map, changes);
    for (index, at) in block.hosts().skip(2).take(5).enumerate() {
        let endpoint = endpoint(&used, 0, (&"e".repeat(index + 1), &[at]));
        let changes = endpoint::put(&map, &node_id(0), &endpoint).unwrap();
        apply(&mut map, changes);
    }
    let refusal = network::remove(&map, "used").unwrap_err();
    assert_eq!(refusal.code, "network_in_use");
    assert!(refusal.message.ends_with("and 2 more") && refusal.message.contains("(node n0)"));
    let (changes, names) = network::prune(&map);
    assert_eq!(names, ["a", "b"]);
    apply(&mut map, changes);
    assert_eq!(map.networks.len(), 1);
}

#[test]
fn a_subnet_never_contains_the_underlay_address_of_a_node() {
    let mut map = cluster();
    let refusal = refused(&map, &wish("blue", &["10.32.0.0/16", "192.0.2.0/30"]));
    assert_eq!(refusal.code, "underlay_in_subnet");
    for part in ["192.0.2.0/30", "192.0.2.1", "node n0"] {
        assert!(refusal.message.contains(part), "{refusal:?}");
    }
    assert!(refusal.hint.unwrap().contains("--subnet"));
    // Beside it is fine.
    create(&mut map, &wish("blue", &["192.0.2.4/30", "10.32.0.0/16"])).unwrap();
    let at = facts("10.32.0.9");
    let joining = node::join(&map, &node_id(9), ("n9", &at)).unwrap_err();
    let moving = node::update(&map, &node_id(1), &at).unwrap_err();
    for refusal in [joining, moving] {
        assert_eq!(refusal.code, "underlay_in_subnet");
        for part in ["10.32.0.9", "10.32.0.0/16", "network blue"] {
            assert!(refusal.message.contains(part), "{refusal:?}");
        }
        assert!(refusal.hint.unwrap().contains("weft network rm blue"));
    }
}

#[test]
fn a_network_is_encrypted_only_where_all_can_and_stays_so() {
    let mut map = cluster();
    let dark = NetworkCreate {
        encrypted: true,
        ..wish("dark", &["10.32.0.0/16"])
    };
    let able = |number: usize| NodeFacts {
        encrypted_port: Some(4788),
        transports: vec![Transport::Vxlan, Transport::Quic],
        ..facts(&format!("192.0.2.{}", number + 1))
    };
    for number in 0..3 {
        let refusal = refused(&map, &dark);
        assert_eq!(refusal.code, "unsupported");
        assert!(refusal.message.contains("n2"), "{refusal:?}");
        let changes = node::update(&map, &node_id(number), &able(number)).unwrap();
        apply(&mut map, changes);
    }
    let dark = create(&mut map, &dark).unwrap();
    assert!(dark.is_encrypted());
    let refusal = network::add_vtep(&map, "dark", ip("192.0.2.99")).unwrap_err();
    assert_eq!(refusal.code, "encrypted");
    // One comes back that can't any more.
    let changes = node::update(&map, &node_id(1), &facts("192.0.2.2")).unwrap();
    apply(&mut map, changes);
    let unable = endpoint(&dark, 1, ("c", &[]));
    let refusal = endpoint::put(&map, &node_id(1), &unable).unwrap_err();
    assert_eq!(refusal.code, "unsupported");
    let fine = endpoint(&dark, 2, ("c", &[]));
    assert!(endpoint::put(&map, &node_id(2), &fine).is_ok());
    for port in [Some(0), Some(4789)] {
        let facts = NodeFacts {
            encrypted_port: port,
            ..able(1)
        };
        let refusal = node::update(&map, &node_id(1), &facts).unwrap_err();
        assert_eq!(refusal.code, "bad_port");
    }
}
