use serde_json::{Value, json};

use super::*;

fn read(method: &str, body: &Value) -> Result<Call, BadCall> {
    parse(&format!("/{method}"), body.to_string().as_bytes())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn endpoint() -> EndpointRef {
    EndpointRef {
        network: "n1".to_owned(),
        endpoint: "e1".to_owned(),
    }
}

/// As dockerd 20.10.24 sends them.
#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn every_call_of_docker_is_read() {
    let both = json!({ "NetworkID": "n1", "EndpointID": "e1" });
    let cases: Vec<(&str, Value, Call)> = vec![
        ("Plugin.Activate", json!(null), Call::Activate),
        (
            "NetworkDriver.GetCapabilities",
            json!(null),
            Call::NetworkCapabilities,
        ),
        (
            "NetworkDriver.GwAllocCheck",
            json!({ "Options": null }),
            Call::GatewayCheck,
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({
                "NetworkID": "n1",
                "Options": {
                    "com.docker.network.enable_ipv6": true,
                    "com.docker.network.generic": { "weft.network": "shop", "vni": "7" },
                    "com.docker.network.internal": true,
                },
                "IPv4Data": [{ "AddressSpace": "weft", "Pool": "10.40.0.0/16", "Gateway": "10.40.0.1/16",
                    "AuxAddresses": { "router": "10.40.0.2/16" } }],
                "IPv6Data": [{ "AddressSpace": "weft", "Pool": "fd40::/64", "AuxAddresses": null }],
            }),
            Call::CreateNetwork(CreateNetwork {
                network: "n1".to_owned(),
                options: BTreeMap::from([
                    ("weft.network".to_owned(), "shop".to_owned()),
                    ("vni".to_owned(), "7".to_owned()),
                ]),
                internal: true,
                ranges: vec![
                    Range {
                        space: "weft".to_owned(),
                        cidr: net("10.40.0.0/16"),
                        gateway: Some(ip("10.40.0.1")),
                        aux: BTreeMap::from([("router".to_owned(), ip("10.40.0.2"))]),
                    },
                    Range {
                        space: "weft".to_owned(),
                        cidr: net("fd40::/64"),
                        gateway: None,
                        aux: BTreeMap::new(),
                    },
                ],
            }),
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": "n1", "Options": { "com.docker.network.generic": null },
                "IPv4Data": [{ "AddressSpace": "null", "Pool": "0.0.0.0/0" }], "IPv6Data": [] }),
            Call::CreateNetwork(CreateNetwork {
                network: "n1".to_owned(),
                options: BTreeMap::new(),
                internal: false,
                ranges: Vec::new(),
            }),
        ),
        (
            "NetworkDriver.DeleteNetwork",
            json!({ "NetworkID": "n1" }),
            Call::DeleteNetwork {
                network: "n1".to_owned(),
            },
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({
                "NetworkID": "n1", "EndpointID": "e1",
                "Interface": { "Address": "10.40.0.5/16", "AddressIPv6": "fd40::5/64", "MacAddress": "" },
                "Options": { "com.docker.network.portmap": [], "com.docker.network.endpoint.exposedports": null },
            }),
            Call::CreateEndpoint(CreateEndpoint {
                of: endpoint(),
                ips: vec![ip("10.40.0.5"), ip("fd40::5")],
                mac: None,
            }),
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": "n1", "EndpointID": "e1", "Interface": { "MacAddress": "02:42:ac:00:00:05" } }),
            Call::CreateEndpoint(CreateEndpoint {
                of: endpoint(),
                ips: Vec::new(),
                mac: "02:42:ac:00:00:05".parse().ok(),
            }),
        ),
        (
            "NetworkDriver.ProgramExternalConnectivity",
            json!({ "NetworkID": "n1", "EndpointID": "e1",
                "Options": { "com.docker.network.endpoint.exposedports": [{ "Proto": 6, "Port": 80 }],
                "com.docker.network.portmap": [
                    { "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 },
                    { "Proto": 17, "Port": 53, "HostIP": "127.0.0.1" },
                ] } }),
            Call::Program {
                of: endpoint(),
                publish: vec![
                    PortBinding {
                        protocol: 6,
                        port: 80,
                        host_ip: None,
                        host_port: 8080,
                        host_port_end: 8080,
                    },
                    PortBinding {
                        protocol: 17,
                        port: 53,
                        host_ip: Some(ip("127.0.0.1")),
                        host_port: 0,
                        host_port_end: 0,
                    },
                ],
            },
        ),
        (
            "NetworkDriver.EndpointOperInfo",
            both.clone(),
            Call::EndpointInfo(endpoint()),
        ),
        (
            "NetworkDriver.DeleteEndpoint",
            both.clone(),
            Call::DeleteEndpoint(endpoint()),
        ),
        (
            "NetworkDriver.Join",
            json!({ "NetworkID": "n1", "EndpointID": "e1", "SandboxKey": "/var/run/docker/netns/1", "Options": {} }),
            Call::Join {
                of: endpoint(),
                sandbox: "/var/run/docker/netns/1".to_owned(),
            },
        ),
        ("NetworkDriver.Leave", both, Call::Leave(endpoint())),
        (
            "NetworkDriver.ProgramExternalConnectivity",
            json!({ "NetworkID": "n1", "EndpointID": "e1", "Options": null }),
            Call::Program {
                of: endpoint(),
                publish: Vec::new(),
            },
        ),
        (
            "NetworkDriver.RevokeExternalConnectivity",
            json!({ "NetworkID": "n1", "EndpointID": "e1" }),
            Call::Revoke(endpoint()),
        ),
        (
            "NetworkDriver.DiscoverNew",
            json!({ "DiscoveryType": 1 }),
            Call::Heard,
        ),
        (
            "NetworkDriver.DiscoverDelete",
            json!({ "DiscoveryType": 1 }),
            Call::Heard,
        ),
        (
            "NetworkDriver.AllocateNetwork",
            json!({ "NetworkID": "n1" }),
            Call::Swarm,
        ),
        (
            "NetworkDriver.FreeNetwork",
            json!({ "NetworkID": "n1" }),
            Call::Swarm,
        ),
        (
            "IpamDriver.GetCapabilities",
            json!(null),
            Call::IpamCapabilities,
        ),
        (
            "IpamDriver.GetDefaultAddressSpaces",
            json!(null),
            Call::AddressSpaces,
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "AddressSpace": "weft", "Pool": "10.40.0.0/16", "SubPool": "10.40.8.0/24", "Options": {}, "V6": false }),
            Call::RequestPool(RequestPool {
                pool: Some(net("10.40.0.0/16")),
                sub_pool: Some(net("10.40.8.0/24")),
                options: BTreeMap::new(),
                v6: false,
            }),
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "Pool": "", "SubPool": "", "Options": null, "V6": true }),
            Call::RequestPool(RequestPool {
                pool: None,
                sub_pool: None,
                options: BTreeMap::new(),
                v6: true,
            }),
        ),
        (
            "IpamDriver.ReleasePool",
            json!({ "PoolID": "p1" }),
            Call::ReleasePool {
                pool: "p1".to_owned(),
            },
        ),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": "p1", "Address": "", "Options": { "RequestAddressType": "com.docker.network.gateway" } }),
            Call::RequestAddress(RequestAddress {
                pool: "p1".to_owned(),
                address: None,
                gateway: true,
            }),
        ),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": "p1", "Address": "10.40.0.9", "Options": null }),
            Call::RequestAddress(RequestAddress {
                pool: "p1".to_owned(),
                address: Some(ip("10.40.0.9")),
                gateway: false,
            }),
        ),
        (
            "IpamDriver.ReleaseAddress",
            json!({ "PoolID": "p1", "Address": "10.40.0.9" }),
            Call::ReleaseAddress {
                pool: "p1".to_owned(),
                address: ip("10.40.0.9"),
            },
        ),
    ];
    for (method, body, wanted) in cases {
        assert_eq!(read(method, &body), Ok(wanted), "{method} {body}");
    }
    // Activate and the capabilities come without a body.
    assert_eq!(parse("/Plugin.Activate", b""), Ok(Call::Activate));
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn every_wrong_or_missing_field_is_named_in_the_protocols_own_form() {
    let both = |more: Value| {
        let mut body = json!({ "NetworkID": "n1", "EndpointID": "e1" });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let network = |more: Value| {
        let mut body = json!({ "NetworkID": "n1" });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        body
    };
    let cases: Vec<(&str, Value, &str)> = vec![
        (
            "NetworkDriver.CreateNetwork",
            json!({}),
            "field NetworkID is missing",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": "" }),
            "field NetworkID is missing",
        ),
        (
            "NetworkDriver.CreateNetwork",
            json!({ "NetworkID": 7 }),
            "field NetworkID is a number, not text",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "Options": [] })),
            "field Options is a list, not an object",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "Options": { "com.docker.network.generic": "x" } })),
            "field com.docker.network.generic is text, not an object",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "Options": { "com.docker.network.generic": { "vni": [] } } })),
            "field com.docker.network.generic[\"vni\"] is a list, not text",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "Options": { "com.docker.network.internal": 1 } })),
            "field com.docker.network.internal is a number, not true or false",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "IPv4Data": {} })),
            "field IPv4Data is an object, not a list",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "IPv4Data": [7] })),
            "field IPv4Data[0] is a number, not an object",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "IPv6Data": [{}] })),
            "field IPv6Data[0].Pool is missing",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "IPv4Data": [{ "Pool": "10.40" }] })),
            "field IPv4Data[0].Pool is \"10.40\", which is no range",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(json!({ "IPv4Data": [{ "Pool": "10.40.0.0/16", "Gateway": "no" }] })),
            "field IPv4Data[0].Gateway is \"no\", which is no IP address",
        ),
        (
            "NetworkDriver.CreateNetwork",
            network(
                json!({ "IPv4Data": [{ "Pool": "10.40.0.0/16", "AuxAddresses": { "a": "b" } }] }),
            ),
            "field IPv4Data[0].AuxAddresses[\"a\"] is \"b\", which is no IP address",
        ),
        (
            "NetworkDriver.DeleteNetwork",
            json!({ "NetworkID": null }),
            "field NetworkID is missing",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            json!({ "NetworkID": "n1" }),
            "field EndpointID is missing",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            both(json!({ "Interface": "eth0" })),
            "field Interface is text, not an object",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            both(json!({ "Interface": { "Address": "10.40.0.5/99" } })),
            "field Interface.Address is \"10.40.0.5/99\", which is no IP address",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            both(json!({ "Interface": { "AddressIPv6": true } })),
            "field Interface.AddressIPv6 is true or false, not text",
        ),
        (
            "NetworkDriver.CreateEndpoint",
            both(json!({ "Interface": { "MacAddress": "02:42" } })),
            "field Interface.MacAddress is \"02:42\", which is no MAC address",
        ),
        (
            "NetworkDriver.Join",
            json!({ "EndpointID": "e1" }),
            "field NetworkID is missing",
        ),
        (
            "NetworkDriver.Join",
            both(json!({ "SandboxKey": {} })),
            "field SandboxKey is an object, not text",
        ),
        (
            "NetworkDriver.Leave",
            json!({ "NetworkID": "n1" }),
            "field EndpointID is missing",
        ),
        (
            "NetworkDriver.DeleteEndpoint",
            json!({ "NetworkID": "n1", "EndpointID": [] }),
            "field EndpointID is a list, not text",
        ),
        (
            "NetworkDriver.EndpointOperInfo",
            json!({}),
            "field NetworkID is missing",
        ),
        (
            "NetworkDriver.Leave",
            json!([]),
            "the body is a list, not an object",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "Pool": "ten" }),
            "field Pool is \"ten\", which is no range",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "Pool": 10 }),
            "field Pool is a number, not text",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "SubPool": "10.40.0.0/33" }),
            "field SubPool is",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "V6": "maybe" }),
            "field V6 is text, not true or false",
        ),
        (
            "IpamDriver.RequestPool",
            json!({ "Options": "x" }),
            "field Options is text, not an object",
        ),
        (
            "IpamDriver.ReleasePool",
            json!({}),
            "field PoolID is missing",
        ),
        (
            "IpamDriver.RequestAddress",
            json!({ "Address": "10.40.0.9" }),
            "field PoolID is missing",
        ),
        (
            "IpamDriver.RequestAddress",
            json!({ "PoolID": "p", "Address": "10.40.0" }),
            "field Address is \"10.40.0\"",
        ),
        (
            "IpamDriver.ReleaseAddress",
            json!({ "PoolID": "p" }),
            "field Address is missing",
        ),
        (
            "IpamDriver.ReleaseAddress",
            json!({ "Address": "10.40.0.9" }),
            "field PoolID is missing",
        ),
    ];
    for (method, body, wanted) in cases {
        let Err(BadCall::Field(side, sentence)) = read(method, &body) else {
            panic!("{method} {body} was taken")
        };
        assert!(sentence.contains(wanted), "{sentence:?} lacks {wanted:?}");
        assert!(sentence.starts_with(method), "{sentence}");
        let error = error_json(side, &sentence);
        let field = if method.starts_with("Ipam") {
            "Error"
        } else {
            "Err"
        };
        assert_eq!(error, json!({ field: sentence }));
    }
    let Err(BadCall::Field(Side::Ipam, sentence)) = parse("/IpamDriver.RequestPool", b"{\"Pool\"")
    else {
        panic!("half a body was taken")
    };
    assert!(sentence.contains("no JSON"), "{sentence}");
}

