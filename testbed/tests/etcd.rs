//! Several controllers over a cluster of three etcd members: what any one of them does shows at the others, and any one
//! of them may die.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_testbed::lab::Host;
use weft_testbed::lab::node::{refusal, weft};
use weft_testbed::lab::process::Finished;
use weft_testbed::lab::traffic::{Prober, answers, ping};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::lab::weft_bin;
use weft_testbed::{Lab, Redundant};

/// A dead controller is silent; this long after, its agents are with another one.
const MOVED_WITHIN: Duration = Duration::from_secs(4);
/// An election, and whatever is tried again meanwhile.
const RECOVERED_WITHIN: Duration = Duration::from_secs(20);
/// A commit, a watch's event and a push to the agent; on a busy machine.
const KNOWN_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn several_controllers_are_one() {
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    // Each was told of one controller; the cluster told of the others.
    net.wait_for_addresses(RECOVERED_WITHIN);
    let with: Vec<_> = net
        .hosts
        .iter()
        .map(|host| net.controller_of(host))
        .collect();
    assert_eq!(with, [Some(1), Some(2), Some(3)]);

    // All three want the same network at the same time: one makes it.
    let made: Vec<Finished> = thread::scope(|scope| {
        let makers: Vec<_> = net
            .hosts
            .iter()
            .map(|host| {
                scope.spawn(|| {
                    host.try_weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"])
                })
            })
            .collect();
        makers
            .into_iter()
            .map(|maker| maker.join().unwrap())
            .collect()
    });
    let codes: Vec<_> = made.iter().map(|made| made.code).collect();
    assert_eq!(
        codes.iter().filter(|code| **code == Some(0)).count(),
        1,
        "{made:?}"
    );
    assert_eq!(
        codes.iter().filter(|code| **code == Some(1)).count(),
        2,
        "{made:?}"
    );

    // What one has told is true at the others at once.
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    for (from, to) in [(&c1, &c2), (&c2, &c3), (&c3, &c1)] {
        ping(&from.ns, to.ip());
    }

    // They connect at the same time, some of them with the very same addresses.
    let namespaces: Vec<_> = (0..3)
        .flat_map(|host| (0..5).map(move |number| (host, number)))
        .map(|(host, number)| {
            (
                host,
                number,
                net.lab.namespace(&format!("x{host}-{number}")),
            )
        })
        .collect();
    let connected: Vec<Finished> = thread::scope(|scope| {
        let all: Vec<_> = namespaces
            .iter()
            .map(|(host, number, ns)| {
                let host = &net.hosts[*host];
                let ip = format!("10.32.200.{}", number + 1);
                scope.spawn(move || {
                    let mut args = vec!["network", "connect", "blue", "--netns", ns.name()];
                    // Odd ones want a fixed address that the other hosts want, too.
                    if number % 2 == 1 {
                        args.extend(["--ip", &ip]);
                    }
                    host.try_weft(&args)
                })
            })
            .collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let done = connected.iter().filter(|one| one.code == Some(0)).count();
    // Nine automatic ones, and of each fixed address one.
    assert_eq!(done, 9 + 2, "{connected:#?}");
    net.wait_in_agreement();
    let seen: Vec<_> = net.hosts.iter().map(|host| host.network("blue")).collect();
    assert!(seen.iter().all(|network| *network == seen[0]), "{seen:#?}");
    let members = &seen[0].members;
    assert_eq!(members.len(), 3 + done);
    let ips: BTreeSet<_> = members
        .iter()
        .flat_map(|member| member.ips.clone())
        .collect();
    let macs: BTreeSet<_> = members.iter().map(|member| member.mac).collect();
    assert_eq!((ips.len(), macs.len()), (members.len(), members.len()));

    // An address of another host's block: the node that has it is asked, through its own controller.
    let spare = c2.v4().to_bits() + 1;
    let spare = std::net::Ipv4Addr::from(spare + 40).to_string();
    let c4 = net.lab.container(host1, "blue", "c4", &["--ip", &spare]);
    ping(&c4.ns, c2.ip());
    let c5 = net.lab.namespace("c5");
    let refusal = host1.refused(&[
        "network",
        "connect",
        "blue",
        "--netns",
        c5.name(),
        "--ip",
        &c3.ip().to_string(),
    ]);
    assert!(
        refusal.message.contains(&c3.ip().to_string()),
        "{refusal:?}"
    );

    // A node that is removed through one controller is cut off at another.
    host1.weft(&["nodes", "rm", "host3"]);
    let cut = wait_until(SOON, "the removed node is cut off", || {
        host3.status().controller.connected.is_none()
    });
    assert!(cut < Duration::from_secs(2), "cut off after {cut:?}");
}

#[test]
fn a_controller_may_die_under_traffic() {
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    let prober = Prober::start(&c1.ns, &c2.ns, c2.ip());
    net.controllers[0].kill();
    let began = Instant::now();
    wait_until(MOVED_WITHIN, "the agent is with another controller", || {
        matches!(net.controller_of(host1), Some(2 | 3))
    });
    println!("moved on after {:?}", began.elapsed());
    // It works as before.
    host1.weft(&["network", "create", "red", "--subnet", "10.33.0.0/16"]);
    let c3 = net.lab.container(host3, "red", "c3", &[]);
    let c4 = net.lab.container(host1, "red", "c4", &[]);
    ping(&c3.ns, c4.ip());
    net.wait_in_agreement();
    // Its own controller comes back as a stranger to nobody; the other one of its agent goes.
    net.controllers[0].start();
    let now = net.controller_of(host1).unwrap();
    net.controllers[now - 1].stop();
    wait_until(MOVED_WITHIN, "the agent moves on again", || {
        net.controller_of(host1).is_some_and(|at| at != now)
    });
    // A node whose agent dies is disconnected for all, wherever they look.
    host3.kill_agent();
    wait_until(RECOVERED_WITHIN, "all see that it is gone", || {
        [host1, host2].iter().all(|host| {
            let nodes = host.nodes();
            nodes
                .iter()
                .any(|node| node.name == "host3" && node.state == "disconnected")
        })
    });
    host3.restart_agent();
    net.wait_in_agreement();
    let probe = prober.finish();
    // Forwarding has nothing to do with controllers; a busy machine loses some datagrams by itself.
    assert!(probe.arrived * 100 >= probe.sent * 98, "{probe:?}");
    assert!(probe.longest_gap < Duration::from_millis(250), "{probe:?}");
}

/// The figures of docs/controllers.md: `cargo test --test etcd how_long -- --nocapture`, `WEFT_MEASURE_ROUNDS` times.
#[test]
fn how_long_agents_and_decisions_take() {
    let rounds = std::env::var("WEFT_MEASURE_ROUNDS").map_or(3, |text| text.parse().unwrap());
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, _] = net.three();
    net.wait_for_addresses(RECOVERED_WITHIN);
    let (mut known, mut killed, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let at = net.controller_of(host1).unwrap();
        let path = format!("/v1/networks/n{round}");
        let create = json!({ "name": format!("n{round}") });
        let began = Instant::now();
        let (status, answer) = host1.ask("POST", "/v1/networks", &create);
        assert_eq!(status / 100, 2, "{answer}");
        let answered = began.elapsed();
        while host2.ask("GET", &path, &Value::Null).0 != 200 {
            assert!(began.elapsed() < KNOWN_WITHIN, "not known elsewhere");
            thread::sleep(Duration::from_millis(1));
        }
        known.push((answered, began.elapsed()));

        net.controllers[at - 1].kill();
        killed.push(moved_from(&net, host1, at));
        net.controllers[at - 1].start();
        let at = net.controller_of(host1).unwrap();
        net.controllers[at - 1].stop();
        stopped.push(moved_from(&net, host1, at));
        net.controllers[at - 1].start();
        net.wait_in_agreement();
    }
    println!("decision answered, known at another controller's agent: {known:?}");
    println!("moved on from a killed controller: {killed:?}, from a stopped one: {stopped:?}");
    assert!(killed.iter().all(|took| *took < MOVED_WITHIN), "{killed:?}");
    assert!(
        stopped.iter().all(|took| *took < MOVED_WITHIN),
        "{stopped:?}"
    );
}

/// Waits until the agent is with another controller.
fn moved_from(net: &Redundant, host: &Host, number: usize) -> Duration {
    let began = Instant::now();
    let old = net.controllers[number - 1].address.to_string();
    wait_until(RECOVERED_WITHIN, "the agent moves on", || {
        let (_, status) = host.ask("GET", "/v1/status", &Value::Null);
        let connected = status["controller"]["connected"].as_str();
        connected.is_some_and(|at| at != old)
    });
    began.elapsed()
}

#[test]
fn an_etcd_member_may_die_and_without_a_majority_nothing_changes() {
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    net.etcd.kill_member(1);
    let works = |name: &str| {
        let name = name.to_owned();
        wait_until(RECOVERED_WITHIN, "the cluster takes changes", || {
            host1.try_weft(&["network", "create", &name]).code == Some(0)
        });
        // Through each controller.
        for host in [host2, host3] {
            wait_until(RECOVERED_WITHIN, "all hear of it", || {
                host.try_weft(&["network", "inspect", &name]).code == Some(0)
            });
        }
    };
    works("one");
    net.etcd.start_member(1);
    net.etcd.kill_member(2);
    works("two");
    net.etcd.kill_member(3);
    // One of three: nothing can be decided. Containers go on, and new ones get addresses from what the nodes have.
    let refusal = host1.try_weft(&["network", "create", "three"]);
    assert_eq!(refusal.code, Some(1), "{refusal}");
    ping(&c1.ns, c2.ip());
    let c3 = net.lab.container(host1, "blue", "c3", &[]);
    ping(&c3.ns, c1.ip());
    net.etcd.start_member(3);
    net.etcd.start_member(2);
    works("four");
    net.wait_in_agreement();
    ping(&c3.ns, c2.ip());
    let seen: Vec<_> = net.hosts.iter().map(|host| host.network("blue")).collect();
    assert!(
        seen.iter()
            .all(|network| *network == seen[0] && network.members.len() == 3),
        "{seen:#?}"
    );
}

/// What is said arrives, what is answered doesn't: worse than a cut, since nobody is told.
#[test]
fn half_open_ways_are_left() {
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, _] = net.three();
    wait_until(RECOVERED_WITHIN, "agents know all controllers", || {
        host1.status().controller.addresses.len() == 3
    });
    let drop_answers = |host: &Host, from: &str| {
        let rules = format!(
            "add table ip deaf; add chain ip deaf in {{ type filter hook input priority 0; }}; \
             add rule ip deaf in {from} drop"
        );
        host.ns.run("nft", &[&rules]).expect_done();
    };
    let own = format!("ip saddr {} udp sport 6783", host1.underlay);
    drop_answers(host1, &own);
    let moved = wait_until(
        RECOVERED_WITHIN,
        "the agent goes where it is answered",
        || matches!(net.controller_of(host1), Some(2 | 3)),
    );
    assert!(moved < MOVED_WITHIN, "moved on after {moved:?}");
    host1.weft(&["network", "create", "blue"]);
    // The member of etcd that this controller talks to, as its first.
    let member = format!("ip saddr {} tcp sport 2379", host1.underlay);
    drop_answers(host2, &member);
    for name in ["one", "two", "three"] {
        wait_until(
            RECOVERED_WITHIN,
            "changes go through another member",
            || host2.try_weft(&["network", "create", name]).code == Some(0),
        );
        thread::sleep(Duration::from_secs(2));
    }
    net.wait_in_agreement();
    let networks = |host: &Host| host.weft(&["network", "ls"]);
    assert_eq!(networks(host1), networks(host2));
}

