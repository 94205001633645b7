//! From a configuration to a running agent, and its orderly end.
//!
//! The order serves the gap that a restart leaves: what the last agent left (map, ports, the file descriptors in the
//! holder) is forwarding again before the controller is even called.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};
use weft_switch::PortEvent;
use weft_tunnel::TunnelError;
use weft_tunnel::session::SessionSettings;

use super::assemble::{Fabric, FabricConfig, FabricError};
use super::credentials::NodeCredentials;
use super::interest::Interest;
use super::outside::{self, Outside};
use super::plan::Touched;
use super::reconcile::Changed;
use super::serve::{self, Phase};
use super::services::Services;
use super::state::{PortRecord, SavedMap, SavedPorts, StateDir};
use super::uplink::UplinkRecord;
use super::{Agent, AgentConfig, Applied, Channel, ENCRYPTED_PORT, Facts, Inner, keeper::Keeper};
use super::{docker, reconcile, session};
use crate::channel::{self, Link, LinkConfig, NodeFacts};
use crate::controller::{self, ControllerConfig, ControllerHandle};
use crate::identity::Identity;
use crate::model::{NetworkId, NodeId, Transport};
use crate::notify;
use crate::privileges;

mod error;
mod membership;
mod restore;
mod underlay;

pub use error::AgentError;
use membership::{check_name, join};
pub(super) use restore::is_gone;
use underlay::{Underlay, find_underlay};

/// How long a stopping agent goes on with requests that it has begun to answer.
const ANSWER_PATIENCE: Duration = Duration::from_millis(500);
/// A predecessor that is just dying may hold the tunnel's port a moment longer than the state directory's lock.
const PORT_PATIENCE: Duration = Duration::from_millis(500);

/// What the state directory remembers of the flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) underlay: Option<IpAddr>,
    pub(super) vxlan_port: Option<u16>,
    #[serde(default)]
    pub(super) encrypted_port: Option<u16>,
    #[serde(default)]
    pub(super) standalone: bool,
}

/// Runs an agent until SIGTERM or SIGINT. Ports outlive it.
///
/// # Errors
/// [`AgentError`], naming object, cause and next step.
pub fn run(config: AgentConfig) -> Result<(), AgentError> {
    // Each queue of a port is a file descriptor here, one with the switch and one with the holder.
    crate::holder::raise_fd_limit();
    // Before there is another thread.
    privileges::keep_only(privileges::AGENT);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weft-control")
        .enable_all()
        .build()
        .map_err(|source| AgentError::System {
            what: "start the runtime",
            source,
        })?;
    runtime.block_on(run_until_told(config))
}

async fn run_until_told(config: AgentConfig) -> Result<(), AgentError> {
    let system = |source| AgentError::System {
        what: "listen for signals",
        source,
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(system)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system)?;
    let told = async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::pin!(told);
    let socket = config.socket.clone();
    let (plugin, exe) = (plugin_socket(&config), config.exe.clone());
    let started = tokio::select! {
        started = Running::start(config) => started?,
        signal = &mut told => {
            info!(signal, "stopped before the agent was up");
            remove_sockets(&socket, plugin.as_deref());
            return Ok(());
        }
    };
    let agent = Arc::clone(&started.agent);
    notify::ready(&agent.summary());
    let told_of = Arc::clone(&agent);
    let telling = tokio::spawn(notify::keep_telling(move || told_of.summary()));
    let by = tokio::select! {
        signal = told => signal,
        () = agent.stop.notified() => "weft agent stop",
    };
    agent.inner().stopping = true;
    info!(by, "stopping");
    telling.abort();
    notify::stopping();
    started.stop().await;
    remove_sockets(&socket, plugin.as_deref());
    if let Some(plugin) = plugin.filter(|_| agent.docker_expects_us()) {
        docker::leave(&exe, &plugin);
    }
    agent.tell_what_stays();
    Ok(())
}

fn plugin_socket(config: &AgentConfig) -> Option<PathBuf> {
    config.docker.as_ref().map(|docker| docker.plugin.clone())
}

