//! The tunnel over quinn-proto, without quinn: a worker of the switch owns a connection with its UDP socket and its timer,
//! and does what quinn's tasks do itself, run to completion. A superframe becomes one train of QUIC packets in one call;
//! what came in a batch is opened at once and acknowledged at its end.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use quinn::udp::{self, BATCH_SIZE, RecvMeta, UdpSocketState};
use quinn::{ClientConfig, EndpointConfig};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint, Event, Transmit,
};
use weft_switch::{TooBig, Uplink};
use weft_wire::{FrameRef, PeerId, Vni};

use crate::args::Run;
use crate::cut::Cutter;
use crate::gather::Gatherer;
use crate::{PEER, socket, tls, transport};

/// Number of the timer among the inputs; the socket has 0.
const TIMER: usize = 1;
/// Room for what UDP_GRO joins.
const SLOT_LEN: usize = 1 << 16;
/// What a train has room for: UDP payload in one IPv4 packet.
const TRAIN_BYTES_MAX: usize = 65_507;
/// A timer that is set to nothing is off.
const LEAST_WAIT: Duration = Duration::from_micros(1);

/// An uplink for each worker, with a connection of its own.
///
/// # Errors
/// A sentence: there is no socket, or the certificates are of no use.
pub(crate) fn uplinks(
    run: &Run,
    vni: Vni,
    ended: &Sender<String>,
) -> Result<Vec<Box<dyn Uplink>>, String> {
    let numbers = (0..).take(run.workers());
    numbers
        .map(|number| {
            let uplink = OwnUplink::new(run, vni, number, ended.clone())?;
            Ok(Box::new(uplink) as Box<dyn Uplink>)
        })
        .collect()
}

/// The one connection of an endpoint.
struct Line {
    handle: ConnectionHandle,
    connection: Connection,
}

/// A worker's end.
struct OwnUplink {
    wire: Wire,
    endpoint: Endpoint,
    line: Option<Line>,
    timer: Timer,
    vni: Vni,
    cutter: Cutter,
    gatherer: Gatherer,
    slots: Box<[u8]>,
    ended: Sender<String>,
}

impl OwnUplink {
    fn new(run: &Run, vni: Vni, number: u16, ended: Sender<String>) -> Result<Self, String> {
        let socket = socket(run, number)?;
        let server = match run.connect {
            Some(_) => None,
            None => Some(Arc::new(transport::server(run)?)),
        };
        let mut uplink = Self {
            wire: Wire::new(socket)?,
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None),
            line: None,
            timer: Timer::new()?,
            vni,
            cutter: Cutter::default(),
            gatherer: Gatherer::default(),
            slots: vec![0; BATCH_SIZE * SLOT_LEN].into_boxed_slice(),
            ended,
        };
        if let Some(mut to) = run.connect {
            to.set_port(to.port() + number);
            uplink.open(transport::client(run)?, to)?;
        }
        Ok(uplink)
    }

    fn open(&mut self, config: ClientConfig, to: SocketAddr) -> Result<(), String> {
        let now = Instant::now();
        let (handle, connection) = self
            .endpoint
            .connect(now, config, to, tls::NAME)
            .map_err(|error| error.to_string())?;
        self.line = Some(Line { handle, connection });
        self.drive(now);
        Ok(())
    }

    /// Does what the connection has to do now: sends, hears what became of it, sets the timer.
    fn drive(&mut self, now: Instant) {
        let Some(Line { handle, connection }) = &mut self.line else {
            return;
        };
        loop {
            self.wire.send_all(now, connection);
            let mut told = false;
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(*handle, event) {
                    connection.handle_event(event);
                    told = true;
                }
            }
            if !told {
                break;
            }
        }
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                // Nobody listens any more only at the end.
                let _ = self.ended.send(format!("the connection ended: {reason}"));
            }
        }
        self.timer.set(now, connection.poll_timeout());
    }

    /// Takes one UDP datagram, and what was in it.
    fn take(&mut self, now: Instant, meta: &RecvMeta, packet: BytesMut) {
        let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
        let scratch = &mut self.wire.scratch;
        scratch.clear();
        let event = self
            .endpoint
            .handle(now, meta.addr, meta.dst_ip, ecn, packet, scratch);
        match event {
            None => {}
            Some(DatagramEvent::ConnectionEvent(of, event)) => {
                let Some(Line { handle, connection }) = &mut self.line else {
                    return;
                };
                if *handle == of {
                    connection.handle_event(event);
                    while let Some(datagram) = connection.datagrams().recv() {
                        self.gatherer.add(&datagram);
                    }
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match self.endpoint.accept(incoming, now, scratch, None) {
                    // The other host has started anew if there is one already.
                    Ok((handle, connection)) => self.line = Some(Line { handle, connection }),
                    Err(error) => {
                        if let Some(transmit) = error.response {
                            self.wire.send(&transmit);
                        }
                    }
                }
            }
            Some(DatagramEvent::Response(transmit)) => self.wire.send(&transmit),
        }
    }

    /// Takes one batch from the socket.
    fn take_batch(&mut self, now: Instant) {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let count = {
            let mut slots = self.slots.chunks_exact_mut(SLOT_LEN).map(IoSliceMut::new);
            let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| slots.next().unwrap_or_else(|| IoSliceMut::new(&mut [])));
            // An error that ICMP left is cleared by reading it.
            self.wire.receive(&mut slots, &mut metas)
        };
        for (i, meta) in metas[..count].iter().enumerate() {
            let start = i * SLOT_LEN;
            let mut train = BytesMut::from(&self.slots[start..start + meta.len]);
            while !train.is_empty() {
                let packet = train.split_to(meta.stride.clamp(1, train.len()));
                self.take(now, meta, packet);
            }
        }
    }
}

