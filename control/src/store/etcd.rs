//! The map in an etcd v3 cluster, for any number of controllers.
//!
//! | file | what |
//! |---|---|
//! | `config` | where it is and how to get in |
//! | `proto`, `client` | etcd's protocol; calls that go to another member when one doesn't answer |
//! | `layout` | keys and values |
//! | `read` | the map: a checkpoint and the commits after it |
//! | `write` | commits: transactions on the head |
//! | `checkpoint` | cutting the log |
//! | `live` | what goes with a controller: leases, presence, questions |
//!
//! The map is a log of commits with a checkpoint from time to time, so that a commit is one small transaction however
//! many objects it touches (etcd takes 128 operations and 1.5 MiB at once). The transaction compares the head with what
//! this controller knows: of two controllers that commit at one revision one gets [`StoreError::Conflict`]. A commit has
//! a random name; when its answer is lost, the same commit is tried again, and finds its own name in the log if the
//! first try had come through.
//!
//! etcd answers reads by consensus (linearizable), so [`Store::since`] never misses what another controller was told is
//! done.

mod checkpoint;
mod client;
mod config;
mod layout;
pub mod live;
mod proto;
mod read;
mod write;

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

pub use config::EtcdConfig;

use super::dump::Dump;
use super::{
    AuthorityRecord, Commit, Promise, Since, Snapshot, Store, StoreError, TokenRecord, TokenWrite,
};
use crate::identity::authorities::Authorities;
use crate::identity::ca::Authority;
use crate::model::Revision;
use client::Client;
use layout::{Head, Keys, from_json, one, to_json};
use proto::{Compare, Op, PutRequest, TxnRequest, WatchCreateRequest, WatchRequest};

/// Between two tries to watch.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

/// The store; cheap to clone.
#[derive(Clone, Debug)]
pub struct EtcdStore {
    inner: Arc<Inner>,
}

/// What the store's own tasks work on, too.
#[derive(Debug)]
struct Inner {
    base: Arc<Base>,
    /// The head as this controller knows it: what its next commit is compared with.
    known: Mutex<Option<Known>>,
    /// The newest revision heard of.
    heard: watch::Sender<Revision>,
    /// A checkpoint is being made.
    checkpointing: AtomicBool,
    watching: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// How the cluster is reached.
#[derive(Debug)]
struct Base {
    client: Client,
    keys: Keys,
}

/// A head with its place in etcd's history.
#[derive(Clone, Debug)]
struct Known {
    head: Head,
    /// etcd's revision of the head's last change.
    mod_revision: i64,
    /// First revision of the newest commit; 0 before the first.
    first: Revision,
}

impl EtcdStore {
    /// Opens the store; makes a cluster if there is none. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_or_make(config: &EtcdConfig) -> Result<Self, StoreError> {
        let base = Base::new(config)?;
        if base.is_empty().await? {
            let head = Head {
                revision: 0,
                incarnation: layout::random_name(),
                commit: String::new(),
            };
            let authority = AuthorityRecord::first(&Authority::mint()?);
            base.found(&authority, &head, Vec::new()).await?;
        }
        base.open().await
    }

    /// Makes a cluster from what was exported elsewhere; it begins a new life. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError::Occupied`] when there is one.
    pub async fn import(config: &EtcdConfig, dump: &Dump) -> Result<(), StoreError> {
        let base = Base::new(config)?;
        let occupied = || StoreError::Occupied {
            store: config.name(),
        };
        if !base.is_empty().await? {
            return Err(occupied());
        }
        for token in &dump.tokens {
            let token = put(&base.keys.token(&token.id), layout::to_cbor(token));
            base.client.call(&token).await?;
        }
        let name = layout::random_name();
        let prefix = base.keys.checkpoint(&name);
        let parts = base
            .write_parts(&prefix, &layout::to_cbor(&dump.map()))
            .await?;
        let checkpoint = layout::Checkpoint {
            revision: dump.revision,
            name,
            parts,
        };
        let head = Head {
            revision: dump.revision,
            incarnation: layout::random_name(),
            commit: String::new(),
        };
        let current = put(&base.keys.current_checkpoint(), to_json(&checkpoint));
        // Nothing of it counts before this.
        if base.found(&dump.authority, &head, vec![current]).await? {
            return Ok(());
        }
        // A first try whose answer was lost may have done it.
        let there = base.client.call(&one(&base.keys.head())).await?;
        let (found, _) = base.head_in(Some(there))?;
        if found == head {
            Ok(())
        } else {
            Err(occupied())
        }
    }

