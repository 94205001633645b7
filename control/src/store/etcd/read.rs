//! The map: a checkpoint and the commits after it, all as of one revision of etcd.

use super::layout::{
    Checkpoint, Entry, Head, all_of, first_of, from_cbor, from_json, one, unreadable,
};
use super::proto::{KeyValue, Op, RangeRequest, RangeResponse, TxnRequest};
use super::{Base, EtcdStore, Known};
use crate::model::{Change, ClusterMap, Revision};
use crate::store::{LOG_KEEP, Since, Snapshot, StoreError, TokenRecord};
use tracing::warn;

/// Keys in one page of a range: of the longest values, 32 MiB.
const PAGE: i64 = 64;
/// A read whose revision is compacted away meanwhile is begun again so often.
const READ_TRIES: u32 = 3;

/// A commit as it is in the log.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) first: Revision,
    pub(super) entry: Entry,
}

/// Everything in the store at one moment.
pub(super) struct Contents {
    pub(super) known: Known,
    pub(super) checkpoint: Option<Checkpoint>,
    /// As of the checkpoint.
    pub(super) map: ClusterMap,
    pub(super) log: Vec<Logged>,
}

impl EtcdStore {
    pub(super) async fn read_everything(&self) -> Result<Snapshot, StoreError> {
        let Contents {
            known,
            mut map,
            log,
            ..
        } = self.base().contents().await?;
        let mut changes: Vec<(Revision, Change)> = Vec::new();
        for logged in log {
            changes.extend((logged.first..).zip(logged.entry.changes));
        }
        for (revision, change) in &changes {
            if *revision > map.revision {
                map.apply(*revision, change.clone());
            }
        }
        if map.revision != known.head.revision {
            return Err(self.base().corrupt(format!(
                "its log ends at revision {}, its head is at {}",
                map.revision, known.head.revision
            )));
        }
        let spare = (changes.len() as u64).saturating_sub(LOG_KEEP);
        changes.drain(..usize::try_from(spare).unwrap_or(changes.len()));
        let incarnation = known.head.incarnation.clone();
        *self.known() = Some(known);
        Ok(Snapshot {
            map,
            incarnation,
            log: changes,
        })
    }

    async fn since_ever(&self) -> Result<Since, StoreError> {
        let snapshot = self.read_everything().await?;
        Ok(Since::Everything(Box::new(snapshot)))
    }

    /// What came after `have`. A store whose history isn't the one we know was set back: it begins a new life.
    pub(super) async fn read_since(&self, have: Revision) -> Result<Since, StoreError> {
        let before = self.known().clone();
        let from = match &before {
            Some(known) if known.head.revision == have => known.first,
            // Somebody else's revision: nothing to compare it with.
            Some(_) | None => return self.since_ever().await,
        };
        let known_incarnation = before.as_ref().map(|known| known.head.incarnation.clone());
        let read = self.base().log_from(from).await?;
        let is_ours = match (&before, read.log.first()) {
            (Some(known), _) if known.head.commit.is_empty() => Fit::Ours,
            (Some(known), Some(logged)) if logged.first == from => {
                if logged.entry.commit == known.head.commit {
                    Fit::Ours
                } else {
                    Fit::Foreign
                }
            }
            // The log was cut beyond us, or isn't there yet.
            (_, Some(_)) | (None, None) => Fit::Unknown,
            (Some(_), None) => Fit::Foreign,
        };
        let foreign = read.known.head.revision < have || matches!(is_ours, Fit::Foreign);
        if foreign && known_incarnation.as_ref() == Some(&read.known.head.incarnation) {
            warn!(
                store = self.base().client.name(),
                have,
                revision = read.known.head.revision,
                "the store was set back: all agents get the whole map again"
            );
            self.leave_life(read.known).await?;
            return self.since_ever().await;
        }
        if known_incarnation.as_ref() != Some(&read.known.head.incarnation)
            || !matches!(is_ours, Fit::Ours)
        {
            return self.since_ever().await;
        }
        let mut changes = Vec::new();
        for logged in read.log {
            if logged.first > have {
                changes.extend((logged.first..).zip(logged.entry.changes));
            }
        }
        if have + changes.len() as u64 != read.known.head.revision {
            return Err(self.base().corrupt("its log has a gap"));
        }
        *self.known() = Some(read.known);
        Ok(Since::Changes(changes))
    }

