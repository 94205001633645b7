//! With real TAPs and namespaces: these need root, `/dev/net/tun` and the `ip` program. Each test's thread has a network
//! namespace of its own for a host.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use weft_switch::port::{PortKind, Queue, TapDevice, create_tap};

use super::*;
use crate::netns::tests::{TestNetns, ip};

fn own_host() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
}

fn tap(name: &str) -> TapDevice {
    create_tap(name, PortKind::Offload, 2).unwrap()
}

fn spec(tap: &TapDevice) -> AttachSpec {
    AttachSpec {
        tap: tap.name.clone(),
        ifindex: tap.ifindex,
        ifname: "eth0".to_owned(),
        mac: "02:00:0a:20:00:05".parse().unwrap(),
        carriage: Carriage::Clear,
        mtu: Mtu::new(1450).unwrap(),
        tx_queue_len: 256,
        addresses: vec![
            "10.32.0.5/16".parse().unwrap(),
            "fd00:32::5/64".parse().unwrap(),
        ],
        gateways: vec!["10.32.0.1".parse().unwrap(), "fd00:32::1".parse().unwrap()],
        routes: Vec::new(),
    }
}

#[test]
fn an_attached_tap_is_all_that_was_wanted() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    let attached = attach(&netns.open(), &spec(&tap)).unwrap();
    let state = read_back(&netns.open(), "eth0").unwrap().unwrap();
    assert_eq!(state.ifindex, attached.ifindex);
    assert_eq!(state.mac, spec(&tap).mac);
    assert_eq!((state.mtu, state.up), (1450, true));
    for address in spec(&tap).addresses {
        assert!(
            state.addresses.contains(&address),
            "{address} is not in {:?}",
            state.addresses
        );
    }
    let shown = netns.ip(&["addr", "show", "eth0"]);
    for part in [
        "brd 10.32.255.255",
        "qdisc noqueue",
        "qlen 256",
        "fd00:32::5/64 scope global nodad",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    assert!(
        !shown.contains("fd00:32::5/64 scope global tentative"),
        "{shown}"
    );
    assert!(
        netns
            .ip(&["route"])
            .contains("default via 10.32.0.1 dev eth0")
    );
    assert!(
        netns
            .ip(&["-6", "route"])
            .contains("default via fd00:32::1 dev eth0")
    );
    assert!(netns.ip(&["-6", "route"]).contains("fd00:32::/64 dev eth0"));
    let accept = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap();
    assert_eq!(netns.open().run(accept).unwrap().trim(), "0");
    // The caller is where it was, and the TAP is not there any more.
    assert!(!ip(&["link"]).contains("tap0"));
}

#[test]
fn an_interface_name_that_is_taken_is_refused_before_anything_is_made() {
    own_host();
    let (netns, first, second) = (TestNetns::new(), tap("tap0"), tap("tap1"));
    attach(&netns.open(), &spec(&first)).unwrap();
    let error = attach(&netns.open(), &spec(&second)).unwrap_err();
    assert!(
        matches!(error, LinkError::InterfaceExists { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("eth0") && error.to_string().contains(&netns.name));
    assert!(ip(&["link"]).contains("tap1"), "the TAP is still here");
    let mut other = spec(&second);
    other.ifname = "eth1".to_owned();
    other.addresses = vec!["10.33.0.5/16".parse().unwrap()];
    other.gateways = vec!["10.33.0.1".parse().unwrap()];
    attach(&netns.open(), &other).unwrap();
    let routes = netns.ip(&["route"]);
    assert!(
        routes.contains("default via 10.32.0.1 dev eth0"),
        "{routes}"
    );
    assert!(
        !routes.contains("10.33.0.1"),
        "the default route was there already: {routes}"
    );
}

#[test]
fn further_routes_are_set_told_and_found_again() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    let route = |dst: &str, gateway: Option<&str>| {
        Route::new(
            dst.parse().unwrap(),
            gateway.map(|gateway| gateway.parse().unwrap()),
        )
    };
    let mut tuned = route("198.51.100.0/24", Some("10.32.0.9"));
    (tuned.mtu, tuned.advmss, tuned.priority) = (Some(1300), Some(1200), Some(7));
    let mut elsewhere = route("0.0.0.0/0", Some("10.32.0.8"));
    elsewhere.table = Some(1001);
    let routes = vec![
        tuned,
        elsewhere,
        route("203.0.113.7/24", None),
        route("2001:db8::/32", Some("fd00:32::9")),
    ];
    let mut spec = spec(&tap);
    spec.routes.clone_from(&routes);
    let attached = attach(&netns.open(), &spec).unwrap();
    let default = |dst, gateway| route(dst, Some(gateway));
    let mut all = vec![
        default("0.0.0.0/0", "10.32.0.1"),
        default("::/0", "fd00:32::1"),
    ];
    all.extend(routes);
    assert_eq!(attached.routes, all);
    assert_eq!(missing_routes(&netns.open(), &all).unwrap(), Vec::new());
    let shown = netns.ip(&["route", "show", "table", "all"]);
    for part in [
        "198.51.100.0/24 via 10.32.0.9 dev eth0 proto static metric 7 mtu 1300 advmss 1200",
        "default via 10.32.0.8 dev eth0 table 1001",
        "203.0.113.0/24 dev eth0 proto static scope link",
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    netns.ip(&["route", "del", "198.51.100.0/24"]);
    let missing = missing_routes(&netns.open(), &all).unwrap();
    assert_eq!(missing, vec![all[2].clone()]);
    let wrong = vec![
        default("0.0.0.0/0", "10.32.0.2"),
        default("10.32.0.0/16", "10.32.0.1"),
    ];
    assert_eq!(missing_routes(&netns.open(), &wrong).unwrap(), wrong);
}

#[test]
fn a_tap_that_an_earlier_try_moved_is_found_inside() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    ip(&["link", "set", "tap0", "netns", &netns.name]);
    attach(&netns.open(), &spec(&tap)).unwrap();
    assert!(read_back(&netns.open(), "eth0").unwrap().unwrap().up);
}

#[test]
fn ipv6_that_is_switched_off_inside_is_switched_on_for_this_interface() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    netns
        .open()
        .run(|| {
            for which in ["all", "default"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1")
                    .unwrap();
            }
        })
        .unwrap();
    attach(&netns.open(), &spec(&tap)).unwrap();
    let state = read_back(&netns.open(), "eth0").unwrap().unwrap();
    assert!(state.addresses.contains(&"fd00:32::5/64".parse().unwrap()));
}

