//! Ports without offload beside ports with it: everything arrives, in the shape each side can take.

use weft_testbed::lab::capture::{Capture, checksum_fault};
use weft_testbed::lab::traffic::{ping, ping_full, transfer};
use weft_testbed::{Container, Lab, Pair};

const MTU: usize = 1450;

fn check_frames_are_as_on_a_wire(container: &Container, talk: impl FnOnce()) {
    let capture = Capture::start(&container.ns, "eth0", &["ip", "or", "ip6"]);
    talk();
    let seen = capture.stop();
    assert!(seen.frames.len() > 500, "{} frames", seen.frames.len());
    for frame in &seen.frames {
        assert!(frame.len() <= MTU + 14, "a frame of {} bytes", frame.len());
        assert_eq!(checksum_fault(frame), None);
    }
}

#[test]
fn a_port_without_offload_talks_with_all_kinds_of_ports() {
    let pair = Pair::up(Lab::new());
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let plain = pair
        .lab
        .container(&pair.host1, "blue", "plain", &["--no-offload"]);
    let near = pair.lab.container(&pair.host1, "blue", "near", &[]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    let far_plain = pair
        .lab
        .container(&pair.host2, "blue", "far-plain", &["--no-offload"]);
    assert_eq!(
        (plain.port.kind.as_str(), near.port.kind.as_str()),
        ("plain", "offload")
    );
    let features = plain.ns.run("ethtool", &["-k", "eth0"]).expect_done();
    assert!(
        features.contains("tcp-segmentation-offload: off"),
        "{features}"
    );
    for other in [&near, &far, &far_plain] {
        ping(&other.ns, plain.ip());
        ping_full(&plain.ns, other.ip(), 1450);
        check_frames_are_as_on_a_wire(&plain, || {
            transfer(&plain.ns, &other.ns, other.ip(), 1_500_001);
            transfer(&other.ns, &plain.ns, plain.v6(), 1_500_001);
        });
    }
}

#[test]
fn a_plain_port_survives_its_agent_as_well() {
    let pair = Pair::up(Lab::new());
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    let plain = pair
        .lab
        .container(&pair.host1, "blue", "plain", &["--no-offload"]);
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    assert_eq!(pair.host1.port_of(&plain.ns).kind, "plain");
    ping(&far.ns, plain.ip());
    transfer(&plain.ns, &far.ns, far.ip(), 1_000_003);
}
