//! What only a store in an etcd cluster can do or suffer. What all stores do is tested in `store::tests`.

use super::testing::Server;
use super::*;
use crate::model::{Change, ClusterMap, Key, NetworkId};
use crate::store::LOG_KEEP;
use data_encoding::BASE64;
use proto::{DeleteRangeRequest, LeaseGrantRequest};

fn change(number: u8) -> Change {
    let prefix = format!("10.{number}.0.0/16").parse().unwrap();
    Change::Delete(Key::Block(NetworkId("n".to_owned()), prefix))
}

/// So long that it doesn't fit into one request.
fn long_change(number: u8) -> Change {
    let name = format!("{number}").repeat(2 * layout::PART_BYTES);
    Change::Delete(Key::Network(NetworkId(name)))
}

fn commit(changes: Vec<Change>) -> Commit {
    Commit {
        changes,
        token: None,
    }
}

async fn open(server: &Server) -> EtcdStore {
    EtcdStore::open_or_make(&server.config("t")).await.unwrap()
}

fn changes(since: Since) -> Vec<(Revision, Change)> {
    match since {
        Since::Changes(changes) => changes,
        Since::Everything(snapshot) => panic!("everything, at {}", snapshot.map.revision),
    }
}

/// A checkpoint when none is being made beside it.
async fn checkpoint(store: &EtcdStore) {
    while store
        .inner
        .checkpointing
        .swap(true, std::sync::atomic::Ordering::AcqRel)
    {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.checkpoint().await.unwrap();
    store
        .inner
        .checkpointing
        .store(false, std::sync::atomic::Ordering::Release);
}

#[tokio::test]
async fn two_controllers_find_one_cluster_and_see_each_other() {
    let server = Server::start();
    let config = server.config("t");
    let (one, two) = tokio::join!(
        EtcdStore::open_or_make(&config),
        EtcdStore::open_or_make(&config)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let cluster = one.authority().await.unwrap().cluster;
    assert_eq!(two.authority().await.unwrap().cluster, cluster);
    for store in [&one, &two] {
        assert_eq!(store.snapshot().await.unwrap().map, ClusterMap::default());
    }
    let mut heard = two.heard().unwrap();
    assert_eq!(
        one.commit(0, commit(vec![change(1), change(2)]))
            .await
            .unwrap(),
        2
    );
    tokio::time::timeout(
        Duration::from_secs(10),
        heard.wait_for(|newest| *newest == 2),
    )
    .await
    .unwrap()
    .unwrap();
    let error = two.commit(0, commit(vec![change(3)])).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                expected: 0,
                found: 2
            }
        ),
        "{error}"
    );
    assert_eq!(
        changes(two.since(0).await.unwrap()),
        [(1, change(1)), (2, change(2))]
    );
    assert_eq!(changes(two.since(2).await.unwrap()), []);
    assert_eq!(two.commit(2, commit(vec![change(3)])).await.unwrap(), 3);
    assert_eq!(changes(one.since(2).await.unwrap()), [(3, change(3))]);
    // Another prefix is another cluster.
    let other = EtcdStore::open_or_make(&server.config("u")).await.unwrap();
    assert_ne!(other.authority().await.unwrap().cluster, cluster);
    let none = EtcdStore::open(&server.config("v"))
        .await
        .unwrap_err()
        .to_string();
    assert!(none.contains("there is no cluster in it"), "{none}");
}

#[tokio::test]
async fn what_is_too_long_for_one_request_is_committed_all_the_same() {
    let server = Server::start();
    let (one, two) = (open(&server).await, open(&server).await);
    for store in [&one, &two] {
        store.snapshot().await.unwrap();
    }
    let long = vec![long_change(1), long_change(2), long_change(3)];
    assert_eq!(one.commit(0, commit(long.clone())).await.unwrap(), 3);
    assert_eq!(
        changes(two.since(0).await.unwrap()),
        [
            (1, long[0].clone()),
            (2, long[1].clone()),
            (3, long[2].clone())
        ]
    );
    // More changes than etcd takes operations in one transaction.
    let many = (0..1000).map(|number| change(u8::try_from(number % 250).unwrap()));
    assert_eq!(two.commit(3, commit(many.collect())).await.unwrap(), 1003);
    let snapshot = one.snapshot().await.unwrap();
    assert_eq!((snapshot.map.revision, snapshot.log.len()), (1003, 1003));
}

