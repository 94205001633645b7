//! Typed topologies, each drawn. They're built from [`crate::lab`] and hand out its hosts; what runs on them beyond
//! agents and controller is the test's business.

mod kernel;
mod outside;
mod quic;
mod redundant;
mod routed;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lab::{Controller, Host, Lab, Namespace};

pub use kernel::{KernelPair, KernelPeer, Wire};
pub use outside::Outside;
pub use quic::QuicPair;
pub use redundant::Redundant;
pub use routed::Routed;

/// The underlay: 10.99.0.0/24, host N has .N.
fn underlay(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 99, 0, number))
}

/// Name of the underlay's interface in every host.
pub const UNDERLAY_IFNAME: &str = "u0";

/// The same hosts by IPv6: fd99::/64, host N has ::N.
fn underlay6(number: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, u16::from(number)))
}

fn host(lab: &Lab, number: u8, underlay: IpAddr) -> Host {
    let ns = lab.namespace(&format!("h{number}"));
    Host::new(lab, ns, &format!("host{number}"), underlay)
}

fn give_address(ns: &Namespace, number: u8) {
    let v4 = format!("10.99.0.{number}/24");
    ns.ip(&["addr", "add", &v4, "dev", UNDERLAY_IFNAME]);
    let v6 = format!("fd99::{number}/64");
    ns.ip(&["addr", "add", &v6, "dev", UNDERLAY_IFNAME, "nodad"]);
    ns.ip(&["link", "set", UNDERLAY_IFNAME, "up"]);
}

fn join_by_veth(first: &Namespace, second: &Namespace) {
    first.veth(UNDERLAY_IFNAME, second, UNDERLAY_IFNAME);
    give_address(first, 1);
    give_address(second, 2);
}

/// Two hosts.
///
/// ```text
///   host1 (controller)                     host2
///   10.99.0.1/24 u0 ------- veth ------- u0 10.99.0.2/24
///      |                                    |
///   containers (TAPs)                   containers (TAPs)
/// ```
#[derive(Debug)]
pub struct Pair {
    /// What owns everything here.
    pub lab: Lab,
    /// On the first host; not started by [`Pair::cold`].
    pub controller: Controller,
    /// The first host.
    pub host1: Host,
    /// The second host.
    pub host2: Host,
}

impl Pair {
    /// Wires only: nothing of weft runs yet.
    pub fn cold(lab: Lab) -> Self {
        Self::wired(lab, underlay)
    }

    /// Controller and both agents run and are in sync.
    pub fn up(lab: Lab) -> Self {
        Self::cold(lab).started()
    }

    /// The same with nothing but IPv6 between the hosts' daemons.
    pub fn up_over_ipv6(lab: Lab) -> Self {
        Self::wired(lab, underlay6).started()
    }

    fn wired(lab: Lab, underlay: fn(u8) -> IpAddr) -> Self {
        let (host1, host2) = (host(&lab, 1, underlay(1)), host(&lab, 2, underlay(2)));
        join_by_veth(&host1.ns, &host2.ns);
        let controller = Controller::new(&lab, host1.ns.clone(), host1.underlay);
        Self {
            lab,
            controller,
            host1,
            host2,
        }
    }

    fn started(self) -> Self {
        self.controller.start();
        for host in [&self.host1, &self.host2] {
            host.join(&self.controller);
        }
        self.wait_in_sync();
        self
    }

    /// Waits until both agents follow what the controller knows.
    pub fn wait_in_sync(&self) {
        self.host1.wait_in_sync();
        self.host2.wait_in_sync();
    }
}

/// All hosts of a layout of three.
fn three(hosts: &[Host]) -> [&Host; 3] {
    let [first, second, third] = hosts else {
        panic!("there are {} hosts, not three", hosts.len())
    };
    [first, second, third]
}

/// Any number of hosts on one Ethernet segment.
///
/// ```text
///   host1 (controller)   host2        ...     hostN
///   10.99.0.1 u0         10.99.0.2 u0         10.99.0.N u0
///          |                    |                    |
///          f1 ---------------- f2 ---- br0 -------- fN        namespace "fabric"
/// ```
#[derive(Debug)]
pub struct Hosts {
    /// What owns everything here.
    pub lab: Lab,
    /// On the first host.
    pub controller: Controller,
    /// In order.
    pub hosts: Vec<Host>,
    segment: Segment,
}

impl Hosts {
    /// Controller and `count` agents run and are in sync.
    pub fn up(lab: Lab, count: u8) -> Self {
        let (hosts, segment) = Segment::with_hosts(&lab, count);
        let controller = Controller::new(&lab, hosts[0].ns.clone(), hosts[0].underlay);
        let hosts = Self {
            lab,
            controller,
            hosts,
            segment,
        };
        hosts.controller.start();
        for host in &hosts.hosts {
            host.join(&hosts.controller);
        }
        hosts.wait_in_sync();
        hosts
    }

    /// Waits until all agents follow what the controller knows.
    pub fn wait_in_sync(&self) {
        for host in &self.hosts {
            host.wait_in_sync();
        }
    }

    /// The hosts of a layout of three.
    pub fn three(&self) -> [&Host; 3] {
        three(&self.hosts)
    }

    /// Cuts the host of that number (from 1) off from all others: what it sends ends at the fabric's port.
    pub fn cut_off(&self, number: u8) {
        self.segment.cut_off(number);
    }

    /// Heals what [`Hosts::cut_off`] cut.
    pub fn heal(&self, number: u8) {
        self.segment.heal(number);
    }
}

/// An Ethernet segment: a bridge in a namespace "fabric" with a port fN for host N.
#[derive(Debug)]
struct Segment {
    fabric: Namespace,
}

impl Segment {
    /// `count` hosts on a segment of their own.
    fn with_hosts(lab: &Lab, count: u8) -> (Vec<Host>, Self) {
        let hosts: Vec<Host> = (1..=count)
            .map(|number| host(lab, number, underlay(number)))
            .collect();
        let segment = Self::wire(lab, &hosts);
        (hosts, segment)
    }

    /// Gives each host a link to it and its addresses.
    fn wire(lab: &Lab, hosts: &[Host]) -> Self {
        let fabric = lab.namespace("fabric");
        fabric.ip(&["link", "add", "br0", "type", "bridge"]);
        fabric.ip(&["link", "set", "br0", "up"]);
        for (host, number) in hosts.iter().zip(1..) {
            let port = format!("f{number}");
            host.ns.veth(UNDERLAY_IFNAME, &fabric, &port);
            give_address(&host.ns, number);
            fabric.ip(&["link", "set", &port, "master", "br0", "up"]);
        }
        Self { fabric }
    }

    fn cut_off(&self, number: u8) {
        self.fabric
            .ip(&["link", "set", &format!("f{number}"), "nomaster"]);
    }

    fn heal(&self, number: u8) {
        self.fabric
            .ip(&["link", "set", &format!("f{number}"), "master", "br0"]);
    }
}
