use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use weft_wire::Mtu;

use super::dump::Dump;
use super::etcd::EtcdStore;
use super::etcd::testing::Server;
use super::redb::{FILE_NAME, RedbStore};
use super::*;
use crate::identity::ca::Authority;
use crate::model::{Key, Node, Object, Transport};

/// Where a store is, to be opened again.
enum Place {
    Redb(tempfile::TempDir),
    Etcd(Server),
}

impl Place {
    async fn open(&self) -> Box<dyn Store> {
        match self {
            Self::Redb(dir) => Box::new(RedbStore::open_or_make(dir.path()).unwrap()),
            Self::Etcd(server) => {
                Box::new(EtcdStore::open_or_make(&server.config("t")).await.unwrap())
            }
        }
    }
}

/// A test that every store must pass.
macro_rules! on_each_store {
    ($name:ident) => {
        mod $name {
            use super::{Place, Server};

            #[tokio::test]
            async fn embedded() {
                super::$name(Place::Redb(tempfile::tempdir().unwrap())).await;
            }

            #[tokio::test]
            async fn etcd() {
                super::$name(Place::Etcd(Server::start())).await;
            }
        }
    };
}

fn node(number: u32) -> Change {
    Change::Put(Object::Node(Node {
        id: NodeId(format!("{number:032x}")),
        name: format!("n{number}"),
        underlay: Ipv4Addr::from(number).into(),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "test".to_owned(),
    }))
}

fn gone(number: u32) -> Change {
    Change::Delete(Key::Node(NodeId(format!("{number:032x}"))))
}

fn changes(changes: Vec<Change>) -> Commit {
    Commit {
        changes,
        token: None,
    }
}

fn replay(log: &[(Revision, Change)]) -> ClusterMap {
    let mut map = ClusterMap::default();
    for (revision, change) in log {
        map.apply(*revision, change.clone());
    }
    map
}

on_each_store!(what_was_committed_is_there_after_opening_again);
async fn what_was_committed_is_there_after_opening_again(place: Place) {
    let store = place.open().await;
    assert_eq!(
        store
            .commit(0, changes(vec![node(1), node(2)]))
            .await
            .unwrap(),
        2
    );
    assert_eq!(store.commit(2, changes(vec![gone(1)])).await.unwrap(), 3);
    let before = store.snapshot().await.unwrap();
    let cluster = store.authority().await.unwrap().cluster;
    drop(store);
    let store = place.open().await;
    let after = store.snapshot().await.unwrap();
    assert_eq!(after.map, before.map);
    assert_eq!(after.map, replay(&after.log));
    assert_eq!((after.map.revision, after.map.nodes.len()), (3, 1));
    assert_eq!(after.incarnation, before.incarnation);
    assert_eq!(store.authority().await.unwrap().cluster, cluster);
    if let Place::Redb(dir) = &place {
        let mode = std::fs::metadata(dir.path().join(FILE_NAME))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

on_each_store!(a_commit_on_an_old_revision_changes_nothing);
async fn a_commit_on_an_old_revision_changes_nothing(place: Place) {
    let store = place.open().await;
    store.commit(0, changes(vec![node(1)])).await.unwrap();
    let error = store.commit(0, changes(vec![node(2)])).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Conflict {
                expected: 0,
                found: 1
            }
        ),
        "{error}"
    );
    assert_eq!(store.snapshot().await.unwrap().map.nodes.len(), 1);
}

on_each_store!(old_changes_are_forgotten_and_the_rest_has_no_gap);
async fn old_changes_are_forgotten_and_the_rest_has_no_gap(place: Place) {
    let store = place.open().await;
    let mut revision = 0;
    for round in 0..6 {
        let batch = (0..1000).map(|number| {
            if round % 2 == 0 {
                node(number)
            } else {
                gone(number)
            }
        });
        revision = store
            .commit(revision, changes(batch.collect()))
            .await
            .unwrap();
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.map.revision, revision);
        let kept = snapshot.log.len() as u64;
        assert!(
            kept >= revision.min(LOG_KEEP) && kept < LOG_KEEP + 1024,
            "{kept}"
        );
        let oldest = snapshot.log[0].0;
        assert!(snapshot.log.iter().map(|(at, _)| *at).eq(oldest..=revision));
    }
}

fn a_token(id: &str) -> TokenRecord {
    TokenRecord {
        id: id.to_owned(),
        secret_digest: "d".to_owned(),
        expires: u64::MAX,
        uses: 1,
        used_by: Vec::new(),
        revoked: false,
    }
}

fn write(before: Option<&TokenRecord>, after: &TokenRecord) -> TokenWrite {
    TokenWrite {
        before: before.cloned(),
        after: after.clone(),
    }
}

