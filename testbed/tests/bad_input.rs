//! What people get wrong: refused with an error that names the object, the cause and the next step; exit code 1 (2 for
//! usage); and nothing half-made stays.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use weft_testbed::lab::node::weft;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::wait_for;
use weft_testbed::{Container, Host, Lab, Namespace, Pair};

/// A daemon that refuses its input says so within this time.
const REFUSAL: Duration = Duration::from_secs(10);

struct Blue {
    pair: Pair,
    c1: Container,
    c2: Container,
    /// Not connected.
    bare: Namespace,
}

fn blue() -> Blue {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    pair.host1.weft(&["network", "create", "lab"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    let bare = pair.lab.namespace("bare");
    pair.wait_in_sync();
    Blue { pair, c1, c2, bare }
}

/// What is wrong with how a command is refused, if anything: the refusal names every word of `named` and a next step,
/// and everything is as before.
fn complaint(host: &Host, line: &str, named: &str) -> Option<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let before = (host.listing(), host.ns.ifnames());
    let plain = host.try_weft(&words);
    if plain.code != Some(1) {
        return Some(format!("it is not refused with exit code 1: {plain}"));
    }
    let refusal = host.refused(&words);
    if let Some(name) = named
        .split_whitespace()
        .find(|name| !refusal.message.contains(*name))
    {
        return Some(format!("`weft {line}` does not name {name}: {refusal:?}"));
    }
    let next_step = !refusal.hint.is_empty() || refusal.message.contains(": take ");
    if !next_step || refusal.code.is_empty() {
        return Some(format!("`weft {line}` tells no next step: {refusal:?}"));
    }
    if !plain.stderr.contains(&refusal.message) {
        return Some(format!("people and programs read the same: {plain}"));
    }
    let after = (host.listing(), host.ns.ifnames());
    (before != after).then(|| format!("`weft {line}` left something:\n{before:#?}\n{after:#?}"))
}

/// Each command line is refused as [`complaint`] wants it.
#[track_caller]
fn refuse(host: &Host, cases: &[(&str, &str)]) {
    let complaints: Vec<String> = cases
        .iter()
        .filter_map(|(line, named)| complaint(host, line, named))
        .collect();
    let count = complaints.len();
    assert!(
        count == 0,
        "{count} refusals are not as they should be:\n{}",
        complaints.join("\n")
    );
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let blue = blue();
    let host = &blue.pair.host2;
    let vni = host.network("blue").network.vni.to_string();
    let same_vni = format!("network create red --vni {vni}");
    refuse(
        host,
        &[
            (
                "network create red --subnet 10.32.128.0/17",
                "10.32.128.0/17 blue",
            ),
            ("network create red --subnet 10.0.0.0/8", "10.0.0.0/8 blue"),
            ("network create red --subnet fd32::/48", "fd32::/48 blue"),
            (
                "network create red --subnet 10.40.0.0/16 --subnet 10.40.1.0/24",
                "10.40.1.0/24",
            ),
            ("network create red --subnet 10.40.0.1/16", "10.40.0.1/16"),
            ("network create red --subnet 224.0.0.0/8", "224.0.0.0/8"),
            ("network create blue", "blue"),
            ("network create bad!name", "bad!name"),
            (&same_vni, &format!("{vni} blue")),
            (
                "network create red --subnet 10.40.0.0/16 --gateway 10.41.0.1",
                "10.41.0.1",
            ),
            (
                "network create red --subnet 10.40.0.0/16 --ip-range 10.41.0.0/24",
                "10.41.0.0/24",
            ),
            ("network rm blue", "blue c1"),
            ("network rm nosuch", "nosuch"),
            ("network set nosuch --mtu 1400", "nosuch"),
            ("network vtep add nosuch 10.99.0.9", "nosuch"),
            ("network vtep rm blue 10.99.0.9", "blue 10.99.0.9"),
            ("network vtep add blue 224.0.0.1", "224.0.0.1"),
        ],
    );
}

#[test]
fn containers_that_cannot_be_connected_are_refused() {
    let blue = blue();
    let host = &blue.pair.host1;
    let (taken, far) = (blue.c1.ip().to_string(), blue.c2.ip().to_string());
    let file = blue.pair.lab.dir().join("file");
    fs::write(&file, "no namespace").unwrap();
    let file = file.to_str().unwrap();
    blue.bare.ip(&[
        "link", "add", "taken0", "type", "veth", "peer", "name", "other0",
    ]);
    let mac = blue.c1.mac().to_string();
    let bare = |rest: &str| format!("network connect blue --netns {} {rest}", blue.bare.name());
    refuse(
        host,
        &[
            (
                &format!("network connect nosuch --netns {}", blue.bare.name()),
                "nosuch",
            ),
            ("network connect blue --netns nosuch", "nosuch"),
            (
                "network connect blue --netns /run/netns/nosuch",
                "/run/netns/nosuch",
            ),
            (&format!("network connect blue --netns {file}"), file),
            ("network connect blue --pid 4194304", "4194304"),
            (&bare(&format!("--ip {taken}")), &format!("{taken} c1")),
            (&bare(&format!("--ip {far}")), &format!("{far} c2")),
            (&bare(&format!("--mac {mac}")), &format!("{mac} c1")),
            (&bare("--ip 10.33.0.5"), "10.33.0.5 blue"),
            (&bare("--ip 10.32.0.0"), "10.32.0.0"),
            (&bare("--ip 10.32.0.1"), "10.32.0.1 gateway"),
            (&bare("--ip 10.32.255.255"), "10.32.255.255"),
            (&bare("--ip 10.32.9.1 --ip 10.32.9.2"), "10.32.0.0/16"),
            (&bare("--name c1"), "c1 blue"),
            (&bare("--name c2"), "c2 blue"),
            (&bare("--name bad!name"), "bad!name"),
            (&bare("--alias=-bad"), "-bad"),
            (&bare("--ifname taken0"), "taken0"),
            (&bare("--ifname a/b"), "a/b"),
            (&bare("--ifname sixteen-letters-"), "sixteen-letters-"),
            (&bare("--mac 01:00:5e:00:00:01"), "01:00:5e:00:00:01"),
            (&bare("--mac 00:00:00:00:00:00"), "00:00:00:00:00:00"),
            (
                &format!(
                    "network connect lab --netns {} --ip 10.1.1.1",
                    blue.bare.name()
                ),
                "lab",
            ),
            (
                &format!("network disconnect blue --netns {}", blue.bare.name()),
                "blue",
            ),
            ("network disconnect blue --name nosuch", "nosuch blue"),
            ("network disconnect nosuch --name c1", "nosuch"),
            // It is connected, but to the other host.
            ("network disconnect blue --name c2", "c2 blue"),
        ],
    );
    let mut left = blue.bare.ifnames();
    left.sort();
    assert_eq!(
        left,
        ["other0", "taken0"],
        "nothing was left in the container"
    );
    ping(&blue.c1.ns, blue.c2.ip());
    // And what is right still works there.
    host.connect("blue", &blue.bare, &["--name", "late"]);
}

#[test]
fn wrong_words_are_usage_errors() {
    for words in [
        &["network", "create"][..],
        &["network", "create", "x", "--subnet", "10.0.0.0/33"],
        &["network", "create", "x", "--vni", "0"],
        &["network", "create", "x", "--vni", "16777216"],
        &["network", "connect", "x"],
        &["network", "connect", "x", "--netns", "a", "--pid", "1"],
        &["network", "connect", "x", "--netns", "a", "--mac", "02:00"],
        &["network", "set", "x"],
        &["status", "--wait", "soon"],
        &["agent", "run", "--underlay", "here"],
        &["frobnicate"],
    ] {
        let finished = weft(words);
        assert_eq!(finished.code, Some(2), "{finished}");
        assert!(finished.stderr.contains("--help"), "{finished}");
    }
}

#[test]
fn a_command_without_an_agent_says_where_it_looked() {
    let lab = Lab::new();
    let path = lab.dir().join("nobody.sock");
    let finished = weft(&["--socket", path.to_str().unwrap(), "ports"]);
    assert_eq!(finished.code, Some(1));
    assert!(
        finished.stderr.contains("nobody.sock") && finished.stderr.contains("agent run"),
        "{finished}"
    );
}

/// The agent ends with exit code 1 and says all of `named`; no interface and no socket is left.
#[track_caller]
fn agent_refuses(host: &Host, args: &[&str], named: &[&str]) {
    let line = args.join(" ");
    let agent = host.spawn_agent(args);
    let status = agent.expect_end(REFUSAL);
    let log = agent.log();
    let last = log.lines().last().unwrap_or_default().to_owned();
    assert_eq!(status.code(), Some(1), "agent run {line}: {log}");
    for name in named {
        assert!(
            log.contains(name),
            "agent run {line} does not name {name}: {last}"
        );
    }
    assert!(!host.socket().exists(), "agent run {line} left its socket");
}

#[test]
fn an_agent_that_may_not_join_says_why_and_leaves_nothing() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    let join = pair.controller.address.to_string();
    let good = pair.controller.token(&[]);
    let expired = pair.controller.token(&["--ttl", "1s"]);
    thread::sleep(Duration::from_millis(1500));
    let used = pair.controller.token(&[]);
    pair.host1.join_with(&pair.controller, &used);
    pair.host1.wait_up();
    // One character changed in the secret's part at the end.
    let mut forged = good.clone();
    let last = forged.pop().unwrap();
    forged.push(if last == 'a' { 'b' } else { 'a' });
    let host = &pair.host2;
    let member = |token| {
        [
            "--join",
            &join,
            "--token",
            token,
            "--node",
            "host2",
            "--underlay",
            "10.99.0.2",
        ]
    };
    agent_refuses(
        host,
        &member(&expired),
        &["token", "expired", "weft controller token"],
    );
    agent_refuses(
        host,
        &member(&used),
        &["token", "used", "host1", "weft controller token"],
    );
    agent_refuses(host, &member(&forged), &["token"]);
    agent_refuses(host, &member("rubbish"), &["token"]);
    let mut elsewhere = member(&good);
    elsewhere[7] = "10.99.0.77";
    agent_refuses(host, &elsewhere, &["10.99.0.77", "10.99.0.2", "--underlay"]);
    let mut taken = member(&good);
    taken[5] = "host1";
    agent_refuses(host, &taken, &["host1"]);
    agent_refuses(
        host,
        &["--join", &join, "--underlay", "10.99.0.2"],
        &["token", "--token"],
    );
    agent_refuses(host, &["--underlay", "10.99.0.2"], &["--join"]);
    agent_refuses(host, &["--join", &join, "--token", &good], &["--underlay"]);
    assert_eq!(pair.host1.nodes().len(), 1, "no half-made node");
    // None of this used the good token up.
    host.join_with(&pair.controller, &good);
    host.wait_up();
    pair.wait_in_sync();
    assert_eq!(pair.host1.nodes().len(), 2);
}

