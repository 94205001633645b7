//! The map in memory and in the store. Changes come one after the other: decided on the newest map, written, then
//! shown; readers never wait for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::{OwnedMutexGuard, watch};
use tracing::{error, warn};

use super::audience::{self, Audience, Scope};
use super::decide::Decision;
use crate::channel::Refusal;
use crate::model::{Change, ClusterMap, Object, Revision, Versioned};
use crate::store::{Commit, LOG_KEEP, Store, StoreError, TokenRecord, TokenWrite};

/// The map with its store.
///
/// Locks: `writing` before `shown`; `shown` is never held across an await.
#[derive(Debug)]
pub(super) struct Ledger {
    writing: Arc<tokio::sync::Mutex<()>>,
    book: Arc<Book>,
}

/// What a write works on, also when nobody waits for it any more.
#[derive(Debug)]
struct Book {
    store: Arc<dyn Store>,
    shown: RwLock<Shown>,
    revision: watch::Sender<Revision>,
}

/// What readers see.
#[derive(Debug)]
struct Shown {
    map: ClusterMap,
    incarnation: String,
    /// The newest changes, oldest first, without a gap up to the map's revision.
    log: VecDeque<Logged>,
}

/// A change, and whom it concerns.
#[derive(Clone, Debug)]
struct Logged {
    revision: Revision,
    change: Change,
    scope: Scope,
}

/// What brings an agent's map up to date.
#[derive(Debug)]
pub(super) enum News {
    /// These changes, and then all of the networks that it didn't hear of before.
    Changes(Vec<(Revision, Change)>, Vec<Versioned<Object>>, Revision),
    /// Only the whole map, as far as it is the agent's business.
    Everything(ClusterMap),
}

impl Ledger {
    pub(super) async fn load(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let snapshot = store.snapshot().await?;
        let revision = watch::Sender::new(snapshot.map.revision);
        let shown = Shown {
            map: snapshot.map,
            incarnation: snapshot.incarnation,
            log: logged(snapshot.log),
        };
        let shown = RwLock::new(shown);
        let book = Book {
            store,
            shown,
            revision,
        };
        Ok(Self {
            writing: Arc::default(),
            book: Arc::new(book),
        })
    }

    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.book.shown()
    }

    pub(super) fn revision(&self) -> Revision {
        self.book.revision()
    }

    /// Wakes at each new revision.
    pub(super) fn revisions(&self) -> watch::Receiver<Revision> {
        self.book.revision.subscribe()
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
        let writing = self.begin().await;
        let (changes, told) = decide(&self.shown().map)?;
        let revision = self.commit(writing, changes, None).await?;
        Ok((revision, told))
    }

    /// The same with a token that is used up by it.
    pub(super) async fn decide_with_token(
        &self,
        token: TokenWrite,
        decide: impl FnOnce(&ClusterMap) -> Decision<Vec<Change>>,
    ) -> Decision<Revision> {
        let writing = self.begin().await;
        let changes = decide(&self.shown().map)?;
        self.commit(writing, changes, Some(token)).await
    }

    async fn begin(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.writing).lock_owned().await
    }

    /// Writes and shows in a task of its own: a caller whose patience ends, or whose peer goes away, must not leave
    /// behind a store that is ahead of the map.
    async fn commit(
        &self,
        writing: OwnedMutexGuard<()>,
        changes: Vec<Change>,
        token: Option<TokenWrite>,
    ) -> Decision<Revision> {
        if changes.is_empty() && token.is_none() {
            return Ok(self.revision());
        }
        let book = Arc::clone(&self.book);
        let written = tokio::spawn(async move {
            let written = book.write(changes, token).await;
            drop(writing);
            written
        });
        match written.await {
            Ok(written) => written.map_err(|error| refuse(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// What an agent lacks that has the map as of `have`, as far as it is its business: by what it was told of so far, and
    /// by what it wants to be told of from now on.
    pub(super) fn since(
        &self,
        have: Option<Revision>,
        (so_far, from_now): (&Audience, &Audience),
    ) -> News {
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
                    .filter(|logged| so_far.hears(&logged.scope))
                    .map(|logged| (logged.revision, logged.change.clone()))
                    .collect();
                let added = so_far.added(from_now);
                News::Changes(changes, audience::of_networks(&shown.map, &added), newest)
            }
            Some(_) | None => News::Everything(from_now.excerpt(&shown.map)),
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
        let _writing = self.begin().await;
        match self.book.store.reincarnate().await {
            Ok(new) => {
                warn!(
                    have,
                    revision = self.revision(),
                    "the store was set back: an agent knows later changes; all agents get the whole map again"
                );
                self.book.shown_mut().incarnation = new;
            }
            Err(error) => error!(%error, "the store was set back, and that can't be noted in it"),
        }
        false
    }

    pub(super) async fn token(&self, id: String) -> Decision<Option<TokenRecord>> {
        let token = self.book.store.token(id).await;
        token.map_err(|error| refuse(&error))
    }

    /// Where tokens are; they have nothing to do with the map's order.
    pub(super) fn store(&self) -> &dyn Store {
        &*self.book.store
    }
}

impl Book {
    fn shown(&self) -> RwLockReadGuard<'_, Shown> {
        self.shown.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_mut(&self) -> RwLockWriteGuard<'_, Shown> {
        self.shown.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn revision(&self) -> Revision {
        *self.revision.borrow()
    }

    async fn write(
        &self,
        changes: Vec<Change>,
        token: Option<TokenWrite>,
    ) -> Result<Revision, StoreError> {
        let before = self.revision();
        let commit = Commit {
            changes: changes.clone(),
            token,
        };
        let revision = self.store.commit(before, commit).await?;
        let mut shown = self.shown_mut();
        for (revision, change) in (before + 1..).zip(changes) {
            let scope = Scope::of(&change, Some(&shown.map));
            shown.log.push_back(Logged {
                revision,
                change: change.clone(),
                scope,
            });
            shown.map.apply(revision, change);
        }
        while shown.log.len() as u64 > LOG_KEEP {
            shown.log.pop_front();
        }
        drop(shown);
        self.revision.send_replace(revision);
        Ok(revision)
    }
}

/// What was deleted before this controller was started is told to everybody: whose it was isn't known any more.
fn logged(log: Vec<(Revision, Change)>) -> VecDeque<Logged> {
    let logged = log.into_iter().map(|(revision, change)| Logged {
        revision,
        scope: Scope::of(&change, None),
        change,
    });
    logged.collect()
}

/// Code of the refusal of a join whose token was changed meanwhile, by another controller.
pub(super) const TOKEN_CHANGED: &str = "token_changed";

fn refuse(error: &StoreError) -> Refusal {
    if matches!(error, StoreError::TokenConflict { .. }) {
        return Refusal::new(TOKEN_CHANGED, error.to_string()).hint("try again");
    }
    failed(error)
}

fn failed(error: &dyn std::fmt::Display) -> Refusal {
    error!(%error, "the store failed");
    Refusal::new(
        "store_failed",
        format!("the controller can't write this down: {error}"),
    )
    .hint("see the controller's log")
}

#[cfg(test)]
mod tests;
