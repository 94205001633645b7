//! The agent as Docker's network and IPAM driver: carries out the calls that [`crate::docker`] reads.
//!
//! | file | what |
//! |---|---|
//! | `serve` | the plugin's socket: who is answered when, and never later than Docker waits |
//! | `absent` | who answers while the agent is stopped |
//! | `network` | Docker networks and the overlays that they are on |
//! | `pool` | ranges and addresses |
//! | `endpoint` | containers' interfaces: the TAP is made here, dockerd moves it |
//! | `host` | Docker's own API: names of containers, and what Docker forgot |
//!
//! **What Docker has been given** is in the [`Ledger`], on disk before Docker is answered. An address is Docker's from
//! `RequestAddress` to `ReleaseAddress`, whatever happens to the container: [`Inner::held`] keeps it from everybody else.
//!
//! **An endpoint** is told to the cluster at `CreateEndpoint`, so that a conflict refuses it, and gets its TAP at `Join`.
//! Docker then moves the TAP into the container, names it and gives it its addresses, and takes it out again before
//! `DeleteEndpoint`, which destroys it. Leave therefore only closes its published ports.
//!
//! **dockerd** may die between any two calls, and asks us while it holds locks of its own; so nothing here calls Docker
//! back but `host`, in its own time.

mod absent;
mod endpoint;
mod host;
mod network;
mod pool;
mod serve;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::attach::blocking;
use super::{Agent, ApiError, Inner, Pending};
use crate::docker::ledger::{Ledger, UnixSecs};
use crate::model::NetworkId;

pub use absent::stand_in;
pub(super) use absent::{is_stand_in, leave};
pub(super) use host::follow;
pub(super) use serve::{Plugin, serve};

/// Where Docker looks for a plugin that is called weft.
pub const DEFAULT_PLUGIN_SOCKET: &str = "/run/docker/plugins/weft.sock";
/// Where dockerd answers.
pub const DEFAULT_DOCKER_HOST: &str = "/run/docker.sock";

/// How the agent is to serve Docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerConfig {
    /// The plugin's socket; its name without `.sock` is the driver's name.
    pub plugin: PathBuf,
    /// The unix socket of dockerd's own API.
    pub host: PathBuf,
}

impl DockerConfig {
    /// What users give to `docker network create --driver`.
    fn driver(&self) -> String {
        let name = self.plugin.file_stem().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }
}

/// What Docker was given. Locked before `Agent::inner`.
#[derive(Debug, Default)]
pub(super) struct Desk {
    ledger: Mutex<Ledger>,
    /// Orders the changes, each with its write.
    saving: Mutex<()>,
    /// Held while a Docker network is put on an overlay, and while an overlay goes with its last Docker network.
    overlays: tokio::sync::Mutex<()>,
}

impl Desk {
    pub(super) const fn new(ledger: Ledger) -> Self {
        Self {
            ledger: Mutex::new(ledger),
            saving: Mutex::new(()),
            overlays: tokio::sync::Mutex::const_new(()),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Agent {
    /// Takes up what the last agent had given to Docker. Addresses and endpoints without a port are nobody else's.
    pub(super) fn resume_docker(&self) {
        let ledger = self.docker.ledger();
        let mut inner = self.inner();
        inner.held = held(&ledger, &inner);
        inner.docker_networks = networks(&ledger, &inner);
        for (_, entry) in ledger.endpoints().filter(|(_, entry)| !entry.joined) {
            let id = entry.endpoint.id.clone();
            inner.epoch = inner.epoch.max(entry.endpoint.epoch);
            let pending = Pending {
                endpoint: entry.endpoint.clone(),
                netns_id: (0, 0),
                attachment: None,
                complete: true,
                refused: None,
            };
            if !inner.ports.contains_key(&id) {
                inner.pending.insert(id, pending);
            }
        }
    }

    /// Whether Docker would call for the agent when it starts.
    pub(super) fn docker_expects_us(&self) -> bool {
        !self.docker.ledger().is_empty()
    }

    /// Keeps Docker's addresses from everybody else, on the networks that the map has now.
    pub(super) fn refresh_held(&self) {
        let ledger = self.docker.ledger();
        let mut inner = self.inner();
        inner.held = held(&ledger, &inner);
        inner.docker_networks = networks(&ledger, &inner);
    }

    /// Changes what Docker has and writes it down. What can't be written isn't changed.
    async fn note<T: Send + 'static>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Ledger) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let agent = Arc::clone(self);
        blocking(move || {
            let saving = &agent.docker.saving;
            let _order = saving.lock().unwrap_or_else(PoisonError::into_inner);
            let before = agent.docker.ledger().clone();
            let mut ledger = before.clone();
            let value = change(&mut ledger);
            if ledger != before {
                agent.state.save_docker(&ledger).map_err(|error| {
                    ApiError::internal(error.to_string())
                        .hint("make room or mend the file system, then try again")
                })?;
                *agent.docker.ledger() = ledger;
            }
            agent.refresh_held();
            Ok(value)
        })
        .await
    }
}

/// The addresses that Docker has, by the networks that the map has now.
fn held(ledger: &Ledger, inner: &Inner) -> BTreeSet<(NetworkId, IpAddr)> {
    let held = ledger.held().filter_map(|(name, ip)| {
        let network = inner.map.network_named(name)?;
        Some((network.id.clone(), ip))
    });
    held.collect()
}

/// The networks that Docker has on this host.
fn networks(ledger: &Ledger, inner: &Inner) -> BTreeSet<NetworkId> {
    let named = ledger.overlays();
    let known = named.filter_map(|name| inner.map.network_named(name));
    known.map(|network| network.id.clone()).collect()
}

fn now() -> UnixSecs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Enough of one of Docker's ids for people, as Docker itself shows it.
fn short(id: &str) -> &str {
    let end = id.char_indices().nth(12).map_or(id.len(), |(end, _)| end);
    id.get(..end).unwrap_or(id)
}
