//! What is under which key.
//!
//! | key below the prefix | value |
//! |---|---|
//! | `layout` | the layout's number, in digits |
//! | `authority` | JSON: cluster, the authority's certificate and private key |
//! | `map/head` | JSON: revision, incarnation, the newest commit's name. Every commit is a transaction on it |
//! | `map/log/REVISION` | CBOR: a commit, by its first revision in 16 hexadecimal digits |
//! | `parts/COMMIT/NUMBER` | parts of a commit that is too long for one request |
//! | `checkpoint/current` | JSON: which checkpoint counts |
//! | `checkpoint/NAME/NUMBER` | CBOR of the whole map, cut into parts |
//! | `tokens/ID` | CBOR of a join token |
//! | `live/...` | what goes with its controller's lease: see `live` |

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::proto::{KeyValue, RangeRequest, prefix_end};
use crate::model::{Change, Revision};

/// The layout that this build writes. A reader refuses what is newer than itself.
pub(super) const LAYOUT: u64 = 1;
/// A value is cut into parts of this length: well below etcd's `--max-request-bytes` of 1.5 MiB.
pub(super) const PART_BYTES: usize = 512 << 10;

/// The keys below one prefix.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.to_owned();
        Self { prefix }
    }

    fn below(&self, what: &str) -> String {
        format!("{}/{what}", self.prefix)
    }

    pub(super) fn layout(&self) -> String {
        self.below("layout")
    }

    pub(super) fn authority(&self) -> String {
        self.below("authority")
    }

    pub(super) fn head(&self) -> String {
        self.below("map/head")
    }

    pub(super) fn log(&self) -> String {
        self.below("map/log/")
    }

    pub(super) fn entry(&self, first: Revision) -> String {
        format!("{}{first:016x}", self.log())
    }

    pub(super) fn parts(&self) -> String {
        self.below("parts/")
    }

    pub(super) fn parts_of(&self, commit: &str) -> String {
        format!("{}{commit}/", self.parts())
    }

    pub(super) fn current_checkpoint(&self) -> String {
        self.below("checkpoint/current")
    }

    pub(super) fn checkpoint(&self, name: &str) -> String {
        self.below(&format!("checkpoint/{name}/"))
    }

    pub(super) fn tokens(&self) -> String {
        self.below("tokens/")
    }

    pub(super) fn token(&self, id: &str) -> String {
        format!("{}{id}", self.tokens())
    }

    pub(super) fn live(&self) -> String {
        self.below("live/")
    }
}

/// All keys that begin with `prefix`, as of `revision` (0 for now).
pub(super) fn all_of(prefix: &str, revision: i64) -> RangeRequest {
    RangeRequest {
        key: prefix.as_bytes().to_vec(),
        range_end: prefix_end(prefix),
        revision,
        ..RangeRequest::default()
    }
}

/// One key.
pub(super) fn one(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.as_bytes().to_vec(),
        ..RangeRequest::default()
    }
}

/// Where the map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) revision: Revision,
    pub(super) incarnation: String,
    /// The commit that brought it there; empty before the first.
    pub(super) commit: String,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Random: tells a commit from another one that wanted to be in its place.
    pub(super) commit: String,
    /// Revision of its last change.
    pub(super) last: Revision,
    /// CBOR of the changes; empty when they're in parts.
    #[serde(default)]
    pub(super) changes: Vec<Change>,
    /// How many parts.
    #[serde(default)]
    pub(super) parts: usize,
}

/// A checkpoint that counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Of its map.
    pub(super) revision: Revision,
    pub(super) name: String,
    /// How many parts.
    pub(super) parts: usize,
}

/// A name nobody else has.
pub(super) fn random_name() -> String {
    format!("{:016x}", rand::random::<u64>())
}

pub(super) fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("text keys only")
}

pub(super) fn to_cbor<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("a Vec takes every write");
    bytes
}

/// Why a value can't be read: a sentence.
pub(super) type Unreadable = String;

pub(super) fn from_json<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, Unreadable> {
    serde_json::from_slice(&kv.value).map_err(|error| unreadable(&kv.key, &error))
}

pub(super) fn from_cbor<T: DeserializeOwned>(kv: &KeyValue) -> Result<T, Unreadable> {
    ciborium::from_reader(kv.value.as_slice()).map_err(|error| unreadable(&kv.key, &error))
}

pub(super) fn unreadable(key: &[u8], cause: &dyn std::fmt::Display) -> Unreadable {
    format!(
        "key {} can't be read ({cause})",
        String::from_utf8_lossy(key)
    )
}

/// The revision in a log entry's key.
pub(super) fn first_of(key: &[u8]) -> Result<Revision, Unreadable> {
    let text = std::str::from_utf8(key).unwrap_or_default();
    let digits = text.rsplit('/').next().unwrap_or_default();
    Revision::from_str_radix(digits, 16).map_err(|error| unreadable(key, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_the_log_are_in_order_of_revisions() {
        let keys = Keys::new("/x");
        let (low, high) = (keys.entry(9), keys.entry(0x10_0000));
        assert!(low < high && high < keys.entry(u64::MAX));
        assert_eq!(first_of(high.as_bytes()), Ok(0x10_0000));
        assert!(
            first_of(b"/x/map/log/zz").is_err()
                && first_of(b"").is_err()
                && first_of(b"\xff").is_err()
        );
        let all = all_of(&keys.log(), 0);
        assert!(
            all.key.as_slice() < low.as_bytes()
                && keys.entry(u64::MAX).as_bytes() < all.range_end.as_slice()
        );
        assert!(keys.head().as_bytes() < all.key.as_slice());
    }
}