impl Uplink for OwnUplink {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.wire.socket.as_fd(), self.timer.fd.as_fd()]
    }

    fn send(&mut self, _: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TooBig> {
        let Some(Line { connection, .. }) = &mut self.line else {
            return Ok(());
        };
        // Nothing is sent before the handshake is done.
        let Some(limit) = connection.datagrams().max_size() else {
            return Ok(());
        };
        let count = self.cutter.cut(vni, frame, limit, |datagram| {
            // It was made to fit.
            let _ = connection.datagrams().send(datagram, true);
        })?;
        // Short frames wait for each other.
        if count > 1 {
            self.drive(Instant::now());
        }
        Ok(())
    }

    fn flush(&mut self) {
        if self.line.is_some() {
            self.drive(Instant::now());
        }
    }

    fn receive(&mut self, input: usize, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        let now = Instant::now();
        if input == TIMER {
            self.timer.rang();
            if let Some(Line { connection, .. }) = &mut self.line
                && connection.poll_timeout().is_some_and(|at| at <= now)
            {
                connection.handle_timeout(now);
            }
        } else {
            self.take_batch(now);
        }
        let known = self.vni;
        let taken = self.gatherer.give(|vni, frame| {
            if vni == known {
                sink(PEER, vni, frame);
            }
        });
        self.drive(now);
        taken
    }
}

/// The socket, and where packets are made.
struct Wire {
    socket: UdpSocket,
    state: UdpSocketState,
    scratch: Vec<u8>,
}

impl Wire {
    fn new(socket: UdpSocket) -> Result<Self, String> {
        let state = UdpSocketState::new((&socket).into()).map_err(|error| error.to_string())?;
        Ok(Self {
            socket,
            state,
            scratch: Vec::with_capacity(TRAIN_BYTES_MAX),
        })
    }

    /// Sends all that a connection has.
    fn send_all(&mut self, now: Instant, connection: &mut Connection) {
        let fits = TRAIN_BYTES_MAX / usize::from(connection.current_mtu()).max(1);
        let longest = self.state.max_gso_segments().min(fits).max(1);
        loop {
            self.scratch.clear();
            let Some(transmit) = connection.poll_transmit(now, longest, &mut self.scratch) else {
                return;
            };
            self.send(&transmit);
        }
    }

    /// Sends what is in the scratch. A full socket drops it, as a switch does.
    fn send(&self, transmit: &Transmit) {
        let ecn = transmit
            .ecn
            .and_then(|ecn| udp::EcnCodepoint::from_bits(ecn as u8));
        let transmit = udp::Transmit {
            destination: transmit.destination,
            ecn,
            contents: &self.scratch[..transmit.size],
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let _ = self.state.send((&self.socket).into(), &transmit);
    }

    /// Receives into `slots`; says how many have something.
    fn receive(&self, slots: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> usize {
        self.state
            .recv((&self.socket).into(), slots, metas)
            .unwrap_or(0)
    }
}

/// What wakes the worker when a connection's time has come.
struct Timer {
    fd: TimerFd,
    /// When it will ring.
    at: Option<Instant>,
}

impl Timer {
    fn new() -> Result<Self, String> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let fd =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(|error| error.to_string())?;
        Ok(Self { fd, at: None })
    }

    /// Sees to it that it rings at `at` or before. Mostly that moves further away with every packet: it is set again only
    /// when it has rung, or would be late.
    fn set(&mut self, now: Instant, at: Option<Instant>) {
        let Some(at) = at else { return };
        if self.at.is_some_and(|set| set <= at) {
            return;
        }
        let wait = at.saturating_duration_since(now).max(LEAST_WAIT);
        let wait = Expiration::OneShot(TimeSpec::from_duration(wait));
        if self.fd.set(wait, TimerSetTimeFlags::empty()).is_ok() {
            self.at = Some(at);
        }
    }

    /// It has rung.
    fn rang(&mut self) {
        // Reading resets it; that it was reset already is no matter.
        let _ = self.fd.wait();
        self.at = None;
    }
}
