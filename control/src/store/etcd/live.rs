//! What goes with a controller: keys with a lease, which etcd deletes when the controller wasn't heard of for
//! [`LEASE_SECS`]; and hearing of everybody's.
//!
//! [`Live`] makes the keys under `live/` that are this process's be what it *wants*, for as long as it lives; a lost
//! lease, a lost key, a member that dies are made good. Everything under `live/` is told as events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::layout::all_of;
use super::proto::{
    Compare, DELETE, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseRevokeRequest, Op, PutRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest,
};
use super::{Base, EtcdStore};
use crate::store::StoreError;

/// A controller that wasn't heard of for so many seconds is gone. Not less than etcd's shortest, which is about one and a
/// half of its `--election-timeout`.
pub const LEASE_SECS: u32 = 5;
/// Between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_millis(1_500);
/// Between two tries after a failure.
const AGAIN: Duration = Duration::from_millis(200);
/// Operations in one transaction: etcd's `--max-txn-ops` is 128.
const TXN_OPS: usize = 100;
/// Events that wait to be taken.
const EVENTS: usize = 1024;

/// What this process wants under `live/`: value by key.
pub type Wanted = Arc<BTreeMap<String, Vec<u8>>>;

/// What happened under `live/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveEvent {
    /// All there is; what isn't in it is gone.
    All(Vec<(String, Vec<u8>)>),
    /// A key is new or has another value.
    Put(String, Vec<u8>),
    /// A key is gone.
    Gone(String),
}

/// The keys of this process and their lease.
#[derive(Debug)]
pub struct Live {
    shared: Arc<Shared>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct Shared {
    base: Arc<Base>,
    /// What etcd was told and has, as far as is known.
    written: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Something that was written is gone.
    lost: Notify,
    lease: watch::Sender<Option<i64>>,
}

impl Drop for Live {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Live {
    /// Starts. `wanted` may change at any time.
    pub fn start(
        store: &EtcdStore,
        wanted: watch::Receiver<Wanted>,
    ) -> (Self, mpsc::Receiver<LiveEvent>) {
        let shared = Arc::new(Shared {
            base: Arc::clone(&store.inner.base),
            written: Mutex::default(),
            lost: Notify::new(),
            lease: watch::Sender::new(None),
        });
        let (events, events_out) = mpsc::channel(EVENTS);
        let tasks = [
            tokio::spawn(keep(Arc::clone(&shared), wanted)),
            tokio::spawn(follow(Arc::clone(&shared), events)),
        ];
        (Self { shared, tasks }, events_out)
    }

    /// Our lease. While there is none, others take us for dead.
    pub fn lease(&self) -> watch::Receiver<Option<i64>> {
        self.shared.lease.subscribe()
    }

    /// Writes a key that goes with our lease, and deletes others at the same time.
    ///
    /// # Errors
    /// [`StoreError::Etcd`], also when there is no lease.
    pub async fn send(&self, key: &str, value: Vec<u8>, delete: &[&str]) -> Result<(), StoreError> {
        let lease = *self.shared.lease.borrow();
        let lease =
            lease.ok_or_else(|| self.shared.base.failed("it can't be reached at the moment"))?;
        let mut ops = vec![self.shared.put(key, value, lease)];
        ops.extend(delete.iter().map(|key| self.shared.delete(key)));
        self.shared.txn(Vec::new(), ops).await.map(drop)
    }

    /// Deletes keys in a task of its own, if it can be done: what stays goes with a lease.
    pub fn forget(&self, keys: [String; 2]) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let ops = keys.iter().map(|key| shared.delete(key)).collect();
            if let Err(error) = shared.txn(Vec::new(), ops).await {
                debug!(%error, ?keys, "keys stay until their lease ends");
            }
        });
    }

    /// Ends well: others hear at once that we're gone.
    pub async fn close(&self) {
        self.tasks[0].abort();
        let lease = self.shared.lease.send_replace(None);
        if let Some(id) = lease {
            // Whoever isn't reached hears of it when the lease ends.
            let _ = self
                .shared
                .base
                .client
                .call(&LeaseRevokeRequest { id })
                .await;
        }
    }
}

