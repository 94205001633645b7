//! Who is in and who is out: join tokens, and nodes that are removed while they run.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use weft_control::api::{AuthorityInfo, AuthorityStep, TokenInfo, TokenState};
use weft_testbed::lab::node::{refusal, weft};
use weft_testbed::lab::process::pids_mentioning;
use weft_testbed::lab::traffic::{Prober, answers, ping};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Hosts, Lab, Pair};

/// A removed node is cut off everywhere within this time.
const CUT_OFF: Duration = Duration::from_secs(1);
/// A daemon that refuses its input says so within this time.
const REFUSAL: Duration = Duration::from_secs(10);

/// ```text
///   host1 (controller)   host2   host3
///      c1                 c2      c3        weft nodes rm host2
/// ```
#[test]
fn a_removed_node_is_cut_off_everywhere_within_a_second() {
    let hosts = Hosts::up(Lab::new(), 3);
    let [host1, host2, host3] = [0, 1, 2].map(|index| &hosts.hosts[index]);
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    hosts.wait_in_sync();
    let [c1, c2, c3] = [(host1, "c1"), (host2, "c2"), (host3, "c3")]
        .map(|(host, name)| hosts.lab.container(host, "blue", name, &[]));
    hosts.wait_in_sync();
    for to in [&c1, &c3] {
        ping(&c2.ns, to.ip());
    }
    ping(&c1.ns, c3.ip());
    let strangers = |host: &weft_testbed::Host| host.peers().strangers.drops.values().sum::<u64>();
    let before = [host1, host3].map(strangers);

    // It is connected, it has a port in use: no matter.
    host3.weft(&["node", "rm", "host2"]);
    let gone = |host: &weft_testbed::Host| {
        let peers = host.peers().peers;
        peers.iter().all(|peer| peer.address != host2.underlay)
    };
    wait_until(CUT_OFF, "no host has it as a peer", || {
        [host1, host3].into_iter().all(gone)
    });
    wait_until(CUT_OFF, "its session has ended", || {
        let controller = host2.status().controller;
        controller.connected.is_none()
    });
    assert_eq!(host1.nodes().len(), 2);
    assert_eq!(host1.network("blue").members.len(), 2);
    assert!(host1.subnets().iter().all(|row| row.node != "host2"));

    // It goes on sending; nobody takes it, and nobody sends it anything.
    for (from, to) in [(&c2, &c1), (&c2, &c3), (&c1, &c2), (&c3, &c2)] {
        assert!(!answers(&from.ns, to.ip()));
    }
    let after = [host1, host3].map(strangers);
    assert!(
        after
            .iter()
            .zip(before)
            .all(|(after, before)| *after > before),
        "what it sends is counted as a stranger's: {before:?} {after:?}"
    );
    ping(&c1.ns, c3.ip());
    // Its address is free.
    let again = hosts
        .lab
        .container(host3, "blue", "again", &["--ip", &c2.ip().to_string()]);
    ping(&c1.ns, again.ip());

    // Starting anything again doesn't bring it back.
    hosts.controller.stop();
    hosts.controller.start();
    host2.kill_agent();
    host2.restart_agent();
    wait_until(REFUSAL, "it is told that it was removed", || {
        let error = host2.status().controller.error;
        error.is_some_and(|error| error.contains("was removed"))
    });
    assert_eq!(host1.wait_in_sync().peers, 1);
    assert!(!answers(&c2.ns, c1.ip()));
    // Nobody removes the ground they stand on.
    assert_eq!(host1.refused(&["node", "rm", "host1"]).code, "own_node");
}

