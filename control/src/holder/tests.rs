//! With the real process: this test binary serves as the program, through a script that turns `fd-holder --socket PATH`
//! into a test of that process's main. The tests with TAPs need root, `/dev/net/tun` and the `ip` program.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};
use weft_switch::port::{PortKind, Queue, create_tap};

use super::protocol::{self, Reply};
use super::*;
use crate::link::{AttachSpec, attach, read_back};
use crate::netns::tests::TestNetns;

const SOCKET_VARIABLE: &str = "WEFT_TEST_HOLDER_SOCKET";
const NETNS_VARIABLE: &str = "WEFT_TEST_HOLDER_NETNS";

/// A directory with a socket path and a program; ends the holder that serves it.
struct Scene {
    dir: tempfile::TempDir,
    socket: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = fd-holder ] && [ \"$2\" = --socket ] || exit 9\n\
             {SOCKET_VARIABLE}=\"$3\" exec {} --exact holder::tests::the_process --ignored --test-threads=1\n",
            std::env::current_exe().unwrap().display()
        );
        let exe = dir.path().join("weft");
        fs::write(&exe, script).unwrap();
        fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).unwrap();
        let socket = dir.path().join("holder.sock");
        Self { dir, socket }
    }

    fn client(&self) -> HolderClient {
        HolderClient::connect_or_spawn(&self.socket, &self.dir.path().join("weft")).unwrap()
    }

    /// A connection that speaks no protocol.
    fn raw(&self) -> Socket {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        socket
            .connect(&SockAddr::unix(&self.socket).unwrap())
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    }

    /// Whether the holder ends within the time, by its socket's file.
    fn ends_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.socket.exists() {
            if Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Ok(client) = HolderClient::connect(&self.socket) {
            let _ = kill(pid(&client), Signal::SIGKILL);
        }
    }
}

fn pid(client: &HolderClient) -> Pid {
    Pid::from_raw(getsockopt(client, PeerCredentials).unwrap().pid())
}

/// A file descriptor that shows when its last duplicate is closed.
fn watched() -> (UnixStream, UnixStream) {
    let (given, watch) = UnixStream::pair().unwrap();
    watch
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    (given, watch)
}

fn is_closed(mut watch: &UnixStream) -> bool {
    matches!(watch.read(&mut [0]), Ok(0))
}

/// Not a test: the holder's process.
#[test]
#[ignore = "run by the other tests as a process"]
fn the_process() {
    run(Path::new(&std::env::var_os(SOCKET_VARIABLE).unwrap())).unwrap();
}

/// Not a test: an agent that plugs a TAP in, deposits it, and sleeps until it is killed.
#[test]
#[ignore = "run by the other tests as a process"]
fn the_agent() {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let socket = PathBuf::from(std::env::var_os(SOCKET_VARIABLE).unwrap());
    let netns = crate::api::NetnsArg::Name(std::env::var(NETNS_VARIABLE).unwrap());
    let tap = create_tap("tap0", PortKind::Offload, 2).unwrap();
    let spec = AttachSpec {
        tap: tap.name.clone(),
        ifindex: tap.ifindex,
        ifname: "eth0".to_owned(),
        mac: "02:00:0a:20:00:05".parse().unwrap(),
        carriage: weft_tunnel::Carriage::Clear,
        mtu: weft_wire::Mtu::ETHERNET,
        tx_queue_len: 256,
        addresses: vec!["10.32.0.5/16".parse().unwrap()],
        routes: Vec::new(),
        gateways: Vec::new(),
    };
    attach(&crate::netns::Netns::open(&netns).unwrap(), &spec).unwrap();
    let exe = socket.with_file_name("weft");
    let mut client = HolderClient::connect_or_spawn(&socket, &exe).unwrap();
    let fds: Vec<_> = tap.queues.iter().map(AsFd::as_fd).collect();
    client.keep("port", &fds).unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

fn start_agent(scene: &Scene, netns: &TestNetns) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "holder::tests::the_agent",
            "--ignored",
            "--test-threads=1",
        ])
        .env(SOCKET_VARIABLE, &scene.socket)
        .env(NETNS_VARIABLE, &netns.name)
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_agents_tap_lives_on_until_its_namespace_dies() {
    let (scene, netns) = (Scene::new(), TestNetns::new());
    let mut agent = start_agent(&scene, &netns);
    let deposited = (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        let state = read_back(&netns.open(), "eth0").unwrap();
        state.is_some_and(|state| state.up) && scene.socket.exists()
    });
    // Between the socket and the deposit there is a moment.
    std::thread::sleep(Duration::from_millis(300));
    agent.kill().unwrap();
    agent.wait().unwrap();
    assert!(deposited);
    let before = read_back(&netns.open(), "eth0").unwrap().unwrap();
    assert!(before.addresses.contains(&"10.32.0.5/16".parse().unwrap()));

    let mut client = scene.client();
    assert_eq!(
        client.list().unwrap(),
        [Held {
            name: "port".to_owned(),
            fds: 2
        }]
    );
    for fd in client.fetch("port").unwrap() {
        Queue::from_fd(fd, PortKind::Offload).unwrap();
    }
    drop(client);
    // The grace and more: the TAP keeps the holder, and the holder the TAP.
    assert!(!scene.ends_within(Duration::from_secs(3)));
    assert_eq!(read_back(&netns.open(), "eth0").unwrap().unwrap(), before);

    drop(netns);
    assert!(
        scene.ends_within(Duration::from_secs(4)),
        "it holds on to a dead TAP"
    );
}

