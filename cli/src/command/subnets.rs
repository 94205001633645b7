//! `weft subnets`: which node gives out which addresses.

use weft_control::api::SubnetBlock;

use super::Session;
use crate::args::OfNetwork;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or the network is not known.
pub(super) fn run(session: &Session, of: &OfNetwork) -> Result<(), Failure> {
    let blocks: Vec<SubnetBlock> = session.client.get(&ApiPath::new("subnets"))?;
    let blocks = session.only(of.network.as_deref(), blocks, |block| &block.network)?;
    render::show(session.json, &blocks, |blocks| {
        render::subnet::table(blocks)
    })
}
