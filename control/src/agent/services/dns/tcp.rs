//! DNS over TCP at a network's gateway address (RFC 7766): a small TCP/IP stack (smoltcp) that hears of port 53 only, fed
//! with packets and polled; it does no IO.
//!
//! A socket is made when a SYN comes and gone when its connection is, so a network whose containers never ask over TCP
//! costs nothing. Connections are bounded per port of the host and per network, and end when nothing is heard on them for
//! a while: a port that opens more than its share waits for its own.

#![deny(clippy::disallowed_methods)]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::wire::{HardwareAddress, IpAddress, IpListenEndpoint};
use weft_wire::{IpProtocol, Ipv4, Ipv6, MacAddr, Tcp, TcpFlags};

use crate::agent::services::demux::DNS_PORT;
use crate::agent::services::frames;

/// Most connections of one port of this host on a network.
const MAX_PER_PORT: usize = 8;
/// Most connections on a network.
const MAX_CONNECTIONS: usize = 64;
/// Most questions of a connection that are being answered at once.
const MAX_PIPELINED: usize = 4;
/// Longest question that is read.
const MAX_QUESTION: usize = 4096;
/// Bytes of the length before each message (RFC 1035 section 4.2.2).
const LENGTH_LEN: usize = 2;
/// Socket buffers, in bytes.
const RECEIVE_BUFFER: usize = 4096;
const SEND_BUFFER: usize = 16 << 10;
/// A connection on which nothing happens for so long is ended (RFC 7766 section 6.2.3: some seconds).
const IDLE: Duration = Duration::from_secs(10);
/// Most addresses whose MAC is remembered beyond those of connections.
const MAX_NEIGHBORS: usize = 1024;

/// Names a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(u64);

/// A question that came over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Where the answer goes: [`TcpStack::answer`].
    pub(crate) connection: ConnectionId,
    /// Who asks.
    pub(crate) mac: MacAddr,
    /// The message.
    pub(crate) bytes: Vec<u8>,
}

/// The stack of one network.
pub(crate) struct TcpStack {
    interface: Interface,
    wire: Wire,
    sockets: SocketSet<'static>,
    connections: BTreeMap<ConnectionId, Connection>,
    neighbors: HashMap<IpAddr, MacAddr>,
    next: u64,
    start: Instant,
}

impl std::fmt::Debug for TcpStack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TcpStack")
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Connection {
    handle: SocketHandle,
    /// The other end and our address.
    ends: Ends,
    mac: MacAddr,
    /// When something was heard last.
    heard: Instant,
    inbox: Vec<u8>,
    outbox: VecDeque<u8>,
    /// Questions that are being answered.
    asking: usize,
    /// The socket was told to end; it goes when it has.
    ended: bool,
}

type Ends = (IpAddr, u16, IpAddr);

/// A segment as far as it is looked at before the stack does.
struct Segment {
    ends: Ends,
    opens: bool,
}

