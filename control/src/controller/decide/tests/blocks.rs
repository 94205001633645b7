use super::*;

#[test]
fn blocks_have_the_size_that_goes_with_the_pool_and_skip_what_is_unusable() {
    for (subnet, blocks) in [
        ("10.0.0.0/16", ["10.0.0.0/26", "10.0.0.64/26"]),
        ("10.0.0.0/24", ["10.0.0.0/28", "10.0.0.16/28"]),
        // .0 is the network and .1 the gateway.
        ("10.0.0.0/27", ["10.0.0.2/31", "10.0.0.4/31"]),
        ("10.0.0.0/28", ["10.0.0.2/32", "10.0.0.3/32"]),
        ("fd00::/64", ["fd00::/112", "fd00::1:0/112"]),
        ("fd00::/112", ["fd00::/116", "fd00::1000/116"]),
        ("fd00::/124", ["fd00::2/128", "fd00::3/128"]),
    ] {
        let mut map = cluster();
        let network = create(&mut map, &wish("n", &[subnet])).unwrap();
        for (number, expected) in blocks.iter().enumerate() {
            let of = (&network.id, network.subnets[0].cidr);
            let (changes, block) = allocate(&map, &node_id(number), of).unwrap();
            apply(&mut map, changes);
            assert_eq!(block.to_string(), *expected, "{subnet}");
        }
    }
}

#[test]
fn reserved_addresses_are_in_a_subnet_and_nobody_elses() {
    let mut map = cluster();
    let aux = |list: &[(&str, &str)]| NetworkCreate {
        aux_addresses: list
            .iter()
            .map(|(name, address)| ((*name).to_owned(), ip(address)))
            .collect(),
        ..wish("aux", &["10.0.0.0/29", "fd32::/64"])
    };
    for (name, address) in [
        ("router", "10.9.0.1"),
        ("router", "10.0.0.1"),
        ("router", "10.0.0.7"),
        ("router", "fd32::1"),
        ("no/slash", "10.0.0.2"),
    ] {
        let refusal = refused(&map, &aux(&[(name, address)]));
        assert_eq!(refusal.code, "bad_aux_address", "{address}");
        assert!(refusal.hint.is_some());
    }
    let twice = refused(&map, &aux(&[("a", "10.0.0.2"), ("b", "10.0.0.2")]));
    assert!(twice.message.contains("reserved for a"), "{twice}");
    let wish = aux(&[("a", "10.0.0.2"), ("b", "10.0.0.3"), ("c", "fd32::9")]);
    let network = create(&mut map, &wish).unwrap();
    let of_subnet = |index: usize| network.subnets[index].aux_addresses.len();
    assert_eq!((of_subnet(0), of_subnet(1)), (2, 1));
    // Blocks of one address: those that nobody may have aren't given.
    let of = (&network.id, network.subnets[0].cidr);
    let mut given = Vec::new();
    while let Ok((changes, block)) = allocate(&map, &node_id(0), of) {
        apply(&mut map, changes);
        given.push(block.addr());
    }
    assert_eq!(given, [ip("10.0.0.4"), ip("10.0.0.5"), ip("10.0.0.6")]);
    let claimed = block::claim(&map, &node_id(0), (&network.id, ip("10.0.0.3")));
    assert!(claimed.unwrap_err().message.contains("reserved for b"));
}

#[test]
fn an_exhausted_pool_says_who_holds_how_much() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/28"])).unwrap();
    let of = (&network.id, network.subnets[0].cidr);
    let mut count = 0;
    let refusal = loop {
        match allocate(&map, &node_id(count % 2), of) {
            Ok((changes, _)) => apply(&mut map, changes),
            Err(refusal) => break refusal,
        }
        count += 1;
    };
    // All but network, gateway and broadcast.
    assert_eq!(count, 13);
    assert_eq!(refusal.code, "exhausted");
    let held = "n0 7 (0 of 7 addresses in use), n1 6 (0 of 6 addresses in use)";
    assert!(refusal.message.contains(held), "{refusal}");
    let other = (&network.id, "10.9.0.0/16".parse().unwrap());
    assert_eq!(
        allocate(&map, &node_id(0), other).unwrap_err().code,
        "unknown_subnet"
    );
}

