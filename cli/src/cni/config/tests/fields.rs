//! Every key of a configuration, with everything in its place that doesn't belong there.

use serde_json::{Value, json};

use super::super::*;
use crate::cni::error::Code;

/// What a key is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Needed,
    Text,
    /// An address, a range, a MAC.
    Parsed,
    /// One such text, or a list of them.
    TextOrTexts,
    Texts,
    Number,
    Flag,
    Object,
    List,
}

use Kind::{Flag, List, Needed, Number, Object, Parsed, Text, TextOrTexts, Texts};

/// A configuration in which everything is right.
fn full() -> Value {
    json!({
        "cniVersion": "1.1.0", "name": "pods", "type": "weft",
        "network": "blue", "socket": "/run/weft/weft.sock",
        "subnet": ["10.32.0.0/16"], "ipRange": "10.32.8.0/21", "gateway": "10.32.0.9",
        "vni": 77, "mtu": 1400, "encrypted": false, "internal": false, "isolate": false,
        "defaultRoute": true, "offload": true, "allowSpoof": false, "gatewayDns": true,
        "ipam": { "type": "weft", "routes": [{ "dst": "10.0.0.0/8", "gw": "10.32.0.9" }] },
        "dns": { "nameservers": ["10.32.0.9"], "domain": "example", "search": ["example"], "options": [] },
        "args": { "cni": { "ips": ["10.32.0.50"], "mac": "02:00:00:00:00:09" } },
        "runtimeConfig": {
            "ips": ["10.32.0.51/16"], "mac": "02:00:00:00:00:10", "aliases": ["web"],
            "bandwidth": { "ingressRate": 8000, "ingressBurst": 8000, "egressRate": 8000, "egressBurst": 8000 },
            "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "192.0.2.1" }],
            "dns": { "servers": ["10.32.0.9"], "searches": [], "options": [] },
        },
        "prevResult": {
            "cniVersion": "1.1.0", "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:11", "sandbox": "/n" }],
            "ips": [{ "address": "10.32.0.7/16", "gateway": "10.32.0.9", "interface": 0 }],
            "routes": [{ "dst": "0.0.0.0/0" }], "dns": {},
        },
        "cni.dev/valid-attachments": [{ "containerID": "c1", "ifname": "eth0" }],
    })
}

/// Keys that every command reads.
const READ_ALWAYS: [(&str, Kind); 21] = [
    ("/cniVersion", Needed),
    ("/name", Needed),
    ("/network", Text),
    ("/socket", Text),
    ("/subnet", TextOrTexts),
    ("/ipRange", TextOrTexts),
    ("/gateway", TextOrTexts),
    ("/vni", Number),
    ("/mtu", Number),
    ("/encrypted", Flag),
    ("/internal", Flag),
    ("/isolate", Flag),
    ("/defaultRoute", Flag),
    ("/offload", Flag),
    ("/allowSpoof", Flag),
    ("/gatewayDns", Flag),
    ("/ipam", Object),
    ("/ipam/routes", List),
    ("/runtimeConfig", Object),
    ("/runtimeConfig/dns", Object),
    ("/runtimeConfig/dns/servers", Texts),
];

/// Keys that ADD reads besides.
const READ_BY_ADD: [(&str, Kind); 17] = [
    ("/args/cni/mac", Text),
    ("/runtimeConfig/ips", Texts),
    ("/runtimeConfig/mac", Parsed),
    ("/runtimeConfig/aliases", Texts),
    ("/runtimeConfig/bandwidth", Object),
    ("/runtimeConfig/bandwidth/ingressRate", Number),
    ("/runtimeConfig/bandwidth/ingressBurst", Number),
    ("/runtimeConfig/bandwidth/egressRate", Number),
    ("/runtimeConfig/bandwidth/egressBurst", Number),
    ("/runtimeConfig/portMappings", List),
    ("/runtimeConfig/portMappings/0/hostPort", Number),
    ("/runtimeConfig/portMappings/0/containerPort", Number),
    ("/runtimeConfig/portMappings/0/protocol", Text),
    ("/runtimeConfig/portMappings/0/hostIP", Parsed),
    ("/prevResult/interfaces", List),
    ("/prevResult/ips", List),
    ("/prevResult/ips/0/address", Parsed),
];

