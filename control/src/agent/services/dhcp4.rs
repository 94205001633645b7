//! DHCPv4 (RFC 2131) without a lease database: the addresses of a port are IPAM's, taken when it was connected and free
//! again when it goes. So a client is offered what its port has, and nothing else; a restart of the agent forgets nothing,
//! since there is nothing to forget. Pure; dhcproto does the wire format.
//!
//! | client says | answer |
//! |---|---|
//! | DISCOVER | OFFER of its port's address |
//! | REQUEST of that address: selecting, after a reboot, renewing or rebinding | ACK |
//! | REQUEST of another | NAK, so that it begins anew |
//! | REQUEST to another server, RELEASE, DECLINE | nothing |
//! | INFORM | ACK with options only |
//!
//! A client is known by its frame's MAC, which the switch has checked; a message that says another hardware address is not
//! its own. Relayed messages (giaddr) are refused: there is nobody between a port and its gateway.

#![deny(clippy::disallowed_methods)]

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::Ipv4Net;
use weft_wire::{MacAddr, Mtu};

use super::demux::DHCP_SERVER_PORT;

/// Port of clients (RFC 2131 section 4.1).
const CLIENT_PORT: u16 = 68;
/// How long an address is promised, in seconds. It is the port's as long as that lives; a client that renews hears of a
/// changed MTU.
const LEASE_SECS: u32 = 3600;
/// When to renew and when to rebind: the halves and eighths of RFC 2131 section 4.4.5.
const RENEWAL_SECS: u32 = LEASE_SECS / 2;
const REBINDING_SECS: u32 = LEASE_SECS / 8 * 7;
/// Longest message that is read: no client says more.
const MAX_MESSAGE: usize = 1500;
/// Hardware type and address length of Ethernet (RFC 1700), where they are in a message.
const ETHERNET: [u8; 2] = [1, 6];
const HARDWARE: std::ops::Range<usize> = 1..3;
/// The magic cookie before the options (RFC 2131 section 3), and where it is.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
const COOKIE_AT: std::ops::Range<usize> = 236..240;
/// Names of a server and of a file to boot: nothing that a client has to say.
const BOOT_NAMES: std::ops::Range<usize> = 44..236;
/// Options without a length (RFC 2132 section 3).
const PAD: u8 = 0;
const END: u8 = 255;
/// Options that are looked at (RFC 2132 sections 9.1, 9.6, 9.7 and 9.14).
const REQUESTED_ADDRESS: u8 = 50;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const CLIENT_IDENTIFIER: u8 = 61;

/// What a port has, and what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Its address.
    pub(crate) ip: Ipv4Addr,
    /// Of the subnet.
    pub(crate) subnet: Ipv4Net,
    /// Gateway, name server and DHCP server in one.
    pub(crate) gateway: Ipv4Addr,
    /// The gateway leads out.
    pub(crate) routes: bool,
    /// Of the network.
    pub(crate) mtu: Mtu,
    /// The endpoint's name.
    pub(crate) name: String,
}

/// An answer and where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// From the server.
    pub(crate) from: SocketAddr,
    /// To the client, or to whoever listens for one.
    pub(crate) to: SocketAddr,
    /// The message.
    pub(crate) bytes: Vec<u8>,
}

/// Answers the message of the station with that MAC, which has that lease.
pub(crate) fn handle(mac: MacAddr, bytes: &[u8], lease: &Lease) -> Option<Answer> {
    let request = read(mac, bytes)?;
    let options = request.opts();
    let server = match options.get(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
        _ => None,
    };
    if server.is_some_and(|server| server != lease.gateway) {
        return None;
    }
    let wanted = match options.get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(wanted)) => Some(*wanted),
        _ => None,
    };
    let kind = options.msg_type()?;
    if kind == MessageType::Discover {
        return answer(&request, MessageType::Offer, lease);
    }
    if kind == MessageType::Inform {
        // Who has another address is told nothing: it isn't its own.
        return (request.ciaddr() == lease.ip)
            .then(|| answer(&request, MessageType::Ack, lease))?;
    }
    if kind != MessageType::Request {
        return None;
    }
    // RFC 2131 section 4.3.2: one who has an address says so in ciaddr, others in the option.
    let held = request.ciaddr();
    let asked = wanted.or((!held.is_unspecified()).then_some(held))?;
    if asked == lease.ip {
        answer(&request, MessageType::Ack, lease)
    } else {
        answer(&request, MessageType::Nak, lease)
    }
}

