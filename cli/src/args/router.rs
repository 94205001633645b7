//! `weft router` and `weft route`: which networks reach each other, and what lies behind them.

use std::net::IpAddr;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand};
use ipnet::IpNet;

/// What can be done with routers.
#[derive(Debug, Subcommand)]
pub(crate) enum Router {
    /// Create a router; it joins no networks yet
    Create {
        /// Its name, unique among routers
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        name: String,
    },
    /// Connect networks to a router: their endpoints reach each other through their gateways
    #[command(after_help = "Example: weft router connect core blue green")]
    Connect(Networks),
    /// Disconnect networks from a router
    Disconnect(Networks),
    /// List routers
    #[command(visible_alias = "list")]
    Ls {
        /// Only their names, one per line
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print all that is known of routers, with their whole tables, as a JSON array
    Inspect(Names),
    /// Remove routers with their static routes; their networks stay
    #[command(visible_alias = "remove")]
    Rm(Names),
}

/// A router and networks.
#[derive(Debug, Args)]
pub(crate) struct Networks {
    /// Name of the router
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) router: String,
    /// Names of the networks
    #[arg(required = true, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) networks: Vec<String>,
}

/// One or more routers.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names of the routers
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) names: Vec<String>,
}

/// A word behind the prefix of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHopWord {
    /// `via`.
    Via,
    /// The next hop.
    Address(IpAddr),
}

fn next_hop_word(text: &str) -> Result<NextHopWord, String> {
    if text == "via" {
        return Ok(NextHopWord::Via);
    }
    let address = text.parse().map(NextHopWord::Address);
    address.map_err(|_| "expected `via IP`, such as `via 10.32.0.9`".to_owned())
}

/// What can be done with static routes.
#[derive(Debug, Subcommand)]
pub(crate) enum Route {
    /// Add a route to what lies behind an endpoint, or give it another next hop
    #[command(
        after_help = "Example: weft route add core 192.168.7.0/24 via 10.32.0.9\n\nThe endpoint that routes \
        needs `weft network connect --allow-spoof`: it sends what others wrote."
    )]
    Add {
        /// Name of the router
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        router: String,
        /// The destinations
        prefix: IpNet,
        /// Address of the endpoint that they lie behind; the word `via`, as in ip-route(8), may be left out
        #[arg(required = true, num_args = 1..=2, value_names = ["via", "IP"], value_parser = next_hop_word)]
        via: Vec<NextHopWord>,
    },
    /// Remove a route
    #[command(visible_alias = "remove")]
    Rm {
        /// Name of the router
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        router: String,
        /// The destinations
        prefix: IpNet,
    },
    /// List the whole table of a router: subnets of its networks and static routes
    #[command(visible_alias = "list")]
    Ls {
        /// Name of the router
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        router: String,
    },
}
