//! `weft dns`: the name server of this host.

use weft_control::api::Dns;

use super::Session;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers.
pub(super) fn run(session: &Session) -> Result<(), Failure> {
    let dns: Dns = session.client.get(&ApiPath::new("dns"))?;
    render::show(session.json, &dns, render::dns::text)
}
