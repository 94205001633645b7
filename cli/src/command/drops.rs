//! `weft drops`: why frames were dropped on this host.

use weft_control::api::Drops;

use super::Session;
use crate::args::OfNetwork;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or the network is not known.
pub(super) fn run(session: &Session, of: &OfNetwork) -> Result<(), Failure> {
    let drops: Vec<Drops> = session.client.get(&ApiPath::new("drops"))?;
    let drops = session.only(of.network.as_deref(), drops, |drop| {
        drop.network.as_deref().unwrap_or_default()
    })?;
    render::show(session.json, &drops, |drops| render::drops::table(drops))
}