impl Shared {
    fn written(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.base.keys.live())
    }

    fn put(&self, key: &str, value: Vec<u8>, lease: i64) -> RequestOp {
        Op::Put(PutRequest {
            key: self.full(key).into_bytes(),
            value,
            lease,
        })
        .into()
    }

    fn delete(&self, key: &str) -> RequestOp {
        Op::Delete(DeleteRangeRequest {
            key: self.full(key).into_bytes(),
            range_end: Vec::new(),
        })
        .into()
    }

    async fn txn(
        &self,
        compare: Vec<Compare>,
        success: Vec<RequestOp>,
    ) -> Result<bool, StoreError> {
        let txn = TxnRequest {
            compare,
            success,
            failure: Vec::new(),
        };
        Ok(self.base.client.call(&txn).await?.succeeded)
    }

    /// Makes what is there what is wanted.
    async fn sync(&self, wanted: &Wanted, lease: i64) -> Result<(), StoreError> {
        let missing: Vec<(String, Vec<u8>)> = {
            let written = self.written();
            let missing = wanted
                .iter()
                .filter(|(key, value)| written.get(*key) != Some(value));
            missing
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        for batch in missing.chunks(TXN_OPS) {
            // First noted, then written: what is deleted by others meanwhile is missed then.
            self.written().extend(batch.iter().cloned());
            let puts = batch
                .iter()
                .map(|(key, value)| self.put(key, value.clone(), lease));
            let done = self.txn(Vec::new(), puts.collect()).await;
            if let Err(error) = done {
                let mut written = self.written();
                batch.iter().for_each(|(key, _)| drop(written.remove(key)));
                return Err(error);
            }
        }
        let spare: Vec<(String, Vec<u8>)> = {
            let written = self.written();
            let spare = written.iter().filter(|(key, _)| !wanted.contains_key(*key));
            spare
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        for (key, value) in spare {
            // It may be another controller's by now.
            let ours = Compare::is_value(&self.full(&key), value);
            self.txn(vec![ours], vec![self.delete(&key)]).await?;
            self.written().remove(&key);
        }
        Ok(())
    }
}

/// Keeps a lease and the wanted keys, for ever.
async fn keep(shared: Arc<Shared>, mut wanted: watch::Receiver<Wanted>) {
    loop {
        let request = LeaseGrantRequest {
            ttl: i64::from(LEASE_SECS),
        };
        let lease = match shared.base.client.call(&request).await {
            Ok(granted) => granted.id,
            Err(error) => {
                debug!(%error, "no lease");
                sleep(AGAIN).await;
                continue;
            }
        };
        shared.written().clear();
        if !keep_one(&shared, lease, &mut wanted).await {
            return;
        }
        warn!(
            store = shared.base.client.name(),
            "the store was not reached for {LEASE_SECS} s: other controllers take this one for dead"
        );
        shared.lease.send_replace(None);
    }
}

/// The same with one lease, until it is lost; `false` when nothing is wanted any more.
async fn keep_one(shared: &Shared, lease: i64, wanted: &mut watch::Receiver<Wanted>) -> bool {
    let ttl = Duration::from_secs(u64::from(LEASE_SECS));
    let mut heard = Instant::now();
    let mut due = heard + KEEP_ALIVE;
    while heard.elapsed() < ttl {
        let goal = wanted.borrow_and_update().clone();
        let next = match timeout(ttl, shared.sync(&goal, lease)).await {
            Ok(Ok(())) => {
                shared.lease.send_if_modified(|known| {
                    let is_news = known.is_none();
                    *known = Some(lease);
                    is_news
                });
                due
            }
            Ok(Err(error)) => {
                debug!(%error, "presence can't be written");
                (Instant::now() + AGAIN).min(due)
            }
            Err(_) => Instant::now(),
        };
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return false },
            () = shared.lost.notified() => {}
            () = sleep_until(next.into()) => {}
        }
        if Instant::now() < due {
            continue;
        }
        due = Instant::now() + AGAIN;
        // Long enough to try more than one member.
        let left = ttl.saturating_sub(heard.elapsed());
        match timeout(left, renew(shared, lease)).await {
            Ok(Ok(true)) => {
                heard = Instant::now();
                due = heard + KEEP_ALIVE;
            }
            Ok(Ok(false)) => return true,
            Ok(Err(error)) => debug!(%error, "a sign of life can't be given"),
            Err(_) => debug!("a sign of life takes too long"),
        }
    }
    true
}

/// Whether the lease is still there.
async fn renew(shared: &Shared, id: i64) -> Result<bool, StoreError> {
    let mut answers = shared
        .base
        .client
        .stream(&LeaseKeepAliveRequest { id })
        .await?;
    match answers.message().await {
        Ok(answer) => Ok(answer.is_some_and(|answer| answer.ttl > 0)),
        Err(status) => Err(shared.base.failed(status.message())),
    }
}

/// Tells what happens, for ever.
async fn follow(shared: Arc<Shared>, events: mpsc::Sender<LiveEvent>) {
    loop {
        match follow_once(&shared, &events).await {
            Ok(None) => return,
            Ok(Some(error)) => debug!(%error, "watching presence again"),
            Err(error) => debug!(%error, "watching presence again"),
        }
        sleep(AGAIN).await;
    }
}

/// Why the watch ended; `None` when nobody listens any more.
async fn follow_once(
    shared: &Shared,
    events: &mpsc::Sender<LiveEvent>,
) -> Result<Option<String>, StoreError> {
    let prefix = shared.base.keys.live();
    let short = |key: &[u8]| {
        let key = String::from_utf8_lossy(key);
        key.strip_prefix(&prefix).unwrap_or(&key).to_owned()
    };
    let range = all_of(&prefix, 0);
    let (kvs, at) = shared.base.pages_at(range.clone()).await?;
    let all: Vec<_> = kvs
        .into_iter()
        .map(|kv| (short(&kv.key), kv.value))
        .collect();
    shared.miss(|key| !all.iter().any(|(there, _)| there == key));
    if events.send(LiveEvent::All(all)).await.is_err() {
        return Ok(None);
    }
    let create = WatchCreateRequest {
        key: range.key,
        range_end: range.range_end,
        start_revision: at + 1,
    };
    let request = WatchRequest {
        create: Some(create),
    };
    let mut stream = shared.base.client.stream(&request).await?;
    loop {
        let told = match stream.message().await {
            Ok(Some(told)) if told.canceled => return Ok(Some(told.cancel_reason)),
            Ok(Some(told)) => told,
            Ok(None) => return Ok(Some("the stream ended".to_owned())),
            Err(status) => return Ok(Some(status.to_string())),
        };
        for event in told.events {
            let Some(kv) = event.kv else { continue };
            let key = short(&kv.key);
            let event = if event.kind == DELETE {
                shared.miss(|ours| ours == key);
                LiveEvent::Gone(key)
            } else {
                LiveEvent::Put(key, kv.value)
            };
            if events.send(event).await.is_err() {
                return Ok(None);
            }
        }
    }
}

impl Shared {
    /// What was ours and is gone is written again, if it is still wanted.
    fn miss(&self, is_gone: impl Fn(&str) -> bool) {
        let mut written = self.written();
        let before = written.len();
        written.retain(|key, _| !is_gone(key));
        if written.len() != before {
            self.lost.notify_one();
        }
    }
}
