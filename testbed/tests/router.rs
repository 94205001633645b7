//! Networks on one router reach each other, across hosts and by both families; networks that aren't stay apart.

#![expect(
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, PacketBuilder};
use weft_control::api;
use weft_testbed::lab::raw::{FrameSocket, ethernet};
use weft_testbed::lab::traffic::{Prober, answers, ping, ping_full, transfer};
use weft_testbed::lab::verdict::{resident_kib, wait_until};
use weft_testbed::lab::{Container, Host};
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Lab, Pair};
use weft_wire::MacAddr;

/// The gateway's, of every network on every host.
const GATEWAY_MAC: MacAddr = MacAddr([0x02, 0x77, 0x65, 0x66, 0x74, 0x01]);

/// Networks blue, green and red, of both families; blue and green on router core.
fn networks(host: &Host) {
    for (name, number) in [("blue", 32), ("green", 33), ("red", 34)] {
        let v4 = format!("10.{number}.0.0/16");
        let v6 = format!("fd{number}:1::/64");
        host.weft(&["network", "create", name, "--subnet", &v4, "--subnet", &v6]);
    }
    host.weft(&["router", "create", "core"]);
    host.weft(&["router", "connect", "core", "blue", "green"]);
}

fn both(container: &Container) -> [IpAddr; 2] {
    [container.v4().into(), container.v6()]
}

/// What a program prints in a container; it must end well.
#[track_caller]
fn output(container: &Container, program: &str, args: &[&str]) -> String {
    container.ns.run(program, args).expect_done()
}

#[test]
fn endpoints_of_two_networks_reach_each_other_on_one_host_and_on_two() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let near = pair.lab.container(&pair.host1, "green", "near", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    for to in [&near, &far] {
        for ip in both(to) {
            ping(&blue.ns, ip);
            ping_full(&blue.ns, ip, 1450);
            transfer(&blue.ns, &to.ns, ip, 3_000_003);
        }
        for ip in both(&blue) {
            ping(&to.ns, ip);
        }
    }
    // Also by a port without offload.
    let plain = pair
        .lab
        .container(&pair.host2, "blue", "plain", &["--no-offload"]);
    for ip in both(&near) {
        transfer(&plain.ns, &near.ns, ip, 1_000_003);
    }
    for gateway in ["10.33.0.1", "fd33:1::1"] {
        ping(&blue.ns, gateway.parse().unwrap());
    }
}

#[test]
fn the_way_is_seen_and_what_leads_nowhere_is_said() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    // Else its kernel answers so many times a second only.
    far.ns.sysctl("ipv4/icmp_ratelimit", "0");
    far.ns.sysctl("ipv6/icmp/ratelimit", "0");
    for (gateway, to) in [("10.32.0.1", both(&far)[0]), ("fd32:1::1", both(&far)[1])] {
        let to = to.to_string();
        let way = output(&blue, "traceroute", &["-n", "-w", "2", &to]);
        let hops: Vec<&str> = way.lines().skip(1).collect();
        assert_eq!(hops.len(), 2, "{way}");
        assert!(hops[0].contains(gateway) && !hops[0].contains('*'), "{way}");
        assert!(hops[1].contains(&to) && !hops[1].contains('*'), "{way}");
        let path = output(&blue, "tracepath", &["-n", &to]);
        assert!(path.contains(gateway), "{path}");
        assert!(path.contains("pmtu 1450 hops 2"), "{path}");
    }
    for (to, wanted) in [
        ("10.33.7.7", "Destination Host Unreachable"),
        ("fd33:1::77", "Address unreachable"),
        ("10.34.7.7", "Destination Net Unreachable"),
        ("fd34:1::77", "No route"),
    ] {
        let said = blue.ns.run("ping", &["-n", "-c", "1", "-W", "2", to]);
        assert!(said.stdout.contains(wanted), "{to}: {said}");
    }
    let drops: Vec<api::Drops> = pair.host1.json(&["drops", "--network", "blue"]);
    for (reason, cause) in [
        ("ttl_exceeded", "loop"),
        ("no_neighbor", "no endpoint has the address"),
        ("no_route", "one router"),
    ] {
        let mut of_blue = drops.iter().filter(|drops| drops.name == "blue1");
        let found = of_blue.find(|drops| drops.reason == reason);
        let found = found.unwrap_or_else(|| panic!("{reason}: {drops:?}"));
        assert_eq!(found.network.as_deref(), Some("blue"));
        assert!(found.count > 0 && found.cause.contains(cause), "{found:?}");
    }
    let said = pair.host1.weft(&["why"]);
    assert!(
        said.contains("no_route") && said.contains("blue1"),
        "{said}"
    );
}

