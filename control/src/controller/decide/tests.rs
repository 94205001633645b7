//! The rules, without store, network or clock.

use std::collections::BTreeMap;

use weft_wire::{MacAddr, Mtu, Vni};

use super::block::{Claim, allocate, claim, grant, unused_claims};
use super::*;
use crate::api::{NetworkChange, NetworkCreate};
use crate::channel::NodeFacts;
use crate::model::{Block, Change, EndpointId, Node, Object, Transport, next_epoch};

mod model;

pub(super) fn apply(map: &mut ClusterMap, changes: Vec<Change>) {
    for change in changes {
        map.apply(map.revision + 1, change);
    }
}

pub(super) fn node_id(number: usize) -> NodeId {
    NodeId(format!("{number:032x}"))
}

fn facts(underlay: &str) -> NodeFacts {
    NodeFacts {
        underlay: underlay.parse().unwrap(),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "test".to_owned(),
    }
}

/// Three nodes: n0, n1, n2.
pub(super) fn cluster() -> ClusterMap {
    let mut map = ClusterMap::default();
    for number in 0..3 {
        let (name, at) = (
            format!("n{number}"),
            facts(&format!("192.0.2.{}", number + 1)),
        );
        let changes = node::join(&map, &node_id(number), (&name, &at)).unwrap();
        apply(&mut map, changes);
    }
    map
}

pub(super) fn wish(name: &str, subnets: &[&str]) -> NetworkCreate {
    let subnets = subnets
        .iter()
        .map(|subnet| subnet.parse().unwrap())
        .collect();
    NetworkCreate {
        name: name.to_owned(),
        subnets,
        ..NetworkCreate::default()
    }
}

fn create(map: &mut ClusterMap, wish: &NetworkCreate) -> Decision<Network> {
    let changes = network::create(map, wish, NetworkId(format!("id-{}", wish.name)))?;
    apply(map, changes);
    Ok(map.network_named(&wish.name).unwrap().clone())
}

fn refused(map: &ClusterMap, wish: &NetworkCreate) -> Refusal {
    network::create(map, wish, NetworkId("new".to_owned())).unwrap_err()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn endpoint(network: &Network, node: usize, (name, ips): (&str, &[IpAddr])) -> Endpoint {
    Endpoint {
        id: EndpointId(format!("{node}-{name}")),
        network: network.id.clone(),
        node: node_id(node),
        name: name.to_owned(),
        aliases: Vec::new(),
        mac: MacAddr([
            2,
            0,
            0,
            u8::try_from(node).unwrap(),
            name.as_bytes()[0],
            u8::try_from(name.len()).unwrap(),
        ]),
        ips: ips.to_vec(),
        epoch: 1,
    }
}

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
    assert_eq!(
        unused_claims(&map, None),
        [(network.id.clone(), single(ip("10.0.0.10")))]
    );
    assert!(unused_claims(&map, Some(&node_id(0))).is_empty());
}

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
        endpoint::delete(&map, &node_id(0), &other.id)
            .unwrap()
            .is_empty(),
        "unknown is fine"
    );
    assert_eq!(
        endpoint::delete(&map, &node_id(1), &good.id)
            .unwrap_err()
            .code,
        "foreign_endpoint"
    );
}

#[test]
fn a_node_has_its_name_and_underlay_for_itself() {
    let mut map = cluster();
    let join =
        |map: &ClusterMap, number, name, at| node::join(map, &node_id(number), (name, &facts(at)));
    assert_eq!(
        join(&map, 7, "n1", "192.0.2.9").unwrap_err().code,
        "node_name_taken"
    );
    assert_eq!(
        join(&map, 7, "n7", "192.0.2.2").unwrap_err().code,
        "underlay_taken"
    );
    for bad in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
        assert_eq!(
            join(&map, 7, "n7", bad).unwrap_err().code,
            "bad_underlay",
            "{bad}"
        );
    }
    assert!(join(&map, 1, "n1", "192.0.2.2").unwrap().is_empty());
    let update = |map: &ClusterMap, number, at| node::update(map, &node_id(number), &facts(at));
    assert_eq!(
        update(&map, 1, "192.0.2.3").unwrap_err().code,
        "underlay_taken"
    );
    assert_eq!(
        update(&map, 7, "192.0.2.9").unwrap_err().code,
        "node_removed"
    );
    let changes = update(&map, 1, "192.0.2.77").unwrap();
    apply(&mut map, changes);
    assert_eq!(map.node_named("n1").unwrap().underlay, ip("192.0.2.77"));
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
fn a_member_whose_address_an_old_controller_let_a_subnet_contain_is_not_locked_out() {
    let mut map = ClusterMap::default();
    let old = create(&mut map, &wish("blue", &["192.0.2.0/24"])).unwrap();
    let at = facts("192.0.2.1");
    let node = Node {
        id: node_id(0),
        name: "n0".to_owned(),
        underlay: at.underlay,
        underlay_mtu: at.underlay_mtu,
        vxlan_port: at.vxlan_port,
        encrypted_port: at.encrypted_port,
        transports: at.transports.clone(),
        version: "old".to_owned(),
    };
    apply(&mut map, vec![Change::Put(Object::Node(node))]);
    assert_eq!(node::update(&map, &node_id(0), &at).unwrap().len(), 1);
    assert!(old.subnet_of(at.underlay).is_some());
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
    let sync = endpoint::sync(&map, &node_id(1), std::slice::from_ref(&new));
    assert_eq!(sync.rejected, []);
    apply(&mut map, sync.changes);
    assert_eq!(map.endpoints_of(&network.id).collect::<Vec<_>>(), [&new]);
    assert_eq!(map.block_of(&network.id, claimed).unwrap().node, node_id(1));
    // With its last user the claim goes.
    let sync = endpoint::sync(&map, &node_id(1), &[]);
    apply(&mut map, sync.changes);
    assert_eq!(map.block_of(&network.id, claimed).unwrap().node, node_id(0));
}

