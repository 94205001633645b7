use proptest::prelude::*;
use serde_json::json;

use super::*;

mod fields;

fn read(value: &Value) -> Result<Config, CniError> {
    read_for(Command::Add, value)
}

fn read_for(command: Command, value: &Value) -> Result<Config, CniError> {
    Config::read(value.to_string().as_bytes(), command, &Args::default())
}

fn minimal() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "pods", "type": "weft" })
}

fn with(key: &str, value: Value) -> Value {
    let mut config = minimal();
    config[key] = value;
    config
}

#[test]
fn a_minimal_configuration_is_enough() {
    let config = read(&minimal()).unwrap();
    assert_eq!(config.network.name, "pods");
    assert_eq!(config.owner(), "cni:pods");
    assert_eq!(config.socket, PathBuf::from("/run/weft/weft.sock"));
    assert_eq!(config.ipam, Ipam::Weft);
    assert_eq!((config.default_route, config.no_offload), (None, false));
    assert!(config.network.subnets.is_empty() && config.dns.is_empty());
}

#[test]
fn all_keys_are_read() {
    let mut config = minimal();
    for (key, value) in [
        ("network", json!("blue")),
        ("socket", json!("/s")),
        ("subnet", json!(["10.32.0.0/16", "fd00::/64"])),
        ("ipRange", json!("10.32.8.0/21")),
        ("gateway", json!("10.32.0.9")),
        ("vni", json!(77)),
        ("mtu", json!(1400)),
        ("encrypted", json!(true)),
        ("internal", json!(true)),
        ("defaultRoute", json!(false)),
        ("offload", json!(false)),
        (
            "ipam",
            json!({ "type": "weft", "routes": [{ "dst": "10.0.0.0/8" }] }),
        ),
        ("dns", json!({ "nameservers": ["10.32.0.9"] })),
        (
            "args",
            json!({ "cni": { "ips": ["10.32.0.50"], "mac": "02:00:00:00:00:09" } }),
        ),
        (
            "runtimeConfig",
            json!({ "ips": ["10.32.0.7/16"], "aliases": ["a", "b"], "portMappings": [], "bandwidth": {"ingressRate": 0} }),
        ),
    ] {
        config[key] = value;
    }
    let read = read(&config).unwrap();
    assert_eq!(read.network.name, "blue");
    assert_eq!(read.network.subnets.len(), 2);
    assert_eq!(read.network.vni.unwrap().value(), 77);
    assert!(read.network.encrypted && read.network.internal && read.no_offload);
    assert_eq!(read.default_route, Some(false));
    assert_eq!(read.routes.len(), 1);
    assert_eq!(read.dns.nameservers, ["10.32.0.9"]);
    assert_eq!(
        read.wish.ips,
        ["10.32.0.7".parse::<IpAddr>().unwrap()],
        "runtimeConfig is first"
    );
    assert_eq!(read.wish.mac, Some("02:00:00:00:00:09".parse().unwrap()));
    assert_eq!(read.wish.aliases, ["a", "b"]);
}

#[test]
fn bandwidth_is_a_limit_each_way() {
    let asked = |value: Value| {
        let config = with("runtimeConfig", json!({ "bandwidth": value }));
        read(&config).map(|config| config.wish.limits)
    };
    let both = json!({ "ingressRate": 1_000_000, "ingressBurst": 80_001, "egressRate": 2_000_000, "egressBurst": 0 });
    let limit = |bits_per_sec, burst_bytes| {
        Some(api::RateLimit {
            bits_per_sec,
            burst_bytes,
        })
    };
    let limits = asked(both).unwrap();
    assert_eq!(limits.to_port, limit(1_000_000, Some(10_001)));
    assert_eq!(limits.from_port, limit(2_000_000, None));
    let none = json!({ "ingressRate": 0, "ingressBurst": 0, "egressRate": 0, "egressBurst": 0 });
    assert_eq!(asked(none).unwrap(), Limits::default());
    for wrong in [
        json!([]),
        json!({ "ingressRate": "1M" }),
        json!({ "egressRate": -1 }),
    ] {
        assert_eq!(asked(wrong).unwrap_err().code, Code::InvalidConfig);
    }
}

