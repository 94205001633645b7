//! Networks whose way out and way in are weft's.

use std::fs;

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
