//! `weft-quic`: what weft would be if the frames of encrypted networks travelled as QUIC datagrams (RFC 9221). The switch,
//! its TAPs, cutting and coalescing are weft's own; only the tunnel is another. It exists to be measured beside weft's
//! ESP (`testbed/bench --encrypted`, `docs/decisions/0009-esp-beside-quic.md`) and is no part of the product: one TAP, one
//! peer, one network, a UDP port for each connection.
//!
//! | file | what |
//! |---|---|
//! | `args` | the command line |
//! | `tls` | certificates of a cluster of two, and mutual TLS 1.3 with them |
//! | `transport` | how QUIC is set up: congestion, path MTU, acknowledgments |
//! | `cut` | a frame becomes datagrams |
//! | `gather` | datagrams become superframes |
//! | `stock` | the tunnel over quinn as it is |
//! | `own` | the tunnel over quinn-proto, driven by the switch's workers |

mod args;
mod tls;
mod transport;
mod cut;
mod gather;
mod stock;
mod own;

use std::net::UdpSocket;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Parser;
use nix::sys::socket::{setsockopt, sockopt};
use weft_switch::port::{PortKind, Queue, create_tap};
use weft_switch::{NetworkMode, NetworkSpec, PortSpec, Switch, SwitchConfig, Uplink};
use weft_testbed::lab::say;
use weft_wire::{Mtu, PeerId, Vni};

use args::{Command, Driver, Run};

/// The other host.
const PEER: PeerId = PeerId(1);
/// The network's number.
const VNI: u32 = 4_242;
/// How long a learned address is believed.
const AGEING: Duration = Duration::from_secs(300);
/// Of each UDP socket, as weft's own tunnels have them.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;
const SEND_BUFFER_BYTES: usize = 4 << 20;

fn main() -> ExitCode {
    let done = match args::Args::parse().command {
        Command::Certificates { dir } => tls::make(&dir),
        Command::Run(run) => serve(&run),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&format!("weft-quic: {why}"));
            ExitCode::FAILURE
        }
    }
}

/// Switches until something ends it; says what.
fn serve(run: &Run) -> Result<(), String> {
    let workers = run.workers();
    let vni = Vni::new(VNI).map_err(|error| error.to_string())?;
    // Sent by whoever can't go on.
    let (ended, end) = channel();
    let (uplinks, _runtime) = match run.driver {
        Driver::Quinn => {
            let (uplinks, runtime) = stock::uplinks(run, vni, ended.clone())?;
            (uplinks, Some(runtime))
        }
        Driver::QuinnProto => (own::uplinks(run, vni, &ended)?, None),
    };
    let _switch = switch(run, workers, vni, uplinks, ended)?;
    Err(end.recv().unwrap_or_else(|error| error.to_string()))
}

/// The switch with its one port.
fn switch(
    run: &Run,
    workers: usize,
    vni: Vni,
    uplinks: Vec<Box<dyn Uplink>>,
    ended: Sender<String>,
) -> Result<Switch, String> {
    let ended = Mutex::new(ended);
    let notify = Box::new(move |event| {
        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more only at the end.
        let _ = ended.send(format!("the TAP is of no use any more: {event:?}"));
    });
    let switch = Switch::start(SwitchConfig { workers }, uplinks, notify)
        .map_err(|error| error.to_string())?;
    switch.set_network(NetworkSpec {
        vni,
        name: "sealed".to_owned(),
        mtu: Mtu::ETHERNET,
        ageing: AGEING,
        mode: NetworkMode::PlainL2,
        flood_peers: vec![PEER],
        gateways: Vec::new(),
        routes: Arc::default(),
        internal: false,
        isolate: false,
    });
    let tap = create_tap(&run.tap, PortKind::Offload, workers)
        .map_err(|error| format!("{}: {error}", run.tap))?;
    let queues = tap
        .queues
        .into_iter()
        .map(|fd| Queue::from_fd(fd, tap.kind));
    let queues = queues
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    switch
        .add_port(PortSpec {
            name: tap.name,
            network: vni,
            guard: None,
            queues,
        })
        .map_err(|error| error.to_string())?;
    Ok(switch)
}

/// The UDP socket of the connection of that number.
fn socket(run: &Run, number: u16) -> Result<UdpSocket, String> {
    let mut local = run.local;
    local.set_port(run.local.port() + number);
    let failed = |error: &dyn std::fmt::Display| format!("{local}: {error}");
    let socket = UdpSocket::bind(local).map_err(|error| failed(&error))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)
        .and_then(|()| setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES))
        .map_err(|error| failed(&error))?;
    socket
        .set_nonblocking(true)
        .map_err(|error| failed(&error))?;
    Ok(socket)
}
