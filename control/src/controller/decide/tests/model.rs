//! Whatever nodes ask for in whatever order, the map keeps its promises.

use proptest::prelude::*;

use super::super::endpoint::Claims;
use super::*;

/// What a node may ask, with numbers that stand for nodes, addresses, names and blocks.
#[derive(Clone, Debug)]
enum Step {
    Allocate {
        node: usize,
    },
    Claim {
        node: usize,
        at: u32,
        yields: bool,
    },
    Put {
        node: usize,
        at: u32,
        name: u8,
    },
    Delete {
        node: usize,
        name: u8,
        claims: Claims,
    },
    Sync {
        node: usize,
        claims: Claims,
        keep: u8,
        add: Vec<(u32, u8)>,
    },
    GiveBack {
        node: usize,
        block: usize,
    },
    RemoveNode {
        node: usize,
    },
    Join {
        node: usize,
    },
}

fn steps(addresses: u32) -> impl Strategy<Value = Step> {
    let node = 0..3_usize;
    let at = 0..addresses;
    let name = 0..12_u8;
    let claims = prop_oneof![Just(Claims::Stay), Just(Claims::Go)];
    prop_oneof![
        4 => node.clone().prop_map(|node| Step::Allocate { node }),
        4 => (node.clone(), at.clone(), any::<bool>())
            .prop_map(|(node, at, yields)| Step::Claim { node, at, yields }),
        12 => (node.clone(), at.clone(), name.clone())
            .prop_map(|(node, at, name)| Step::Put { node, at, name }),
        4 => (node.clone(), name.clone(), claims.clone())
            .prop_map(|(node, name, claims)| Step::Delete { node, name, claims }),
        2 => (node.clone(), claims, any::<u8>(), prop::collection::vec((at, name), 0..4))
            .prop_map(|(node, claims, keep, add)| Step::Sync { node, claims, keep, add }),
        2 => (node.clone(), 0..20_usize).prop_map(|(node, block)| Step::GiveBack { node, block }),
        1 => node.clone().prop_map(|node| Step::RemoveNode { node }),
        1 => node.prop_map(|node| Step::Join { node }),
    ]
}

fn address(network: &Network, at: u32) -> IpAddr {
    match network.subnets[0].cidr.network() {
        IpAddr::V4(first) => IpAddr::V4((first.to_bits() + at).into()),
        IpAddr::V6(first) => IpAddr::V6((first.to_bits() + u128::from(at)).into()),
    }
}

fn named(network: &Network, node: usize, (at, name): (u32, u8)) -> Endpoint {
    let text = format!("e{name}");
    let mut endpoint = endpoint(network, node, (&text, &[address(network, at)]));
    // Some MACs are the same.
    endpoint.mac = MacAddr([2, 0, 0, 0, 0, name / 2 + 1]);
    endpoint
}

/// What the controller would do about a step, refusals included; `None` when nothing is asked.
fn decide(map: &ClusterMap, network: &Network, step: &Step) -> Option<Decision<Vec<Change>>> {
    let of = &network.id;
    let member = |node: usize| map.nodes.contains_key(&node_id(node));
    Some(match step {
        Step::Allocate { node } if member(*node) => {
            allocate(map, &node_id(*node), (of, network.subnets[0].cidr))
                .map(|(changes, _)| changes)
        }
        Step::Claim { node, at, yields } if member(*node) => {
            let ip = address(network, *at);
            claim(map, &node_id(*node), (of, ip)).map(|judged| match judged {
                Claim::Free(changes, _) => changes,
                Claim::Ask { .. } if *yields => grant(of, &node_id(*node), ip).0,
                Claim::Ask { .. } | Claim::Yours(_) => Vec::new(),
            })
        }
        Step::Put { node, at, name } if member(*node) => {
            endpoint::put(map, &node_id(*node), &named(network, *node, (*at, *name)))
        }
        Step::Delete { node, name, claims } => {
            let id = named(network, *node, (0, *name)).id;
            endpoint::delete(map, &node_id(*node), (&id, *claims))
        }
        Step::Sync {
            node,
            claims,
            keep,
            add,
        } if member(*node) => {
            let mut all: Vec<Endpoint> = map
                .endpoints
                .values()
                .map(|endpoint| endpoint.object.clone())
                .filter(|endpoint| endpoint.node == node_id(*node))
                .enumerate()
                .filter(|(index, _)| keep & (1 << (index % 8)) != 0)
                .map(|(_, endpoint)| endpoint)
                .collect();
            all.extend(
                add.iter()
                    .map(|(at, name)| named(network, *node, (*at, *name))),
            );
            Ok(endpoint::sync(map, &node_id(*node), (&all, *claims)).changes)
        }
        Step::GiveBack { node, block } => {
            let prefix = map.blocks_of(of).nth(*block).map(|block| block.prefix)?;
            block::give_back(map, &node_id(*node), (of, prefix, None))
        }
        Step::RemoveNode { node } => {
            node::remove(map, &operator(), &format!("n{node}")).map(|(changes, _)| changes)
        }
        Step::Join { node } => {
            let at = facts(&format!("192.0.2.{}", node + 1));
            node::join(map, &node_id(*node), (&format!("n{node}"), &at))
        }
        Step::Allocate { .. } | Step::Claim { .. } | Step::Put { .. } | Step::Sync { .. } => {
            return None;
        }
    })
}

