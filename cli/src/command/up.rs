//! `weft up`: from nothing to a network on this host. It starts a standalone agent in the background if none answers, and
//! makes the network if it isn't there; done twice it changes nothing. `weft down`: the way back, also without the agent.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use ipnet::IpNet;
use serde::Serialize;
use weft_control::agent::{AgentError, DEFAULT_DOCKER_HOST, StateError, remove_leftovers};
use weft_control::api::{NetworkCreate, NetworkDetail, NetworkInfo, Status, Stopping};
use weft_control::docker::pools::default_v4_ranges;

use super::Session;
use crate::args::agent::Stop;
use crate::args::up as args;
use crate::client::ApiPath;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

/// How long the agent may take to come up.
const UP_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at an agent that comes up.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Lines of the log that are shown when it doesn't.
const LOG_TAIL_LINES: usize = 8;

/// Ranges that are tried for a network that nobody named one for.
const DEFAULT_RANGES: usize = 16;
/// A range is another network's, or this host's own.
const TAKEN: [&str; 2] = ["subnet_overlaps", "underlay_in_subnet"];

/// What is there afterwards.
#[derive(Debug, Serialize)]
pub(crate) struct Up {
    /// The agent's process and log, if it was started just now.
    pub(crate) started: Option<Started>,
    /// The network.
    pub(crate) network: NetworkInfo,
    /// The network was made just now.
    pub(crate) made: bool,
    /// The agent that was started serves Docker.
    pub(crate) docker: bool,
}

/// An agent that was started.
#[derive(Debug, Serialize)]
pub(crate) struct Started {
    /// Its process.
    pub(crate) pid: u32,
    /// Where it logs to.
    pub(crate) log: PathBuf,
}

/// # Errors
/// The agent doesn't come up, or the network can't be made.
pub(super) fn run(session: &Session, settings: &Settings, flags: args::Up) -> Result<(), Failure> {
    let docker =
        !flags.no_docker && settings.serves_docker(Path::new(DEFAULT_DOCKER_HOST).exists());
    let started = match session.client.get::<Status>(&ApiPath::new("status")) {
        Ok(_) => None,
        Err(failure) if failure.code == "no_agent" => {
            let state = settings.state(flags.state.clone());
            let wish = Wish {
                settings,
                state,
                docker,
            };
            Some(start(session, &wish)?)
        }
        // It is just coming up, or it isn't ours to speak to.
        Err(failure) if failure.code == "joining" => None,
        Err(failure) => return Err(failure),
    };
    wait(session)?;
    let (network, made) = network(session, &flags)?;
    let up = Up {
        docker: docker && started.is_some(),
        started,
        network,
        made,
    };
    render::show(session.json, &up, render::up::text)
}

/// What agent to start.
struct Wish<'a> {
    settings: &'a Settings,
    state: PathBuf,
    docker: bool,
}

