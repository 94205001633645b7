//! The controller: keeps a cluster's map, decides what may change in it, and tells every agent.
//!
//! | file | what |
//! |---|---|
//! | `decide` | what a request comes to: pure |
//! | `ledger` | the map in memory and in the store; one change after the other |
//! | `claims` | addresses claimed but not used, until they are given up |
//! | `fellows` | the other controllers, when the store is shared |
//! | `data` | the data directory of a controller whose store is elsewhere |
//! | `serve` | who may talk: QUIC connections, their certificates and protocols |
//! | `audience` | whom a change concerns |
//! | `session` | one agent: hello, the map and its changes, its requests |
//! | `requests` | from a request to a decision to a reply |
//! | `join` | how nodes become members |
//! | `rotation` | replacing the cluster's authority, step by step |
//! | `refusals` | who was turned away: counted, and told at a bounded rate |
//! | `tokens` | join tokens: made, listed, revoked |
//! | `transfer` | a cluster leaves its store as one document, or comes from one |
//! | `admin` | the unix socket by which `weft controller token` reaches a running controller |
//!
//! A change is durable before anybody hears of it: the store commits, then the map in memory changes, then the sessions
//! push it. A controller that is killed loses nothing that it ever told.

mod admin;
mod audience;
mod board;
mod claims;
mod data;
pub mod decide;
mod fellows;
mod join;
mod ledger;
mod log;
mod places;
mod push;
mod reading;
mod refusals;
mod requests;
mod rotation;
mod serve;
mod session;
mod setbacks;
mod tokens;
mod transfer;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use quinn::VarInt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::api::{AuthorityInfo, ControllerReport, TokenInfo};
use crate::channel::{Refusal, close};
use crate::identity::authorities::Authorities;
use crate::identity::ca::{CA_VALIDITY, CERT_TTL};
use crate::identity::{IdentityError, JoinToken};
use crate::model::{ClusterId, ClusterMap};
use crate::notify;
use crate::store::dump::DumpError;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::store::redb::RedbStore;
use crate::store::{Store, StoreError, unix_now};
use admin::{Answer, Question};
use claims::Claims;
use data::DataLock;
use fellows::Fellows;
use ledger::Ledger;
use refusals::Refusals;
use session::Sessions;
use setbacks::SetBacks;
pub use tokens::TokenSpec;
pub use transfer::{export, import};

/// How long a stopping controller waits for its agents to hear of it.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Nodes renew their certificates with a third of this left; as long as the authority's at most.
const CERT_TTLS: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=CA_VALIDITY;

/// How a controller is to run.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// Where its store is.
    pub data: PathBuf,
    /// UDP address for the control channel; port 0 takes a free one.
    pub listen: SocketAddr,
    /// How long nodes' certificates last; they are renewed with a third of it left.
    pub cert_ttl: Duration,
    /// A store that controllers share; in `data` when `None`.
    pub store: Option<EtcdConfig>,
    /// Where agents reach this controller; `listen` when empty, if that is one address.
    pub advertise: Vec<SocketAddr>,
}

impl ControllerConfig {
    /// With all else as it is when nobody says otherwise.
    pub fn new(data: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data,
            listen,
            cert_ttl: CERT_TTL,
            store: None,
            advertise: Vec::new(),
        }
    }
}

/// A controller that is just being started (`controller run &` in a script) is waited for this long: until it answers,
/// its data is not there yet, or locked.
const STARTING_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked for.
const STARTING_LOOK: Duration = Duration::from_millis(50);