/// Something wrong in a key's place, and which kinds it can't stand for; nothing at all when `None`.
#[expect(clippy::too_many_lines, reason = "one table of cases")]
fn wrongs() -> [(Option<Value>, &'static [Kind]); 11] {
    [
        (None, &[Needed]),
        (Some(Value::Null), &[Needed]),
        (
            Some(json!("")),
            &[Needed, TextOrTexts, Number, Flag, Object, List, Texts],
        ),
        (
            Some(json!(7.5)),
            &[
                Needed,
                Text,
                Parsed,
                TextOrTexts,
                Texts,
                Number,
                Flag,
                Object,
                List,
            ],
        ),
        (
            Some(json!(-1)),
            &[
                Needed,
                Text,
                Parsed,
                TextOrTexts,
                Texts,
                Number,
                Flag,
                Object,
                List,
            ],
        ),
        (
            Some(json!(true)),
            &[
                Needed,
                Text,
                Parsed,
                TextOrTexts,
                Texts,
                Number,
                Object,
                List,
            ],
        ),
        (
            Some(json!([])),
            &[Needed, Text, Parsed, Number, Flag, Object],
        ),
        (
            Some(json!([["deep"]])),
            &[
                Needed,
                Text,
                Parsed,
                TextOrTexts,
                Texts,
                Number,
                Flag,
                Object,
                List,
            ],
        ),
        (
            Some(json!({ "a": { "b": 1 } })),
            &[Needed, Text, Parsed, TextOrTexts, Texts, Number, Flag, List],
        ),
        (
            Some(json!("two words")),
            &[
                Needed,
                Parsed,
                TextOrTexts,
                Texts,
                Number,
                Flag,
                Object,
                List,
            ],
        ),
        (
            Some(json!("x".repeat(100_000))),
            &[Parsed, TextOrTexts, Texts, Number, Flag, Object, List],
        ),
    ]
}

fn with(pointer: &str, value: Option<&Value>) -> Value {
    let mut config = full();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let place = config.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(place.insert(name.to_owned(), value.clone())),
        None => drop(place.remove(name)),
    }
    config
}

fn read(command: Command, config: &Value) -> Result<Config, CniError> {
    Config::read(config.to_string().as_bytes(), command, &Args::default())
}

const COMMANDS: [Command; 5] = [
    Command::Add,
    Command::Del,
    Command::Check,
    Command::Gc,
    Command::Status,
];

#[test]
fn every_key_that_is_wrong_or_missing_is_refused_by_its_name() {
    for command in COMMANDS {
        assert!(read(command, &full()).is_ok(), "{command:?}");
        let by_add = READ_BY_ADD.iter().filter(|_| command == Command::Add);
        for (pointer, kind) in READ_ALWAYS.iter().chain(by_add) {
            for (value, not_for) in wrongs() {
                let done = read(command, &with(pointer, value.as_ref()));
                let shown =
                    value.map(|value| value.to_string().chars().take(80).collect::<String>());
                let told = format!("{command:?} {pointer} {shown:?}");
                if not_for.contains(kind) {
                    assert!(done.is_err(), "{told} is taken");
                }
                let Err(error) = done else { continue };
                let by_code = matches!(
                    error.code,
                    Code::IncompatibleVersion
                        | Code::UnsupportedField
                        | Code::Decode
                        | Code::InvalidConfig
                );
                assert!(by_code, "{told}: {error:?}");
                let said = error.to_json("1.1.0")["msg"].as_str().unwrap().to_owned();
                assert!(said.len() < 2000, "{told}: {} bytes", said.len());
                let mut names = pointer.split('/').skip(1);
                let version = *pointer == "/cniVersion" && said.contains("version");
                assert!(
                    version || names.any(|name| said.contains(name)),
                    "{told}: {said}"
                );
            }
        }
    }
}

#[test]
fn keys_that_only_some_commands_need() {
    for (pointer, command) in [
        ("/prevResult", Command::Check),
        ("/cni.dev~1valid-attachments", Command::Gc),
    ] {
        for value in [None, Some(Value::Null), Some(json!(7)), Some(json!("text"))] {
            let mut config = full();
            let key = pointer.trim_start_matches('/').replace("~1", "/");
            match &value {
                Some(value) => config[&key] = value.clone(),
                None => drop(config.as_object_mut().unwrap().remove(&key)),
            }
            let error = read(command, &config).unwrap_err();
            assert!(
                error.message.contains(&key),
                "{command:?} {value:?}: {error:?}"
            );
        }
    }
    // DEL never fails for what was done before.
    for value in [json!(7), json!([]), json!({ "ips": 7 })] {
        assert!(read(Command::Del, &with("/prevResult", Some(&value))).is_ok());
    }
}