#[test]
fn networks_stay_apart_until_they_are_connected_and_after() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let green = pair.lab.container(&pair.host2, "green", "green1", &[]);
    let red = pair.lab.container(&pair.host2, "red", "red1", &[]);
    for ip in both(&red) {
        assert!(!answers(&blue.ns, ip), "{ip} is on no router");
    }
    pair.host2.weft(&["router", "connect", "core", "red"]);
    pair.wait_in_sync();
    for ip in both(&red) {
        ping(&blue.ns, ip);
        ping(&green.ns, ip);
    }
    pair.host2.weft(&["router", "disconnect", "core", "red"]);
    pair.wait_in_sync();
    for ip in both(&red) {
        assert!(!answers(&blue.ns, ip), "{ip} was taken off");
    }
    for ip in both(&green) {
        ping(&blue.ns, ip);
    }
    pair.host1.weft(&["router", "rm", "core"]);
    pair.wait_in_sync();
    assert!(!answers(&blue.ns, green.v4().into()));
}

#[test]
fn a_container_may_route_to_what_lies_behind_it() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let spoofs = ["--ip", "10.33.0.99", "--allow-spoof"];
    let gate = pair.lab.container(&pair.host2, "green", "gate", &spoofs);
    gate.ns.ip(&["link", "set", "lo", "up"]);
    gate.ns.ip(&["addr", "add", "10.50.0.7/32", "dev", "lo"]);
    gate.ns.ip(&["addr", "add", "fd50::7/128", "dev", "lo"]);
    let via6 = gate.v6().to_string();
    let behind: [IpAddr; 2] = ["10.50.0.7".parse().unwrap(), "fd50::7".parse().unwrap()];
    assert!(!answers(&blue.ns, behind[0]));
    pair.host1
        .weft(&["route", "add", "core", "10.50.0.0/16", "via", "10.33.0.99"]);
    pair.host1
        .weft(&["route", "add", "core", "fd50::/48", &via6]);
    pair.wait_in_sync();
    for to in behind {
        ping(&blue.ns, to);
        transfer(&blue.ns, &gate.ns, to, 1_000_003);
    }
    let routes: Vec<api::RouterRoute> = pair.host2.json(&["route", "ls", "core"]);
    let shown = routes.iter().find(|route| route.kind == "static").unwrap();
    assert_eq!(shown.prefix.to_string(), "10.50.0.0/16");
    assert_eq!(
        (shown.network.as_str(), shown.reachable),
        ("green", Some(true))
    );
    pair.host1.weft(&["route", "rm", "core", "10.50.0.0/16"]);
    pair.wait_in_sync();
    assert!(!answers(&blue.ns, behind[0]));
    ping(&blue.ns, behind[1]);
}

#[test]
fn routed_connections_outlive_the_agents() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    ping(&blue.ns, far.v4().into());
    for host in [&pair.host1, &pair.host2] {
        let prober = Prober::start(&blue.ns, &far.ns, far.v4().into());
        host.kill_agent();
        host.restart_agent();
        let probe = prober.finish();
        assert!(probe.longest_gap < Duration::from_secs(3), "{probe:?}");
        for ip in both(&far) {
            ping(&blue.ns, ip);
            transfer(&blue.ns, &far.ns, ip, 1_000_003);
        }
    }
    // By the saved map too.
    pair.controller.kill();
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    for ip in both(&far) {
        ping(&blue.ns, ip);
    }
}

#[test]
fn what_a_narrower_network_does_not_take_is_said_and_heeded() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.host1
        .weft(&["network", "set", "green", "--mtu", "1300"]);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    let to = far.v4().to_string();
    let args = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400", &to];
    let said = blue.ns.run("ping", &args);
    assert!(
        said.stdout.contains("mtu = 1300") || said.stderr.contains("mtu=1300"),
        "{said}"
    );
    for ip in both(&far) {
        ping_full(&blue.ns, ip, 1300);
        transfer(&blue.ns, &far.ns, ip, 2_000_003);
    }
}

