//! What this host knows about a name by itself: names and aliases of the endpoints that the asker shares a network with,
//! their addresses backwards, and their services. Pure.
//!
//! | asked | answered |
//! |---|---|
//! | `NAME`, `NAME.NETWORK` | A, AAAA; several in turn; no data for what they don't have |
//! | address backwards | PTR `NAME.NETWORK` |
//! | `_SERVICE._PROTO.NAME` | SRV with that service's well-known port at every `NAME` |
//!
//! Anything else is somebody else's. Every name is a zone of its own, so that an answer of "no data" can say for how long
//! it holds (RFC 2308).

#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use hickory_proto::rr::rdata::{PTR, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use crate::agent::services::names::{Host, NetworkNames, View};

/// Seconds that an answer may be kept: a name may be another's a moment later.
pub(crate) const TTL_SECS: u32 = 1;
/// Most addresses or services in one answer; the turn brings the others.
const MAX_RECORDS: usize = 256;

/// What is known here.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Known {
    /// These records, and the addresses that go with them.
    Records {
        /// The answer.
        answers: Vec<Record>,
        /// What the asker would ask next.
        additionals: Vec<Record>,
    },
    /// The name is there, but has nothing of what was asked.
    NoData,
    /// The name would be ours, and isn't there.
    NoName,
    /// It isn't ours to say.
    Elsewhere,
}

/// Port of a service by name and protocol (`http`, `tcp`).
pub(crate) type Services<'s> = &'s dyn Fn(&str, &str) -> Option<u16>;

/// Looks a name up. `turn` grows by one with each question: several owners of a name are told beginning with another one
/// each time.
pub(crate) fn look_up(
    view: &View<'_>,
    (name, record_type): (&Name, RecordType),
    turn: usize,
    services: Services<'_>,
) -> Known {
    if let Some(ip) = address_backwards(name) {
        return backwards(view, name, ip, record_type);
    }
    if name.is_localhost() {
        return localhost(name, record_type);
    }
    let Some(text) = text_of(name) else {
        return Known::Elsewhere;
    };
    if text.starts_with('_') {
        return service(view, (name, &text), record_type, (turn, services));
    }
    let mut places = view.places(&text).peekable();
    if places.peek().is_none() {
        return Known::Elsewhere;
    }
    let wanted = |ip: &IpAddr| {
        let family = if ip.is_ipv4() {
            RecordType::A
        } else {
            RecordType::AAAA
        };
        record_type == family || record_type == RecordType::ANY
    };
    for (network, called) in places {
        let ips = network.hosts(called).flat_map(|host| &host.ips);
        let mut ips: Vec<IpAddr> = ips.copied().filter(|ip| wanted(ip)).collect();
        if !ips.is_empty() {
            take_turn(&mut ips, turn);
            let answers = ips.into_iter().map(|ip| record(name, RData::from(ip)));
            return Known::Records {
                answers: answers.collect(),
                additionals: Vec::new(),
            };
        }
    }
    Known::NoData
}

/// The record that says how long an answer of "no data" or "no such name" may be kept.
pub(crate) fn start_of_authority(name: &Name) -> Record {
    let retry = i32::try_from(TTL_SECS).unwrap_or(i32::MAX);
    let soa = SOA::new(name.clone(), Name::root(), 1, retry, retry, retry, TTL_SECS);
    record(name, RData::SOA(soa))
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TTL_SECS, data)
}

/// Begins with another one each time, and keeps to what an answer may have.
fn take_turn<T>(items: &mut Vec<T>, turn: usize) {
    if !items.is_empty() {
        let first = turn % items.len();
        items.rotate_left(first);
        items.truncate(MAX_RECORDS);
    }
}

/// A name in lower case without the last dot; `None` if no endpoint can be called so.
fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            let fine = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if !fine {
                return None;
            }
            text.push(char::from(byte.to_ascii_lowercase()));
        }
    }
    (!text.is_empty()).then_some(text)
}

/// The name of an endpoint that finds it again from everywhere its network is shared.
fn full_name(host: &Host, network: &NetworkNames) -> Option<Name> {
    let labels = host.name.split('.').chain(network.name.split('.'));
    Name::from_labels(labels.map(str::as_bytes)).ok()
}

/// The whole address that a reverse name means (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn address_backwards(name: &Name) -> Option<IpAddr> {
    // A name without the last dot can't come from a message; the library's parser wants it.
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

fn backwards(view: &View<'_>, name: &Name, ip: IpAddr, record_type: RecordType) -> Known {
    let owner = view
        .networks
        .iter()
        .find_map(|network| Some((network.owner(ip)?, network)));
    let Some((host, network)) = owner else {
        // Nobody else can know who has an address of these networks.
        let ours = view.networks.iter().any(|network| network.contains(ip));
        return if ours {
            Known::NoName
        } else {
            Known::Elsewhere
        };
    };
    match (record_type, full_name(host, network)) {
        (RecordType::PTR | RecordType::ANY, Some(full)) => Known::Records {
            answers: vec![record(name, RData::PTR(PTR(full)))],
            additionals: Vec::new(),
        },
        _ => Known::NoData,
    }
}

/// Not for anybody else to say (RFC 6761 section 6.3).
fn localhost(name: &Name, record_type: RecordType) -> Known {
    let ip = if record_type == RecordType::A {
        IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
    } else if record_type == RecordType::AAAA {
        IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
    } else {
        return Known::NoData;
    };
    Known::Records {
        answers: vec![record(name, RData::from(ip))],
        additionals: Vec::new(),
    }
}

/// `_SERVICE._PROTO.NAME` (RFC 2782): every endpoint of that name, at the service's well-known port or at the port that
/// SERVICE says as a number.
fn service(
    view: &View<'_>,
    (name, text): (&Name, &str),
    record_type: RecordType,
    (turn, services): (usize, Services<'_>),
) -> Known {
    let mut parts = text.splitn(3, '.');
    let (Some(service), Some(protocol), Some(of)) = (parts.next(), parts.next(), parts.next())
    else {
        return Known::Elsewhere;
    };
    let Some((network, called)) = view.places(of).next() else {
        return Known::Elsewhere;
    };
    let (Some(service), Some(protocol)) = (service.strip_prefix('_'), protocol.strip_prefix('_'))
    else {
        return Known::NoName;
    };
    let port = match service.parse() {
        Ok(number) if matches!(protocol, "tcp" | "udp") => Some(number),
        _ => services(service, protocol),
    };
    let Some(port) = port else {
        return Known::NoName;
    };
    if !matches!(record_type, RecordType::SRV | RecordType::ANY) {
        return Known::NoData;
    }
    let mut hosts: Vec<&Host> = network.hosts(called).collect();
    take_turn(&mut hosts, turn);
    let targets: Vec<(&Host, Name)> = hosts
        .into_iter()
        .filter_map(|host| Some((host, full_name(host, network)?)))
        .collect();
    let answers = targets
        .iter()
        .map(|(_, target)| record(name, RData::SRV(SRV::new(0, 0, port, target.clone()))));
    let additionals = targets.iter().flat_map(|(host, target)| {
        let ips = host.ips.iter();
        ips.map(move |ip| record(target, RData::from(*ip)))
    });
    Known::Records {
        answers: answers.collect(),
        additionals: additionals.collect(),
    }
}

#[cfg(test)]
mod tests;
