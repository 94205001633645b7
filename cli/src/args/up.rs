//! `weft up` and `weft down`: one host by itself, in one word.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use ipnet::IpNet;

/// Flags of `weft up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Name of the network that is there afterwards
    #[arg(long, value_name = "NAME", default_value = "weft")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// Its addresses [default: 10.32.0.0/16, or the next of that size up to 10.47.0.0/16 that overlaps no other network's]
    #[arg(long, value_name = "CIDR")]
    pub(crate) subnet: Option<IpNet>,
    /// Where keys, ports, the last map and the log are kept [default: /var/lib/weft]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Don't serve Docker, also where there is one
    #[arg(long)]
    pub(crate) no_docker: bool,
}

/// Flags of `weft down`.
#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Where `weft up` kept its files: only looked at when no agent answers [default: /var/lib/weft]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
}