#[test]
fn a_deposit_can_be_listed_fetched_replaced_and_forgotten() {
    let scene = Scene::new();
    let mut client = scene.client();
    let ((first, first_watch), (second, second_watch)) = (watched(), watched());
    client.keep("a", &[first.as_fd(), first.as_fd()]).unwrap();
    client.keep("b", &[second.as_fd()]).unwrap();
    drop((first, second));
    let held = |name: &str, fds| Held {
        name: name.to_owned(),
        fds,
    };
    assert_eq!(client.list().unwrap(), [held("a", 2), held("b", 1)]);
    assert!(client.fetch("c").unwrap().is_empty());

    let fetched = client.fetch("b").unwrap();
    assert_eq!(fetched.len(), 1);
    UnixStream::from(fetched.into_iter().next().unwrap())
        .write_all(b"x")
        .unwrap();
    let mut byte = [0];
    (&second_watch).read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");

    let (third, third_watch) = watched();
    client.keep("a", &[third.as_fd()]).unwrap();
    drop(third);
    assert!(is_closed(&first_watch), "replaced, but not closed");
    client.forget("b").unwrap();
    client.forget("b").unwrap();
    assert!(is_closed(&second_watch), "forgotten, but not closed");
    assert_eq!(client.list().unwrap(), [held("a", 1)]);
    client.forget("a").unwrap();
    assert!(is_closed(&third_watch));
}

#[test]
fn hundreds_of_deposits_are_listed_and_the_largest_fits() {
    let scene = Scene::new();
    let mut client = scene.client();
    let (given, _watch) = watched();
    let fds = vec![given.as_fd(); FDS_MAX];
    client.keep(&"\u{1}".repeat(NAME_MAX_LEN), &fds).unwrap();
    for number in 0..300 {
        client.keep(&format!("{number:0>128}"), &fds[..1]).unwrap();
    }
    let list = client.list().unwrap();
    assert_eq!(list.len(), 301);
    assert_eq!(list[0].fds, FDS_MAX);
    assert_eq!(list[300].name, format!("{:0>128}", 299));
    assert_eq!(client.fetch(&list[0].name).unwrap().len(), FDS_MAX);
}

#[test]
fn a_newer_agent_takes_over_and_a_mere_look_does_not() {
    let scene = Scene::new();
    let mut old = scene.client();
    let (given, _watch) = watched();
    old.keep("a", &[given.as_fd()]).unwrap();
    drop(scene.raw());
    let look = scene.raw();
    assert!(old.is_alive());
    assert_eq!(old.list().unwrap().len(), 1);

    let mut new = scene.client();
    assert!(!old.is_alive());
    assert!(matches!(old.list(), Err(HolderError::Closed { .. })));
    assert_eq!(pid(&old), pid(&new), "the same holder");
    assert_eq!(new.list().unwrap().len(), 1);
    drop(look);
}

#[test]
fn nonsense_is_refused_and_harms_nobody() {
    let scene = Scene::new();
    let mut client = scene.client();
    let (given, watch) = watched();
    client.keep("a", &[given.as_fd()]).unwrap();

    let raw = scene.raw();
    let mut buffer = vec![0; protocol::MESSAGE_MAX_LEN];
    let long = vec![b' '; 80_000];
    let nested = b"[".repeat(60_000);
    let messages: [&[u8]; 7] = [
        b"x",
        b"{}",
        b"null",
        b"\xff\x00",
        b"{\"op\":\"fly\"}",
        &long,
        &nested,
    ];
    for message in messages {
        raw.send(message).unwrap();
        let reply = protocol::receive::<Reply>(&raw, &mut buffer)
            .unwrap()
            .unwrap();
        assert!(matches!(reply.body, Ok(Reply::Refused { .. })), "{reply:?}");
    }
    // What came with a message that isn't understood is closed.
    let (lost, lost_watch) = watched();
    protocol::send(&raw, &"nonsense", &[lost.as_fd()]).unwrap();
    drop(lost);
    assert!(is_closed(&lost_watch));
    drop(raw);
    assert!(client.is_alive(), "nonsense deposed the agent");

    for (name, fds) in [
        ("", 1),
        (&"n".repeat(NAME_MAX_LEN + 1) as &str, 1),
        ("b", 0),
    ] {
        let error = client.keep(name, &vec![given.as_fd(); fds]).unwrap_err();
        assert!(matches!(error, HolderError::Refused { .. }), "{error}");
    }
    let too_many = client
        .keep("b", &vec![given.as_fd(); FDS_MAX + 1])
        .unwrap_err();
    assert!(matches!(too_many, HolderError::Socket { .. }), "{too_many}");
    assert_eq!(scene.client().list().unwrap().len(), 1);
    drop((client, watch));
}

