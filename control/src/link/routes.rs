//! Routes of a container's interface, beside those that its addresses bring: set, found again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteScope, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{LinkError, connect, os_error, with_runtime};
use crate::api::Route;
use crate::netns::Netns;

/// Sets a route. One to the same destination with the same metric that is there already stays.
///
/// # Errors
/// What the kernel says.
pub(super) async fn add(handle: &Handle, ifindex: u32, route: &Route) -> io::Result<()> {
    let message = message(ifindex, route)?;
    match handle.route().add(message).execute().await {
        Ok(()) => Ok(()),
        Err(error) => match os_error(error) {
            error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            error => Err(error),
        },
    }
}

fn message(ifindex: u32, route: &Route) -> io::Result<RouteMessage> {
    let dst = route.dst.trunc();
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(dst.addr(), dst.prefix_len())
        .map_err(|error| invalid(&error))?
        .output_interface(ifindex);
    builder = match route.gateway {
        Some(gateway) => builder.gateway(gateway).map_err(|error| invalid(&error))?,
        None => builder.scope(RouteScope::Link),
    };
    if let Some(scope) = route.scope {
        builder = builder.scope(scope.into());
    }
    if let Some(table) = route.table {
        builder = builder.table_id(table);
    }
    if let Some(priority) = route.priority {
        builder = builder.priority(priority);
    }
    let metrics: Vec<RouteMetric> = [
        route.mtu.map(RouteMetric::Mtu),
        route.advmss.map(RouteMetric::Advmss),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut message = builder.build();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    Ok(message)
}

fn invalid(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error.to_string())
}

/// Which of these routes are not in the namespace, by destination, next hop and table. Blocks.
///
/// # Errors
/// [`LinkError`].
pub fn missing_routes(netns: &Netns, routes: &[Route]) -> Result<Vec<Route>, LinkError> {
    if routes.is_empty() {
        return Ok(Vec::new());
    }
    with_runtime(|runtime| {
        netns.enter()?;
        runtime.block_on(async {
            let handle = connect()?;
            let mut there = dump(&handle, RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
            there.extend(dump(&handle, RouteMessageBuilder::<Ipv6Addr>::new().build()).await?);
            let missing = routes
                .iter()
                .filter(|route| !there.iter().any(|message| is(message, route)));
            Ok(missing.cloned().collect())
        })
    })
}

async fn dump(handle: &Handle, query: RouteMessage) -> Result<Vec<RouteMessage>, LinkError> {
    let routes = handle.route().get(query).execute();
    routes
        .try_collect()
        .await
        .map_err(|error| LinkError::Netlink(os_error(error)))
}

fn is(message: &RouteMessage, route: &Route) -> bool {
    let dst = route.dst.trunc();
    let mut to = match dst.addr() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (mut gateway, mut table) = (None, u32::from(message.header.table));
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            to = address_of(address).unwrap_or(to);
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = address_of(address);
        } else if let RouteAttribute::Table(number) = attribute {
            table = *number;
        }
    }
    let family_fits = to.is_ipv4() == dst.addr().is_ipv4()
        && message.header.address_family == family_of(dst.addr());
    family_fits
        && message.header.kind == RouteType::Unicast
        && message.header.destination_prefix_length == dst.prefix_len()
        && to == dst.addr()
        && gateway == route.gateway
        && table == route.table.unwrap_or(u32::from(RouteHeader::RT_TABLE_MAIN))
}

fn family_of(address: IpAddr) -> rtnetlink::packet_route::AddressFamily {
    match address {
        IpAddr::V4(_) => rtnetlink::packet_route::AddressFamily::Inet,
        IpAddr::V6(_) => rtnetlink::packet_route::AddressFamily::Inet6,
    }
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(address) = address {
        Some(IpAddr::V4(*address))
    } else if let RouteAddress::Inet6(address) = address {
        Some(IpAddr::V6(*address))
    } else {
        None
    }
}
