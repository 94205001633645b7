//! The command line of `testbed/bench`.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::underlay::Underlay;

/// Seconds of one measurement, and rounds, unless said otherwise.
const DEFAULT: (u32, u32) = (3, 5);
/// The same with `--quick`.
const QUICK: (u32, u32) = (1, 2);

/// Measures weft against the Linux kernel on the same work in one run, by turns.
#[derive(Clone, Debug, Parser)]
#[command(name = "testbed/bench", bin_name = "testbed/bench", version)]
pub(crate) struct Args {
    /// Rounds: in each, all contenders do every work once [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Length of one measurement in seconds [default: 3]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Two rounds of one second: a first look
    #[arg(long)]
    quick: bool,
    /// Only work whose name begins with one of these; see --list
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// What the underlay can do; work that isn't TCP runs on the first one
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["full", "nogso", "bare"])]
    pub(crate) underlay: Vec<Underlay>,
    /// A further flag for weft's agents, such as --agent-arg --workers=1; may be given again
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub(crate) agent_arg: Vec<String>,
    /// TCP's congestion control, such as cubic [default: the machine's]
    #[arg(long, value_name = "NAME")]
    pub(crate) congestion: Option<String>,
    /// Measures an encrypted network of weft's as well, and what it is compared with: QUIC datagrams, and wireguard-go where
    /// it is installed
    #[arg(long)]
    pub(crate) encrypted: bool,
    /// Measures two networks of weft's on one router as well
    #[arg(long)]
    pub(crate) routed: bool,
    /// Measures other userspace switches and overlays as well, those that are installed
    #[arg(long)]
    pub(crate) peers: bool,
    /// Records the agents with perf while they do the first work of --only [default: tcp-cross-1], and prints where their
    /// time goes
    #[arg(long)]
    pub(crate) profile: bool,
    /// Where the result goes as JSON; a chart goes beside it as SVG
    #[arg(
        long,
        value_name = "FILE",
        env = "WEFT_BENCH_JSON",
        hide_env = true,
        default_value = "target/bench/result.json"
    )]
    pub(crate) json: PathBuf,
    /// Prints the table as Markdown
    #[arg(long)]
    pub(crate) markdown: bool,
    /// Prints the table of an earlier result, draws its chart again, and measures nothing
    #[arg(long, value_name = "FILE")]
    pub(crate) show: Option<PathBuf>,
    /// Prints the names of all work and ends
    #[arg(long)]
    pub(crate) list: bool,
}

impl Args {
    /// Rounds.
    pub(crate) fn rounds(&self) -> u32 {
        let default = if self.quick { QUICK.1 } else { DEFAULT.1 };
        self.rounds.unwrap_or(default)
    }

    /// Where files beside the result go.
    pub(crate) fn dir(&self) -> &Path {
        self.json.parent().unwrap_or(Path::new("."))
    }

    /// Length of one measurement in seconds.
    pub(crate) fn seconds(&self) -> u32 {
        let default = if self.quick { QUICK.0 } else { DEFAULT.0 };
        self.seconds.unwrap_or(default)
    }
}
