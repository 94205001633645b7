//! Docker as its users have it: two hosts with a real dockerd each, networks by `docker network create -d weft`.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_testbed::lab::docker::{Docker, IMAGE};
use weft_testbed::lab::verdict::{wait_for, wait_until};
use weft_testbed::{Host, Lab, Pair};

/// What is learned from Docker's events is there by then.
const NOTICE: Duration = Duration::from_secs(20);
/// What a call that can't be answered may take: Docker itself gives a plugin up after 30 s.
const FAIL_FAST: Duration = Duration::from_secs(12);
/// What Docker forgot in a crash is given back by then.
const FORGOTTEN: Duration = Duration::from_secs(70);
/// dockerd gives the containers that it finds ten seconds to end, all at once; looking for a driver that isn't there would
/// take it half a minute for each of three.
const BOOT: Duration = Duration::from_secs(40);
const SHOP: [&str; 4] = ["--subnet", "10.40.0.0/16", "-o", "weft.network=shop"];

/// Two hosts with agent and dockerd each.
struct World {
    docker1: Docker,
    docker2: Docker,
    pair: Pair,
}

impl World {
    fn up() -> Self {
        let pair = Pair::cold(Lab::new());
        pair.controller.start();
        let [docker1, docker2] = [&pair.host1, &pair.host2].map(|host| {
            let docker = Docker::cold(host);
            host.join_with_docker(&pair.controller, &docker);
            docker.start();
            docker
        });
        pair.wait_in_sync();
        Self {
            docker1,
            docker2,
            pair,
        }
    }

    fn with_shop() -> Self {
        let world = Self::up();
        for docker in [&world.docker1, &world.docker2] {
            docker.create_network("shop", &SHOP);
        }
        world
    }

    /// Nothing of Docker's is left on either host: neither interfaces nor what the agent remembers.
    fn expect_nothing_left(&self) {
        for host in [&self.pair.host1, &self.pair.host2] {
            expect_no_endpoints(host);
        }
        wait_for(NOTICE, "no endpoint is in the cluster", &0, || {
            let networks: Vec<weft_control::api::NetworkInfo> =
                self.pair.host1.json(&["network", "ls"]);
            networks.iter().map(|network| network.endpoints).sum()
        });
    }
}

/// The names that a network's members have, as a host's agent sees it.
fn members(host: &Host, network: &str) -> BTreeSet<String> {
    let members = host.network(network).members.into_iter();
    members.map(|member| member.name).collect()
}

fn taps(host: &Host) -> Vec<String> {
    let names = host.ns.ifnames().into_iter();
    names.filter(|name| name.starts_with("weft")).collect()
}

