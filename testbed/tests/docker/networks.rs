//! What users do: networks, names, addresses, compose files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::json;
use weft_testbed::lab::docker::IMAGE;
use weft_testbed::lab::verdict::{wait_for, wait_until};

use super::*;

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
    // What travels between the hosts is encrypted where that is said.
    let safe = [
        "--subnet",
        "10.46.0.0/16",
        "-o",
        "weft.network=safe",
        "-o",
        "encrypted",
    ];
    for docker in [docker1, docker2] {
        docker.create_network("safe", &safe);
    }
    assert!(world.pair.host2.network("safe").network.encrypted);
    docker1.container("sealed", &["--network", "safe"]);
    docker2.container("opener", &["--network", "safe"]);
    let opener = docker2.address("opener", "safe");
    wait_until(NOTICE, "the hosts have a session", || {
        docker1.pings("sealed", &opener)
    });
    // Docker's own IPAM knows this host only: what it gives is taken if nobody has it.
    for docker in [docker1, docker2] {
        docker.run(&[
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
    }
    docker1.container("first", &["--network", "own"]);
    let why = docker2.refused(&["run", "--rm", "--network", "own", IMAGE, "true"]);
    assert!(why.contains("is taken by endpoint"), "{why}");
    assert!(why.contains("was --ipam-driver weft left out"), "{why}");
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
