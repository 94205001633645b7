//! The thread of the way out: reads the networks' inside ports and the sockets of the host, and lets flows have their
//! turns. One thread for all networks: what it does to a byte is one read and one write.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use tracing::{error, warn};
use weft_switch::port::{Queue, RECV_BUFFER_LEN, RecvError};
use weft_wire::{FrameRef, IpProtocol};

use super::answer::{IcmpError, whole_packet};
use super::datagrams::Datagrams;
use super::echo::Echo;
use super::inside::{Counters, Inside, NetworkSpec};
use super::packet::{Fragment, NoPacket, Packet};
use super::publish::{Listening, Published, Visits};
use super::reassembly::Reassembly;
use super::refusal::Refusal;
use super::relay::Relay;
use super::shared::Shared;
use super::timers::Armed;
use super::token::Token;
use crate::model::NetworkId;

/// Frames read from a network before others have their turn.
const TURN: usize = 32;
/// How long a port may take to close.
const CLOSING: Duration = Duration::from_secs(1);
/// Events taken at once.
const EVENTS: usize = 256;

/// Somebody who may have a frame before the way out: true if it was theirs.
pub(crate) type Others = Box<dyn FnMut(&NetworkId, FrameRef<'_>) -> bool + Send>;

/// What the engine is told.
#[derive(Debug)]
enum Command {
    Plug {
        network: NetworkId,
        queue: Queue,
        spec: NetworkSpec,
        counters: Arc<Counters>,
    },
    Change {
        network: NetworkId,
        spec: NetworkSpec,
    },
    Overlay(Vec<IpNet>),
    Gone {
        network: NetworkId,
        ips: Vec<IpAddr>,
    },
    Publish {
        owner: String,
        network: NetworkId,
        listeners: Vec<Listening>,
    },
    Unpublish {
        owner: String,
        done: Sender<()>,
    },
    Stop,
}

/// The running engine. Dropping it ends all flows.
#[derive(Debug)]
pub(crate) struct Engine {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts the thread in the caller's network namespace.
    ///
    /// # Errors
    /// Out of file descriptors, or threads.
    pub(crate) fn start(others: Others) -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_value_and_flags(0, flags)?);
        let (commands, received) = channel();
        let shared = Shared::new(Instant::now())?;
        shared.watch(&*wake, Token::Wake, EpollFlags::EPOLLIN)?;
        let core = Core {
            shared,
            wake: Arc::clone(&wake),
            commands: received,
            others,
            numbers: HashMap::new(),
            networks: HashMap::new(),
            names: HashMap::new(),
            relay: Relay::default(),
            datagrams: Datagrams::default(),
            echo: Echo::default(),
            published: Published::default(),
            visits: Visits::default(),
            reassembly: Reassembly::default(),
            fragments: Armed::default(),
        };
        let thread = std::thread::Builder::new()
            .name("weft-egress".to_owned())
            .spawn(move || core.run())?;
        Ok(Self {
            commands,
            wake,
            thread: Some(thread),
        })
    }

    /// Takes over a network's inside port until the switch closes it.
    pub(crate) fn plug(
        &self,
        network: NetworkId,
        queue: Queue,
        spec: NetworkSpec,
        counters: Arc<Counters>,
    ) {
        self.tell(Command::Plug {
            network,
            queue,
            spec,
            counters,
        });
    }

    /// A network's way out is another now. Flows stay while it is open.
    pub(crate) fn change(&self, network: NetworkId, spec: NetworkSpec) {
        self.tell(Command::Change { network, spec });
    }

    /// These are all subnets of the cluster: no way out leads there.
    pub(crate) fn set_overlay(&self, subnets: Vec<IpNet>) {
        self.tell(Command::Overlay(subnets));
    }

    /// A container is gone: its flows end.
    pub(crate) fn container_gone(&self, network: NetworkId, ips: Vec<IpAddr>) {
        self.tell(Command::Gone { network, ips });
    }

    /// Sockets of published ports of the endpoint `owner`, until [`Self::unpublish`].
    pub(crate) fn publish(&self, owner: String, network: NetworkId, listeners: Vec<Listening>) {
        self.tell(Command::Publish {
            owner,
            network,
            listeners,
        });
    }

    /// The endpoint is gone: its ports close, and are closed when this returns. Its connections end by
    /// [`Self::container_gone`].
    pub(crate) fn unpublish(&self, owner: String) {
        let (done, closed) = channel();
        self.tell(Command::Unpublish { owner, done });
        let _ = closed.recv_timeout(CLOSING);
    }

    fn tell(&self, command: Command) {
        // The thread ends only with us.
        let _ = self.commands.send(command);
        let _ = self.wake.write(1);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.tell(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread has.
struct Core {
    shared: Shared,
    wake: Arc<EventFd>,
    commands: Receiver<Command>,
    others: Others,
    numbers: HashMap<NetworkId, u64>,
    networks: HashMap<u64, Inside>,
    names: HashMap<u64, NetworkId>,
    relay: Relay,
    datagrams: Datagrams,
    echo: Echo,
    published: Published,
    visits: Visits,
    reassembly: Reassembly,
    fragments: Armed,
}

impl Core {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        loop {
            let count = match self.shared.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    error!(%error, "the way out has stopped: its event loop failed");
                    return;
                }
            };
            self.shared.now = Instant::now();
            for event in events.get(..count).unwrap_or_default() {
                let token = Token::from_bits(event.data());
                if token == Token::Wake {
                    let _ = self.wake.read();
                    if !self.handle_commands() {
                        return;
                    }
                } else {
                    self.handle_event(token, event.events());
                }
            }
            self.read_networks(&mut buffer);
            while let Some((at, token)) = self.shared.timers.pop(self.shared.now) {
                self.handle_timer(token, at);
            }
            self.relay.drive(&mut self.networks, &mut self.shared);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let busy = self.relay.is_busy() || self.networks.values().any(|inside| inside.readable);
        if busy {
            return EpollTimeout::ZERO;
        }
        let Some(next) = self.shared.timers.next() else {
            return EpollTimeout::NONE;
        };
        let wait = next.saturating_duration_since(Instant::now());
        // Up: a timer that is not due yet would be looked at in vain.
        let wait = wait.min(Duration::from_secs(60)) + Duration::from_millis(1);
        EpollTimeout::try_from(wait).unwrap_or(EpollTimeout::ZERO)
    }

    /// False when the thread is to end.
    fn handle_commands(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
                Ok(command) => self.handle_command(command),
            }
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Plug {
                network,
                queue,
                spec,
                counters,
            } => self.plug(network, queue, spec, counters),
            Command::Change { network, spec } => {
                let Some(number) = self.numbers.get(&network).copied() else {
                    return;
                };
                let closed = spec.closed().is_some();
                if let Some(inside) = self.networks.get_mut(&number) {
                    inside.spec = spec;
                }
                if closed {
                    self.forget(number, None);
                }
            }
            Command::Overlay(subnets) => self.shared.policy.overlay = subnets,
            Command::Gone { network, ips } => {
                if let Some(number) = self.numbers.get(&network).copied() {
                    self.forget(number, Some(&ips));
                }
            }
            Command::Publish {
                owner,
                network,
                listeners,
            } => self
                .published
                .add(owner, &network, listeners, &mut self.shared),
            Command::Unpublish { owner, done } => {
                let gone = self.published.remove(&owner, &mut self.shared);
                self.visits.forget(&gone, None);
                let _ = done.send(());
            }
            Command::Stop => {}
        }
    }

    fn plug(
        &mut self,
        network: NetworkId,
        queue: Queue,
        spec: NetworkSpec,
        counters: Arc<Counters>,
    ) {
        if let Some(old) = self.numbers.get(&network).copied() {
            self.unplug(old);
        }
        let number = self.shared.number();
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
        if let Err(error) = self.shared.watch(&queue, Token::Inside(number), flags) {
            warn!(%error, %network, "the network has no way out");
            return;
        }
        let inside = Inside::new(queue, spec, counters, self.shared.now);
        self.networks.insert(number, inside);
        self.names.insert(number, network.clone());
        self.numbers.insert(network, number);
    }

    fn unplug(&mut self, number: u64) {
        self.forget(number, None);
        self.visits.forget(&[], Some(number));
        self.networks.remove(&number);
        if let Some(name) = self.names.remove(&number)
            && self.numbers.get(&name) == Some(&number)
        {
            self.numbers.remove(&name);
        }
    }

    /// Ends the flows of a network, or of one container of it.
    fn forget(&mut self, number: u64, ips: Option<&[IpAddr]>) {
        if let Some(inside) = self.networks.get(&number) {
            self.relay.forget(number, ips, inside, &mut self.shared);
            self.datagrams.forget(number, ips, inside);
        }
        self.echo.forget(number, ips, &self.networks);
    }

    fn handle_event(&mut self, token: Token, events: EpollFlags) {
        match token {
            Token::Inside(number) => {
                if let Some(inside) = self.networks.get_mut(&number) {
                    inside.readable = true;
                    if events.contains(EpollFlags::EPOLLOUT) {
                        self.relay.unblock(inside);
                    }
                }
            }
            Token::Tcp(id) => self.relay.handle_event(id, events),
            Token::Udp(id) => {
                self.datagrams
                    .handle_event(id, events, &mut self.networks, &mut self.shared);
            }
            Token::Echo(family) => {
                self.echo
                    .handle_event(family, &mut self.networks, &mut self.shared);
            }
            Token::Listener(number) => self.handle_visitors(number),
            Token::Wake | Token::Visits | Token::Fragments => {}
        }
    }

    /// Clients of a published port.
    fn handle_visitors(&mut self, number: u64) {
        match self.published.is_stream(number) {
            Some(true) => {
                let to = (&self.networks, &mut self.relay);
                self.published
                    .accept(number, &self.numbers, to, &mut self.shared);
            }
            Some(false) => self.visits.handle_event(
                number,
                &self.published,
                (&self.numbers, &self.networks),
                &mut self.shared,
            ),
            None => {}
        }
    }

    fn handle_timer(&mut self, token: Token, at: Instant) {
        match token {
            Token::Tcp(id) => self.relay.handle_timer(id, at, &self.shared),
            Token::Udp(id) => {
                self.datagrams
                    .handle_timer(id, at, &self.networks, &mut self.shared);
            }
            Token::Echo(_) => self.echo.handle_timer(at, &self.networks, &mut self.shared),
            Token::Fragments => {
                if self.fragments.disarm(at) {
                    for network in self.reassembly.expire(self.shared.now) {
                        if let Some(inside) = self.networks.get(&network) {
                            inside.counters.refusals.count(Refusal::Unfinished);
                        }
                    }
                }
            }
            Token::Visits => self.visits.handle_timer(at, &mut self.shared),
            Token::Wake | Token::Inside(_) | Token::Listener(_) => {}
        }
    }

    fn read_networks(&mut self, buffer: &mut [u8]) {
        let mut gone = Vec::new();
        for (number, inside) in &mut self.networks {
            if !inside.readable {
                continue;
            }
            let Some(name) = self.names.get(number) else {
                continue;
            };
            for _ in 0..TURN {
                let frame = match inside.queue.recv(buffer) {
                    Ok(frame) => frame,
                    Err(RecvError::Empty) => {
                        inside.readable = false;
                        break;
                    }
                    Err(RecvError::Gone) => {
                        inside.readable = false;
                        gone.push(*number);
                        break;
                    }
                    Err(RecvError::Malformed(_)) => {
                        inside.counters.refusals.count(Refusal::Malformed);
                        continue;
                    }
                };
                if (self.others)(name, frame) {
                    continue;
                }
                let mut kinds = Kinds {
                    relay: &mut self.relay,
                    datagrams: &mut self.datagrams,
                    echo: &mut self.echo,
                    published: &self.published,
                    visits: &mut self.visits,
                    reassembly: &mut self.reassembly,
                };
                kinds.handle_frame(*number, inside, &frame, &mut self.shared);
            }
        }
        for number in gone {
            self.unplug(number);
        }
        if !self.fragments.is_armed()
            && let Some(at) = self.reassembly.next_timeout()
        {
            self.fragments
                .arm(Token::Fragments, at, &mut self.shared.timers);
        }
    }
}

