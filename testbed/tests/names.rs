//! Names: containers find each other by name and alias through the name server at their gateway's address, with the
//! resolvers that people have.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use weft_control::api;
use weft_testbed::lab::namespace::Namespace;
use weft_testbed::lab::process;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Container, Host, Lab, Pair};

const COMMAND: Duration = Duration::from_secs(30);
/// Where the tests' upstream listens, on host1.
const UPSTREAM: &str = "10.99.0.1:5300";
const GATEWAY: &str = "10.32.0.1";
const GATEWAY6: &str = "fd32:1::1";

/// `dig +short` from a container.
#[track_caller]
fn dig(container: &Container, words: &[&str]) -> Vec<String> {
    let text = dig_all(container, &[&["+short"], words].concat());
    text.lines().map(str::to_owned).collect()
}

#[track_caller]
fn dig_all(container: &Container, words: &[&str]) -> String {
    let server = format!("@{GATEWAY}");
    let mut args = vec!["+time=3", "+tries=1"];
    if !words.iter().any(|word| word.starts_with('@')) {
        args.push(&server);
    }
    args.extend(words);
    container.ns.run("dig", &args).expect_done()
}

fn dns(host: &Host) -> api::Dns {
    host.json(&["dns"])
}

/// An upstream: every A question is answered with 192.0.2.7 and a TTL of a minute; names that begin with `big` are told
/// over TCP only. Says how often it was asked.
fn upstream(ns: &Namespace) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let (udp, tcp) = ns.enter(|| {
        let address: SocketAddr = UPSTREAM.parse().unwrap();
        (
            UdpSocket::bind(address).unwrap(),
            TcpListener::bind(address).unwrap(),
        )
    });
    let counter = Arc::clone(&asked);
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = udp.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::SeqCst);
            let question = &buffer[..len];
            let is_big = question[13..].starts_with(b"big");
            udp.send_to(&answer(question, is_big), from).unwrap();
        }
    });
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            let mut len = [0; 2];
            stream.read_exact(&mut len).unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut question).unwrap();
            let answer = answer(&question, false);
            let len = u16::try_from(answer.len()).unwrap().to_be_bytes();
            stream.write_all(&[&len[..], &answer].concat()).unwrap();
        }
    });
    asked
}

/// The question as an answer, without its EDNS record.
fn answer(question: &[u8], cut: bool) -> Vec<u8> {
    let name_len = question[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let end = 12 + name_len + 4;
    let wants_address = question[end - 4..end - 2] == [0, 1];
    let answers = u8::from(wants_address && !cut);
    let mut message = question[..end].to_vec();
    message[2] = 0x81 | (u8::from(cut) << 1);
    message[3] = 0x80;
    message[4..12].copy_from_slice(&[0, 1, 0, answers, 0, 0, 0, 0]);
    if answers == 1 {
        message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
    }
    message
}

/// The resolver configuration that `ip netns exec` gives a namespace's programs; removed with this.
struct ResolvConf(PathBuf);

impl ResolvConf {
    fn new(ns: &Namespace, text: &str) -> Self {
        let dir = Path::new("/etc/netns").join(ns.name());
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("resolv.conf"), text).unwrap();
        Self(dir)
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
        // The last one takes the directory with it.
        let _ = fs::remove_dir("/etc/netns");
    }
}

#[track_caller]
fn exec(ns: &Namespace, words: &[&str]) -> process::Finished {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", ns.name()]).args(words);
    process::run(&mut command, COMMAND)
}

fn world() -> (Pair, Arc<AtomicUsize>) {
    let lab = Lab::new();
    lab.give_agents(&["--dns-upstream".to_owned(), UPSTREAM.to_owned()]);
    let pair = Pair::up(lab);
    let asked = upstream(&pair.host1.ns);
    let subnets = ["--subnet", "10.32.0.0/16", "--subnet", "fd32:1::/64"];
    let blue = [&["network", "create", "blue"], &subnets[..]].concat();
    pair.host1.weft(&blue);
    let green = [
        "network",
        "create",
        "green",
        "--subnet",
        "10.33.0.0/16",
        "--internal",
    ];
    pair.host1.weft(&green);
    pair.wait_in_sync();
    (pair, asked)
}