/// ```text
///   host1 (controller)   host2
///      c1                 c2, fixed     weft nodes rm host2; host2 joins anew
/// ```
#[test]
fn a_removed_host_that_joins_anew_takes_its_containers_along() {
    let hosts = Hosts::up(Lab::new(), 2);
    let [host1, host2] = [0, 1].map(|index| &hosts.hosts[index]);
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    hosts.wait_in_sync();
    let c1 = hosts.lab.container(host1, "blue", "c1", &[]);
    let c2 = hosts.lab.container(host2, "blue", "c2", &[]);
    let at = ["--ip", "10.32.77.7"];
    let fixed = hosts.lab.container(host2, "blue", "fixed", &at);
    ping(&c1.ns, c2.ip());
    host1.weft(&["node", "rm", "host2"]);
    wait_until(CUT_OFF, "its session has ended", || {
        host2.status().controller.connected.is_none()
    });
    assert_eq!(host1.network("blue").members.len(), 1);

    host2.kill_agent();
    let identity = host2.state().join("identity");
    fs::rename(&identity, identity.with_extension("old")).unwrap();
    host2.join(&hosts.controller);
    hosts.wait_in_sync();
    for to in [&c2, &fixed] {
        wait_until(REFUSAL, "it is reached again", || answers(&c1.ns, to.ip()));
        ping(&to.ns, c1.ip());
    }
    assert_eq!(host1.network("blue").members.len(), 3);
    assert_eq!(host2.status().warnings, Vec::<String>::new());
    // What is given from now on is nobody's.
    let further = hosts.lab.container(host2, "blue", "further", &[]);
    assert!(![c1.ip(), c2.ip(), fixed.ip()].contains(&further.ip()));
    ping(&c1.ns, further.ip());
}

fn tokens(data: &str) -> Vec<TokenInfo> {
    let listed = weft(&["controller", "token", "ls", "--data", data, "--json"]).expect_done();
    serde_json::from_str(&listed).unwrap()
}

#[test]
fn tokens_are_for_so_many_nodes_and_can_be_listed_and_revoked() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    let data = pair.controller.data();
    let token = pair.controller.token(&["--uses", "2", "--ttl", "1h"]);
    let id = token.split('.').nth(2).unwrap();
    for host in [&pair.host1, &pair.host2] {
        host.join_with(&pair.controller, &token);
        host.wait_up();
    }
    pair.wait_in_sync();
    let of = |id: &str| {
        tokens(data)
            .into_iter()
            .find(|token| token.id == id)
            .unwrap()
    };
    let used = of(id);
    assert_eq!((used.state, used.uses), (TokenState::Used, 2));
    assert_eq!(used.nodes, ["host1", "host2"]);
    assert!((1..=3600).contains(&used.expires_in_secs));
    let listed = weft(&["controller", "token", "ls", "--data", data]).expect_done();
    let secret = token.rsplit('.').next().unwrap();
    assert!(
        listed.contains("host1, host2") && !listed.contains(secret),
        "{listed}"
    );

    // Revoked beside the running controller, and without one: it refuses both at the next join.
    let revoke = |id: &str| weft(&["controller", "token", "rm", id, "--data", data, "--json"]);
    let running = pair.controller.token(&["--uses", "9"]);
    let stopped = pair.controller.token(&[]);
    let id_of = |token: &str| token.split('.').nth(2).unwrap().to_owned();
    revoke(&id_of(&running)).expect_done();
    assert_eq!(refusal(&revoke("feedfeedfeedfeed")).code, "unknown_token");
    pair.controller.stop();
    revoke(&id_of(&stopped)).expect_done();
    assert_eq!(refusal(&revoke("feedfeedfeedfeed")).code, "unknown_token");
    assert_eq!(of(&id_of(&running)).state, TokenState::Revoked);
    pair.controller.start();
    pair.host2.stop_agent();
    fs::remove_dir_all(pair.host2.state()).unwrap();
    for token in [&running, &stopped] {
        let agent = pair.host2.join_with(&pair.controller, token);
        let status = agent.expect_end(REFUSAL);
        assert_eq!(status.code(), Some(1));
        assert!(agent.log().contains("was revoked"), "{}", agent.log());
    }
}