/// A request of that station, and of nobody else.
fn read(mac: MacAddr, bytes: &[u8]) -> Option<Message> {
    if bytes.len() > MAX_MESSAGE
        || bytes.get(HARDWARE) != Some(&ETHERNET[..])
        || bytes.get(COOKIE_AT) != Some(&COOKIE[..])
    {
        return None;
    }
    let bytes = trimmed(bytes)?;
    let message = Message::decode(&mut Decoder::new(&bytes)).ok()?;
    let fits = message.opcode() == Opcode::BootRequest
        && message.giaddr().is_unspecified()
        && message.chaddr() == mac.0;
    fits.then_some(message)
}

/// The message with the options that are looked at here, each once and of the length that it must have; `None` if they
/// don't end where the message does. The library is given nothing else: it asserts lengths of options that a container may
/// choose (dhcproto 0.15, routes longer than an address among them).
fn trimmed(bytes: &[u8]) -> Option<Vec<u8>> {
    let (header, mut rest) = bytes.split_at_checked(COOKIE_AT.end)?;
    let mut trimmed = header.to_vec();
    trimmed.get_mut(BOOT_NAMES)?.fill(0);
    let mut seen = [false; 256];
    while let Some((&code, after)) = rest.split_first() {
        rest = after;
        match code {
            PAD => continue,
            END => break,
            _ => {}
        }
        let (&len, after) = rest.split_first()?;
        let (value, after) = after.split_at_checked(usize::from(len))?;
        rest = after;
        let first = !std::mem::replace(&mut seen[usize::from(code)], true);
        if first && is_looked_at(code, value) {
            trimmed.extend([code, len]);
            trimmed.extend(value);
        }
    }
    trimmed.push(END);
    Some(trimmed)
}

fn is_looked_at(code: u8, value: &[u8]) -> bool {
    match code {
        REQUESTED_ADDRESS | SERVER_IDENTIFIER => value.len() == 4,
        MESSAGE_TYPE => value.len() == 1,
        CLIENT_IDENTIFIER => value.len() >= 2,
        _ => false,
    }
}

fn answer(request: &Message, kind: MessageType, lease: &Lease) -> Option<Answer> {
    let mut reply = Message::new_with_id(
        request.xid(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::UNSPECIFIED,
        request.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply);
    reply.set_flags(request.flags());
    let informs = request.opts().has_msg_type(MessageType::Inform);
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(lease.gateway));
    // RFC 6842: a client's identifier comes back to it.
    if let Some(identifier) = request.opts().get(OptionCode::ClientIdentifier) {
        options.insert(identifier.clone());
    }
    if kind == MessageType::Nak {
        let message = format!("this port has {}", lease.ip);
        options.insert(DhcpOption::Message(message));
    } else {
        for option in lease.options() {
            options.insert(option);
        }
        if !informs {
            options.insert(DhcpOption::AddressLeaseTime(LEASE_SECS));
            options.insert(DhcpOption::Renewal(RENEWAL_SECS));
            options.insert(DhcpOption::Rebinding(REBINDING_SECS));
            reply.set_yiaddr(lease.ip);
        }
        reply.set_ciaddr(request.ciaddr());
    }
    Some(Answer {
        from: SocketAddr::from((lease.gateway, DHCP_SERVER_PORT)),
        to: SocketAddr::V4(SocketAddrV4::new(
            destination(request, kind, lease),
            CLIENT_PORT,
        )),
        bytes: reply.to_vec().ok()?,
    })
}

/// RFC 2131 section 4.1: to the address that the client has; else to the one it gets, unless it can't hear that yet. A
/// refusal goes to whoever listens. The frame has the client's MAC in any case: nobody else hears it.
fn destination(request: &Message, kind: MessageType, lease: &Lease) -> Ipv4Addr {
    let broadcasts = Flags::broadcast(&request.flags());
    if kind == MessageType::Nak {
        Ipv4Addr::BROADCAST
    } else if !request.ciaddr().is_unspecified() {
        request.ciaddr()
    } else if broadcasts {
        Ipv4Addr::BROADCAST
    } else {
        lease.ip
    }
}

impl Lease {
    fn options(&self) -> Vec<DhcpOption> {
        let mut options = vec![
            DhcpOption::SubnetMask(self.subnet.netmask()),
            DhcpOption::BroadcastAddr(self.subnet.broadcast()),
            DhcpOption::DomainNameServer(vec![self.gateway]),
            DhcpOption::InterfaceMtu(u16::try_from(self.mtu.bytes()).unwrap_or(u16::MAX)),
        ];
        if self.routes {
            options.push(DhcpOption::Router(vec![self.gateway]));
        }
        if let Some(name) = host_name(&self.name) {
            options.push(DhcpOption::Hostname(name));
        }
        options
    }
}

/// An endpoint's name as a host's (RFC 1123 section 2.1): letters, digits and hyphens, its first label.
fn host_name(name: &str) -> Option<String> {
    let label = name.split('.').next()?.replace('_', "-");
    let label = label.trim_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests;
