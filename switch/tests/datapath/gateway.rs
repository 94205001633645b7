//! What is for a network's gateway is answered where it comes from, and goes nowhere else.

use weft_switch::gateway::GATEWAY_MAC;
use weft_switch::{Action, DropReason, NetworkMode};
use weft_wire::ArpMessage;

use crate::world::{FROM_A, World, drop_for, from_peer, ip4, mac, to_peer, to_port};

#[test]
fn a_question_for_the_gateway_is_not_flooded() {
    let world = World::guarded();
    let question = ArpMessage::request(mac(0), ip4(0), ip4(254)).to_frame();
    assert_eq!(world.send(FROM_A, &question), [Action::Answer]);
}

#[test]
fn a_question_for_another_goes_to_everybody() {
    let world = World::guarded();
    let question = ArpMessage::request(mac(0), ip4(0), ip4(1)).to_frame();
    let everybody = [to_port(1), to_port(2), to_peer(0), to_peer(1)];
    assert_eq!(world.send(FROM_A, &question), everybody);
}

#[test]
fn a_spoofed_question_is_refused_first() {
    let world = World::guarded();
    let question = ArpMessage::request(mac(0), ip4(1), ip4(254)).to_frame();
    let refused = drop_for(DropReason::SpoofedAddress);
    assert_eq!(world.send(FROM_A, &question), refused);
}

#[test]
fn each_host_answers_its_own() {
    let world = World::guarded();
    let question = ArpMessage::request(mac(9), ip4(9), ip4(254)).to_frame();
    let ports = [to_port(0), to_port(1), to_port(2)];
    assert_eq!(world.send(from_peer(0), &question), ports);
}

#[test]
fn what_the_gateway_has_nothing_to_say_to_is_counted() {
    let world = World::guarded();
    let answer = ArpMessage::request(mac(0), ip4(254), ip4(0)).answer(GATEWAY_MAC);
    let mut frame = answer.to_frame();
    // From port 0 to the gateway, a reply that nobody asked for, about the port's own address.
    frame[..6].copy_from_slice(&GATEWAY_MAC.octets());
    frame[6..12].copy_from_slice(&mac(0).octets());
    frame[22..28].copy_from_slice(&mac(0).octets());
    frame[28..32].copy_from_slice(&ip4(0).octets());
    let silent = drop_for(DropReason::NotAnswered);
    assert_eq!(world.send(FROM_A, &frame), silent);
}

#[test]
fn a_plain_network_has_no_gateway() {
    let world = World::new(NetworkMode::PlainL2);
    let question = ArpMessage::request(mac(0), ip4(0), ip4(254)).to_frame();
    let everybody = [to_port(1), to_port(2), to_peer(0), to_peer(1)];
    assert_eq!(world.send(FROM_A, &question), everybody);
}
