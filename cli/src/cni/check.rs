//! CHECK: is a container connected as it was told? STATUS: can containers be added?

use std::net::IpAddr;
use std::path::Path;

use weft_control::api::{NetnsArg, NetworkDetail, Port, Route, Status};
use weft_control::link;
use weft_control::netns::Netns;

use super::Call;
use super::error::{CniError, Code};
use super::lock::ContainerLock;
use super::result::{CniResult, Interface};
use crate::client::ApiPath;

/// # Errors
/// Code 102 with what is missing; what a delegated plugin says.
pub(super) fn check(call: &Call<'_>) -> Result<(), CniError> {
    let netns = call.netns()?;
    let _lock = ContainerLock::take(&call.config.socket, &call.env.container)?;
    let expected = call.config.prev.clone().unwrap_or_default();
    let attachment = call.attachment();
    let path = ApiPath::new("attachments")
        .query("owner", &attachment.owner)
        .and_query("container", &attachment.container);
    let ports: Vec<Port> = call.client()?.get(&path)?;
    let port = ports
        .into_iter()
        .find(|port| port.attachment.as_ref() == Some(&attachment));
    let port = port.ok_or_else(|| {
        wrong(format!(
            "container {} has no port {} on this node for network {}",
            call.env.container, call.env.ifname, call.config.network.name
        ))
    })?;
    if port.state != "up" {
        return Err(wrong(format!(
            "port {} is not up: {}",
            port.name, port.state
        )));
    }
    check_inside(netns, &port, &expected)?;
    match call.delegate()? {
        Some(delegate) => delegate.tell("CHECK"),
        None => Ok(()),
    }
}

fn wrong(what: String) -> CniError {
    CniError::new(Code::NotAsExpected, what).hint("the container must be added anew")
}

/// What later plugins of the chain changed is in the result, too: it says what there must be now, the port only what of
/// it is ours.
fn check_inside(netns: &Path, port: &Port, expected: &CniResult) -> Result<(), CniError> {
    let sandbox = netns.display().to_string();
    let ours =
        |interface: &Interface| interface.name == port.ifname && interface.sandbox == sandbox;
    let index = expected.interfaces.iter().position(ours).ok_or_else(|| {
        CniError::config(
            "prevResult",
            format_args!("it has no interface {} in {sandbox}", port.ifname),
        )
    })?;
    let failed = |error: &dyn std::error::Error| {
        CniError::new(Code::Io, format!("cannot look into {sandbox}: {error}"))
    };
    let open = Netns::open(&NetnsArg::Path(netns.to_owned())).map_err(|e| wrong(e.to_string()))?;
    let link = link::read_back(&open, &port.ifname).map_err(|error| failed(&error))?;
    let link = link.ok_or_else(|| {
        wrong(format!(
            "there is no interface {} in {sandbox}",
            port.ifname
        ))
    })?;
    let about = |what: String| wrong(format!("interface {} in {sandbox} {what}", port.ifname));
    if !link.up {
        return Err(about("is down".to_owned()));
    }
    let mac = &expected.interfaces[index].mac;
    if !mac.is_empty() && !mac.eq_ignore_ascii_case(&link.mac.to_string()) {
        return Err(about(format!("has MAC {} instead of {mac}", link.mac)));
    }
    for ip in &expected.ips {
        let of_ours = ip.interface.is_none_or(|of| of == index);
        let ours = of_ours && port.addresses.iter().any(|a| a.addr() == ip.address.addr());
        if ours && !link.addresses.iter().any(|a| a.addr() == ip.address.addr()) {
            return Err(about(format!("lacks address {}", ip.address)));
        }
    }
    let told = |route: &&Route| {
        let same = |told: &Route| {
            told.dst.trunc() == route.dst.trunc()
                && told
                    .gateway
                    .is_none_or(|gateway: IpAddr| route.gateway == Some(gateway))
        };
        expected.routes.iter().any(same)
    };
    let routes: Vec<Route> = port.routes.iter().filter(told).cloned().collect();
    let missing = link::missing_routes(&open, &routes).map_err(|error| failed(&error))?;
    match missing.first() {
        Some(route) => Err(about(format!("lacks the route to {}", route.dst))),
        None => Ok(()),
    }
}

/// # Errors
/// Code 50 with the reason why no container can be added; what a delegated plugin says.
pub(super) fn status(call: &Call<'_>) -> Result<(), CniError> {
    let not_available = |error: CniError| CniError {
        code: Code::NotAvailable,
        ..error
    };
    let client = call.client()?;
    let answers = client.get::<Status>(&ApiPath::new("status"));
    answers.map_err(|failure| not_available(failure.into()))?;
    let create = &call.config.network;
    let path = ApiPath::new("networks").segment(&create.name);
    match client.get::<NetworkDetail>(&path) {
        Ok(_) => {}
        Err(failure) if failure.code == "unknown_network" && !create.subnets.is_empty() => {}
        Err(failure) => return Err(not_available(failure.into())),
    }
    match call.delegate()? {
        Some(delegate) => delegate.tell("STATUS"),
        None => Ok(()),
    }
}
