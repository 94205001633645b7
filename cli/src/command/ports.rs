//! `weft ports`: the ports of this host.

use weft_control::api::Port;

use super::Session;
use crate::args::OfNetwork;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or the network is not known.
pub(super) fn run(session: &Session, of: &OfNetwork) -> Result<(), Failure> {
    let ports: Vec<Port> = session.client.get(&ApiPath::new("ports"))?;
    let ports = session.only(of.network.as_deref(), ports, |port| &port.network)?;
    render::show(session.json, &ports, |ports| render::port::table(ports))
}
