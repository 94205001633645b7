//! Routers: their networks and static routes.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::subnet::overlap;
use super::{Decision, find_network};
use crate::channel::{Refusal, RouterChange};
use crate::model::{
    Change, ClusterMap, Key, Network, Object, Router, RouterId, StaticRoute, Transport, check_name,
};

/// Most networks of one router, and most static routes.
const MAX_NETWORKS: usize = 256;
const MAX_ROUTES: usize = 1024;

fn find<'a>(map: &'a ClusterMap, name: &str) -> Decision<&'a Router> {
    map.router_named(name).ok_or_else(|| {
        Refusal::new("unknown_router", format!("router {name:?} is not known"))
            .hint("see `weft router ls`")
    })
}

fn put(router: Router) -> Vec<Change> {
    vec![Change::Put(Object::Router(router))]
}

/// What is asked of a router; `new` is the id of one that is made.
///
/// # Errors
/// Those of the functions below.
pub fn change(
    map: &ClusterMap,
    name: &str,
    change: &RouterChange,
    new: RouterId,
) -> Decision<Vec<Change>> {
    match change {
        RouterChange::Create => create(map, name, new),
        RouterChange::Remove => remove(map, name),
        RouterChange::Connect { networks } => connect(map, name, networks),
        RouterChange::Disconnect { networks } => disconnect(map, name, networks),
        RouterChange::AddRoute { route } => add_route(map, name, *route),
        RouterChange::RemoveRoute { prefix } => remove_route(map, name, *prefix),
    }
}

/// A new router without networks.
///
/// # Errors
/// `bad_name`, `name_taken`.
pub fn create(map: &ClusterMap, name: &str, id: RouterId) -> Decision<Vec<Change>> {
    check_name("router", name)
        .map_err(|why| Refusal::new("bad_name", why).hint("choose another name"))?;
    if map.router_named(name).is_some() {
        let message = format!("router {name} is there already");
        return Err(Refusal::new("name_taken", message)
            .hint("choose another name; `weft router inspect` shows the one that is there"));
    }
    Ok(put(Router {
        id,
        name: name.to_owned(),
        networks: BTreeSet::new(),
        routes: Vec::new(),
    }))
}

/// Removes a router with its routes. Its networks stay, and no longer reach each other.
///
/// # Errors
/// `unknown_router`.
pub fn remove(map: &ClusterMap, name: &str) -> Decision<Vec<Change>> {
    let router = find(map, name)?;
    Ok(vec![Change::Delete(Key::Router(router.id.clone()))])
}

/// Puts networks on a router; those that are on it already are fine. All or none.
///
/// # Errors
/// `unknown_router`, `unknown_network`, `no_subnet`, `on_router`, `subnet_overlaps`, `mixed_encryption`,
/// `too_many_networks`.
pub fn connect(map: &ClusterMap, name: &str, networks: &[String]) -> Decision<Vec<Change>> {
    let before = find(map, name)?;
    let mut router = before.clone();
    for network in networks {
        let network = find_network(map, network)?;
        if router.networks.contains(&network.id) {
            continue;
        }
        check_connectable(map, &router, network)?;
        router.networks.insert(network.id.clone());
    }
    if router.networks.len() > MAX_NETWORKS {
        let message = format!("a router has at most {MAX_NETWORKS} networks");
        return Err(Refusal::new("too_many_networks", message).hint("make another router"));
    }
    if router == *before {
        return Ok(Vec::new());
    }
    Ok(put(router))
}

fn check_connectable(map: &ClusterMap, router: &Router, network: &Network) -> Decision<()> {
    let name = &network.name;
    if network.is_plain_l2() {
        let message = format!("network {name} has no subnet: there is nothing to route to");
        return Err(Refusal::new("no_subnet", message)
            .hint("make it with --subnet, or let a container route between the networks"));
    }
    if let Some(other) = map.router_of(&network.id) {
        let message = format!("network {name} is on router {} already", other.name);
        return Err(Refusal::new("on_router", message).hint(format!(
            "take it off with `weft router disconnect {} {name}` first",
            other.name
        )));
    }
    for other in map.networks_of(router) {
        check_pair(router, network, other)?;
    }
    let covered = router.routes.iter().find(|route| {
        let mut subnets = network.subnets.iter();
        subnets.any(|subnet| subnet.cidr.contains(&route.prefix))
    });
    if let Some(route) = covered {
        let message = format!(
            "router {} has a route to {} via {}, inside network {name}",
            router.name, route.prefix, route.via
        );
        return Err(Refusal::new("subnet_overlaps", message).hint(format!(
            "remove it with `weft route rm {} {}` first",
            router.name, route.prefix
        )));
    }
    Ok(())
}

fn check_pair(router: &Router, network: &Network, other: &Network) -> Decision<()> {
    for subnet in &network.subnets {
        let mut subnets = other.subnets.iter();
        if let Some(taken) = subnets.find(|taken| overlap(taken.cidr, subnet.cidr)) {
            let message = format!(
                "subnet {} of network {} overlaps {} of network {}, which is on router {}",
                subnet.cidr, network.name, taken.cidr, other.name, router.name
            );
            return Err(Refusal::new("subnet_overlaps", message).hint(
                "networks whose addresses are the same can't reach each other: use two routers",
            ));
        }
    }
    // A packet leaves its host as a frame of the network that it goes to.
    if (network.transport == Transport::Quic) != (other.transport == Transport::Quic) {
        let message = format!(
            "one of networks {} and {} is encrypted and the other isn't: packets between them would travel in clear",
            network.name, other.name
        );
        return Err(Refusal::new("mixed_encryption", message)
            .hint("make both networks with --encrypted, or use two routers"));
    }
    Ok(())
}

