//! Point-to-point and mesh VPNs: an interface in each of two hosts, 10.88.0.1 and 10.88.0.2.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use weft_testbed::lab::process::Process;
use weft_testbed::lab::verdict::wait_until;
use weft_testbed::{Lab, Namespace, Wire};

use crate::contender::{Contender, Switch, Way};
use crate::result::WIREGUARD;

/// Until a daemon has made its interface.
const PATIENCE: Duration = Duration::from_secs(10);
/// Underlay addresses of the hosts.
const UNDERLAY: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// Their addresses inside.
const INNER: [&str; 2] = ["10.88.0.1/24", "10.88.0.2/24"];
/// Where wireguard-go listens.
const WIREGUARD_SOCKETS: &str = "/var/run/wireguard";
/// What everybody that wants a password gets.
const PASSWORD: &str = "bench";

fn contender(name: &'static str, hosts: &[Namespace; 2], daemons: &[Arc<Process>]) -> Contender {
    Contender {
        name,
        local: None,
        cross: Some(Way {
            from: hosts[0].clone(),
            to: hosts[1].clone(),
            ip: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 2)),
        }),
        out: None,
        hosts: hosts.to_vec(),
        switch: Switch::Processes(daemons.iter().map(|daemon| daemon.pid()).collect()),
    }
}

/// Waits for a daemon's interface.
fn wait_for_link(ns: &Namespace, daemon: &Process, ifname: &str) {
    wait_until(PATIENCE, &format!("{ifname} exists"), || {
        assert!(daemon.is_running(), "the daemon ended:\n{}", daemon.log());
        ns.ifnames().iter().any(|name| name == ifname)
    });
}

fn write(path: &Path, text: &str) {
    let done = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(path, text));
    assert!(done.is_ok(), "cannot write {}: {done:?}", path.display());
}

fn text(path: &Path) -> &str {
    path.to_str()
        .expect("the lab's directory has an ASCII name")
}

/// tinc 1.0 in switch mode.
pub(super) fn tinc(lab: &Lab) -> Contender {
    let Wire { hosts } = Wire::up(lab, "tinc");
    let dirs = [1, 2].map(|number| lab.dir().join(format!("tinc{number}")));
    for (at, dir) in dirs.iter().enumerate() {
        let own = format!("Name = h{at}\nMode = switch\nInterface = tinc0\n");
        let other = if at == 0 { "" } else { "ConnectTo = h0\n" };
        write(&dir.join("tinc.conf"), &format!("{own}{other}"));
        write(
            &dir.join(format!("hosts/h{at}")),
            &format!("Address = {}\n", UNDERLAY[at]),
        );
        hosts[at]
            .run("tincd", &["-c", text(dir), "-K", "2048"])
            .expect_done();
    }
    for at in [0, 1] {
        let name = format!("hosts/h{at}");
        let key = fs::read_to_string(dirs[at].join(&name));
        write(
            &dirs[1 - at].join(&name),
            &key.expect("tincd -K wrote a key"),
        );
    }
    let daemons = [0, 1].map(|at: usize| {
        let pid = format!("--pidfile={}", text(&dirs[at].join("pid")));
        let daemon = hosts[at].spawn(
            &format!("tinc{at}"),
            "tincd",
            &["-c", text(&dirs[at]), "-D", &pid],
        );
        wait_for_link(&hosts[at], &daemon, "tinc0");
        hosts[at].ip(&["addr", "add", INNER[at], "dev", "tinc0"]);
        hosts[at].ip(&["link", "set", "tinc0", "mtu", "1400", "up"]);
        daemon
    });
    contender("tinc", &hosts, &daemons)
}

