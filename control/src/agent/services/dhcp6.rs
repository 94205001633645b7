//! DHCPv6 (RFC 8415) without a lease database, as `dhcp4`: a client gets the IPv6 addresses of its port, as often as it
//! asks. Pure; dhcproto does the wire format.
//!
//! | client says | answer |
//! |---|---|
//! | SOLICIT | ADVERTISE, or REPLY where rapid commit was asked for |
//! | REQUEST, RENEW, REBIND | REPLY with its addresses; others have a lifetime of zero |
//! | CONFIRM | REPLY whether its addresses are of this link |
//! | RELEASE, DECLINE | REPLY that all is well: the addresses stay the port's |
//! | INFORMATION-REQUEST | REPLY with the name server |

#![deny(clippy::disallowed_methods)]

use std::net::Ipv6Addr;

use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode,
};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::Ipv6Net;
use weft_switch::gateway::GATEWAY_MAC;

/// Port of clients (RFC 8415 section 7.2).
pub(crate) const CLIENT_PORT: u16 = 546;
/// How long an address may be used for new and for old connections, when to renew it and when to rebind it, in seconds.
const PREFERRED_SECS: u32 = 3600;
const VALID_SECS: u32 = 7200;
const RENEWAL_SECS: u32 = PREFERRED_SECS / 2;
const REBINDING_SECS: u32 = PREFERRED_SECS / 5 * 4;
/// Longest message that is read: it fits into every IPv6 packet.
const MAX_MESSAGE: usize = 1280;
/// Longest identifier of a client (RFC 8415 section 11.1), and of its server.
const MAX_DUID: usize = 130;

/// Bytes before the options: type and transaction (RFC 8415 section 8).
const HEADER_LEN: usize = 4;
/// Options that are looked at (RFC 8415 sections 21.2 to 21.6 and 21.14), and bytes before what is inside of them.
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const RAPID_COMMIT: u16 = 14;
const IA_NA_LEN: usize = 12;
const IA_ADDRESS_LEN: usize = 24;

/// What a port has, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its addresses.
    pub(crate) ips: Vec<Ipv6Addr>,
    /// The network's subnets.
    pub(crate) subnets: Vec<Ipv6Net>,
    /// The name server.
    pub(crate) gateway: Ipv6Addr,
}

/// Who we are to clients: the gateway's MAC (RFC 8415 section 11.4), the same on every host.
fn server_id() -> Vec<u8> {
    [&[0, 3, 0, 1][..], &GATEWAY_MAC.0].concat()
}

/// Answers a message of the port that has that lease.
pub(crate) fn handle(bytes: &[u8], lease: &Lease) -> Option<Vec<u8>> {
    if bytes.len() > MAX_MESSAGE {
        return None;
    }
    let request = Message::decode(&mut Decoder::new(&trimmed(bytes)?)).ok()?;
    if !is_for_us(&request) {
        return None;
    }
    let kind = request.msg_type();
    let has = |code| request.opts().get(code).is_some();
    let rapid = kind == MessageType::Solicit && has(OptionCode::RapidCommit);
    let mut reply = if kind == MessageType::Solicit && !rapid {
        Message::new(MessageType::Advertise)
    } else {
        Message::new(MessageType::Reply)
    };
    reply.set_xid(request.xid());
    let options = reply.opts_mut();
    if let Some(client) = request.opts().get(OptionCode::ClientId) {
        options.insert(client.clone());
    }
    options.insert(DhcpOption::ServerId(server_id()));
    if rapid {
        options.insert(DhcpOption::RapidCommit);
    }
    if gives(kind) {
        let holder = holder(&request, lease);
        for association in associations(&request) {
            let holds = Some(association.id) == holder;
            let ips = if holds { lease.ips.as_slice() } else { &[] };
            options.insert(DhcpOption::IANA(filled(association, ips)));
        }
        options.insert(DhcpOption::DomainNameServers(vec![lease.gateway]));
    } else if kind == MessageType::Confirm {
        options.insert(DhcpOption::StatusCode(confirmed(&request, lease)?));
    } else if kind == MessageType::InformationRequest {
        options.insert(DhcpOption::DomainNameServers(vec![lease.gateway]));
    } else {
        options.insert(DhcpOption::StatusCode(status(Status::Success, "")));
    }
    reply.to_vec().ok()
}

