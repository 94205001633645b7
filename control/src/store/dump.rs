//! A whole cluster as one JSON document: a backup, and the way from one kind of store to another.
//!
//! It holds the private key of the cluster's authority: whoever has it can make members.

use serde::{Deserialize, Serialize};

use super::{AuthorityRecord, Snapshot, Store, StoreError, TokenRecord};
use crate::model::{Change, ClusterMap, Object, Revision, Versioned};

/// What the document says it is.
const FORMAT: &str = "weft-cluster";
/// The version that this build writes. A reader refuses what is newer than itself.
const VERSION: u32 = 1;

/// The document.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dump {
    format: String,
    version: u32,
    /// Which weft wrote it, for people.
    pub weft: String,
    /// The map's.
    pub revision: Revision,
    /// The cluster and its keys.
    pub authority: AuthorityRecord,
    /// The map.
    pub objects: Vec<Versioned<Object>>,
    /// Join tokens, without their secrets.
    pub tokens: Vec<TokenRecord>,
}

impl std::fmt::Debug for Dump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The authority's key stays where it is.
        f.debug_struct("Dump")
            .field("cluster", &self.authority.cluster)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

/// Why a document can't be read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It isn't one.
    #[error("it is no export of a weft controller: {0}")]
    Malformed(String),
    /// A newer weft wrote it.
    #[error(
        "it has version {found} (weft {weft}), this weft knows versions up to {VERSION}; use the newer weft"
    )]
    Newer {
        /// Its version.
        found: u32,
        /// Who wrote it.
        weft: String,
    },
}

impl Dump {
    /// All of a store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn of(store: &dyn Store) -> Result<Self, StoreError> {
        let Snapshot { map, .. } = store.snapshot().await?;
        Ok(Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            weft: env!("CARGO_PKG_VERSION").to_owned(),
            revision: map.revision,
            authority: store.authority().await?,
            objects: map.into_objects().collect(),
            tokens: store.tokens().await?,
        })
    }

    /// Reads a document.
    ///
    /// # Errors
    /// [`DumpError`].
    pub fn parse(text: &[u8]) -> Result<Self, DumpError> {
        /// What every version has.
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
            #[serde(default)]
            weft: String,
        }
        let malformed = |error: serde_json::Error| DumpError::Malformed(error.to_string());
        let head: Head = serde_json::from_slice(text).map_err(malformed)?;
        if head.format != FORMAT {
            return Err(DumpError::Malformed(format!(
                "its format is {:?}",
                head.format
            )));
        }
        if head.version > VERSION {
            return Err(DumpError::Newer {
                found: head.version,
                weft: head.weft,
            });
        }
        let dump: Self = serde_json::from_slice(text).map_err(malformed)?;
        if dump
            .objects
            .iter()
            .any(|object| object.revision > dump.revision)
        {
            return Err(DumpError::Malformed(
                "an object in it is newer than the whole".to_owned(),
            ));
        }
        Ok(dump)
    }

    /// The document.
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("text keys only");
        text.push(b'\n');
        text
    }

    /// Its map.
    pub fn map(&self) -> ClusterMap {
        let mut map = ClusterMap::default();
        for object in &self.objects {
            map.apply(object.revision, Change::Put(object.object.clone()));
        }
        map.revision = self.revision;
        map
    }
}