fn bind_plugin(config: &AgentConfig) -> Result<Option<Listener>, AgentError> {
    let Some(docker) = &config.docker else {
        return Ok(None);
    };
    if docker::is_stand_in(&docker.plugin) {
        // It ends when it sees that.
        let _ = std::fs::remove_file(&docker.plugin);
    }
    serve::bind(&docker.plugin).map(Some).map_err(|error| {
        let why = error.to_string().replace("--socket", "--docker-socket");
        AgentError::Invalid(format!("cannot serve Docker: {why}"))
    })
}

fn remove_sockets(api: &Path, plugin: Option<&Path>) {
    for socket in [Some(api), plugin].into_iter().flatten() {
        // It may not have been made.
        let _ = std::fs::remove_file(socket);
    }
}

type Listener = std::os::unix::net::UnixListener;

/// A running agent with what must not be dropped before it ends.
struct Running {
    agent: Arc<Agent>,
    controller: Option<ControllerHandle>,
    api: JoinHandle<io::Result<()>>,
}

impl Running {
    async fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let state = StateDir::open(&config.state)?;
        let listener = serve::bind(&config.socket)?;
        let socket = config.socket.clone();
        let plugin = bind_plugin(&config).inspect_err(|_| remove_sockets(&socket, None))?;
        let plugin_socket = plugin_socket(&config);
        let started = Self::start_behind(config, state, (listener, plugin)).await;
        if started.is_err() {
            remove_sockets(&socket, plugin_socket.as_deref());
        }
        started
    }

    /// The socket is bound: it goes again if this fails.
    async fn start_behind(
        config: AgentConfig,
        state: StateDir,
        (listener, plugin): (Listener, Option<Listener>),
    ) -> Result<Self, AgentError> {
        let (phase, phases) = watch::channel(Phase::Joining("the agent is starting".to_owned()));
        let api = tokio::spawn(serve::serve(listener, phases.clone()));
        if let Some(listener) = plugin {
            tokio::spawn(docker::serve(listener, docker::Plugin::new(phases)));
        }

        let mut settings: Settings = state.load_settings()?;
        settings.underlay = config.underlay.or(settings.underlay);
        settings.vxlan_port = config.vxlan_port.or(settings.vxlan_port);
        settings.encrypted_port = config.encrypted_port.or(settings.encrypted_port);
        if settings.standalone && !config.standalone && !config.controllers.is_empty() {
            return Err(AgentError::Standalone {
                dir: config.state.clone(),
            });
        }
        settings.standalone |= config.standalone;
        let underlay = find_underlay(&settings).await?;
        let controller = match settings.standalone {
            true => Some(start_own_controller(&state).await?),
            false => None,
        };
        let facts = node_facts(&settings, &underlay);
        // Before a token is used up: a port that can't be had must not cost it.
        let fabric = start_fabric(FabricConfig {
            underlay: facts.underlay,
            vxlan_port: facts.vxlan_port,
            encrypted_port: facts.encrypted_port,
            workers: config.workers,
            gso: config.gso,
        })?;
        let identity = match Identity::load(&state.path("identity"))? {
            Some(identity) => {
                let identity = check_name(identity, &config)?;
                if let Err(error) = state.save_settings(&settings) {
                    warn!(%error, "new settings can't be saved: the next start needs the same flags again");
                }
                identity
            }
            None => {
                let new = join(&config, &state, controller.as_ref(), &facts, &phase).await?;
                state.save_settings(&settings)?;
                new
            }
        };
        let controllers = match (&controller, config.controllers.is_empty()) {
            (Some(controller), _) => vec![controller.address()],
            (None, true) => known_controllers(&state, &identity)?,
            (None, false) => config.controllers.clone(),
        };
        let place = (facts, underlay, fabric);
        let agent = bring_up(&config, state, identity, controllers, place).await?;
        phase.send_replace(Phase::Running(Arc::clone(&agent)));
        if let Some(docker) = config.docker.clone() {
            tokio::spawn(docker::follow(Arc::clone(&agent), docker));
        }
        Ok(Self {
            agent,
            controller,
            api,
        })
    }

    async fn stop(self) {
        let agent = Arc::clone(&self.agent);
        // Who asked us to stop gets the answer.
        agent.stopped.send_replace(true);
        let _ = tokio::time::timeout(ANSWER_PATIENCE, self.api).await;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || agent.save_map_now()).await {
            warn!(%error, "the cluster map could not be saved");
        }
        let sessions = self.agent.fabric().sessions();
        if let Some(sessions) = sessions {
            sessions.stop().await;
        }
        self.agent.link.close().await;
        if let Some(controller) = self.controller {
            controller.stop().await;
        }
    }
}