fn ledger(host: &Host) -> Value {
    let text = fs::read_to_string(host.state().join("docker.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Addresses that the agent keeps for Docker.
fn held(host: &Host) -> Vec<String> {
    let ledger = ledger(host);
    let pools = ledger["pools"].as_object().unwrap().values();
    let held = pools.flat_map(|pool| pool["held"].as_array().unwrap());
    held.map(|ip| ip.as_str().unwrap().to_owned()).collect()
}

fn expect_no_endpoints(host: &Host) {
    wait_for(NOTICE, "no port is left", &0, || host.ports().len());
    wait_for(NOTICE, "no TAP is left", &Vec::<String>::new(), || {
        taps(host)
    });
    wait_for(NOTICE, "no address is held", &Vec::<String>::new(), || {
        held(host)
    });
    wait_for(FORGOTTEN, "no endpoint is remembered", &json!({}), || {
        ledger(host)["endpoints"].clone()
    });
}

#[test]
fn containers_of_two_hosts_reach_each_other_and_leave_nothing() {
    let world = World::with_shop();
    let (docker1, docker2) = (&world.docker1, &world.docker2);
    let (host1, host2) = (&world.pair.host1, &world.pair.host2);
    docker1.container("web", &["--network", "shop"]);
    docker2.container("db", &["--network", "shop", "--network-alias", "data"]);
    let (web, db) = (
        docker1.address("web", "shop"),
        docker2.address("db", "shop"),
    );
    assert_ne!(web, db);
    assert!(docker1.pings("web", &db), "web does not reach db at {db}");
    assert!(docker2.pings("db", &web), "db does not reach web at {web}");
    // A full frame crosses: the MTU was set before Docker moved the interface.
    let mtu = docker1.exec("web", "cat /sys/class/net/eth0/mtu");
    assert_eq!(mtu, host1.ports()[0].mtu.to_string());
    let size = mtu.parse::<u32>().unwrap() - 28;
    docker1.exec("web", &format!("ping -c 2 -W 1 -s {size} {db}"));
    // The way out is Docker's own.
    let routes = docker1.exec("web", "ip route");
    assert!(routes.contains("default via 172."), "{routes}");
    // Names come by Docker's events.
    let wanted = BTreeSet::from(["db".to_owned(), "web".to_owned()]);
    wait_for(NOTICE, "both names are known", &wanted, || {
        members(host1, "shop")
    });
    wait_until(NOTICE, "the alias is known on the other host", || {
        let network = host1.network("shop");
        let db = network.members.iter().find(|member| member.name == "db");
        db.is_some_and(|db| db.aliases.contains(&"data".to_owned()))
    });
    let port = &host1.ports()[0];
    assert_eq!((port.name.as_str(), port.ifname.as_str()), ("web", "eth0"));
    assert_eq!(
        port.attachment.as_ref().map(|of| of.owner.as_str()),
        Some("docker")
    );
    // Weft's name server answers for both hosts.
    docker1.container("asker", &["--network", "shop", "--dns", "10.40.0.1"]);
    for name in ["db", "data", "web.shop"] {
        wait_until(NOTICE, "a name of the other host resolves", || {
            docker1.pings("asker", name)
        });
    }
    docker1.run(&["rm", "--force", "asker"]);
    // A rename is heard of, too.
    docker2.run(&["rename", "db", "base"]);
    let wanted = BTreeSet::from(["base".to_owned(), "web".to_owned()]);
    wait_for(NOTICE, "the new name is known", &wanted, || {
        members(host1, "shop")
    });
    let refusal = docker1.refused(&["network", "rm", "shop"]);
    assert!(refusal.contains("active endpoints"), "{refusal}");
    docker1.run(&["rm", "--force", "web"]);
    docker2.run(&["rm", "--force", "base"]);
    world.expect_nothing_left();
    // The overlay goes with the Docker networks that made it.
    docker1.run(&["network", "rm", "shop"]);
    docker2.run(&["network", "rm", "shop"]);
    wait_for(NOTICE, "the overlay is gone", &0, || {
        host2.status().networks
    });
    for host in [host1, host2] {
        assert_eq!(ledger(host)["networks"], json!({}));
        assert_eq!(ledger(host)["pools"], json!({}));
    }
}

#[test]
fn an_overlay_that_went_while_a_host_had_no_container_is_made_again() {
    let world = World::with_shop();
    // Nothing is on it, so the first host takes it along.
    world.docker1.run(&["network", "rm", "shop"]);
    wait_for(NOTICE, "the overlay is gone", &0, || {
        world.pair.host2.status().networks
    });
    world.docker2.container("db", &["--network", "shop"]);
    world.docker1.create_network("shop", &SHOP);
    world.docker1.container("web", &["--network", "shop"]);
    let db = world.docker2.address("db", "shop");
    assert!(world.docker1.pings("web", &db));
    // One that an operator made stays.
    world
        .pair
        .host1
        .weft(&["network", "create", "blue", "--subnet", "10.41.0.0/16"]);
    let blue = ["--subnet", "10.41.0.0/16", "-o", "weft.network=blue"];
    world.docker1.create_network("blue", &blue);
    world.docker1.run(&["network", "rm", "blue"]);
    thread::sleep(Duration::from_secs(1));
    assert_eq!(world.pair.host1.network("blue").network.name, "blue");
}

#[test]
fn fixed_addresses_aliases_and_a_second_network() {
    let world = World::with_shop();
    let (docker1, docker2) = (&world.docker1, &world.docker2);
    docker1.container("web", &["--network", "shop", "--ip", "10.40.9.9"]);
    assert_eq!(docker1.address("web", "shop"), "10.40.9.9");
    // An address is one container's in the whole cluster.
    let why = docker2.refused(&[
        "run",
        "--rm",
        "--network",
        "shop",
        "--ip",
        "10.40.9.9",
        IMAGE,
        "true",
    ]);
    assert!(why.contains("10.40.9.9") && why.contains("host1"), "{why}");
    let why = docker2.refused(&[
        "run",
        "--rm",
        "--network",
        "shop",
        "--ip",
        "10.40.0.1",
        IMAGE,
        "true",
    ]);
    assert!(why.contains("gateway"), "{why}");
    // A second network for a running container.
    for docker in [docker1, docker2] {
        docker.create_network(
            "back",
            &[
                "--internal",
                "--subnet",
                "10.42.0.0/16",
                "--gateway",
                "10.42.0.254",
                "-o",
                "weft.network=back",
            ],
        );
    }
    docker2.container("db", &["--network", "shop"]);
    docker2.run(&[
        "network",
        "connect",
        "--ip",
        "10.42.7.7",
        "--alias",
        "data",
        "back",
        "db",
    ]);
    docker1.run(&["network", "connect", "back", "web"]);
    assert!(docker1.pings("web", "10.42.7.7"));
    // On one host Docker resolves aliases itself.
    docker2.container("app", &["--network", "back"]);
    assert!(docker2.pings("app", "data"));
    let host1 = &world.pair.host1;
    assert_eq!(
        host1.network("back").network.subnets[0].gateway.to_string(),
        "10.42.0.254"
    );
    assert!(host1.network("back").network.internal);
    docker2.run(&["network", "disconnect", "back", "db"]);
    assert!(!docker1.pings("web", "10.42.7.7"));
    let db = docker2.address("db", "shop");
    assert!(docker1.pings("web", &db), "the other network is as it was");
    // A restart takes another interface and the same fixed address.
    docker1.run(&["restart", "--time", "0", "web"]);
    assert_eq!(docker1.address("web", "shop"), "10.40.9.9");
    assert!(docker2.pings("db", "10.40.9.9"));
    for (docker, names) in [(docker1, &["web"][..]), (docker2, &["db", "app"])] {
        docker.run(&[&["rm", "--force"], names].concat());
    }
    world.expect_nothing_left();
}

#[test]
fn both_families_ranges_that_nobody_named_and_addresses_kept_free() {
    let world = World::up();
    let (docker1, docker2) = (&world.docker1, &world.docker2);
    let dual = [
        "--ipv6",
        "--subnet",
        "10.40.0.0/24",
        "--subnet",
        "fd40::/64",
        "--ip-range",
        "10.40.0.128/25",
        "--aux-address",
        "router=10.40.0.128",
        "-o",
        "weft.network=dual",
    ];
    for docker in [docker1, docker2] {
        docker.create_network("dual", &dual);
    }
    docker1.container("web", &["--network", "dual"]);
    docker2.container("db", &["--network", "dual"]);
    let address = docker1.address("web", "dual");
    let last: u8 = address.rsplit('.').next().unwrap().parse().unwrap();
    assert!(last > 128, "{address} is not of the range that is left");
    let v6 = docker2.run(&[
        "inspect",
        "--format",
        "{{.NetworkSettings.Networks.dual.GlobalIPv6Address}}",
        "db",
    ]);
    assert!(v6.starts_with("fd40::"), "{v6}");
    wait_until(NOTICE, "db answers by IPv6", || docker1.pings("web", &v6));
    // Nobody names a range on the first host; the second asks for that of the overlay.
    docker1.create_network("free", &["-o", "weft.network=free"]);
    docker2.create_network(
        "free",
        &["--ipam-opt", "weft.network=free", "-o", "weft.network=free"],
    );
    docker1.container("one", &["--network", "free"]);
    docker2.container("two", &["--network", "free"]);
    let two = docker2.address("two", "free");
    assert!(docker1.pings("one", &two));
    // Without a name the range is what joins the hosts.
    for docker in [docker1, docker2] {
        docker.create_network("unnamed", &["--subnet", "10.44.0.0/16"]);
    }
    assert_eq!(
        world.pair.host1.network("net-10.44.0.0-16").network.name,
        "net-10.44.0.0-16"
    );
    // Docker's own IPAM knows this host only: what it gives is taken if nobody has it.
    docker1.run(&[
        "network",
        "create",
        "-d",
        "weft",
        "--subnet",
        "10.45.0.0/16",
        "-o",
        "weft.network=own",
        "own",
    ]);
    docker2.run(&[
        "network",
        "create",
        "-d",
        "weft",
        "--subnet",
        "10.45.0.0/16",
        "-o",
        "weft.network=own",
        "own",
    ]);
    docker1.container("first", &["--network", "own"]);
    let why = docker2.refused(&["run", "--rm", "--network", "own", IMAGE, "true"]);
    assert!(why.contains("is taken by endpoint"), "{why}");
}

#[test]
fn what_cannot_be_is_refused_with_a_sentence() {
    let world = World::with_shop();
    let docker = &world.docker1;
    let before = (
        ledger(&world.pair.host1)["networks"].clone(),
        world.pair.host1.listing(),
    );
    let cases: [(&[&str], &str); 12] = [
        (
            &[
                "--subnet",
                "10.40.0.0/16",
                "-o",
                "weft.network=shop",
                "-o",
                "vni=77",
            ],
            "VNI is 4096, not 77",
        ),
        (
            &[
                "--subnet",
                "10.40.0.0/16",
                "-o",
                "weft.network=shop",
                "-o",
                "com.docker.network.driver.mtu=1300",
            ],
            "not 1300",
        ),
        (
            &[
                "--subnet",
                "10.40.0.0/16",
                "-o",
                "weft.network=shop",
                "-o",
                "encrypted",
            ],
            "encryption is off, not on",
        ),
        (
            &[
                "--subnet",
                "10.40.0.0/16",
                "-o",
                "weft.network=shop",
                "--internal",
            ],
            "being internal is off, not on",
        ),
        (
            &[
                "--subnet",
                "10.40.0.0/16",
                "-o",
                "weft.network=shop",
                "--gateway",
                "10.40.0.9",
            ],
            "10.40.0.1 on network shop, not 10.40.0.9",
        ),
        (
            &["--subnet", "10.46.0.0/16", "-o", "weft.network=shop"],
            "subnet is 10.40.0.0/16, not 10.46.0.0/16",
        ),
        (
            &["--subnet", "10.40.0.0/16", "-o", "weft.network=other"],
            "overlaps 10.40.0.0/16 of network shop",
        ),
        (
            &["--subnet", "10.46.0.0/16", "-o", "encryptd"],
            "this driver has no such option",
        ),
        (
            &["--subnet", "10.46.0.0/16", "-o", "weft.network=two words"],
            "network name",
        ),
        (&["--subnet", "10.46.0.0/16", "-o", "vni=0"], "16777215"),
        (
            &["--subnet", "10.46.0.0/16", "--ipam-opt", "colour=red"],
            "no option colour=red",
        ),
        (&["--subnet", "127.0.0.0/16"], "loopback"),
    ];
    for (flags, word) in cases {
        let base = ["network", "create", "-d", "weft", "--ipam-driver", "weft"];
        let why = docker.refused(&[&base, flags, &["wrong"]].concat());
        assert!(why.contains(word), "{flags:?}: {why:?} lacks {word:?}");
    }
    let after = (
        ledger(&world.pair.host1)["networks"].clone(),
        world.pair.host1.listing(),
    );
    assert_eq!(before, after);
    // Docker gives ranges back after a refusal: one is left, that of shop.
    assert_eq!(
        ledger(&world.pair.host1)["pools"]
            .as_object()
            .unwrap()
            .len(),
        1
    );
    // Options of other drivers pass, ours are obeyed.
    docker.create_network(
        "tuned",
        &[
            "--subnet",
            "10.47.0.0/16",
            "-o",
            "weft.network=tuned",
            "-o",
            "vni=77",
            "-o",
            "com.docker.network.driver.mtu=1300",
            "-o",
            "com.docker.network.bridge.enable_icc=true",
            "-o",
            "com.docker.network.bridge.name=br-tuned",
        ],
    );
    let tuned = world.pair.host2.network("tuned").network;
    assert_eq!((tuned.vni.value(), tuned.mtu.value()), (77, 1300));
    docker.container("small", &["--network", "tuned"]);
    assert_eq!(docker.exec("small", "cat /sys/class/net/eth0/mtu"), "1300");
}

#[test]
fn agents_and_dockerds_die_in_any_order_and_nothing_leaks() {
    let world = World::with_shop();
    let (docker1, docker2, host1) = (&world.docker1, &world.docker2, &world.pair.host1);
    docker1.container("web", &["--network", "shop", "--restart", "always"]);
    docker1.container("job", &["--network", "shop"]);
    docker2.container("db", &["--network", "shop"]);
    let db = docker2.address("db", "shop");
    // The agent: containers don't notice.
    host1.kill_agent();
    host1.restart_agent();
    world.pair.wait_in_sync();
    assert!(docker1.pings("web", &db) && docker1.pings("job", &db));
    // Removed while the agent is away: Docker waits for it.
    host1.kill_agent();
    thread::scope(|scope| {
        let removed = scope.spawn(|| docker1.run(&["rm", "--force", "job"]));
        thread::sleep(Duration::from_secs(1));
        host1.restart_agent();
        removed.join().unwrap();
    });
    wait_for(NOTICE, "job's port is gone", &1, || host1.ports().len());
    assert!(docker1.pings("web", &db));
    // dockerd: it ends its containers when it is back, and starts those that it should.
    docker1.kill();
    docker1.start();
    wait_until(NOTICE, "web is back", || docker1.pings("web", &db));
    wait_for(NOTICE, "web has one port", &1, || host1.ports().len());
    // Both.
    docker1.kill();
    host1.kill_agent();
    host1.restart_agent();
    docker1.start();
    wait_until(NOTICE, "web is back", || docker1.pings("web", &db));
    wait_for(NOTICE, "web has one port", &1, || host1.ports().len());
    wait_for(FORGOTTEN, "one address is held", &1, || held(host1).len());
    docker1.run(&["rm", "--force", "web"]);
    docker2.run(&["rm", "--force", "db"]);
    world.expect_nothing_left();
}

#[test]
fn a_dockerd_that_dies_in_the_middle_of_a_call_leaves_nothing() {
    let world = World::with_shop();
    let (docker, host) = (&world.docker1, &world.pair.host1);
    let network = docker.run(&["network", "inspect", "--format", "{{.Id}}", "shop"]);
    let pools = ledger(host)["pools"].as_object().unwrap().clone();
    let (pool, _) = pools.into_iter().next().unwrap();
    // As far as a `docker run` gets, for many containers at once, and then no dockerd remembers.
    let ask = |number: u32| {
        let endpoint = format!("{number:064x}");
        let reply = docker.call(
            "IpamDriver.RequestAddress",
            &json!({ "PoolID": pool, "Address": "", "Options": null }),
        );
        let address = reply["Address"].as_str().unwrap().to_owned();
        let created = docker.call(
            "NetworkDriver.CreateEndpoint",
            &json!({ "NetworkID": network, "EndpointID": endpoint, "Interface": { "Address": address }, "Options": {} }),
        );
        assert!(created["Interface"]["MacAddress"].is_string(), "{created}");
        let joined = docker.call(
            "NetworkDriver.Join",
            &json!({ "NetworkID": network, "EndpointID": endpoint, "SandboxKey": "/nowhere", "Options": {} }),
        );
        assert!(joined["InterfaceName"]["SrcName"].is_string(), "{joined}");
        address
    };
    let addresses: BTreeSet<String> = thread::scope(|scope| {
        let asked: Vec<_> = (1..=12)
            .map(|number| scope.spawn(move || ask(number)))
            .collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    assert_eq!(addresses.len(), 12, "no address twice: {addresses:?}");
    assert_eq!(taps(host).len(), 12);
    // Also what was never joined, also over a restart of the agent.
    let endpoint = "f".repeat(64);
    docker.call(
        "NetworkDriver.CreateEndpoint",
        &json!({ "NetworkID": network, "EndpointID": endpoint, "Interface": { "Address": "10.40.3.3/16" } }),
    );
    docker.call("IpamDriver.RequestPool", &json!({ "Pool": "10.48.0.0/16" }));
    docker.call(
        "NetworkDriver.CreateNetwork",
        &json!({ "NetworkID": "e".repeat(64),
        "IPv4Data": [{ "AddressSpace": "weft", "Pool": "10.48.0.0/16" }] }),
    );
    assert_eq!(
        world
            .pair
            .host2
            .network("net-10.48.0.0-16")
            .network
            .endpoints,
        0
    );
    host.kill_agent();
    host.restart_agent();
    world.pair.wait_in_sync();
    assert_eq!(taps(host).len(), 12);
    assert_eq!(host.network("shop").network.endpoints, 13);
    wait_for(FORGOTTEN, "the ports are given back", &0, || {
        host.ports().len()
    });
    world.expect_nothing_left();
    wait_for(NOTICE, "the network is given back", &1, || {
        host.status().networks
    });
    assert_eq!(ledger(host)["pools"].as_object().unwrap().len(), 1);
    // And what Docker does know is as it was.
    docker.container("web", &["--network", "shop"]);
    assert!(docker.pings("web", &docker.address("web", "shop")));
}

#[test]
fn dockerd_is_answered_at_once_while_the_agent_has_no_cluster() {
    let pair = Pair::cold(Lab::new());
    let docker = Docker::cold(&pair.host1);
    pair.host1.give_agent(&docker.agent_flags());
    pair.controller.start();
    let token = pair.controller.token(&[]);
    pair.controller.kill();
    pair.host1.join_with(&pair.controller, &token);
    wait_until(NOTICE, "the driver's socket is there", || {
        docker.plugin().exists()
    });
    docker.start();
    // Until its first call has failed it says that it is starting.
    wait_until(NOTICE, "the agent says why it isn't ready", || {
        let status = pair.host1.try_weft(&["status"]);
        status.stderr.contains("can't join its cluster yet")
    });
    let began = Instant::now();
    let create = [
        &["network", "create", "-d", "weft", "--ipam-driver", "weft"],
        &SHOP[..],
        &["shop"],
    ]
    .concat();
    let why = docker.refused(&create);
    assert!(began.elapsed() < FAIL_FAST, "{:?}", began.elapsed());
    assert!(why.contains("can't join its cluster yet"), "{why}");
    assert!(why.contains("weft status --wait"), "{why}");
    pair.controller.start();
    pair.host1.wait_up();
    pair.host1.wait_in_sync();
    docker.run(&create);
    docker.container("web", &["--network", "shop"]);
    // With a cluster but no controller what is there goes on, and what is new fails fast.
    pair.controller.kill();
    let began = Instant::now();
    docker.container("two", &["--network", "shop"]);
    let two = docker.address("two", "shop");
    assert!(docker.pings("web", &two));
    let why = docker.refused(&[
        "network",
        "create",
        "-d",
        "weft",
        "--ipam-driver",
        "weft",
        "--subnet",
        "10.49.0.0/16",
        "new",
    ]);
    assert!(why.contains("weft"), "{why}");
    docker.run(&["rm", "--force", "web", "two"]);
    assert!(began.elapsed() < FAIL_FAST * 3, "{:?}", began.elapsed());
    expect_no_endpoints(&pair.host1);
}

/// `docker run --publish` on a network whose way in is weft's.
fn expect_published(world: &World) {
    let (docker, host) = (&world.docker1, &world.pair.host1);
    let run = |port: &str, name: &str| {
        let flags = [
            "run",
            "--detach",
            "--network",
            "out",
            "--name",
            name,
            "-p",
            port,
        ];
        [&flags[..], &[IMAGE, "httpd", "-f", "-p", "80"]]
            .concat()
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect::<Vec<_>>()
    };
    let serve = run("8081:80", "served");
    docker.run(&serve.iter().map(String::as_str).collect::<Vec<_>>());
    let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 10.99.0.1 8081";
    let answers = || {
        let asked = world.pair.host2.ns.run("sh", &["-c", ask]);
        asked.stdout.contains("404")
    };
    wait_for(NOTICE, "the published port answers", &true, answers);
    let taken = run("8081:80", "second");
    let why = docker.refused(&taken.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(why.contains("8081") && why.contains("published"), "{why}");
    let any = run("80", "third");
    let why = docker.refused(&any.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(why.contains("-p 8080:80"), "{why}");
    // The next agent opens it again.
    host.kill_agent();
    host.restart_agent();
    wait_for(NOTICE, "the published port answers again", &true, answers);
    docker.run(&["rm", "--force", "served", "second", "third"]);
    wait_for(NOTICE, "the port is closed", &false, answers);
}

#[test]
fn weft_as_the_way_out_and_containers_kept_apart() {
    let world = World::up();
    let (docker1, docker2) = (&world.docker1, &world.docker2);
    let out = [
        "--subnet",
        "10.50.0.0/16",
        "-o",
        "weft.network=out",
        "-o",
        "weft.gateway=on",
    ];
    let apart = [
        "--subnet",
        "10.51.0.0/16",
        "-o",
        "weft.network=apart",
        "-o",
        "com.docker.network.bridge.enable_icc=false",
    ];
    for docker in [docker1, docker2] {
        docker.create_network("out", &out);
        docker.create_network("apart", &apart);
    }
    let root = world.pair.lab.dir().join("www");
    fs::create_dir_all(&root).unwrap();
    fs::write(root.join("index.html"), "from outside").unwrap();
    let root = root.to_string_lossy().into_owned();
    world.pair.host2.ns.spawn(
        "httpd",
        "busybox",
        &["httpd", "-f", "-p", "10.99.0.2:8080", "-h", &root],
    );
    docker1.container("web", &["--network", "out"]);
    let routes = docker1.exec("web", "ip route");
    assert!(
        routes.contains("default via 10.50.0.1 dev eth0"),
        "{routes}"
    );
    assert!(
        !routes.contains("eth1"),
        "Docker's bridge has no part in it: {routes}"
    );
    // busybox's own wget crashes where it is linked statically.
    let ask = r"printf 'GET /index.html HTTP/1.0\r\n\r\n' | nc -w 2 10.99.0.2 8080";
    wait_until(NOTICE, "the outside is reached", || {
        let asked = docker1.try_run(&["exec", "web", "sh", "-c", ask]);
        asked.stdout.ends_with("from outside")
    });
    expect_published(&world);
    docker1.container("one", &["--network", "apart"]);
    docker2.container("two", &["--network", "apart"]);
    let two = docker2.address("two", "apart");
    assert!(!docker1.pings("one", &two));
    // Docker's own way publishes.
    docker1.container("shop", &["--network", "apart", "-p", "8082:80"]);
    assert!(docker1.run(&["port", "shop"]).contains("8082"));
    docker1.run(&["rm", "--force", "web", "one", "shop"]);
    docker2.run(&["rm", "--force", "two"]);
    world.expect_nothing_left();
}

#[test]
fn compose_files_with_this_driver_work() {
    let world = World::up();
    let dir = world.pair.lab.dir().join("compose");
    fs::create_dir_all(&dir).unwrap();
    let file = format!(
        "version: \"3.5\"\n\
         services:\n\
         \x20 web: &box\n\
         \x20   image: {IMAGE}\n\
         \x20   command: sleep 3600\n\
         \x20   stop_grace_period: 0s\n\
         \x20   networks: [shop]\n\
         \x20 db: *box\n\
         networks:\n\
         \x20 shop:\n\
         \x20   driver: weft\n\
         \x20   driver_opts: {{weft.network: shop, com.docker.network.driver.mtu: \"1400\"}}\n\
         \x20   ipam: {{driver: weft, config: [{{subnet: 10.40.0.0/16}}]}}\n"
    );
    fs::write(dir.join("docker-compose.yml"), file).unwrap();
    let dir: &Path = &dir;
    world
        .docker1
        .compose(dir, &["--project-name", "one", "up", "--detach"]);
    world
        .docker2
        .compose(dir, &["--project-name", "two", "up", "--detach"]);
    assert!(
        world.docker1.pings("one_web_1", "db"),
        "a service by its name"
    );
    let there = world.docker2.address("two_db_1", "two_shop");
    assert!(world.docker1.pings("one_web_1", &there), "the other host's");
    wait_until(NOTICE, "services are known by their names", || {
        let members = world.pair.host1.network("shop").members;
        members
            .iter()
            .filter(|member| member.aliases.contains(&"db".to_owned()))
            .count()
            == 2
    });
    world
        .docker1
        .compose(dir, &["--project-name", "one", "down"]);
    world
        .docker2
        .compose(dir, &["--project-name", "two", "down"]);
    world.expect_nothing_left();
    wait_for(NOTICE, "the overlay is gone", &0, || {
        world.pair.host1.status().networks
    });
}

#[test]
fn a_stopped_agent_does_not_keep_dockerd_from_booting() {
    let world = World::with_shop();
    let (docker, host) = (&world.docker1, &world.pair.host1);
    for name in ["one", "two", "three"] {
        docker.container(name, &["--network", "shop"]);
    }
    host.stop_agent();
    let why = docker.refused(&["run", "--rm", "--network", "shop", IMAGE, "true"]);
    assert!(why.contains("was stopped"), "{why}");
    // It has three endpoints to give back and nobody to take them.
    docker.kill();
    let took = docker.start();
    assert!(took < BOOT, "dockerd took {took:?}");
    // The next agent takes over, and finds what Docker no longer has.
    host.restart_agent();
    world.pair.wait_in_sync();
    docker.container("four", &["--network", "shop"]);
    assert!(docker.pings("four", &docker.address("four", "shop")));
    wait_for(FORGOTTEN, "one port is left", &1, || host.ports().len());
    wait_for(FORGOTTEN, "one address is held", &1, || held(host).len());
    docker.run(&["rm", "--force", "one", "two", "three", "four"]);
    world.expect_nothing_left();
}
