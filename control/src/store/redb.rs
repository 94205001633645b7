//! The embedded store: one file, `weft.redb`, in the controller's data directory.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `layout`, `cluster`, `ca_cert`, `ca_key`, `ca_next`, `incarnation`, `revision` |
//! | `objects` | CBOR of the object's key | CBOR of the object with its revision |
//! | `log` | revision | CBOR of the change |
//! | `tokens` | token id | CBOR of the token |
//!
//! redb writes copy-on-write pages with checksums and syncs before a commit returns. The file is locked while it is
//! open, so that there is one writer. Its calls block, hence each runs on tokio's blocking threads.
//!
//! redb takes nothing more after a write that failed (a disk that is full): the file is closed then, and opened again by
//! the next call.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ::redb::{ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::info;

use super::dump::Dump;
use super::{
    AuthorityRecord, Commit, LOG_KEEP, Promise, Since, Snapshot, Store, StoreError, TokenRecord,
    TokenWrite, unix_now,
};
use crate::identity::authorities::Authorities;
use crate::identity::ca::Authority;
use crate::identity::make_dir;
use crate::model::{Change, ClusterId, ClusterMap, Key, Object, Revision, Versioned};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "weft.redb";
/// The layout that this build writes. A reader refuses what is newer than itself.
const LAYOUT: u64 = 1;
/// Changes above `LOG_KEEP` that may pile up before the log is cut.
const LOG_SLACK: u64 = 1024;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("objects");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const TOKENS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tokens");

mod open;

use open::OpenFile;

/// The embedded store; cheap to clone.
#[derive(Clone, Debug)]
pub struct RedbStore {
    place: Arc<Place>,
}

/// Where the file is, and the file while it is open.
#[derive(Debug)]
struct Place {
    dir: PathBuf,
    file: Mutex<Option<Arc<OpenFile>>>,
}

/// How long a file that failed may take to be closed by who still uses it.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

impl Place {
    fn new(dir: &Path, file: OpenFile) -> Arc<Self> {
        Arc::new(Self {
            dir: dir.to_owned(),
            file: Mutex::new(Some(Arc::new(file))),
        })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<OpenFile>>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file, opened again if it had failed.
    fn open(&self) -> Result<Arc<OpenFile>, StoreError> {
        let mut slot = self.slot();
        if let Some(file) = &*slot {
            return Ok(Arc::clone(file));
        }
        let patience = Instant::now() + CLOSE_PATIENCE;
        let file = loop {
            match OpenFile::open(&self.dir, false) {
                Err(StoreError::Locked { .. }) if Instant::now() < patience => {
                    std::thread::sleep(CLOSE_PATIENCE / 100);
                }
                opened => break opened?,
            }
        };
        file.guarded(OpenFile::check_layout)?;
        info!(path = %file.path.display(), "the store is open again");
        let file = Arc::new(file);
        *slot = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Works on the file; after a failure of the disk the next one opens it anew.
    fn with<T>(
        &self,
        work: impl FnOnce(&OpenFile) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let file = self.open()?;
        let worked = file.guarded(work);
        if matches!(worked, Err(StoreError::Io { .. })) {
            let mut slot = self.slot();
            if slot.as_ref().is_some_and(|known| Arc::ptr_eq(known, &file)) {
                *slot = None;
            }
        }
        worked
    }
}

impl RedbStore {
    /// Opens the store in `dir`; makes directory, store and cluster if they aren't there. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_or_make(dir: &Path) -> Result<Self, StoreError> {
        make_dir(dir).map_err(|error| StoreError::Io {
            what: "use data directory",
            path: dir.to_owned(),
            cause: format!("{error}; give --data a directory that can be written"),
        })?;
        let file = OpenFile::open(dir, true)?;
        file.guarded(|file| {
            if file.meta("layout")?.is_none() {
                file.found()?;
                info!(data = %dir.display(), "no cluster is there yet: a new one is founded");
            }
            file.check_layout()
        })?;
        let place = Place::new(dir, file);
        Ok(Self { place })
    }

    /// Makes a store in `dir` with what was exported elsewhere; it begins a new life. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Occupied`] when there is one; there is none when another error comes.
    pub fn import(dir: &Path, dump: &Dump) -> Result<(), StoreError> {
        make_dir(dir)?;
        let path = dir.join(FILE_NAME);
        if path.exists() {
            let store = path.display().to_string();
            return Err(StoreError::Occupied { store });
        }
        let file = OpenFile::open(dir, true)?;
        let written = file.guarded(|file| file.fill(dump));
        drop(file);
        if written.is_err() {
            // An empty one would become a new cluster.
            let _ = std::fs::remove_file(&path);
        }
        written
    }

    /// Opens the store in `dir`. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Absent`] when there is none, and all others.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        if !dir.join(FILE_NAME).exists() {
            return Err(StoreError::Absent {
                dir: dir.to_owned(),
            });
        }
        let file = OpenFile::open(dir, false)?;
        file.guarded(OpenFile::check_layout)?;
        let place = Place::new(dir, file);
        Ok(Self { place })
    }

    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OpenFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Promise<'_, T> {
        let place = Arc::clone(&self.place);
        Box::pin(async move {
            let path = place.dir.join(FILE_NAME);
            let worked = tokio::task::spawn_blocking(move || place.with(work)).await;
            worked.unwrap_or_else(|error| Err(StoreError::corrupt(&path, error)))
        })
    }
}

