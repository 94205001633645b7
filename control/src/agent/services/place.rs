//! A network as its services see it: the gateway, and what the ports of this host have. Pure.

#![deny(clippy::disallowed_methods)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_wire::{MacAddr, Mtu};

use super::{dhcp4, dhcp6, router};
use crate::model::Network;

/// A port of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Station {
    /// Its endpoint's name.
    pub(super) name: String,
    /// Its addresses.
    pub(super) ips: Vec<IpAddr>,
    /// It configures itself.
    pub(super) dhcp: bool,
}

/// A network.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The gateway's addresses.
    pub(super) gateways: Vec<IpAddr>,
    /// What its packets may have, in bytes.
    pub(super) mtu: Mtu,
    /// Its subnets with their gateways.
    v4: Vec<(Ipv4Net, Ipv4Addr)>,
    v6: Vec<(Ipv6Net, Ipv6Addr)>,
    /// The gateway leads out.
    routes: bool,
    /// Its ports on this host.
    pub(super) stations: HashMap<MacAddr, Station>,
}

impl Place {
    /// A network without ports.
    pub(super) fn new(network: &Network, gateways: Vec<IpAddr>, mtu: Mtu) -> Self {
        let mut place = Self {
            gateways,
            mtu,
            v4: Vec::new(),
            v6: Vec::new(),
            routes: !network.internal,
            stations: HashMap::new(),
        };
        for subnet in &network.subnets {
            match (subnet.cidr, subnet.gateway) {
                (IpNet::V4(cidr), IpAddr::V4(gateway)) => place.v4.push((cidr, gateway)),
                (IpNet::V6(cidr), IpAddr::V6(gateway)) => place.v6.push((cidr, gateway)),
                (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => {}
            }
        }
        place
    }

    /// What DHCP may offer that station: the first of its addresses.
    pub(super) fn lease4(&self, mac: MacAddr) -> Option<dhcp4::Lease> {
        let station = self.stations.get(&mac)?;
        station.ips.iter().find_map(|ip| {
            let IpAddr::V4(ip) = *ip else { return None };
            let (subnet, gateway) = self.v4.iter().find(|(subnet, _)| subnet.contains(&ip))?;
            Some(dhcp4::Lease {
                ip,
                subnet: *subnet,
                gateway: *gateway,
                routes: self.routes,
                mtu: self.mtu,
                name: station.name.clone(),
            })
        })
    }

    /// What DHCPv6 may give that station.
    pub(super) fn lease6(&self, mac: MacAddr) -> Option<dhcp6::Lease> {
        let station = self.stations.get(&mac)?;
        let ips = station.ips.iter().filter_map(|ip| match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(ip) => Some(*ip),
        });
        let (_, gateway) = self.v6.first()?;
        Some(dhcp6::Lease {
            ips: ips.collect(),
            subnets: self.prefixes(),
            gateway: *gateway,
        })
    }

    /// What the router says to a station that configures itself.
    pub(super) fn link(&self, mac: MacAddr) -> Option<router::Link> {
        let station = self.stations.get(&mac)?;
        let (_, gateway) = self.v6.first()?;
        station.dhcp.then(|| router::Link {
            prefixes: self.prefixes(),
            routes: self.routes,
            mtu: self.mtu,
            name_server: *gateway,
        })
    }

    fn prefixes(&self) -> Vec<Ipv6Net> {
        self.v6.iter().map(|(prefix, _)| *prefix).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::tests::world;
    use super::*;

    fn blue() -> Place {
        let (map, _, _) = world();
        let network = map.network_named("blue").unwrap();
        let mut place = Place::new(network, Vec::new(), Mtu::ETHERNET);
        let station = Station {
            name: "c1".to_owned(),
            ips: vec!["fd01::2".parse().unwrap(), "10.1.0.2".parse().unwrap()],
            dhcp: false,
        };
        place.stations.insert(MacAddr([2, 0, 0, 0, 0, 1]), station);
        place
    }

    #[test]
    fn a_station_is_offered_what_it_has_and_a_stranger_nothing() {
        let place = blue();
        let (known, stranger) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let lease = place.lease4(known).unwrap();
        assert_eq!(lease.ip.to_string(), "10.1.0.2");
        assert_eq!(lease.gateway.to_string(), "10.1.0.1");
        assert_eq!((lease.subnet.prefix_len(), lease.routes), (24, true));
        let lease = place.lease6(known).unwrap();
        assert_eq!(lease.ips, ["fd01::2".parse::<Ipv6Addr>().unwrap()]);
        assert_eq!(
            (place.lease4(stranger), place.lease6(stranger)),
            (None, None)
        );
    }

    #[test]
    fn only_who_configures_itself_hears_of_routers() {
        let mut place = blue();
        let mac = MacAddr([2, 0, 0, 0, 0, 1]);
        assert_eq!(place.link(mac), None);
        place.stations.get_mut(&mac).unwrap().dhcp = true;
        assert_eq!(place.link(mac).unwrap().prefixes.len(), 1);
    }
}