on_each_store!(a_token_is_written_with_the_changes_that_use_it_up);
async fn a_token_is_written_with_the_changes_that_use_it_up(place: Place) {
    let store = place.open().await;
    let token = a_token("t");
    store.put_token(write(None, &token)).await.unwrap();
    let found = || store.token("t".to_owned());
    assert_eq!(found().await.unwrap(), Some(token.clone()));
    assert_eq!(store.token("u".to_owned()).await.unwrap(), None);
    let used = TokenRecord {
        used_by: vec![NodeId("n".to_owned())],
        ..token.clone()
    };
    let commit = |before: &TokenRecord| Commit {
        changes: vec![node(1)],
        token: Some(write(Some(before), &used)),
    };
    store.commit(7, commit(&token)).await.unwrap_err();
    assert_eq!(found().await.unwrap(), Some(token.clone()));
    store.commit(0, commit(&token)).await.unwrap();
    assert_eq!(found().await.unwrap(), Some(used.clone()));
    // Long after it expired nobody asks for it any more.
    let old = |id| TokenRecord {
        expires: 1,
        ..a_token(id)
    };
    store.put_token(write(None, &old("old"))).await.unwrap();
    assert!(store.token("old".to_owned()).await.unwrap().is_some());
    store.put_token(write(None, &old("v"))).await.unwrap();
    assert!(store.token("old".to_owned()).await.unwrap().is_none());
    let all = store.tokens().await.unwrap();
    assert_eq!(all, [used, old("v")]);
}

on_each_store!(of_two_who_use_a_token_up_one_is_told);
async fn of_two_who_use_a_token_up_one_is_told(place: Place) {
    let store = place.open().await;
    let token = a_token("t");
    store.put_token(write(None, &token)).await.unwrap();
    let revoked = TokenRecord {
        revoked: true,
        ..token.clone()
    };
    store
        .put_token(write(Some(&token), &revoked))
        .await
        .unwrap();
    let used = TokenRecord {
        used_by: vec![NodeId("n".to_owned())],
        ..token.clone()
    };
    let late = Commit {
        changes: vec![node(1)],
        token: Some(write(Some(&token), &used)),
    };
    let error = store.commit(0, late).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::TokenConflict { id } if id == "t"),
        "{error}"
    );
    // Not half of it either.
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!((snapshot.map.revision, snapshot.map.nodes.len()), (0, 0));
    assert_eq!(store.tokens().await.unwrap(), [revoked]);
    let again = store.put_token(write(None, &token)).await.unwrap_err();
    assert!(matches!(again, StoreError::TokenConflict { .. }), "{again}");
}

#[tokio::test]
async fn of_two_who_replace_the_authority_one_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open_or_make(dir.path()).unwrap();
    let first = store.authority().await.unwrap();
    let next = || Authority::mint_for(first.cluster.clone()).unwrap();
    let (ours, theirs) = (next(), next());
    let announced = first.announce(&ours).unwrap();
    store
        .put_authority(first.clone(), announced.clone())
        .await
        .unwrap();
    let late = first.announce(&theirs).unwrap();
    let error = store.put_authority(first, late).await.unwrap_err();
    assert!(matches!(error, StoreError::AuthorityConflict), "{error}");
    drop(store);
    let store = RedbStore::open(dir.path()).unwrap();
    assert_eq!(store.authority().await.unwrap(), announced);
    let switched = announced.advance().unwrap();
    let replaced = switched.advance().unwrap();
    store
        .put_authority(announced, switched.clone())
        .await
        .unwrap();
    store
        .put_authority(switched, replaced.clone())
        .await
        .unwrap();
    assert_eq!(store.authority().await.unwrap(), replaced);
    // As others keep it.
    let text = serde_json::to_string(&replaced).unwrap();
    assert_eq!(
        serde_json::from_str::<AuthorityRecord>(&text).unwrap(),
        replaced
    );
    assert!(!format!("{replaced:?}").contains("PRIVATE"));
}

#[test]
fn tokens_of_an_older_weft_can_be_read() {
    #[derive(Serialize)]
    struct Old {
        id: &'static str,
        secret_digest: &'static str,
        expires: u64,
        used_by: Option<NodeId>,
    }
    for used_by in [None, Some(NodeId("n".to_owned()))] {
        let old = Old {
            id: "t",
            secret_digest: "d",
            expires: u64::MAX,
            used_by: used_by.clone(),
        };
        let mut bytes = Vec::new();
        ciborium::into_writer(&old, &mut bytes).unwrap();
        let read: TokenRecord = ciborium::from_reader(bytes.as_slice()).unwrap();
        let expected = TokenRecord {
            used_by: used_by.into_iter().collect(),
            ..a_token("t")
        };
        assert_eq!(read, expected);
    }
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_named_with_the_next_step() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE_NAME);
    let error = RedbStore::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("weft controller run --data"), "{error}");
    let store = RedbStore::open_or_make(dir.path()).unwrap();
    let error = RedbStore::open_or_make(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(FILE_NAME) && error.to_string().contains("--data"));
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    for damaged in [
        b"rubbish".to_vec(),
        vec![0; 4096],
        whole[..whole.len() / 3].to_vec(),
    ] {
        std::fs::write(&path, damaged).unwrap();
        let error = RedbStore::open_or_make(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains(FILE_NAME) && error.to_string().contains("backup"));
    }
}