impl Store for RedbStore {
    fn snapshot(&self) -> Promise<'_, Snapshot> {
        self.blocking(OpenFile::snapshot)
    }

    /// Nobody else writes, but whether a write that failed was done after all shows when the file is opened again.
    fn since(&self, have: Revision) -> Promise<'_, Since> {
        self.blocking(move |file| {
            if file.revision()? == have {
                return Ok(Since::Changes(Vec::new()));
            }
            let snapshot = file.snapshot()?;
            Ok(Since::Everything(Box::new(snapshot)))
        })
    }

    fn authority(&self) -> Promise<'_, AuthorityRecord> {
        self.blocking(OpenFile::authority)
    }

    fn put_authority(&self, before: AuthorityRecord, after: AuthorityRecord) -> Promise<'_, ()> {
        self.blocking(move |file| file.put_authority(&before, &after))
    }

    fn commit(&self, expected: Revision, commit: Commit) -> Promise<'_, Revision> {
        self.blocking(move |file| file.commit(expected, commit))
    }

    fn token(&self, id: String) -> Promise<'_, Option<TokenRecord>> {
        self.blocking(move |file| file.token(&id))
    }

    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>> {
        self.blocking(OpenFile::tokens)
    }

    fn put_token(&self, write: TokenWrite) -> Promise<'_, ()> {
        self.blocking(move |file| file.write(|transaction| file.write_token(transaction, write)))
    }

    fn reincarnate(&self) -> Promise<'_, String> {
        self.blocking(OpenFile::reincarnate)
    }
}

impl OpenFile {
    /// Writes a new cluster into an empty file.
    fn found(&self) -> Result<(), StoreError> {
        let authority = AuthorityRecord::first(&Authority::mint()?);
        self.write(|transaction| self.write_cluster(transaction, &authority, 0))
    }

    /// Writes an exported cluster into an empty file.
    fn fill(&self, dump: &Dump) -> Result<(), StoreError> {
        self.write(|transaction| {
            self.write_cluster(transaction, &dump.authority, dump.revision)?;
            let failed = |error| self.failed(error);
            let mut objects = transaction
                .open_table(OBJECTS)
                .map_err(|error| self.failed(error))?;
            for object in &dump.objects {
                let key = encode(&object.object.key());
                let value = encode(object);
                let put = objects.insert(key.as_slice(), value.as_slice());
                put.map(drop).map_err(failed)?;
            }
            let mut tokens = transaction
                .open_table(TOKENS)
                .map_err(|error| self.failed(error))?;
            for token in &dump.tokens {
                let put = tokens.insert(token.id.as_str(), encode(token).as_slice());
                put.map(drop).map_err(failed)?;
            }
            Ok(())
        })
    }

    /// A cluster with nothing in its map; every store begins a life of its own.
    fn write_cluster(
        &self,
        transaction: &WriteTransaction,
        authority: &AuthorityRecord,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed(error);
        let mut meta = transaction
            .open_table(META)
            .map_err(|error| self.failed(error))?;
        let mut put = |name, value: &[u8]| meta.insert(name, value).map(drop).map_err(failed);
        put("cluster", authority.cluster.0.as_bytes())?;
        put("ca_cert", &authority.ca_cert)?;
        put("ca_key", authority.ca_key.as_bytes())?;
        put("incarnation", new_incarnation().as_bytes())?;
        put("revision", &revision.to_be_bytes())?;
        put("ca_next", &encode(&authority.next))?;
        put("layout", &LAYOUT.to_be_bytes())?;
        transaction
            .open_table(OBJECTS)
            .map_err(|error| self.failed(error))?;
        transaction
            .open_table(LOG)
            .map_err(|error| self.failed(error))?;
        transaction
            .open_table(TOKENS)
            .map_err(|error| self.failed(error))?;
        Ok(())
    }