#[test]
fn an_address_that_the_kernel_refuses_is_named() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    let mut spec = spec(&tap);
    spec.addresses = vec!["ff02::5/64".parse().unwrap()];
    let error = attach(&netns.open(), &spec).unwrap_err();
    assert!(matches!(error, LinkError::Address { .. }), "{error}");
    assert!(error.to_string().contains("ff02::5/64") && error.to_string().contains("eth0"));
    let again = AttachSpec {
        ifname: "eth1".to_owned(),
        mtu: Mtu::new(1000).unwrap(),
        addresses: vec!["fd00:32::5/64".parse().unwrap()],
        ..spec
    };
    let small = super::tests::tap("tap1");
    let error = attach(
        &netns.open(),
        &AttachSpec {
            tap: small.name.clone(),
            ifindex: small.ifindex,
            ..again
        },
    )
    .unwrap_err();
    assert!(error.to_string().contains("MTU of 1280"), "{error}");
    // And with the file descriptors the half-made interface goes.
    drop(tap);
    assert_eq!(read_back(&netns.open(), "eth0").unwrap(), None);
}

#[test]
fn the_mtu_follows_a_tap_wherever_it_went() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    attach(&netns.open(), &spec(&tap)).unwrap();
    set_mtu(
        &netns.open(),
        "eth0",
        (Mtu::new(1400).unwrap(), Carriage::Clear),
    )
    .unwrap();
    assert_eq!(read_back(&netns.open(), "eth0").unwrap().unwrap().mtu, 1400);
    netns.ip(&["link", "set", "eth0", "down"]);
    netns.ip(&["link", "set", "eth0", "name", "lan"]);
    set_mtu_of_tap(
        &tap.queues[0],
        "eth0",
        (Mtu::new(1390).unwrap(), Carriage::Clear),
    )
    .unwrap();
    assert_eq!(read_back(&netns.open(), "lan").unwrap().unwrap().mtu, 1390);
    let error = set_mtu(&netns.open(), "eth0", (Mtu::ETHERNET, Carriage::Clear)).unwrap_err();
    assert!(
        matches!(error, LinkError::NoSuchInterface { .. }),
        "{error}"
    );
    let fd = tap.queues[0].try_clone().unwrap();
    drop(netns);
    std::thread::sleep(Duration::from_millis(200));
    let error = set_mtu_of_tap(&fd, "eth0", (Mtu::ETHERNET, Carriage::Clear)).unwrap_err();
    assert!(
        matches!(error, LinkError::NoSuchInterface { .. }),
        "{error}"
    );
}

/// Whether the TAP's namespace has died; waits a second for it.
fn dies(tap: &TapDevice) -> bool {
    let adopt = || Queue::from_fd(tap.queues[0].try_clone().unwrap(), PortKind::Offload);
    (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        adopt().is_err()
    })
}

