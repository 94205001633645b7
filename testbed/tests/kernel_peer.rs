//! The Linux kernel's own bridge and VXLAN device as the second host.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;
use std::time::Duration;

use weft_testbed::lab::traffic::{answers, ping, ping_full, transfer};
use weft_testbed::lab::verdict::{wait_for, wait_until};
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Container, KernelPeer, Lab, Namespace};

const VNI: u32 = 77;
const VTEP: &str = "10.99.0.2";

/// Everything that must work between a container of ours and one of the kernel's, begun from the kernel's side so that
/// its ARP or ND request is the first frame.
fn talk(kernel: (&Namespace, IpAddr), ours: (&Namespace, IpAddr)) {
    ping(kernel.0, ours.1);
    ping(ours.0, kernel.1);
    ping_full(kernel.0, ours.1, 1450);
    ping_full(ours.0, kernel.1, 1450);
    transfer(kernel.0, ours.0, ours.1, 2_000_003);
    transfer(ours.0, kernel.0, kernel.1, 2_000_003);
}

fn check_learned(peer: &KernelPeer, kernel: &Namespace, ours: &Container) {
    let link = kernel.link("eth0");
    let mac = link["address"].as_str().unwrap();
    let fdb = peer.host1.fdb();
    let row = fdb
        .iter()
        .find(|row| row.mac.to_string() == mac)
        .unwrap_or_else(|| panic!("no {mac} in {fdb:?}"));
    assert_eq!(
        (row.via.as_str(), row.kind.as_str(), row.name.as_str()),
        ("peer", "learned", "static")
    );
    assert_eq!(row.address, Some(VTEP.parse().unwrap()));
    let theirs = peer
        .kernel
        .run("bridge", &["fdb", "show", "dev", "vx0"])
        .expect_done();
    let wanted = format!("{} dst 10.99.0.1", ours.mac());
    assert!(
        theirs.contains(&wanted),
        "the kernel learned {wanted}:\n{theirs}"
    );
}

#[test]
fn a_kernel_vxlan_device_is_a_host_of_a_network_with_subnets() {
    let peer = KernelPeer::up(Lab::new(), VNI);
    let vni = VNI.to_string();
    peer.host1.weft(&[
        "network",
        "create",
        "blue",
        "--vni",
        &vni,
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    peer.host1.weft(&["network", "vtep", "add", "blue", VTEP]);
    let ours = peer.lab.container(&peer.host1, "blue", "c1", &[]);
    let theirs = peer.container("k1", &["10.32.200.1/16", "fd32::200:1/64"]);
    talk(
        (&theirs, "10.32.200.1".parse().unwrap()),
        (&ours.ns, ours.ip()),
    );
    talk(
        (&theirs, "fd32::200:1".parse().unwrap()),
        (&ours.ns, ours.v6()),
    );
    check_learned(&peer, &theirs, &ours);
    let listed: Vec<IpAddr> = peer.host1.json(&["network", "vtep", "ls", "blue"]);
    assert_eq!(listed, [VTEP.parse::<IpAddr>().unwrap()]);
    let shown = peer.host1.peer_at(VTEP.parse().unwrap());
    assert_eq!(
        (shown.kind.as_str(), shown.networks),
        ("static", vec!["blue".to_owned()])
    );
}

#[test]
fn a_kernel_vxlan_device_is_a_host_of_a_plain_l2_network() {
    let peer = KernelPeer::up(Lab::new(), VNI);
    peer.host1
        .weft(&["network", "create", "lab", "--vni", &VNI.to_string()]);
    let ours = peer.lab.container(&peer.host1, "lab", "c1", &[]);
    peer.host1.weft(&["network", "vtep", "add", "lab", VTEP]);
    ours.ns
        .ip(&["addr", "add", "192.168.7.1/24", "dev", "eth0"]);
    ours.ns
        .ip(&["addr", "add", "fd07::1/64", "dev", "eth0", "nodad"]);
    let theirs = peer.container("k1", &["192.168.7.2/24", "fd07::2/64"]);
    talk(
        (&theirs, "192.168.7.2".parse().unwrap()),
        (&ours.ns, "192.168.7.1".parse().unwrap()),
    );
    talk(
        (&theirs, "fd07::2".parse().unwrap()),
        (&ours.ns, "fd07::1".parse().unwrap()),
    );
    check_learned(&peer, &theirs, &ours);
}

#[test]
fn a_vtep_that_was_taken_away_is_a_stranger_again() {
    let peer = KernelPeer::up(Lab::new(), VNI);
    peer.host1.weft(&[
        "network",
        "create",
        "blue",
        "--vni",
        &VNI.to_string(),
        "--subnet",
        "10.32.0.0/16",
    ]);
    let ours = peer.lab.container(&peer.host1, "blue", "c1", &[]);
    let theirs = peer.container("k1", &["10.32.200.1/16"]);
    assert!(!answers(&theirs, ours.ip()), "nobody added it yet");
    let strangers = peer.host1.peers().strangers;
    assert!(
        strangers.drops["stranger"] > 0 && strangers.last == Some(VTEP.parse().unwrap()),
        "{strangers:?}"
    );
    peer.host1.weft(&["network", "vtep", "add", "blue", VTEP]);
    ping(&theirs, ours.ip());
    peer.host1.weft(&["network", "vtep", "rm", "blue", VTEP]);
    assert!(!answers(&theirs, ours.ip()), "it is no peer any more");
    wait_until(
        Duration::from_secs(1),
        "what was learned of it is forgotten",
        || peer.host1.fdb().iter().all(|row| row.via == "port"),
    );
    assert!(peer.host1.peers().peers.is_empty());
}

#[test]
fn towards_a_vtep_that_answers_no_probes_the_mtu_follows_our_link() {
    let peer = KernelPeer::up(Lab::new(), VNI);
    peer.host1.weft(&[
        "network",
        "create",
        "blue",
        "--vni",
        &VNI.to_string(),
        "--subnet",
        "10.32.0.0/16",
    ]);
    peer.host1.weft(&["network", "vtep", "add", "blue", VTEP]);
    let ours = peer.lab.container(&peer.host1, "blue", "c1", &[]);
    let theirs = peer.container("k1", &["10.32.200.1/16"]);
    for (underlay, inner) in [("1400", 1350), ("1500", 1450)] {
        peer.host1
            .ns
            .ip(&["link", "set", UNDERLAY_IFNAME, "mtu", underlay]);
        wait_for(
            Duration::from_secs(5),
            "MTU of the container and of the peer",
            &(u64::from(inner), inner),
            || {
                let container = ours.ns.link("eth0")["mtu"].as_u64().unwrap();
                (
                    container,
                    peer.host1.peer_at(VTEP.parse().unwrap()).mtu.value(),
                )
            },
        );
        ping_full(&ours.ns, "10.32.200.1".parse().unwrap(), inner);
        transfer(&ours.ns, &theirs, "10.32.200.1".parse().unwrap(), 500_003);
    }
}
