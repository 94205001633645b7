//! A store as etcd is, seen from controllers that it may not reach.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use weft_wire::MacAddr;

use super::Chance;
use crate::model::{Change, ClusterMap, EndpointId, Object, Revision};
use crate::store::{
    AuthorityRecord, Commit, Promise, Since, Snapshot, Store, StoreError, TokenRecord, TokenWrite,
};

/// As long as leases last (`fellows`, `store::etcd::live`).
const LEASE: Duration = Duration::from_secs(5);

/// A controller's death: in which write of all, and on which side of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crash {
    pub(super) number: u64,
    pub(super) after: bool,
}

/// What is in the store.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) map: ClusterMap,
    log: Vec<(Revision, Change)>,
    /// Commits since the world was made.
    pub(super) writes: u64,
    crash: Option<Crash>,
    watchers: Vec<Watcher>,
    /// Whose a MAC was in an epoch, ever.
    owners: BTreeMap<(MacAddr, u64), EndpointId>,
}

/// How a controller hears of commits.
#[derive(Clone)]
struct Watcher {
    heard: watch::Sender<Revision>,
    is_cut: Arc<AtomicBool>,
}

impl Shared {
    /// Counts the writes from here on.
    pub(super) fn crash_in(&mut self, crash: Option<Crash>) {
        self.crash = crash;
        self.writes = 0;
    }

    /// All that was ever written, in its order.
    pub(super) fn history(&self) -> Vec<(Revision, Change)> {
        self.log.clone()
    }

    /// Every controller hears of the newest revision.
    pub(super) fn tell_all(&self) {
        for watcher in &self.watchers {
            watcher.heard.send_replace(self.map.revision);
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            map: self.map.clone(),
            incarnation: "sim".to_owned(),
            log: self.log.clone(),
        }
    }

    fn commit(&mut self, expected: Revision, changes: Vec<Change>) -> Result<Revision, StoreError> {
        let found = self.map.revision;
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        for change in changes {
            let revision = self.map.revision + 1;
            if let Change::Put(Object::Endpoint(endpoint)) = &change {
                let owner = (endpoint.mac, endpoint.epoch);
                let owner = self.owners.entry(owner).or_insert(endpoint.id.clone());
                assert_eq!(*owner, endpoint.id, "a MAC's owner in an epoch");
            }
            self.log.push((revision, change.clone()));
            self.map.apply(revision, change);
        }
        self.writes += 1;
        check(&self.map);
        Ok(self.map.revision)
    }
}

/// What must hold of every map.
fn check(map: &ClusterMap) {
    let endpoints: Vec<_> = map.endpoints.values().map(|of| &of.object).collect();
    for (at, one) in endpoints.iter().enumerate() {
        for ip in &one.ips {
            let block = map.block_of(&one.network, *ip);
            let owner = block.map(|block| &block.node);
            assert_eq!(owner, Some(&one.node), "{ip} of {}", one.id);
        }
        for other in &endpoints[at + 1..] {
            assert!(
                one.ips.iter().all(|ip| !other.ips.contains(ip)),
                "{one:?} {other:?}"
            );
            assert!(
                one.mac != other.mac && one.name != other.name,
                "{one:?} {other:?}"
            );
        }
    }
    let blocks: Vec<_> = map.blocks.values().map(|of| of.object.prefix).collect();
    let single = |prefix: &ipnet::IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    for (at, one) in blocks.iter().enumerate() {
        for other in &blocks[at + 1..] {
            let apart = !one.contains(other) && !other.contains(one);
            assert!(apart || single(one) != single(other), "{one} {other}");
        }
    }
}

/// One controller's way to the store.
#[derive(Clone)]
pub(super) struct SimStore {
    shared: Arc<Mutex<Shared>>,
    chance: Chance,
    heard: watch::Sender<Revision>,
    is_cut: Arc<AtomicBool>,
    cut_since: Arc<Mutex<Option<Instant>>>,
    is_dead: Arc<AtomicBool>,
}

impl std::fmt::Debug for SimStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimStore")
    }
}

impl SimStore {
    pub(super) fn new(shared: Arc<Mutex<Shared>>, chance: Chance) -> Self {
        let heard = watch::Sender::new(0);
        let is_cut = Arc::new(AtomicBool::new(false));
        shared.lock().unwrap().watchers.push(Watcher {
            heard: heard.clone(),
            is_cut: Arc::clone(&is_cut),
        });
        Self {
            shared,
            chance,
            heard,
            is_cut,
            cut_since: Arc::default(),
            is_dead: Arc::default(),
        }
    }