fn start(session: &Session, wish: &Wish<'_>) -> Result<Started, Failure> {
    let log = wish.state.join("agent.log");
    let failed = |what: &str, error: &io::Error| {
        Failure::new("agent", format!("cannot {what}: {error}"))
            .hint("`weft up` needs root, and a --state directory that it may write to")
    };
    fs::create_dir_all(&wish.state)
        .map_err(|error| failed(&format!("make {}", wish.state.display()), &error))?;
    let mut child = spawn(wish, &log).map_err(|error| failed("start the agent", &error))?;
    let deadline = Instant::now() + UP_PATIENCE;
    loop {
        match session.client.get::<Status>(&ApiPath::new("status")) {
            Ok(_) => break,
            Err(_) if Instant::now() < deadline => {}
            Err(failure) => return Err(failure),
        }
        if let Ok(Some(status)) = child.try_wait() {
            let message = format!("the agent ended at once ({status}): {}", tail(&log));
            let hint = format!("its log is {}", log.display());
            return Err(Failure::new("agent", message).hint(hint));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(Started {
        pid: child.id(),
        log,
    })
}

fn spawn(wish: &Wish<'_>, log: &Path) -> io::Result<Child> {
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    let errors = out.try_clone()?;
    let mut agent = Command::new(std::env::current_exe()?);
    if let Some(config) = &wish.settings.config_flag {
        agent.arg("--config").arg(config);
    }
    agent.arg("--socket").arg(&wish.settings.socket);
    agent.args(["agent", "run", "--standalone", "--state"]);
    agent.arg(&wish.state);
    if wish.docker {
        agent.arg("--docker");
    }
    // Ctrl-C at this terminal is not for it.
    agent.process_group(0);
    agent
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(errors)
        .spawn()
}

/// The last words of an agent that ended.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("; ")
}

/// # Errors
/// The agent doesn't end, or what an agent left can't be taken down.
pub(super) fn down(
    session: &Session,
    settings: &Settings,
    flags: args::Down,
) -> Result<(), Failure> {
    let flags_of_stop = Stop { remove_ports: true };
    let missing = match super::agent::stop(session, flags_of_stop) {
        Err(failure) if failure.code == "no_agent" => failure,
        done => return done,
    };
    let state = settings.state(flags.state);
    let removed = remove_leftovers(&state).map_err(|error| {
        let failure = Failure::from_error("agent", &error);
        let in_use = matches!(error, AgentError::State(StateError::InUse { .. }));
        if !in_use {
            return failure;
        }
        let message = format!("{}, but {}", missing.message, failure.message);
        Failure::new("agent", message).hint("give that agent's --socket")
    })?;
    let down = Stopping { removed, left: 0 };
    render::show(session.json, &down, |down| match down.removed.is_empty() {
        false => render::port::stopped(down),
        true => render::line(format_args!(
            "nothing to end: {}, and {} has no ports (another one: --state)",
            missing.message,
            state.display()
        )),
    })
}

fn wait(session: &Session) -> Result<(), Failure> {
    let path = ApiPath::new("status").query("wait", UP_PATIENCE.as_secs());
    let patience = UP_PATIENCE + Duration::from_secs(5);
    session
        .client
        .get_within::<Status>(&path, patience)
        .map(drop)
}

fn network(session: &Session, flags: &args::Up) -> Result<(NetworkInfo, bool), Failure> {
    let path = ApiPath::new("networks").segment(&flags.network);
    match session.client.get::<NetworkDetail>(&path) {
        Ok(detail) => {
            let network = detail.network;
            check_subnet(&network, flags.subnet)?;
            return Ok((network, false));
        }
        Err(failure) if failure.code == "unknown_network" => {}
        Err(failure) => return Err(failure),
    }
    let make = |subnet: IpNet| {
        let wish = NetworkCreate {
            name: flags.network.clone(),
            subnets: vec![subnet],
            ..NetworkCreate::default()
        };
        let networks = ApiPath::new("networks");
        session.client.send(Method::POST, &networks, &wish)
    };
    if let Some(subnet) = flags.subnet {
        return Ok((make(subnet)?, true));
    }
    let mut refused = None;
    for subnet in default_v4_ranges().take(DEFAULT_RANGES) {
        match make(subnet) {
            Ok(made) => return Ok((made, true)),
            Err(failure) if TAKEN.contains(&failure.code.as_str()) => refused = Some(failure),
            Err(failure) => return Err(failure),
        }
    }
    let none = || {
        Failure::new(
            "subnet_overlaps",
            "no range is left to choose for this network",
        )
    };
    Err(refused.unwrap_or_else(none).hint("give it a --subnet"))
}

/// A network that is there has the addresses that were asked for, if any were.
fn check_subnet(network: &NetworkInfo, asked: Option<IpNet>) -> Result<(), Failure> {
    let has: Vec<IpNet> = network.subnets.iter().map(|subnet| subnet.cidr).collect();
    match asked {
        Some(asked) if !has.contains(&asked.trunc()) => {
            let has: Vec<String> = has.iter().map(IpNet::to_string).collect();
            let has = has.join(", ");
            let name = &network.name;
            let message =
                format!("network {name} is there already, with subnet {has}, not {asked}");
            Err(Failure::new("network_differs", message)
                .hint("leave --subnet out, or name another --network"))
        }
        Some(_) | None => Ok(()),
    }
}