#[test]
fn a_port_that_is_taken_is_named() {
    let pair = Pair::cold(Lab::new());
    let (one, two) = (&pair.host1, &pair.host2);
    let busy = one
        .ns
        .enter(|| std::net::UdpSocket::bind("10.99.0.1:6783").unwrap());
    let data = pair.controller.data();
    let controller = one.ns.spawn(
        "busy",
        env_weft(),
        &[
            "controller",
            "run",
            "--data",
            data,
            "--listen",
            "10.99.0.1:6783",
        ],
    );
    assert_eq!(
        controller.expect_end(REFUSAL).code(),
        Some(1),
        "{}",
        controller.log()
    );
    let log = controller.log();
    assert!(
        log.contains("6783") && log.contains("10.99.0.1") && log.contains("--listen"),
        "{log}"
    );
    drop(busy);
    let nowhere = [
        "controller",
        "run",
        "--data",
        data,
        "--listen",
        "10.99.0.77:6783",
    ];
    let controller = one.ns.spawn("nowhere", env_weft(), &nowhere);
    assert_eq!(
        controller.expect_end(REFUSAL).code(),
        Some(1),
        "{}",
        controller.log()
    );
    assert!(
        controller.log().contains("10.99.0.77"),
        "{}",
        controller.log()
    );

    pair.controller.start();
    one.join(&pair.controller);
    let busy = two
        .ns
        .enter(|| std::net::UdpSocket::bind("10.99.0.2:4789").unwrap());
    let token = pair.controller.token(&[]);
    let agent = two.join_with(&pair.controller, &token);
    assert_eq!(agent.expect_end(REFUSAL).code(), Some(1), "{}", agent.log());
    assert!(
        agent.log().contains("4789") && agent.log().contains("10.99.0.2"),
        "{}",
        agent.log()
    );
    drop(busy);
}