/// The kinds of flows.
struct Kinds<'a> {
    relay: &'a mut Relay,
    datagrams: &'a mut Datagrams,
    echo: &'a mut Echo,
    published: &'a Published,
    visits: &'a mut Visits,
    reassembly: &'a mut Reassembly,
}

impl Kinds<'_> {
    fn handle_frame(
        &mut self,
        network: u64,
        inside: &mut Inside,
        frame: &FrameRef<'_>,
        shared: &mut Shared,
    ) {
        match Packet::parse(frame) {
            Ok(packet) => self.handle_packet(network, inside, &packet, shared),
            Err(NoPacket::NotIp) => {}
            Err(NoPacket::Refused(why)) => inside.counters.refusals.count(why),
            Err(NoPacket::Fragment(fragment)) => {
                self.handle_fragment(network, inside, &fragment, shared);
            }
        }
    }

    fn handle_fragment(
        &mut self,
        network: u64,
        inside: &mut Inside,
        fragment: &Fragment<'_>,
        shared: &mut Shared,
    ) {
        match self.reassembly.handle(network, fragment, shared.now) {
            Ok(None) => {}
            Ok(Some(upper)) => {
                let ends = (fragment.source, fragment.destination);
                let ip = whole_packet(ends, fragment.protocol, &upper);
                let packet = Packet::reassembled(fragment, &ip);
                self.handle_packet(network, inside, &packet, shared);
            }
            Err(why) => inside.counters.refusals.count(why),
        }
    }

    fn handle_packet(
        &mut self,
        network: u64,
        inside: &mut Inside,
        packet: &Packet<'_>,
        shared: &mut Shared,
    ) {
        let icmp = matches!(packet.protocol, IpProtocol::ICMP4 | IpProtocol::ICMP6);
        if icmp && !Echo::is_request(packet) {
            // Never an error about an error (RFC 1122 section 3.2.2), and nothing else asks.
            return inside.counters.refusals.count(Refusal::Protocol);
        }
        let to = packet.destination;
        if icmp && inside.spec.gateways.contains(&to) {
            return self.echo.answer(inside, packet);
        }
        if packet.protocol == IpProtocol::UDP
            && self
                .visits
                .handle_packet(network, inside, packet, self.published, shared.now)
        {
            return;
        }
        // A client of a published port comes from the gateway: its flow is known.
        let answers = packet.protocol == IpProtocol::TCP && self.relay.knows(network, packet);
        let refused = if answers {
            None
        } else if let Some(why) = inside.spec.closed() {
            Some((why, IcmpError::prohibited(to)))
        } else if inside.spec.gateways.contains(&to) {
            Some((Refusal::Host, IcmpError::port_unreachable(to)))
        } else if packet.ttl <= 1 {
            Some((Refusal::TimeExceeded, IcmpError::time_exceeded(to)))
        } else {
            None
        };
        if let Some((why, error)) = refused {
            return inside.refuse(packet, why, error, shared.now);
        }
        match packet.protocol {
            IpProtocol::TCP => self.relay.handle_packet(network, inside, packet, shared),
            IpProtocol::UDP => self
                .datagrams
                .handle_packet(network, inside, packet, shared),
            IpProtocol::ICMP4 | IpProtocol::ICMP6 => {
                self.echo.handle_packet(network, inside, packet, shared);
            }
            _ => {
                let error = IcmpError::protocol_unreachable(to);
                inside.refuse(packet, Refusal::Protocol, error, shared.now);
            }
        }
    }
}
