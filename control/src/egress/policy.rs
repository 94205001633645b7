//! Which destinations the way out leads to. Refused are those that containers must not reach by surprise: the host's
//! loopback, link-local services (cloud metadata), other overlay networks, and the host's own addresses, unless a
//! published port is there (docs/decisions/0015-way-out.md).

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::refusal::Refusal;

/// What the decision needs to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    /// Subnets of all networks of the cluster.
    pub(super) overlay: Vec<IpNet>,
    /// Addresses of this host.
    pub(super) host: BTreeSet<IpAddr>,
}

impl Policy {
    /// Whether a container may reach `destination`; `published`: a published port listens there.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check(&self, destination: IpAddr, published: bool) -> Result<(), Refusal> {
        match destination {
            IpAddr::V4(address) => check_v4(address)?,
            IpAddr::V6(address) => check_v6(address)?,
        }
        if self.overlay.iter().any(|net| net.contains(&destination)) {
            return Err(Refusal::Overlay);
        }
        if self.host.contains(&destination) && !published {
            return Err(Refusal::Host);
        }
        Ok(())
    }
}

fn check_v4(address: Ipv4Addr) -> Result<(), Refusal> {
    let [first, ..] = address.octets();
    // RFC 1122 section 3.2.1.3: "this host on this network" is loopback to a kernel.
    if address.is_loopback() || first == 0 {
        return Err(Refusal::Loopback);
    }
    if address.is_link_local() {
        return Err(Refusal::LinkLocal);
    }
    // 240.0.0.0/4 is reserved (RFC 1112 section 4); with the broadcast address in it.
    if address.is_multicast() || first >= 240 {
        return Err(Refusal::Multicast);
    }
    Ok(())
}

fn check_v6(address: Ipv6Addr) -> Result<(), Refusal> {
    // An IPv4 address in disguise would pass by the checks above.
    if address.is_loopback() || address.is_unspecified() || address.to_ipv4().is_some() {
        return Err(Refusal::Loopback);
    }
    if address.is_unicast_link_local() {
        return Err(Refusal::LinkLocal);
    }
    if address.is_multicast() {
        return Err(Refusal::Multicast);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            overlay: vec![
                "10.42.0.0/16".parse().unwrap(),
                "fd42::/48".parse().unwrap(),
            ],
            host: BTreeSet::from(["192.0.2.1".parse().unwrap()]),
        }
    }

    #[test]
    fn what_must_not_be_reached_by_surprise_is_refused() {
        let policy = policy();
        for (address, why) in [
            ("127.0.0.1", Refusal::Loopback),
            ("127.8.9.10", Refusal::Loopback),
            ("0.0.0.0", Refusal::Loopback),
            ("0.1.2.3", Refusal::Loopback),
            ("169.254.169.254", Refusal::LinkLocal),
            ("224.0.0.251", Refusal::Multicast),
            ("255.255.255.255", Refusal::Multicast),
            ("240.0.0.1", Refusal::Multicast),
            ("::1", Refusal::Loopback),
            ("::", Refusal::Loopback),
            ("::ffff:127.0.0.1", Refusal::Loopback),
            ("::7f00:1", Refusal::Loopback),
            ("fe80::1", Refusal::LinkLocal),
            ("ff02::1", Refusal::Multicast),
            ("10.42.3.4", Refusal::Overlay),
            ("fd42::9", Refusal::Overlay),
            ("192.0.2.1", Refusal::Host),
        ] {
            assert_eq!(
                policy.check(address.parse().unwrap(), false),
                Err(why),
                "{address}"
            );
        }
        for address in ["192.0.2.2", "10.43.0.1", "2001:db8::1", "1.1.1.1"] {
            assert_eq!(
                policy.check(address.parse().unwrap(), false),
                Ok(()),
                "{address}"
            );
        }
    }

    #[test]
    fn a_published_port_makes_a_host_address_reachable_and_nothing_else() {
        let policy = policy();
        assert_eq!(policy.check("192.0.2.1".parse().unwrap(), true), Ok(()));
        let loopback = policy.check("127.0.0.1".parse().unwrap(), true);
        assert_eq!(loopback, Err(Refusal::Loopback));
    }
}
