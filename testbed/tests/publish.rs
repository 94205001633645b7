//! The way in: clients of the host's ports are connected with containers.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use weft_testbed::lab::Namespace;
use weft_testbed::lab::verdict::SOON;
use weft_testbed::{Lab, Outside, Pair};

/// Answers each connection with what it said, and tells who it was.
fn serve(ns: &Namespace, port: u16) -> Receiver<SocketAddr> {
    let listener = ns.enter(|| TcpListener::bind(("::", port)).unwrap());
    let (clients, seen) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = clients.send(from);
            thread::spawn(move || {
                stream.set_read_timeout(Some(SOON)).unwrap();
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said);
                let _ = stream.write_all(&said);
            });
        }
    });
    seen
}

fn connect(from: &Namespace, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.enter(|| TcpStream::connect_timeout(&to, SOON))
}

/// Says something long and hears it again; returns what the container heard before it.
#[track_caller]
fn ask(from: &Namespace, to: SocketAddr) -> Vec<u8> {
    let stream = connect(from, to).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let said: Vec<u8> = (0..700_001u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let mut heard = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            (&stream).write_all(&said).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        (&stream).read_to_end(&mut heard).unwrap();
    });
    let before = heard.len().checked_sub(said.len()).unwrap();
    assert!(heard[before..] == said);
    heard.truncate(before);
    heard
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn clients_reach_a_container_by_ports_of_its_host_also_after_a_restart() {
    let pair = Pair::up(Lab::new());
    let outside = Outside::of(&pair.lab, &pair.host1, "outside");
    pair.host1.weft(&[
        "network",
        "create",
        "blue",
        "--subnet",
        "10.32.0.0/16",
        "--subnet",
        "fd32::/64",
    ]);
    let web = pair.lab.container(
        &pair.host1,
        "blue",
        "web",
        &[
            "--publish",
            "8080:80",
            "--publish",
            "192.0.2.1:8081:80,proxy=v2",
            "-p",
            "8082:80,source=client",
            "-p",
            "[2001:db8::1]:8083:80/tcp,proxy=v1",
            "-p",
            "5300-5302:5300-5302/udp",
            "-p",
            "5310:5300/udp,source=client",
            "-p",
            "8099:99",
        ],
    );
    let other = pair.lab.container(&pair.host1, "blue", "other", &[]);
    let seen = serve(&web.ns, 80);
    let gateways: [IpAddr; 2] = ["10.32.0.1".parse().unwrap(), "fd32::1".parse().unwrap()];
    let check = || {
        for (host, gateway) in outside.host_addresses().into_iter().zip(gateways) {
            assert!(ask(&outside.ns, SocketAddr::new(host, 8080)).is_empty());
            let from = seen.recv_timeout(SOON).unwrap();
            assert_eq!(from.ip().to_canonical(), gateway);
        }
    };
    check();
    // The container learns who its client is, in three ways.
    let header = ask(&outside.ns, at("192.0.2.1", 8081));
    seen.recv_timeout(SOON).unwrap();
    assert_eq!(header.len(), 28);
    assert_eq!(header[16..24], [192, 0, 2, 2, 192, 0, 2, 1]);
    let header = String::from_utf8(ask(&outside.ns, at("2001:db8::1", 8083))).unwrap();
    seen.recv_timeout(SOON).unwrap();
    assert!(
        header.starts_with("PROXY TCP6 2001:db8::2 2001:db8::1 "),
        "{header}"
    );
    for (host, client) in outside
        .host_addresses()
        .into_iter()
        .zip(outside.addresses())
    {
        ask(&outside.ns, SocketAddr::new(host, 8082));
        let from = seen.recv_timeout(SOON).unwrap();
        assert_eq!(from.ip().to_canonical(), client);
    }
    // A container may come by there, too; and the host itself.
    for (from, to) in [
        (&other.ns, "192.0.2.1:8080"),
        (&pair.host1.ns, "127.0.0.1:8082"),
    ] {
        ask(from, to.parse().unwrap());
        let from = seen.recv_timeout(SOON).unwrap();
        assert_eq!(from.ip().to_canonical(), gateways[0]);
    }
    // Nobody listens in the container: a reset, no silence.
    // It may come before the client has looked at its own connection.
    let ended = connect(&outside.ns, at("192.0.2.1", 8099)).and_then(|mut nobody| {
        nobody.set_read_timeout(Some(SOON))?;
        nobody.read(&mut [0])
    });
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    // Datagrams.
    let echo = web.ns.enter(|| UdpSocket::bind("[::]:5300").unwrap());
    let (clients, datagrams) = channel();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = echo.recv_from(&mut buffer) {
            let _ = clients.send(from);
            let _ = echo.send_to(&buffer[..len], from);
        }
    });
    let speak = |to: SocketAddr| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = outside.ns.enter(|| UdpSocket::bind(any).unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        // Connected: an answer from elsewhere would not be heard.
        socket.connect(to).unwrap();
        for len in [0usize, 5, 1200, 9000] {
            socket.send(&vec![7; len]).unwrap();
            let heard = socket.recv(&mut vec![0; 65_536]).unwrap();
            assert_eq!(heard, len, "to {to}");
        }
        datagrams.recv_timeout(SOON).unwrap().ip().to_canonical()
    };
    assert_eq!(speak(at("192.0.2.1", 5300)), gateways[0]);
    while datagrams.try_recv().is_ok() {}
    assert_eq!(speak(at("2001:db8::1", 5300)), gateways[1]);
    while datagrams.try_recv().is_ok() {}
    assert_eq!(speak(at("192.0.2.1", 5310)), outside.addresses()[0]);
    while datagrams.try_recv().is_ok() {}
    let shown = pair.host1.port_of(&web.ns).published;
    assert_eq!(shown.len(), 9);
    let text: Vec<String> = shown.iter().map(ToString::to_string).collect();
    assert!(
        text.contains(&"192.0.2.1:8081:80/tcp,proxy=v2".to_owned()),
        "{text:?}"
    );
    // A new agent listens again.
    pair.host1.kill_agent();
    assert!(connect(&outside.ns, at("192.0.2.1", 8080)).is_err());
    pair.host1.restart_agent();
    check();
    assert_eq!(pair.host1.port_of(&web.ns).published, shown);
    assert_eq!(speak(at("192.0.2.1", 5300)), gateways[0]);
    // And none when the container is gone; the port is free at once.
    pair.host1.disconnect("blue", &web.ns);
    let gone = connect(&outside.ns, at("192.0.2.1", 8080)).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::ConnectionRefused);
    pair.host1
        .connect("blue", &web.ns, &["--publish", "8080:80"]);
    ask(&outside.ns, at("192.0.2.1", 8080));
    seen.recv_timeout(SOON).unwrap();
}