#[test]
fn addresses_in_use_stay_with_their_node_when_the_store_was_set_back() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    // Its block was given after the copy was made that is the store now.
    let ours = endpoint(&network, 0, ("ours", &[ip("10.0.0.9")]));
    let sync = endpoint::sync(&map, &node_id(0), std::slice::from_ref(&ours));
    assert_eq!(sync.rejected, []);
    apply(&mut map, sync.changes);
    assert_eq!(
        map.block_of(&network.id, ip("10.0.0.9")).unwrap().node,
        node_id(0)
    );
    // What another node says it has of that is refused as ever.
    let theirs = endpoint(&network, 1, ("theirs", &[ip("10.0.0.9")]));
    let sync = endpoint::sync(&map, &node_id(1), &[theirs]);
    assert_eq!(sync.rejected[0].1.code, "ip_taken");
    assert!(sync.changes.is_empty());
    let outside = endpoint(&network, 1, ("outside", &[ip("10.9.0.9")]));
    let sync = endpoint::sync(&map, &node_id(1), &[outside]);
    assert_eq!(sync.rejected[0].1.code, "bad_ip");
}

#[test]
fn what_a_node_says_of_itself_is_short_and_printable() {
    let mut map = cluster();
    let network = create(&mut map, &wish("n", &["10.0.0.0/16"])).unwrap();
    let mut at = facts("192.0.2.1");
    for version in ["x".repeat(65), "1.0\u{1b}[2J".to_owned(), "1\n2".to_owned()] {
        at.version = version;
        let refusal = node::update(&map, &node_id(0), &at).unwrap_err();
        assert_eq!(refusal.code, "bad_request");
    }
    at.version = "1.0.0-rc1+abc".to_owned();
    node::update(&map, &node_id(0), &at).unwrap();
    at.transports = vec![Transport::Vxlan; 9];
    node::update(&map, &node_id(0), &at).unwrap_err();
    let mut long = endpoint(&network, 0, ("long", &[]));
    long.id = EndpointId("e".repeat(1 << 20));
    let refusal = endpoint::put(&map, &node_id(0), &long).unwrap_err();
    assert_eq!(refusal.code, "bad_name");
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

#[test]
fn a_node_has_its_session_at_the_controller_that_it_entered_last() {
    let mut map = cluster();
    let id = node_id(1);
    for controller in ["one", "two", "one"] {
        let changes = node::enter(&map, &id, controller);
        assert_eq!(changes.len(), 1);
        apply(&mut map, changes);
        assert!(node::has_session(&map, &id, controller));
        assert!(node::enter(&map, &id, controller).is_empty());
    }
    assert!(!node::has_session(&map, &id, "two"));
    let (changes, _) = node::remove(&map, &node_id(0), "n1").unwrap();
    apply(&mut map, changes);
    assert!(!node::has_session(&map, &id, "one"));
}

#[test]
fn epochs_grow_and_no_two_nodes_give_the_same() {
    let epoch = |node: usize, newest, revision| next_epoch(&node_id(node), newest, revision);
    assert!(epoch(1, 0, 7) > epoch(1, 0, 6));
    assert!(epoch(1, epoch(1, 0, 7), 7) > epoch(1, 0, 7));
    // Newer than all that another node can have given at an older revision.
    assert!(epoch(2, 0, 8) > epoch(1, 0, 7));
    let of_nodes: std::collections::BTreeSet<u64> =
        (0..1000).map(|node| epoch(node, 0, 7)).collect();
    assert_eq!(of_nodes.len(), 1000);
}