#[test]
fn a_controller_that_is_cut_off_from_the_store_lets_its_agents_go() {
    let net = Redundant::up(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    net.cut_off(3);
    // Its own agent can still talk to it, but it knows nothing of the others any more.
    wait_until(
        RECOVERED_WITHIN,
        "both sides know that they're apart",
        || {
            let away = host1
                .nodes()
                .iter()
                .any(|node| node.name == "host3" && node.state == "disconnected");
            away && host3.status().controller.connected.is_none()
        },
    );
    host2.weft(&["network", "create", "red", "--subnet", "10.33.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    assert!(!answers(&c1.ns, c3.ip()));
    let c4 = net.lab.container(host3, "blue", "c4", &[]);
    ping(&c4.ns, c3.ip());
    net.heal(3);
    net.wait_in_agreement();
    ping(&c1.ns, c4.ip());
    assert_eq!(host1.network("blue").members.len(), 3);
    let c5 = net.lab.container(host3, "red", "c5", &[]);
    let c6 = net.lab.container(host1, "red", "c6", &[]);
    ping(&c5.ns, c6.ip());
}

/// A backup brings a cluster back, in the same kind of store or the other.
#[test]
fn a_cluster_moves_from_a_file_into_etcd_and_back() {
    let net = Redundant::wired(Lab::new(), 3);
    let [host1, host2, host3] = net.three();
    let embedded = net.embedded_controller();
    embedded.start();
    for host in &net.hosts {
        host.join(&embedded);
    }
    host1.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let c1 = net.lab.container(host1, "blue", "c1", &[]);
    let token = embedded.token(&[]);
    let file = net.lab.dir().join("cluster.json");
    let file = file.to_str().unwrap();
    let told = weft(&[
        "controller",
        "export",
        "--data",
        embedded.data(),
        file,
        "--json",
    ])
    .expect_done();
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["cluster"], host1.status().cluster);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // A second file of that name would be somebody else's; what comes after the backup is missing in it.
    refusal(&weft(&[
        "controller",
        "export",
        "--data",
        embedded.data(),
        file,
        "--json",
    ]));
    let c2 = net.lab.container(host2, "blue", "c2", &[]);
    ping(&c1.ns, c2.ip());
    embedded.stop();

    let store = net.etcd.url();
    let program = weft_bin().to_str().unwrap();
    host1
        .ns
        .run(program, &["controller", "import", "--store", &store, file])
        .expect_done();
    let again = host1.ns.run(
        program,
        &["controller", "import", "--store", &store, file, "--json"],
    );
    assert!(refusal(&again).message.contains("already"), "{again}");
    for controller in &net.controllers {
        controller.start();
    }
    net.wait_in_agreement();
    // The agents told what the backup didn't know.
    wait_until(RECOVERED_WITHIN, "all know both containers", || {
        net.hosts
            .iter()
            .all(|host| host.network("blue").members.len() == 2)
    });
    ping(&c2.ns, c1.ip());
    let c3 = net.lab.container(host3, "blue", "c3", &[]);
    ping(&c3.ns, c1.ip());
    let ips: BTreeSet<_> = [&c1, &c2, &c3].map(|container| container.ip()).into();
    assert_eq!(ips.len(), 3);

    // And back, from a controller that runs, through a pipe.
    let dump = weft(&[
        "controller",
        "export",
        "--data",
        net.controllers[0].data(),
        "-",
    ])
    .expect_done();
    assert!(dump.contains(&host1.status().cluster));
    let second = net.lab.dir().join("second.json");
    std::fs::write(&second, &dump).unwrap();
    for controller in &net.controllers {
        controller.stop();
    }
    std::fs::rename(embedded.data(), net.lab.dir().join("old")).unwrap();
    let args = [
        "controller",
        "import",
        "--data",
        embedded.data(),
        second.to_str().unwrap(),
    ];
    weft(&args).expect_done();
    embedded.start();
    net.wait_in_agreement();
    assert_eq!(host2.network("blue").members.len(), 3);
    // Tokens came along.
    assert!(
        weft(&["controller", "token", "ls", "--data", embedded.data()])
            .expect_done()
            .contains(token_id(&token))
    );
    ping(&c2.ns, c3.ip());
}

/// The part of a token that isn't secret.
fn token_id(token: &str) -> &str {
    token.split('.').nth(2).unwrap()
}
