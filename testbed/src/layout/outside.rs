//! A host with a network behind it that knows nothing of weft.

use std::net::IpAddr;

use crate::lab::{Host, Lab, Namespace};

/// A namespace that a host reaches by a link of its own, and nobody else does.
///
/// ```text
///   host                                   outside
///   192.0.2.1/24 o0 ------- veth ------- o0 192.0.2.2/24
///   2001:db8::1/64                          2001:db8::2/64
/// ```
#[derive(Clone, Debug)]
pub struct Outside {
    /// Where servers are.
    pub ns: Namespace,
}

impl Outside {
    /// Wires it to a host; `name` is unique in the lab.
    pub fn of(lab: &Lab, host: &Host, name: &str) -> Self {
        Self::behind(lab, &host.ns, name)
    }

    /// Wires it to a host that has no agent.
    pub fn behind(lab: &Lab, host: &Namespace, name: &str) -> Self {
        let ns = lab.namespace(name);
        host.veth("o0", &ns, "o0");
        for (ns, number) in [(host, 1), (&ns, 2)] {
            let v4 = format!("192.0.2.{number}/24");
            ns.ip(&["addr", "add", &v4, "dev", "o0"]);
            let v6 = format!("2001:db8::{number}/64");
            ns.ip(&["addr", "add", &v6, "dev", "o0", "nodad"]);
            ns.ip(&["link", "set", "o0", "up"]);
        }
        Self { ns }
    }

    /// Its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [IpAddr::from([192, 0, 2, 2]), ip("2001:db8::2")]
    }

    /// The host's addresses on the link: what its servers see.
    pub fn host_addresses(&self) -> [IpAddr; 2] {
        [IpAddr::from([192, 0, 2, 1]), ip("2001:db8::1")]
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("written here as an address")
}