/// Why a controller doesn't run, or a token can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The listen address is somebody else's.
    #[error("this host has no address {}: the controller can't listen on {listen}; give --listen one of this host's addresses, or 0.0.0.0:{} for all", listen.ip(), listen.port())]
    NotOurAddress {
        /// As configured.
        listen: SocketAddr,
    },
    /// The listen port is taken.
    #[error("UDP port {} of {} is taken by another program (`ss -ulpn` shows which); stop that or give --listen another port", listen.port(), listen.ip())]
    PortTaken {
        /// As configured.
        listen: SocketAddr,
    },
    /// The listen address can't be used for another reason.
    #[error("cannot listen on {listen}: {source}; give --listen another address")]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The admin socket.
    #[error("cannot {what} {path}: {cause}", path = path.display())]
    Admin {
        /// The verb.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The cause and what to do.
        cause: String,
    },
    /// A token's lifetime.
    #[error("a token can't live {} seconds; give --ttl between 1 second and 10 years", .0.as_secs())]
    Ttl(Duration),
    /// How many nodes a token lets in.
    #[error("a token can't let in {0} nodes; give --uses between 1 and 10000")]
    Uses(u32),
    /// How long nodes' certificates last.
    #[error("certificates can't last {} seconds; give --cert-ttl between 10 seconds and 20 years", .0.as_secs())]
    CertTtl(Duration),
    /// The authority is being replaced already, or isn't.
    #[error("{0}")]
    Rotation(&'static str),
    /// No such token.
    #[error("token {0:?} is not known; `weft controller token ls` lists the ids")]
    UnknownToken(String),
    /// A controller that runs can't do what it was asked; it may be about to end.
    #[error("{0}")]
    Failed(Refusal),
    /// A controller that runs refused what it was asked.
    #[error("{0}")]
    Refused(Refusal),
    /// An exported cluster.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The operating system.
    #[error("cannot {what}: {source}")]
    System {
        /// The verb.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Code of what isn't the asker's fault.
const FAILED: &str = "controller";

impl ControllerError {
    /// For programs: of what an operator asked on the controller's host.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) | Self::Failed(refusal) => &refusal.code,
            Self::UnknownToken(_) => "unknown_token",
            Self::Rotation(_) | Self::Store(StoreError::AuthorityConflict) => "rotation",
            Self::Store(_)
            | Self::Identity(_)
            | Self::NotOurAddress { .. }
            | Self::PortTaken { .. }
            | Self::Listen { .. }
            | Self::Admin { .. }
            | Self::Ttl(_)
            | Self::Uses(_)
            | Self::CertTtl(_)
            | Self::Dump(_)
            | Self::System { .. } => FAILED,
        }
    }
}

/// What all tasks of a controller share.
///
/// Locks: `joining` before the ledger's; `claims` and the sessions' are held for moments only and never together.
#[derive(Debug)]
struct Core {
    cluster: ClusterId,
    authorities: ArcSwap<Authorities>,
    /// How long nodes' certificates last.
    cert_ttl: Duration,
    refusals: Refusals,
    /// Somebody here changed the authorities: they aren't what they were a moment ago.
    rotated: Notify,
    ledger: Ledger,
    sessions: Sessions,
    fellows: Fellows,
    claims: Mutex<Claims>,
    set_backs: SetBacks,
    /// One join at a time: checking a token and using it up must not be parted.
    joining: tokio::sync::Mutex<()>,
    /// Held while the store is elsewhere.
    _data: Option<DataLock>,
}

/// A running controller. It stops when this is dropped; [`ControllerHandle::stop`] waits for it.
#[derive(Debug)]
pub struct ControllerHandle {
    core: Arc<Core>,
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    admin: PathBuf,
}

/// Runs a controller until SIGTERM or SIGINT.
///
/// # Errors
/// [`ControllerError`], naming object, cause and next step.
pub fn run(config: ControllerConfig) -> Result<(), ControllerError> {
    let system = |what| move |source| ControllerError::System { what, source };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("weft-controller")
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    runtime.block_on(async {
        let mut terminate =
            signal(SignalKind::terminate()).map_err(system("listen for signals"))?;
        let mut interrupt =
            signal(SignalKind::interrupt()).map_err(system("listen for signals"))?;
        let handle = start(config).await?;
        let status = format!("agents reach it at {}", handle.address());
        notify::ready(&status);
        let telling = tokio::spawn(notify::keep_telling(move || status.clone()));
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "controller stopping");
        telling.abort();
        notify::stopping();
        handle.stop().await;
        Ok(())
    })
}

/// Starts a controller inside a tokio runtime.
///
/// # Errors
/// [`ControllerError`], naming object, cause and next step.
pub async fn start(config: ControllerConfig) -> Result<ControllerHandle, ControllerError> {
    if !CERT_TTLS.contains(&config.cert_ttl) {
        return Err(ControllerError::CertTtl(config.cert_ttl));
    }
    // First what can't be ours: nothing is made when the address isn't.
    let socket = bind(config.listen)?;
    let (store, data, shared) = open(&config).await?;
    let authorities = rotation::load(&*store).await?;
    let endpoint = serve::endpoint(&authorities, (socket, config.cert_ttl))?;
    let address = endpoint
        .local_addr()
        .map_err(|source| ControllerError::Listen {
            listen: config.listen,
            source,
        })?;
    let ledger = Ledger::load(store).await?;
    let (fellows, events) = Fellows::of(shared, advertised(&config, address)).await?;
    let core = Arc::new(Core {
        cluster: authorities.cluster().clone(),
        authorities: ArcSwap::from_pointee(authorities),
        cert_ttl: config.cert_ttl,
        refusals: Refusals::default(),
        rotated: Notify::new(),
        ledger,
        sessions: Sessions::default(),
        fellows,
        claims: Mutex::default(),
        set_backs: SetBacks::default(),
        joining: tokio::sync::Mutex::new(()),
        _data: data,
    });
    let (stop, stopping) = watch::channel(false);
    let admin = admin::serve(&config.data, Arc::clone(&core), stopping.clone())?;
    tokio::spawn(serve::accept(
        Arc::clone(&core),
        endpoint.clone(),
        stopping.clone(),
    ));
    tokio::spawn(rotation::follow(
        Arc::clone(&core),
        endpoint.clone(),
        stopping.clone(),
    ));
    tokio::spawn(claims::sweep(Arc::clone(&core), stopping.clone()));
    tokio::spawn(follow_store(Arc::clone(&core), stopping.clone()));
    fellows::run(&core, events, &stopping);
    info!(cluster = %core.cluster, %address, revision = core.ledger.revision(), "controller started");
    Ok(ControllerHandle {
        core,
        endpoint,
        address,
        stop,
        admin,
    })
}