#[test]
fn containers_find_each_other_by_name_on_both_hosts() {
    let (pair, asked) = world();
    let lab = &pair.lab;
    let c1 = lab.container(&pair.host1, "blue", "c1", &[]);
    let web1 = lab.container(&pair.host1, "blue", "web1", &["--alias", "web"]);
    let web2 = lab.container(&pair.host2, "blue", "web2", &["--alias", "web"]);
    let db = lab.container(&pair.host2, "green", "db", &[]);
    wait_until(SOON, "the other host's name is known", || {
        dig(&c1, &["web2"]) == [web2.v4().to_string()]
    });
    for name in ["web1", "WEB1", "web1.blue", "web1.blue."] {
        assert_eq!(dig(&c1, &[name]), [web1.v4().to_string()], "{name}");
    }
    assert_eq!(dig(&c1, &["web1", "AAAA"]), [web1.v6().to_string()]);
    assert_eq!(dig(&web2, &["c1"]), [c1.v4().to_string()]);
    // By IPv6 and over TCP it is the same server.
    for way in [
        &["@fd32:1::1"][..],
        &["+tcp"],
        &["+tcp", "@fd32:1::1"],
        &["+noedns"],
    ] {
        let found = dig(&c1, &[way, &["web2"]].concat());
        assert_eq!(found, [web2.v4().to_string()], "{way:?}");
    }
    // Several of one name, in turn.
    let first = |words: &[&str]| dig(&c1, words)[0].clone();
    let turns: Vec<String> = (0..4).map(|_| first(&["web"])).collect();
    assert!(
        turns[0] != turns[1] && turns[0] == turns[2] && turns[1] == turns[3],
        "{turns:?}"
    );
    assert_eq!(dig(&c1, &["web"]).len(), 2);
    // Backwards, and services.
    assert_eq!(dig(&c1, &["-x", &web2.v4().to_string()]), ["web2.blue."]);
    assert_eq!(dig(&c1, &["-x", &web2.v6().to_string()]), ["web2.blue."]);
    assert_eq!(dig(&c1, &["_http._tcp.web2", "SRV"]), ["0 0 80 web2.blue."]);
    // What isn't there.
    let header = |words: &[&str]| {
        let text = dig_all(&c1, words);
        let line = text.lines().find(|line| line.contains("status:")).unwrap();
        line.split(", ").nth(1).unwrap().to_owned()
    };
    assert_eq!(header(&["web1", "MX"]), "status: NOERROR");
    let nobody = web2.v4().to_bits() + 77;
    let nobody = std::net::Ipv4Addr::from_bits(nobody).to_string();
    assert_eq!(header(&["-x", &nobody]), "status: NXDOMAIN");
    let text = dig_all(&c1, &["web1"]);
    assert!(
        text.lines()
            .any(|line| line.starts_with("web1.\t") && line.contains("\t1\tIN\tA\t")),
        "{text}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0, "all of this is known here");
    // What is on no shared network isn't.
    assert_eq!(dig(&c1, &["db.green"]), ["192.0.2.7"]);
    let c1_green = pair.host1.connect("green", &c1.ns, &["--name", "c1"]);
    assert_eq!(c1_green.ifname, "eth1");
    wait_until(SOON, "a second network is shared", || {
        dig(&c1, &["db"]) == [db.v4().to_string()]
    });
    assert_eq!(dig(&c1, &["db.green"]), [db.v4().to_string()]);
    // What has gone is forgotten.
    pair.host2.disconnect("blue", &web2.ns);
    wait_until(SOON, "a name that has gone is forgotten", || {
        dig(&c1, &["web"]) == [web1.v4().to_string()]
    });
    assert!(dns(&pair.host1).known > 20);
}

#[test]
fn the_outside_is_asked_for_the_rest_and_by_internal_networks_never() {
    let (pair, asked) = world();
    let lab = &pair.lab;
    let c1 = lab.container(&pair.host1, "blue", "c1", &[]);
    let inside = lab.container(&pair.host1, "green", "inside", &[]);
    assert_eq!(dig(&c1, &["example.com"]), ["192.0.2.7"]);
    assert_eq!(dig(&c1, &["example.com"]), ["192.0.2.7"]);
    assert_eq!(
        asked.load(Ordering::SeqCst),
        1,
        "the second time it was remembered"
    );
    // What an upstream says over TCP only.
    assert_eq!(dig(&c1, &["big.example.com"]), ["192.0.2.7"]);
    let text = inside.ns.run(
        "dig",
        &["@10.33.0.1", "+time=3", "+tries=1", "other.example.com"],
    );
    let text = text.expect_done();
    assert!(text.contains("status: NXDOMAIN"), "{text}");
    let before = asked.load(Ordering::SeqCst);
    assert_eq!(before, 2, "and nobody was asked for it");
    let counters = dns(&pair.host1);
    assert_eq!((counters.asked, counters.cached), (2, 1), "{counters:?}");
    assert_eq!(counters.upstreams, [UPSTREAM.parse().unwrap()]);
    // A flood of names that nobody knows doesn't keep others from the names that are known.
    let sender = c1.ns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for number in 0..5_000_u32 {
        let mut message = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 8];
        message.extend(format!("{number:08}").bytes());
        message.extend([3, b'c', b'o', b'm', 0, 0, 1, 0, 1]);
        // What the kernel has no room for it drops.
        let _ = sender.send_to(&message, (GATEWAY, 53));
    }
    let started = Instant::now();
    assert_eq!(
        dig(&inside, &["@10.33.0.1", "inside"]),
        [inside.v4().to_string()]
    );
    assert_eq!(dig(&c1, &["c1"]), [c1.v4().to_string()]);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    wait_until(SOON, "the flood is over", || {
        dig(&c1, &["after.example.com"]) == ["192.0.2.7"]
    });
}