#[tokio::test]
async fn parts_of_what_nobody_needs_any_more_are_deleted() {
    let server = Server::start();
    let store = open(&server).await;
    store.snapshot().await.unwrap();
    let parts = || {
        server
            .ctl(&["get", "--prefix", "--keys-only", "/t/parts/"])
            .split_whitespace()
            .count()
    };
    // Of a commit that never came to be: its controller died.
    store
        .base()
        .write_parts("/t/parts/dead/", &[0; 10])
        .await
        .unwrap();
    store.commit(0, commit(vec![long_change(1)])).await.unwrap();
    assert!(parts() > 2);
    checkpoint(&store).await;
    assert_eq!(parts(), 2 + 1, "the log still has that commit");
    let mut revision = 1;
    for _ in 0..=(LOG_KEEP / 1000) {
        revision = store
            .commit(revision, commit(vec![change(1); 1000]))
            .await
            .unwrap();
    }
    checkpoint(&store).await;
    assert_eq!(parts(), 0);
    let chunks = server.ctl(&["get", "--prefix", "--keys-only", "/t/checkpoint/"]);
    assert_eq!(chunks.split_whitespace().count(), 2, "{chunks}");
    // Who was away for so long gets everything.
    let other = open(&server).await;
    assert_eq!(other.snapshot().await.unwrap().map.revision, revision);
}

#[tokio::test]
async fn compaction_takes_nothing_from_anybody() {
    let server = Server::start();
    let (one, two) = (open(&server).await, open(&server).await);
    for store in [&one, &two] {
        store.snapshot().await.unwrap();
    }
    let mut revision = 0;
    for number in 0..20 {
        revision = one
            .commit(revision, commit(vec![change(number)]))
            .await
            .unwrap();
    }
    let at = server.ctl(&["get", "/t/map/head", "-w", "json"]);
    let at: serde_json::Value = serde_json::from_str(&at).unwrap();
    server.ctl(&["compact", &at["header"]["revision"].to_string()]);
    assert_eq!(changes(two.since(0).await.unwrap()).len(), 20);
    assert_eq!(two.snapshot().await.unwrap().map.revision, 20);
    let mut heard = two.heard().unwrap();
    assert_eq!(one.commit(20, commit(vec![change(1)])).await.unwrap(), 21);
    tokio::time::timeout(
        Duration::from_secs(10),
        heard.wait_for(|newest| *newest == 21),
    )
    .await
    .unwrap()
    .unwrap();
}

/// A first try whose answer was lost is found out by its name.
#[tokio::test]
async fn the_same_commit_twice_is_one() {
    let server = Server::start();
    let (store, other) = (open(&server).await, open(&server).await);
    for store in [&store, &other] {
        store.snapshot().await.unwrap();
    }
    let before = store.known().clone();
    store.commit(0, commit(vec![change(1)])).await.unwrap();
    let name = store.known().clone().unwrap().head.commit;
    // As the controller was before it heard the answer, it sends the same transaction again.
    *store.known() = before.clone();
    let again = store
        .write_as(&name, 0, commit(vec![change(1)]))
        .await
        .unwrap();
    assert_eq!(again, 1);
    assert_eq!(store.commit(1, commit(vec![change(2)])).await.unwrap(), 2);
    // The same when another one has come after it.
    other.since(0).await.unwrap();
    let before = other.known().clone();
    other.commit(2, commit(vec![change(3)])).await.unwrap();
    let name = other.known().clone().unwrap().head.commit;
    store.since(2).await.unwrap();
    store.commit(3, commit(vec![change(4)])).await.unwrap();
    *other.known() = before;
    assert_eq!(
        other
            .write_as(&name, 2, commit(vec![change(3)]))
            .await
            .unwrap(),
        3
    );
    let error = other.commit(3, commit(vec![change(5)])).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                expected: 3,
                found: 4
            }
        ),
        "{error}"
    );
    assert_eq!(changes(other.since(3).await.unwrap()), [(4, change(4))]);
    assert_eq!(other.snapshot().await.unwrap().log.len(), 4);
}

#[tokio::test]
async fn a_store_that_was_set_back_begins_a_new_life() {
    let mut server = Server::start();
    let (one, two) = (open(&server).await, open(&server).await);
    let life = one.snapshot().await.unwrap().incarnation;
    assert_eq!(two.snapshot().await.unwrap().incarnation, life);
    one.commit(0, commit(vec![change(1)])).await.unwrap();
    let backup = server.ctl(&["get", "--prefix", "/t/map/", "-w", "json"]);
    one.commit(1, commit(vec![change(2), change(3)]))
        .await
        .unwrap();
    assert_eq!(changes(two.since(0).await.unwrap()).len(), 3);
    // As it was: by hand here, by `etcdctl snapshot restore` in life.
    server.ctl(&["del", "--prefix", "/t/map/"]);
    let backup: serde_json::Value = serde_json::from_str(&backup).unwrap();
    for kv in backup["kvs"].as_array().unwrap() {
        let bytes = |name: &str| {
            BASE64
                .decode(kv[name].as_str().unwrap().as_bytes())
                .unwrap()
        };
        let restored = put(&String::from_utf8(bytes("key")).unwrap(), bytes("value"));
        one.base().client.call(&restored).await.unwrap();
    }
    server.kill();
    server.start_again();
    let Since::Everything(after) = one.since(3).await.unwrap() else {
        panic!("what it knew is not there any more")
    };
    assert_eq!(after.map.revision, 1);
    assert_ne!(after.incarnation, life);
    // Meanwhile the lost revisions have others in their place: the other one finds that out, too.
    one.commit(1, commit(vec![change(7), change(8), change(9)]))
        .await
        .unwrap();
    let Since::Everything(other) = two.since(3).await.unwrap() else {
        panic!("revisions 2 and 3 are others now")
    };
    assert_eq!(
        (other.map.revision, &other.incarnation),
        (4, &after.incarnation)
    );
    assert_eq!(two.commit(4, commit(vec![change(5)])).await.unwrap(), 5);
}