#[test]
fn podmans_aliases_are_lists_by_network() {
    let config = with(
        "runtimeConfig",
        json!({ "aliases": { "pods": ["a", "b"] } }),
    );
    assert_eq!(read(&config).unwrap().wish.aliases, ["a", "b"]);
}

#[test]
fn the_runtimes_dns_is_before_the_configurations() {
    let mut config = with("dns", json!({ "nameservers": ["10.0.0.1"] }));
    config["runtimeConfig"] = json!({ "dns": { "servers": ["10.0.0.2"], "searches": ["s"] } });
    let dns = read(&config).unwrap().dns;
    assert_eq!(
        (dns.nameservers[0].as_str(), dns.search[0].as_str()),
        ("10.0.0.2", "s")
    );
    config["runtimeConfig"] = json!({ "dns": {} });
    assert_eq!(read(&config).unwrap().dns.nameservers, ["10.0.0.1"]);
}

#[test]
fn a_version_without_the_command_is_refused() {
    for (version, command, fine) in [
        ("0.3.1", Command::Check, false),
        ("0.4.0", Command::Check, true),
        ("1.0.0", Command::Gc, false),
        ("1.0.0", Command::Status, false),
        ("1.1.0", Command::Gc, true),
        ("1.1.0", Command::Status, true),
        ("0.3.1", Command::Add, true),
        ("0.3.1", Command::Del, true),
        ("0.3.0", Command::Add, false),
        ("0.2.0", Command::Add, false),
        ("1.2.0", Command::Add, false),
        ("", Command::Add, false),
    ] {
        let mut config = with("cniVersion", json!(version));
        config["prevResult"] = json!({});
        config["cni.dev/valid-attachments"] = json!([]);
        match read_for(command, &config) {
            Ok(read) => assert!(
                fine && read.version.as_str() == version,
                "{version} {command:?}"
            ),
            Err(error) => {
                assert!(!fine, "{version} {command:?}: {error:?}");
                assert_eq!(error.code, Code::IncompatibleVersion);
                assert!(error.details.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"));
            }
        }
    }
}

#[test]
fn what_is_wrong_is_refused_by_its_key() {
    for (key, value) in [
        ("name", json!("")),
        ("name", json!("a b")),
        ("name", json!(1)),
        ("network", json!(1)),
        ("socket", json!([])),
        ("subnet", json!("10.0.0")),
        ("subnet", json!([""])),
        ("subnet", json!(7)),
        ("gateway", json!("x")),
        ("ipRange", json!("x")),
        ("vni", json!(0)),
        ("vni", json!("7")),
        ("vni", json!(1_u64 << 40)),
        ("mtu", json!(1)),
        ("encrypted", json!("yes")),
        ("defaultRoute", json!(1)),
        ("offload", json!("no")),
        ("allowSpoof", json!("no")),
        ("gatewayDns", json!(0)),
        ("isolate", json!("yes")),
        ("ipam", json!("weft")),
        ("ipam", json!({ "subnet": "10.0.0.0/8" })),
        ("ipam", json!({ "type": "../weft" })),
        ("ipam", json!({ "type": "weft", "routes": [{}] })),
        ("dns", json!([])),
        ("runtimeConfig", json!([])),
        ("runtimeConfig", json!({ "ips": ["x"] })),
        ("runtimeConfig", json!({ "mac": "x" })),
        ("runtimeConfig", json!({ "aliases": "x" })),
    ] {
        let error = read(&with(key, value.clone())).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{key}: {value}");
        let named = match key {
            "runtimeConfig" | "ipam" => value.as_object().and_then(|o| o.keys().next().cloned()),
            _ => None,
        };
        let named = named.unwrap_or_else(|| key.to_owned());
        let told = error.message.contains(&named) || error.message.contains(key);
        assert!(told, "{key}: {value}: {}", error.message);
    }
}

#[test]
fn port_mappings_are_published_ports() {
    let mappings = json!([
        { "hostPort": 8080, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": "fd00::1" },
        { "hostPort": 81, "containerPort": 81, "hostIP": "192.0.2.1" },
        { "containerPort": 9000, "protocol": "sctp" },
        { "hostPort": 0, "containerPort": 9000 },
    ]);
    let config = with("runtimeConfig", json!({ "portMappings": mappings }));
    let publish = read(&config).unwrap().wish.publish;
    let text: Vec<String> = publish.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "8080:80/tcp",
            "[fd00::1]:53:5353/udp",
            "192.0.2.1:81:81/tcp"
        ]
    );
    for (wrong, told) in [
        (json!({}), "list"),
        (json!([7]), "7"),
        (json!([{ "hostPort": 70000, "containerPort": 80 }]), "70000"),
        (json!([{ "hostPort": -1, "containerPort": 80 }]), "-1"),
        (
            json!([{ "hostPort": "80", "containerPort": 80 }]),
            "hostPort",
        ),
        (json!([{ "hostPort": 80 }]), "port 0"),
        (
            json!([{ "hostPort": 80, "containerPort": 80, "hostIP": "x" }]),
            "hostIP",
        ),
        (
            json!([{ "hostPort": 80, "containerPort": 80, "protocol": 6 }]),
            "protocol",
        ),
    ] {
        let config = with("runtimeConfig", json!({ "portMappings": wrong }));
        let error = read(&config).unwrap_err();
        assert_eq!(error.code, Code::InvalidConfig, "{wrong}");
        assert!(error.message.contains(told), "{wrong}: {}", error.message);
    }
    let mapping = json!({ "hostPort": 80, "containerPort": 80, "protocol": "sctp" });
    let config = with("runtimeConfig", json!({ "portMappings": [mapping] }));
    let error = read(&config).unwrap_err();
    assert_eq!(error.code, Code::UnsupportedField);
    assert!(error.message.contains("portMappings") && error.message.contains(&mapping.to_string()));
    assert!(error.details.contains("portmap"), "{}", error.details);
    read_for(Command::Del, &config).unwrap();
}

