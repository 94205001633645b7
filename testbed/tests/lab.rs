//! The test bed itself, without weft: what it makes works, what it measures is right, and nothing is left of it.

use std::net::IpAddr;
use std::panic::catch_unwind;
use std::time::Duration;

use weft_testbed::lab::capture::{Capture, checksum_fault};
use weft_testbed::lab::raw::{FrameSocket, VtepSocket, ethernet, vxlan};
use weft_testbed::lab::traffic::{Prober, iperf_start, ping, transfer};
use weft_testbed::lab::verdict::{processor_time, resident_kib};
use weft_testbed::{Lab, Pair};
use weft_wire::MacAddr;

#[test]
fn two_cold_hosts_reach_each_other_by_every_kind_of_traffic() {
    let pair = Pair::cold(Lab::new());
    let (one, two) = (&pair.host1, &pair.host2);
    ping(&one.ns, two.underlay);
    ping(&one.ns, "fd99::2".parse().unwrap());
    transfer(&one.ns, &two.ns, two.underlay, 3_000_001);
    let measured = iperf_start(&two.ns, &one.ns, one.underlay, 1).finish();
    assert!(
        measured.bits_per_second > 1e6 && measured.intervals.len() >= 9,
        "{measured:?}"
    );
}

#[test]
fn a_prober_sees_how_long_nothing_arrived() {
    let pair = Pair::cold(Lab::new());
    let (one, two) = (&pair.host1, &pair.host2);
    let prober = Prober::start(&one.ns, &two.ns, two.underlay);
    std::thread::sleep(Duration::from_millis(300));
    two.ns.ip(&["link", "set", "u0", "down"]);
    std::thread::sleep(Duration::from_millis(200));
    two.ns.ip(&["link", "set", "u0", "up"]);
    std::thread::sleep(Duration::from_millis(300));
    let probe = prober.finish();
    assert!(probe.longest_gap >= Duration::from_millis(200), "{probe:?}");
    assert!(probe.longest_gap < Duration::from_millis(600), "{probe:?}");
    assert!(
        probe.arrived >= 300 && probe.arrived <= probe.sent,
        "{probe:?}"
    );
}

#[test]
fn a_capture_shows_forged_frames_and_vxlan_as_they_were_sent() {
    let pair = Pair::cold(Lab::new());
    for ns in [&pair.host1.ns, &pair.host2.ns] {
        ns.run("ethtool", &["-K", "u0", "tx", "off"]).expect_done();
    }
    let capture = Capture::start(&pair.host2.ns, "u0", &["-Q", "in"]);
    let source = MacAddr([2, 0, 0, 0, 0, 9]);
    let frame = ethernet(MacAddr::BROADCAST, source, 0x88b5, b"not padded");
    FrameSocket::open(&pair.host1.ns, "u0").send(&frame);
    VtepSocket::open(&pair.host1.ns, pair.host1.underlay, pair.host2.underlay)
        .send(&vxlan(8, 77, &frame));
    let seen = capture.stop();
    assert!(seen.frames.contains(&frame), "{}", seen.text());
    let [datagram] = seen.vxlan().try_into().expect("one VXLAN datagram");
    assert_eq!((datagram.vni, datagram.frame), (77, frame));
    assert_eq!(datagram.ends, (pair.host1.underlay, pair.host2.underlay));
    assert_eq!(
        seen.frames.iter().find_map(|frame| checksum_fault(frame)),
        None
    );
    assert!(seen.text().contains("vni 77"), "{}", seen.text());
}

#[test]
fn nothing_is_left_of_a_lab_whose_test_failed() {
    let kept = std::sync::Mutex::new(None);
    let failed = catch_unwind(|| {
        let lab = Lab::new();
        let ns = lab.namespace("c");
        let process = ns.spawn("sleeper", "sleep", &["600"]);
        *kept.lock().unwrap() = Some((ns.path(), lab.dir().to_owned(), process.pid()));
        let gone: IpAddr = "203.0.113.1".parse().unwrap();
        ping(&ns, gone);
    });
    assert!(failed.is_err(), "nobody answers there");
    let (namespace, dir, pid) = kept
        .into_inner()
        .unwrap_or_else(|e| e.into_inner())
        .expect("the lab was made");
    assert!(!namespace.exists());
    assert!(!dir.exists());
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn what_a_process_holds_can_be_read() {
    let own = std::process::id();
    assert!(resident_kib(own) > 500);
    let before = processor_time(own);
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(100) {}
    assert!(processor_time(own) - before >= Duration::from_millis(30));
}
