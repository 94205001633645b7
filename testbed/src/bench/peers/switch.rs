//! Switches with containers: Open vSwitch's userspace datapath, and VDE.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use weft_testbed::lab::verdict::wait_until;
use weft_testbed::layout::UNDERLAY_IFNAME;
use weft_testbed::{Lab, Namespace, Wire};

use crate::contender::{Contender, Switch, Way};

/// Until a daemon answers.
const PATIENCE: Duration = Duration::from_secs(10);
/// MTU of the containers, as everybody's.
const MTU: &str = "1450";

/// Address of the container of that number.
fn address(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 34, 0, number))
}

fn give_address(ns: &Namespace, number: u8) {
    ns.ip(&[
        "addr",
        "add",
        &format!("{}/24", address(number)),
        "dev",
        "eth0",
    ]);
    ns.ip(&["link", "set", "eth0", "mtu", MTU, "up"]);
}

/// Open vSwitch on one host.
struct Ovs {
    host: Namespace,
    dir: PathBuf,
    pid: u32,
}

impl Ovs {
    fn start(lab: &Lab, host: &Namespace, number: usize) -> Self {
        let dir = lab.dir().join(format!("ovs{number}"));
        fs::create_dir_all(&dir).expect("the lab's directory can be written");
        let file = |name: &str| dir.join(name).display().to_string();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        host.run("ovsdb-tool", &["create", &file("conf.db"), schema])
            .expect_done();
        let remote = format!("--remote=punix:{}", file("db.sock"));
        let control = |name: &str| format!("--unixctl={}", file(name));
        let args = [file("conf.db"), remote, control("db.ctl")];
        let args = args.each_ref().map(String::as_str);
        host.spawn(&format!("ovsdb{number}"), "ovsdb-server", &args);
        wait_until(PATIENCE, "ovsdb-server listens", || {
            dir.join("db.sock").exists()
        });
        let args = [format!("unix:{}", file("db.sock")), control("vs.ctl")];
        let args = args.each_ref().map(String::as_str);
        let mut ovs = Self {
            host: host.clone(),
            dir,
            pid: 0,
        };
        ovs.set(&["--no-wait", "init"]);
        ovs.pid = host
            .spawn(&format!("ovs{number}"), "ovs-vswitchd", &args)
            .pid();
        ovs
    }

    /// `ovs-vsctl`.
    fn set(&self, args: &[&str]) {
        let database = format!("--db=unix:{}", self.dir.join("db.sock").display());
        self.host
            .run(
                "ovs-vsctl",
                &[&[database.as_str(), "--timeout=10"], args].concat(),
            )
            .expect_done();
    }

    /// The underlay goes through a bridge of its own: the userspace datapath sends tunnels only where it owns the port.
    fn take_underlay(&self, number: usize) {
        let own = format!("10.99.0.{number}/24");
        self.set(&[
            "add-br",
            "phy",
            "--",
            "set",
            "bridge",
            "phy",
            "datapath_type=netdev",
        ]);
        self.set(&["add-port", "phy", UNDERLAY_IFNAME]);
        self.host.ip(&["addr", "del", &own, "dev", UNDERLAY_IFNAME]);
        self.host.ip(&["addr", "add", &own, "dev", "phy"]);
        self.host.ip(&["link", "set", "phy", "up"]);
        let remote = format!("options:remote_ip=10.99.0.{}", 3 - number);
        self.set(&[
            "add-br",
            "int",
            "--",
            "set",
            "bridge",
            "int",
            "datapath_type=netdev",
        ]);
        let tunnel = [
            "add-port",
            "int",
            "vx0",
            "--",
            "set",
            "interface",
            "vx0",
            "type=vxlan",
        ];
        self.set(&[&tunnel[..], &[&remote, "options:key=4242"]].concat());
    }

    fn container(&self, lab: &Lab, number: u8) -> Namespace {
        let ns = lab.namespace(&format!("ovs-c{number}")).without_ipv6();
        let port = format!("p{number}");
        self.host.veth(&port, &ns, "eth0");
        self.host.ip(&["link", "set", &port, "up"]);
        // It takes frames as they are: a checksum that the container left to its card would stay undone.
        ns.run("ethtool", &["-K", "eth0", "tx", "off"])
            .expect_done();
        give_address(&ns, number);
        self.set(&["add-port", "int", &port]);
        ns
    }
}

/// Open vSwitch's userspace datapath (netdev) without DPDK: veth ports, VXLAN.
pub(super) fn ovs(lab: &Lab) -> Contender {
    let Wire { hosts } = Wire::up(lab, "ovs");
    let switches = [1, 2].map(|number| {
        let ovs = Ovs::start(lab, &hosts[number - 1], number);
        ovs.take_underlay(number);
        ovs
    });
    let from = switches[0].container(lab, 1);
    let way = |to, number| Way {
        from: from.clone(),
        to,
        ip: address(number),
    };
    let pids = switches.each_ref().map(|ovs| ovs.pid).to_vec();
    Contender {
        name: "ovs",
        local: Some(way(switches[0].container(lab, 2), 2)),
        cross: Some(way(switches[1].container(lab, 3), 3)),
        out: None,
        hosts: hosts.to_vec(),
        switch: Switch::Processes(pids),
    }
}

/// A VDE switch with two containers, each behind a plug.
pub(super) fn vde(lab: &Lab) -> Contender {
    let host = lab.namespace("vde");
    let file = |name: &str| lab.dir().join(name).display().to_string();
    let (socket, pidfile) = (file("vde.ctl"), file("vde.pid"));
    let args = [
        "--daemon",
        "--sock",
        &socket,
        "--pidfile",
        &pidfile,
        "--mgmt",
        &file("vde.mgmt"),
    ];
    host.run("vde_switch", &args).expect_done();
    let pid = || {
        fs::read_to_string(&pidfile)
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    wait_until(PATIENCE, "vde_switch runs", || pid().is_some());
    let mut pids: Vec<u32> = pid().into_iter().collect();
    let [from, to] = [1, 2].map(|number| {
        let ns = lab.namespace(&format!("vde-c{number}")).without_ipv6();
        let plug = ns.spawn(
            &format!("vde{number}"),
            "vde_plug2tap",
            &["--sock", &socket, "eth0"],
        );
        wait_until(PATIENCE, "vde_plug2tap makes its interface", || {
            assert!(plug.is_running(), "it ended:\n{}", plug.log());
            ns.ifnames().iter().any(|name| name == "eth0")
        });
        give_address(&ns, number);
        pids.push(plug.pid());
        ns
    });
    Contender {
        name: "vde",
        local: Some(Way {
            from,
            to,
            ip: address(2),
        }),
        cross: None,
        // Nothing of it touches a wire.
        out: None,
        hosts: Vec::new(),
        switch: Switch::Processes(pids),
    }
}
