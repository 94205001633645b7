//! `weft controller`: the keeper of a cluster's map.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::values;

/// What can be done with a controller.
#[derive(Debug, Subcommand)]
pub(crate) enum Controller {
    /// Run a controller until SIGTERM or SIGINT; the first start makes a new cluster
    Run(Run),
    /// Print a token with which one agent can join the cluster
    Token(Token),
}

/// Flags of `weft controller run`; the config file has the same keys.
#[derive(Debug, Default, Args)]
pub(crate) struct Run {
    /// Where the map, the certificate authority and the tokens are kept [default:
    /// /var/lib/weft-controller]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where agents reach it, over QUIC (UDP) [default: 0.0.0.0:6783]
    #[arg(long, value_name = "IP:PORT", value_parser = values::controller_address)]
    pub(crate) listen: Option<SocketAddr>,
    /// Keep the map elsewhere: etcd://HOST:PORT[,HOST:PORT...] [default: a file in --data]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
}

/// Flags of `weft controller token`; the config file has the same keys.
#[derive(Debug, Default, Args)]
pub(crate) struct Token {
    /// The controller's data directory [default: /var/lib/weft-controller]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// How long the token can be used, like `90m` or `24h` [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) ttl: Option<Duration>,
}
