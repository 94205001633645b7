//! `weft port`: what can be changed of a port.

use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use clap::{Args, Subcommand, ValueEnum};

use super::values;

/// What can be done with a port of this host.
#[derive(Debug, Subcommand)]
pub(crate) enum Port {
    /// Let a port be no faster than a rate
    Limit(Limit),
    /// Give a port a worse line, for test beds: delay, jitter, loss, reordering, duplication
    Impair(Impair),
}

/// Which port.
#[derive(Debug, Args)]
pub(crate) struct PortName {
    /// Name of the endpoint, as `weft ports` shows it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// Its network, where several have an endpoint of that name here
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: Option<String>,
}

/// Which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Direction {
    /// Both ways
    #[default]
    Both,
    /// What the container gets
    To,
    /// What the container sends
    From,
}

/// Flags that limit a rate.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct RateFlags {
    /// Bits per second, like 100mbit or 2.5gbit
    #[arg(long, value_name = "RATE", value_parser = values::rate)]
    pub(crate) rate: Option<u64>,
    /// Bytes that pass at once after a pause, like 256kb [default: 10 ms at the rate, at least 64kb]
    #[arg(long, value_name = "BYTES", value_parser = values::bytes, requires = "rate")]
    pub(crate) burst: Option<u64>,
}

/// Flags of `weft port limit`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["rate", "none"]).required(true))]
pub(crate) struct Limit {
    #[command(flatten)]
    pub(crate) port: PortName,
    #[command(flatten)]
    pub(crate) rate: RateFlags,
    /// Which way it is limited; the other way is not
    #[arg(long, value_enum, default_value_t)]
    pub(crate) direction: Direction,
    /// No limit any more
    #[arg(long, conflicts_with = "direction")]
    pub(crate) none: bool,
}

/// Flags of `weft port impair`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true)
    .args(["delay", "jitter", "loss", "duplicate", "reorder", "none"]))]
pub(crate) struct Impair {
    #[command(flatten)]
    pub(crate) port: PortName,
    /// How long a frame takes, like 20ms
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    pub(crate) delay: Option<Duration>,
    /// So much more or less, uniformly; frames stay in order
    #[arg(long, value_name = "TIME", value_parser = values::duration, requires = "delay")]
    pub(crate) jitter: Option<Duration>,
    /// The part of packets that is lost, like 1%
    #[arg(long, value_name = "PART", value_parser = values::part)]
    pub(crate) loss: Option<f64>,
    /// The part of packets that comes twice [default when given alone: 1%]
    #[arg(long, value_name = "PART", value_parser = values::part, num_args = 0..=1, default_missing_value = "1%")]
    pub(crate) duplicate: Option<f64>,
    /// The part of packets that isn't delayed and so overtakes others [default when given alone: 1%]
    #[arg(long, value_name = "PART", value_parser = values::part, num_args = 0..=1, default_missing_value = "1%", requires = "delay")]
    pub(crate) reorder: Option<f64>,
    /// The same seed gives the same packets the same fate
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Which way it is impaired; the other way is not
    #[arg(long, value_enum, default_value_t)]
    pub(crate) direction: Direction,
    /// A perfect line again
    #[arg(long, conflicts_with_all = ["delay", "jitter", "loss", "duplicate", "reorder", "direction"])]
    pub(crate) none: bool,
}