#[tokio::test]
async fn a_damaged_value_is_named() {
    let server = Server::start();
    let store = open(&server).await;
    store.snapshot().await.unwrap();
    store.commit(0, commit(vec![change(1)])).await.unwrap();
    let key = "/t/map/log/0000000000000001";
    store
        .base()
        .client
        .call(&put(key, b"rubbish".to_vec()))
        .await
        .unwrap();
    let error = store.snapshot().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Corrupt { .. }) && error.to_string().contains(key),
        "{error}"
    );
    let gone = DeleteRangeRequest {
        key: key.as_bytes().to_vec(),
        range_end: Vec::new(),
    };
    store.base().client.call(&gone).await.unwrap();
    let error = store.snapshot().await.unwrap_err().to_string();
    assert!(
        error.contains("log ends at revision 0") && error.contains("etcd://"),
        "{error}"
    );
    store
        .base()
        .client
        .call(&put("/t/layout", b"2".to_vec()))
        .await
        .unwrap();
    let error = EtcdStore::open(&server.config("t")).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Newer {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
}

/// Switches authentication on; returns how the user weft gets in.
fn guard(server: &Server) -> impl Fn(&str, &str) -> EtcdConfig {
    for args in [
        &["user", "add", "root:top"][..],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "weft:pass word"],
        &["role", "add", "weft"],
        &[
            "role",
            "grant-permission",
            "--prefix=true",
            "weft",
            "readwrite",
            "/t/",
        ],
        &["user", "grant-role", "weft", "weft"],
        &["auth", "enable"],
    ] {
        server.ctl(args);
    }
    |password: &str, prefix: &str| EtcdConfig {
        user: Some("weft".to_owned()),
        password: Some(password.to_owned()),
        ..server.config(prefix)
    }
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let server = Server::start();
    let as_user = guard(&server);
    let error = EtcdStore::open_or_make(&server.config("t"))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("user"), "{error}");
    let error = EtcdStore::open_or_make(&as_user("wrong", "t"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--store-user") && !error.contains("wrong"),
        "{error}"
    );
    let error = EtcdStore::open_or_make(&as_user("pass word", "u"))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("permission denied") && error.contains("prefix"),
        "{error}"
    );
    let store = EtcdStore::open_or_make(&as_user("pass word", "t"))
        .await
        .unwrap();
    store.snapshot().await.unwrap();
    let mut heard = store.heard().unwrap();
    assert_eq!(store.commit(0, commit(vec![change(1)])).await.unwrap(), 1);
    tokio::time::timeout(
        Duration::from_secs(10),
        heard.wait_for(|newest| *newest == 1),
    )
    .await
    .unwrap()
    .unwrap();
    store
        .base()
        .client
        .call(&LeaseGrantRequest { ttl: 5 })
        .await
        .unwrap();
    // A token that the server doesn't know any more is no obstacle.
    store.base().client.forget_token();
    assert_eq!(store.commit(1, commit(vec![change(2)])).await.unwrap(), 2);
}

#[tokio::test]
async fn both_sides_show_their_certificates() {
    let server = Server::start_secure();
    let with = |ca: bool, cert: bool| EtcdConfig {
        ca: ca.then(|| server.pem("ca")),
        cert: cert.then(|| server.pem("cert")),
        key: cert.then(|| server.pem("key")),
        ..server.config("t")
    };
    let store = EtcdStore::open_or_make(&with(true, true)).await.unwrap();
    store.snapshot().await.unwrap();
    assert_eq!(store.commit(0, commit(vec![change(1)])).await.unwrap(), 1);
    for bad in [with(false, false), with(true, false)] {
        let error = EtcdStore::open_or_make(&bad).await.unwrap_err();
        assert!(matches!(error, StoreError::Etcd { .. }), "{error}");
    }
    // Another cluster's authority.
    let other = Server::start_secure();
    let stranger = EtcdConfig {
        ca: Some(other.pem("ca")),
        ..with(true, true)
    };
    let error = EtcdStore::open_or_make(&stranger)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("certificate"), "{error}");
    let nowhere = EtcdConfig {
        ca: Some("/nowhere.pem".into()),
        ..server.config("t")
    };
    let error = EtcdStore::open_or_make(&nowhere)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere.pem"), "{error}");
}
