//! `weft expose` and `weft hide`: the host itself as an endpoint.

use hyper::Method;
use weft_control::api::{Connect, Disconnect, NetnsArg, Port, Status};

use super::Session;
use crate::args::network::{Expose, Hide};
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// Longest name of an interface (IFNAMSIZ - 1).
const IFNAME_MAX: usize = 15;

/// # Errors
/// No agent answers, or what was asked is refused.
pub(super) fn expose(session: &Session, flags: Expose) -> Result<(), Failure> {
    let status: Status = session.client.get(&ApiPath::new("status"))?;
    let usual = || {
        let name = format!("weft-{}", flags.network);
        // Names of networks are ASCII.
        name.chars().take(IFNAME_MAX).collect()
    };
    let wish = Connect {
        netns: NetnsArg::Host,
        ips: flags.ips,
        mac: None,
        ifname: Some(flags.ifname.unwrap_or_else(usual)),
        name: flags.endpoint,
        base_name: Some(status.node),
        attachment: None,
        addresses: Vec::new(),
        routes: Vec::new(),
        // The host has a way out of its own.
        default_route: Some(false),
        aliases: flags.aliases,
        no_offload: false,
        dhcp: false,
        dns: false,
        allow_spoof: false,
        limits: weft_control::api::Limits::default(),
        publish: Vec::new(),
    };
    let path = ApiPath::new("networks")
        .segment(&flags.network)
        .segment("connect");
    let port: Port = session.client.send(Method::POST, &path, &wish)?;
    render::show(session.json, &port, render::port::connected)
}

/// # Errors
/// As [`expose`].
pub(super) fn hide(session: &Session, flags: &Hide) -> Result<(), Failure> {
    let wish = Disconnect {
        netns: Some(NetnsArg::Host),
        name: None,
    };
    let path = ApiPath::new("networks")
        .segment(&flags.network)
        .segment("disconnect");
    let port: Port = session.client.send(Method::POST, &path, &wish)?;
    render::show(session.json, &port, |port| render::line(&port.name))
}