/// n2n 1 with a supernode on the first host.
pub(super) fn n2n(lab: &Lab) -> Contender {
    let Wire { hosts } = Wire::up(lab, "n2n");
    let _supernode = hosts[0].spawn("supernode", "supernode", &["-l", "7777"]);
    let supernode = format!("{}:7777", UNDERLAY[0]);
    let daemons = [0, 1].map(|at: usize| {
        let inner = INNER[at].split('/').next().unwrap_or_default();
        let args = [
            "-d", "n2n0", "-a", inner, "-c", "bench", "-k", PASSWORD, "-l", &supernode,
        ];
        let daemon = hosts[at].spawn(&format!("n2n{at}"), "edge", &args);
        wait_for_link(&hosts[at], &daemon, "n2n0");
        daemon
    });
    contender("n2n", &hosts, &daemons)
}

/// vpncloud as a switch.
pub(super) fn vpncloud(lab: &Lab) -> Contender {
    let Wire { hosts } = Wire::up(lab, "vpnc");
    let daemons = [0, 1].map(|at: usize| {
        let (listen, peer) = (
            format!("{}:3210", UNDERLAY[at]),
            format!("{}:3210", UNDERLAY[1 - at]),
        );
        let args = [
            "--type",
            "tap",
            "--mode",
            "switch",
            "--device",
            "vpn0",
            "--no-port-forwarding",
            "--listen",
            &listen,
            "--peer",
            &peer,
            "--password",
            PASSWORD,
        ];
        // It asks the kernel which of its addresses leads to the internet, and ends without an answer.
        hosts[at].ip(&["route", "add", "default", "via", UNDERLAY[1 - at]]);
        let daemon = hosts[at].spawn(&format!("vpncloud{at}"), "vpncloud", &args);
        wait_for_link(&hosts[at], &daemon, "vpn0");
        // Its own way of setting an address sets another one.
        hosts[at].ip(&["addr", "add", INNER[at], "dev", "vpn0"]);
        hosts[at].ip(&["link", "set", "vpn0", "mtu", "1400", "up"]);
        daemon
    });
    contender("vpncloud", &hosts, &daemons)
}

/// What the interfaces of this process's wireguard-go begin with.
fn wireguard_prefix() -> String {
    format!("wb{}", std::process::id())
}

/// Removes what wireguard-go leaves when it's killed.
pub(super) fn remove_wireguard_sockets() {
    let Ok(entries) = fs::read_dir(WIREGUARD_SOCKETS) else {
        return;
    };
    let own = wireguard_prefix();
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&own) {
            // A socket that stays harms nobody.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// wireguard-go.
pub(super) fn wireguard_go(lab: &Lab) -> Contender {
    let Wire { hosts } = Wire::up(lab, "wg");
    // Its sockets are in one directory for all namespaces: the names must differ.
    let names = [0, 1].map(|at| format!("{}n{at}", wireguard_prefix()));
    let keys: [(PathBuf, String); 2] = [0, 1].map(|at: usize| {
        let private = hosts[at].run("wg", &["genkey"]).expect_done();
        let file = lab.dir().join(format!("wg{at}.key"));
        write(&file, &private);
        let script = format!("wg pubkey <{}", file.display());
        let public = hosts[at].run("sh", &["-c", &script]).expect_done();
        (file, public.trim().to_owned())
    });
    let daemons = [0, 1].map(|at: usize| {
        let (ifname, host) = (names[at].as_str(), &hosts[at]);
        let daemon = host.spawn(&format!("wireguard{at}"), "wireguard-go", &["-f", ifname]);
        wait_for_link(host, &daemon, ifname);
        let socket = Path::new(WIREGUARD_SOCKETS).join(format!("{ifname}.sock"));
        wait_until(PATIENCE, "wireguard-go listens", || socket.exists());
        let endpoint = format!("{}:51820", UNDERLAY[1 - at]);
        let args = [
            "set",
            ifname,
            "private-key",
            text(&keys[at].0),
            "listen-port",
            "51820",
            "peer",
            &keys[1 - at].1,
            "allowed-ips",
            "10.88.0.0/24",
            "endpoint",
            &endpoint,
        ];
        host.run("wg", &args).expect_done();
        host.ip(&["addr", "add", INNER[at], "dev", ifname]);
        host.ip(&["link", "set", ifname, "up"]);
        daemon
    });
    contender(WIREGUARD, &hosts, &daemons)
}
