use super::*;
use crate::model::next_epoch;

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
