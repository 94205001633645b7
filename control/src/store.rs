//! Where a controller keeps the cluster's map: durably, with a revision for every change.
//!
//! [`Store`] asks little, so that an etcd cluster ([`etcd`]) can take the place of the embedded file ([`redb`]): a
//! snapshot, the changes since a revision, and a commit that only happens if the revision is still the expected one
//! (compare and swap). Calls are asynchronous for that reason. What may be changed is decided elsewhere (`controller::decide`).
//!
//! Revisions: a commit of N changes takes the map from revision R to R + N. A store has an *incarnation*, a random name
//! that changes when the store finds out that it was set back (an older copy of the file was put in place): revisions
//! of another incarnation mean nothing.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::channel::messages::bytes_as_text;
use crate::identity::IdentityError;
use crate::model::{Change, ClusterId, ClusterMap, NodeId, Revision};

pub mod dump;
pub mod etcd;
pub mod redb;

/// Changes that the log keeps at least, so that an agent that was away gets only what it missed.
pub const LOG_KEEP: u64 = 4096;

/// The answer of a store, some time later.
pub type Promise<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file or directory can't be made, opened, read or written.
    #[error("cannot {what} {path}: {cause}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause, and what to do if there is something.
        cause: String,
    },
    /// There is nothing.
    #[error("there is no controller's data in {dir}; start `weft controller run --data {dir}` first, or give the right --data", dir = dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// There is nothing in the data directory of a controller whose store is elsewhere.
    #[error("the controller of {dir} has its store elsewhere ({store}) and doesn't run: start it with that --store; for another cluster give another --data", dir = dir.display())]
    Elsewhere {
        /// The directory.
        dir: PathBuf,
        /// Its store's name.
        store: String,
    },
    /// Another process has it open.
    #[error("store {path} is in use by another controller; stop that one or give this one its own --data", path = path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It isn't what a controller writes.
    #[error("store {path} is corrupt: {cause}; restore it from a backup, or move it away to start a new cluster (every node must join again then)", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A newer weft wrote it.
    #[error("store {path} has layout {found}, this weft knows layouts up to {known}; start the newer weft again", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
        /// The newest known layout.
        known: u64,
    },
    /// A data directory has a store of its own beside the one that is to be used.
    #[error("there is an embedded store in {path}: with --store its cluster would be left behind; take it along (`weft controller export`, `weft controller import --store`), then move it away, or give another --data", path = path.display())]
    Embedded {
        /// The file.
        path: PathBuf,
    },
    /// An etcd cluster can't be used.
    #[error("store {store}: {cause}")]
    Etcd {
        /// Its name.
        store: String,
        /// The cause, and what to do if there is something.
        cause: String,
    },
    /// There is a cluster already where one was to be made.
    #[error(
        "there is a cluster in {store} already; give an empty data directory, or another prefix in etcd"
    )]
    Occupied {
        /// The store's name.
        store: String,
    },
    /// Somebody else changed the map.
    #[error("the store is at revision {found}, not {expected}: another controller changed it")]
    Conflict {
        /// As the caller thought.
        expected: Revision,
        /// As it is.
        found: Revision,
    },
    /// Somebody else used or revoked the token.
    #[error("token {id} was changed by another controller")]
    TokenConflict {
        /// Which.
        id: String,
    },
    /// Somebody else replaces the authority.
    #[error("the cluster's authority was changed by another controller")]
    AuthorityConflict,
    /// The cluster's authority could not be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl StoreError {
    /// Somebody else was faster: the store is well.
    pub fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::Conflict { .. } | Self::TokenConflict { .. } | Self::AuthorityConflict
        )
    }

    pub(crate) fn corrupt(path: &Path, cause: impl fmt::Display) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }
}

/// The cluster's authority as it is stored, with its private key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRecord {
    /// The cluster it stands for.
    pub cluster: ClusterId,
    /// Its certificate, DER.
    #[serde(with = "bytes_as_text")]
    pub ca_cert: Vec<u8>,
    /// Its private key, PEM.
    pub ca_key: String,
    /// The one that is to replace it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<NextAuthority>,
}

impl fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorityRecord")
            .field("cluster", &self.cluster)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// An authority that is to replace the cluster's.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAuthority {
    /// Its certificate, DER.
    #[serde(with = "bytes_as_text")]
    pub ca_cert: Vec<u8>,
    /// Its private key, PEM.
    pub ca_key: String,
    /// It signs nodes' certificates already.
    pub signs: bool,
}

