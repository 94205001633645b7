//! The grammar as a user meets it: every command of the design parses, a wrong command line exits with 2.

mod common;

use common::{run, told, weft};

/// Lines that reach the agent: with nobody at the socket they fail with 1, never with 2.
const CLIENT_LINES: &[&str] = &[
    "network create blue",
    "network create blue --subnet 10.32.0.5/16 --subnet fd00::/64 --ip-range 10.32.1.0/24 --gateway 10.32.0.1 --gateway fd00::1 \
     --vni 7 --encrypted --internal --mtu 1400 --ageing 60",
    "net create blue",
    "network vtep add blue 10.99.0.9",
    "network vtep rm blue fd00::9",
    "network vtep ls blue",
    "network set blue --mtu 1400 --ageing 60",
    "network ls",
    "network list -q",
    "network inspect blue red",
    "network rm blue red",
    "network remove blue",
    "network prune",
    "network connect blue --netns web --ip 10.32.0.7 --ip fd00::7 --mac 02:00:00:00:00:07 --ifname eth1 --name web --alias a \
     --alias b --no-offload",
    "network connect blue --netns /run/netns/web",
    "network connect blue --pid 7",
    "network disconnect blue --netns web",
    "network disconnect blue --pid 7",
    "network disconnect blue --name web",
    "network create blue --subnet 10.32.0.0/16 --isolate",
    "network connect blue --netns web --allow-spoof",
    "router create core",
    "router connect core blue green",
    "router disconnect core blue",
    "router ls",
    "router list -q",
    "router inspect core edge",
    "router rm core",
    "route add core 10.50.0.0/16 via 10.32.0.7",
    "route add core fd50::/48 fd32::7",
    "route rm core 10.50.0.0/16",
    "route ls core",
    "status",
    "peers",
    "ports",
    "ports --network blue",
    "drops",
    "why --network blue",
    "fdb",
    "fdb --network blue",
    "subnets",
    "nodes",
    "nodes ls",
    "nodes rm host2",
    "node rm host2 host3",
    "status --wait 0",
    "--json -v ports",
    "--log debug,hyper=warn ports",
];

#[test]
fn every_command_of_the_design_parses_with_global_flags_before_and_after() {
    for line in CLIENT_LINES {
        let words: Vec<&str> = line.split_whitespace().collect();
        let socket = ["--socket", "/nowhere/weft.sock"];
        for line in [
            [&socket[..], &words].concat(),
            [&words, &socket[..]].concat(),
        ] {
            let (code, _, err) = run(&line);
            assert_eq!(code, 1, "{line:?}: {err}");
            assert!(err.contains("/nowhere/weft.sock"), "{line:?}: {err}");
        }
    }
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    for line in [
        "",
        "frobnicate",
        "network",
        "network create",
        "network create blue --subnet ten",
        "network create blue --vni 0",
        "network create blue --vni 16777216",
        "network create blue --gateway 10.0.0.1",
        "network set blue",
        "network create blue --isolate",
        "router connect core",
        "route add core 10.50.0.0/16",
        "route add core 10.50.0.0/16 by 10.32.0.7",
        "route rm core ten",
        "network connect blue",
        "network connect blue --netns web --pid 7",
        "network connect blue --pid 0",
        "network connect blue --netns web --mac 7",
        "network disconnect blue",
        "network disconnect blue --name web --pid 7",
        "network rm",
        "network vtep add blue",
        "network vtep add blue host",
        "nodes rm",
        "status --wait soon",
        "agent run --standalone --join 10.0.0.1",
        "agent run --token a --token-file b",
        "agent run --workers 0",
        "agent run --join controller",
        "controller token --ttl 24",
        "controller token --uses 0",
        "controller token --uses 10001",
        "controller token rm",
        "ports --log nonsense=loud",
        "ports -v --log debug",
        "completion tcsh",
    ] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (code, out, err) = run(&words);
        assert_eq!((code, out.as_str()), (2, ""), "{line:?}: {err}");
        assert!(!err.is_empty(), "{line:?}");
    }
}

#[test]
fn a_wrong_command_line_is_told_in_json_too() {
    let (code, _, err) = run(&["network", "connect", "blue", "--json"]);
    let error: serde_json::Value = serde_json::from_str(&err).unwrap();
    assert_eq!((code, &error["error"]["code"]), (2, &"usage".into()));
}

#[test]
fn help_and_version_exit_with_0() {
    for line in [
        &["--help"][..],
        &["--version"],
        &["network", "connect", "--help"],
        &["help"],
    ] {
        let (code, out, _) = run(line);
        assert_eq!(code, 0, "{line:?}");
        assert!(out.contains("weft"), "{line:?}: {out}");
    }
    let (_, help, _) = run(&["--help"]);
    assert!(!help.contains("fd-holder"));
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, err) = run(&["completion", shell]);
        assert_eq!(code, 0, "{shell}: {err}");
        assert!(script.contains("disconnect"), "{shell}");
    }
}

#[test]
fn manual_pages_are_made_for_every_command() {
    let (code, page, _) = run(&["man"]);
    assert_eq!(code, 0);
    assert!(page.contains(".TH weft 1"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("man1");
    let (code, _, err) = run(&["man", "--dir", pages.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    for page in [
        "weft.1",
        "weft-network.1",
        "weft-network-connect.1",
        "weft-agent-run.1",
    ] {
        assert!(pages.join(page).is_file(), "{page}");
    }
    let (code, _, err) = run(&["man", "--dir", "/proc/nowhere"]);
    assert_eq!(code, 1);
    assert!(
        err.starts_with("error: cannot write manual pages into /proc/nowhere"),
        "{err}"
    );
}

#[test]
fn a_store_that_cannot_be_is_refused() {
    for bad in ["mysql://h", "etcd://", "etcd://me:secret@h:2379"] {
        let (code, _, err) = run(&["controller", "run", "--store", bad]);
        assert_eq!(code, 1);
        assert!(err.contains("the store's URL is not usable"), "{err}");
        assert!(err.contains("  hint: ") && !err.contains("secret"), "{err}");
    }
}

#[test]
fn a_wrong_config_file_stops_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    std::fs::write(&path, "sokcet = '/x'").unwrap();
    let (code, _, err) = told(weft(&["ports"]).env("WEFT_CONFIG", &path).output().unwrap());
    assert_eq!(code, 1);
    let start = format!(
        "error: config file {}: unknown key `sokcet`\n  hint: known keys: socket, ",
        path.display()
    );
    assert!(err.starts_with(&start), "{err}");
    // A config file has no say in what needs no configuration.
    let (code, ..) = told(
        weft(&["completion", "bash"])
            .env("WEFT_CONFIG", &path)
            .output()
            .unwrap(),
    );
    assert_eq!(code, 0);
}

#[test]
fn a_token_file_that_cannot_be_used_stops_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("token");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let (code, _, err) = run(&["agent", "run", "--token-file", empty]);
    assert_eq!(code, 1);
    assert!(
        err.contains(&format!("error: token file {empty} is empty\n  hint: ")),
        "{err}"
    );
    let (code, _, err) = run(&["agent", "run", "--token-file", "/nowhere/token"]);
    assert_eq!(code, 1);
    assert!(
        err.contains("cannot read token file /nowhere/token: "),
        "{err}"
    );
}