fn env_weft() -> &'static str {
    weft_testbed::lab::weft_bin()
        .to_str()
        .expect("the program's path is UTF-8")
}

#[test]
fn a_corrupt_or_foreign_state_file_is_named_and_left_alone() {
    let blue = blue();
    let host = &blue.pair.host1;
    let state = host.state();
    for (file, content) in [
        ("ports.json", "{"),
        ("ports.json", r#"{"layout":99,"ports":[]}"#),
        ("settings.json", "]"),
        ("identity/node.key", "no key"),
        ("identity/node.crt", "no certificate"),
    ] {
        host.kill_agent();
        let path = state.join(file);
        let good = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::write(&path, content).unwrap();
        let agent = host.spawn_agent(&[]);
        assert_eq!(
            agent.expect_end(REFUSAL).code(),
            Some(1),
            "{file}: {}",
            agent.log()
        );
        let log = agent.log();
        let last = log.lines().rev().take(3).collect::<Vec<_>>().join("\n");
        assert!(last.contains(file), "the error names {file}: {last}");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            content,
            "{file} was left alone"
        );
        fs::write(&path, good).unwrap();
        host.restart_agent();
        ping(&blue.c1.ns, blue.c2.ip());
    }
    second_daemons_are_refused(&blue);
}

fn second_daemons_are_refused(blue: &Blue) {
    let host = &blue.pair.host1;
    let state = host.state();
    let state = state.to_str().unwrap();
    let other = blue.pair.lab.dir().join("other.sock");
    let args = [
        "agent",
        "run",
        "--state",
        state,
        "--socket",
        other.to_str().unwrap(),
    ];
    let agent = host.ns.spawn("second", env_weft(), &args);
    assert_eq!(agent.expect_end(REFUSAL).code(), Some(1));
    assert!(
        agent.log().contains("in use") && agent.log().contains("--state"),
        "{}",
        agent.log()
    );
    let args = [
        "controller",
        "run",
        "--data",
        blue.pair.controller.data(),
        "--listen",
        "10.99.0.1:7000",
    ];
    let controller = host.ns.spawn("second", env_weft(), &args);
    assert_eq!(controller.expect_end(REFUSAL).code(), Some(1));
    assert!(
        controller.log().contains("in use") && controller.log().contains("--data"),
        "{}",
        controller.log()
    );
    ping(&blue.c1.ns, blue.c2.ip());
}

