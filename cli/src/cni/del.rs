//! DEL and GC: disconnect containers. Both may be repeated, and neither minds what is gone already.

use std::path::Path;

use hyper::Method;
use weft_control::api::{Attachment, Detached, NetnsArg, Port};
use weft_control::link;
use weft_control::netns::{Netns, NetnsError};

use super::Call;
use super::error::{CniError, Code};
use super::lock::ContainerLock;
use crate::client::{ApiPath, Client};
use crate::failure::Failure;

/// # Errors
/// The agent is there and doesn't do it, or the IPAM plugin failed; both were asked.
pub(super) fn del(call: &Call<'_>) -> Result<(), CniError> {
    let _lock = ContainerLock::take(&call.config.socket, &call.env.container)?;
    let taken_down = take_down(call);
    let released = match call.delegate() {
        Ok(Some(delegate)) => delegate.tell("DEL"),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    taken_down.and(released)
}

fn take_down(call: &Call<'_>) -> Result<(), CniError> {
    match detach(&call.client()?, &call.attachment()) {
        Ok(_) => Ok(()),
        // What no agent keeps goes with its interface: the next start of the agent finds it dead and forgets it.
        Err(failure) if failure.code == "no_agent" => match &call.env.netns {
            Some(netns) => remove_interface(netns, &call.env.ifname),
            None => Ok(()),
        },
        Err(failure) => Err(failure.into()),
    }
}

fn detach(client: &Client, attachment: &Attachment) -> Result<Detached, Failure> {
    let path = ApiPath::new("attachments").segment("detach");
    client.send(Method::POST, &path, attachment)
}

fn remove_interface(netns: &Path, ifname: &str) -> Result<(), CniError> {
    let netns = match Netns::open(&NetnsArg::Path(netns.to_owned())) {
        Ok(netns) => netns,
        Err(NetnsError::NoSuchNamespace { .. } | NetnsError::NotANamespace { .. }) => {
            return Ok(());
        }
        Err(error) => return Err(CniError::new(Code::Io, error.to_string())),
    };
    link::remove_tap(&netns, ifname)
        .map(drop)
        .map_err(|error| CniError::new(Code::Io, error.to_string()))
}

/// # Errors
/// The first thing that failed; the rest was done all the same.
pub(super) fn gc(call: &Call<'_>) -> Result<(), CniError> {
    let valid = call.config.valid.clone().unwrap_or_default();
    let collected = collect(call, &valid);
    let released = match call.delegate() {
        Ok(Some(delegate)) => delegate.tell("GC"),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    collected.and(released)
}

fn collect(call: &Call<'_>, valid: &[(String, String)]) -> Result<(), CniError> {
    let client = call.client()?;
    let owner = call.config.owner();
    let path = ApiPath::new("attachments").query("owner", &owner);
    let ports: Vec<Port> = client.get(&path)?;
    let mut first = Ok(());
    for attachment in ports.into_iter().filter_map(|port| port.attachment) {
        let stays = |(container, ifname): &(String, String)| {
            *container == attachment.container && *ifname == attachment.ifname
        };
        if valid.iter().any(stays) {
            continue;
        }
        let done = ContainerLock::take(&call.config.socket, &attachment.container)
            .and_then(|_lock| Ok(detach(&client, &attachment)?));
        first = first.and(done.map(drop));
    }
    first
}
