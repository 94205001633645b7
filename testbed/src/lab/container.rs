//! A container on a network: its namespace, and the port it was given.

use std::net::{IpAddr, Ipv4Addr};

use weft_control::api;
use weft_wire::MacAddr;

use super::{Host, Lab, Namespace};

/// A namespace connected to one network.
#[derive(Clone, Debug)]
pub struct Container {
    /// Where its processes run.
    pub ns: Namespace,
    /// As `weft network connect` printed it.
    pub port: api::Port,
}

impl Lab {
    /// A new namespace, connected on `host` to `network`; `extra` are further flags of `connect`.
    #[track_caller]
    pub fn container(&self, host: &Host, network: &str, name: &str, extra: &[&str]) -> Container {
        let ns = self.namespace(name);
        let port = host.connect(network, &ns, &[&["--name", name], extra].concat());
        Container { ns, port }
    }

    /// The same without IPv6: it sends nothing that the test didn't ask for.
    #[track_caller]
    pub fn quiet_container(
        &self,
        host: &Host,
        network: &str,
        name: &str,
        extra: &[&str],
    ) -> Container {
        let ns = self.namespace(name).without_ipv6();
        let port = host.connect(network, &ns, &[&["--name", name], extra].concat());
        Container { ns, port }
    }
}

impl Container {
    /// Its MAC.
    pub fn mac(&self) -> MacAddr {
        self.port.mac
    }

    /// Its first address.
    #[track_caller]
    pub fn ip(&self) -> IpAddr {
        match self.port.addresses.first() {
            Some(address) => address.addr(),
            None => panic!("{} has no address", self.port.name),
        }
    }

    /// Its IPv4 address.
    #[track_caller]
    pub fn v4(&self) -> Ipv4Addr {
        let found = self
            .port
            .addresses
            .iter()
            .find_map(|address| match address.addr() {
                IpAddr::V4(ip) => Some(ip),
                IpAddr::V6(_) => None,
            });
        found.unwrap_or_else(|| panic!("{} has no IPv4 address", self.port.name))
    }

    /// Its IPv6 address.
    #[track_caller]
    pub fn v6(&self) -> IpAddr {
        let found = self
            .port
            .addresses
            .iter()
            .map(|address| address.addr())
            .find(IpAddr::is_ipv6);
        found.unwrap_or_else(|| panic!("{} has no IPv6 address", self.port.name))
    }
}
