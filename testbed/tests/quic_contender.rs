//! The contender of the bench that joins two hosts by QUIC datagrams carries what weft's own tunnels carry: else its
//! figures would say nothing.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::meter::checksum_faults;
use weft_testbed::lab::traffic::transfer;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Lab, Namespace, QuicPair};

/// Until a path is measured: some ten probes, of which the last may be lost, each thrice.
const PATIENCE: Duration = Duration::from_secs(60);
const STREAM: usize = 4_000_037;

fn carries(driver: &str, args: &[&str]) {
    let lab = Lab::new();
    let program = Path::new(env!("CARGO_BIN_EXE_weft-quic"));
    let args = [&["--driver", driver], args].concat();
    let pair = QuicPair::up(&lab, "q", program, &args);
    let [near, far] = &pair.containers;
    let capture = Capture::start(&pair.hosts[1], UNDERLAY_IFNAME, &[]);
    transfer(near, far, QuicPair::ip(1), STREAM);
    transfer(far, near, QuicPair::ip(0), STREAM);
    wait_for_full(near, QuicPair::ip(1));
    wait_for_full(far, QuicPair::ip(0));
    let frames = capture.stop().frames;
    let longest = frames.iter().map(Vec::len).max().unwrap_or_default();
    assert!(longest > 1514, "QUIC packets travel in trains: {longest}");
    // Both containers' addresses are in every packet of theirs, and nothing of it on the wire.
    let clear = frames
        .iter()
        .filter(|frame| holds_inner_address(frame))
        .count();
    assert_eq!(clear, 0, "of {} packets", frames.len());
    for container in &pair.containers {
        assert_eq!(checksum_faults(container), 0, "{}", container.name());
    }
    for daemon in &pair.daemons {
        assert!(daemon.is_running(), "{}", daemon.log());
    }
}

/// Waits until path MTU discovery has come to its end, which is exact to the byte. What was sent before it did may have told
/// the sender's kernel of a narrower path, which is forgotten here.
fn wait_for_full(from: &Namespace, to: IpAddr) {
    let (size, to) = ((QuicPair::MTU - 28).to_string(), to.to_string());
    let args = ["-n", "-c", "1", "-W", "1", "-M", "do", "-s", &size, &to];
    wait_until(PATIENCE, "a full packet passes", || {
        from.ip(&["route", "flush", "cache"]);
        from.run("ping", &args).code == Some(0)
    });
}

/// Whether the addresses of both containers stand one after the other in a packet.
fn holds_inner_address(frame: &[u8]) -> bool {
    let both = [[10, 88, 0, 1, 10, 88, 0, 2], [10, 88, 0, 2, 10, 88, 0, 1]];
    frame
        .windows(8)
        .any(|bytes| both.iter().any(|addresses| bytes == addresses))
}

#[test]
fn over_quinn_as_it_is() {
    carries("quinn", &[]);
}

#[test]
fn over_several_connections_of_quinn() {
    carries("quinn", &["--connections", "2", "--ack-every", "64"]);
}

#[test]
fn over_quinn_proto_driven_by_the_workers() {
    carries("quinn-proto", &["--workers", "2", "--ack-every", "64"]);
}
