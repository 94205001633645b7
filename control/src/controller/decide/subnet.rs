//! Which address ranges a network may have, and what their gateways are.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Decision;
use crate::api::NetworkCreate;
use crate::channel::Refusal;
use crate::model::{ClusterMap, Subnet, check_name};

/// Most subnets that a network may have.
pub const MAX_SUBNETS: usize = 16;
/// A subnet longer than this has no room for a gateway and a host.
const LONGEST_V4: u8 = 30;
/// The same for IPv6: the all-zeros host part is an anycast address (RFC 4291 section 2.6.1).
const LONGEST_V6: u8 = 126;

/// Ranges that no host of an Ethernet segment can have (IANA special-purpose registries).
const RESERVED: [(&str, &str); 9] = [
    ("0.0.0.0/8", "\"this network\""),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/127", "unspecified and loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
];

/// Checks the ranges of a new network against one another and against all networks of the cluster.
///
/// # Errors
/// `bad_subnet`, `bad_ip_range`, `bad_gateway`, `bad_aux_address`, `subnet_overlaps`, `underlay_in_subnet`.
pub fn plan(map: &ClusterMap, create: &NetworkCreate) -> Decision<Vec<Subnet>> {
    if create.subnets.len() > MAX_SUBNETS {
        let count = create.subnets.len();
        return Err(Refusal::new(
            "bad_subnet",
            format!(
                "network {} has {count} subnets, at most {MAX_SUBNETS} are taken",
                create.name
            ),
        )
        .hint("make several networks"));
    }
    for (index, cidr) in create.subnets.iter().enumerate() {
        check_range(*cidr)?;
        check_overlap(map, *cidr, &create.subnets[..index])?;
        check_underlays(map, *cidr)?;
    }
    let mut subnets = Vec::with_capacity(create.subnets.len());
    for cidr in &create.subnets {
        let ip_range = pick(&create.ip_ranges, *cidr, "bad_ip_range", |range| {
            cidr.contains(range)
        })?;
        let gateway = pick(&create.gateways, *cidr, "bad_gateway", |ip| {
            cidr.contains(ip)
        })?;
        let subnet = Subnet {
            cidr: *cidr,
            ip_range: ip_range.filter(|range| range != cidr),
            gateway: gateway.unwrap_or_else(|| first_host(*cidr)),
            aux_addresses: BTreeMap::new(),
        };
        check_gateway(&subnet)?;
        let subnet = reserve(subnet, &create.aux_addresses)?;
        subnets.push(subnet);
    }
    for range in &create.ip_ranges {
        check_ip_range(*range, &subnets)?;
    }
    let mut aux = create.aux_addresses.iter();
    if let Some((name, ip)) = aux.find(|(_, ip)| !inside(&subnets, **ip)) {
        let subnets = list(&create.subnets);
        return Err(Refusal::new(
            "bad_aux_address",
            format!("address {ip} of {name} is in none of the network's subnets{subnets}"),
        )
        .hint("give an --aux-address inside a --subnet"));
    }
    if let Some(gateway) = create.gateways.iter().find(|ip| !inside(&subnets, **ip)) {
        return Err(Refusal::new(
            "bad_gateway",
            format!(
                "gateway {gateway} is in none of the network's subnets{}",
                list(&create.subnets)
            ),
        )
        .hint("give a --gateway inside a --subnet, or leave it out to get the first address"));
    }
    Ok(subnets)
}

/// Keeps those addresses that are in the subnet from endpoints.
fn reserve(mut subnet: Subnet, wanted: &BTreeMap<String, IpAddr>) -> Decision<Subnet> {
    for (name, ip) in wanted {
        if !subnet.cidr.contains(ip) {
            continue;
        }
        let bad = |why: String| Refusal::new("bad_aux_address", why);
        check_name("auxiliary address", name)
            .map_err(|why| bad(why).hint("give --aux-address NAME=IP"))?;
        if !subnet.is_host_address(*ip) {
            let role = subnet.role_of(*ip);
            let why = format!("address {ip} of {name} is {role} of subnet {}", subnet.cidr);
            return Err(bad(why).hint("choose another --aux-address, or leave it out"));
        }
        subnet.aux_addresses.insert(name.clone(), *ip);
    }
    Ok(subnet)
}

fn inside(subnets: &[Subnet], ip: IpAddr) -> bool {
    subnets.iter().any(|subnet| subnet.cidr.contains(&ip))
}

fn list(subnets: &[IpNet]) -> String {
    let subnets: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    match subnets.as_slice() {
        [] => " (it has none)".to_owned(),
        _ => format!(" ({})", subnets.join(", ")),
    }
}

fn check_range(cidr: IpNet) -> Decision<()> {
    let bad = |why: String| Refusal::new("bad_subnet", format!("subnet {cidr} {why}"));
    if cidr.addr() != cidr.network() {
        return Err(
            bad("has host bits set".to_owned()).hint(format!("did you mean {}?", cidr.trunc()))
        );
    }
    for (range, what) in RESERVED {
        let range: IpNet = range.parse().expect("a constant");
        if overlap(cidr, range) {
            return Err(bad(format!("overlaps {range}, which is {what}"))
                .hint("take a private range, such as 10.32.0.0/16 or fd32::/64"));
        }
    }
    let longest = match cidr {
        IpNet::V4(_) => LONGEST_V4,
        IpNet::V6(_) => LONGEST_V6,
    };
    if cidr.prefix_len() > longest {
        return Err(bad("has no room for a gateway and a host".to_owned())
            .hint(format!("take a prefix of /{longest} or shorter")));
    }
    Ok(())
}