/// The store, the lock on the data directory if the store isn't in it, and the store once more if it is shared.
type Opened = (Arc<dyn Store>, Option<DataLock>, Option<EtcdStore>);

async fn open(config: &ControllerConfig) -> Result<Opened, ControllerError> {
    let data = config.data.clone();
    let Some(etcd) = &config.store else {
        let store = blocking(move || Ok(open_store(&data)?)).await?;
        return Ok((Arc::new(store), None, None));
    };
    let lock = blocking(move || Ok(DataLock::take(&data)?)).await?;
    let store = EtcdStore::open_or_make(etcd).await?;
    Ok((Arc::new(store.clone()), Some(lock), Some(store)))
}

/// What agents are told of where this controller is.
fn advertised(config: &ControllerConfig, address: SocketAddr) -> Vec<SocketAddr> {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    if config.store.is_some() && address.ip().is_unspecified() {
        warn!(%address, "agents can't learn of this controller from others: give --advertise with an address of this host");
    }
    let said = Some(address).filter(|address| !address.ip().is_unspecified());
    said.into_iter().collect()
}

async fn follow_store(core: Arc<Core>, mut stopping: watch::Receiver<bool>) {
    tokio::select! {
        () = stopped(&mut stopping) => {}
        () = core.ledger.follow() => {}
    }
}

impl ControllerHandle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster it keeps.
    pub fn cluster(&self) -> &ClusterId {
        &self.core.cluster
    }

    /// Makes a join token that lives for `ttl`.
    ///
    /// # Errors
    /// [`ControllerError::Ttl`], [`ControllerError::Store`].
    pub async fn mint_token(&self, ttl: Duration) -> Result<JoinToken, ControllerError> {
        self.core.mint_token(TokenSpec::once(ttl)).await
    }

    /// Tells the agents and stops; the store is closed when it returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.endpoint.close(
            VarInt::from_u32(close::STOPPING),
            b"the controller is stopping",
        );
        let _ = tokio::time::timeout(STOP_PATIENCE, self.endpoint.wait_idle()).await;
        // Whoever isn't told sees it by the lease.
        let _ = tokio::time::timeout(STOP_PATIENCE, self.core.fellows.leave()).await;
        let _ = std::fs::remove_file(&self.admin);
        let core = Arc::downgrade(&self.core);
        drop(self);
        for _ in 0..200 {
            if core.strong_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for ControllerHandle {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.endpoint.close(
            VarInt::from_u32(close::STOPPING),
            b"the controller is stopping",
        );
    }
}

impl Core {
    async fn mint_token(&self, spec: TokenSpec) -> Result<JoinToken, ControllerError> {
        let token = tokens::mint(self.ledger.store(), &self.authorities.load(), spec).await?;
        info!(token = %token.id, ttl_secs = spec.ttl.as_secs(), uses = spec.uses, "join token made");
        Ok(token)
    }

    async fn tokens(&self) -> Result<Vec<TokenInfo>, ControllerError> {
        let map = self.ledger.read(names_only);
        tokens::list(self.ledger.store(), &map).await
    }

    async fn revoke_token(&self, id: &str) -> Result<(), ControllerError> {
        tokens::revoke(self.ledger.store(), id).await?;
        info!(token = id, "join token revoked");
        Ok(())
    }
}

/// A map with nothing but the nodes.
fn names_only(map: &ClusterMap) -> ClusterMap {
    ClusterMap {
        nodes: map.nodes.clone(),
        ..ClusterMap::default()
    }
}

/// Makes a join token for the cluster kept in `data`: through the controller that runs there, or by itself when none
/// does. Blocks; not for use inside a runtime.
///
/// # Errors
/// [`ControllerError`]; [`StoreError::Absent`] when there is no cluster.
pub fn mint_token(data: &Path, spec: TokenSpec) -> Result<JoinToken, ControllerError> {
    let spec = spec.check()?;
    let TokenSpec { ttl, uses } = spec;
    let question = Question::MintToken {
        ttl_secs: ttl.as_secs(),
        uses,
    };
    match ask(data, &question)? {
        Asked::Running(answer) => answer.token(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let authorities = rotation::load(&store).await?;
            tokens::mint(&store, &authorities, spec).await
        }),
    }
}

