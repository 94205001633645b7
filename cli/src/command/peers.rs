//! `weft peers`: the tunnel ends that this host sends to.

use weft_control::api::Peers;

use super::Session;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers.
pub(super) fn run(session: &Session) -> Result<(), Failure> {
    let peers: Peers = session.client.get(&ApiPath::new("peers"))?;
    render::show(session.json, &peers, render::peer::table)
}