    /// Cuts the way, or mends it.
    pub(super) fn cut(&self, is_cut: bool) {
        let was_cut = self.is_cut.swap(is_cut, Ordering::Relaxed);
        let since = (is_cut && !was_cut).then(Instant::now);
        if is_cut != was_cut {
            *self.cut_since.lock().unwrap() = since;
        }
        if !is_cut {
            // Whoever watches again begins with what is there.
            let newest = self.shared.lock().unwrap().map.revision;
            self.heard.send_replace(newest);
        }
    }

    /// The controller is dead: nothing comes from it any more, and nothing reaches it.
    pub(super) fn die(&self) {
        self.is_dead.store(true, Ordering::Relaxed);
    }

    /// Its lease is over: the controller lets its agents go.
    pub(super) fn is_lost(&self) -> bool {
        let since = self.cut_since.lock().unwrap();
        since.is_some_and(|since| since.elapsed() > LEASE)
    }

    pub(super) fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Relaxed)
    }

    /// One way, there or back. What is lost is an error after a while, to those who live.
    async fn travel(&self) -> Result<(), StoreError> {
        self.chance.pause(Duration::from_millis(300)).await;
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
        if self.is_cut.load(Ordering::Relaxed) {
            self.chance.pause(Duration::from_secs(5)).await;
            return Err(StoreError::Etcd {
                store: "sim".to_owned(),
                cause: "no member of it answers".to_owned(),
            });
        }
        Ok(())
    }

    async fn die_here(&self) {
        self.die();
        std::future::pending::<()>().await;
    }

    /// All whose way isn't cut hear of it, sooner or later, some twice, and of some only with a later one: what is heard is
    /// never older than what was heard before.
    fn spread(&self, revision: Revision) {
        let watchers = self.shared.lock().unwrap().watchers.clone();
        for watcher in watchers {
            let times = 1 + self.chance.below(2);
            for _ in 0..times {
                let (watcher, chance) = (watcher.clone(), self.chance.clone());
                tokio::spawn(async move {
                    chance.pause(Duration::from_millis(800)).await;
                    if !watcher.is_cut.load(Ordering::Relaxed) {
                        let newest = |heard: &mut Revision| *heard = revision.max(*heard);
                        watcher.heard.send_modify(newest);
                    }
                });
            }
        }
    }
}

impl Store for SimStore {
    fn snapshot(&self) -> Promise<'_, Snapshot> {
        Box::pin(async {
            self.travel().await?;
            Ok(self.shared.lock().unwrap().snapshot())
        })
    }

    fn since(&self, have: Revision) -> Promise<'_, Since> {
        Box::pin(async move {
            self.travel().await?;
            let since = {
                let shared = self.shared.lock().unwrap();
                if self.chance.one_in(8) {
                    Since::Everything(Box::new(shared.snapshot()))
                } else {
                    let new = shared.log.iter().filter(|(revision, _)| *revision > have);
                    Since::Changes(new.cloned().collect())
                }
            };
            self.travel().await?;
            Ok(since)
        })
    }

    fn heard(&self) -> Option<watch::Receiver<Revision>> {
        Some(self.heard.subscribe())
    }

    fn commit(&self, expected: Revision, commit: Commit) -> Promise<'_, Revision> {
        Box::pin(async move {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            // What is under way arrives, whatever becomes of its sender.
            let is_cut = self.is_cut.load(Ordering::Relaxed);
            self.chance.pause(Duration::from_millis(300)).await;
            if is_cut {
                self.travel().await?;
            }
            let crash = {
                let shared = self.shared.lock().unwrap();
                shared.crash.filter(|crash| crash.number == shared.writes)
            };
            if crash.is_some_and(|crash| !crash.after) {
                self.shared.lock().unwrap().crash = None;
                self.die_here().await;
            }
            let written = self
                .shared
                .lock()
                .unwrap()
                .commit(expected, commit.changes)?;
            self.spread(written);
            if crash.is_some() {
                self.shared.lock().unwrap().crash = None;
                self.die_here().await;
            }
            self.travel().await?;
            Ok(written)
        })
    }

    fn authority(&self) -> Promise<'_, AuthorityRecord> {
        unreachable!("nobody joins here")
    }

    fn put_authority(&self, _: AuthorityRecord, _: AuthorityRecord) -> Promise<'_, ()> {
        unreachable!("nobody joins here")
    }

    fn token(&self, _: String) -> Promise<'_, Option<TokenRecord>> {
        unreachable!("nobody joins here")
    }

    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>> {
        unreachable!("nobody joins here")
    }

    fn put_token(&self, _: TokenWrite) -> Promise<'_, ()> {
        unreachable!("nobody joins here")
    }

    fn reincarnate(&self) -> Promise<'_, String> {
        unreachable!("this store is never set back")
    }
}