/// Takes networks off a router. All or none.
///
/// # Errors
/// `unknown_router`, `unknown_network`, `not_on_router`, `route_in_use`.
pub fn disconnect(map: &ClusterMap, name: &str, networks: &[String]) -> Decision<Vec<Change>> {
    let mut router = find(map, name)?.clone();
    for network in networks {
        let network = find_network(map, network)?;
        if !router.networks.remove(&network.id) {
            let message = format!("network {} is not on router {name}", network.name);
            return Err(Refusal::new("not_on_router", message)
                .hint(format!("see `weft router inspect {name}`")));
        }
        let mut routes = router.routes.iter();
        if let Some(route) = routes.find(|route| network.subnet_of(route.via).is_some()) {
            let message = format!(
                "router {name} has a route to {} via {} on network {}",
                route.prefix, route.via, network.name
            );
            return Err(Refusal::new("route_in_use", message).hint(format!(
                "remove it with `weft route rm {name} {}` first",
                route.prefix
            )));
        }
    }
    Ok(put(router))
}

/// Adds a static route, or gives the one to that prefix another next hop.
///
/// # Errors
/// `unknown_router`, `bad_route`, `subnet_overlaps`, `too_many_routes`.
pub fn add_route(map: &ClusterMap, name: &str, route: StaticRoute) -> Decision<Vec<Change>> {
    let before = find(map, name)?;
    check_route(map, before, route)?;
    let mut router = before.clone();
    router.routes.retain(|other| other.prefix != route.prefix);
    router.routes.push(route);
    router.routes.sort_unstable();
    if router.routes.len() > MAX_ROUTES {
        let message = format!("router {name} has {MAX_ROUTES} routes, more are not taken");
        return Err(Refusal::new("too_many_routes", message)
            .hint(format!("remove one with `weft route rm {name} PREFIX`")));
    }
    if router == *before {
        return Ok(Vec::new());
    }
    Ok(put(router))
}

fn check_route(map: &ClusterMap, router: &Router, route: StaticRoute) -> Decision<()> {
    let StaticRoute { prefix, via } = route;
    let bad = |why: String| Refusal::new("bad_route", why);
    if prefix.addr() != prefix.network() {
        return Err(bad(format!("prefix {prefix} has host bits set"))
            .hint(format!("did you mean {}?", prefix.trunc())));
    }
    if prefix.addr().is_ipv4() != via.is_ipv4() {
        return Err(bad(format!("{prefix} and {via} are of two families"))
            .hint("the next hop has an address of the prefix's family"));
    }
    let mut networks = map.networks_of(router);
    let on = networks.find_map(|network| Some((network, network.subnet_of(via)?)));
    let Some((network, subnet)) = on else {
        return Err(bad(format!(
            "next hop {via} is on no network of router {}",
            router.name
        ))
        .hint(format!(
            "`weft router inspect {}` shows its networks; `weft router connect` adds one",
            router.name
        )));
    };
    if !subnet.is_host_address(via) {
        return Err(bad(format!(
            "{via} is no host's address on network {}",
            network.name
        ))
        .hint("give the address of the endpoint that routes to the prefix"));
    }
    for network in map.networks_of(router) {
        let mut subnets = network.subnets.iter();
        if let Some(subnet) = subnets.find(|subnet| subnet.cidr.contains(&prefix)) {
            let message = format!(
                "{prefix} lies in subnet {} of network {}, which is on router {}",
                subnet.cidr, network.name, router.name
            );
            return Err(Refusal::new("subnet_overlaps", message)
                .hint("addresses of a network are where their endpoints are"));
        }
    }
    Ok(())
}

/// Removes a static route.
///
/// # Errors
/// `unknown_router`, `unknown_route`.
pub fn remove_route(map: &ClusterMap, name: &str, prefix: IpNet) -> Decision<Vec<Change>> {
    let mut router = find(map, name)?.clone();
    let before = router.routes.len();
    router.routes.retain(|route| route.prefix != prefix.trunc());
    if router.routes.len() == before {
        let message = format!("router {name} has no route to {prefix}");
        return Err(
            Refusal::new("unknown_route", message).hint(format!("see `weft route ls {name}`"))
        );
    }
    Ok(put(router))
}

/// A network may go when no router has it.
///
/// # Errors
/// `network_in_use`.
pub(super) fn check_removable(map: &ClusterMap, network: &Network) -> Decision<()> {
    let Some(router) = map.router_of(&network.id) else {
        return Ok(());
    };
    let message = format!("network {} is on router {}", network.name, router.name);
    Err(Refusal::new("network_in_use", message).hint(format!(
        "take it off first: `weft router disconnect {} {}`",
        router.name, network.name
    )))
}

#[cfg(test)]
mod tests;
