//! Sessions that are opened from both sides at once, and sessions that end because nobody uses them.

use std::thread;
use std::time::Duration;

use weft_testbed::lab::traffic::{ping, transfer};
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Container, Host, Lab, Pair};

use super::{PORT, SESSION_PATIENCE, TRANSFER_LEN, create, dark, tunnel};

/// Nothing of encrypted tunnels gets in. QUIC's Initial packets, which open sessions, are counted: their first four bits
/// are 1100 (RFC 9000 section 17.2.2), and as nobody answers, those of either side are its own wish.
fn hold(host: &Host) {
    let rules = format!(
        "add table ip hold; \
         add chain ip hold in {{ type filter hook input priority 0; }}; \
         add rule ip hold in udp dport {PORT} @th,64,4 0xc counter drop; \
         add rule ip hold in udp dport {PORT} drop"
    );
    host.ns.run("nft", &[&rules]).expect_done();
}

/// How many wishes for a session were held back.
fn wishes(host: &Host) -> u64 {
    let list = host.ns.run("nft", &["list", "chain", "ip", "hold", "in"]);
    let text = list.expect_done();
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    let count = words.nth(1).and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("no counter in {text}"))
}

#[test]
fn of_sessions_that_both_open_at_once_both_use_the_same() {
    let pair = Pair::up(Lab::new());
    let hosts = [&pair.host1, &pair.host2];
    hosts.iter().for_each(|host| hold(host));
    let [c1, c2] = dark(&pair);
    // Both are on their way at the same time: each was said again since the other was.
    wait_until(SESSION_PATIENCE, "both want a session", || {
        let before = hosts.map(wishes);
        thread::sleep(Duration::from_millis(700));
        let after = hosts.map(wishes);
        before
            .iter()
            .zip(after)
            .all(|(before, after)| *before < after)
    });
    for host in hosts {
        host.ns
            .run("nft", &["delete", "table", "ip", "hold"])
            .expect_done();
    }
    let opened_by = || {
        let [ours, theirs] = [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)]
            .map(|(host, other)| tunnel(host, other)?.opened_by);
        Some((ours?, theirs?))
    };
    let agree = || opened_by().is_some_and(|(ours, theirs)| ours != theirs);
    wait_until(SESSION_PATIENCE, "both use the same session", agree);
    // The second one may come only now; whichever they choose, they choose it both, and nothing is lost.
    for (from, to) in [(&c1, &c2), (&c2, &c1)] {
        ping(&from.ns, to.ip());
        transfer(&from.ns, &to.ns, to.ip(), TRANSFER_LEN);
    }
    wait_until(SESSION_PATIENCE, "both still use the same session", agree);
    for (host, other) in [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)] {
        let mut drops = host.peer_at(other.underlay).traffic.drops;
        // What waited too long while nothing got in.
        drops.remove("no_session");
        assert!(drops.values().all(|count| *count == 0), "{drops:?}");
    }
}

/// Network dark with a container on each host that says nothing by itself.
fn quiet(pair: &Pair) -> [Container; 2] {
    create(&pair.host1, "dark");
    let ends = [(&pair.host1, "c1"), (&pair.host2, "c2")];
    let containers = ends.map(|(host, name)| pair.lab.quiet_container(host, "dark", name, &[]));
    pair.wait_in_sync();
    containers
}

/// One ping and no second one: it comes back or is lost.
fn one_ping(from: &Container, to: &Container) {
    let to = to.ip().to_string();
    let words = ["-n", "-c", "1", "-W", "10", &to];
    from.ns.run("ping", &words).expect_done();
}

#[test]
fn a_session_that_nobody_uses_is_closed_and_the_next_frame_waits_for_another() {
    let lab = Lab::new();
    lab.give_agents(&["--idle-after".to_owned(), "2s".to_owned()]);
    let pair = Pair::up(lab);
    let [c1, c2] = quiet(&pair);
    let ends = [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)];
    let all_are = |state: &str| {
        let states = ends.map(|(host, other)| tunnel(host, other).map(|tunnel| tunnel.state));
        states.iter().all(|is| is.as_deref() == Some(state))
    };
    for (from, to) in [(&c1, &c2), (&c2, &c1), (&c1, &c2)] {
        one_ping(from, to);
        wait_until(Duration::from_secs(60), "the session rests", || {
            all_are("idle")
        });
    }
    for (host, other) in ends {
        let peer = host.peer_at(other.underlay);
        let drops: u64 = peer.traffic.drops.values().sum();
        assert_eq!(drops, 0, "{peer:?}");
    }
}

#[test]
fn a_frame_that_meets_the_end_of_an_unused_session_is_not_lost() {
    let pair = Pair::up(Lab::new());
    let [c1, c2] = quiet(&pair);
    // Only host 1 closes what nobody uses.
    pair.host1.stop_agent();
    pair.host1.spawn_agent(&["--idle-after", "2s"]);
    pair.host1.wait_up();
    pair.wait_in_sync();
    one_ping(&c1, &c2);
    // Host 2 doesn't hear it: QUIC's packets with a short header (RFC 9000 section 17.3) don't get in.
    let rules = format!(
        "add table ip deaf; \
         add chain ip deaf in {{ type filter hook input priority 0; }}; \
         add rule ip deaf in udp dport {PORT} @th,64,2 1 drop"
    );
    pair.host2.ns.run("nft", &[&rules]).expect_done();
    wait_until(Duration::from_secs(60), "host 1 has closed it", || {
        tunnel(&pair.host1, &pair.host2).is_some_and(|tunnel| tunnel.state == "idle")
    });
    let open = ["delete", "table", "ip", "deaf"];
    pair.host2.ns.run("nft", &open).expect_done();
    one_ping(&c2, &c1);
    for (host, other) in [(&pair.host1, &pair.host2), (&pair.host2, &pair.host1)] {
        let peer = host.peer_at(other.underlay);
        let drops: u64 = peer.traffic.drops.values().sum();
        assert_eq!(drops, 0, "{peer:?}");
    }
}
