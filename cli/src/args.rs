//! The grammar of the command line (design.md section 6); one file per noun that has verbs.
//!
//! Flags that the config file may set too are `Option`s here: `config` lays file, environment and flags over each other
//! and knows the defaults. Whether a value makes sense in the cluster is for the agent and the controller to say.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) mod agent;
pub(crate) mod cni;
pub(crate) mod controller;
pub(crate) mod network;
pub(crate) mod up;
pub(crate) mod port;
pub(crate) mod uplink;
pub(crate) mod router;
pub(crate) mod values;

const EXAMPLES: &str = "\
Examples:
  weft up
  weft controller run --data /var/lib/weft-controller
  weft controller token --ttl 1h
  weft agent run --join 10.99.0.1:6783 --token TOKEN --underlay 10.99.0.2
  weft network create blue --subnet 10.32.0.0/16
  weft network connect blue --netns web
  weft status --wait

Config file:
  TOML, one flat list whose keys are the names of the flags; environment and flags override it.
    socket = \"/run/weft/weft.sock\"            json = false      log = \"info\"
    join = [\"10.99.0.1:6783\"]                  token = \"...\"    token-file = \"/etc/weft/token\"
    node = \"host2\"   underlay = \"10.99.0.2\"   state = \"/var/lib/weft\"
    standalone = false   workers = 4   vxlan-port = 4789   no-gso = false
    dns-upstream = [\"9.9.9.9\"]   encrypted-port = 4788   rekey-after = \"1h\"   idle-after = \"10m\"
    docker = false   docker-host = \"/run/docker.sock\"
    docker-socket = \"/run/docker/plugins/weft.sock\"
    data = \"/var/lib/weft-controller\"   listen = \"0.0.0.0:6783\"   store = \"etcd://...\"   ttl = \"24h\"   uses = 1
    cert-ttl = \"30days\"
    advertise = [\"10.99.0.1:6783\"]   store-user = \"weft\"   store-password-file = \"/etc/weft/etcd\"
    store-ca = \"/etc/weft/ca.pem\"   store-cert = \"/etc/weft/cert.pem\"
    store-key = \"/etc/weft/key.pem\"

Exit codes: 0 done, 1 refused or failed, 2 usage.";

/// Userspace virtual switch and overlay router for containers.
#[derive(Debug, Parser)]
#[command(name = "weft", version, propagate_version = true, max_term_width = 100)]
#[command(arg_required_else_help = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes, before or after its words.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The agent's socket [env: WEFT_SOCKET] [default: /run/weft/weft.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON for programs; errors too, as an object on stderr
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Read this config file, whose keys are the names of the flags [env: WEFT_CONFIG] [default:
    /// /etc/weft/weft.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What to log to stderr: error, warn, info, debug, trace, or a filter like `info,weft_control=debug`
    /// [env: WEFT_LOG] [default: info for `run`, else warn]
    #[arg(long, global = true, value_name = "FILTER", value_parser = values::log_filter)]
    pub(crate) log: Option<String>,
    /// Log more: -v debug, -vv trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "log")]
    pub(crate) verbose: u8,
}

/// The nouns.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// One host by itself: starts an agent in the background if none answers, and makes a network
    #[command(after_help = "\
Done twice it changes nothing. `weft down` ends the agent and its ports; the network is there again after the next `weft up`.
For several hosts see `weft controller run` and `weft agent run`.")]
    Up(up::Up),
    /// Ends what `weft up` began: disconnects all ports of this host and stops its agent
    #[command(after_help = "\
Without a running agent (it was killed, or stopped alone) it takes down the ports that are left.")]
    Down(up::Down),
    /// Overlay networks: create, connect containers, inspect
    #[command(subcommand, visible_alias = "net")]
    Network(network::Network),
    /// Routers: networks that reach each other
    #[command(subcommand)]
    Router(router::Router),
    /// Static routes of routers
    #[command(subcommand)]
    Route(router::Route),
    /// How the agent is: controller, revision, ports, warnings
    Status(Status),
    /// Tunnel peers with their counters and drops
    Peers,
    /// Ports of this host with their counters and drops
    Ports(OfNetwork),
    /// Why frames were dropped on this host: how often, where, the cause, and what to do
    #[command(visible_alias = "why")]
    Drops(OfNetwork),
    /// Connect this host itself to a network: gives it an interface and addresses, no default route
    Expose(network::Expose),
    /// Disconnect this host itself from a network
    Hide(network::Hide),
    /// Links of this host in networks: containers appear on a physical LAN with MACs of their own
    #[command(subcommand)]
    Uplink(uplink::Uplink),
    /// One port of this host: limit its rate, impair it
    #[command(subcommand)]
    Port(port::Port),
    /// Ways out of this host's networks: flows, bytes, and what was refused
    Egress(OfNetwork),
    /// The forwarding database: which MAC is behind which port or peer
    Fdb(OfNetwork),
    /// The subnet map: which node gives out which addresses
    Subnets(OfNetwork),
    /// Addresses of the networks: who has which, and whether the books agree
    #[command(subcommand)]
    Ipam(Ipam),
    /// The name server of this host: whom it asks, and what it has answered
    Dns,
    /// Nodes of the cluster
    #[command(alias = "node")]
    Nodes(Nodes),
    /// The agent of this host
    #[command(subcommand)]
    Agent(agent::Agent),
    /// The controller of a cluster
    #[command(subcommand)]
    Controller(controller::Controller),
    /// The CNI plugin, for Kubernetes, containerd and podman
    #[command(subcommand)]
    Cni(cni::Cni),
    /// Keeps the TAPs of an agent alive while it is restarted (started by the agent)
    #[command(hide = true)]
    FdHolder,
    /// Answers Docker while the agent is stopped (started by the agent)
    #[command(hide = true)]
    DockerStandIn,
    /// Print a completion script
    #[command(after_help = "Example: weft completion bash > /etc/bash_completion.d/weft")]
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// Print the manual page, or write the pages of all commands
    Man {
        /// Write one page per command into this directory
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// `weft status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Wait until the agent is in sync, at most SECS; exit 1 with the reason when it isn't by then
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "30")]
    #[arg(value_parser = values::seconds)]
    pub(crate) wait: Option<Duration>,
}

/// Lists that can be narrowed to one network.
#[derive(Debug, Default, Args)]
pub(crate) struct OfNetwork {
    /// Only what belongs to this network
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: Option<String>,
}

/// `weft ipam`.
#[derive(Debug, Subcommand)]
pub(crate) enum Ipam {
    /// Who has which address, in the whole cluster
    #[command(visible_alias = "list")]
    Ls {
        /// Only addresses of this network
        #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
        network: Option<String>,
    },
    /// Compare what the cluster, this node's ports and its address blocks say; exit 1 when something is wrong
    #[command(after_help = "\
Found are addresses that two endpoints have, that belong to no live namespace, that are in no block of their node, that
the cluster doesn't know or still remembers; claims and blocks that nobody uses; addresses of nodes that are away.
Each node audits its own ports and blocks.")]
    Audit {
        /// Mend what this node can: take down ports of dead namespaces, report endpoints again, give back idle blocks
        #[arg(long)]
        fix: bool,
    },
}

/// `weft nodes`, alone or with a verb.
#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// What to do; list them when not said.
    #[command(subcommand)]
    pub(crate) verb: Option<NodesVerb>,
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodesVerb {
    /// List them
    #[command(alias = "list")]
    Ls,
    /// Remove nodes from the cluster, with their endpoints and subnet blocks: they are cut off within a second, connected or
    /// not, and need a new token to come back
    #[command(visible_alias = "remove")]
    Rm {
        /// Names of the nodes
        #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        names: Vec<String>,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_go_before_and_after_the_words() {
        for line in [
            &["weft", "--socket", "/s", "--json", "network", "ls"],
            &["weft", "network", "ls", "--socket", "/s", "--json"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.global.socket.as_deref(), Some("/s".as_ref()));
            assert!(cli.global.json);
        }
    }
}