    /// Begins a new life after what was found in the store, if no other controller has begun one meanwhile. What was known
    /// stays known until then: the next look must find the history foreign again if this is broken off.
    async fn leave_life(&self, mut found: Known) -> Result<(), StoreError> {
        let old = found.head.incarnation.clone();
        let mut tries = READ_TRIES;
        loop {
            let revision = found.head.revision;
            match self.begin_new_life(found).await {
                Ok(_) => {
                    // A revision of the new life says nothing of what the caller has.
                    *self.known() = None;
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) if tries > 0 => tries -= 1,
                Err(error) => return Err(error),
            }
            found = self.base().log_from(revision).await?.known;
            if found.head.incarnation != old {
                return Ok(());
            }
        }
    }

    pub(super) async fn read_token(
        &self,
        id: &str,
    ) -> Result<Option<(TokenRecord, i64)>, StoreError> {
        let found = self
            .base()
            .client
            .call(&one(&self.base().keys.token(id)))
            .await?;
        let Some(kv) = found.kvs.first() else {
            return Ok(None);
        };
        let token = from_cbor(kv).map_err(|cause| self.base().corrupt(cause))?;
        Ok(Some((token, kv.mod_revision)))
    }

    pub(super) async fn read_tokens(&self) -> Result<Vec<TokenRecord>, StoreError> {
        let kvs = self
            .base()
            .pages(all_of(&self.base().keys.tokens(), 0))
            .await?;
        let mut tokens = Vec::with_capacity(kvs.len());
        for kv in &kvs {
            tokens.push(from_cbor(kv).map_err(|cause| self.base().corrupt(cause))?);
        }
        Ok(tokens)
    }
}

/// Whether the log is a continuation of what we know.
enum Fit {
    Ours,
    Foreign,
    Unknown,
}

/// The log from some revision on.
struct Read {
    known: Known,
    log: Vec<Logged>,
}

/// The head beside something else, all as of one revision of etcd's.
struct Seen {
    at: i64,
    head: Head,
    head_at: i64,
    range: RangeResponse,
}

impl Base {
    /// Everything, as of one revision of etcd.
    pub(super) async fn contents(&self) -> Result<Contents, StoreError> {
        let mut tries = 0;
        loop {
            match self.try_contents().await {
                // What was being read has been compacted away.
                Err(StoreError::Etcd { cause, .. })
                    if cause.contains("compacted") && tries < READ_TRIES =>
                {
                    tries += 1
                }
                read => return read,
            }
        }
    }

    async fn try_contents(&self) -> Result<Contents, StoreError> {
        let seen = self.head_and(one(&self.keys.current_checkpoint())).await?;
        let (head, head_at, at) = (seen.head, seen.head_at, seen.at);
        let checkpoint = seen.range.kvs.into_iter().next();
        let checkpoint: Option<Checkpoint> = match &checkpoint {
            Some(kv) => Some(from_json(kv).map_err(|cause| self.corrupt(cause))?),
            None => None,
        };
        let map = match &checkpoint {
            Some(checkpoint) => {
                let prefix = self.keys.checkpoint(&checkpoint.name);
                self.parts(&prefix, checkpoint.parts, at).await?
            }
            None => ClusterMap::default(),
        };
        let log = self.entries(all_of(&self.keys.log(), at)).await?;
        let known = known(head, head_at, &log);
        Ok(Contents {
            known,
            checkpoint,
            map,
            log,
        })
    }

    /// The commits from the one that begins at `first`, and the head.
    async fn log_from(&self, first: Revision) -> Result<Read, StoreError> {
        let mut range = all_of(&self.keys.log(), 0);
        range.key = self.keys.entry(first).into_bytes();
        range.limit = PAGE;
        let seen = self.head_and(range.clone()).await?;
        let log = if seen.range.more {
            range.revision = seen.at;
            self.entries(range).await?
        } else {
            self.read_entries(seen.range.kvs, seen.at).await?
        };
        let known = known(seen.head, seen.head_at, &log);
        Ok(Read { known, log })
    }

