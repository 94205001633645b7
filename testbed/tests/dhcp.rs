//! DHCP: namespaces that configure themselves get what IPAM gave their port, by the clients that people have.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_testbed::lab::traffic::ping;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::{Container, Lab, Pair};

/// What udhcpc and dhclient run with what they were told: sets it, and writes it down. Nothing of the machine is touched.
const SCRIPT: &str = r#"#!/bin/sh
dir=$(dirname "$0")
case "$1$reason" in
    bound|renew)
        ip addr replace "$ip/$mask" dev "$interface"
        [ -z "$router" ] || ip route replace default via "$router" dev "$interface"
        echo "$1 ip=$ip mask=$mask router=$router dns=$dns mtu=$mtu hostname=$hostname lease=$lease" >>"$dir/$interface.log" ;;
    deconfig) ip -4 addr flush dev "$interface" ;;
    nak) echo nak >>"$dir/$interface.log" ;;
    BOUND|REBOOT|RENEW|REBIND)
        ip addr replace "$new_ip_address/24" dev "$interface"
        ip route replace default via "$new_routers" dev "$interface"
        echo "$reason ip=$new_ip_address router=$new_routers dns=$new_domain_name_servers" >>"$dir/$interface.log" ;;
    BOUND6|RENEW6|REBIND6)
        ip -6 addr replace "$new_ip6_address/128" dev "$interface" nodad
        echo "$reason ip=$new_ip6_address dns=$new_dhcp6_name_servers" >>"$dir/$interface.log" ;;
    PREINIT) ip link set "$interface" up ;;
    # DHCPv6 is asked from the link's own address, once nobody else has it: distributions' scripts wait for that, too.
    PREINIT6)
        ip link set "$interface" up
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
            [ -z "$(ip -6 addr show dev "$interface" scope link -tentative)" ] || break
            sleep 0.2
        done ;;
esac
exit 0
"#;

struct Script {
    path: PathBuf,
    log: PathBuf,
}

