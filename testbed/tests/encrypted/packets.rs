//! What is said of single packets: that they met congestion, or are too big for the way.

use std::time::Duration;

use weft_testbed::lab::capture::Capture;
use weft_testbed::lab::traffic::transfer;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::layout::Routed;
use weft_testbed::{Container, Lab, Pair};

use super::{
    MTU, PORT, SESSION_PATIENCE, TRANSFER_LEN, create_with, dark, tunnel, wait_for_answers,
};

/// ECN-capable transport, and congestion experienced (RFC 3168 section 5).
const ECT0: u8 = 2;
const CE: u8 = 3;
/// Where an untagged frame has the traffic class of IPv4, and the first byte of UDP's payload.
const CLASS: usize = 15;
const UDP_PAYLOAD: usize = 42;

/// Pings once with this traffic class; says whether it came back.
fn ping_with(from: &Container, to: &Container, class: u8) -> bool {
    let (class, to) = (class.to_string(), to.ip().to_string());
    let words = ["-n", "-c", "1", "-W", "2", "-Q", &class, &to];
    from.ns.run("ping", &words).code == Some(0)
}

#[test]
fn congestion_marks_are_carried_both_ways_and_who_knows_none_loses_the_packet() {
    let pair = Pair::up(Lab::new());
    let [c1, c2] = dark(&pair);
    wait_for_answers(&c1, &c2);
    let port = PORT.to_string();
    let from_host1 = [
        "udp",
        "dst",
        "port",
        &port,
        "and",
        "src",
        "host",
        "10.99.0.1",
    ];
    let outer = Capture::start(&pair.host2.ns, "u0", &from_host1);
    let c1_ip = c1.ip().to_string();
    let inner = Capture::start(&c2.ns, "eth0", &["icmp", "and", "src", "host", &c1_ip]);
    assert!(ping_with(&c1, &c2, ECT0));
    // The underlay is congested from here on, and says so.
    let rules = format!(
        "add table ip congest; \
         add chain ip congest pre {{ type filter hook prerouting priority -300; }}; \
         add rule ip congest pre iif u0 udp dport {PORT} ip ecn set ce"
    );
    pair.host2.ns.run("nft", &[&rules]).expect_done();
    assert!(ping_with(&c1, &c2, ECT0));
    let congested = || {
        let drops = pair.host2.peer_at(pair.host1.underlay).traffic.drops;
        drops.get("congested").copied().unwrap_or_default()
    };
    assert_eq!(congested(), 0);
    // Who doesn't know marks can only be told by losing the packet (RFC 6040 section 4.2).
    assert!(!ping_with(&c1, &c2, 0));
    assert!(congested() > 0);
    let marks =
        |frames: &[Vec<u8>]| -> Vec<u8> { frames.iter().map(|frame| frame[CLASS] & CE).collect() };
    assert_eq!(marks(&inner.stop().frames), [ECT0, CE]);
    // QUIC's own packets have its fixed bit, ESP's don't.
    let mut seen = outer.stop().frames;
    seen.retain(|frame| {
        frame
            .get(UDP_PAYLOAD)
            .is_some_and(|first| first & 0x40 == 0)
    });
    let marked = marks(&seen).iter().filter(|mark| **mark == ECT0).count();
    // Probes of the path's MTU may have them too: they go by the same sockets.
    assert!(marked >= 2, "outer packets have the inner ones' bits");
}

#[test]
fn who_sends_what_is_too_big_for_the_way_is_told() {
    let routed = Routed::up(Lab::new());
    let pair = &routed.pair;
    routed.narrow(1300);
    create_with(&pair.host1, "dark", &["--mtu", &MTU.to_string()]);
    let c1 = pair.lab.container(&pair.host1, "dark", "c1", &[]);
    let c2 = pair.lab.container(&pair.host2, "dark", "c2", &[]);
    pair.wait_in_sync();
    wait_for_answers(&c1, &c2);
    let fits = MTU - 200;
    wait_until(SESSION_PATIENCE, "the path is measured", || {
        // Probes are sent where frames are.
        wait_for_answers(&c1, &c2);
        tunnel(&pair.host1, &pair.host2).is_some_and(|tunnel| tunnel.mtu.value() == fits)
    });
    assert_eq!(c1.ns.link("eth0")["mtu"], MTU);
    let (size, to) = ((MTU - 28).to_string(), c2.ip().to_string());
    let words = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to];
    let told = c1.ns.run_for(Duration::from_secs(10), "ping", &words);
    assert!(told.stdout.contains(&format!("mtu = {fits}")), "{told}");
    let drops = pair.host1.peer_at(pair.host2.underlay).traffic.drops;
    assert_eq!(drops.get("too_big"), Some(&1), "{drops:?}");
    transfer(&c1.ns, &c2.ns, c2.ip(), TRANSFER_LEN);
}
