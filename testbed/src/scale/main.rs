//! `weft-scale`: a real controller and any number of real links to it, without ports, on one machine: how long until all
//! agree after a change, what a change costs, and how the cluster comes back when its controller was killed.
//!
//! Every agent has its own address (127/8), key, certificate and QUIC connection. It takes blocks, reports endpoints and
//! hears of its networks as an agent does; what it hears is counted and not kept. Nothing leaves the machine: the program
//! works in a network namespace of its own, whose loopback counts the bytes.
//!
//! | file | what |
//! |---|---|
//! | `agent` | one simulated agent |
//! | `host` | a host with a real agent |
//! | `meter` | bytes on the wire, the controller's processor time and memory |
//! | `run` | the scenario |

mod agent;
mod host;
mod meter;
mod run;

use std::process::{Command, ExitCode};

use clap::Parser;
use nix::sched::{CloneFlags, unshare};

/// What is simulated.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "weft-scale",
    about = "Measures a controller with many simulated agents (needs root)"
)]
pub(crate) struct Args {
    /// Hosts
    #[arg(long, default_value_t = 1000)]
    pub(crate) agents: usize,
    /// Networks in the cluster
    #[arg(long, default_value_t = 100)]
    pub(crate) networks: usize,
    /// Networks that each host has
    #[arg(long, default_value_t = 5)]
    pub(crate) per_agent: usize,
    /// Endpoints in the cluster
    #[arg(long, default_value_t = 50_000)]
    pub(crate) endpoints: usize,
    /// Single changes that are measured
    #[arg(long, default_value_t = 50)]
    pub(crate) changes: usize,
    /// One further host is a real one: its agent has a port on as many networks, and what changes cost it is measured
    #[arg(long)]
    pub(crate) real: bool,
    /// Agents hear of everything, as they did before they had an interest
    #[arg(long)]
    pub(crate) all: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let prepared = unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| format!("cannot make a network namespace (be root): {errno}"))
        .and_then(|()| loopback_up());
    match prepared.and_then(|()| run::run(&args)) {
        Ok(report) => {
            print(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            weft_testbed::lab::say(&format!("weft-scale: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn loopback_up() -> Result<(), String> {
    let mut ip = Command::new("ip");
    let ip = ip.args(["link", "set", "lo", "up"]).status();
    match ip {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`ip link set lo up` ended with {status}")),
        Err(error) => Err(format!("cannot run ip: {error}")),
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