    /// The head and a range, as they were at one moment.
    async fn head_and(&self, range: RangeRequest) -> Result<Seen, StoreError> {
        let look = TxnRequest {
            success: [one(&self.keys.head()), range]
                .map(|range| Op::Range(range).into())
                .to_vec(),
            ..TxnRequest::default()
        };
        let seen = self.client.call(&look).await?;
        let at = seen.header.as_ref().map_or(0, |header| header.revision);
        let mut ranges = seen.ranges();
        let (head, head_at) = self.head_in(ranges.next())?;
        Ok(Seen {
            at,
            head,
            head_at,
            range: ranges.next().unwrap_or_default(),
        })
    }

    pub(super) fn head_in(&self, range: Option<RangeResponse>) -> Result<(Head, i64), StoreError> {
        let kv = range.and_then(|range| range.kvs.into_iter().next());
        let kv = kv.ok_or_else(|| self.corrupt("it has no head"))?;
        let head = from_json(&kv).map_err(|cause| self.corrupt(cause))?;
        Ok((head, kv.mod_revision))
    }

    /// Commits, as of the range's revision.
    async fn entries(&self, range: RangeRequest) -> Result<Vec<Logged>, StoreError> {
        let at = range.revision;
        let kvs = self.pages(range).await?;
        self.read_entries(kvs, at).await
    }

    async fn read_entries(&self, kvs: Vec<KeyValue>, at: i64) -> Result<Vec<Logged>, StoreError> {
        let mut log = Vec::with_capacity(kvs.len());
        for kv in kvs {
            let mut entry: Entry = from_cbor(&kv).map_err(|cause| self.corrupt(cause))?;
            let first = first_of(&kv.key).map_err(|cause| self.corrupt(cause))?;
            if entry.parts > 0 {
                let prefix = self.keys.parts_of(&entry.commit);
                entry.changes = self.parts(&prefix, entry.parts, at).await?;
            }
            if first + entry.changes.len() as u64 != entry.last + 1 {
                return Err(self.corrupt(unreadable(&kv.key, &"wrong number of changes")));
            }
            log.push(Logged { first, entry });
        }
        let gap = log
            .windows(2)
            .any(|pair| pair[0].entry.last + 1 != pair[1].first);
        if gap {
            return Err(self.corrupt("its log has a gap"));
        }
        Ok(log)
    }

    /// A value that was cut into parts.
    async fn parts<T: serde::de::DeserializeOwned>(
        &self,
        prefix: &str,
        count: usize,
        revision: i64,
    ) -> Result<T, StoreError> {
        let kvs = self.pages(all_of(prefix, revision)).await?;
        if kvs.len() != count {
            return Err(self.corrupt(format!("{prefix} has {} parts, not {count}", kvs.len())));
        }
        let whole = KeyValue {
            key: prefix.as_bytes().to_vec(),
            value: kvs.into_iter().flat_map(|kv| kv.value).collect(),
            mod_revision: 0,
        };
        from_cbor(&whole).map_err(|cause| self.corrupt(cause))
    }

    /// All of a range, page by page, as of one revision.
    pub(super) async fn pages(&self, range: RangeRequest) -> Result<Vec<KeyValue>, StoreError> {
        Ok(self.pages_at(range).await?.0)
    }

    /// The same, and as of which revision.
    pub(super) async fn pages_at(
        &self,
        mut range: RangeRequest,
    ) -> Result<(Vec<KeyValue>, i64), StoreError> {
        range.limit = PAGE;
        let mut kvs: Vec<KeyValue> = Vec::new();
        loop {
            let page = self.client.call(&range).await?;
            if range.revision == 0 {
                range.revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            let more = page.more;
            kvs.extend(page.kvs);
            let Some(last) = kvs.last().filter(|_| more) else {
                return Ok((kvs, range.revision));
            };
            range.key.clone_from(&last.key);
            range.key.push(0);
        }
    }
}

fn known(head: Head, mod_revision: i64, log: &[Logged]) -> Known {
    let first = log.last().map_or(0, |logged| logged.first);
    Known {
        head,
        mod_revision,
        first,
    }
}