#[test]
fn the_resolvers_of_glibc_musl_and_busybox_find_names_also_after_a_restart_of_the_agent() {
    let (pair, _) = world();
    let lab = &pair.lab;
    let c1 = lab.container(&pair.host1, "blue", "c1", &[]);
    let web = lab.container(&pair.host2, "blue", "web", &[]);
    let db = lab.container(&pair.host2, "green", "db", &[]);
    pair.host1.connect("green", &c1.ns, &["--name", "c1"]);
    let _conf = ResolvConf::new(
        &c1.ns,
        &format!("nameserver {GATEWAY}\nnameserver {GATEWAY6}\n"),
    );
    let musl = musl_resolver(lab);
    let musl = musl.to_str().unwrap();
    let (web4, web6, db4) = (
        web.v4().to_string(),
        web.v6().to_string(),
        db.v4().to_string(),
    );
    wait_until(SOON, "the names are known", || {
        !dig(&c1, &["web"]).is_empty() && !dig(&c1, &["db"]).is_empty()
    });
    for round in 0..2 {
        let glibc = exec(&c1.ns, &["getent", "ahosts", "web"]).expect_done();
        assert!(glibc.contains(&web4) && glibc.contains(&web6), "{glibc}");
        let backwards = exec(&c1.ns, &["getent", "hosts", &web4]).expect_done();
        assert!(backwards.contains("web.blue"), "{backwards}");
        // A name without IPv6 addresses is one that exists.
        for family in ["ahosts", "ahostsv4"] {
            let glibc = exec(&c1.ns, &["getent", family, "db"]).expect_done();
            assert!(glibc.contains(&db4), "{glibc}");
        }
        let found = exec(&c1.ns, &[musl, "web"]).expect_done();
        assert!(found.contains(&web4) && found.contains(&web6), "{found}");
        assert_eq!(exec(&c1.ns, &[musl, "db"]).expect_done().trim(), db4);
        assert_eq!(
            exec(&c1.ns, &[musl, "example.com"]).expect_done().trim(),
            "192.0.2.7"
        );
        let busybox = exec(&c1.ns, &["busybox", "nslookup", "web", GATEWAY]).expect_done();
        assert!(busybox.contains(&web4), "{busybox}");
        let ping = exec(&c1.ns, &["ping", "-c1", "-W3", "web"]);
        ping.expect_done();
        if round == 0 {
            pair.host1.kill_agent();
            pair.host1.restart_agent();
            pair.host1.wait_in_sync();
        }
    }
    let ip: IpAddr = web.v4().into();
    assert_eq!(ip.to_string(), web4);
}