/// What this node tells the controller of itself.
/// Those that the cluster told of last, then those that took the node in.
fn known_controllers(state: &StateDir, identity: &Identity) -> Result<Vec<SocketAddr>, AgentError> {
    let told = state.load_controllers()?;
    let joined = identity.controllers.iter();
    let more = joined.filter(|joined| !told.contains(joined));
    Ok(told.iter().chain(more).copied().collect())
}

fn node_facts(settings: &Settings, underlay: &Underlay) -> NodeFacts {
    let encrypted_port = settings.encrypted_port.unwrap_or(ENCRYPTED_PORT);
    let encrypted_port = Some(encrypted_port).filter(|port| *port != 0);
    NodeFacts {
        underlay: underlay.address,
        underlay_mtu: underlay.mtu,
        vxlan_port: settings.vxlan_port.unwrap_or(weft_wire::vxlan::VXLAN_PORT),
        encrypted_port,
        transports: match encrypted_port {
            Some(_) => vec![Transport::Vxlan, Transport::Quic],
            None => vec![Transport::Vxlan],
        },
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

async fn start_own_controller(state: &StateDir) -> Result<ControllerHandle, AgentError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let config = ControllerConfig::new(state.path("controller"), listen);
    let handle = controller::start(config).await?;
    info!(address = %handle.address(), "standalone: own controller started");
    Ok(handle)
}

/// Starts forwarding with what the last agent left, then calls the controller.
async fn bring_up(
    config: &AgentConfig,
    state: StateDir,
    identity: Identity,
    controllers: Vec<SocketAddr>,
    (node_facts, underlay, (mut fabric, port_events)): (NodeFacts, Underlay, StartedFabric),
) -> Result<Arc<Agent>, AgentError> {
    let saved = state.load_map(&identity.cluster)?;
    let SavedPorts {
        ports: mut records,
        yielded,
        returning,
        uplinks,
    } = state.load_ports()?;
    adopt(&mut records, &identity.node_id);
    let ledger = state.load_docker()?;
    let keeper = Keeper::start(state.path("holder.sock"), config.exe.clone());
    let underlay_mtu = underlay.mtu;
    let facts = facts(config.workers, &identity, (&node_facts, underlay));
    let uplinks = uplinks.into_iter().collect();
    let mut inner = Inner::starting(saved, &facts.node, (&records, uplinks), controllers.clone());
    let (link, link_events) = call(identity, (controllers, node_facts), (&state, &inner))?;
    let credentials = NodeCredentials::new(link.identity());
    fabric.start_sessions(credentials, session_settings(config))?;
    inner.returning = returning;
    inner.yielded = yielded.into_iter().map(|ip| (ip, Instant::now())).collect();
    let services = Arc::new(Services::new(config.dns_upstreams.clone()));
    let agent = Arc::new(Agent {
        facts,
        state,
        link,
        keeper,
        inner: Mutex::new(inner),
        fabric: Mutex::new(fabric),
        services: Arc::clone(&services),
        outside: start_outside(services)?,
        underlay_mtu: ArcSwap::from_pointee(underlay_mtu),
        measured: ArcSwap::default(),
        saving: Mutex::new(()),
        docker: docker::Desk::new(ledger),
        changed: Changed::default(),
        resync: Notify::new(),
        reporting: tokio::sync::RwLock::default(),
        stop: Notify::new(),
        stopped: watch::Sender::new(false),
        applied: watch::Sender::new(Applied {
            revision: 0,
            behind: Some("the agent is starting".to_owned()),
            granted: None,
        }),
    });
    agent.restore(records).await?;
    agent.resume_docker();
    spawn_tasks(&agent, port_events, link_events);
    Ok(agent)
}

/// Takes over the ports that this host had as another node: it was removed, and joined anew under another key. Their
/// addresses were given up with that node; the first report takes back those that nobody else was given.
fn adopt(records: &mut [PortRecord], node: &NodeId) {
    let strange = records
        .iter_mut()
        .filter(|record| record.endpoint.node != *node);
    let mut adopted = 0;
    for record in strange {
        record.endpoint.node = node.clone();
        adopted += 1;
    }
    if adopted > 0 {
        info!(
            ports = adopted,
            "this host is another node than before, and takes its ports along"
        );
    }
}

/// Calls the controllers, from what is known already.
fn call(
    identity: Identity,
    (controllers, facts): (Vec<SocketAddr>, NodeFacts),
    (state, inner): (&StateDir, &Inner),
) -> Result<(Link, mpsc::Receiver<channel::LinkEvent>), AgentError> {
    let config = LinkConfig {
        identity,
        identity_dir: Some(state.path("identity")),
        controllers,
        facts,
        have: inner.map.revision,
        incarnation: inner.incarnation.clone(),
        interest: Some(inner.interest.wanted()),
        has: inner.interest.has().cloned(),
    };
    Link::start(config).map_err(|source| AgentError::System {
        what: "open the control channel's socket",
        source,
    })
}

fn facts(workers: usize, identity: &Identity, (told, underlay): (&NodeFacts, Underlay)) -> Facts {
    Facts {
        cluster: identity.cluster.clone(),
        node: identity.node_id.clone(),
        node_name: identity.node_name.clone(),
        underlay: underlay.address,
        underlay_ifname: underlay.ifname,
        vxlan_port: told.vxlan_port,
        encrypted_port: told.encrypted_port,
        workers,
        standalone: underlay.standalone,
        started: Instant::now(),
    }
}

fn start_outside(services: Arc<Services>) -> Result<Outside, AgentError> {
    Outside::start(services).map_err(|source| AgentError::System {
        what: "start the way out",
        source,
    })
}

fn session_settings(config: &AgentConfig) -> SessionSettings {
    let usual = SessionSettings::default();
    SessionSettings {
        rekey_after: config.rekey_after.unwrap_or(usual.rekey_after),
        idle_after: config.idle_after.unwrap_or(usual.idle_after),
    }
}

/// Switch and tunnel, and what happens to ports.
type StartedFabric = (Fabric, mpsc::UnboundedReceiver<PortEvent>);

fn start_fabric(config: FabricConfig) -> Result<StartedFabric, FabricError> {
    let patience = Instant::now() + PORT_PATIENCE;
    loop {
        match Fabric::start(config) {
            Err(FabricError::Tunnel(TunnelError::PortTaken { .. }))
                if Instant::now() < patience =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

fn spawn_tasks(
    agent: &Arc<Agent>,
    port_events: mpsc::UnboundedReceiver<PortEvent>,
    link_events: mpsc::Receiver<channel::LinkEvent>,
) {
    tokio::spawn(reconcile::follow(Arc::clone(agent)));
    tokio::spawn(reconcile::save_map(Arc::clone(agent)));
    tokio::spawn(session::follow(Arc::clone(agent), link_events));
    tokio::spawn(session::tell(Arc::clone(agent)));
    tokio::spawn(follow_ports(Arc::clone(agent), port_events));
    tokio::spawn(follow_paths(Arc::clone(agent)));
    tokio::spawn(underlay::follow_link(Arc::clone(agent)));
    tokio::spawn(super::keeper::watch(Arc::clone(agent)));
    tokio::spawn(super::uplink::watch(Arc::clone(agent)));
    tokio::spawn(super::interest::follow(Arc::clone(agent)));
    tokio::spawn(super::credentials::follow(Arc::clone(agent)));
    let service_ports = agent.fabric().services();
    tokio::spawn(outside::serve(Arc::clone(agent), service_ports));
    agent.changed.notify_one();
}

/// Lets the containers' MTU follow the paths.
async fn follow_paths(agent: Arc<Agent>) {
    let changes = agent.fabric().path_changes();
    let measured = tokio::time::sleep(reconcile::UNMEASURED);
    tokio::pin!(measured);
    let mut first = true;
    loop {
        tokio::select! {
            () = changes.notified() => {}
            () = &mut measured, if first => first = false,
        }
        agent.changed.notify_one();
    }
}

/// Takes down ports whose namespace died, and notes who uses others' addresses.
async fn follow_ports(agent: Arc<Agent>, mut events: mpsc::UnboundedReceiver<PortEvent>) {
    while let Some(event) = events.recv().await {
        let port = match event {
            PortEvent::Gone(port) => port,
            PortEvent::Claims(port, claim) => {
                agent.note_claim(port, claim);
                continue;
            }
        };
        let again = Arc::clone(&agent);
        // Waits for the workers.
        let was_uplink = tokio::task::spawn_blocking(move || again.uplink_gone(port)).await;
        if was_uplink.is_ok_and(|was| was) {
            agent.changed.notify_one();
            continue;
        }
        let gone = {
            let inner = agent.inner();
            let gone = inner.ports.values().find(|candidate| candidate.id == port);
            // The number may be another port's by now.
            let gone = gone.filter(|port| port.fds.first().is_none_or(|fd| is_gone(fd.as_fd())));
            gone.map(|port| (port.record.endpoint.clone(), port.record.netns.clone()))
        };
        if let Some((endpoint, netns)) = gone {
            info!(port = %endpoint.name, %netns, "namespace is gone");
            let agent = Arc::clone(&agent);
            // Each on its own: a hundred namespaces may die at once.
            tokio::spawn(async move { agent.take_down(&endpoint.id).await });
        }
    }
}

impl Inner {
    /// What is known before the controller is called.
    pub(super) fn starting(
        saved: SavedMap,
        node: &NodeId,
        (records, uplinks): (&[PortRecord], BTreeSet<UplinkRecord>),
        controllers: Vec<SocketAddr>,
    ) -> Self {
        let epochs = records.iter().map(|record| record.endpoint.epoch);
        let ports = records.iter().map(|record| &record.endpoint.network);
        let used = ports.chain(uplinks.iter().map(|uplink| &uplink.network));
        // Where it has a block it may be wanted again, while no controller answers, too.
        let blocks = saved.map.blocks.of_node(node);
        let blocks = blocks.map(|block| &block.object.network);
        let had =
            |network: &&NetworkId| saved.has.as_ref().is_some_and(|has| has.contains(network));
        let used = used.chain(blocks.filter(had)).cloned().collect();
        Self {
            epoch: epochs.fold(saved.map.revision, u64::max),
            map: saved.map,
            incarnation: saved.incarnation,
            ports: BTreeMap::new(),
            pending: BTreeMap::new(),
            leaving: BTreeMap::new(),
            yielded: BTreeMap::new(),
            returning: Default::default(),
            returned: BTreeMap::new(),
            uplinks,
            held: BTreeSet::new(),
            docker_networks: BTreeSet::new(),
            interest: Interest::starting(saved.has, used),
            touched: Touched::everything(),
            channel: Channel::new(controllers),
            warnings: Vec::new(),
            unsaved: BTreeMap::new(),
            duplicates: super::Duplicates::default(),
            stopping: false,
        }
    }
}

impl Channel {
    fn new(addresses: Vec<SocketAddr>) -> Self {
        Self {
            addresses,
            connected: None,
            since: Instant::now(),
            error: None,
            caught_up: false,
            told: false,
        }
    }
}
