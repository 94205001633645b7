//! The way out: containers reach servers that know nothing of weft, by sockets of their host, and nothing that they
//! must not reach.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use weft_control::api::NetworkEgress;
use weft_testbed::lab::Namespace;
use weft_testbed::lab::traffic::{ping, ping_full, ping_in_fragments, transfer};
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Host, Lab, Outside, Pair};

fn way_of(host: &Host, network: &str) -> NetworkEgress {
    let ways: Vec<NetworkEgress> = host.json(&["egress", "--network", network]);
    ways.into_iter().next().unwrap()
}

fn connect(from: &Namespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, SOON))
}

/// Sends back every datagram until nothing comes for a while.
fn echo_datagrams(ns: &Namespace, ip: IpAddr) -> SocketAddr {
    let socket = ns.enter(|| UdpSocket::bind((ip, 0)).unwrap());
    let address = socket.local_addr().unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    address
}

fn two_networks(pair: &Pair) {
    for (name, v4, v6) in [
        ("blue", "10.32.0.0/16", "fd32::/64"),
        ("green", "10.33.0.0/16", "fd33::/64"),
    ] {
        pair.host1
            .weft(&["network", "create", name, "--subnet", v4, "--subnet", v6]);
    }
}

#[test]
fn containers_reach_the_outside_by_tcp_udp_and_ping() {
    let pair = Pair::up(Lab::new());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    two_networks(&pair);
    let inner = pair.lab.container(&pair.host1, "blue", "inner", &[]);
    let plain = pair
        .lab
        .container(&pair.host1, "blue", "plain", &["--no-offload"]);
    for (to, host) in outside
        .addresses()
        .into_iter()
        .zip(outside.host_addresses())
    {
        for container in [&inner, &plain] {
            ping(&container.ns, to);
            ping_in_fragments(&container.ns, to);
            transfer(&container.ns, &outside.ns, to, 5_000_000);
            let server = echo_datagrams(&outside.ns, to);
            let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = container.ns.enter(|| UdpSocket::bind(any).unwrap());
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket.connect(server).unwrap();
            for len in [0, 1, 1200, 5_000, 40_000] {
                let sent: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
                socket.send(&sent).unwrap();
                let mut heard = vec![0; 65_536];
                let count = socket.recv(&mut heard).unwrap();
                assert!(heard[..count] == sent, "{len} bytes to {to}");
            }
        }
        // The server sees the host.
        let listener = outside.ns.enter(|| TcpListener::bind((to, 0)).unwrap());
        let address = listener.local_addr().unwrap();
        let mut client = connect(&inner.ns, address).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), host);
        // One half ends, the other goes on.
        client.write_all(b"question").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer").unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }
    let mtu = inner.port.mtu.value();
    ping_full(&inner.ns, outside.addresses()[0], mtu);
    ping_full(&inner.ns, outside.addresses()[1], mtu);
    // The gateway is a hop that says so.
    let path = inner
        .ns
        .run("tracepath", &["-n", "-m", "4", "192.0.2.2"])
        .expect_done();
    assert!(
        path.contains(" 10.32.0.1") && path.contains("192.0.2.2"),
        "{path}"
    );
    let way = way_of(&pair.host1, "blue");
    assert!(way.opened >= 15 && way.out_bytes > 20_000_000, "{way:?}");
    wait_until(SOON, "finished TCP flows are forgotten", || {
        way_of(&pair.host1, "blue").tcp_flows == 0
    });
}