    /// Opens the store.
    ///
    /// # Errors
    /// [`StoreError::Etcd`] also when there is no cluster in it.
    pub async fn open(config: &EtcdConfig) -> Result<Self, StoreError> {
        let base = Base::new(config)?;
        if base.is_empty().await? {
            return Err(base.failed(
                "there is no cluster in it; start `weft controller run --store` first, or give the right prefix",
            ));
        }
        base.open().await
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.inner
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// An error that names this store.
    pub fn unusable(&self, cause: &str) -> StoreError {
        self.base().failed(cause)
    }

    fn base(&self) -> &Base {
        &self.inner.base
    }
}

impl Base {
    fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        Ok(Self {
            client: Client::new(config)?,
            keys: Keys::new(&config.prefix),
        })
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        let found = self.client.call(&one(&self.keys.layout())).await?;
        let Some(kv) = found.kvs.first() else {
            return Ok(true);
        };
        let layout: u64 = from_json(kv).map_err(|cause| self.corrupt(cause))?;
        if layout > layout::LAYOUT {
            return Err(StoreError::Newer {
                path: self.path(),
                found: layout,
                known: layout::LAYOUT,
            });
        }
        Ok(false)
    }

    /// Writes a new cluster with further puts. Nothing is done when there is one: another controller was faster.
    async fn found(
        &self,
        authority: &AuthorityRecord,
        head: &Head,
        further: Vec<PutRequest>,
    ) -> Result<bool, StoreError> {
        let mut puts = vec![
            put(&self.keys.layout(), to_json(&layout::LAYOUT)),
            put(&self.keys.authority(), to_json(authority)),
            put(&self.keys.head(), to_json(head)),
        ];
        puts.extend(further);
        let found = TxnRequest {
            compare: vec![Compare::is_absent(&self.keys.layout())],
            success: puts.into_iter().map(|put| Op::Put(put).into()).collect(),
            failure: Vec::new(),
        };
        Ok(self.client.call(&found).await?.succeeded)
    }

    async fn open(self) -> Result<EtcdStore, StoreError> {
        let base = Arc::new(self);
        let heard = watch::Sender::new(0);
        let watching = tokio::spawn(follow(Arc::clone(&base), heard.clone()));
        let inner = Inner {
            base,
            known: Mutex::default(),
            heard,
            checkpointing: AtomicBool::new(false),
            watching,
        };
        Ok(EtcdStore {
            inner: Arc::new(inner),
        })
    }

    /// The authority, and etcd's revision of its last change.
    async fn authority(&self) -> Result<(AuthorityRecord, i64), StoreError> {
        let found = self.client.call(&one(&self.keys.authority())).await?;
        let kv = found.kvs.first();
        let kv = kv.ok_or_else(|| self.corrupt("it has no authority"))?;
        let record: AuthorityRecord = from_json(kv).map_err(|cause| self.corrupt(cause))?;
        Authorities::restore(record.clone()).map_err(|cause| self.corrupt(cause))?;
        Ok((record, kv.mod_revision))
    }

    async fn put_authority(
        &self,
        before: &AuthorityRecord,
        after: &AuthorityRecord,
    ) -> Result<(), StoreError> {
        let (found, at) = self.authority().await?;
        if found != *before {
            return Err(StoreError::AuthorityConflict);
        }
        let key = self.keys.authority();
        let txn = TxnRequest {
            compare: vec![Compare::is_unchanged_since(&key, at)],
            success: vec![Op::Put(put(&key, to_json(after))).into()],
            failure: Vec::new(),
        };
        // A first try whose answer was lost may have done it.
        if self.client.call(&txn).await?.succeeded || self.authority().await?.0 == *after {
            Ok(())
        } else {
            Err(StoreError::AuthorityConflict)
        }
    }

