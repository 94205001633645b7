//! The ledger over a store whose commits take as long as the test says.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::*;
use crate::identity::ca::Authority;
use crate::model::{Key, NetworkId};
use crate::store::{AuthorityRecord, Promise, Snapshot};

mod excerpts;

/// Counts revisions; each commit waits for a permit, on a task of its own as redb's do on threads.
#[derive(Debug)]
struct SlowStore {
    permits: Arc<Semaphore>,
    revision: Arc<std::sync::Mutex<Revision>>,
}

impl Store for SlowStore {
    fn snapshot(&self) -> Promise<'_, Snapshot> {
        Box::pin(async {
            Ok(Snapshot {
                map: ClusterMap::default(),
                incarnation: "one".to_owned(),
                log: Vec::new(),
            })
        })
    }

    fn authority(&self) -> Promise<'_, AuthorityRecord> {
        Box::pin(async { Ok(AuthorityRecord::first(&Authority::mint()?)) })
    }

    fn put_authority(&self, _: AuthorityRecord, _: AuthorityRecord) -> Promise<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn commit(&self, expected: Revision, commit: Commit) -> Promise<'_, Revision> {
        let (permits, revision) = (Arc::clone(&self.permits), Arc::clone(&self.revision));
        let written = tokio::spawn(async move {
            permits.acquire().await.unwrap().forget();
            let mut revision = revision.lock().unwrap();
            if *revision != expected {
                let found = *revision;
                return Err(StoreError::Conflict { expected, found });
            }
            *revision += commit.changes.len() as u64;
            Ok(*revision)
        });
        Box::pin(async { written.await.unwrap() })
    }

    fn token(&self, _: String) -> Promise<'_, Option<TokenRecord>> {
        Box::pin(async { Ok(None) })
    }

    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn put_token(&self, _: TokenWrite) -> Promise<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn reincarnate(&self) -> Promise<'_, String> {
        Box::pin(async { Ok("two".to_owned()) })
    }
}

fn a_change(_: &ClusterMap) -> Decision<(Vec<Change>, ())> {
    let prefix = "10.0.0.0/24".parse().unwrap();
    Ok((
        vec![Change::Delete(Key::Block(
            NetworkId("n".to_owned()),
            prefix,
        ))],
        (),
    ))
}

#[tokio::test]
async fn a_decision_that_nobody_waits_for_any_more_is_shown_all_the_same() {
    let permits = Arc::new(Semaphore::new(0));
    let store = SlowStore {
        permits: Arc::clone(&permits),
        revision: Arc::default(),
    };
    let ledger = Ledger::load(Arc::new(store)).await.unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(20), ledger.decide(a_change)).await;
    assert!(given_up.is_err(), "the store waits");
    // The abandoned one's permit and the next one's.
    permits.add_permits(2);
    let (revision, ()) = ledger.decide(a_change).await.unwrap();
    assert_eq!(revision, 2);
    assert_eq!(ledger.revision(), 2);
    assert_eq!(ledger.read(|map| map.revision), 2);
}