impl fmt::Debug for NextAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NextAuthority")
            .field("signs", &self.signs)
            .finish_non_exhaustive()
    }
}

/// A join token as the controller keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Names it.
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub secret_digest: String,
    /// Seconds since 1970 from which on it is refused.
    pub expires: u64,
    /// How many nodes it lets in.
    #[serde(default = "one")]
    pub uses: u32,
    /// The nodes that joined with it, in that order; each may show it again.
    #[serde(default, deserialize_with = "none_one_or_many")]
    pub used_by: Vec<NodeId>,
    /// Nobody gets in with it any more.
    #[serde(default)]
    pub revoked: bool,
}

impl TokenRecord {
    /// Expired tokens are forgotten after this many seconds, so that their bearer is told what happened to them.
    pub const MEMORY_SECS: u64 = 7 * 24 * 60 * 60;

    /// Whether nobody needs to hear of it any more, `now` in seconds since 1970.
    pub fn is_forgotten(&self, now: u64) -> bool {
        self.expires.saturating_add(Self::MEMORY_SECS) <= now
    }
}

fn one() -> u32 {
    1
}

/// Before tokens had a number of uses there was one node or none.
fn none_one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<NodeId>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum UsedBy {
        Many(Vec<NodeId>),
        One(Option<NodeId>),
    }
    Ok(match UsedBy::deserialize(from)? {
        UsedBy::Many(nodes) => nodes,
        UsedBy::One(node) => node.into_iter().collect(),
    })
}

/// A token as it is to be, if it still is as it was: two controllers may work on one token at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenWrite {
    /// As the writer found it; `None` for a new one.
    pub before: Option<TokenRecord>,
    /// As it is to be.
    pub after: TokenRecord,
}

/// What is to be written at once, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Changes of the map, in order.
    pub changes: Vec<Change>,
    /// A token that is used up by them.
    pub token: Option<TokenWrite>,
}

/// What a controller starts from.
#[derive(Debug)]
pub struct Snapshot {
    /// The map.
    pub map: ClusterMap,
    /// Which life of the store its revisions belong to.
    pub incarnation: String,
    /// The newest changes, oldest first, without a gap up to the map's revision.
    pub log: Vec<(Revision, Change)>,
}

/// What a store has that somebody lacks.
#[derive(Debug)]
pub enum Since {
    /// These changes, without a gap up to the newest revision.
    Changes(Vec<(Revision, Change)>),
    /// Only the whole.
    Everything(Box<Snapshot>),
}

/// A durable map.
pub trait Store: fmt::Debug + Send + Sync {
    /// Everything.
    fn snapshot(&self) -> Promise<'_, Snapshot>;

    /// What was committed after `have`, which this handle must have told before. No commit that was answered to anybody
    /// is missing. A store that one controller has for itself has nothing to tell.
    fn since(&self, have: Revision) -> Promise<'_, Since> {
        let _ = have;
        Box::pin(async { Ok(Since::Changes(Vec::new())) })
    }

    /// The newest revision that was heard of; `None` for a store that one controller has for itself. Only
    /// [`Store::since`] says what it holds.
    fn heard(&self) -> Option<watch::Receiver<Revision>> {
        None
    }

    /// The cluster's authority.
    fn authority(&self) -> Promise<'_, AuthorityRecord>;

    /// Replaces the record of the cluster's authority if it still is `before`; [`StoreError::AuthorityConflict`] if
    /// somebody was faster.
    fn put_authority(&self, before: AuthorityRecord, after: AuthorityRecord) -> Promise<'_, ()>;

    /// Writes changes if the map is still at `expected`, and tells the new revision. Durable when it returns.
    /// [`StoreError::Conflict`] or [`StoreError::TokenConflict`] if somebody was faster.
    fn commit(&self, expected: Revision, commit: Commit) -> Promise<'_, Revision>;

    /// The token of that id.
    fn token(&self, id: String) -> Promise<'_, Option<TokenRecord>>;

    /// All tokens that aren't forgotten, in order of their ids.
    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>>;

    /// Writes a token without touching the map. [`StoreError::TokenConflict`] if somebody was faster.
    fn put_token(&self, write: TokenWrite) -> Promise<'_, ()>;

    /// Begins a new life: the store was set back. Returns the new incarnation.
    fn reincarnate(&self) -> Promise<'_, String>;
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
