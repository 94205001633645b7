//! The agent's side of the fd holder: deposits every port's file descriptors there and gets them back after a restart.
//! A holder that dies is replaced and filled again; while there is none, ports work but would not survive the agent.
//!
//! A holder may also hang (a stopped process, a frozen cgroup), so whatever asks it may take seconds. Nothing else of
//! the agent waits for that: it is asked with no other lock held, and how it is doing is known without asking it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Agent;
use crate::holder::{Held, HolderClient, HolderError};
use crate::model::EndpointId;

/// How often the holder is looked after.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an agent that starts tries to get its ports from a holder that doesn't answer.
const RECOVER_WITHIN: Duration = Duration::from_secs(15);
/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// A connection to the fd holder that is made again when it breaks.
#[derive(Debug)]
pub(super) struct Keeper {
    socket: PathBuf,
    exe: PathBuf,
    client: Mutex<Option<HolderClient>>,
    /// Whether the last that was heard of it was good.
    fine: AtomicBool,
}

impl Keeper {
    /// Finds the holder of an earlier agent or starts one. A failure is told, not fatal: ports work without a holder.
    pub(super) fn start(socket: PathBuf, exe: PathBuf) -> Self {
        let keeper = Self {
            socket,
            exe,
            client: Mutex::new(None),
            fine: AtomicBool::new(false),
        };
        keeper.connect();
        keeper
    }

    /// Where the holder is met.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    fn connect(&self) -> bool {
        let mut client = self.client();
        self.fine.store(false, Ordering::Relaxed);
        match HolderClient::connect_or_spawn(&self.socket, &self.exe) {
            Ok(connected) => {
                *client = Some(connected);
                self.fine.store(true, Ordering::Relaxed);
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
                self.fine.store(false, Ordering::Relaxed);
                *client = None;
                None
            }
        }
    }

    /// Asks until there is an answer, also a new holder, for [`RECOVER_WITHIN`].
    fn insist<T>(
        &self,
        what: impl Fn(&mut HolderClient) -> Result<T, HolderError>,
    ) -> Result<T, HolderUnknown> {
        let deadline = Instant::now() + RECOVER_WITHIN;
        loop {
            if let Some(value) = self.with(&what) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                return Err(HolderUnknown);
            }
            if !self.connect() {
                thread::sleep(TRY_AGAIN);
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
    ///
    /// # Errors
    /// No holder could be asked, not even a new one: that says nothing about the port.
    pub(super) fn fetch(&self, name: &str) -> Result<Vec<OwnedFd>, HolderUnknown> {
        self.insist(|client| client.fetch(name))
    }

    /// All that the holder has.
    ///
    /// # Errors
    /// As [`Self::fetch`].
    pub(super) fn names(&self) -> Result<Vec<String>, HolderUnknown> {
        self.insist(HolderClient::list).map(names)
    }

    /// The same where it doesn't matter much: nothing when the holder doesn't answer.
    pub(super) fn names_if_it_answers(&self) -> Vec<String> {
        self.with(HolderClient::list).map(names).unwrap_or_default()
    }

    /// The holder's process, while it answers.
    pub(super) fn pid(&self) -> Option<i32> {
        self.client.try_lock().ok()?.as_ref()?.pid()
    }

    /// Whether ports would survive the agent now. Never waits.
    pub(super) fn answers(&self) -> bool {
        match self.client.try_lock() {
            Ok(client) => client.as_ref().is_some_and(HolderClient::is_alive),
            // Somebody is just asking it.
            Err(TryLockError::WouldBlock) => self.fine.load(Ordering::Relaxed),
            Err(TryLockError::Poisoned(_)) => false,
        }
    }
}

fn names(held: Vec<Held>) -> Vec<String> {
    held.into_iter().map(|held| held.name).collect()
}

/// No holder answers, so that nobody knows what it has.
#[derive(Debug)]
pub(super) struct HolderUnknown;

/// Replaces a holder that died, until the agent stops.
pub(super) async fn watch(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let again = Arc::clone(&agent);
        let looked = tokio::task::spawn_blocking(move || {
            if !again.keeper.answers() && again.keeper.connect() {
                again.forget_strays();
                again.deposit_all();
            }
        });
        if looked.await.is_err() {
            warn!("looking after the fd holder failed");
        }
    }
}

impl Agent {
    /// Has a holder that comes back close what was taken down while it couldn't be told: else the interface would stay
    /// in its namespace.
    fn forget_strays(&self) {
        for name in self.keeper.names_if_it_answers() {
            let id = EndpointId(name);
            let known = {
                let inner = self.inner();
                inner.ports.contains_key(&id) || inner.pending.contains_key(&id)
            };
            if !known {
                info!(port = %id, "deposit of a port that is gone destroyed");
                self.keeper.forget(&id.0);
            }
        }
    }

    fn deposit_all(&self) {
        let ports: Vec<(EndpointId, Vec<OwnedFd>)> = {
            let inner = self.inner();
            let ports = inner.ports.iter().filter_map(|(id, port)| {
                let fds: Result<_, _> = port.fds.iter().map(OwnedFd::try_clone).collect();
                if let Err(error) = &fds {
                    warn!(%error, port = %port.record.endpoint.name, "would not survive the agent now");
                }
                Some((id.clone(), fds.ok()?))
            });
            ports.collect()
        };
        for (id, fds) in &ports {
            self.keeper.keep(&id.0, fds);
            // It may have been disconnected meanwhile, and forgotten before it was deposited.
            if !self.inner().ports.contains_key(id) {
                self.keeper.forget(&id.0);
            }
        }
        info!(ports = ports.len(), "fd holder replaced");
    }
}