impl Script {
    fn new(lab: &Lab, name: &str, ifname: &str) -> Self {
        let dir = lab.dir().join(name);
        fs::create_dir(&dir).unwrap();
        let path = dir.join("script");
        fs::write(&path, SCRIPT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let log = dir.join(format!("{ifname}.log"));
        Self { path, log }
    }

    fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn world() -> (Pair, Container) {
    let pair = Pair::up(Lab::new());
    let subnets = ["--subnet", "10.32.0.0/24", "--subnet", "fd32:1::/64"];
    pair.host1
        .weft(&[&["network", "create", "blue"], &subnets[..]].concat());
    pair.wait_in_sync();
    let far = pair.lab.container(&pair.host2, "blue", "far", &[]);
    (pair, far)
}

#[test]
fn udhcpc_gets_what_its_port_has_renews_it_and_gets_it_again_after_a_restart() {
    let (pair, far) = world();
    let c1 = pair
        .lab
        .container(&pair.host1, "blue", "c1", &["--dhcp", "--ip", "10.32.0.77"]);
    assert_eq!(c1.v4().to_string(), "10.32.0.77");
    assert_eq!(c1.ns.addresses("eth0"), [] as [std::net::IpAddr; 0]);
    assert_eq!(c1.ns.ip(&["-4", "route", "show"]), "");
    let script = Script::new(&pair.lab, "udhcpc", "eth0");
    let args = [
        "-f",
        "-i",
        "eth0",
        "-t",
        "3",
        "-T",
        "2",
        "-O",
        "mtu",
        "-s",
        script.path(),
    ];
    let client = c1.ns.spawn("udhcpc", "udhcpc", &args);
    wait_until(SOON, "an address is there", || {
        script.log().contains("bound")
    });
    let told = script.log();
    let mtu = c1.port.mtu.value();
    for word in [
        "ip=10.32.0.77 ",
        "router=10.32.0.1 ",
        "dns=10.32.0.1 ",
        "hostname=c1 ",
        "lease=3600",
        &format!("mtu={mtu} "),
    ] {
        assert!(told.contains(word), "{word} is not in {told}");
    }
    ping(&c1.ns, "10.32.0.1".parse().unwrap());
    ping(&c1.ns, far.ip());
    // Renewed on request (SIGUSR1), by the next agent too.
    let signal =
        |signal| kill(Pid::from_raw(i32::try_from(client.pid()).unwrap()), signal).unwrap();
    for round in 1..=2 {
        signal(Signal::SIGUSR1);
        wait_until(SOON, "it is renewed", || {
            script.log().matches("renew").count() == round
        });
        if round == 1 {
            pair.host1.kill_agent();
            pair.host1.restart_agent();
        }
    }
    // Released (SIGUSR2), the address is still the port's; asked for again it is there again.
    signal(Signal::SIGUSR2);
    wait_until(SOON, "it is released", || {
        c1.ns.addresses("eth0").is_empty()
    });
    assert_eq!(pair.host1.port_of(&c1.ns).addresses, c1.port.addresses);
    signal(Signal::SIGUSR1);
    wait_until(SOON, "it is there again", || {
        script.log().matches("bound").count() == 2
    });
    ping(&c1.ns, far.ip());
    // A client of another hardware address, of a network without subnets, or of no network isn't answered.
    pair.host1.weft(&["network", "create", "plain"]);
    let plain = pair.lab.namespace("plain");
    let connect = [
        "network",
        "connect",
        "plain",
        "--dhcp",
        "--netns",
        plain.name(),
    ];
    assert_eq!(pair.host1.refused(&connect).code, "bad_dhcp");
}

#[test]
fn dhclient_configures_both_families() {
    let (pair, far) = world();
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &["--dhcp"]);
    // The router is heard of without asking DHCP.
    wait_until(SOON, "the default router is known", || {
        let routes = c1.ns.ip(&["-6", "route", "show", "default"]);
        routes.contains("via fe80::77:65ff:fe66:7401")
    });
    let routes = c1.ns.ip(&["-6", "route", "show"]);
    assert!(routes.contains("fd32:1::/64 dev eth0"), "{routes}");
    // No address is made from the prefix.
    assert_eq!(c1.ns.addresses("eth0"), [] as [std::net::IpAddr; 0]);
    for family in ["-4", "-6"] {
        let script = Script::new(&pair.lab, &format!("dhclient{family}"), "eth0");
        let file = |name: &str| {
            script
                .path
                .with_file_name(name)
                .to_str()
                .unwrap()
                .to_owned()
        };
        let (leases, pid) = (file("leases"), file("pid"));
        let base = [
            family,
            "-1",
            "-sf",
            script.path(),
            "-lf",
            &leases,
            "-pf",
            &pid,
        ];
        let conf = ["-cf", "/dev/null"];
        let args = [&base[..], &conf, &["eth0"]].concat();
        c1.ns.run("dhclient", &args).expect_done();
        let dhclient = fs::read_to_string(&pid).unwrap();
        let told = script.log();
        if family == "-4" {
            let expected = format!("ip={} router=10.32.0.1 dns=10.32.0.1", c1.v4());
            assert!(told.contains(&expected), "{told}");
        } else {
            let expected = format!("ip={} dns=fd32:1::1", c1.v6());
            assert!(told.contains(&expected), "{told}");
        }
        let args = [&base[..], &conf, &["-r", "eth0"]].concat();
        if family == "-4" {
            ping(&c1.ns, far.ip());
        } else {
            ping(&c1.ns, "fd32:1::1".parse().unwrap());
            ping(&c1.ns, far.v6());
        }
        // It ends with its lease; the address stays the port's.
        c1.ns.run("dhclient", &args).expect_done();
        let gone = || !Path::new("/proc").join(dhclient.trim()).exists();
        wait_until(SOON, "the client has ended", gone);
    }
    assert_eq!(pair.host1.port_of(&c1.ns).addresses, c1.port.addresses);
}

#[test]
fn garbage_to_dhcp_harms_nobody() {
    let (pair, _) = world();
    let c1 = pair.lab.container(&pair.host1, "blue", "c1", &["--dhcp"]);
    let c2 = pair.lab.container(&pair.host1, "blue", "c2", &[]);
    let sender = c2.ns.enter(|| UdpSocket::bind("0.0.0.0:68").unwrap());
    sender.set_broadcast(true).unwrap();
    let mut seed = 12345_u32;
    for round in 0..2_000_usize {
        let bytes: Vec<u8> = (0..(round % 1200))
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed.to_be_bytes()[0]
            })
            .collect();
        // What the kernel has no room for it drops.
        let _ = sender.send_to(&bytes, "255.255.255.255:67");
        let _ = sender.send_to(&bytes, "10.32.0.1:67");
    }
    let script = Script::new(&pair.lab, "udhcpc", "eth0");
    let args = [
        "-n",
        "-q",
        "-f",
        "-i",
        "eth0",
        "-t",
        "5",
        "-T",
        "1",
        "-s",
        script.path(),
    ];
    c1.ns.run("udhcpc", &args).expect_done();
    assert_eq!(c1.ns.addresses("eth0"), [c1.ip()]);
    assert!(pair.host1.agent().is_running());
}
