//! Two hosts with a router between them, whose two links may be of different widths.

use std::net::IpAddr;

use super::{Pair, UNDERLAY_IFNAME};
use crate::lab::{Controller, Host, Lab, Namespace};

/// Two hosts and a router.
///
/// ```text
///   host1 (controller)            router                    host2
///   10.99.1.1/24 u0 -------- r1 .254    .254 r2 -------- u0 10.99.2.1/24
/// ```
#[derive(Debug)]
pub struct Routed {
    /// The hosts. Their names and containers are as in [`Pair`].
    pub pair: Pair,
    /// It forwards, and says when a packet is too big.
    pub router: Namespace,
}

impl Routed {
    /// Controller and both agents run and are in sync.
    pub fn up(lab: Lab) -> Self {
        let router = lab.namespace("router");
        let hosts = [1, 2].map(|number| host(&lab, &router, number));
        router.sysctl("ipv4/ip_forward", "1");
        let [host1, host2] = hosts;
        let controller = Controller::new(&lab, host1.ns.clone(), host1.underlay);
        let pair = Pair {
            lab,
            controller,
            host1,
            host2,
        };
        Self {
            pair: pair.started(),
            router,
        }
    }

    /// Sets the MTU of the link to host 2, on the router's side: for what comes from host 1 it is a link that is too
    /// narrow, and what comes from host 2 vanishes at its end.
    pub fn narrow(&self, mtu: u32) {
        self.router
            .ip(&["link", "set", "r2", "mtu", &mtu.to_string()]);
    }

    /// The router tells nobody any more what is too big.
    pub fn silence(&self) {
        let rules = "add table ip quiet; \
                     add chain ip quiet out { type filter hook output priority 0; }; \
                     add rule ip quiet out icmp type destination-unreachable drop";
        self.router.run("nft", &[rules]).expect_done();
    }
}

fn host(lab: &Lab, router: &Namespace, number: u8) -> Host {
    let ns = lab.namespace(&format!("h{number}"));
    let underlay: IpAddr = [10, 99, number, 1].into();
    let link = format!("r{number}");
    router.veth(&link, &ns, UNDERLAY_IFNAME);
    let gateway = format!("10.99.{number}.254");
    router.ip(&["addr", "add", &format!("{gateway}/24"), "dev", &link]);
    router.ip(&["link", "set", &link, "up"]);
    let address = format!("{underlay}/24");
    ns.ip(&["addr", "add", &address, "dev", UNDERLAY_IFNAME]);
    ns.ip(&["link", "set", UNDERLAY_IFNAME, "up"]);
    ns.ip(&["route", "add", "default", "via", &gateway]);
    Host::new(lab, ns, &format!("host{number}"), underlay)
}