impl TcpStack {
    /// A stack without connections for a network of that MTU in bytes. `seed` makes its sequence numbers.
    pub(crate) fn new(mtu: usize, seed: u64, now: Instant) -> Self {
        let mut wire = Wire {
            mtu,
            incoming: VecDeque::new(),
            outgoing: VecDeque::new(),
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        // What is fed is for the gateway: its addresses needn't be told here, and may be more than the stack takes.
        interface.set_any_ip(true);
        let routes = interface.routes_mut();
        for (added, what) in [
            (
                routes
                    .add_default_ipv4_route(std::net::Ipv4Addr::UNSPECIFIED)
                    .is_ok(),
                "IPv4",
            ),
            (
                routes
                    .add_default_ipv6_route(std::net::Ipv6Addr::UNSPECIFIED)
                    .is_ok(),
                "IPv6",
            ),
        ] {
            debug_assert!(added, "the stack has room for two routes: {what}");
        }
        Self {
            interface,
            wire,
            sockets: SocketSet::new(Vec::new()),
            connections: BTreeMap::new(),
            neighbors: HashMap::new(),
            next: 0,
            start: now,
        }
    }

    /// Takes an IP packet with a TCP segment to port 53 from the station with that MAC. Says whether it was within bounds.
    pub(crate) fn take(&mut self, mac: MacAddr, packet: &[u8], now: Instant) -> bool {
        let Some(segment) = look_at(packet) else {
            return true;
        };
        let known = self
            .connections
            .values_mut()
            .find(|known| known.ends == segment.ends);
        let listening = match known {
            Some(known) => {
                known.heard = now;
                None
            }
            None if segment.opens => match self.listen(mac, segment.ends, now) {
                Some(id) => Some(id),
                None => return false,
            },
            None => None,
        };
        self.remember(segment.ends.0, mac);
        self.wire.incoming.push_back(packet.to_vec());
        self.turn(now);
        if let Some(id) = listening {
            self.drop_unopened(id);
        }
        true
    }

    fn listen(&mut self, mac: MacAddr, ends: Ends, now: Instant) -> Option<ConnectionId> {
        let of_port = self.connections.values().filter(|known| known.mac == mac);
        if of_port.count() >= MAX_PER_PORT || self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        let buffer = |len: usize| SocketBuffer::new(vec![0; len]);
        let mut socket = Socket::new(buffer(RECEIVE_BUFFER), buffer(SEND_BUFFER));
        // An answer is one or two segments: there is nothing to wait for.
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket
            .listen(IpListenEndpoint {
                addr: Some(IpAddress::from(ends.2)),
                port: DNS_PORT,
            })
            .ok()?;
        let id = ConnectionId(self.next);
        self.next += 1;
        let connection = Connection {
            handle: self.sockets.add(socket),
            ends,
            mac,
            heard: now,
            inbox: Vec::new(),
            outbox: VecDeque::new(),
            asking: 0,
            ended: false,
        };
        self.connections.insert(id, connection);
        Some(id)
    }

    /// What looked like the beginning of a connection wasn't.
    fn drop_unopened(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        if self.sockets.get::<Socket<'_>>(connection.handle).state() == State::Listen {
            self.sockets.remove(connection.handle);
            self.connections.remove(&id);
        }
    }

    fn remember(&mut self, ip: IpAddr, mac: MacAddr) {
        if self.neighbors.len() >= MAX_NEIGHBORS && !self.neighbors.contains_key(&ip) {
            let live = self.connections.values();
            self.neighbors = live.map(|known| (known.ends.0, known.mac)).collect();
        }
        self.neighbors.insert(ip, mac);
    }

    /// Runs the stack until it has nothing more to do, and says what was asked.
    pub(crate) fn poll(&mut self, now: Instant) -> Vec<Asked> {
        let mut asked = Vec::new();
        loop {
            self.turn(now);
            let before = asked.len();
            let mut busy = false;
            for (id, connection) in &mut self.connections {
                let socket = self.sockets.get_mut::<Socket<'_>>(connection.handle);
                busy |= connection.pump(socket, *id, now, &mut asked);
            }
            self.connections.retain(|_, connection| {
                let socket = self.sockets.get::<Socket<'_>>(connection.handle);
                // What must still be said (a RST) is said in the turn before.
                let over = matches!(socket.state(), State::Closed | State::TimeWait) && !busy;
                if over {
                    self.sockets.remove(connection.handle);
                }
                !over
            });
            if !busy && asked.len() == before {
                return asked;
            }
        }
    }

    /// Gives an answer to the connection that asked, if that is still there.
    pub(crate) fn answer(&mut self, id: ConnectionId, message: Option<&[u8]>) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.asking = connection.asking.saturating_sub(1);
        if let Some(message) = message
            && let Ok(len) = u16::try_from(message.len())
        {
            connection.outbox.extend(len.to_be_bytes());
            connection.outbox.extend(message);
        }
    }

    /// Frames that are to be sent.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        let packets = self.wire.outgoing.drain(..);
        let frames = packets.filter_map(|packet| {
            let (_, to) = addresses(&packet)?;
            frames::packet(*self.neighbors.get(&to)?, &packet)
        });
        frames.collect()
    }

    /// Whether nobody is connected and nothing is to be sent.
    pub(crate) fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.wire.outgoing.is_empty()
    }

    /// How long nothing needs to be done when nothing comes in; `None`: for ever.
    pub(crate) fn pause(&mut self, now: Instant) -> Option<Duration> {
        let idle = self.connections.values().map(|known| {
            let ends = known.heard + IDLE;
            ends.saturating_duration_since(now)
        });
        let stack = self.interface.poll_delay(self.time(now), &self.sockets);
        let stack = stack.map(|pause| Duration::from_micros(pause.total_micros()));
        idle.chain(stack).min()
    }

    fn turn(&mut self, now: Instant) {
        let now = self.time(now);
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    fn time(&self, now: Instant) -> smoltcp::time::Instant {
        let micros = now.saturating_duration_since(self.start).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }
}