fn check_overlap(map: &ClusterMap, cidr: IpNet, before: &[IpNet]) -> Decision<()> {
    if let Some(other) = before.iter().find(|other| overlap(cidr, **other)) {
        return Err(Refusal::new(
            "subnet_overlaps",
            format!("subnets {cidr} and {other} of the same network overlap"),
        )
        .hint("leave one of them out"));
    }
    for network in map.networks.values().map(|network| &network.object) {
        let other = network
            .subnets
            .iter()
            .find(|subnet| overlap(cidr, subnet.cidr));
        if let Some(other) = other {
            return Err(Refusal::new(
                "subnet_overlaps",
                format!(
                    "subnet {cidr} overlaps {} of network {}",
                    other.cidr, network.name
                ),
            )
            .hint("choose another --subnet; `weft network ls` shows those in use"));
        }
    }
    Ok(())
}

/// An endpoint could get a node's own address, and containers could not tell the two apart.
fn check_underlays(map: &ClusterMap, cidr: IpNet) -> Decision<()> {
    let mut nodes = map.nodes.values().map(|node| &node.object);
    match nodes.find(|node| cidr.contains(&node.underlay)) {
        Some(node) => {
            let message = format!(
                "subnet {cidr} contains the underlay address {} of node {}",
                node.underlay, node.name
            );
            Err(Refusal::new("underlay_in_subnet", message)
                .hint("choose another --subnet; `weft nodes` shows the underlay addresses"))
        }
        None => Ok(()),
    }
}

/// The one value that belongs to a subnet.
fn pick<T: Copy + std::fmt::Display>(
    values: &[T],
    cidr: IpNet,
    code: &str,
    belongs: impl Fn(&T) -> bool,
) -> Decision<Option<T>> {
    let mut mine = values.iter().filter(|value| belongs(value));
    let first = mine.next().copied();
    match (first, mine.next()) {
        (Some(first), Some(second)) => Err(Refusal::new(
            code,
            format!("{first} and {second} are both in subnet {cidr}: a subnet has one"),
        )
        .hint("leave one of them out")),
        _ => Ok(first),
    }
}

fn check_gateway(subnet: &Subnet) -> Decision<()> {
    let gateway = subnet.gateway;
    let free = Subnet {
        gateway: subnet.cidr.network(),
        ..subnet.clone()
    };
    if gateway != subnet.cidr.network() && free.is_host_address(gateway) {
        return Ok(());
    }
    Err(Refusal::new(
        "bad_gateway",
        format!(
            "gateway {gateway} is the network or broadcast address of subnet {}",
            subnet.cidr
        ),
    )
    .hint(format!("take {}, or leave it out", first_host(subnet.cidr))))
}

fn check_ip_range(range: IpNet, subnets: &[Subnet]) -> Decision<()> {
    let bad = |why: String| Refusal::new("bad_ip_range", format!("ip range {range} {why}"));
    if range.addr() != range.network() {
        return Err(
            bad("has host bits set".to_owned()).hint(format!("did you mean {}?", range.trunc()))
        );
    }
    let Some(subnet) = subnets.iter().find(|subnet| subnet.cidr.contains(&range)) else {
        let subnets: Vec<IpNet> = subnets.iter().map(|subnet| subnet.cidr).collect();
        return Err(bad(format!(
            "is in none of the network's subnets{}",
            list(&subnets)
        ))
        .hint("give an --ip-range inside a --subnet, or leave it out"));
    };
    if first_usable(subnet, range).is_none() {
        return Err(bad(format!(
            "has no address that a host of {} could have",
            subnet.cidr
        ))
        .hint("take a larger --ip-range"));
    }
    Ok(())
}

/// The first address of `part` that an endpoint may have.
pub(super) fn first_usable(subnet: &Subnet, part: IpNet) -> Option<IpAddr> {
    // Network, gateway, broadcast and reserved addresses are all that isn't usable.
    addresses(part)
        .take(4 + subnet.aux_addresses.len())
        .find(|ip| subnet.is_host_address(*ip))
}

/// All addresses of a range, its first and last too.
pub(super) fn addresses(range: IpNet) -> Box<dyn Iterator<Item = IpAddr>> {
    match range {
        IpNet::V4(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            Box::new((first..=last).map(|bits| IpAddr::V4(bits.into())))
        }
        IpNet::V6(net) => {
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            Box::new((first..=last).map(|bits| IpAddr::V6(bits.into())))
        }
    }
}

fn first_host(cidr: IpNet) -> IpAddr {
    match cidr {
        IpNet::V4(net) => IpAddr::V4((net.network().to_bits() + 1).into()),
        IpNet::V6(net) => IpAddr::V6((net.network().to_bits() + 1).into()),
    }
}

/// Whether two ranges have an address in common.
pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    match (a, b) {
        (IpNet::V4(a), IpNet::V4(b)) => overlap_v4(a, b),
        (IpNet::V6(a), IpNet::V6(b)) => overlap_v6(a, b),
        (IpNet::V4(_), IpNet::V6(_)) | (IpNet::V6(_), IpNet::V4(_)) => false,
    }
}

fn overlap_v4(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

fn overlap_v6(a: Ipv6Net, b: Ipv6Net) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}