#[test]
fn a_holder_with_nothing_to_hold_ends_after_its_grace() {
    let scene = Scene::new();
    let mut client = scene.client();
    let (given, watch) = watched();
    client.keep("a", &[given.as_fd()]).unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    assert!(client.is_alive());
    client.forget("a").unwrap();
    drop((client, watch));
    assert!(
        !scene.ends_within(Duration::from_secs(1)),
        "it must give a new agent the time"
    );
    assert!(scene.ends_within(Duration::from_secs(3)));
}

#[test]
fn only_the_operators_signal_ends_it() {
    let scene = Scene::new();
    let mut client = scene.client();
    let (given, watch) = watched();
    client.keep("a", &[given.as_fd()]).unwrap();
    drop(given);
    for signal in [Signal::SIGHUP, Signal::SIGINT] {
        kill(pid(&client), signal).unwrap();
    }
    assert_eq!(client.list().unwrap().len(), 1);
    kill(pid(&client), Signal::SIGTERM).unwrap();
    assert!(is_closed(&watch));
    // The kernel closes one file descriptor after the other, in an order of its own.
    let deadline = Instant::now() + Duration::from_secs(3);
    while client.is_alive() {
        assert!(Instant::now() < deadline, "its end is noticed");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_dead_holder_is_noticed_and_replaced() {
    let scene = Scene::new();
    let mut client = scene.client();
    let first = pid(&client);
    kill(first, Signal::SIGKILL).unwrap();
    let noticed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        !client.is_alive()
    });
    assert!(noticed);
    assert!(matches!(client.list(), Err(HolderError::Closed { .. })));
    // Its socket's file is still there.
    assert!(scene.socket.exists());
    let mut client = scene.client();
    assert_ne!(pid(&client), first);
    assert!(client.list().unwrap().is_empty());
}

#[test]
fn the_process_is_detached_and_its_socket_private() {
    let scene = Scene::new();
    // Something that would be inherited.
    let leak = fs::File::open("/etc/hostname").unwrap();
    nix::fcntl::fcntl(
        &leak,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    let client = scene.client();
    let pid = pid(&client);
    let mode = fs::metadata(&scene.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(nix::unistd::getsid(Some(pid)).unwrap(), pid);
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        Path::new("/")
    );
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets: Vec<PathBuf> = open
        .filter_map(|entry| fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(
        !targets.contains(&PathBuf::from("/etc/hostname")),
        "{targets:?} ({})",
        leak.as_raw_fd()
    );
    assert_eq!(
        targets
            .iter()
            .filter(|target| *target == Path::new("/dev/null"))
            .count(),
        3
    );
}

#[test]
fn a_path_longer_than_a_socket_address_works() {
    let mut scene = Scene::new();
    let deep = scene.dir.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    scene.socket = deep.join("holder.sock");
    assert!(scene.client().list().unwrap().is_empty());
    scene.socket = deep.join("s".repeat(108));
    let error =
        HolderClient::connect_or_spawn(&scene.socket, &scene.dir.path().join("weft")).unwrap_err();
    assert!(matches!(error, HolderError::NameTooLong { .. }), "{error}");
    scene.socket = deep.join("holder.sock");
}

#[test]
fn what_is_in_the_way_is_not_removed() {
    let scene = Scene::new();
    let exe = scene.dir.path().join("weft");
    fs::write(&scene.socket, "precious").unwrap();
    let error = HolderClient::connect_or_spawn(&scene.socket, &exe).unwrap_err();
    assert!(matches!(error, HolderError::Ended { .. }), "{error}");
    assert_eq!(fs::read_to_string(&scene.socket).unwrap(), "precious");
    fs::remove_file(&scene.socket).unwrap();

    let client = scene.client();
    let second = Command::new(&exe)
        .arg("fd-holder")
        .arg("--socket")
        .arg(&scene.socket)
        .output();
    assert!(
        !second.unwrap().status.success(),
        "two holders at one socket"
    );
    assert!(client.is_alive());
    let error = HolderClient::connect_or_spawn(&scene.dir.path().join("x"), Path::new("/no/exe"));
    assert!(matches!(error, Err(HolderError::Spawn { .. })));
}

#[test]
fn a_holder_that_accepts_nobody_is_given_up_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("holder.sock");
    let listener = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
    listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    listener.listen(0).unwrap();
    let patience = Duration::from_millis(50);
    let mut waiting = Vec::new();
    let error = loop {
        match socket::connect(&path, patience) {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10, "the backlog is full at some time");
    };
    assert!(matches!(error, HolderError::NoAnswer { .. }), "{error}");
}