#[test]
fn unknown_methods_are_not_supported() {
    for path in [
        "/",
        "/NetworkDriver",
        "/NetworkDriver.Explode",
        "/IpamDriver.",
        "/Volume.Create",
        "/a.b.c",
    ] {
        assert!(
            matches!(parse(path, b"{}"), Err(BadCall::Unknown(_))),
            "{path}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn replies_are_what_docker_reads() {
    let cases = [
        (Reply::Done, json!({})),
        (
            Reply::Implements,
            json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
        ),
        (
            Reply::NetworkCapabilities,
            json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": false }),
        ),
        (
            Reply::GatewayCheck,
            json!({ "SkipIPv4": false, "SkipIPv6": false }),
        ),
        (Reply::Endpoint { mac: None }, json!({ "Interface": {} })),
        (
            Reply::Endpoint {
                mac: "02:57:0a:28:00:05".parse().ok(),
            },
            json!({ "Interface": { "MacAddress": "02:57:0a:28:00:05" } }),
        ),
        (
            Reply::EndpointInfo {
                value: BTreeMap::new(),
            },
            json!({ "Value": {} }),
        ),
        (
            Reply::Joined {
                ifname: "weft01".to_owned(),
                gateways: Vec::new(),
                internal: false,
            },
            json!({ "InterfaceName": { "SrcName": "weft01", "DstPrefix": "eth" } }),
        ),
        (
            Reply::Joined {
                ifname: "weft01".to_owned(),
                gateways: Vec::new(),
                internal: true,
            },
            json!({ "InterfaceName": { "SrcName": "weft01", "DstPrefix": "eth" },
                "DisableGatewayService": true }),
        ),
        (
            Reply::Joined {
                ifname: "weft01".to_owned(),
                gateways: vec![ip("10.40.0.1"), ip("fd40::1")],
                internal: false,
            },
            json!({ "InterfaceName": { "SrcName": "weft01", "DstPrefix": "eth" },
                "Gateway": "10.40.0.1", "GatewayIPv6": "fd40::1" }),
        ),
        (
            Reply::IpamCapabilities,
            json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
        ),
        (
            Reply::AddressSpaces,
            json!({ "LocalDefaultAddressSpace": "weft", "GlobalDefaultAddressSpace": "weft" }),
        ),
        (
            Reply::Pool {
                id: "10.40.0.0/16#1".to_owned(),
                cidr: net("10.40.0.0/16"),
            },
            json!({ "PoolID": "10.40.0.0/16#1", "Pool": "10.40.0.0/16", "Data": {} }),
        ),
        (
            Reply::Address(net("10.40.0.5/16")),
            json!({ "Address": "10.40.0.5/16", "Data": {} }),
        ),
    ];
    for (reply, wanted) in cases {
        assert_eq!(reply.to_json(), wanted);
    }
}

#[test]
fn calls_for_one_endpoint_wait_for_each_other() {
    let key = |method: &str, endpoint: &str| {
        let body = json!({ "NetworkID": "n1", "EndpointID": endpoint });
        read(method, &body).unwrap().key()
    };
    let join = key("NetworkDriver.Join", "e1");
    assert_eq!(join, key("NetworkDriver.DeleteEndpoint", "e1"));
    assert_ne!(join, key("NetworkDriver.Join", "e2"));
    assert_eq!(read("Plugin.Activate", &json!(null)).unwrap().key(), None);
}

proptest::proptest! {
    #[test]
    fn whatever_the_bytes_reading_ends(method in 0usize..8, body: Vec<u8>) {
        let methods = ["Plugin.Activate", "NetworkDriver.CreateNetwork", "NetworkDriver.CreateEndpoint",
            "NetworkDriver.Join", "IpamDriver.RequestPool", "IpamDriver.RequestAddress",
            "IpamDriver.ReleaseAddress", "NetworkDriver.Leave"];
        let _ = parse(methods[method], &body);
    }
}