/// The message with the options that are looked at here, in their shape; `None` if they don't end where the message does.
/// The library is given nothing else: options nest without end, and so does its decoder.
fn trimmed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let mut trimmed = header.to_vec();
    for (code, value) in options(rest)? {
        match code {
            CLIENT_ID | SERVER_ID if (1..=MAX_DUID).contains(&value.len()) => {
                put(&mut trimmed, code, value);
            }
            RAPID_COMMIT => put(&mut trimmed, code, &[]),
            IA_NA => {
                let (head, inner) = value.split_at_checked(IA_NA_LEN)?;
                let mut association = head.to_vec();
                for (code, value) in options(inner)? {
                    if code == IA_ADDRESS {
                        put(&mut association, code, value.get(..IA_ADDRESS_LEN)?);
                    }
                }
                put(&mut trimmed, code, &association);
            }
            _ => {}
        }
    }
    Some(trimmed)
}

/// The options in some bytes, by code.
fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut options = Vec::new();
    while !bytes.is_empty() {
        let (code, rest) = bytes.split_first_chunk::<2>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
        options.push((u16::from_be_bytes(*code), value));
        bytes = rest;
    }
    Some(options)
}

fn put(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    // What was cut from a message is no longer than it.
    let len = u16::try_from(value.len()).unwrap_or(0);
    to.extend(code.to_be_bytes());
    to.extend(len.to_be_bytes());
    to.extend(value);
}

fn gives(kind: MessageType) -> bool {
    use MessageType::{Rebind, Renew, Request, Solicit};
    [Solicit, Request, Renew, Rebind].contains(&kind)
}

/// RFC 8415 section 16: what must say who speaks to whom, and what must not.
fn is_for_us(request: &Message) -> bool {
    use MessageType::{Confirm, Decline, InformationRequest, Release, Renew, Request};
    let kind = request.msg_type();
    let server = match request.opts().get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(server)) => Some(server == &server_id()),
        _ => None,
    };
    let client = match request.opts().get(OptionCode::ClientId) {
        Some(DhcpOption::ClientId(client)) => (1..=MAX_DUID).contains(&client.len()),
        _ => kind == InformationRequest,
    };
    let server_fits = if [Request, Renew, Release, Decline].contains(&kind) {
        server == Some(true)
    } else if kind == InformationRequest {
        server != Some(false)
    } else {
        (gives(kind) || kind == Confirm) && server.is_none()
    };
    client && server_fits
}

fn associations(request: &Message) -> impl Iterator<Item = &IANA> {
    request.opts().iter().filter_map(|option| {
        if let DhcpOption::IANA(association) = option {
            return Some(association);
        }
        None
    })
}

/// The association that gets the port's addresses: they are one's only. The one that has them already, else that of the
/// lowest number, so that it is the same one each time.
fn holder(request: &Message, lease: &Lease) -> Option<u32> {
    let holds = |association: &IANA| addresses(association).any(|ip| lease.ips.contains(&ip));
    let first = associations(request).min_by_key(|one| (!holds(one), one.id));
    first.map(|association| association.id)
}

fn addresses(association: &IANA) -> impl Iterator<Item = Ipv6Addr> {
    association.opts.iter().filter_map(|option| {
        if let DhcpOption::IAAddr(address) = option {
            return Some(address.addr);
        }
        None
    })
}

/// The association with its addresses; what the client has beside them it is to give up.
fn filled(association: &IANA, ips: &[Ipv6Addr]) -> IANA {
    let mut options = DhcpOptions::new();
    for ip in ips {
        options.insert(address(*ip, PREFERRED_SECS, VALID_SECS));
    }
    for ip in addresses(association).filter(|ip| !ips.contains(ip)) {
        options.insert(address(ip, 0, 0));
    }
    if ips.is_empty() {
        let none = status(Status::NoAddrsAvail, "this port has no other address");
        options.insert(DhcpOption::StatusCode(none));
    }
    IANA {
        id: association.id,
        t1: RENEWAL_SECS,
        t2: REBINDING_SECS,
        opts: options,
    }
}

fn address(addr: Ipv6Addr, preferred_life: u32, valid_life: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr,
        preferred_life,
        valid_life,
        opts: DhcpOptions::new(),
    })
}

/// Whether the client's addresses are of this link; `None` if it has none (RFC 8415 section 18.3.3: no answer then).
fn confirmed(request: &Message, lease: &Lease) -> Option<StatusCode> {
    let held: Vec<Ipv6Addr> = associations(request).flat_map(addresses).collect();
    if held.is_empty() {
        return None;
    }
    let on_link = |ip: &Ipv6Addr| lease.subnets.iter().any(|subnet| subnet.contains(ip));
    Some(if held.iter().all(on_link) {
        status(Status::Success, "")
    } else {
        status(Status::NotOnLink, "of another link")
    })
}

fn status(status: Status, msg: &str) -> StatusCode {
    StatusCode {
        status,
        msg: msg.to_owned(),
    }
}

#[cfg(test)]
mod tests;