impl Connection {
    /// Moves bytes between the socket and the messages. Says whether anything moved.
    fn pump(
        &mut self,
        socket: &mut Socket<'_>,
        id: ConnectionId,
        now: Instant,
        asked: &mut Vec<Asked>,
    ) -> bool {
        if self.ended {
            return false;
        }
        let mut busy = false;
        while socket.can_recv() && self.inbox.len() < LENGTH_LEN + MAX_QUESTION {
            let taken = socket.recv(|bytes| {
                self.inbox.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
            if taken.unwrap_or(0) == 0 {
                break;
            }
            busy = true;
        }
        let sane = self.read_questions(id, asked, &mut busy);
        while socket.can_send() && !self.outbox.is_empty() {
            let (bytes, _) = self.outbox.as_slices();
            let sent = socket.send_slice(bytes).unwrap_or(0);
            if sent == 0 {
                break;
            }
            self.outbox.drain(..sent);
            busy = true;
        }
        if !sane || now.saturating_duration_since(self.heard) >= IDLE {
            socket.abort();
            self.ended = true;
            return true;
        }
        let all_said = self.asking == 0 && self.outbox.is_empty();
        if all_said && socket.state() == State::CloseWait && !socket.can_recv() {
            socket.close();
            self.ended = true;
            return true;
        }
        busy
    }

    /// Takes whole questions out of what came in; `false`: it isn't DNS.
    fn read_questions(
        &mut self,
        id: ConnectionId,
        asked: &mut Vec<Asked>,
        busy: &mut bool,
    ) -> bool {
        while self.asking < MAX_PIPELINED
            && let Some((length, rest)) = self.inbox.split_first_chunk::<LENGTH_LEN>()
        {
            let len = usize::from(u16::from_be_bytes(*length));
            if len == 0 || len > MAX_QUESTION {
                return false;
            }
            let Some(message) = rest.get(..len) else {
                break;
            };
            asked.push(Asked {
                connection: id,
                mac: self.mac,
                bytes: message.to_vec(),
            });
            self.inbox.drain(..LENGTH_LEN + len);
            self.asking += 1;
            *busy = true;
        }
        true
    }
}

/// Source and destination of a packet.
fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let packet = Ipv4::new(packet).ok()?;
            Some((packet.source().into(), packet.destination().into()))
        }
        6 => {
            let packet = Ipv6::new(packet).ok()?;
            Some((packet.source().into(), packet.destination().into()))
        }
        _ => None,
    }
}

fn look_at(packet: &[u8]) -> Option<Segment> {
    let (source, destination) = addresses(packet)?;
    let segment = match destination {
        IpAddr::V4(_) => {
            let packet = Ipv4::new(packet).ok()?;
            (packet.protocol() == IpProtocol::TCP).then(|| packet.payload())?
        }
        IpAddr::V6(_) => {
            let packet = Ipv6::new(packet).ok()?;
            let upper = packet.upper_layer().ok()?;
            (upper.protocol == IpProtocol::TCP).then(|| packet.upper_payload(&upper))?
        }
    };
    let tcp = Tcp::new(segment).ok()?;
    let flags = tcp.flags();
    Some(Segment {
        ends: (source, tcp.source_port(), destination),
        opens: flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK),
    })
}

/// The stack's side of the wire: packets in memory.
struct Wire {
    mtu: usize,
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Device for Wire {
    type RxToken<'a> = Incoming;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Incoming, Outgoing<'_>)> {
        let packet = self.incoming.pop_front()?;
        Some((Incoming(packet), Outgoing(&mut self.outgoing)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Outgoing<'_>> {
        Some(Outgoing(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // A container's kernel leaves them to us, who are no wire.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

struct Incoming(Vec<u8>);

impl RxToken for Incoming {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Outgoing<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}

#[cfg(test)]
mod tests;