#[test]
fn what_is_not_supported_is_refused_by_key_and_value() {
    for (key, value) in [
        ("deviceID", json!("0000:00:1f.6")),
        ("ipRanges", json!([[{ "subnet": "10.0.0.0/24" }]])),
    ] {
        let mut runtime = json!({});
        runtime[key] = value.clone();
        let config = with("runtimeConfig", runtime);
        let error = read(&config).unwrap_err();
        assert_eq!(error.code, Code::UnsupportedField, "{key}");
        assert!(error.message.contains(key) && error.message.contains(&value.to_string()));
        assert!(!error.details.is_empty());
        // Whatever was asked at ADD, the way back is open.
        read_for(Command::Del, &config).unwrap();
    }
    let mut delegated = with("ipam", json!({ "type": "host-local" }));
    delegated["runtimeConfig"] = json!({ "ipRanges": [[{ "subnet": "10.0.0.0/24" }]] });
    read(&delegated).unwrap();
}

#[test]
fn check_and_gc_want_what_they_compare_with() {
    let error = read_for(Command::Check, &minimal()).unwrap_err();
    assert!(error.code == Code::InvalidConfig && error.message.contains("prevResult"));
    let error = read_for(Command::Check, &with("prevResult", json!({ "ips": 1 }))).unwrap_err();
    assert_eq!(error.code, Code::Decode);
    read_for(Command::Del, &with("prevResult", json!({ "ips": 1 }))).unwrap();
    // Without a list, taking everything away would be a guess.
    let error = read_for(Command::Gc, &minimal()).unwrap_err();
    assert!(error.code == Code::InvalidConfig && error.message.contains("valid-attachments"));
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let list = json!([{ "containerID": "a", "ifname": "eth0" }]);
        let config = read_for(Command::Gc, &with(key, list)).unwrap();
        assert_eq!(
            config.valid,
            Some(vec![("a".to_owned(), "eth0".to_owned())])
        );
    }
}

