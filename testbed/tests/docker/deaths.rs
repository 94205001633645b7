//! Agents and dockerds that die, alone and together.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_testbed::lab::docker::{Docker, IMAGE};
use weft_testbed::lab::verdict::{wait_for, wait_until};
use weft_testbed::{Lab, Pair};

use super::*;

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
    // Also an address that was never used, and one that it says.
    for wanted in ["", "10.40.4.4"] {
        let reply = docker.call(
            "IpamDriver.RequestAddress",
            &json!({ "PoolID": pool, "Address": wanted, "Options": {} }),
        );
        assert!(reply["Address"].is_string(), "{reply}");
    }
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
        Some(0)
    );
    host.kill_agent();
    host.restart_agent();
    world.pair.wait_in_sync();
    assert_eq!(taps(host).len(), 12);
    assert_eq!(host.network("shop").network.endpoints, Some(13));
    wait_for(FORGOTTEN, "the ports are given back", &0, || {
        host.ports().len()
    });
    world.expect_nothing_left();
    wait_for(NOTICE, "the network is given back", &1, || {
        host.status().networks
    });
    assert_eq!(ledger(host)["pools"].as_object().unwrap().len(), 1);
    // An address that was forgotten is free for everybody.
    wait_until(FORGOTTEN, "the other host may have 10.40.4.4", || {
        let flags = ["--network", "shop", "--ip", "10.40.4.4"];
        let run = [&["run", "--rm"], &flags[..], &[IMAGE, "sleep", "0"]].concat();
        world.docker2.try_run(&run).code == Some(0)
    });
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
