//! What cannot be.

use super::*;

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
fn an_overlay_named_for_its_range_is_joined_and_never_made_by_mistake() {
    let world = World::up();
    let (docker1, docker2) = (&world.docker1, &world.docker2);
    let named = |name: &str| format!("weft.network={name}");
    let base = ["network", "create", "-d", "weft", "--ipam-driver", "weft"];
    let by_range = |name: &str| ["--ipam-opt".to_owned(), named(name)];
    let wrong = by_range("shpo");
    let refused = |flags: &[&str]| docker2.refused(&[&base, flags, &["wrong"]].concat());
    let why = refused(&[&wrong[0], &wrong[1]]);
    assert!(why.contains("network \"shpo\" is not known"), "{why}");
    assert!(why.contains("give -o weft.network=shpo as well"), "{why}");
    // Nor with a range, which is that of the overlay or wrong.
    let why = refused(&[&wrong[0], &wrong[1], "--subnet", "10.40.0.0/16"]);
    assert!(why.contains("network \"shpo\" is not known"), "{why}");
    let why = refused(&[&wrong[0], &wrong[1], "-o", "weft.network=shop"]);
    assert!(why.contains("name two overlays"), "{why}");
    assert_eq!(
        docker2.run(&["network", "ls", "-q", "-f", "driver=weft"]),
        ""
    );
    assert_eq!(ledger(&world.pair.host2)["pools"], json!({}));
    assert_eq!(world.pair.host2.status().networks, 0);
    // The name alone joins what is there.
    docker1.create_network("shop", &SHOP);
    let right = by_range("shop");
    docker2.create_network("shop", &[&right[0], &right[1]]);
    docker1.container("web", &["--network", "shop"]);
    docker2.container("db", &["--network", "shop"]);
    assert!(docker1.pings("web", &docker2.address("db", "shop")));
    // Both names on every host: the first makes it.
    let both = by_range("new");
    for docker in [docker1, docker2] {
        docker.create_network("new", &[&both[0], &both[1], "-o", &both[1]]);
    }
    assert_eq!(world.pair.host1.status().networks, 2);
    // Docker's own address management knows nothing of the overlay.
    let why = docker2.refused(&[
        "network",
        "create",
        "-d",
        "weft",
        "-o",
        "weft.network=shop",
        "wrong",
    ]);
    assert!(why.contains("subnet is 10.40.0.0/16, not "), "{why}");
    assert!(why.contains("was --ipam-driver weft left out"), "{why}");
    docker1.run(&["rm", "--force", "web"]);
    docker2.run(&["rm", "--force", "db"]);
    world.expect_nothing_left();
}
