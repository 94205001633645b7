//! Taking an interface out of a namespace when no agent does it.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use super::{LinkError, connect, is_no_device, os_error, with_runtime};
use crate::netns::Netns;

/// Deletes a TAP by name. Whoever holds its file descriptors finds it dead. Returns whether there was one; an interface
/// of that name that is no TAP stays. Blocks.
///
/// # Errors
/// [`LinkError`].
pub fn remove_tap(netns: &Netns, ifname: &str) -> Result<bool, LinkError> {
    with_runtime(|runtime| {
        netns.enter()?;
        runtime.block_on(async {
            let handle = connect()?;
            let failed = |source: io::Error| LinkError::System {
                what: "remove",
                ifname: ifname.to_owned(),
                source,
            };
            let mut links = Box::pin(handle.link().get().match_name(ifname).execute());
            let link = match links.try_next().await.map_err(os_error) {
                Ok(Some(link)) => link,
                Ok(None) => return Ok(false),
                Err(error) if is_no_device(&error) => return Ok(false),
                Err(error) => return Err(failed(error)),
            };
            if !is_tap(&link) {
                return Ok(false);
            }
            match handle.link().del(link.header.index).execute().await {
                Ok(()) => Ok(true),
                Err(error) => match os_error(error) {
                    error if is_no_device(&error) => Ok(false),
                    error => Err(failed(error)),
                },
            }
        })
    })
}

fn is_tap(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        matches!(attribute, LinkAttribute::LinkInfo(infos)
            if infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun))))
    })
}