/// The join tokens of the cluster kept in `data`, without their secrets. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn list_tokens(data: &Path) -> Result<Vec<TokenInfo>, ControllerError> {
    match ask(data, &Question::ListTokens)? {
        Asked::Running(answer) => Ok(answer.tokens),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let map = store.snapshot().await?.map;
            tokens::list(&store, &map).await
        }),
    }
}

/// Makes a join token of the cluster kept in `data` worthless. Nodes that joined with it stay. Blocks; not for use inside
/// a runtime.
///
/// # Errors
/// [`ControllerError::UnknownToken`], and as [`mint_token`].
pub fn revoke_token(data: &Path, id: &str) -> Result<(), ControllerError> {
    match ask(data, &Question::RevokeToken { id: id.to_owned() })? {
        Asked::Running(_) => Ok(()),
        Asked::Alone(store, runtime) => runtime.block_on(tokens::revoke(&store, id)),
    }
}

/// How the controller is that runs on `data`, or what is kept there when none does. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn status(data: &Path) -> Result<ControllerReport, ControllerError> {
    match ask(data, &Question::Status)? {
        Asked::Running(answer) => answer.status(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let map = store.snapshot().await?.map;
            Ok(ControllerReport {
                running: false,
                cluster: store.authority().await?.cluster.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: map.revision,
                nodes: map.nodes.len(),
                connected: 0,
                refused: BTreeMap::new(),
            })
        }),
    }
}

/// The authority of the cluster kept in `data`, and how far it is being replaced. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::Authority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = store.authority().await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Begins to replace the authority of the cluster kept in `data`; running controllers take it on from there. Blocks; not
/// for use inside a runtime.
///
/// # Errors
/// [`ControllerError::Rotation`] when it is being replaced already, and as [`mint_token`].
pub fn rotate_authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::RotateAuthority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = rotation::begin(&store).await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Takes the replacement of the authority one step further, though nodes aren't ready: in the end they must join anew.
/// Blocks; not for use inside a runtime.
///
/// # Errors
/// [`ControllerError::Rotation`] when it isn't being replaced, and as [`mint_token`].
pub fn advance_authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::AdvanceAuthority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = rotation::advance(&store).await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Who answered.
enum Asked {
    /// The controller that runs.
    Running(Answer),
    /// Nobody: the store is ours meanwhile.
    Alone(RedbStore, tokio::runtime::Runtime),
}

fn ask(data: &Path, question: &Question) -> Result<Asked, ControllerError> {
    let patience = Instant::now() + STARTING_PATIENCE;
    loop {
        match admin::ask(data, question) {
            Ok(Some(answer)) => return Ok(Asked::Running(answer)),
            Ok(None) => {}
            // It died with our question, or is dying: then its store fails, too.
            Err(ControllerError::Admin { .. } | ControllerError::Failed(_))
                if Instant::now() < patience =>
            {
                std::thread::sleep(STARTING_LOOK);
                continue;
            }
            Err(error) => return Err(error),
        }
        match RedbStore::open(data) {
            Ok(store) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                let runtime = runtime.map_err(|source| ControllerError::System {
                    what: "start the runtime",
                    source,
                })?;
                return Ok(Asked::Alone(store, runtime));
            }
            Err(StoreError::Absent { .. } | StoreError::Locked { .. })
                if Instant::now() < patience =>
            {
                std::thread::sleep(STARTING_LOOK);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens the store. A token that is just being minted, or a controller that is just dying, holds it for a moment only.
fn open_store(data: &Path) -> Result<RedbStore, StoreError> {
    let patience = Instant::now() + STARTING_PATIENCE;
    loop {
        match RedbStore::open_or_make(data) {
            Err(StoreError::Locked { .. }) if Instant::now() < patience => {
                std::thread::sleep(STARTING_LOOK);
            }
            result => return result,
        }
    }
}

/// Returns when the controller is to stop, or its handle is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that the handle is gone.
    let _ = stopping.wait_for(|stop| *stop).await;
}

fn bind(listen: SocketAddr) -> Result<UdpSocket, ControllerError> {
    UdpSocket::bind(listen).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrNotAvailable {
            return ControllerError::NotOurAddress { listen };
        }
        if source.kind() == io::ErrorKind::AddrInUse {
            return ControllerError::PortTaken { listen };
        }
        ControllerError::Listen { listen, source }
    })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControllerError> + Send + 'static,
) -> Result<T, ControllerError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            let source = io::Error::other(error);
            Err(ControllerError::System {
                what: "work on the store",
                source,
            })
        })
}

#[cfg(test)]
mod tests;
