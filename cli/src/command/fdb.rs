//! `weft fdb`: which MAC is behind which port or peer.

use weft_control::api::FdbEntry;

use super::Session;
use crate::args::OfNetwork;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or the network is not known.
pub(super) fn run(session: &Session, of: &OfNetwork) -> Result<(), Failure> {
    let entries: Vec<FdbEntry> = session.client.get(&ApiPath::new("fdb"))?;
    let entries = session.only(of.network.as_deref(), entries, |entry| &entry.network)?;
    render::show(session.json, &entries, |entries| {
        render::fdb::table(entries)
    })
}
