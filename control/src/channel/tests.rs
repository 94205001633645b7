use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use weft_wire::{MacAddr, Mtu, Vni};

use super::codec::{
    DecodeError, MAX_MESSAGE_BYTES, decode, decode_frame, decode_length, decode_request, encode,
};
use super::link::source_for;
use super::messages::*;
use crate::api;
use crate::model::{
    Block, Change, ClusterId, Credentials, Endpoint, EndpointId, Key, NetworkId, NodeId, Object,
    Transport, Versioned,
};

prop_compose! {
    fn prefix()(v4 in any::<bool>(), low in any::<u32>(), bits in any::<u128>(), len in 0_u8..=32) -> IpNet {
        let ip: IpAddr = match v4 {
            true => IpAddr::V4(low.into()),
            false => IpAddr::V6(bits.into()),
        };
        IpNet::new(ip, len).unwrap().trunc()
    }
}

prop_compose! {
    fn endpoint()(name in "[a-z]{1,9}", mac in any::<[u8; 6]>(), ip in prefix(), epoch in any::<u64>()) -> Endpoint {
        Endpoint {
            id: EndpointId(name.clone()),
            network: NetworkId("n".to_owned()),
            node: NodeId("x".to_owned()),
            aliases: vec![name.clone()],
            name,
            mac: MacAddr(mac),
            ips: vec![ip.addr()],
            epoch,
        }
    }
}

fn network() -> NetworkId {
    NetworkId("0123456789abcdef".to_owned())
}

fn of_credentials() -> impl Strategy<Value = Request> {
    let name = "[a-z]{0,9}";
    let networks = prop::collection::btree_set(name.prop_map(NetworkId), 0..4);
    prop_oneof![
        (networks, any::<u64>()).prop_map(|(networks, wish)| Request::Watch { networks, wish }),
        prop::option::of(name.prop_map(EndpointId)).prop_map(|after| Request::ReadNetwork {
            network: network(),
            after
        }),
        prop::option::of(name.prop_map(NodeId)).prop_map(|after| Request::ReadNodes { after }),
        Just(Request::CountEndpoints),
        Just(Request::Newest),
        prop::collection::vec(any::<u8>(), 0..99).prop_map(|csr| Request::Renew { csr }),
        (prop::collection::vec(name, 0..3), name, any::<u64>()).prop_map(
            |(trusts, issuer, expires)| Request::NoteCredentials {
                credentials: Credentials {
                    trusts,
                    issuer,
                    expires
                }
            }
        ),
    ]
}

fn vteps() -> impl Strategy<Value = Request> {
    ("[a-z]{1,12}", prefix(), any::<bool>()).prop_map(|(network, at, add)| {
        let address = at.addr();
        if add {
            Request::AddVtep { network, address }
        } else {
            Request::RemoveVtep { network, address }
        }
    })
}

fn requests() -> impl Strategy<Value = Request> {
    let name = "[a-z]{1,9}";
    let create = (
        name,
        prop::collection::vec(prefix(), 0..3),
        1_u32..=Vni::MAX,
        any::<bool>(),
    );
    let create = create.prop_map(|(name, subnets, vni, internal)| Request::CreateNetwork {
        create: api::NetworkCreate {
            name,
            gateways: subnets.iter().map(IpNet::addr).collect(),
            ip_ranges: subnets.clone(),
            subnets,
            vni: Vni::new(vni).ok(),
            internal,
            mtu: Some(Mtu::ETHERNET),
            ..api::NetworkCreate::default()
        },
    });
    let change =
        (name, any::<Option<u32>>()).prop_map(|(name, ageing_secs)| Request::ChangeNetwork {
            name,
            change: api::NetworkChange {
                ageing_secs,
                ..api::NetworkChange::default()
            },
        });
    prop_oneof![
        create,
        change,
        name.prop_map(|name| Request::RemoveNetwork { name }),
        Just(Request::PruneNetworks),
        vteps(),
        prefix().prop_map(|subnet| Request::AllocateBlock {
            network: network(),
            subnet
        }),
        (prefix(), any::<Option<u64>>()).prop_map(|(prefix, revision)| Request::ReturnBlock {
            network: network(),
            prefix,
            revision
        }),
        prefix().prop_map(|at| Request::ClaimAddress {
            network: network(),
            ip: at.addr()
        }),
        endpoint().prop_map(|endpoint| Request::PutEndpoint { endpoint }),
        name.prop_map(|id| Request::DeleteEndpoint { id: EndpointId(id) }),
        prop::collection::vec(endpoint(), 0..4)
            .prop_map(|endpoints| Request::SyncEndpoints { endpoints }),
        name.prop_map(|name| Request::RemoveNode { name }),
        Just(Request::Presence),
        of_credentials(),
    ]
}

fn pushes() -> impl Strategy<Value = Push> {
    let block = prefix().prop_map(|prefix| Block {
        network: network(),
        prefix,
        node: NodeId("x".to_owned()),
    });
    let change = prop_oneof![
        block.prop_map(|block| Change::Put(Object::Block(block))),
        endpoint().prop_map(|endpoint| Change::Put(Object::Endpoint(endpoint))),
        prefix().prop_map(|prefix| Change::Delete(Key::Block(network(), prefix))),
    ];
    prop_oneof![
        Just(Push::SnapshotStart),
        endpoint().prop_map(|endpoint| Push::Objects(vec![Versioned {
            revision: endpoint.epoch,
            object: Object::Endpoint(endpoint)
        }])),
        any::<u64>().prop_map(|revision| Push::SnapshotEnd { revision }),
        (
            prop::collection::vec((any::<u64>(), change), 0..5),
            any::<u64>()
        )
            .prop_map(|(changes, up_to)| Push::Changes {
                changes,
                up_to,
                controllers: None
            }),
    ]
}