#[test]
fn a_newer_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open_or_make(dir.path()).unwrap());
    let table: ::redb::TableDefinition<'_, &str, &[u8]> = ::redb::TableDefinition::new("meta");
    let database = ::redb::Database::open(dir.path().join(FILE_NAME)).unwrap();
    let transaction = database.begin_write().unwrap();
    let layout = 2_u64.to_be_bytes();
    transaction
        .open_table(table)
        .unwrap()
        .insert("layout", layout.as_slice())
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let error = RedbStore::open_or_make(dir.path()).unwrap_err();
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Damage is told or has no effect; it never kills the controller.
    #[test]
    fn a_damaged_store_is_an_error_not_a_crash(hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..64)) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = RedbStore::open_or_make(dir.path()).unwrap();
        runtime.block_on(store.commit(0, changes((0..50).map(node).collect()))).unwrap();
        drop(store);
        let path = dir.path().join(FILE_NAME);
        let mut bytes = std::fs::read(&path).unwrap();
        for (index, byte) in hits {
            let at = index.index(bytes.len().min(1 << 16));
            bytes[at] = byte;
        }
        std::fs::write(&path, bytes).unwrap();
        if let Ok(store) = RedbStore::open_or_make(dir.path()) {
            let _ = runtime.block_on(store.snapshot());
        }
    }
}

#[tokio::test]
async fn a_cluster_goes_from_any_store_into_any_other() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let first = RedbStore::open_or_make(dirs[0].path()).unwrap();
    first
        .commit(0, changes(vec![node(1), node(2), gone(1)]))
        .await
        .unwrap();
    let token = a_token("t");
    first.put_token(write(None, &token)).await.unwrap();
    let before = Dump::of(&first).await.unwrap();
    assert!(!format!("{before:?}").contains("PRIVATE KEY"));
    let read = Dump::parse(&before.to_json()).unwrap();
    assert_eq!(read, before);

    let server = Server::start();
    let config = server.config("t");
    EtcdStore::import(&config, &read).await.unwrap();
    let error = EtcdStore::import(&config, &read).await.unwrap_err();
    assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
    let second = EtcdStore::open(&config).await.unwrap();
    let there = second.snapshot().await.unwrap();
    let here = first.snapshot().await.unwrap();
    assert_eq!(there.map, here.map);
    assert_ne!(there.incarnation, here.incarnation);
    assert_eq!(second.tokens().await.unwrap(), std::slice::from_ref(&token));
    assert_eq!(second.commit(3, changes(vec![node(3)])).await.unwrap(), 4);
    assert!(matches!(second.since(4).await.unwrap(), Since::Changes(none) if none.is_empty()));

    let after = Dump::of(&second).await.unwrap();
    assert_eq!(after.authority, before.authority);
    RedbStore::import(dirs[1].path(), &after).unwrap();
    let error = RedbStore::import(dirs[1].path(), &after).unwrap_err();
    assert!(matches!(error, StoreError::Occupied { .. }), "{error}");
    let third = RedbStore::open(dirs[1].path()).unwrap();
    assert_eq!(
        third.snapshot().await.unwrap().map,
        second.snapshot().await.unwrap().map
    );
    assert_eq!(third.commit(4, changes(vec![gone(3)])).await.unwrap(), 5);
    assert_eq!(third.tokens().await.unwrap(), [token]);
}

#[test]
fn what_is_no_export_or_a_newer_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open_or_make(dir.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let dump = runtime.block_on(Dump::of(&store)).unwrap();
    let text = String::from_utf8(dump.to_json()).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{text}");
        Dump::parse(text.replace(from, to).as_bytes())
            .unwrap_err()
            .to_string()
    };
    let newer = changed("\"version\": 1", "\"version\": 2");
    assert!(
        newer.contains("version 2") && newer.contains("weft 0."),
        "{newer}"
    );
    changed("weft-cluster", "other");
    changed("\"cluster\"", "\"clutter\"");
    for rubbish in [
        &b""[..],
        b"{}",
        b"[]",
        b"\xff",
        &text.as_bytes()[..text.len() / 2],
    ] {
        Dump::parse(rubbish).unwrap_err();
    }
}
