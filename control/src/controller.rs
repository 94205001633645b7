//! The controller: keeps a cluster's map, decides what may change in it, and tells every agent.
//!
//! | file | what |
//! |---|---|
//! | `decide` | what a request comes to: pure |
//! | `ledger` | the map in memory and in the store; one change after the other |
//! | `claims` | addresses claimed but not used, until they are given up |
//! | `fellows` | the other controllers, when the store is shared |
//! | `data` | the data directory, and the lock on it where the store is elsewhere |
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
mod commands;
mod data;
pub mod decide;
mod error;
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
mod tokens;
mod transfer;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::VarInt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use crate::api::TokenInfo;
use crate::channel::close;
use crate::identity::JoinToken;
use crate::identity::authorities::Authorities;
use crate::identity::ca::{CA_VALIDITY, CERT_TTL};
use crate::model::{ClusterId, ClusterMap};
use crate::notify;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::store::{Store, unix_now};
use claims::Claims;
pub use commands::{
    advance_authority, authority, list_tokens, mint_token, revoke_token, rotate_authority, status,
};
use data::DataLock;
use data::open_store;
pub use error::ControllerError;
use fellows::Fellows;
use ledger::Ledger;
use refusals::Refusals;
use session::Sessions;
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
    let mark = data::mark(&config.data);
    let endpoint = serve::endpoint(&authorities, mark, (socket, config.cert_ttl))?;
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