fn check(map: &ClusterMap, network: &Network) -> Result<(), TestCaseError> {
    let mut names = BTreeMap::new();
    let mut macs = BTreeMap::new();
    let mut ips = BTreeMap::new();
    for endpoint in map.endpoints.values().map(|endpoint| &endpoint.object) {
        prop_assert!(
            map.nodes.contains_key(&endpoint.node),
            "its node is a member"
        );
        prop_assert_eq!(
            names.insert(endpoint.name.clone(), endpoint.id.clone()),
            None
        );
        prop_assert_eq!(macs.insert(endpoint.mac, endpoint.id.clone()), None);
        for ip in &endpoint.ips {
            prop_assert_eq!(ips.insert(*ip, endpoint.id.clone()), None);
            let owner = map
                .block_of(&network.id, *ip)
                .map(|block| block.node.clone());
            prop_assert_eq!(owner.as_ref(), Some(&endpoint.node));
            prop_assert!(network.subnets[0].is_host_address(*ip));
        }
    }
    let blocks: Vec<&Block> = map.blocks_of(&network.id).collect();
    for (index, block) in blocks.iter().enumerate() {
        prop_assert!(map.nodes.contains_key(&block.node), "its node is a member");
        prop_assert!(network.subnets[0].cidr.contains(&block.prefix));
        for other in &blocks[index + 1..] {
            let apart = !subnet::overlap(block.prefix, other.prefix);
            let nested = is_single(block.prefix) != is_single(other.prefix);
            prop_assert!(apart || nested, "{} and {}", block.prefix, other.prefix);
        }
    }
    Ok(())
}

fn run(cidr: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut map = cluster();
    let changes = network::create(&map, &wish("n", &[cidr]), NetworkId("net".to_owned())).unwrap();
    apply(&mut map, changes);
    let network = map.network_named("n").unwrap().clone();
    for step in steps {
        if let Some(Ok(changes)) = decide(&map, &network, step) {
            // What is put is new, what is deleted was there: the log has no empty steps.
            for change in changes {
                let before = map.clone();
                map.apply(map.revision + 1, change.clone());
                let same = match &change {
                    Change::Put(Object::Endpoint(put)) => before
                        .endpoints
                        .get(&put.id)
                        .is_some_and(|old| old.object == *put),
                    Change::Delete(crate::model::Key::Endpoint(id)) => {
                        !before.endpoints.contains_key(id)
                    }
                    Change::Delete(crate::model::Key::Block(of, prefix)) => {
                        !before.blocks.contains_key(&(of.clone(), *prefix))
                    }
                    Change::Put(_) | Change::Delete(_) => false,
                };
                prop_assert!(!same, "{change:?} changes nothing");
            }
            check(&map, &network)?;
        }
    }
    // When everybody has gone, nothing is left.
    for node in 0..3 {
        if let Ok((changes, _)) = node::remove(&map, &operator(), &format!("n{node}")) {
            apply(&mut map, changes);
        }
    }
    prop_assert!(map.blocks.is_empty() && map.endpoints.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_address_name_or_mac_is_given_twice(steps in prop::collection::vec(steps(64), 1..120)) {
        run("10.0.0.0/26", &steps)?;
    }

    #[test]
    fn nor_in_a_pool_whose_blocks_are_single_addresses(steps in prop::collection::vec(steps(16), 1..120)) {
        run("10.0.0.0/28", &steps)?;
    }

    #[test]
    fn nor_with_ipv6(steps in prop::collection::vec(steps(256), 1..120)) {
        run("fd00::/120", &steps)?;
    }

    #[test]
    fn networks_never_share_a_name_vni_or_address(wishes in prop::collection::vec(
        ("[a-d]", prop::option::of(4094_u32..4100), prop::collection::vec((0_u8..4, 12_u8..30), 0..3)), 1..40,
    )) {
        let mut map = cluster();
        for (index, (name, vni, subnets)) in wishes.into_iter().enumerate() {
            let subnets = subnets.into_iter().map(|(part, len)| {
                IpNet::new(IpAddr::from([10, part * 64, part, 0]), len).unwrap().trunc()
            });
            let wish = NetworkCreate {
                name,
                vni: vni.and_then(|vni| Vni::new(vni).ok()),
                subnets: subnets.collect(),
                ..NetworkCreate::default()
            };
            if let Ok(changes) = network::create(&map, &wish, NetworkId(index.to_string())) {
                apply(&mut map, changes);
            }
        }
        let networks: Vec<Network> = map.networks.into_values().map(|network| network.object).collect();
        for (index, network) in networks.iter().enumerate() {
            for other in &networks[index + 1..] {
                prop_assert!(network.name != other.name && network.vni != other.vni);
                for (a, b) in network.subnets.iter().flat_map(|a| other.subnets.iter().map(move |b| (a, b))) {
                    prop_assert!(!subnet::overlap(a.cidr, b.cidr));
                }
            }
        }
    }
}

/// None of the nodes that are removed.
fn operator() -> NodeId {
    NodeId("operator".to_owned())
}