#[test]
fn a_block_may_hold_claimed_addresses_but_not_only_those() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/26"])).unwrap();
    let of = (&network.id, network.subnets[0].cidr);
    // .0 to .3 is the first block: .2 and .3 are all that is usable.
    for address in ["10.0.0.2", "10.0.0.3", "10.0.0.5"] {
        let (changes, _) = grant(&network.id, &node_id(1), ip(address));
        apply(&mut map, changes);
    }
    let (changes, block) = allocate(&map, &node_id(0), of).unwrap();
    apply(&mut map, changes);
    assert_eq!(block.to_string(), "10.0.0.4/30");
    assert_eq!(
        map.block_of(&network.id, ip("10.0.0.5")).unwrap().node,
        node_id(1)
    );
    assert_eq!(
        map.block_of(&network.id, ip("10.0.0.6")).unwrap().node,
        node_id(0)
    );
}

#[test]
fn a_claim_is_judged_by_who_has_the_address() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    let of = (&network.id, network.subnets[0].cidr);
    let (changes, block) = allocate(&map, &node_id(0), of).unwrap();
    apply(&mut map, changes);
    let user = endpoint(&network, 0, ("user", &[ip("10.0.0.9")]));
    let changes = endpoint::put(&map, &node_id(0), &user).unwrap();
    apply(&mut map, changes);
    let judge =
        |map: &ClusterMap, node, at: &str| claim(map, &node_id(node), (&network.id, ip(at)));
    assert_eq!(judge(&map, 0, "10.0.0.10"), Ok(Claim::Yours(block)));
    assert_eq!(
        judge(&map, 1, "10.0.0.10"),
        Ok(Claim::Ask {
            owner: node_id(0),
            block
        })
    );
    assert!(matches!(judge(&map, 1, "10.0.9.9"), Ok(Claim::Free(..))));
    let refusal = judge(&map, 1, "10.0.0.9").unwrap_err();
    assert_eq!(refusal.code, "ip_taken");
    assert!(
        refusal.message.contains("endpoint user on node n0"),
        "{refusal}"
    );
    for bad in [
        "10.0.0.0",
        "10.0.0.1",
        "10.0.255.255",
        "10.1.0.1",
        "fd00::1",
    ] {
        assert_eq!(judge(&map, 1, bad).unwrap_err().code, "bad_ip", "{bad}");
    }
    let (changes, _) = grant(&network.id, &node_id(1), ip("10.0.0.10"));
    apply(&mut map, changes);
    assert_eq!(judge(&map, 2, "10.0.0.10").unwrap_err().code, "ip_taken");
    assert!(matches!(judge(&map, 1, "10.0.0.10"), Ok(Claim::Yours(_))));
    let claimed = single(ip("10.0.0.10"));
    let unused = |map: &ClusterMap, node| {
        let unused = node_id(node);
        let unused = map.unused_claims(&unused).map(|of| of.object.prefix);
        unused.collect::<Vec<_>>()
    };
    assert_eq!((unused(&map, 0), unused(&map, 1)), (vec![], vec![claimed]));
    let user = endpoint(&network, 1, ("claimer", &[ip("10.0.0.10")]));
    let changes = endpoint::put(&map, &node_id(1), &user).unwrap();
    apply(&mut map, changes);
    assert!(unused(&map, 1).is_empty());
}

#[test]
fn what_is_given_back_late_is_not_the_same_prefix_that_came_anew() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    let prefix = single(ip("10.0.0.10"));
    let claimed = |map: &mut ClusterMap| {
        let (changes, _) = grant(&network.id, &node_id(1), ip("10.0.0.10"));
        apply(map, changes);
        Some(map.revision)
    };
    let back = |map: &ClusterMap, node, revision| {
        give_back(map, &node_id(node), (&network.id, prefix, revision))
    };
    let first = claimed(&mut map);
    let gone = back(&map, 1, first).unwrap();
    assert_eq!(gone.len(), 1);
    apply(&mut map, gone);
    assert!(back(&map, 1, first).unwrap().is_empty(), "it is gone");
    let second = claimed(&mut map);
    assert!(back(&map, 1, first).unwrap().is_empty(), "another one");
    assert_eq!(back(&map, 1, second).unwrap().len(), 1);
    assert_eq!(
        back(&map, 1, None).unwrap().len(),
        1,
        "an older agent's word"
    );
    for revision in [first, second, None] {
        let refusal = back(&map, 0, revision).unwrap_err();
        assert_eq!(refusal.code, "foreign_block");
    }
}