#[test]
fn routers_are_shown_and_refuse_what_makes_no_sense() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    networks(host);
    host.weft(&["network", "create", "lab"]);
    let routers: Vec<api::RouterInfo> = host.json(&["router", "ls"]);
    assert_eq!(routers.len(), 1);
    assert_eq!(routers[0].networks, ["blue", "green"]);
    let detail: Vec<api::RouterDetail> = pair.host2.json(&["router", "inspect", "core"]);
    assert_eq!(detail[0].table.len(), 4, "{detail:?}");
    assert_eq!(host.network("blue").network.router.as_deref(), Some("core"));
    for (words, code) in [
        (&["router", "create", "core"][..], "name_taken"),
        (&["router", "connect", "core", "lab"], "no_subnet"),
        (&["router", "connect", "core", "nope"], "unknown_network"),
        (&["router", "connect", "nope", "red"], "unknown_router"),
        (&["router", "inspect", "nope"], "unknown_router"),
        (&["network", "rm", "blue"], "network_in_use"),
        (
            &["route", "add", "core", "10.50.0.0/16", "via", "10.34.0.9"],
            "bad_route",
        ),
        (
            &["route", "add", "core", "10.32.7.0/24", "via", "10.33.0.9"],
            "subnet_overlaps",
        ),
        (&["route", "rm", "core", "10.50.0.0/16"], "unknown_route"),
    ] {
        let refusal = host.refused(words);
        assert_eq!(refusal.code, code, "{words:?}");
        assert!(!refusal.hint.is_empty(), "{words:?}");
    }
}

#[test]
fn a_loop_of_routes_ends_and_is_told_of() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let spoofs = ["--ip", "10.33.0.99", "--allow-spoof"];
    let gate = pair.lab.container(&pair.host2, "green", "gate", &spoofs);
    let via6 = gate.v6().to_string();
    let last = ["--ip", "10.33.0.98", "--allow-spoof"];
    let last = pair.lab.container(&pair.host2, "green", "last", &last);
    // The first sends on to the last, which has nothing but its default route.
    for router in [&gate, &last] {
        router.ns.sysctl("ipv4/ip_forward", "1");
        router.ns.sysctl("ipv6/conf/all/forwarding", "1");
        for redirects in ["all", "eth0"] {
            let key = format!("ipv4/conf/{redirects}/send_redirects");
            router.ns.sysctl(&key, "0");
        }
    }
    for (prefix, next) in [
        ("10.50.0.0/16", both(&last)[0]),
        ("fd50::/48", both(&last)[1]),
    ] {
        let route = ["route", "add", prefix, "via", &next.to_string()];
        gate.ns.ip(&route);
    }
    let host = &pair.host1;
    host.weft(&["route", "add", "core", "10.50.0.0/16", "via", "10.33.0.99"]);
    host.weft(&["route", "add", "core", "fd50::/48", "via", &via6]);
    pair.wait_in_sync();
    for to in ["10.50.0.7", "fd50::7"] {
        // The last hop is once each container's and once the gateway's.
        for hops in ["62", "63", "64"] {
            let args = ["-n", "-c", "1", "-W", "3", "-t", hops, to];
            let said = blue.ns.run("ping", &args);
            assert!(
                said.stdout.contains("Time to live exceeded")
                    || said.stdout.contains("Time exceeded: Hop limit"),
                "{said}"
            );
        }
        let way = output(&blue, "traceroute", &["-n", "-m", "4", "-w", "2", to]);
        let gateway = if to.contains(':') {
            " fd33:1::1 "
        } else {
            " 10.33.0.1 "
        };
        assert!(way.contains(gateway), "both networks' gateways show: {way}");
    }
    let drops = pair.host2.port_of(&last.ns).traffic.drops;
    assert!(drops.contains_key("ttl_exceeded"), "{drops:?}");
    // Back at once is a loop of its own.
    gate.ns.ip(&["route", "del", "10.50.0.0/16"]);
    let args = ["-n", "-c", "1", "-W", "3", "10.50.0.7"];
    let said = blue.ns.run("ping", &args);
    assert!(
        said.stdout.contains("Destination Net Unreachable"),
        "{said}"
    );
    let drops = pair.host2.port_of(&gate.ns).traffic.drops;
    assert!(drops.contains_key("route_loop"), "{drops:?}");
    ping(&blue.ns, gate.v4().into());
}

/// A UDP packet for the gateway to route, with its last hop before it.
fn last_hop(from: &Container, to: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(from.mac().octets(), GATEWAY_MAC.octets())
        .ipv4(from.v4().octets(), to.octets(), 1)
        .udp(9, 9)
        .write(&mut frame, b"the last hop")
        .unwrap();
    frame
}

