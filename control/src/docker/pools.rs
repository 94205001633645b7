//! Which range a network gets when `docker network create` names none.

#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// IPv4 ranges are taken from here: 32 networks of /16, none of which Docker's own drivers choose.
const V4_POOL: &str = "10.32.0.0/11";
/// Prefix length of a network's IPv4 range.
const V4_LEN: u8 = 16;
/// IPv6 ranges are taken from here (unique local, RFC 4193).
const V6_POOL: &str = "fd77:6566:7400::/48";
/// Prefix length of a network's IPv6 range (RFC 4291 section 2.5.4).
const V6_LEN: u8 = 64;

/// The first range of its family that overlaps none of `taken` and has none of this host's own `addresses` in it.
pub fn free_range(v6: bool, taken: &[IpNet], addresses: &[IpAddr]) -> Option<IpNet> {
    let free = |range: &IpNet| {
        !taken.iter().any(|other| overlap(*range, *other))
            && !addresses.iter().any(|address| range.contains(address))
    };
    if v6 {
        let pool: Ipv6Net = V6_POOL.parse().expect("a constant");
        let ranges = pool.subnets(V6_LEN).expect("longer than the pool's prefix");
        ranges.map(IpNet::V6).find(free)
    } else {
        default_v4_ranges().find(free)
    }
}

/// IPv4 ranges for networks that nobody named one for, in the order in which they are tried.
pub fn default_v4_ranges() -> impl Iterator<Item = IpNet> {
    let pool: Ipv4Net = V4_POOL.parse().expect("a constant");
    let ranges = pool.subnets(V4_LEN).expect("longer than the pool's prefix");
    ranges.map(IpNet::V4)
}

/// Whether two ranges have an address in common.
fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b) || b.contains(&a)
}

/// The first host address: a range's gateway when nobody says otherwise.
pub fn first_host(range: IpNet) -> IpAddr {
    match range {
        IpNet::V4(net) => IpAddr::V4(net.network().to_bits().saturating_add(1).into()),
        IpNet::V6(net) => IpAddr::V6(net.network().to_bits().saturating_add(1).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_first_free_range_is_taken() {
        let range = free_range(false, &[], &[]).unwrap();
        assert_eq!(range.to_string(), "10.32.0.0/16");
        let taken = nets(&["10.32.5.0/24", "10.33.0.0/16", "10.34.0.0/15"]);
        let range = free_range(false, &taken, &["10.36.0.9".parse().unwrap()]).unwrap();
        assert_eq!(range.to_string(), "10.37.0.0/16");
        let range = free_range(true, &nets(&["fd77:6566:7400::/64"]), &[]).unwrap();
        assert_eq!(range.to_string(), "fd77:6566:7400:1::/64");
    }

    #[test]
    fn when_all_is_taken_there_is_none() {
        assert_eq!(free_range(false, &nets(&["10.0.0.0/8"]), &[]), None);
        assert_eq!(free_range(true, &nets(&["fd00::/8"]), &[]), None);
    }

    #[test]
    fn the_gateway_is_the_first_host() {
        let [v4, v6] = nets(&["10.40.0.0/16", "fd40::/64"])[..] else {
            unreachable!("two were given")
        };
        assert_eq!(first_host(v4).to_string(), "10.40.0.1");
        assert_eq!(first_host(v6).to_string(), "fd40::1");
    }
}
