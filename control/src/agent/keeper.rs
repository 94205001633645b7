//! The agent's side of the fd holder: deposits every port's file descriptors there and gets them back after a restart.
//! A holder that dies is replaced and filled again; while there is none, ports work but would not survive the agent.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::{info, warn};

use super::Agent;
use crate::holder::{HolderClient, HolderError};

/// How often the holder is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection to the fd holder that is made again when it breaks.
#[derive(Debug)]
pub(super) struct Keeper {
    socket: PathBuf,
    exe: PathBuf,
    client: Mutex<Option<HolderClient>>,
}

impl Keeper {
    /// Finds the holder of an earlier agent or starts one. A failure is told, not fatal: ports work without a holder.
    pub(super) fn start(socket: PathBuf, exe: PathBuf) -> Self {
        let keeper = Self {
            socket,
            exe,
            client: Mutex::new(None),
        };
        keeper.connect();
        keeper
    }

    fn connect(&self) -> bool {
        let mut client = self.client();
        match HolderClient::connect_or_spawn(&self.socket, &self.exe) {
            Ok(connected) => {
                *client = Some(connected);
                true
            }
            Err(error) => {
                warn!(%error, "no fd holder: ports would not survive the agent now");
                *client = None;
                false
            }
        }
    }

    fn client(&self) -> MutexGuard<'_, Option<HolderClient>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, what: impl FnOnce(&mut HolderClient) -> Result<T, HolderError>) -> Option<T> {
        let mut client = self.client();
        match what(client.as_mut()?) {
            Ok(value) => Some(value),
            Err(error) => {
                warn!(%error, "the fd holder failed; a new one is started");
                *client = None;
                None
            }
        }
    }

    /// Deposits a port's file descriptors.
    pub(super) fn keep(&self, name: &str, fds: &[OwnedFd]) {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.with(|client| client.keep(name, &fds));
    }

    /// Has the holder close a port's file descriptors.
    pub(super) fn forget(&self, name: &str) {
        self.with(|client| client.forget(name));
    }

    /// A port's file descriptors; none when the holder doesn't have them.
    pub(super) fn fetch(&self, name: &str) -> Vec<OwnedFd> {
        self.with(|client| client.fetch(name)).unwrap_or_default()
    }

    /// All that the holder has.
    pub(super) fn names(&self) -> Vec<String> {
        self.with(HolderClient::list)
            .unwrap_or_default()
            .into_iter()
            .map(|held| held.name)
            .collect()
    }

    /// The holder's process, while it answers.
    pub(super) fn pid(&self) -> Option<i32> {
        self.client().as_ref()?.pid()
    }

    /// Whether ports would survive the agent now.
    pub(super) fn answers(&self) -> bool {
        self.client().as_ref().is_some_and(HolderClient::is_alive)
    }
}

/// Replaces a holder that died, until the agent stops.
pub(super) async fn watch(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let again = Arc::clone(&agent);
        let looked = tokio::task::spawn_blocking(move || {
            if !again.keeper.answers() && again.keeper.connect() {
                again.deposit_all();
            }
        });
        if looked.await.is_err() {
            warn!("looking after the fd holder failed");
        }
    }
}

impl Agent {
    fn deposit_all(&self) {
        let inner = self.inner();
        for (id, port) in &inner.ports {
            self.keeper.keep(&id.0, &port.fds);
        }
        info!(ports = inner.ports.len(), "fd holder replaced");
    }
}
