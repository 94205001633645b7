//! `weft uplink`: links of this host that are bridged into networks.

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};

/// What can be done with uplinks.
#[derive(Debug, Subcommand)]
pub(crate) enum Uplink {
    /// Bridge a link of this host into a network
    Add(UplinkOf),
    /// End that
    #[command(visible_alias = "remove")]
    Rm(UplinkOf),
    /// List the uplinks of this host
    #[command(visible_alias = "list")]
    Ls,
}

/// One uplink.
#[derive(Debug, Args)]
pub(crate) struct UplinkOf {
    /// Name of the network
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// Name of the link
    #[arg(long, value_name = "LINK", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) dev: String,
}
