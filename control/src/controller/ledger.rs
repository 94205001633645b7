//! The map in memory and in the store. Changes come one after the other: decided on the newest map, written, then
//! shown; readers never wait for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;
use tracing::{error, warn};

use super::decide::Decision;
use crate::channel::Refusal;
use crate::model::{Change, ClusterMap, Revision};
use crate::store::{Commit, LOG_KEEP, Store, StoreError, TokenRecord};

/// The map with its store.
///
/// Locks: `writing` before `shown`; `shown` is never held across an await.
#[derive(Debug)]
pub(super) struct Ledger {
    store: Arc<dyn Store>,
    writing: tokio::sync::Mutex<()>,
    shown: RwLock<Shown>,
    revision: watch::Sender<Revision>,
}

/// What readers see.
#[derive(Debug)]
struct Shown {
    map: ClusterMap,
    incarnation: String,
    /// The newest changes, oldest first, without a gap up to the map's revision.
    log: VecDeque<(Revision, Change)>,
}

/// What brings an agent's map up to date.
#[derive(Debug)]
pub(super) enum News {
    /// These changes.
    Changes(Vec<(Revision, Change)>, Revision),
    /// Only the whole map.
    Everything(ClusterMap),
}

impl Ledger {
    pub(super) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let snapshot = store.snapshot().await?;
        let revision = watch::Sender::new(snapshot.map.revision);
        let shown = Shown {
            map: snapshot.map,
            incarnation: snapshot.incarnation,
            log: snapshot.log.into(),
        };
        let shown = RwLock::new(shown);
        Ok(Self {
            store,
            writing: tokio::sync::Mutex::new(()),
            shown,
            revision,
        })
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_mut(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    /// Wakes at each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&ClusterMap) -> T) -> T {
        look(&self.shown().map)
    }

    pub(super) fn incarnation(&self) -> String {
        self.shown().incarnation.clone()
    }

    /// Decides on the newest map and carries it out. Returns the revision at which it shows.
    pub(super) async fn decide<T>(
        &self,
        decide: impl FnOnce(&ClusterMap) -> Decision<(Vec<Change>, T)>,
    ) -> Decision<(Revision, T)> {
        let writing = self.writing.lock().await;
        let (changes, told) = decide(&self.shown().map)?;
        let revision = self.commit(&writing, changes, None).await?;
        Ok((revision, told))
    }

    /// The same with a token that is used up by it.
    pub(super) async fn decide_with_token(
        &self,
        token: TokenRecord,
        decide: impl FnOnce(&ClusterMap) -> Decision<Vec<Change>>,
    ) -> Decision<Revision> {
        let writing = self.writing.lock().await;
        let changes = decide(&self.shown().map)?;
        self.commit(&writing, changes, Some(token)).await
    }

    async fn commit(
        &self,
        _writing: &tokio::sync::MutexGuard<'_, ()>,
        changes: Vec<Change>,
        token: Option<TokenRecord>,
    ) -> Decision<Revision> {
        let before = self.revision();
        if changes.is_empty() && token.is_none() {
            return Ok(before);
        }
        let commit = Commit {
            changes: changes.clone(),
            token,
        };
        let revision = self
            .store
            .commit(before, commit)
            .await
            .map_err(|error| refuse(&error))?;
        let mut shown = self.shown_mut();
        for (revision, change) in (before + 1..).zip(changes) {
            shown.log.push_back((revision, change.clone()));
            shown.map.apply(revision, change);
        }
        while shown.log.len() as u64 > LOG_KEEP {
            shown.log.pop_front();
        }
        drop(shown);
        self.revision.send_replace(revision);
        Ok(revision)
    }

    /// What somebody who has the map as of `have` lacks.
    pub(super) fn since(&self, have: Option<Revision>) -> News {
        let shown = self.shown();
        let newest = shown.map.revision;
        let oldest = newest - shown.log.len() as u64;
        match have {
            Some(have) if (oldest..=newest).contains(&have) => {
                let missing = usize::try_from(newest - have).expect("no more than the log has");
                let changes = shown
                    .log
                    .iter()
                    .skip(shown.log.len() - missing)
                    .cloned()
                    .collect();
                News::Changes(changes, newest)
            }
            Some(_) | None => News::Everything(shown.map.clone()),
        }
    }

    /// Whether an agent has revisions of this life of the store; if it has newer ones than there are, the store was set
    /// back, and a new life begins, so that no other agent takes lost changes for these.
    pub(super) async fn recognise(&self, have: Revision, incarnation: &str) -> bool {
        if self.shown().incarnation != incarnation {
            return false;
        }
        if have <= self.revision() {
            return true;
        }
        let _writing = self.writing.lock().await;
        match self.store.reincarnate().await {
            Ok(new) => {
                warn!(
                    have,
                    revision = self.revision(),
                    "the store was set back: an agent knows later changes; all agents get the whole map again"
                );
                self.shown_mut().incarnation = new;
            }
            Err(error) => error!(%error, "the store was set back, and that can't be noted in it"),
        }
        false
    }

    pub(super) async fn token(&self, id: String) -> Decision<Option<TokenRecord>> {
        self.store.token(id).await.map_err(|error| refuse(&error))
    }

    pub(super) async fn put_token(&self, token: TokenRecord) -> Result<(), StoreError> {
        let _writing = self.writing.lock().await;
        let commit = Commit {
            changes: Vec::new(),
            token: Some(token),
        };
        self.store.commit(self.revision(), commit).await.map(drop)
    }
}

fn refuse(error: &StoreError) -> Refusal {
    error!(%error, "the store failed");
    Refusal::new(
        "store_failed",
        format!("the controller can't write this down: {error}"),
    )
    .hint("see the controller's log")
}
