//! `weft egress`: the ways out of this host's networks.

use weft_control::api::NetworkEgress;

use super::Session;
use crate::args::OfNetwork;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or the network is not known.
pub(super) fn run(session: &Session, of: &OfNetwork) -> Result<(), Failure> {
    let ways: Vec<NetworkEgress> = session.client.get(&ApiPath::new("egress"))?;
    let ways = session.only(of.network.as_deref(), ways, |way| &way.network)?;
    render::show(session.json, &ways, |ways| render::egress::table(ways))
}
