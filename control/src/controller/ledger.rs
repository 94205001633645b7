//! The map in memory and in the store. Changes come one after the other: decided on the newest map, written, then
//! shown; readers never wait for the disk.
//!
//! Other controllers may work on the same store. What they do is followed; a decision that was made on an old map isn't
//! written but made again; and nobody is refused because of an old map.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::sleep;
use tracing::{error, warn};

use super::audience::{self, Audience, Concerned, Scope};
use super::board::{Board, Seat};
use super::decide::Decision;
use super::log::{Log, Logged};
use crate::channel::messages::STORE_FAILED;
use crate::channel::{Interest, Refusal};
use crate::model::{Change, ClusterMap, Key, NetworkId, NodeId, Object, Revision};
use crate::store::{Commit, LOG_KEEP, Since, Snapshot, Store, StoreError, TokenRecord, TokenWrite};

/// So often a decision is made again because another controller was faster: each time one of them got on.
const TRIES: u32 = 100;
/// Between two tries to hear what other controllers did.
const REFRESH_AGAIN: Duration = Duration::from_millis(200);
/// A session that nothing has concerned for so many changes is woken all the same: else an agent that is away for a moment
/// would have fallen behind all that the log has.
const STRIDE: u64 = LOG_KEEP / 4;

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
    board: Arc<Board>,
}

/// What readers see.
#[derive(Debug)]
struct Shown {
    map: ClusterMap,
    incarnation: String,
    /// The newest changes, without a gap up to the map's revision.
    log: Log,
    /// Counts changes of routers: by them the networks that an agent hears of may be others.
    routing: u64,
}

/// A session's view of the map: what its agent has of it.
#[derive(Debug)]
pub(super) struct View {
    pub(super) seat: Arc<Seat>,
    node: NodeId,
    /// The revision up to which it has it; `None` if it has nothing.
    have: Option<Revision>,
    /// For whom that was.
    so_far: Audience,
    /// The life of the store that this is of.
    incarnation: String,
    /// Of which networks it hears by which wish and which routers.
    heard: Option<(Option<Interest>, u64, Audience)>,
}

/// What brings an agent's map up to date.
#[derive(Debug)]
pub(super) struct News {
    /// All of the map, as far as it is the agent's business, if changes can't do it. The changes come after it.
    pub(super) everything: Option<ClusterMap>,
    /// What has changed, then all of the networks that it didn't hear of before, then nodes that are new to it.
    pub(super) changes: Vec<(Revision, Change)>,
    /// The map's revision.
    pub(super) newest: Revision,
    /// The networks of which it hears from now on are others than before.
    pub(super) other_networks: bool,
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
            board: Arc::default(),
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

    /// A place for a session of that node.
    pub(super) fn sit(&self, node: &NodeId) -> Arc<Seat> {
        Arc::new(self.book.board.sit(node))
    }

    /// A session of that node, whose agent has the map as of `have`, complete for these networks (for all when `None`).
    pub(super) fn view(
        &self,
        (seat, node): (Arc<Seat>, &NodeId),
        have: Option<Revision>,
        has: Option<BTreeSet<NetworkId>>,
    ) -> View {
        View {
            seat,
            node: node.clone(),
            have,
            incarnation: self.incarnation(),
            so_far: Audience {
                node: node.clone(),
                networks: has.map(Arc::new),
            },
            heard: None,
        }
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
        let decide = |map: &ClusterMap| decide(map).map(|(changes, told)| (changes, None, told));
        self.settle(decide).await
    }

    /// The same with a token that is used up by it.
    pub(super) async fn decide_with_token(
        &self,
        decide: impl Fn(&ClusterMap) -> Decision<(Vec<Change>, TokenWrite)>,
    ) -> Decision<Revision> {
        let decide =
            |map: &ClusterMap| decide(map).map(|(changes, token)| (changes, Some(token), ()));
        let (revision, ()) = self.settle(decide).await?;
        Ok(revision)
    }

