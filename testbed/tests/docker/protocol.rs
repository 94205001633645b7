//! The driver's protocol without a dockerd behind it: everything wrong that can be said, writes that fail, and calls that
//! come while others are under way.

use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use serde_json::{Map, Value, json};
use weft_testbed::lab::docker::Docker;
use weft_testbed::lab::process::Frozen;
use weft_testbed::lab::verdict::{wait_for, wait_until};
use weft_testbed::{Lab, Pair};

use super::*;

/// Docker's ids have 64 hexadecimal digits.
fn id(number: u32) -> String {
    format!("{number:012x}{:052x}", 0)
}

/// The Docker network of these tests.
const SHOP_ID: u32 = 1;
/// What an error may have in letters: one line for people.
const SENTENCE_MAX: usize = 1000;

/// The first host's driver, called as dockerd would call it.
struct Door {
    docker: Docker,
    /// Where the agent's state is, if that isn't the lab's directory.
    disk: Option<Disk>,
    pair: Pair,
    pool: String,
    /// An address of this node's own block.
    address: Ipv4Addr,
}

impl Door {
    /// A driver with a Docker network.
    fn up() -> Self {
        Self::up_on(Pair::cold(Lab::new()), None)
    }

    fn up_on(pair: Pair, disk: Option<Disk>) -> Self {
        pair.controller.start();
        let docker = Docker::cold(&pair.host1);
        pair.host1.join_with_docker(&pair.controller, &docker);
        pair.host2.join(&pair.controller);
        pair.wait_in_sync();
        let mut door = Self {
            docker,
            disk,
            pair,
            pool: String::new(),
            address: Ipv4Addr::UNSPECIFIED,
        };
        let pool = door.done(
            "IpamDriver.RequestPool",
            &json!({ "AddressSpace": "weft", "Pool": "10.40.0.0/16", "Options": {} }),
        );
        door.pool = pool["PoolID"].as_str().unwrap().to_owned();
        let shop = json!({
            "NetworkID": id(SHOP_ID), "Options": { "com.docker.network.generic": { "weft.network": "shop" } },
            "IPv4Data": [{ "AddressSpace": "weft", "Pool": "10.40.0.0/16", "Gateway": "10.40.0.1/16" }],
        });
        door.done("NetworkDriver.CreateNetwork", &shop);
        // The first address takes a block, which stays this node's.
        let taken = door.done("IpamDriver.RequestAddress", &door.request(""));
        let address = taken["Address"].as_str().unwrap().to_owned();
        let released = json!({ "PoolID": door.pool, "Address": address });
        door.done("IpamDriver.ReleaseAddress", &released);
        door.address = address.split('/').next().unwrap().parse().unwrap();
        door
    }

    /// Another address of that block.
    fn own(&self, number: u32) -> String {
        Ipv4Addr::from_bits(self.address.to_bits() + number).to_string()
    }

    /// A call that must be done.
    #[track_caller]
    fn done(&self, method: &str, body: &Value) -> Value {
        let reply = self.docker.call(method, body);
        assert_eq!(error_of(method, &reply), None, "{method} {body}");
        reply
    }

    /// A call that must be refused; why.
    #[track_caller]
    fn refused(&self, method: &str, body: &Value) -> String {
        let reply = self.docker.call(method, body);
        let why = error_of(method, &reply);
        why.unwrap_or_else(|| panic!("{method} {body} was not refused: {reply}"))
    }

    fn endpoint(&self, number: u32, address: &str) -> Value {
        json!({ "NetworkID": id(SHOP_ID), "EndpointID": id(number), "Interface": { "Address": address } })
    }

    fn of(&self, number: u32) -> Value {
        json!({ "NetworkID": id(SHOP_ID), "EndpointID": id(number), "SandboxKey": "/nowhere", "Options": {} })
    }

    fn request(&self, address: &str) -> Value {
        json!({ "PoolID": self.pool, "Address": address, "Options": {} })
    }

    /// What the agent keeps for Docker, but for the number of the next pool.
    fn kept(&self) -> Value {
        let mut kept = ledger(&self.pair.host1);
        kept["next"] = Value::Null;
        kept
    }

    fn members(&self) -> usize {
        members(&self.pair.host2, "shop").len()
    }
}