/// ICMP errors that a container has heard.
fn errors_heard(container: &Container) -> u64 {
    let counters = output(container, "cat", &["/proc/net/snmp"]);
    let mut rows = counters.lines().filter(|line| line.starts_with("Icmp:"));
    let (names, values) = (rows.next().unwrap(), rows.next().unwrap());
    let mut both = names.split(' ').zip(values.split(' '));
    let (_, count) = both.find(|(name, _)| *name == "InTimeExcds").unwrap();
    count.parse().unwrap()
}

#[test]
fn a_flood_of_dying_packets_is_answered_now_and_then_and_hurts_nobody() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let other = pair.lab.container(&pair.host1, "blue", "other", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    ping(&other.ns, far.v4().into());
    let frame = last_hop(&blue, far.v4());
    let prober = Prober::start(&other.ns, &far.ns, far.v4().into());
    let (socket, began) = (FrameSocket::open(&blue.ns, "eth0"), Instant::now());
    let sent = (0..50_000).filter(|_| socket.offer(&frame)).count();
    let millis = u64::try_from(began.elapsed().as_millis()).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let heard = errors_heard(&blue);
    // Of each worker one a millisecond, but for a burst.
    let most = 2 * (32 + millis + 200);
    assert!((32..=most).contains(&heard), "{heard} in {millis} ms");
    let drops = pair.host1.port_of(&blue.ns).traffic.drops;
    let dropped = drops.get("ttl_exceeded").copied().unwrap_or_default();
    let sent = u64::try_from(sent).unwrap();
    assert!(sent > 1_000 && dropped >= sent, "{sent}: {drops:?}");
    let probe = prober.finish();
    assert!(probe.longest_gap < Duration::from_secs(1), "{probe:?}");
}

/// A fragment for the gateway to route: part of an UDP packet, at a multiple of eight bytes.
fn fragment(
    from: &Container,
    to: Ipv4Addr,
    (id, at, more): (u16, u16, bool),
    len: usize,
) -> Vec<u8> {
    let payload = vec![0x5a; len];
    let mut header = Ipv4Header::new(
        u16::try_from(len).unwrap(),
        64,
        IpNumber::UDP,
        from.v4().octets(),
        to.octets(),
    )
    .unwrap();
    header.identification = id;
    header.dont_fragment = false;
    header.more_fragments = more;
    header.fragment_offset = IpFragOffset::try_new(at).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut packet = Vec::new();
    header.write(&mut packet).unwrap();
    packet.extend(payload);
    ethernet(GATEWAY_MAC, from.mac(), 0x0800, &packet)
}

#[test]
fn fragments_are_routed_and_cost_nothing_that_grows() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    let beside = pair.lab.container(&pair.host2, "green", "beside", &[]);
    let large = |to: IpAddr| {
        let to = to.to_string();
        let args = ["-n", "-c", "2", "-i", "0.1", "-W", "2", "-s", "4000", &to];
        output(&blue, "ping", &args);
    };
    both(&far).into_iter().for_each(large);
    let (socket, agent) = (
        FrameSocket::open(&blue.ns, "eth0"),
        pair.host1.agent().pid(),
    );
    let before = resident_kib(agent);
    for id in 0..20_000 {
        // Never finished, tiny, overlapping, beyond the end.
        for (at, more, len) in [
            (0, true, 8),
            (1, true, 64),
            (4, false, 16),
            (8_191, false, 64),
        ] {
            if at == 0 || id % 4 == 0 {
                let fragment = fragment(&blue, far.v4(), (id, at, more), len);
                while !socket.offer(&fragment) {
                    std::thread::sleep(Duration::from_micros(100));
                }
            }
        }
    }
    let grown = resident_kib(agent).saturating_sub(before);
    assert!(grown < 4_096, "{grown} KiB");
    // The kernel that was to put them together is full of them for a while.
    both(&beside).into_iter().for_each(large);
    let drops = pair.host1.port_of(&blue.ns).traffic.drops;
    assert!(!drops.contains_key("port_refused"), "{drops:?}");
}

