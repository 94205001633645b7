//! `weft controller`: the keeper of a cluster's map.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

use super::values;

/// What can be done with a controller.
#[derive(Debug, Subcommand)]
pub(crate) enum Controller {
    /// Run a controller until SIGTERM or SIGINT; the first start makes a new cluster
    Run(Run),
    /// How the controller of this host is, and what it refused
    Status(Of),
    /// Print a token with which one agent, or --uses N, can join the cluster; list and revoke tokens
    Token(Token),
    /// Write the whole cluster into a file, with the keys of its authority: a backup, or the way to another store
    Export(Export),
    /// Make a cluster from an exported file, where there is none
    #[command(after_help = "\
Stop all controllers of the cluster first: agents call the new one and tell it what the file doesn't know.")]
    Import(Import),
    /// The cluster's certificate authority: how it is, and how far it is being replaced
    #[command(after_help = "\
Replacing it takes two steps, each as soon as every node is ready: nodes learn to trust the next authority, then they get
certificates of it; after that the old one is trusted no more, and tokens made before are worthless. No frame is lost and
nothing has to be restarted. A node that is away holds it up until it comes back, or until `ca advance` gives it up: then it
must join anew.")]
    Ca(Ca),
}

/// Flags of `weft controller ca`, alone or with a verb.
#[derive(Debug, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Ca {
    /// What to do; show how it is when not said.
    #[command(subcommand)]
    pub(crate) verb: Option<CaVerb>,
    /// Whose cluster.
    #[command(flatten)]
    pub(crate) of: Of,
}

/// What can be done with the authority.
#[derive(Debug, Subcommand)]
pub(crate) enum CaVerb {
    /// Begin to replace it; the controllers do the rest
    Rotate(Of),
    /// Take the replacement one step further without the nodes that it waits for
    Advance(Of),
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
    /// Where agents reach it from elsewhere, if --listen doesn't say so: the controllers of a --store tell them of each other
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    #[arg(value_parser = values::controller_address)]
    pub(crate) advertise: Vec<SocketAddr>,
    /// How long nodes' certificates last; they are renewed with a third of it left [default: 30days]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) cert_ttl: Option<Duration>,
    /// What controllers share.
    #[command(flatten)]
    pub(crate) store: Store,
}

/// A store that is not a file in --data; the config file has the same keys.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Store {
    /// Keep the map in an etcd cluster, for any number of controllers: etcd://HOST:PORT, further ones behind commas, and
    /// /PREFIX if another than /weft is wanted [default: a file in --data]
    #[arg(long, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// PEM file with the authority of etcd's certificates: TLS is used then
    #[arg(long, value_name = "FILE")]
    pub(crate) store_ca: Option<PathBuf>,
    /// PEM file with a certificate for etcd, where it wants one (--client-cert-auth)
    #[arg(long, value_name = "FILE")]
    pub(crate) store_cert: Option<PathBuf>,
    /// PEM file with that certificate's key
    #[arg(long, value_name = "FILE")]
    pub(crate) store_key: Option<PathBuf>,
    /// An etcd user, where authentication is on
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) store_user: Option<String>,
    /// File with their password [env: WEFT_STORE_PASSWORD is the password itself]
    #[arg(long, value_name = "FILE")]
    pub(crate) store_password_file: Option<PathBuf>,
}

/// Flags of `weft controller export`; the config file has the same keys.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The file, made readable for its owner only; `-` prints
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Whose cluster.
    #[command(flatten)]
    pub(crate) of: Of,
    /// Where it is.
    #[command(flatten)]
    pub(crate) store: Store,
}

/// Flags of `weft controller import`; the config file has the same keys.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Where it is to be.
    #[command(flatten)]
    pub(crate) of: Of,
    /// Where it is to be.
    #[command(flatten)]
    pub(crate) store: Store,
}

/// Flags of `weft controller token`, alone or with a verb; the config file has the same keys.
#[derive(Debug, Default, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Token {
    /// What to do; make a token when not said.
    #[command(subcommand)]
    pub(crate) verb: Option<TokenVerb>,
    /// Whose cluster.
    #[command(flatten)]
    pub(crate) of: Of,
    /// How long the token can be used, like `90m` or `24h` [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub(crate) ttl: Option<Duration>,
    /// How many agents can join with it [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) uses: Option<u32>,
}

/// Which cluster a command on the controller's host is about.
#[derive(Debug, Default, Args)]
pub(crate) struct Of {
    /// The controller's data directory [default: /var/lib/weft-controller]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// What can be done with join tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// List them, without their secrets
    #[command(alias = "list")]
    Ls(Of),
    /// Revoke tokens: nobody joins with them any more; who did stays in
    #[command(visible_alias = "revoke", alias = "remove")]
    Rm {
        /// Their ids, as `ls` shows them
        #[arg(required = true, value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
        ids: Vec<String>,
        /// Whose cluster.
        #[command(flatten)]
        of: Of,
    },
}
