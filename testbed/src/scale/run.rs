//! The scenario: all join, take their networks, report their endpoints; then single changes; then the controller is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use weft_control::api::{NetworkChange, NetworkCreate};
use weft_control::channel::{Interest, Request};
use weft_control::controller::{TokenSpec, mint_token};
use weft_control::identity::JoinToken;
use weft_control::model::{Endpoint, NetworkId};
use weft_testbed::lab::{say, weft_bin};
use weft_wire::Mtu;

use crate::Args;
use crate::agent::{Agent, lock};
use crate::host::Host;
use crate::meter::{self, Usage};

/// Where the controller listens; the agents have other addresses of 127/8.
const CONTROLLER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 6783);
/// Agents that join, or report for the first time, at once.
const AT_ONCE: usize = 32;
/// How long a real agent is left alone before and while it is measured: it probes its peers, and saves its map.
const REST: Duration = Duration::from_secs(5);
/// Between two changes whose cost to a real agent is measured: it mustn't take them together.
const APART: Duration = Duration::from_millis(150);
/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(300);

/// The controller's process; killed when it goes.
struct Controller {
    child: Child,
    data: PathBuf,
}

impl Controller {
    fn start(data: &Path) -> Result<Self, String> {
        let mut command = Command::new(weft_bin());
        command.args([
            "controller",
            "run",
            "--log",
            "error",
            "--listen",
            &CONTROLLER.to_string(),
            "--data",
        ]);
        let child = command.arg(data).stdin(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("cannot start the controller: {error}"))?;
        let data = data.to_owned();
        Ok(Self { child, data })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(&mut self) {
        // It is gone already when that fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs it all and says what came of it.
pub(crate) fn run(args: &Args) -> Result<String, String> {
    let io = |error: std::io::Error| error.to_string();
    // Identities are the agents' business: their disks aren't measured. The controller's is.
    let shared = Path::new("/dev/shm");
    let fast = if shared.is_dir() {
        TempDir::new_in(shared)
    } else {
        TempDir::new()
    };
    let (identities, data) = (fast.map_err(io)?, TempDir::new().map_err(io)?);
    let controller = Controller::start(data.path())?;
    let spec = TokenSpec {
        ttl: Duration::from_secs(3600),
        // And one for a real host.
        uses: u32::try_from(args.agents + 1).unwrap_or(u32::MAX),
    };
    let token = mint_token(&controller.data, spec).map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(io)?;
    runtime.block_on(scenario(args, controller, (token, identities.path())))
}

/// What was measured, a line each.
#[derive(Default)]
struct Table(String);

impl Table {
    fn row(&mut self, name: &str, usage: Usage, more: &str) {
        let Usage {
            time,
            bytes,
            processor,
        } = usage;
        // Writing to a string can't fail.
        let _ = writeln!(
            self.0,
            "{name:<44} {:>9.3} s {:>12} bytes {:>9.3} s controller CPU  {more}",
            time.as_secs_f64(),
            bytes,
            processor.as_secs_f64(),
        );
        say(self.0.lines().last().unwrap_or_default());
    }

    fn line(&mut self, line: &str) {
        // As above.
        let _ = writeln!(self.0, "{line}");
        say(line);
    }
}

#[expect(clippy::too_many_lines, reason = "a scenario is told in order")]
async fn scenario(
    args: &Args,
    mut controller: Controller,
    (token, identities): (JoinToken, &Path),
) -> Result<String, String> {
    let mut table = Table::default();
    let begun = meter::read(controller.pid());
    let agents = Arc::new(start(args, (token.clone(), identities)).await?);
    table.row(
        "all join and are in session",
        begun.until_now(controller.pid()),
        "",
    );

    let begun = meter::read(controller.pid());
    let networks = create_networks(args, &agents).await?;
    populate(args, &agents, &networks).await?;
    settle(&agents).await?;
    let memory = resources(&controller);
    table.row(
        "networks made, blocks taken, endpoints reported",
        begun.until_now(controller.pid()),
        &memory,
    );

    let begun = meter::read(controller.pid());
    tokio::time::sleep(Duration::from_secs(5)).await;
    table.row(
        "5 s in which nothing happens",
        begun.until_now(controller.pid()),
        "",
    );

    changes(args, (&agents, &networks), (&mut table, controller.pid())).await?;
    if args.real {
        let token = token.to_string();
        real(args, (&agents, &networks), (&mut table, &token)).await?;
    }

    let begun = meter::read(controller.pid());
    let change = NetworkChange {
        mtu: Some(Mtu::new(1400).unwrap_or(Mtu::ETHERNET)),
        ..NetworkChange::default()
    };
    let name = "net0".to_owned();
    agents[0]
        .ask(Request::ChangeNetwork { name, change })
        .await?;
    all(&agents, async |agent| {
        agent.wait(|heard| heard.mtu_changes > 0).await
    })
    .await?;
    table.row(
        "a network's MTU changes: all agents know",
        begun.until_now(controller.pid()),
        "",
    );

    controller.kill();
    let killed = Instant::now();
    let data = controller.data.clone();
    controller = Controller::start(&data)?;
    let begun = meter::read(controller.pid());
    all(&agents, async |agent| {
        agent
            .wait(|heard| {
                heard.sessions >= 2
                    && heard.caught_up == heard.sessions
                    && heard.reported == heard.sessions
            })
            .await;
    })
    .await?;
    let memory = resources(&controller);
    table.row(
        "controller killed and started: all are back",
        begun.until_now(controller.pid()),
        &memory,
    );
    for line in downs(&agents, killed) {
        table.line(&line);
    }
    Ok(table.0)
}

/// The controller's memory, and what was lost so far because a socket was full.
fn resources(controller: &Controller) -> String {
    let (memory, lost) = (meter::memory_mib(controller.pid()), meter::overflows());
    format!("{memory} MiB resident; {lost} datagrams found no room in a socket so far")
}

async fn start(args: &Args, (token, identities): (JoinToken, &Path)) -> Result<Vec<Agent>, String> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut starting = JoinSet::new();
    for number in 0..args.agents {
        let (token, places, all) = (token.clone(), Arc::clone(&places), args.all);
        let dir = identities.join(number.to_string());
        starting.spawn(async move {
            let _place = places.acquire().await;
            let agent = Agent::start((number, all), CONTROLLER, (token, dir)).await?;
            agent.wait(|heard| heard.caught_up > 0).await;
            Ok::<_, String>((number, agent))
        });
    }
    let mut agents = Vec::with_capacity(args.agents);
    while let Some(started) = starting.join_next().await {
        agents.push(started.map_err(|error| error.to_string())??);
    }
    agents.sort_by_key(|(number, _)| *number);
    Ok(agents.into_iter().map(|(_, agent)| agent).collect())
}

/// How the agents noticed that the controller was gone, and why calls failed: how often and when, from the kill on; and when
/// they had sessions again.
fn downs(agents: &[Agent], killed: Instant) -> Vec<String> {
    let mut times: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
    for agent in agents {
        let heard = agent.heard.borrow();
        for (when, reason) in &heard.downs {
            times
                .entry(reason.clone())
                .or_default()
                .push(*when - killed);
        }
        let up = heard.up.map(|up| up - killed);
        times.entry("session".to_owned()).or_default().extend(up);
    }
    let line = |(what, mut times): (String, Vec<Duration>)| {
        times.sort();
        let count = times.len();
        let part = |of: usize| times.get((count * of / 100).min(count - 1));
        let part = |of| part(of).map_or(0.0, Duration::as_secs_f64);
        let [ten, half, ninety, last] = [10, 50, 90, 100].map(part);
        format!(
            "{count:>6} x {what}: a tenth after {ten:.1} s, half {half:.1} s, nine tenths {ninety:.1} s, the last {last:.1} s"
        )
    };
    times.into_iter().map(line).collect()
}

async fn create_networks(args: &Args, agents: &[Agent]) -> Result<Vec<(NetworkId, IpNet)>, String> {
    let mut names = Vec::new();
    for number in 0..args.networks {
        let subnet = format!("10.{number}.0.0/16").parse::<IpNet>();
        let subnet = subnet.map_err(|_| "at most 256 networks".to_owned())?;
        let name = format!("net{number}");
        let create = NetworkCreate {
            name: name.clone(),
            subnets: vec![subnet],
            ..NetworkCreate::default()
        };
        agents[0].ask(Request::CreateNetwork { create }).await?;
        names.push((name, subnet));
    }
    agents[0]
        .wait(|heard| heard.networks.len() == names.len())
        .await;
    let known = agents[0].heard.borrow().networks.clone();
    let find = |(name, subnet): (String, IpNet)| {
        let network = known.iter().find(|network| network.name == name);
        network.map(|network| (network.id.clone(), subnet))
    };
    Ok(names.into_iter().filter_map(find).collect())
}

/// The networks that an agent has: neighbours share most of them, as racks do.
fn networks_of(
    args: &Args,
    number: usize,
    networks: &[(NetworkId, IpNet)],
) -> Vec<(NetworkId, IpNet)> {
    let mine = (0..args.per_agent).map(|index| (number * args.per_agent + index) % networks.len());
    mine.map(|index| networks[index].clone()).collect()
}

async fn populate(
    args: &Args,
    agents: &Arc<Vec<Agent>>,
    networks: &[(NetworkId, IpNet)],
) -> Result<(), String> {
    let per_network = args.endpoints / args.agents / args.per_agent;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut populating = JoinSet::new();
    for number in 0..agents.len() {
        let mine = networks_of(args, number, networks);
        let (agents, places, all) = (Arc::clone(agents), Arc::clone(&places), args.all);
        populating.spawn(async move {
            let _place = places.acquire().await;
            let agent = &agents[number];
            let ids: BTreeSet<NetworkId> = mine.iter().map(|(id, _)| id.clone()).collect();
            if !all {
                let count = ids.len();
                let (networks, wish) = (ids, 1);
                agent.link.watch(Interest { networks, wish });
                agent.wait(|heard| heard.watched == count).await;
            }
            agent.populate(&mine, per_network).await
        });
    }
    while let Some(populated) = populating.join_next().await {
        populated.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Waits until every agent is as far as the controller is: each asks, since what doesn't concern it isn't told at once.
async fn settle(agents: &Arc<Vec<Agent>>) -> Result<(), String> {
    let mut asking = JoinSet::new();
    for number in 0..agents.len() {
        let agents = Arc::clone(agents);
        asking.spawn(async move {
            agents[number]
                .ask(Request::Newest)
                .await
                .map(|reply| reply.revision)
        });
    }
    let mut newest = 0;
    while let Some(asked) = asking.join_next().await {
        newest = newest.max(asked.map_err(|error| error.to_string())??);
    }
    all(agents, async |agent| {
        agent.wait(|heard| heard.revision >= newest).await
    })
    .await
}

/// For all agents at once, as long as nothing takes longer than it may.
async fn all(agents: &[Agent], wait: impl AsyncFn(&Agent)) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    for (number, agent) in agents.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        if tokio::time::timeout(left, wait(agent)).await.is_err() {
            return Err(format!(
                "agent {number} never got there: {:?}",
                *agent.heard.borrow()
            ));
        }
    }
    Ok(())
}

/// One endpoint after the other changes; each time all who have its network must know.
async fn changes(
    args: &Args,
    (agents, networks): (&[Agent], &[(NetworkId, IpNet)]),
    (table, pid): (&mut Table, u32),
) -> Result<(), String> {
    let (mut times, begun) = (Vec::new(), meter::read(pid));
    for epoch in 2..2 + args.changes as u64 {
        let changer = &agents[usize::try_from(epoch).unwrap_or(0) * 7 % agents.len()];
        let mut endpoint = lock(&changer.endpoints)[0].clone();
        endpoint.epoch = epoch;
        let network = endpoint.network.clone();
        let started = Instant::now();
        changer
            .ask(Request::PutEndpoint {
                endpoint: endpoint.clone(),
            })
            .await?;
        lock(&changer.endpoints)[0] = endpoint;
        let concerned = agents.iter().enumerate().filter(|(number, _)| {
            networks_of(args, *number, networks)
                .iter()
                .any(|(id, _)| *id == network)
        });
        for (_, agent) in concerned {
            let heard = tokio::time::timeout(PATIENCE, agent.wait(|heard| heard.epoch >= epoch));
            heard
                .await
                .map_err(|_| "a change never arrived".to_owned())?;
        }
        times.push(started.elapsed());
    }
    let usage = begun.until_now(pid);
    times.sort();
    let count = u32::try_from(times.len()).unwrap_or(1).max(1);
    let each = Usage {
        time: times.get(times.len() / 2).copied().unwrap_or_default(),
        bytes: usage.bytes / u64::from(count),
        processor: usage.processor / count,
    };
    let most = times.last().copied().unwrap_or_default();
    let more = format!("median; the longest took {:.3} s", most.as_secs_f64());
    table.row(
        "an endpoint changes: all who have its network know",
        each,
        &more,
    );
    Ok(())
}

/// What changes cost a real host that they concern: it has the networks of the first simulated one, whose endpoints change.
async fn real(
    args: &Args,
    (agents, networks): (&[Agent], &[(NetworkId, IpNet)]),
    (table, token): (&mut Table, &str),
) -> Result<(), String> {
    let host = Host::start(CONTROLLER, token)?;
    let mine = networks_of(args, 0, networks);
    for (id, _) in &mine {
        let known = agents[0].heard.borrow().networks.clone();
        let network = known.iter().find(|network| network.id == *id);
        host.connect(&network.ok_or("a network is gone")?.name)?;
    }
    tokio::time::sleep(REST).await;
    let before = host.processor();
    tokio::time::sleep(REST).await;
    let idle = (host.processor() - before).as_secs_f64() / REST.as_secs_f64();
    let of_others = agents.iter().map(|agent| lock(&agent.endpoints).clone());
    let shared = |endpoint: &Endpoint| mine.iter().any(|(id, _)| *id == endpoint.network);
    let count = of_others.flatten().filter(shared).count();

    let (before, begun) = (host.processor(), Instant::now());
    for number in 0..args.changes {
        let endpoint = {
            let mut endpoints = lock(&agents[0].endpoints);
            let place = number % endpoints.len();
            endpoints[place].epoch += 1;
            endpoints[place].clone()
        };
        agents[0].ask(Request::PutEndpoint { endpoint }).await?;
        tokio::time::sleep(APART).await;
    }
    let used = (host.processor() - before).as_secs_f64();
    let each = (used - idle * begun.elapsed().as_secs_f64()) / args.changes.max(1) as f64;
    table.line(&format!(
        "a real agent with {count} endpoints on its networks: {:.1} ms of processor time for each of their changes, {:.1} ms a second idle, {} MiB",
        each * 1e3,
        idle * 1e3,
        host.memory_mib(),
    ));
    Ok(())
}