#[test]
fn the_programs_of_a_namespace_are_told_of_the_name_server_if_asked_for() {
    let (pair, _) = world();
    let lab = &pair.lab;
    let web = lab.container(&pair.host2, "blue", "web", &[]);
    let c1 = lab.container(&pair.host1, "blue", "c1", &["--dns"]);
    let path = Path::new("/etc/netns")
        .join(c1.ns.name())
        .join("resolv.conf");
    let text = || fs::read_to_string(&path).unwrap_or_default();
    assert!(
        text().ends_with("nameserver 10.32.0.1\nnameserver fd32:1::1\n"),
        "{}",
        text()
    );
    let web4 = web.v4().to_string();
    wait_until(SOON, "the name is known", || {
        dig(&c1, &["web"]) == [web4.clone()]
    });
    assert!(exec(&c1.ns, &["getent", "hosts", "web.blue"]).code == Some(0));
    // A second network is added, and the first taken away.
    let second = ["--name", "c1", "--dns"];
    pair.host1.connect("green", &c1.ns, &second);
    assert!(text().contains("nameserver 10.33.0.1\n"), "{}", text());
    pair.host1.disconnect("blue", &c1.ns);
    assert!(text().ends_with("weft (network connect --dns); gone with the namespace's last such port.\nnameserver 10.33.0.1\n"), "{}", text());
    // It goes with the last port, also when that dies while no agent runs.
    pair.host1.kill_agent();
    c1.ns.delete();
    pair.host1.restart_agent();
    // The kernel takes a namespace apart after `ip netns delete` has returned, so the agent may still find the port.
    wait_until(SOON, "the file is gone with the last port", || {
        !path.exists()
    });
    // Somebody else's file is theirs.
    c1.ns.create_again();
    let _conf = ResolvConf::new(&c1.ns, "nameserver 9.9.9.9\n");
    let connect = [
        "network",
        "connect",
        "blue",
        "--netns",
        c1.ns.name(),
        "--dns",
    ];
    assert_eq!(pair.host1.refused(&connect).code, "resolv_conf_exists");
    let by_path = c1.ns.path();
    let connect = [
        "network",
        "connect",
        "blue",
        "--netns",
        by_path.to_str().unwrap(),
        "--dns",
    ];
    assert_eq!(pair.host1.refused(&connect).code, "bad_dns");
    assert_eq!(text(), "nameserver 9.9.9.9\n");
}

/// A program linked with musl that prints what its resolver finds, sorted.
fn musl_resolver(lab: &Lab) -> PathBuf {
    let source = lab.dir().join("resolve.c");
    let program = lab.dir().join("resolve");
    let text = r#"
#include <netdb.h>
#include <stdio.h>
#include <arpa/inet.h>
int main(int argc, char **argv) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    int error = getaddrinfo(argv[1], 0, &hints, &found);
    if (error) { fprintf(stderr, "%s\n", gai_strerror(error)); return 1; }
    for (; found; found = found->ai_next) {
        char text[64];
        getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, 0, 0, NI_NUMERICHOST);
        puts(text);
    }
}
"#;
    fs::write(&source, text).unwrap();
    let mut command = Command::new("musl-gcc");
    command.args(["-static", "-o"]).arg(&program).arg(&source);
    process::run(&mut command, COMMAND).expect_done();
    program
}