    fn check_layout(&self) -> Result<(), StoreError> {
        let found = self.number("layout")?;
        if found > LAYOUT {
            let path = self.path.clone();
            return Err(StoreError::Newer {
                path,
                found,
                known: LAYOUT,
            });
        }
        Ok(())
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let transaction = self
            .database()
            .begin_write()
            .map_err(|error| self.failed(error))?;
        let result = work(&transaction)?;
        transaction.commit().map_err(|error| self.failed(error))?;
        Ok(result)
    }

    fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let transaction = self
            .database()
            .begin_read()
            .map_err(|error| self.failed(error))?;
        let table = match transaction.open_table(META) {
            Ok(table) => table,
            Err(::redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(error) => return Err(self.failed(error)),
        };
        let value = table.get(name).map_err(|error| self.failed(error))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn known_meta(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.meta(name)?
            .ok_or_else(|| StoreError::corrupt(&self.path, format!("it has no {name}")))
    }

    fn text(&self, name: &str) -> Result<String, StoreError> {
        String::from_utf8(self.known_meta(name)?)
            .map_err(|_| StoreError::corrupt(&self.path, format!("its {name} is no text")))
    }

    fn number(&self, name: &str) -> Result<u64, StoreError> {
        let bytes: Result<[u8; 8], _> = self.known_meta(name)?.try_into();
        let bytes = bytes
            .map_err(|_| StoreError::corrupt(&self.path, format!("its {name} is no number")))?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn revision(&self) -> Result<Revision, StoreError> {
        self.number("revision")
    }

    fn authority(&self) -> Result<AuthorityRecord, StoreError> {
        let next = self.meta("ca_next")?;
        let next = next.map(|bytes| self.decode(&bytes)).transpose()?;
        let record = AuthorityRecord {
            cluster: ClusterId(self.text("cluster")?),
            ca_cert: self.known_meta("ca_cert")?,
            ca_key: self.text("ca_key")?,
            next: next.flatten(),
        };
        Authorities::restore(record.clone())
            .map_err(|cause| StoreError::corrupt(&self.path, cause))?;
        Ok(record)
    }

    /// The file is locked: nobody comes between looking and writing but another thread of this process, which the
    /// transaction keeps out.
    fn put_authority(
        &self,
        before: &AuthorityRecord,
        after: &AuthorityRecord,
    ) -> Result<(), StoreError> {
        self.write(|transaction| {
            if self.authority()? != *before {
                return Err(StoreError::AuthorityConflict);
            }
            let mut meta = transaction
                .open_table(META)
                .map_err(|error| self.failed(error))?;
            let failed = |error| self.failed(error);
            let mut put = |name, value: &[u8]| meta.insert(name, value).map(drop).map_err(failed);
            put("ca_cert", &after.ca_cert)?;
            put("ca_key", after.ca_key.as_bytes())?;
            put("ca_next", &encode(&after.next))
        })
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, StoreError> {
        ciborium::from_reader(bytes).map_err(|error| {
            StoreError::corrupt(
                &self.path,
                format!("a record in it can't be read ({error})"),
            )
        })
    }

    fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let transaction = self
            .database()
            .begin_read()
            .map_err(|error| self.failed(error))?;
        let mut map = ClusterMap::default();
        let objects = transaction
            .open_table(OBJECTS)
            .map_err(|error| self.failed(error))?;
        for row in objects.iter().map_err(|error| self.failed(error))? {
            let (_, value) = row.map_err(|error| self.failed(error))?;
            let object: Versioned<Object> = self.decode(value.value())?;
            map.apply(object.revision, Change::Put(object.object));
        }
        map.revision = self.revision()?;
        let table = transaction
            .open_table(LOG)
            .map_err(|error| self.failed(error))?;
        let mut log = Vec::new();
        for row in table.iter().map_err(|error| self.failed(error))? {
            let (revision, change) = row.map_err(|error| self.failed(error))?;
            log.push((revision.value(), self.decode(change.value())?));
        }
        let expected = map.revision.saturating_sub(log.len() as u64) + 1..=map.revision;
        if !log.iter().map(|(revision, _)| *revision).eq(expected) {
            return Err(StoreError::corrupt(
                &self.path,
                "its log of changes has a gap",
            ));
        }
        Ok(Snapshot {
            map,
            incarnation: self.text("incarnation")?,
            log,
        })
    }

    fn commit(&self, expected: Revision, commit: Commit) -> Result<Revision, StoreError> {
        self.write(|transaction| {
            let mut meta = transaction
                .open_table(META)
                .map_err(|error| self.failed(error))?;
            let found = {
                let value = meta.get("revision").map_err(|error| self.failed(error))?;
                let value = value.map(|value| value.value().try_into().map(u64::from_be_bytes));
                value
                    .and_then(Result::ok)
                    .ok_or_else(|| StoreError::corrupt(&self.path, "it has no revision"))?
            };
            if found != expected {
                return Err(StoreError::Conflict { expected, found });
            }
            let revision = self.write_changes(transaction, expected, commit.changes)?;
            meta.insert("revision", revision.to_be_bytes().as_slice())
                .map_err(|error| self.failed(error))?;
            if let Some(token) = commit.token {
                self.write_token(transaction, token)?;
            }
            Ok(revision)
        })
    }

    fn write_changes(
        &self,
        transaction: &WriteTransaction,
        expected: Revision,
        changes: Vec<Change>,
    ) -> Result<Revision, StoreError> {
        let mut objects = transaction
            .open_table(OBJECTS)
            .map_err(|error| self.failed(error))?;
        let mut log = transaction
            .open_table(LOG)
            .map_err(|error| self.failed(error))?;
        let mut revision = expected;
        for change in changes {
            revision += 1;
            log.insert(revision, encode(&change).as_slice())
                .map_err(|error| self.failed(error))?;
            match change {
                Change::Put(object) => {
                    let key = encode(&object.key());
                    let value = encode(&Versioned { revision, object });
                    objects.insert(key.as_slice(), value.as_slice())
                }
                Change::Delete(key) => objects.remove(encode::<Key>(&key).as_slice()),
            }
            .map_err(|error| self.failed(error))?;
        }
        self.cut_log(&mut log, revision)?;
        Ok(revision)
    }

    /// Forgets the oldest changes.
    fn cut_log(
        &self,
        log: &mut Table<'_, u64, &'static [u8]>,
        revision: Revision,
    ) -> Result<(), StoreError> {
        let oldest = log.first().map_err(|error| self.failed(error))?;
        let Some(oldest) = oldest.map(|(revision, _)| revision.value()) else {
            return Ok(());
        };
        if revision - oldest < LOG_KEEP + LOG_SLACK {
            return Ok(());
        }
        log.retain_in(..=revision - LOG_KEEP, |_, _| false)
            .map_err(|error| self.failed(error))
    }

    fn write_token(
        &self,
        transaction: &WriteTransaction,
        TokenWrite { before, after }: TokenWrite,
    ) -> Result<(), StoreError> {
        let mut tokens = transaction
            .open_table(TOKENS)
            .map_err(|error| self.failed(error))?;
        let found = {
            let value = tokens.get(after.id.as_str());
            let value = value.map_err(|error| self.failed(error))?;
            value.map(|value| self.decode(value.value())).transpose()?
        };
        if found != before {
            return Err(StoreError::TokenConflict { id: after.id });
        }
        let now = unix_now();
        tokens
            .retain(|_, value| {
                let old: Result<TokenRecord, _> = ciborium::from_reader(value);
                old.is_ok_and(|old| !old.is_forgotten(now))
            })
            .map_err(|error| self.failed(error))?;
        tokens
            .insert(after.id.as_str(), encode(&after).as_slice())
            .map(drop)
            .map_err(|error| self.failed(error))
    }

    fn tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let transaction = self
            .database()
            .begin_read()
            .map_err(|error| self.failed(error))?;
        let table = transaction
            .open_table(TOKENS)
            .map_err(|error| self.failed(error))?;
        let rows = table.iter().map_err(|error| self.failed(error))?;
        rows.map(|row| {
            let (_, value) = row.map_err(|error| self.failed(error))?;
            self.decode(value.value())
        })
        .collect()
    }

    fn token(&self, id: &str) -> Result<Option<TokenRecord>, StoreError> {
        let transaction = self
            .database()
            .begin_read()
            .map_err(|error| self.failed(error))?;
        let tokens = transaction
            .open_table(TOKENS)
            .map_err(|error| self.failed(error))?;
        let value = tokens.get(id).map_err(|error| self.failed(error))?;
        value.map(|value| self.decode(value.value())).transpose()
    }

    fn reincarnate(&self) -> Result<String, StoreError> {
        let incarnation = new_incarnation();
        self.write(|transaction| {
            let mut meta = transaction
                .open_table(META)
                .map_err(|error| self.failed(error))?;
            meta.insert("incarnation", incarnation.as_bytes())
                .map(drop)
                .map_err(|error| self.failed(error))
        })?;
        Ok(incarnation)
    }
}

fn new_incarnation() -> String {
    format!("{:016x}", rand::random::<u64>())
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a Vec takes every write");
    bytes
}