    async fn settle<T>(
        &self,
        decide: impl Fn(&ClusterMap) -> Decision<(Vec<Change>, Option<TokenWrite>, T)>,
    ) -> Decision<(Revision, T)> {
        let mut writing = self.begin().await;
        let mut is_newest = !self.is_shared();
        let mut tries = TRIES;
        loop {
            let decided = decide(&self.shown().map);
            let (changes, token, told) = match decided {
                Ok(decided) => decided,
                Err(refusal) if is_newest => return Err(refusal),
                Err(_) => {
                    self.book.refresh().await.map_err(|error| refuse(&error))?;
                    is_newest = true;
                    continue;
                }
            };
            match self.commit(writing, changes, token).await? {
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

    /// What an agent lacks that wants to hear of that. It counts as told. `None` when the store was set back: what the agent
    /// has is worth nothing then, and it learns that when it calls again.
    pub(super) fn news(&self, view: &mut View, interest: Option<&Interest>) -> Option<News> {
        let shown = self.shown();
        if shown.incarnation != view.incarnation {
            return None;
        }
        let newest = shown.map.revision;
        let oldest = newest - shown.log.len();
        let from_now = view.hears(interest, &shown);
        // Before the next change can be shown.
        view.seat.follow(from_now.networks.as_ref());
        let so_far = std::mem::replace(&mut view.so_far, from_now.clone());
        let have = view.have.replace(newest);
        let grown_whole = so_far.networks.is_some() && from_now.networks.is_none();
        let other_networks = from_now.networks != so_far.networks;
        Some(match have {
            Some(have) if (oldest..=newest).contains(&have) && !grown_whole => News {
                everything: None,
                changes: shown.changes(have, &so_far, &from_now),
                newest,
                other_networks,
            },
            Some(_) | None => News {
                everything: Some(from_now.excerpt(&shown.map)),
                changes: Vec::new(),
                newest,
                other_networks,
            },
        })
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
        warn!(
            have,
            revision = self.revision(),
            "the store was set back: an agent knows later changes; all agents get the whole map again"
        );
        self.book
            .reincarnate(incarnation)
            .await
            .map_err(|error| refuse(&error))?;
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
                let mut shown = self.shown_mut();
                let routing = shown.routing + 1;
                *shown = Shown::from(*snapshot);
                shown.routing = routing;
                drop(shown);
                self.revision.send_replace(revision);
                self.board.wake_all();
                self.board.doubt(None);
            }
        }
        Ok(())
    }

    /// Begins a new life of the store, if no other controller has ended the `old` one meanwhile. The caller has the right to
    /// write.
    async fn reincarnate(&self, old: &str) -> Result<(), StoreError> {
        let mut tries = TRIES;
        loop {
            match self.store.reincarnate().await {
                Ok(new) => {
                    self.shown_mut().incarnation = new;
                    self.board.wake_all();
                    return Ok(());
                }
                // Another controller wrote something meanwhile: that was still the old life, or it saw the same.
                Err(StoreError::Conflict { .. }) if tries > 0 => {
                    tries -= 1;
                    self.refresh().await?;
                    if self.shown().incarnation != old {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Lets readers see changes, and wakes the sessions that they concern.
    fn show(&self, changes: impl Iterator<Item = (Revision, Change)>) {
        let mut shown = self.shown_mut();
        let before = shown.map.revision;
        let (mut scopes, mut doubted) = (Vec::new(), Vec::new());
        for (revision, change) in changes {
            let scope = Scope::of(&change, Some(&shown.map));
            if let Change::Delete(Key::Node(node)) | Change::Put(Object::Session(node, _)) = &change
            {
                doubted.push(node.clone());
            }
            let routers = matches!(
                change,
                Change::Put(Object::Router(_)) | Change::Delete(Key::Router(_))
            );
            shown.routing += u64::from(routers);
            shown.log.push(Logged {
                revision,
                change: change.clone(),
                scope: scope.clone(),
            });
            shown.map.apply(revision, change);
            scopes.push(scope);
        }
        let revision = shown.map.revision;
        drop(shown);
        if revision == before {
            return;
        }
        self.revision.send_replace(revision);
        if before / STRIDE == revision / STRIDE {
            self.board.wake(scopes.iter());
        } else {
            self.board.wake_all();
        }
        for node in &doubted {
            self.board.doubt(Some(node));
        }
    }
}

impl From<Snapshot> for Shown {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            log: logged(snapshot.log, &snapshot.map),
            map: snapshot.map,
            incarnation: snapshot.incarnation,
            routing: 0,
        }
    }
}

impl View {
    /// The revision up to which the agent has the map.
    pub(super) fn have(&self) -> Option<Revision> {
        self.have
    }

    /// The networks of which it hears; none when it hears of all.
    pub(super) fn networks(&self) -> Arc<BTreeSet<NetworkId>> {
        self.so_far.networks.clone().unwrap_or_default()
    }

    /// Of what the agent hears by that wish.
    fn hears(&mut self, interest: Option<&Interest>, shown: &Shown) -> Audience {
        if let Some((wish, routing, audience)) = &self.heard
            && wish.as_ref() == interest
            && *routing == shown.routing
        {
            return audience.clone();
        }
        let mut audience = Audience::wanting(&self.node, interest, &shown.map);
        if audience.networks == self.so_far.networks {
            // The same set: nobody has to be told of another.
            audience = self.so_far.clone();
        }
        self.heard = Some((interest.cloned(), shown.routing, audience.clone()));
        audience
    }
}

impl Shown {
    /// What has changed since `have` on the networks that an agent goes on to hear of, and all of those that it didn't hear
    /// of so far.
    fn changes(
        &self,
        have: Revision,
        so_far: &Audience,
        from_now: &Audience,
    ) -> Vec<(Revision, Change)> {
        let mut stays = from_now.clone();
        if let (Some(has), Some(had)) = (&from_now.networks, &so_far.networks)
            && !Arc::ptr_eq(has, had)
        {
            stays.networks = Some(Arc::new(has.intersection(had).cloned().collect()));
        }
        let (mut changes, mut nodes) = (Vec::new(), BTreeSet::new());
        for logged in self.log.after(have, &stays) {
            changes.push((logged.revision, logged.change.clone()));
            if let Scope::Some(Concerned { brings, .. }) = &logged.scope {
                nodes.extend(brings.clone());
            }
        }
        if from_now.networks.is_none() {
            return changes;
        }
        for (revision, change) in audience::of_networks(&self.map, &from_now.added(so_far)) {
            match &change {
                Change::Put(Object::Block(block)) => nodes.insert(block.node.clone()),
                Change::Put(Object::Endpoint(endpoint)) => nodes.insert(endpoint.node.clone()),
                Change::Put(_) | Change::Delete(_) => false,
            };
            changes.push((revision, change));
        }
        let nodes = nodes.iter().filter_map(|node| self.map.nodes.get(node));
        changes.extend(nodes.map(|node| audience::put(node, Object::Node)));
        changes
    }
}

/// What was deleted before this controller was started is told to everybody: whose it was isn't known any more.
fn logged(log: Vec<(Revision, Change)>, newest: &ClusterMap) -> Log {
    let mut all = Log::default();
    for (revision, change) in log {
        let scope = match &change {
            // Where it is now: who hears of it by a later change gets it anew.
            Change::Put(Object::Node(_)) => Scope::of(&change, Some(newest)),
            Change::Put(_) | Change::Delete(_) => Scope::of(&change, None),
        };
        all.push(Logged {
            revision,
            change,
            scope,
        });
    }
    all
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
