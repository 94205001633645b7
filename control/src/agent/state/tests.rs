use super::*;
use crate::model::{EndpointId, NetworkId, NodeId};

pub(in crate::agent) fn record() -> PortRecord {
    PortRecord {
        endpoint: Endpoint {
            id: EndpointId("00112233aabbccdd".into()),
            network: NetworkId("1".into()),
            node: NodeId("2".into()),
            name: "c1".into(),
            aliases: vec!["web".into()],
            mac: "02:57:0a:20:00:02".parse().unwrap(),
            ips: vec!["10.32.0.2".parse().unwrap()],
            epoch: 7,
        },
        network_name: "blue".into(),
        vni: Vni::new(4096).unwrap(),
        netns: "c1".into(),
        netns_id: (4, 4026),
        ifname: "eth0".into(),
        addresses: vec!["10.32.0.2/16".parse().unwrap()],
        plain: false,
        dhcp: false,
        dns: false,
        mtu: Mtu::new(1450).unwrap(),
        attachment: Some(Attachment {
            owner: "cni:pods".into(),
            container: "0af3".into(),
            ifname: "eth0".into(),
        }),
        foreign: vec!["192.0.2.9/24".parse().unwrap()],
        gateways: vec!["10.32.0.1".parse().unwrap()],
        routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), None)],
        published: vec![Publish {
            ip: None,
            host_port: 8080,
            port: 80,
            protocol: crate::api::PortProtocol::Tcp,
            proxy: None,
            keep_source: true,
        }],
        limits: Limits::default(),
        impairments: Impairments::default(),
        allow_spoof: false,
    }
}

#[test]
fn ports_and_map_come_back_as_they_were_saved() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = ClusterId("c".into());
    let state = StateDir::open(dir.path()).unwrap();
    assert_eq!(state.load_ports().unwrap(), SavedPorts::default());
    assert_eq!(state.load_map(&cluster).unwrap().map, ClusterMap::default());
    let saved = SavedPorts {
        ports: vec![record()],
        yielded: vec![(NetworkId("n".into()), "10.0.0.9".parse().unwrap())],
        returning: [(NetworkId("n".into()), "10.0.1.0/26".parse().unwrap())].into(),
        uplinks: vec![UplinkRecord {
            network: NetworkId("1".into()),
            network_name: "blue".into(),
            dev: "eth1".into(),
        }],
    };
    state.save_ports(saved.clone()).unwrap();
    assert_eq!(state.load_ports().unwrap(), saved);
    fs::write(dir.path().join("ports.json"), r#"{"layout":1,"ports":[]}"#).unwrap();
    assert_eq!(state.load_ports().unwrap(), SavedPorts::default());
    let mut map = ClusterMap::default();
    map.apply(
        9,
        crate::model::Change::Put(crate::model::Object::Endpoint(record().endpoint)),
    );
    let saved = SavedMap {
        incarnation: "a".into(),
        map: map.clone(),
        has: None,
    };
    state.save_map(&cluster, saved).unwrap();
    let again = state.load_map(&cluster).unwrap();
    assert_eq!((again.incarnation.as_str(), again.map), ("a", map));
    assert_eq!(again.has, None);
}

#[test]
fn a_part_of_a_map_is_none_to_an_agent_that_knows_of_no_parts() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    let cluster = ClusterId("c".into());
    let has = Some(BTreeSet::from([NetworkId("n".into())]));
    let saved = SavedMap {
        incarnation: "a".into(),
        map: ClusterMap::default(),
        has: has.clone(),
    };
    state.save_map(&cluster, saved).unwrap();
    let again = state.load_map(&cluster).unwrap();
    assert_eq!((again.incarnation.as_str(), again.has), ("a", has));
    let bytes = fs::read(dir.path().join("map.cbor")).unwrap();
    let older: ciborium::Value = ciborium::from_reader(bytes.as_slice()).unwrap();
    let fields = older.as_map().unwrap();
    let named = |name| fields.iter().find(|(key, _)| key.as_text() == Some(name));
    assert_eq!(named("incarnation").unwrap().1.as_text(), Some(""));
}

#[test]
fn a_corrupt_or_newer_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    for (text, expected) in [
        ("{", "ports.json is corrupt"),
        ("{}", "no layout number"),
        (r#"{"layout":1,"ports":[{}]}"#, "missing field"),
        (r#"{"layout":2}"#, "start the newer weft again"),
    ] {
        fs::write(dir.path().join("ports.json"), text).unwrap();
        let error = state.load_ports().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    fs::write(dir.path().join("map.cbor"), [0xff, 0x00]).unwrap();
    let error = state
        .load_map(&ClusterId("c".into()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("map.cbor is corrupt"), "{error}");
}

#[test]
fn a_map_of_another_cluster_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(dir.path()).unwrap();
    state
        .save_map(&ClusterId("a".into()), SavedMap::default())
        .unwrap();
    let error = state
        .load_map(&ClusterId("b".into()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("cluster a"), "{error}");
}

#[test]
fn two_agents_cannot_share_a_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _first = StateDir::open(dir.path()).unwrap();
    let error = StateDir::open(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("pid {}", std::process::id())),
        "{error}"
    );
}