#[test]
fn what_the_path_between_hosts_does_not_take_is_said_by_the_gateway() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    for network in ["blue", "green"] {
        // Set, so that it doesn't follow the path.
        let mtu = ["network", "set", network, "--mtu", "1450"];
        pair.host1.weft(&mtu);
    }
    pair.wait_in_sync();
    let blue = pair.lab.container(&pair.host1, "blue", "blue1", &[]);
    let far = pair.lab.container(&pair.host2, "green", "far", &[]);
    for ip in both(&far) {
        ping_full(&blue.ns, ip, 1450);
    }
    for host in [&pair.host1, &pair.host2] {
        let narrow = ["link", "set", UNDERLAY_IFNAME, "mtu", "1400"];
        host.ns.ip(&narrow);
    }
    for (gateway, to) in [("10.32.0.1", both(&far)[0]), ("fd32:1::1", both(&far)[1])] {
        let name = to.to_string();
        let args = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1390", &name];
        wait_until(
            Duration::from_secs(20),
            "the gateway says what fits",
            || {
                let said = blue.ns.run("ping", &args).stdout;
                said.contains(&format!("From {gateway} ")) && said.contains("1350")
            },
        );
        ping_full(&blue.ns, to, 1350);
        transfer(&blue.ns, &far.ns, to, 2_000_003);
        let path = output(&blue, "tracepath", &["-n", &name]);
        assert!(path.contains("pmtu 1350 hops 2"), "{path}");
    }
    // IPv4 whose sender allows it gets there in fragments. Neither end has heard of the other's path yet.
    let loose = pair.lab.container(&pair.host1, "blue", "loose", &[]);
    let name = far.v4().to_string();
    let args = [
        "-n", "-c", "3", "-i", "0.1", "-W", "2", "-M", "dont", "-s", "1390", &name,
    ];
    wait_until(
        Duration::from_secs(20),
        "the path is known both ways",
        || {
            let said = loose.ns.run("ping", &args).stdout;
            said.contains(" 0% packet loss")
        },
    );
}

#[test]
fn a_narrower_network_gets_fragments_of_whose_sender_allows_it() {
    let pair = Pair::up(Lab::new());
    networks(&pair.host1);
    pair.host1
        .weft(&["network", "set", "green", "--mtu", "1280"]);
    pair.wait_in_sync();
    let fast = pair.lab.container(&pair.host1, "blue", "fast", &[]);
    let plain = pair
        .lab
        .container(&pair.host1, "blue", "plain", &["--no-offload"]);
    let near = pair.lab.container(&pair.host1, "green", "near", &[]);
    let far = pair
        .lab
        .container(&pair.host2, "green", "far", &["--no-offload"]);
    for from in [&fast, &plain] {
        for to in [&near, &far] {
            let name = to.v4().to_string();
            let ping = |more: &[&str]| {
                let args = ["-n", "-c", "3", "-i", "0.1", "-W", "2", &name];
                from.ns.run("ping", &[more, &args].concat())
            };
            for size in ["1300", "1422", "4000"] {
                let said = ping(&["-M", "dont", "-s", size]);
                assert!(said.stdout.contains(" 0% packet loss"), "{size}: {said}");
            }
            // A datagram without a finished checksum, too.
            let (server, client) = (udp(to, false), udp(from, true));
            let there = server.local_addr().unwrap();
            let sent: Vec<u8> = (0..1400).map(|i| u8::try_from(i % 251).unwrap()).collect();
            client.send_to(&sent, there).unwrap();
            let mut heard = vec![0; 2000];
            let (len, _) = server.recv_from(&mut heard).unwrap();
            assert!(heard[..len] == sent);
            // Who forbids it is told what fits.
            let said = ping(&["-M", "do", "-s", "1300"]);
            assert!(
                said.stdout.contains("mtu = 1280") || said.stderr.contains("mtu=1280"),
                "{said}"
            );
        }
    }
    ping_full(&fast.ns, near.v4().into(), 1280);
    transfer(&fast.ns, &far.ns, far.v4().into(), 1_000_003);
}

/// A socket of a container; one that `may_be_cut` lets routers cut what it sends.
fn udp(container: &Container, may_be_cut: bool) -> UdpSocket {
    let address = (container.v4(), 0);
    // A socket is as this was when it was made.
    let no_discovery = if may_be_cut { "1" } else { "0" };
    container.ns.sysctl("ipv4/ip_no_pmtu_disc", no_discovery);
    let socket = container.ns.enter(|| UdpSocket::bind(address).unwrap());
    container.ns.sysctl("ipv4/ip_no_pmtu_disc", "0");
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}
