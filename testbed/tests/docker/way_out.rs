//! Networks whose way out and way in are weft's.

use std::fs;
use std::net::UdpSocket;

use weft_control::api::NetnsArg;
use weft_control::netns::Netns;
use weft_testbed::lab::docker::IMAGE;
use weft_testbed::lab::verdict::{wait_for, wait_until};

use super::*;

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
    expect_datagrams(world);
    let taken = run("8081:80", "second");
    let why = docker.refused(&taken.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(why.contains("8081") && why.contains("published"), "{why}");
    let any = run("80", "third");
    let why = docker.refused(&any.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(why.contains("-p 8080:80"), "{why}");
    // Docker asks only its own bridge.
    assert_eq!(docker.run(&["ps", "--format", "{{.Ports}}"]), "");
    let shown = host.weft(&["ports"]);
    assert!(shown.contains("8081"), "{shown}");
    // The next agent opens it again, and so does the next start of the container.
    host.kill_agent();
    host.restart_agent();
    wait_for(NOTICE, "the published port answers again", &true, answers);
    docker.run(&["restart", "--time", "1", "served"]);
    wait_for(NOTICE, "it answers after a restart", &true, answers);
    expect_way_in_follows_the_way_out(world, &answers);
    docker.run(&["rm", "--force", "served", "second", "third"]);
    wait_for(NOTICE, "the port is closed", &false, answers);
}

/// `-p .../udp`; the server is in the container's namespace.
fn expect_datagrams(world: &World) {
    let docker = &world.docker1;
    docker.container("echo", &["--network", "out", "-p", "8085:53/udp"]);
    let pid = docker.run(&["inspect", "--format", "{{.State.Pid}}", "echo"]);
    let netns = Netns::open(&NetnsArg::Pid(pid.parse().unwrap())).unwrap();
    let server = netns
        .run(|| UdpSocket::bind("0.0.0.0:53"))
        .unwrap()
        .unwrap();
    server.set_read_timeout(Some(NOTICE)).unwrap();
    let host2 = &world.pair.host2.ns;
    let client = host2.enter(|| UdpSocket::bind("10.99.0.2:0")).unwrap();
    client.set_read_timeout(Some(NOTICE)).unwrap();
    client.send_to(b"question", "10.99.0.1:8085").unwrap();
    let mut buffer = [0; 64];
    let (len, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"question");
    server.send_to(b"answer", from).unwrap();
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from.to_string().as_str()),
        (&b"answer"[..], "10.99.0.1:8085")
    );
    docker.run(&["rm", "--force", "echo"]);
}

/// A container on a network whose way out is Docker's and on one whose way out is weft's: whichever Docker chooses
/// publishes.
fn expect_both_kinds(world: &World) {
    let docker = &world.docker1;
    docker.run(&[
        "create",
        "--name",
        "mixed",
        "--network",
        "out",
        "-p",
        "8086:80",
        IMAGE,
        "httpd",
        "-f",
        "-p",
        "80",
    ]);
    docker.run(&["network", "connect", "classic", "mixed"]);
    let answers = || {
        let ask = r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc -w 2 10.99.0.1 8086";
        let asked = world.pair.host2.ns.run("sh", &["-c", ask]);
        asked.stdout.contains("404")
    };
    for _ in 0..3 {
        docker.run(&["start", "mixed"]);
        wait_for(NOTICE, "the published port answers", &true, answers);
        docker.run(&["stop", "--time", "1", "mixed"]);
    }
    docker.run(&["start", "mixed"]);
    docker.run(&["network", "disconnect", "out", "mixed"]);
    wait_for(NOTICE, "Docker's own bridge publishes", &true, answers);
    docker.run(&["rm", "--force", "mixed"]);
}

/// With several networks that lead out Docker chooses one, and another when that one goes.
fn expect_way_in_follows_the_way_out(world: &World, answers: &dyn Fn() -> bool) {
    let (docker, host) = (&world.docker1, &world.pair.host1);
    let published = || {
        let ports = host.ports().into_iter();
        let with = ports.filter(|port| !port.published.is_empty());
        with.map(|port| port.network).collect::<Vec<_>>()
    };
    assert_eq!(published(), ["out"]);
    docker.run(&["network", "connect", "too", "served"]);
    wait_for(NOTICE, "it answers with a second way out", &true, answers);
    assert_eq!(published().len(), 1, "{:?}", published());
    docker.run(&["network", "disconnect", "out", "served"]);
    wait_for(NOTICE, "it answers by the other", &true, answers);
    assert_eq!(published(), ["too"]);
    docker.run(&["restart", "--time", "1", "served"]);
    docker.run(&["network", "connect", "out", "served"]);
    wait_for(NOTICE, "it answers with both", &true, answers);
    docker.run(&["network", "disconnect", "too", "served"]);
    wait_for(NOTICE, "it answers as at first", &true, answers);
    assert_eq!(published(), ["out"]);
    docker.run(&["network", "disconnect", "out", "served"]);
    assert!(!answers(), "nothing leads to it any more");
    docker.run(&["network", "connect", "out", "served"]);
    wait_for(NOTICE, "it answers again", &true, answers);
}

/// What has no way out has no way in either, and Docker's own bridge is neither.
fn expect_closed(world: &World) {
    let internal = [
        "--subnet",
        "10.52.0.0/16",
        "-o",
        "weft.network=closed",
        "-o",
        "internal",
        "-o",
        "weft.gateway=on",
    ];
    world.docker1.create_network("closed", &internal);
    // The other host takes the overlay as it is.
    let joined = ["--subnet", "10.52.0.0/16", "-o", "weft.network=closed"];
    world.docker2.create_network("closed", &joined);
    for docker in [&world.docker1, &world.docker2] {
        let published = ["--network", "closed", "-p", "8084:80"];
        docker.container("shut", &published);
        let routes = docker.exec("shut", "ip route");
        assert!(!routes.contains("default"), "{routes}");
        assert!(!routes.contains("eth1"), "{routes}");
    }
    let ports = world.pair.host1.ports();
    assert!(ports.iter().all(|port| port.published.is_empty()));
    let there = world.docker2.address("shut", "closed");
    assert!(world.docker1.pings("shut", &there));
    for docker in [&world.docker1, &world.docker2] {
        docker.run(&["rm", "--force", "shut"]);
    }
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
    let too = [
        &["--subnet", "10.53.0.0/16"],
        &["-o", "weft.network=too"],
        &out[4..],
    ]
    .concat();
    docker1.create_network("too", &too);
    docker1.create_network(
        "classic",
        &["--subnet", "10.54.0.0/16", "-o", "weft.network=classic"],
    );
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
    expect_both_kinds(&world);
    expect_closed(&world);
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