/// What every user of a host can read of a process.
fn arguments(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn environment(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_token_is_in_no_process_list_no_log_and_no_readable_file() {
    let pair = Pair::cold(Lab::new());
    pair.controller.start();
    let by_flag = pair.controller.token(&[]);
    let by_file = pair.controller.token(&[]);
    pair.host1.join_with(&pair.controller, &by_flag);
    let file = pair.lab.dir().join("token");
    fs::write(&file, format!("{by_file}\n")).unwrap();
    let join = pair.controller.address.to_string();
    let words = [
        "--join",
        &join,
        "--node",
        "host2",
        "--underlay",
        "10.99.0.2",
    ];
    let file = file.to_str().unwrap();
    pair.host2
        .spawn_agent(&[&words[..], &["--token-file", file]].concat());
    for host in [&pair.host1, &pair.host2] {
        host.wait_up();
        host.wait_in_sync();
    }
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let secrets = [&by_flag, &by_file].map(|token| token.rsplit('.').next().unwrap());
    let pids = pids_mentioning(pair.lab.dir());
    assert!(pids.len() >= 4, "controller, agents and a holder: {pids:?}");
    for pid in pids {
        let told = arguments(pid);
        assert!(
            !secrets.iter().any(|secret| told.contains(secret)),
            "{told}"
        );
    }
    for holder in pair.host1.holders() {
        assert!(!environment(holder).contains(secrets[0]));
    }
    let mut files = vec![pair.lab.dir().to_owned()];
    while let Some(path) = files.pop() {
        let about = fs::symlink_metadata(&path).unwrap();
        if about.is_dir() {
            files.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            continue;
        }
        if !about.is_file() || path == Path::new(file) {
            continue;
        }
        let holds = fs::read(&path).unwrap();
        let key = holds.windows(11).any(|text| text == b"PRIVATE KEY");
        let token = secrets.iter().any(|secret| {
            holds
                .windows(secret.len())
                .any(|text| text == secret.as_bytes())
        });
        assert!(!token, "{} holds a token", path.display());
        if key {
            assert_eq!(
                about.permissions().mode() & 0o777,
                0o600,
                "{}",
                path.display()
            );
        }
    }
}

fn authority(data: &str, verb: &[&str]) -> AuthorityInfo {
    let line = [&["controller", "ca"], verb, &["--data", data, "--json"]].concat();
    serde_json::from_str(&weft(&line).expect_done()).unwrap()
}

#[test]
fn certificates_are_renewed_and_the_authority_is_replaced_without_a_lost_frame() {
    let pair = Pair::cold(Lab::new());
    let data = pair.controller.data();
    pair.controller.start_with(&["--cert-ttl", "12s"]);
    for host in [&pair.host1, &pair.host2] {
        host.join(&pair.controller);
    }
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    let hosts = [&pair.host1, &pair.host2];
    let ends = || hosts.map(|host| host.status().certificate.unwrap().expires);
    let first = ends();
    let probes = Prober::start(&c1.ns, &c2.ns, c2.ip());
    wait_until(
        Duration::from_secs(20),
        "both certificates are renewed",
        || ends().iter().zip(first).all(|(now, first)| *now > first),
    );
    let old = authority(data, &[]);
    assert_eq!((old.step, &old.next), (AuthorityStep::Settled, &None));
    let begun = authority(data, &["rotate"]);
    assert_eq!(begun.step, AuthorityStep::Announced);
    wait_until(Duration::from_secs(20), "the authority is replaced", || {
        authority(data, &[]).step == AuthorityStep::Settled
    });
    let new = authority(data, &[]);
    assert_eq!(Some(&new.current), begun.next.as_ref());
    assert_ne!(new.current, old.current);
    wait_until(
        Duration::from_secs(20),
        "all certificates are of the new one",
        || {
            let issuers = hosts.map(|host| host.status().certificate.unwrap().issuer);
            issuers.iter().all(|issuer| *issuer == new.current)
        },
    );
    let seen = probes.finish();
    assert_eq!(seen.sent, seen.arrived, "not a frame is lost: {seen:?}");
    for host in hosts {
        let log = host.agent().log();
        assert!(!log.contains("control channel down"), "{log}");
    }

    // Away for longer than the certificate lasts: it comes back by its key.
    pair.host2.stop_agent();
    std::thread::sleep(Duration::from_secs(13));
    pair.controller.stop();
    pair.host1.stop_agent();
    pair.host2.restart_agent();
    pair.controller.start_with(&["--cert-ttl", "12s"]);
    pair.host1.restart_agent();
    pair.wait_in_sync();
    ping(&c1.ns, c2.ip());
    assert_eq!(
        refusal(&weft(&[
            "controller",
            "ca",
            "advance",
            "--data",
            data,
            "--json"
        ]))
        .code,
        "rotation"
    );
    let failed = weft(&["controller", "run", "--data", data, "--cert-ttl", "1s"]);
    assert!(
        failed.code == Some(1) && failed.stderr.contains("--cert-ttl"),
        "{failed}"
    );
}
