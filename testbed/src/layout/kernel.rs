//! Hosts on which the Linux kernel switches: a bridge, a VXLAN device, and containers behind veth pairs.

use std::net::{IpAddr, Ipv4Addr};

use crate::lab::{Controller, Host, Lab, Namespace};

use super::{UNDERLAY_IFNAME, host, join_by_veth, underlay};

/// Makes a bridge `br0` with a VXLAN device `vx0` for `vni` on the host of that number; frames for unknown addresses go
/// to the host `remote`.
fn make_vtep(kernel: &Namespace, number: u8, remote: u8, vni: u32) {
    let (vni, local, remote) = (
        vni.to_string(),
        underlay(number).to_string(),
        underlay(remote),
    );
    kernel.ip(&["link", "add", "br0", "type", "bridge"]);
    kernel.ip(&[
        "link",
        "add",
        "vx0",
        "type",
        "vxlan",
        "id",
        &vni,
        "dstport",
        "4789",
        "local",
        &local,
        "dev",
        UNDERLAY_IFNAME,
    ]);
    kernel.ip(&["link", "set", "vx0", "master", "br0", "up"]);
    kernel.ip(&["link", "set", "br0", "up"]);
    let remote = remote.to_string();
    let flood = [
        "fdb",
        "append",
        "00:00:00:00:00:00",
        "dev",
        "vx0",
        "dst",
        &remote,
    ];
    kernel.run("bridge", &flood).expect_done();
}

/// Joins `ns` to the bridge of `kernel` by a veth pair, with these addresses (CIDR) on its eth0.
fn join_bridge(kernel: &Namespace, port: &str, ns: &Namespace, addresses: &[&str]) {
    kernel.veth(port, ns, "eth0");
    kernel.ip(&["link", "set", port, "master", "br0", "up"]);
    ns.ip(&["link", "set", "eth0", "mtu", "1450", "up"]);
    for address in addresses {
        let nodad: &[&str] = if address.contains(':') {
            &["nodad"]
        } else {
            &[]
        };
        ns.ip(&[&["addr", "add", address, "dev", "eth0"], nodad].concat());
    }
}

/// One host with weft; the second is the Linux kernel alone.
///
/// ```text
///   host1 (weft, controller)                      kernel (no weft)
///   10.99.0.1/24 u0 ----------- veth ----------- u0 10.99.0.2/24
///      |                                          vx0 (VXLAN, VNI, flood list: 10.99.0.1)
///   containers (TAPs)                             br0 (Linux bridge)
///                                                 veths -- containers
/// ```
#[derive(Debug)]
pub struct KernelPeer {
    /// What owns everything here.
    pub lab: Lab,
    /// On the first host.
    pub controller: Controller,
    /// The host with weft.
    pub host1: Host,
    /// The host without.
    pub kernel: Namespace,
}

impl KernelPeer {
    /// Controller and agent run on the first host, the second has a bridge and a VXLAN device for `vni`.
    pub fn up(lab: Lab, vni: u32) -> Self {
        let host1 = host(&lab, 1, underlay(1));
        let kernel = lab.namespace("k");
        join_by_veth(&host1.ns, &kernel);
        let controller = Controller::new(&lab, host1.ns.clone(), host1.underlay);
        controller.start();
        host1.join(&controller);
        host1.wait_in_sync();
        make_vtep(&kernel, 2, 1, vni);
        // veth claims to finish inner checksums and doesn't: a userspace socket at the other end would get them undone.
        kernel
            .run("ethtool", &["-K", "vx0", "tx", "off"])
            .expect_done();
        Self {
            lab,
            controller,
            host1,
            kernel,
        }
    }

    /// A container behind the kernel's bridge, with these addresses (CIDR) on its eth0.
    pub fn container(&self, name: &str, addresses: &[&str]) -> Namespace {
        let ns = self.lab.namespace(name);
        join_bridge(&self.kernel, &format!("p-{name}"), &ns, addresses);
        ns
    }
}

/// Two hosts, and nothing that switches.
///
/// ```text
///   NAME1                                         NAME2
///   10.99.0.1/24 u0 ----------- veth ----------- u0 10.99.0.2/24
/// ```
#[derive(Debug)]
pub struct Wire {
    /// The hosts.
    pub hosts: [Namespace; 2],
}

impl Wire {
    /// Hosts NAME1 and NAME2, joined. The lab may hold other things beside them.
    pub fn up(lab: &Lab, name: &str) -> Self {
        let hosts = [1, 2].map(|number| lab.namespace(&format!("{name}{number}")));
        join_by_veth(&hosts[0], &hosts[1]);
        Self { hosts }
    }
}

/// Two hosts of the Linux kernel alone: what weft is measured against.
///
/// ```text
///   k1                                            k2
///   10.99.0.1/24 u0 ----------- veth ----------- u0 10.99.0.2/24
///    vx0 (VXLAN)                                  vx0 (VXLAN)
///    br0 (Linux bridge)                           br0 (Linux bridge)
///    veths -- containers, MTU 1450                veths -- containers, MTU 1450
/// ```
#[derive(Debug)]
pub struct KernelPair {
    /// The hosts.
    pub hosts: [Namespace; 2],
}

impl KernelPair {
    /// Hosts, bridges and VXLAN devices, up. The lab may hold other things beside them.
    pub fn up(lab: &Lab, vni: u32) -> Self {
        let Wire { hosts } = Wire::up(lab, "k");
        make_vtep(&hosts[0], 1, 2, vni);
        make_vtep(&hosts[1], 2, 1, vni);
        Self { hosts }
    }

    /// A container without IPv6 behind the bridge of that host (0 or 1); its address is 10.33.0.`octet`/16.
    pub fn container(&self, lab: &Lab, host: usize, name: &str, octet: u8) -> (Namespace, IpAddr) {
        let ns = lab.namespace(name).without_ipv6();
        let ip = Ipv4Addr::new(10, 33, 0, octet);
        join_bridge(
            &self.hosts[host],
            &format!("p-{name}"),
            &ns,
            &[&format!("{ip}/16")],
        );
        (ns, ip.into())
    }
}