    /// The store's name where errors want a path.
    fn path(&self) -> PathBuf {
        PathBuf::from(self.client.name())
    }

    fn corrupt(&self, cause: impl std::fmt::Display) -> StoreError {
        StoreError::corrupt(&self.path(), cause)
    }

    fn failed(&self, cause: &str) -> StoreError {
        StoreError::Etcd {
            store: self.client.name().to_owned(),
            cause: cause.to_owned(),
        }
    }
}

fn put(key: &str, value: Vec<u8>) -> PutRequest {
    PutRequest {
        key: key.as_bytes().to_vec(),
        value,
        lease: 0,
    }
}

/// Hears of every commit, for ever. What is missed while no member answers shows in the head when one does.
async fn follow(base: Arc<Base>, heard: watch::Sender<Revision>) {
    loop {
        let error = match follow_once(&base, &heard).await {
            Ok(ended) => ended,
            Err(error) => error.to_string(),
        };
        debug!(store = base.client.name(), %error, "watching the store again");
        tokio::time::sleep(WATCH_AGAIN).await;
    }
}

async fn follow_once(base: &Base, heard: &watch::Sender<Revision>) -> Result<String, StoreError> {
    let hear = |kv: &proto::KeyValue| match from_json::<Head>(kv) {
        Ok(head) => {
            // Also an older one: the store was set back.
            heard.send_replace(head.revision);
        }
        Err(error) => warn!(%error, "the store's head can't be read"),
    };
    let found = base.client.call(&one(&base.keys.head())).await?;
    found.kvs.iter().for_each(hear);
    let create = WatchCreateRequest {
        key: base.keys.head().into_bytes(),
        range_end: Vec::new(),
        start_revision: found.header.map_or(0, |header| header.revision) + 1,
    };
    let request = WatchRequest {
        create: Some(create),
    };
    let mut stream = base.client.stream(&request).await?;
    loop {
        match stream.message().await {
            Ok(Some(told)) if told.canceled => return Ok(told.cancel_reason),
            Ok(Some(told)) => {
                let kvs = told.events.iter().filter_map(|event| event.kv.as_ref());
                kvs.filter(|kv| !kv.value.is_empty()).for_each(hear);
            }
            Ok(None) => return Ok("the stream ended".to_owned()),
            Err(status) => return Ok(status.to_string()),
        }
    }
}

impl Store for EtcdStore {
    fn snapshot(&self) -> Promise<'_, Snapshot> {
        Box::pin(self.read_everything())
    }

    fn since(&self, have: Revision) -> Promise<'_, Since> {
        Box::pin(self.read_since(have))
    }

    fn heard(&self) -> Option<watch::Receiver<Revision>> {
        Some(self.inner.heard.subscribe())
    }

    fn authority(&self) -> Promise<'_, AuthorityRecord> {
        Box::pin(async { Ok(self.base().authority().await?.0) })
    }

    fn put_authority(&self, before: AuthorityRecord, after: AuthorityRecord) -> Promise<'_, ()> {
        Box::pin(async move { self.base().put_authority(&before, &after).await })
    }

    fn commit(&self, expected: Revision, commit: Commit) -> Promise<'_, Revision> {
        Box::pin(self.write(expected, commit))
    }

    fn token(&self, id: String) -> Promise<'_, Option<TokenRecord>> {
        Box::pin(async move { Ok(self.read_token(&id).await?.map(|(token, _)| token)) })
    }

    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>> {
        Box::pin(self.read_tokens())
    }

    fn put_token(&self, write: TokenWrite) -> Promise<'_, ()> {
        Box::pin(self.write_token(write))
    }

    fn reincarnate(&self) -> Promise<'_, String> {
        Box::pin(async move { self.begin_new_life(self.know().await?).await })
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