#[test]
fn what_is_no_json_object_is_a_decoding_failure() {
    for text in [
        "",
        "{",
        "[]",
        "1",
        "null",
        "\"a\"",
        "{\"cniVersion\": 1}",
        "\u{0}",
    ] {
        let error = Config::read(text.as_bytes(), Command::Add, &Args::default()).unwrap_err();
        assert_eq!(error.code, Code::Decode, "{text:?}: {error:?}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("10.0.0.1/8")),
        Just(json!("02:00:00:00:00:01")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let key = prop_oneof![
            ".{0,6}",
            Just("ips".to_owned()),
            Just("interfaces".to_owned()),
            Just("routes".to_owned()),
            Just("dns".to_owned()),
            Just("type".to_owned()),
            Just("address".to_owned()),
            Just("cni".to_owned()),
            Just("aliases".to_owned()),
            Just("interface".to_owned()),
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key, inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Whatever a field holds, reading ends with a configuration or with an error of the protocol; and a result that
    /// was read is written so that it reads the same again.
    #[test]
    fn reading_is_total(key in 0..KEYS.len(), value in any_json(), command in 0..4_usize) {
        let command = [Command::Add, Command::Del, Command::Check, Command::Gc][command];
        let mut config = with(KEYS[key], value);
        if let (Command::Check, true) = (command, config.get("prevResult").is_none()) {
            config["prevResult"] = json!({});
        }
        if let Ok(read) = read_for(command, &config)
            && let Some(prev) = read.prev
        {
            let again = CniResult::parse(&prev.to_json(Version::V1_1_0));
            prop_assert_eq!(again, Ok(prev));
        }
    }
}

const KEYS: [&str; 17] = [
    "cniVersion",
    "name",
    "type",
    "network",
    "socket",
    "subnet",
    "ipRange",
    "gateway",
    "vni",
    "mtu",
    "ipam",
    "dns",
    "args",
    "runtimeConfig",
    "prevResult",
    "cni.dev/valid-attachments",
    "defaultRoute",
];

#[test]
fn containerd_writes_what_it_asks_for_in_words_of_its_own() {
    // As go-cni marshals it: structures without names for JSON.
    let asked = json!({
        "portMappings": [{ "HostPort": 8088, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "" }],
        "bandwidth": { "IngressRate": 8000, "IngressBurst": 2_147_483_647u32, "EgressRate": 16_000, "EgressBurst": 16_000 },
        "dns": { "Servers": ["10.0.0.10"], "Searches": ["default.svc"], "Options": ["ndots:5"] },
    });
    let config = read(&with("runtimeConfig", asked)).unwrap();
    let [port] = &config.wish.publish[..] else {
        panic!("{:?}", config.wish.publish)
    };
    assert_eq!((port.host_port, port.port, port.ip), (8088, 80, None));
    let limits = config.wish.limits;
    assert_eq!(limits.to_port.unwrap().bits_per_sec, 8000);
    assert_eq!(limits.from_port.unwrap().burst_bytes, Some(2000));
    assert_eq!(config.dns.nameservers, ["10.0.0.10"]);
    assert_eq!(config.dns.options, ["ndots:5"]);
    // What is said as the conventions have it comes first.
    let both = json!({ "portMappings": [{ "hostPort": 81, "HostPort": 82, "containerPort": 80 }] });
    let config = read(&with("runtimeConfig", both)).unwrap();
    assert_eq!(config.wish.publish[0].host_port, 81);
}