#[test]
fn nothing_that_was_done_in_a_namespace_keeps_it_alive() {
    own_host();
    let (netns, tap) = (TestNetns::new(), tap("tap0"));
    attach(&netns.open(), &spec(&tap)).unwrap();
    read_back(&netns.open(), "eth0").unwrap();
    set_mtu_of_tap(
        &tap.queues[0],
        "eth0",
        (Mtu::new(1400).unwrap(), Carriage::Clear),
    )
    .unwrap();
    netns.open().run(|| ()).unwrap();
    ip(&["netns", "del", &netns.name]);
    assert!(dies(&tap), "the namespace lives on");
}

#[test]
fn an_address_of_this_host_is_found_with_its_link() {
    own_host();
    let runtime = small_runtime().unwrap();
    runtime.block_on(async {
        let local = "127.0.0.1".parse().unwrap();
        assert_eq!(local_link_of_address(local).await.unwrap(), None);
        ensure_loopback_up().await.unwrap();
        let found = local_link_of_address(local).await.unwrap().unwrap();
        assert_eq!((found.ifname.as_str(), found.mtu), ("lo", 65_536));
        assert!(
            local_addresses()
                .await
                .unwrap()
                .contains(&"::1".parse().unwrap())
        );
        ip(&[
            "link", "add", "v0", "mtu", "9000", "type", "veth", "peer", "name", "v1",
        ]);
        ip(&[
            "addr",
            "add",
            "10.99.0.1",
            "peer",
            "10.99.0.7/32",
            "dev",
            "v0",
        ]);
        let found = local_link_of_address("10.99.0.1".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((found.ifname.as_str(), found.mtu), ("v0", 9000));
        assert_eq!(
            local_link_of_address("10.99.0.7".parse().unwrap())
                .await
                .unwrap(),
            None
        );
    });
}

#[test]
fn a_change_of_the_mtu_is_announced() {
    own_host();
    ip(&["link", "add", "v0", "type", "veth", "peer", "name", "v1"]);
    ip(&["addr", "add", "10.99.0.1/24", "dev", "v0"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let address = "10.99.0.1".parse().unwrap();
        let mut watch = LinkWatch::start().unwrap();
        let found = local_link_of_address(address).await.unwrap().unwrap();
        assert_eq!(found.mtu, 1500);
        ip(&["link", "set", "v0", "mtu", "9000"]);
        let patience = Duration::from_secs(5);
        let heard = watch.changed(Some(found.ifindex));
        assert!(tokio::time::timeout(patience, heard).await.unwrap());
        let found = local_link_of_address(address).await.unwrap().unwrap();
        assert_eq!(found.mtu, 9000);
        // The address moves to another link.
        ip(&["link", "del", "v0"]);
        let heard = watch.changed(Some(found.ifindex));
        assert!(tokio::time::timeout(patience, heard).await.unwrap());
        ip(&[
            "link", "add", "v2", "mtu", "1400", "type", "veth", "peer", "name", "v3",
        ]);
        ip(&["addr", "add", "10.99.0.1/24", "dev", "v2"]);
        let mut now = None;
        while now.is_none() {
            assert!(
                tokio::time::timeout(patience, watch.changed(None))
                    .await
                    .unwrap()
            );
            now = local_link_of_address(address).await.unwrap();
        }
        assert_eq!(now.unwrap().mtu, 1400);
    });
}

#[test]
fn a_hundred_ports_do_not_make_attach_slow() {
    const PORTS: usize = 120;
    const MEDIAN_MAX: Duration = Duration::from_millis(50);
    own_host();
    let netns: Vec<TestNetns> = (0..PORTS).map(|_| TestNetns::new()).collect();
    let mut taps = Vec::new();
    let mut times = Vec::new();
    for (number, netns) in netns.iter().enumerate() {
        let started = Instant::now();
        let tap = tap(&format!("tap{number}"));
        let made = started.elapsed();
        attach(&netns.open(), &spec(&tap)).unwrap();
        times.push((started.elapsed(), made));
        taps.push(tap);
    }
    let mut late: Vec<_> = times[PORTS - 20..].to_vec();
    late.sort();
    let (median, made) = late[late.len() / 2];
    println!(
        "TAP and attach with 100 ports: median {median:?} (of it {made:?} to make the TAP), worst {:?}",
        late[late.len() - 1].0
    );
    let started = Instant::now();
    drop(taps);
    println!("{PORTS} TAPs destroyed in {:?}", started.elapsed());
    assert!(median < MEDIAN_MAX, "{median:?}");
    // A child that another test is just starting holds our descriptors until it executes its program.
    let deadline = Instant::now() + Duration::from_secs(5);
    while has_eth0(&netns[0]) {
        assert!(Instant::now() < deadline, "eth0 outlived its TAP");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn has_eth0(netns: &TestNetns) -> bool {
    let shown = Command::new("ip")
        .args(["-n", &netns.name, "link", "show", "eth0"])
        .output();
    shown.unwrap().status.success()
}
