//! The command line of `weft-quic`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use clap::{Parser, Subcommand, ValueEnum};

/// Two hosts' TAPs joined by QUIC datagrams: a contender of testbed/bench.
#[derive(Clone, Debug, Parser)]
#[command(name = "weft-quic", version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes an authority, and a key and certificate for each of two hosts
    Certificates {
        /// Where to; it is made
        dir: PathBuf,
    },
    /// Switches between a TAP and the other host
    Run(Run),
}

/// One host.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Run {
    /// Name of the TAP, made in this namespace; it may be moved
    #[arg(long, value_name = "NAME")]
    pub(crate) tap: String,
    /// Address and UDP port of the first connection; further ones have the ports that follow
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) local: SocketAddr,
    /// Opens the connections to there; without it, takes them
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) connect: Option<SocketAddr>,
    /// What `weft-quic certificates` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) certificates: PathBuf,
    /// Which of the two hosts this is, 1 or 2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) host: u8,
    /// What drives QUIC
    #[arg(long, value_enum, default_value_t = Driver::Quinn)]
    pub(crate) driver: Driver,
    /// Connections to the other host, for quinn; a worker uses one of them. quinn-proto has one for each worker
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) connections: u16,
    /// Congestion control of the connections; TCP inside has its own
    #[arg(long, value_enum, default_value_t = Congestion::None)]
    pub(crate) congestion: Congestion,
    /// Packets after which the other side is asked to acknowledge (draft-ietf-quic-ack-frequency); quinn itself takes 2
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ack_every: u32,
    /// Forwarding threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: Option<u16>,
}

impl Run {
    /// Forwarding threads.
    pub(crate) fn workers(&self) -> usize {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        self.workers.map_or(cores, usize::from)
    }
}

/// What moves a connection's packets and timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// quinn as it is: tokio tasks of its own, a handle for us
    Quinn,
    /// The switch's workers themselves, run to completion
    QuinnProto,
}

/// Congestion control around that of inner TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Congestion {
    /// No window and no pacing: inner TCP finds its rate, a full socket drops
    None,
    /// CUBIC, quinn's default
    Cubic,
    /// quinn's BBR
    Bbr,
}