#[test]
fn ports_that_are_taken_or_make_no_sense_are_refused_and_nothing_is_left() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    host.weft(&["network", "create", "blue", "--subnet", "10.32.0.0/16"]);
    host.weft(&["network", "create", "flat"]);
    pair.lab
        .container(host, "blue", "web", &["--publish", "8080-8081:80-81"]);
    let taken = host
        .ns
        .enter(|| TcpListener::bind("127.0.0.1:9000").unwrap());
    let ns = pair.lab.namespace("late");
    let before = host.listing();
    let refuse = |network: &str, publish: &str| {
        let late = [
            "network",
            "connect",
            network,
            "--netns",
            ns.name(),
            "--publish",
            publish,
        ];
        let refusal = host.refused(&late);
        assert_eq!(host.listing(), before, "{publish}");
        assert!(ns.ifnames().is_empty());
        refusal
    };
    for publish in ["8081:80", "10.99.0.1:8080:80"] {
        let refusal = refuse("blue", publish);
        assert_eq!(refusal.code, "port_taken");
        assert!(
            refusal.message.contains("endpoint web (network blue)"),
            "{refusal:?}"
        );
    }
    let refusal = refuse("blue", "127.0.0.1:9000:80");
    assert_eq!(refusal.code, "port_taken");
    assert!(refusal.message.contains("another program"), "{refusal:?}");
    let refusal = refuse("blue", "198.51.100.7:80:80");
    assert_eq!(refusal.code, "cannot_publish");
    let refusal = refuse("flat", "7000:80");
    assert_eq!(refusal.code, "no_gateway");
    // A range of which one is taken: none of it stays bound.
    assert_eq!(refuse("blue", "8079-8080:79-80").code, "port_taken");
    drop(host.ns.enter(|| TcpListener::bind("0.0.0.0:8079").unwrap()));
    for nonsense in ["80", "0:80", "80-81:80", "80:80/sctp", "80:80/udp,proxy=v2"] {
        let args = [
            "network",
            "connect",
            "blue",
            "--netns",
            ns.name(),
            "--publish",
            nonsense,
        ];
        assert_eq!(host.try_weft(&args).code, Some(2), "{nonsense}");
    }
    drop(taken);
}
