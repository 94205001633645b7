//! `weft up` and `weft down`: a host by itself, as somebody has it who types one command.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_testbed::lab::process::{Finished, pids_mentioning};
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::lab::{Docker, Namespace, weft_bin};
use weft_testbed::{Lab, Pair};

/// Runs `weft` inside the host, as a user there would.
fn weft(ns: &Namespace, args: &[&str]) -> Finished {
    let socket = ns.lab_file("up.sock").to_string_lossy().into_owned();
    ns.run(
        &weft_bin().to_string_lossy(),
        &[&["--socket", &socket], args].concat(),
    )
}

fn up(ns: &Namespace, extra: &[&str]) -> Value {
    let text = weft(ns, &[&["--json", "up"], extra].concat()).expect_done();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn one_command_makes_a_network_and_one_ends_it() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let state = host.lab_file("up.state").to_string_lossy().into_owned();
    let flags = ["--state", &state, "--no-docker"];
    let first = up(&host, &flags);
    assert_eq!(
        (&first["made"], &first["network"]["name"]),
        (&Value::Bool(true), &"weft".into())
    );
    let pid = first["started"]["pid"].as_u64().unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    // Again is fine and changes nothing.
    let again = up(&host, &flags);
    assert_eq!(
        (&again["made"], &again["started"]),
        (&Value::Bool(false), &Value::Null)
    );
    assert_eq!(again["network"]["id"], first["network"]["id"]);
    let [web, db] = ["web", "db"].map(|name| lab.namespace(name));
    for ns in [&web, &db] {
        weft(&host, &["network", "connect", "weft", "--netns", ns.name()]).expect_done();
    }
    ping(&web, db.addresses("eth0")[0]);
    let text = weft(&host, &[&["up"], &flags[..]].concat()).expect_done();
    assert!(text.contains("weft down"), "{text}");
    weft(&host, &["down"]).expect_done();
    // Its socket goes a moment before it does.
    wait_until(SOON, "the agent has ended", || has_ended(pid));
    assert!(web.ifnames().is_empty() && db.ifnames().is_empty());
    // The network is there again.
    let third = up(&host, &flags);
    assert_eq!(third["network"]["id"], first["network"]["id"]);
    assert_eq!(third["made"], Value::Bool(false));
    weft(&host, &["down", "--state", &state]).expect_done();
    let again = weft(&host, &["down", "--state", &state]).expect_done();
    assert!(
        again.contains("nothing to end: no agent listens"),
        "{again}"
    );
    assert!(again.contains(&state), "{again}");
}

#[test]
fn what_a_dead_agent_left_is_ended_too() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let state = host.lab_file("up.state").to_string_lossy().into_owned();
    let flags = ["--state", &state, "--no-docker"];
    let down = |flags: &[&str]| weft(&host, &[&["down", "--state", &state], flags].concat());
    for stopped in [false, true] {
        let made = up(&host, &flags);
        let pid = made["started"]["pid"].as_u64().unwrap();
        let web = lab.namespace("web");
        weft(
            &host,
            &["network", "connect", "weft", "--netns", web.name()],
        )
        .expect_done();
        weft(&host, &["expose", "weft"]).expect_done();
        if stopped {
            weft(&host, &["agent", "stop"]).expect_done();
        } else {
            kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL).unwrap();
            wait_until(SOON, "the agent has ended", || has_ended(pid));
        }
        assert_eq!(web.ifnames(), ["eth0"], "the holder keeps it");
        let text = down(&["--json"]).expect_done();
        let told: Value = serde_json::from_str(&text).unwrap();
        let removed: Vec<&str> = told["removed"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(removed.len(), 2, "{told}");
        assert!(removed.contains(&web.name()), "{told}");
        wait_until(SOON, "the interfaces are gone", || {
            web.ifnames().is_empty() && !host.ifnames().iter().any(|name| name.starts_with("weft"))
        });
        wait_until(SOON, "the holder has ended", || {
            pids_mentioning(Path::new(&state)).is_empty()
        });
        assert!(down(&[]).expect_done().contains("nothing to end"));
        web.delete();
    }
    // Addresses and networks are as after `weft down` of a running agent.
    let made = up(&host, &flags);
    assert_eq!(made["made"], Value::Bool(false));
    assert_eq!(weft(&host, &["--json", "ports"]).expect_done().trim(), "[]");
    // An agent behind another socket isn't ended from behind.
    let refusal = host.run(
        &weft_bin().to_string_lossy(),
        &["--socket", "/nowhere/weft.sock", "down", "--state", &state],
    );
    assert_eq!(refusal.code, Some(1), "{refusal}");
    assert!(
        refusal.stderr.contains("in use by another agent"),
        "{refusal}"
    );
    assert!(
        refusal.stderr.contains("give that agent's --socket"),
        "{refusal}"
    );
    weft(&host, &["down"]).expect_done();
}

/// Gone, or whoever started it hasn't asked yet.
fn has_ended(pid: u64) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

#[test]
fn an_agent_that_cannot_start_says_why() {
    let lab = Lab::new();
    let host = lab.namespace("host");
    let config = host.lab_file("weft.toml");
    fs::write(&config, "workers = 1\ncolour = \"red\"\n").unwrap();
    let state = host.lab_file("up.state").to_string_lossy().into_owned();
    let refused = weft(
        &host,
        &[
            "--config",
            &config.to_string_lossy(),
            "up",
            "--state",
            &state,
        ],
    );
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains("colour"), "{refused}");
    // The state directory is a file.
    fs::write(&state, "").unwrap();
    let refused = weft(&host, &["up", "--state", &state, "--no-docker"]);
    assert_eq!(refused.code, Some(1), "{refused}");
    assert!(refused.stderr.contains(&state), "{refused}");
}

#[test]
fn docker_on_a_single_host_needs_no_more() {
    let pair = Pair::cold(Lab::new());
    let docker = Docker::cold(&pair.host1);
    let flags = docker.agent_flags();
    let config = pair.host1.ns.lab_file("weft.toml");
    let text = format!(
        "docker = true\ndocker-socket = {:?}\ndocker-host = {:?}\n",
        flags[2], flags[4]
    );
    fs::write(&config, text).unwrap();
    let state = pair
        .host1
        .ns
        .lab_file("up.state")
        .to_string_lossy()
        .into_owned();
    let config = config.to_string_lossy().into_owned();
    let ns = &pair.host1.ns;
    let made = up(ns, &["--config", &config, "--state", &state]);
    assert_eq!(made["docker"], Value::Bool(true));
    docker.start();
    docker.create_network(
        "weft",
        &["--subnet", "10.32.0.0/16", "-o", "weft.network=weft"],
    );
    docker.container("web", &["--network", "weft"]);
    docker.container("db", &["--network", "weft"]);
    assert!(docker.pings("web", "db"));
    docker.run(&["rm", "--force", "web", "db"]);
    docker.run(&["network", "rm", "weft"]);
    weft(ns, &["down"]).expect_done();
    assert!(ns.ifnames().iter().all(|name| !name.starts_with("weft")));
}