proptest! {
    #[test]
    fn requests_survive_their_bytes(request in requests()) {
        let frame = encode(&request).unwrap();
        prop_assert_eq!(decode_request(&frame[4..]).unwrap(), request.clone());
        prop_assert_eq!(decode_frame::<Request>(&frame).unwrap(), request.clone());
        // Its kind is what is on the wire, so that an unknown one can be told.
        let value: ciborium::Value = decode(&frame[4..]).unwrap();
        let kind = match value.as_text() {
            Some(kind) => kind.to_owned(),
            None => value.as_map().unwrap()[0].0.as_text().unwrap().to_owned(),
        };
        prop_assert_eq!(kind, request.kind());
    }

    #[test]
    fn pushes_survive_their_bytes(push in pushes()) {
        prop_assert_eq!(decode_frame::<Push>(&encode(&push).unwrap()).unwrap(), push);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_request(&bytes);
        let _ = decode_frame::<Push>(&bytes);
        let _ = decode::<Hello>(&bytes);
        let _ = decode::<JoinHello>(&bytes);
        let _ = decode::<Result<Reply, Refusal>>(&bytes);
        let _ = decode::<Ask>(&bytes);
    }

    #[test]
    fn a_request_that_is_cut_or_damaged_is_an_error_or_another_request(
        request in requests(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frame = encode(&request).unwrap();
        let cut = &frame[..at.index(frame.len())];
        prop_assert!(decode_frame::<Request>(cut).is_err());
        let mut damaged = frame.clone();
        damaged[at.index(frame.len())] = byte;
        let _ = decode_frame::<Request>(&damaged);
    }
}

#[test]
fn unknown_fields_are_skipped_and_unknown_kinds_are_named() {
    let hello = Hello {
        protocols: PROTOCOLS,
        version: "1".to_owned(),
        cluster: ClusterId("c".to_owned()),
        node: NodeId("n".to_owned()),
        have: 7,
        incarnation: "i".to_owned(),
        facts: NodeFacts {
            underlay: "10.0.0.1".parse().unwrap(),
            underlay_mtu: Mtu::ETHERNET,
            vxlan_port: 4789,
            encrypted_port: None,
            transports: vec![Transport::Vxlan],
            version: "1".to_owned(),
        },
        credentials: None,
        interest: None,
        wish: 0,
        has: None,
        returns_claims: true,
    };
    let mut value = ciborium::Value::serialized(&hello).unwrap();
    let ciborium::Value::Map(fields) = &mut value else {
        panic!("named fields")
    };
    fields.push(("later".into(), vec![ciborium::Value::from(1)].into()));
    fields.retain(|(key, _)| key.as_text() != Some("incarnation"));
    let read: Hello = decode_frame(&encode(&value).unwrap()).unwrap();
    assert_eq!(
        read,
        Hello {
            incarnation: String::new(),
            ..hello
        }
    );

    let unknown =
        |value: ciborium::Value| decode_request(&encode(&value).unwrap()[4..]).unwrap_err();
    assert_eq!(
        unknown("dance".into()),
        DecodeError::UnknownKind("dance".to_owned())
    );
    let map = ciborium::Value::Map(vec![("dance".into(), ciborium::Value::Null)]);
    assert_eq!(unknown(map), DecodeError::UnknownKind("dance".to_owned()));
    let broken = ciborium::Value::Map(vec![("remove_node".into(), 7.into())]);
    assert!(matches!(unknown(broken), DecodeError::Malformed(_)));
}

#[test]
fn lengths_and_nesting_are_limited_before_memory_is_taken() {
    assert_eq!(decode_length([0, 0, 1, 0], 256), Ok(256));
    assert_eq!(
        decode_length([0xff; 4], MAX_MESSAGE_BYTES),
        Err(DecodeError::TooLong {
            length: 0xffff_ffff,
            limit: MAX_MESSAGE_BYTES
        })
    );
    let endpoints = "x".repeat(MAX_MESSAGE_BYTES);
    assert!(matches!(
        encode(&endpoints),
        Err(DecodeError::TooLong { .. })
    ));
    // A hundred thousand lists in one another.
    assert!(decode_request(&vec![0x81; 100_000]).is_err());
    // A list that claims 2^60 elements.
    assert!(decode_request(&[0x9b, 0x10, 0, 0, 0, 0, 0, 0, 0, 1]).is_err());
}

#[test]
fn the_newest_common_protocol_is_spoken() {
    let ours = Protocols { min: 2, max: 4 };
    let common = |min, max| ours.common(Protocols { min, max });
    assert_eq!(
        [common(1, 2), common(3, 9), common(4, 4)],
        [Some(2), Some(4), Some(4)]
    );
    assert_eq!([common(5, 6), common(0, 1)], [None, None]);
}

#[test]
fn calls_come_from_the_underlay_address_every_other_round_if_it_fits() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let at = |text: &str| text.parse().unwrap();
    let source = |underlay, controller, round| source_for(ip(underlay), at(controller), round);
    assert_eq!(source("10.9.0.1", "10.9.0.2:1", 0), ip("10.9.0.1"));
    assert_eq!(source("10.9.0.1", "10.9.0.2:1", 1), ip("0.0.0.0"));
    assert_eq!(source("10.9.0.1", "127.0.0.1:1", 0), ip("0.0.0.0"));
    assert_eq!(source("10.9.0.1", "[fd00::1]:1", 0), ip("::"));
}
