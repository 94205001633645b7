//! `weft agent`: the daemon of a host.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::values;

/// What can be done with an agent.
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// Run the agent of this host until SIGTERM or SIGINT
    #[command(after_help = "\
--join, --underlay and a token are needed the first time only: the state directory knows the rest.
An agent started in a network namespace works there.")]
    Run(Box<Run>),
    /// Stop the agent of this host; its ports stay, for the next start
    #[command(after_help = "\
Without --remove-ports this is what SIGTERM does: a small process, the fd holder, keeps the containers' interfaces until
the agent is started again. --remove-ports disconnects them, and the fd holder ends too.")]
    Stop(Stop),
}

/// Flags of `weft agent stop`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Stop {
    /// Disconnect all ports of this host first
    #[arg(long)]
    pub(crate) remove_ports: bool,
}

/// Flags of `weft agent run`; the config file has the same keys.
#[derive(Debug, Default, Args)]
pub(crate) struct Run {
    /// Controllers of the cluster to join
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    #[arg(value_parser = values::controller_address)]
    pub(crate) join: Vec<SocketAddr>,
    /// Join token, as `weft controller token` prints it [env: WEFT_TOKEN]
    #[arg(long, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    #[arg(conflicts_with = "token_file")]
    pub(crate) token: Option<String>,
    /// File with the join token
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// This node's name, unique in the cluster [default: the host's name, the first time]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) node: Option<String>,
    /// Address of this host that tunnels are bound to; needed the first time, but for --standalone
    #[arg(long, value_name = "IP")]
    pub(crate) underlay: Option<IpAddr>,
    /// Where keys, ports and the last map are kept [default: /var/lib/weft]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// One host with a controller inside: nothing to join
    #[arg(long, conflicts_with_all = ["join", "token", "token_file"])]
    pub(crate) standalone: bool,
    /// Forwarding threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) workers: Option<u16>,
    /// UDP port for VXLAN [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: Option<u16>,
    /// UDP port for encrypted networks, one for all; 0: carry none [default: 4788]
    #[arg(long, value_name = "PORT")]
    pub(crate) encrypted_port: Option<u16>,
    /// Age at which keys of encrypted networks are replaced, such as 30m [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = values::rekey_age)]
    pub(crate) rekey_after: Option<Duration>,
    /// Time after which the session with a host is closed that nothing was sent to or came from on encrypted networks; the
    /// next frame opens another and waits for it [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = values::idle_time)]
    pub(crate) idle_after: Option<Duration>,
    /// Serve Docker as the network and IPAM driver `weft`
    #[arg(long)]
    pub(crate) docker: bool,
    /// Where Docker finds the driver; its name without `.sock` is the driver's
    /// [default: /run/docker/plugins/weft.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) docker_socket: Option<PathBuf>,
    /// Docker's own socket, to learn containers' names from [default: /run/docker.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) docker_host: Option<PathBuf>,
    /// Send every datagram by itself (no UDP_SEGMENT): for kernels that mangle trains, such as 7.0 to 7.1.4
    #[arg(long)]
    pub(crate) no_gso: bool,
    /// Name server to ask for names of the outside, several times for several: the first to answer is heard
    /// [default: those of the host's /etc/resolv.conf, also when that changes]
    #[arg(long = "dns-upstream", value_name = "IP[:PORT]", value_delimiter = ',')]
    #[arg(value_parser = values::name_server)]
    pub(crate) dns_upstreams: Vec<SocketAddr>,
}
