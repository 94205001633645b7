//! The TAP of a port: made here, configured in its namespace.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_switch::port::{PortKind, TapDevice, create_tap};
use weft_tunnel::Carriage;

use crate::agent::ApiError;
use crate::agent::state::PortRecord;
use crate::link::{self, AttachSpec, Equipment, LinkError};
use crate::model::Network;
use crate::netns::Netns;

/// Frames that may wait in a TAP's ring for the agent, per queue. A superframe holds up to 64 KiB, so the kernel's
/// default of 1000 would let 64 MB stand; this is the most that a restart of the agent can lose less of than TCP minds.
const TX_QUEUE_LEN: u32 = 512;
/// Interface names that are tried when the caller wants none: `eth0` .. `eth99`.
const IFNAME_TRIES: u32 = 100;

pub(super) fn with_prefixes(network: &Network, ips: &[IpAddr]) -> Vec<IpNet> {
    ips.iter()
        .filter_map(|ip| {
            let subnet = network.subnet_of(*ip)?;
            IpNet::new(*ip, subnet.cidr.prefix_len()).ok()
        })
        .collect()
}

/// Makes the TAP and configures it. Dropping the file descriptors destroys it again, wherever it is.
pub(super) fn make_device(
    mut record: PortRecord,
    netns: &Netns,
    (wanted, default_route): (Option<String>, bool),
    (queues, carriage): (usize, Carriage),
) -> Result<(PortRecord, TapDevice), ApiError> {
    let tap = create(&record, queues)?;
    let candidates: Vec<String> = match wanted {
        Some(name) => vec![name],
        None => (0..IFNAME_TRIES)
            .map(|number| format!("eth{number}"))
            .collect(),
    };
    let last = candidates.len() - 1;
    for (index, ifname) in candidates.into_iter().enumerate() {
        let spec = AttachSpec {
            tap: tap.name.clone(),
            ifindex: tap.ifindex,
            ifname: ifname.clone(),
            mac: record.endpoint.mac,
            mtu: record.mtu,
            carriage,
            tx_queue_len: TX_QUEUE_LEN,
            addresses: if record.dhcp {
                Vec::new()
            } else {
                [record.addresses.as_slice(), &record.foreign].concat()
            },
            gateways: if default_route && !record.dhcp {
                record.gateways.clone()
            } else {
                Vec::new()
            },
            routes: record.routes.clone(),
        };
        match link::attach(netns, &spec) {
            Ok(attached) => {
                record.ifname = ifname;
                record.routes = attached.routes;
                return Ok((record, tap));
            }
            Err(LinkError::InterfaceExists { .. }) if index < last => {}
            Err(error) => return Err(attach_error(error)),
        }
    }
    Err(ApiError::internal("no interface name was tried"))
}

/// Makes the TAP and leaves it in the agent's own namespace, down and with all that survives a move: Docker moves it.
pub(super) fn make_loose(
    mut record: PortRecord,
    (queues, carriage): (usize, Carriage),
) -> Result<(PortRecord, TapDevice), ApiError> {
    let tap = create(&record, queues)?;
    let equipment = Equipment {
        ifindex: tap.ifindex,
        mac: record.endpoint.mac,
        mtu: record.mtu,
        carriage,
        tx_queue_len: TX_QUEUE_LEN,
    };
    link::equip(&tap.name, equipment).map_err(attach_error)?;
    record.ifname = tap.name.clone();
    Ok((record, tap))
}

fn create(record: &PortRecord, queues: usize) -> Result<TapDevice, ApiError> {
    let (kind, queues) = if record.plain {
        (PortKind::Plain, 1)
    } else {
        (PortKind::Offload, queues)
    };
    // Unique on this host until it is renamed in its namespace: 4 + 11 bytes of the endpoint's id.
    let name = format!("weft{}", &record.endpoint.id.0[..11]);
    create_tap(&name, kind, queues).map_err(|error| ApiError::internal(error.to_string()))
}

fn attach_error(error: LinkError) -> ApiError {
    let message = error.to_string();
    if matches!(error, LinkError::InterfaceExists { .. }) {
        return ApiError::conflict("interface_exists", message)
            .hint("choose another --ifname, or leave it out to get the next free ethN");
    }
    ApiError::internal(message)
}