#[test]
fn a_corrupt_store_is_named_and_left_alone() {
    let pair = Pair::up(Lab::new());
    pair.controller.stop();
    let store = Path::new(pair.controller.data()).join("weft.redb");
    let good = fs::read(&store).unwrap();
    fs::write(&store, "no store at all").unwrap();
    let args = [
        "controller",
        "run",
        "--data",
        pair.controller.data(),
        "--listen",
        "10.99.0.1:6783",
    ];
    let controller = pair.host1.ns.spawn("corrupt", env_weft(), &args);
    assert_eq!(
        controller.expect_end(REFUSAL).code(),
        Some(1),
        "{}",
        controller.log()
    );
    assert!(
        controller.log().contains("weft.redb"),
        "{}",
        controller.log()
    );
    assert_eq!(fs::read(&store).unwrap(), b"no store at all");
    fs::write(&store, good).unwrap();
    pair.controller.start();
    pair.wait_in_sync();
}

#[test]
fn secrets_and_sockets_are_for_their_owners() {
    use std::os::unix::fs::PermissionsExt;
    let pair = Pair::up(Lab::new());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&pair.host1.socket()), 0o660);
    assert_eq!(mode(&pair.host1.state().join("identity/node.key")), 0o600);
    for entry in fs::read_dir(pair.controller.data()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(
            mode(&path) & 0o007,
            0,
            "{} is open to everybody",
            path.display()
        );
    }
}

#[test]
fn names_and_addresses_are_free_again_after_a_failed_connect() {
    let blue = blue();
    let host = &blue.pair.host1;
    blue.bare.ip(&[
        "link", "add", "eth0", "type", "veth", "peer", "name", "other0",
    ]);
    let line = format!(
        "network connect blue --netns {} --name once --ip 10.32.77.7 --ifname eth0",
        blue.bare.name()
    );
    refuse(host, &[(&line, "eth0")]);
    // Without a wish the next free name is taken.
    let port = host.connect(
        "blue",
        &blue.bare,
        &["--name", "once", "--ip", "10.32.77.7"],
    );
    assert_eq!(port.ifname, "eth1");
    host.disconnect("blue", &blue.bare);
    wait_for(
        Duration::from_secs(1),
        "both hosts have two members",
        &[2, 2],
        || [&blue.pair.host1, &blue.pair.host2].map(|host| host.network("blue").members.len()),
    );
    let elsewhere = blue.pair.host2.connect(
        "blue",
        &blue.bare,
        &["--name", "once", "--ip", "10.32.77.7"],
    );
    assert_eq!(elsewhere.addresses[0].addr().to_string(), "10.32.77.7");
}