#[test]
fn what_is_not_to_be_reached_is_refused_with_an_answer_and_counted() {
    let pair = Pair::up(Lab::new());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    two_networks(&pair);
    let inner = pair.lab.container(&pair.host1, "blue", "inner", &[]);
    let other = pair.lab.container(&pair.host1, "green", "other", &[]);
    let refused = |to: SocketAddr| connect(&inner.ns, to).unwrap_err().kind();
    let count = |why: &str| {
        let way = way_of(&pair.host1, "blue");
        way.refused.get(why).copied().unwrap_or(0)
    };
    // Nobody listens there: as if asked directly.
    for ip in outside.addresses() {
        assert_eq!(
            refused((ip, 9).into()),
            ErrorKind::ConnectionRefused,
            "{ip}"
        );
        let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = inner.ns.enter(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket.connect((ip, 9)).unwrap();
        socket.send(b"anybody?").unwrap();
        let error = socket.recv(&mut [0; 9]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{ip}");
    }
    assert_eq!(count("outside"), 4);
    // No way there.
    assert_eq!(
        refused("198.51.100.1:80".parse().unwrap()),
        ErrorKind::NetworkUnreachable
    );
    assert_eq!(
        refused("192.0.2.77:80".parse().unwrap()),
        ErrorKind::HostUnreachable
    );
    // Not to be reached by surprise: a service of the host, whatever address it has, another network, link-local.
    let service = pair.host1.ns.enter(|| TcpListener::bind("[::]:0").unwrap());
    let port = service.local_addr().unwrap().port();
    // What the switch refuses for want of a route never gets to the way out: the port counts it.
    let refusals = |why: &[&str]| {
        let drops = pair.host1.port_of(&inner.ns).traffic.drops;
        let no_route = drops.get("no_route").copied().unwrap_or(0);
        let by_switch = if why.contains(&"no_route") {
            no_route
        } else {
            0
        };
        by_switch + why.iter().map(|why| count(why)).sum::<u64>()
    };
    for (ip, why) in [
        ("192.0.2.1", &["host_address"][..]),
        ("10.99.0.1", &["host_address"]),
        ("2001:db8::1", &["host_address"]),
        ("169.254.169.254", &["no_route", "link_local"]),
        (&*other.v4().to_string(), &["no_route", "overlay"]),
        (&*other.v6().to_string(), &["no_route", "overlay"]),
    ] {
        let before = refusals(why);
        let kind = refused((ip.parse::<IpAddr>().unwrap(), port).into());
        let answered = matches!(
            kind,
            ErrorKind::HostUnreachable
                | ErrorKind::PermissionDenied
                | ErrorKind::NetworkUnreachable
        );
        assert!(answered, "{ip}: {kind:?}");
        assert!(refusals(why) > before, "{ip}: {why:?}");
        let pinged = inner.ns.run("ping", &["-n", "-c", "1", "-W", "2", ip]);
        assert_eq!(pinged.code, Some(1), "{ip}: {pinged}");
    }
    let own = inner.v4().to_string();
    assert!(connect(&inner.ns, format!("{own}:9").parse().unwrap()).is_err());
    drop(service);
    // The gateway's address is not the host.
    assert_eq!(
        refused("10.32.0.1:6783".parse().unwrap()),
        ErrorKind::ConnectionRefused
    );
}

#[test]
fn the_way_out_closes_for_a_network_and_opens_again_and_survives_the_agent() {
    let pair = Pair::up(Lab::new());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    let to = outside.addresses()[0];
    pair.host1
        .weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    pair.host1.weft(&[
        "network",
        "create",
        "shut",
        "--subnet",
        "10.33.0.0/16",
        "--egress",
        "off",
    ]);
    pair.host1.weft(&[
        "network",
        "create",
        "inside",
        "--subnet",
        "10.34.0.0/16",
        "--internal",
    ]);
    let blue = pair.lab.container(&pair.host1, "blue", "c1", &[]);
    let shut = pair.lab.container(&pair.host1, "shut", "c2", &[]);
    let inside = pair.lab.container(&pair.host1, "inside", "c3", &[]);
    inside
        .ns
        .ip(&["route", "add", "default", "via", "10.34.0.1"]);
    let listener = outside.ns.enter(|| TcpListener::bind((to, 0)).unwrap());
    let address = listener.local_addr().unwrap();
    // A closed way out is prohibited; of an internal network's gateway none leads anywhere.
    for (container, kind) in [
        (&shut, ErrorKind::HostUnreachable),
        (&inside, ErrorKind::NetworkUnreachable),
    ] {
        let error = connect(&container.ns, address).unwrap_err();
        assert_eq!(error.kind(), kind);
    }
    assert_eq!(way_of(&pair.host1, "shut").refused["egress_off"], 1);
    let mut open = connect(&blue.ns, address).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    open.write_all(b"x").unwrap();
    served.read_exact(&mut [0]).unwrap();
    pair.host1
        .weft(&["network", "set", "blue", "--egress", "off"]);
    let ended = served.read(&mut [0]).map_err(|error| error.kind());
    assert!(
        matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{ended:?}"
    );
    assert!(connect(&blue.ns, address).is_err());
    pair.host1
        .weft(&["network", "set", "blue", "--egress", "nat"]);
    transfer(&blue.ns, &outside.ns, to, 100_000);
    // A new agent: what was under way ends, what begins works.
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    transfer(&blue.ns, &outside.ns, to, 100_000);
    ping(&blue.ns, to);
    // A container that goes takes its flows with it.
    let _open = connect(&blue.ns, address).unwrap();
    let (mut served, _) = listener.accept().unwrap();
    pair.host1.disconnect("blue", &blue.ns);
    served.set_read_timeout(Some(SOON)).unwrap();
    let ended = served.read(&mut [0]).map_err(|error| error.kind());
    assert!(
        matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)),
        "{ended:?}"
    );
}

/// Asks for a file by HTTP as people do; what came.
fn fetch(from: &Namespace, to: IpAddr) -> Vec<u8> {
    let host = match to {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let file = from.lab_file(&format!("{}-got", from.name()));
    let (url, path) = (
        format!("http://{host}:8080/file"),
        file.display().to_string(),
    );
    let args = [
        "-sSfg",
        "--retry",
        "5",
        "--retry-connrefused",
        "--max-time",
        "60",
        "-o",
        &path,
        &url,
    ];
    from.run_for(Duration::from_secs(120), "curl", &args)
        .expect_done();
    std::fs::read(file).unwrap()
}

#[test]
fn curl_fetches_from_a_web_server_outside_from_both_hosts_also_after_a_restart() {
    let pair = Pair::up(Lab::new());
    two_networks(&pair);
    pair.wait_in_sync();
    let root = pair.lab.dir().join("www");
    std::fs::create_dir_all(&root).unwrap();
    let file: Vec<u8> = (0..3_000_000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    std::fs::write(root.join("file"), &file).unwrap();
    let root = root.display().to_string();
    let places = [&pair.host1, &pair.host2].map(|host| {
        let outside = Outside::of(&pair.lab, host, &format!("outside-{}", host.name));
        let serve = ["httpd", "-f", "-p", "8080", "-h", &root];
        outside
            .ns
            .spawn(&format!("httpd-{}", host.name), "busybox", &serve);
        let container = pair
            .lab
            .container(host, "blue", &format!("c-{}", host.name), &[]);
        (outside, container)
    });
    for restarted in [false, true] {
        for (host, (outside, container)) in [&pair.host1, &pair.host2].into_iter().zip(&places) {
            if restarted {
                host.kill_agent();
                host.restart_agent();
            }
            for to in outside.addresses() {
                assert!(fetch(&container.ns, to) == file, "{to}");
            }
        }
    }
}
