//! Tags in plain layer 2 networks and in routed ones.

use weft_switch::{DropReason, NetworkMode};
use weft_wire::MacAddr;

use crate::world::*;

#[test]
fn a_routed_network_takes_no_tags() {
    let world = World::new(NetworkMode::Routed);
    for (tpid, tci) in [(0x8100, 5), (0x8100, 0), (0x88a8, 5), (0x8100, 0x0fff)] {
        for from in [FROM_A, from_peer(0)] {
            let actions = world.send(from, &tagged(frame(mac(1), mac(0)), tpid, tci));
            assert_eq!(actions, drop_for(DropReason::VlanNotAllowed));
        }
    }
}

#[test]
fn a_plain_network_learns_in_each_vlan_apart() {
    let world = World::new(NetworkMode::PlainL2);
    world.send(
        from_port(1),
        &tagged(frame(MacAddr::BROADCAST, mac(7)), 0x8100, 5),
    );
    world.send(
        from_port(2),
        &tagged(frame(MacAddr::BROADCAST, mac(7)), 0x8100, 6),
    );
    let to_seven = |tci| tagged(frame(mac(7), mac(0)), 0x8100, tci);
    assert_eq!(world.send(FROM_A, &to_seven(5)), [to_port(1)]);
    assert_eq!(world.send(FROM_A, &to_seven(0x6006)), [to_port(2)]);
    assert_eq!(world.send(FROM_A, &frame(mac(7), mac(0))).len(), 4);
}

#[test]
fn a_priority_tag_is_no_vlan() {
    let world = World::new(NetworkMode::PlainL2);
    world.send(
        from_port(1),
        &tagged(frame(MacAddr::BROADCAST, mac(7)), 0x8100, 0xe000),
    );
    assert_eq!(world.send(FROM_A, &frame(mac(7), mac(0))), [to_port(1)]);
}

#[test]
fn the_reserved_vlan_is_refused() {
    let world = World::new(NetworkMode::PlainL2);
    let actions = world.send(FROM_A, &tagged(frame(mac(7), mac(0)), 0x8100, 0x0fff));
    assert_eq!(actions, drop_for(DropReason::BadVlan));
}