/// The error of a reply, in the protocol's own form: each half has its own name for it, and no other.
#[track_caller]
fn error_of(method: &str, reply: &Value) -> Option<String> {
    let ours = if method.starts_with("IpamDriver.") {
        ["Error", "Err"]
    } else {
        ["Err", "Error"]
    };
    assert!(reply.is_object(), "{method}: {reply}");
    assert!(reply.get(ours[1]).is_none(), "{method}: {reply}");
    let error = reply.get(ours[0])?.as_str().unwrap().to_owned();
    assert!(!error.is_empty() && error.len() < SENTENCE_MAX, "{error}");
    Some(error)
}

/// What a field is to hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text that must be there.
    Id,
    /// Text that may be left out.
    Text,
    /// An address or a range, which may be left out.
    Address,
    /// The same, but it must be there.
    NeededAddress,
    Flag,
    Object,
    List,
    /// Options of users: values of any simple kind are taken for text.
    Option,
    /// A part of a port binding.
    Number,
    /// Nothing that we look at.
    Unread,
}

/// A call in which everything is right, its fields by JSON pointer, and what undoes it.
struct Case {
    method: &'static str,
    body: Value,
    fields: Vec<(&'static str, Kind)>,
    undo: Option<&'static str>,
}

/// Every call that has fields, for the endpoint or network of that number.
fn cases(door: &Door, number: u32) -> Vec<Case> {
    const NETWORK: (&str, Kind) = ("/NetworkID", Kind::Id);
    const ENDPOINT: (&str, Kind) = ("/EndpointID", Kind::Id);
    let both = vec![NETWORK, ENDPOINT];
    let of = door.of(number);
    let case = |method, body: &Value, fields: &[(&'static str, Kind)], undo| Case {
        method,
        body: body.clone(),
        fields: fields.to_vec(),
        undo,
    };
    let bindings = json!([{ "Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080 }]);
    let mut published = of.clone();
    published["Options"] = json!({ "com.docker.network.portmap": bindings });
    vec![
        case(
            "NetworkDriver.CreateNetwork",
            &json!({
                "NetworkID": id(number),
                "Options": {
                    "com.docker.network.enable_ipv6": false,
                    "com.docker.network.internal": false,
                    "com.docker.network.generic": { "weft.network": "other", "mtu": "1400" },
                },
                "IPv4Data": [{ "AddressSpace": "weft", "Pool": "10.41.0.0/16", "Gateway": "10.41.0.1/16",
                    "AuxAddresses": { "router": "10.41.0.9/16" } }],
                "IPv6Data": [],
            }),
            &[
                NETWORK,
                ("/Options", Kind::Object),
                ("/Options/com.docker.network.enable_ipv6", Kind::Unread),
                ("/Options/com.docker.network.internal", Kind::Flag),
                ("/Options/com.docker.network.generic", Kind::Object),
                (
                    "/Options/com.docker.network.generic/weft.network",
                    Kind::Option,
                ),
                ("/Options/com.docker.network.generic/mtu", Kind::Option),
                ("/IPv4Data", Kind::List),
                ("/IPv4Data/0/AddressSpace", Kind::Text),
                ("/IPv4Data/0/Pool", Kind::NeededAddress),
                ("/IPv4Data/0/Gateway", Kind::Address),
                ("/IPv4Data/0/AuxAddresses", Kind::Object),
                ("/IPv6Data", Kind::List),
            ],
            Some("NetworkDriver.DeleteNetwork"),
        ),
        case(
            "NetworkDriver.DeleteNetwork",
            &json!({ "NetworkID": id(number) }),
            &[NETWORK],
            None,
        ),
        case(
            "NetworkDriver.CreateEndpoint",
            &json!({
                "NetworkID": id(SHOP_ID), "EndpointID": id(number),
                "Interface": { "Address": format!("{}/16", door.own(7)), "AddressIPv6": "", "MacAddress": "02:42:00:00:07:07" },
                "Options": { "com.docker.network.endpoint.exposedports": [] },
            }),
            &[
                NETWORK,
                ENDPOINT,
                ("/Interface", Kind::Object),
                ("/Interface/Address", Kind::Address),
                ("/Interface/AddressIPv6", Kind::Address),
                ("/Interface/MacAddress", Kind::Address),
                ("/Options", Kind::Unread),
            ],
            Some("NetworkDriver.DeleteEndpoint"),
        ),
        case("NetworkDriver.EndpointOperInfo", &of, &both, None),
        case(
            "NetworkDriver.Join",
            &of,
            &[
                NETWORK,
                ENDPOINT,
                ("/SandboxKey", Kind::Text),
                ("/Options", Kind::Unread),
            ],
            None,
        ),
        case(
            "NetworkDriver.ProgramExternalConnectivity",
            &published,
            &[
                NETWORK,
                ENDPOINT,
                ("/Options", Kind::Object),
                ("/Options/com.docker.network.portmap", Kind::List),
                ("/Options/com.docker.network.portmap/0/Proto", Kind::Number),
                ("/Options/com.docker.network.portmap/0/Port", Kind::Number),
                (
                    "/Options/com.docker.network.portmap/0/HostIP",
                    Kind::Address,
                ),
                (
                    "/Options/com.docker.network.portmap/0/HostPort",
                    Kind::Number,
                ),
                (
                    "/Options/com.docker.network.portmap/0/HostPortEnd",
                    Kind::Number,
                ),
            ],
            None,
        ),
        case("NetworkDriver.RevokeExternalConnectivity", &of, &both, None),
        case("NetworkDriver.Leave", &of, &both, None),
        case("NetworkDriver.DeleteEndpoint", &of, &both, None),
        case(
            "IpamDriver.RequestPool",
            &json!({ "AddressSpace": "weft", "Pool": "10.42.0.0/16", "SubPool": "10.42.1.0/24", "Options": {}, "V6": false }),
            &[
                ("/AddressSpace", Kind::Unread),
                ("/Pool", Kind::Address),
                ("/SubPool", Kind::Address),
                ("/Options", Kind::Object),
                ("/V6", Kind::Flag),
            ],
            Some("IpamDriver.ReleasePool"),
        ),
        case(
            "IpamDriver.ReleasePool",
            &json!({ "PoolID": "10.42.0.0/16#99" }),
            &[("/PoolID", Kind::Id)],
            None,
        ),
        case(
            "IpamDriver.RequestAddress",
            &door.request(&door.own(8)),
            &[
                ("/PoolID", Kind::Id),
                ("/Address", Kind::Address),
                ("/Options", Kind::Object),
            ],
            Some("IpamDriver.ReleaseAddress"),
        ),
        case(
            "IpamDriver.ReleaseAddress",
            &json!({ "PoolID": door.pool, "Address": door.own(8) }),
            &[("/PoolID", Kind::Id), ("/Address", Kind::NeededAddress)],
            None,
        ),
    ]
}

/// Something wrong in a field's place, and which kinds of fields it can't stand for; nothing at all when `None`.
fn wrongs() -> [(Option<Value>, &'static [Kind]); 13] {
    use Kind::{Address, Flag, Id, List, NeededAddress, Number, Object, Option, Text};
    const SIMPLE: &[Kind] = &[Id, Text, Address, NeededAddress, Flag, Object, List, Number];
    let long = "x".repeat(100_000);
    [
        (None, &[Id, NeededAddress]),
        (Some(Value::Null), &[Id, NeededAddress]),
        (
            Some(json!("")),
            &[Id, NeededAddress, Object, List, Flag, Number],
        ),
        (Some(json!(7.5)), SIMPLE),
        (Some(json!(-1)), SIMPLE),
        (Some(json!(1e300)), SIMPLE),
        (
            Some(json!(true)),
            &[Id, Text, Address, NeededAddress, Object, List, Number],
        ),
        (
            Some(json!([])),
            &[
                Id,
                Text,
                Address,
                NeededAddress,
                Flag,
                Object,
                Option,
                Number,
            ],
        ),
        (
            Some(json!([["deep"]])),
            &[
                Id,
                Text,
                Address,
                NeededAddress,
                Flag,
                Object,
                Option,
                List,
                Number,
            ],
        ),
        (
            Some(json!({})),
            &[Id, Text, Address, NeededAddress, Flag, Option, List, Number],
        ),
        (
            Some(json!({ "a": { "b": 1 } })),
            &[Id, Text, Address, NeededAddress, Flag, Option, List, Number],
        ),
        (
            Some(json!("nonsense")),
            &[Address, NeededAddress, Flag, Object, List, Number],
        ),
        (
            Some(json!(long)),
            &[
                Id,
                Address,
                NeededAddress,
                Flag,
                Object,
                List,
                Option,
                Number,
            ],
        ),
    ]
}

/// The body with another value at `pointer`; without the field for `None`.
fn with(body: &Value, pointer: &str, value: Option<&Value>) -> Value {
    let mut body = body.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let place: &mut Map<String, Value> = body.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => drop(place.insert(name.to_owned(), value.clone())),
        None => drop(place.remove(name)),
    }
    body
}

#[test]
fn every_field_that_is_wrong_or_missing_is_answered_in_the_protocols_own_form() {
    let door = Door::up();
    let host = &door.pair.host1;
    let before = (door.kept(), host.listing(), taps(host));
    let mut number = 1000;
    for index in 0..cases(&door, 0).len() {
        for (value, not_for) in wrongs() {
            for field in 0..cases(&door, 0)[index].fields.len() {
                number += 1;
                let case = cases(&door, number).swap_remove(index);
                let (pointer, kind) = case.fields[field];
                let body = with(&case.body, pointer, value.as_ref());
                let reply = door.docker.call(case.method, &body);
                let error = error_of(case.method, &reply);
                let name = pointer.rsplit('/').next().unwrap();
                let told = || {
                    let shown: String = body.to_string().chars().take(300).collect();
                    format!("{} {pointer}: {shown} -> {error:?}", case.method)
                };
                if not_for.contains(&kind) {
                    let why = error
                        .as_deref()
                        .unwrap_or_else(|| panic!("not refused: {}", told()));
                    assert!(why.contains(name) || why.contains("portmap"), "{}", told());
                }
                // What was taken nevertheless is given back, as Docker would.
                if let (None, Some(undo)) = (&error, case.undo) {
                    let mut back = body.clone();
                    for (from, to) in [("/PoolID", "PoolID"), ("/Address", "Address")] {
                        if let Some(given) = reply.pointer(from) {
                            back[to] = given.clone();
                        }
                    }
                    door.done(undo, &back);
                }
            }
        }
    }
    wait_for(NOTICE, "no other network is left", &1, || {
        host.status().networks
    });
    assert_eq!((door.kept(), host.listing(), taps(host)), before);
    // And in between it has not forgotten its business.
    door.done("NetworkDriver.CreateEndpoint", &door.endpoint(2, ""));
}

/// A request as nobody would write it; what came back, if anything did.
fn raw(socket: &Path, method: &str, body: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(NOTICE)).unwrap();
    stream.set_write_timeout(Some(NOTICE)).unwrap();
    let head = format!(
        "POST /{method} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // It may have had enough before it has all of it.
    let _ = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn bodies_that_are_no_objects_are_answered_too() {
    let door = Door::up();
    let host = &door.pair.host1;
    let before = (door.kept(), host.listing());
    let socket = door.docker.plugin();
    let deep = "[".repeat(100_000);
    let long = format!("{{\"NetworkID\":\"{}\"}}", "x".repeat(3 << 20));
    for case in cases(&door, 9) {
        for body in [
            &b"[]"[..],
            b"7",
            b"\"text\"",
            b"{",
            b"{\"NetworkID\":",
            b"\xff\xfe\x00",
            b"{}{}",
            deep.as_bytes(),
            long.as_bytes(),
        ] {
            let answer = raw(&socket, case.method, body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(20)]);
            let told = format!("{} {shown}: {answer:?}", case.method);
            let (head, reply) = answer
                .split_once("\r\n\r\n")
                .unwrap_or_else(|| panic!("{told}"));
            assert!(head.starts_with("HTTP/1.1 200"), "{told}");
            let reply: Value = serde_json::from_str(reply).unwrap_or_else(|_| panic!("{told}"));
            let why = error_of(case.method, &reply).unwrap_or_else(|| panic!("{told}"));
            assert!(why.contains(case.method) && why.contains("body"), "{told}");
        }
        // What is left out altogether is an object without fields.
        for body in [&b""[..], b"null", b"{}", b" \n"] {
            let answer = raw(&socket, case.method, body);
            let (_, reply) = answer.split_once("\r\n\r\n").unwrap();
            let reply: Value = serde_json::from_str(reply).unwrap();
            let error = error_of(case.method, &reply);
            let has_needed = case.fields.iter().any(|(_, kind)| *kind == Kind::Id);
            assert_eq!(error.is_some(), has_needed, "{}: {error:?}", case.method);
            if let Some(pool) = reply.get("PoolID") {
                door.done("IpamDriver.ReleasePool", &json!({ "PoolID": pool }));
            }
        }
    }
    assert_eq!((door.kept(), host.listing()), before);
}

/// A small file system; gone with it.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"])
            .arg(at)
            .status();
        assert!(mounted.unwrap().success());
        Self(at.to_owned())
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("ballast")
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        // It ends with an error: that is what it's for.
        let _ = fs::write(self.ballast(), vec![0; 16 << 20]);
    }

    fn make_room(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it keeps it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let pair = Pair::cold(Lab::new());
    let disk = Disk::mount(&pair.host1.state());
    let door = Door::up_on(pair, Some(disk));
    let (host, disk) = (&door.pair.host1, door.disk.as_ref().unwrap());
    // An endpoint that is about to be joined, and one that is.
    for number in [2, 3] {
        let address = door.done("IpamDriver.RequestAddress", &door.request(""));
        let address = address["Address"].as_str().unwrap();
        let created = door.endpoint(number, address);
        door.done("NetworkDriver.CreateEndpoint", &created);
    }
    door.done("NetworkDriver.Join", &door.of(3));
    wait_for(NOTICE, "both are known", &2, || door.members());
    let before = (door.kept(), taps(host));
    disk.fill();
    let pool = json!({ "Pool": "10.44.0.0/16" });
    let network = json!({
        "NetworkID": id(7), "Options": { "com.docker.network.generic": { "weft.network": "other" } },
        "IPv4Data": [{ "AddressSpace": "weft", "Pool": "10.45.0.0/16" }],
    });
    let full: [(&str, Value); 7] = [
        ("IpamDriver.RequestPool", pool.clone()),
        ("IpamDriver.RequestAddress", door.request("")),
        ("IpamDriver.RequestAddress", door.request(&door.own(9))),
        ("NetworkDriver.CreateNetwork", network.clone()),
        ("NetworkDriver.CreateEndpoint", door.endpoint(4, "")),
        (
            "NetworkDriver.CreateEndpoint",
            door.endpoint(5, &door.own(9)),
        ),
        ("NetworkDriver.Join", door.of(2)),
    ];
    for (method, body) in &full {
        let why = door.refused(method, body);
        assert!(why.contains("No space left"), "{method} {body}: {why}");
        assert_eq!((door.kept(), taps(host)), before, "{method} {body}");
    }
    // Neither the network nor the endpoints are in the cluster.
    wait_for(NOTICE, "the overlay is gone again", &1, || {
        host.status().networks
    });
    wait_for(NOTICE, "only what was there is there", &2, || {
        door.members()
    });
    // The end of an endpoint isn't noted, and so is asked for again.
    door.refused("NetworkDriver.DeleteEndpoint", &door.of(3));
    disk.make_room();
    for (method, body) in &full {
        door.done(method, body);
    }
    for number in [2, 3, 4, 5] {
        door.done("NetworkDriver.DeleteEndpoint", &door.of(number));
    }
    door.done(
        "NetworkDriver.DeleteNetwork",
        &json!({ "NetworkID": id(7) }),
    );
    wait_for(NOTICE, "no endpoint is left", &0, || door.members());
    assert_eq!(taps(host), Vec::<String>::new());
    assert_eq!(door.kept()["endpoints"], json!({}));
}

#[test]
fn an_endpoint_is_removed_after_it_was_made_and_others_go_on_meanwhile() {
    let pair = Pair::cold(Lab::new());
    let debug = ["--log", "info,weft_control=debug"].map(str::to_owned);
    pair.host1.give_agent(&debug);
    let door = Door::up_on(pair, None);
    let host = &door.pair.host1;
    let address = &door.own(0);
    door.done("IpamDriver.RequestAddress", &door.request(address));
    let replies = thread::scope(|scope| {
        // Nobody hears of the new endpoint now, so that making it takes a while.
        let frozen = Frozen::new(door.pair.controller.pid());
        let call = |method: &'static str, body: Value| {
            let door = &door;
            scope.spawn(move || door.docker.call(method, &body))
        };
        let made = call("NetworkDriver.CreateEndpoint", door.endpoint(2, address));
        let name = format!("docker-{}", &id(2)[..12]);
        wait_until(NOTICE, "the agent has begun", || {
            let log = host.agent().log();
            log.lines()
                .any(|line| line.contains("endpoint begun") && line.contains(&name))
        });
        let removed = call("NetworkDriver.DeleteEndpoint", door.of(2));
        // Whoever needs nobody isn't held up by who does.
        for number in 10..20 {
            door.done("IpamDriver.RequestAddress", &door.request(""));
            door.done("NetworkDriver.Leave", &door.of(number));
            door.done("NetworkDriver.DeleteEndpoint", &door.of(number));
        }
        drop(frozen);
        [made, removed].map(|call| call.join().unwrap())
    });
    for reply in &replies {
        assert_eq!(error_of("NetworkDriver", reply), None, "{reply}");
    }
    assert_eq!(door.kept()["endpoints"], json!({}));
    door.pair.wait_in_sync();
    wait_for(NOTICE, "no endpoint is left", &0, || door.members());
    assert_eq!((taps(host).len(), held(host).len()), (0, 11));
}
