//! Cutting the log: from time to time some controller writes the whole map beside it, makes that count, and deletes what
//! nobody needs any more. Any controller may do so at any moment: a checkpoint is written under a name of its own, and
//! counts from a transaction on.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use tracing::{debug, warn};

use super::layout::{Checkpoint, all_of, one, random_name, to_cbor, to_json};
use super::proto::{
    Compare, DeleteRangeRequest, Op, RangeRequest, RangeResponse, TxnRequest, prefix_end,
};
use super::put;
use super::read::{Contents, Logged};
use super::{EtcdStore, Known};
use crate::model::Revision;
use crate::store::{LOG_KEEP, StoreError};

/// A checkpoint is due whenever this many changes have come.
const CHECKPOINT_EVERY: Revision = 512;

impl EtcdStore {
    /// After a commit of the revisions `first..=last`.
    pub(super) fn checkpoint_if_due(&self, first: Revision, last: Revision) {
        let due = (first - 1) / CHECKPOINT_EVERY != last / CHECKPOINT_EVERY;
        if !due || self.inner.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.checkpoint().await {
                warn!(%error, "the store's log could not be cut; the next checkpoint does it");
            }
            store.inner.checkpointing.store(false, Ordering::Release);
        });
    }

    /// Makes a checkpoint of the map as it is and cuts the log.
    ///
    /// # Errors
    /// [`StoreError`]; the map is as it was then.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let Contents {
            known,
            checkpoint: before,
            mut map,
            log,
        } = self.base().contents().await?;
        for logged in &log {
            for (revision, change) in (logged.first..).zip(&logged.entry.changes) {
                if revision > map.revision {
                    map.apply(revision, change.clone());
                }
            }
        }
        let name = random_name();
        let prefix = self.base().keys.checkpoint(&name);
        let parts = self.base().write_parts(&prefix, &to_cbor(&map)).await?;
        let revision = map.revision;
        let new = Checkpoint {
            revision,
            name,
            parts,
        };
        if !self.make_current(before.as_ref(), &new).await? {
            // Another controller's counts.
            return self.delete_below(&prefix).await;
        }
        debug!(revision, parts, "checkpoint of the map made");
        if let Some(before) = before {
            let prefix = self.base().keys.checkpoint(&before.name);
            self.delete_below(&prefix).await?;
        }
        let kept = self.cut_log(revision, log).await?;
        self.sweep_parts(&known, &kept).await
    }

    /// Whether the checkpoint counts from now on.
    async fn make_current(
        &self,
        before: Option<&Checkpoint>,
        new: &Checkpoint,
    ) -> Result<bool, StoreError> {
        let key = self.base().keys.current_checkpoint();
        let compare = match before {
            Some(before) => Compare::is_value(&key, to_json(before)),
            None => Compare::is_absent(&key),
        };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![Op::Put(put(&key, to_json(new))).into()],
            failure: vec![Op::Range(one(&key)).into()],
        };
        let answer = self.base().client.call(&txn).await?;
        // A first try whose answer was lost shows as its value.
        let is_there = |range: RangeResponse| range.kvs.iter().any(|kv| kv.value == to_json(new));
        Ok(answer.succeeded || answer.ranges().any(is_there))
    }

    /// Deletes the oldest commits; `LOG_KEEP` changes stay for agents that were away. Returns what stays.
    async fn cut_log(
        &self,
        revision: Revision,
        log: Vec<Logged>,
    ) -> Result<Vec<Logged>, StoreError> {
        let oldest_kept = revision.saturating_sub(LOG_KEEP) + 1;
        let (gone, kept): (Vec<_>, Vec<_>) = log
            .into_iter()
            .partition(|logged| logged.entry.last < oldest_kept);
        if let Some(last) = gone.last() {
            let keys = &self.base().keys;
            let cut = DeleteRangeRequest {
                key: keys.log().into_bytes(),
                range_end: keys.entry(last.first + 1).into_bytes(),
            };
            self.base().client.call(&cut).await?;
        }
        Ok(kept)
    }

    /// Deletes parts that belong to no commit: of those just cut, or of one that never came to be. What is newer than the
    /// head may belong to a commit that is on its way; one that began before the head was written can't succeed.
    async fn sweep_parts(&self, known: &Known, kept: &[Logged]) -> Result<(), StoreError> {
        let base = self.base();
        let in_use: BTreeSet<String> = kept
            .iter()
            .map(|logged| base.keys.parts_of(&logged.entry.commit))
            .collect();
        let range = RangeRequest {
            keys_only: true,
            ..all_of(&base.keys.parts(), 0)
        };
        for kv in base.pages(range).await? {
            let part = String::from_utf8_lossy(&kv.key).into_owned();
            let used = in_use.iter().any(|prefix| part.starts_with(prefix));
            if !used && kv.mod_revision < known.mod_revision {
                let gone = DeleteRangeRequest {
                    key: kv.key,
                    range_end: Vec::new(),
                };
                base.client.call(&gone).await?;
            }
        }
        Ok(())
    }

    async fn delete_below(&self, prefix: &str) -> Result<(), StoreError> {
        let gone = DeleteRangeRequest {
            key: prefix.as_bytes().to_vec(),
            range_end: prefix_end(prefix),
        };
        self.base().client.call(&gone).await.map(drop)
    }
}
