//! The map in memory and in the store. Changes come one after the other: decided on the newest map, written, then
//! shown; readers never wait for the disk.
//!
//! Other controllers may work on the same store. What they do is followed; a decision that was made on an old map isn't
//! written but made again; and nobody is refused because of an old map.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::sleep;
use tracing::{error, warn};

use super::audience::{self, Audience, Scope};
use super::decide::Decision;
use crate::channel::Refusal;
use crate::channel::messages::STORE_FAILED;
use crate::model::{Change, ClusterMap, Object, Revision, Versioned};
use crate::store::{Commit, LOG_KEEP, Since, Snapshot, Store, StoreError, TokenRecord, TokenWrite};

/// So often a decision is made again because another controller was faster: each time one of them got on.
const TRIES: u32 = 100;
/// Between two tries to hear what other controllers did.
const REFRESH_AGAIN: Duration = Duration::from_millis(200);

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
        let shown = RwLock::new(Shown::from(snapshot));
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
        decide: impl Fn(&ClusterMap) -> Decision<(Vec<Change>, T)>,
    ) -> Decision<(Revision, T)> {
        self.settle(None, decide).await
    }

    /// The same with a token that is used up by it.
    pub(super) async fn decide_with_token(
        &self,
        token: TokenWrite,
        decide: impl Fn(&ClusterMap) -> Decision<Vec<Change>>,
    ) -> Decision<Revision> {
        let decide = |map: &ClusterMap| Ok((decide(map)?, ()));
        let (revision, ()) = self.settle(Some(token), decide).await?;
        Ok(revision)
    }

    async fn settle<T>(
        &self,
        token: Option<TokenWrite>,
        decide: impl Fn(&ClusterMap) -> Decision<(Vec<Change>, T)>,
    ) -> Decision<(Revision, T)> {
        let mut writing = self.begin().await;
        let mut is_newest = !self.is_shared();
        let mut tries = TRIES;
        loop {
            let decided = decide(&self.shown().map);
            let (changes, told) = match decided {
                Ok(decided) => decided,
                Err(refusal) if is_newest => return Err(refusal),
                Err(_) => {
                    self.book.refresh().await.map_err(|error| refuse(&error))?;
                    is_newest = true;
                    continue;
                }
            };
            match self.commit(writing, changes, token.clone()).await? {
                (_, Ok(revision)) => return Ok((revision, told)),
                (again, Err(StoreError::Conflict { .. })) if tries > 0 => {
                    writing = again;
                    tries -= 1;
                    self.book.refresh().await.map_err(|error| refuse(&error))?;
                }
                (_, Err(error)) => return Err(refuse(&error)),
            }
        }
    }

    /// Whether other controllers may write to the store.
    fn is_shared(&self) -> bool {
        self.book.store.heard().is_some()
    }

    /// Brings the map up to what any controller has told anybody so far.
    pub(super) async fn refresh(&self) -> Decision<()> {
        if !self.is_shared() {
            return Ok(());
        }
        let _writing = self.begin().await;
        self.book.refresh().await.map_err(|error| refuse(&error))
    }

    /// Shows what other controllers write, for ever.
    pub(super) async fn follow(&self) {
        let Some(mut heard) = self.book.store.heard() else {
            return std::future::pending().await;
        };
        loop {
            let newest = *heard.borrow_and_update();
            if newest != self.revision() {
                let _writing = self.begin().await;
                // A commit of ours is heard of before it is answered.
                let is_news = newest != self.revision();
                if is_news && let Err(error) = self.book.refresh().await {
                    warn!(%error, "what other controllers did can't be read");
                    sleep(REFRESH_AGAIN).await;
                    continue;
                }
            }
            if heard.changed().await.is_err() {
                return;
            }
        }
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
    ) -> Decision<(OwnedMutexGuard<()>, Result<Revision, StoreError>)> {
        if changes.is_empty() && token.is_none() {
            return Ok((writing, Ok(self.revision())));
        }
        let book = Arc::clone(&self.book);
        let written = tokio::spawn(async move {
            let written = book.write(changes, token).await;
            (writing, written)
        });
        written.await.map_err(|error| failed(&error))
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
    ///
    /// # Errors
    /// The store can't be asked: the agent may know more than this controller, and must not be given an older map.
    pub(super) async fn recognise(&self, have: Revision, incarnation: &str) -> Decision<bool> {
        if self.shown().incarnation != incarnation {
            return Ok(false);
        }
        if have <= self.revision() {
            return Ok(true);
        }
        // It may have come from a controller that knows more than this one.
        let _writing = self.begin().await;
        self.book.refresh().await.map_err(|error| refuse(&error))?;
        if self.shown().incarnation != incarnation {
            return Ok(false);
        }
        if have <= self.revision() {
            return Ok(true);
        }
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
        Ok(false)
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
        self.show((before + 1..).zip(changes));
        Ok(revision)
    }

    /// Shows what other controllers wrote. The caller has the right to write.
    async fn refresh(&self) -> Result<(), StoreError> {
        match self.store.since(self.revision()).await? {
            Since::Changes(changes) => self.show(changes.into_iter()),
            Since::Everything(snapshot) => {
                let revision = snapshot.map.revision;
                *self.shown_mut() = Shown::from(*snapshot);
                self.revision.send_replace(revision);
            }
        }
        Ok(())
    }

    fn show(&self, changes: impl Iterator<Item = (Revision, Change)>) {
        let mut shown = self.shown_mut();
        let before = shown.map.revision;
        for (revision, change) in changes {
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
        let revision = shown.map.revision;
        drop(shown);
        if revision != before {
            self.revision.send_replace(revision);
        }
    }
}

impl From<Snapshot> for Shown {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            map: snapshot.map,
            incarnation: snapshot.incarnation,
            log: logged(snapshot.log),
        }
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
        STORE_FAILED,
        format!("the controller can't write this down: {error}"),
    )
    .hint("see the controller's log")
}

#[cfg(test)]
mod tests;
