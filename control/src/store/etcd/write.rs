//! Commits: transactions on the head.

use tracing::warn;

use super::layout::{
    Entry, Head, PART_BYTES, all_of, from_cbor, one, random_name, to_cbor, to_json,
};
use super::proto::{Compare, DeleteRangeRequest, Op, TxnRequest};
use super::{Base, EtcdStore, Known, put};
use crate::model::{Change, Revision};
use crate::store::{Commit, StoreError, TokenRecord, TokenWrite, unix_now};

impl EtcdStore {
    pub(super) async fn write(
        &self,
        expected: Revision,
        commit: Commit,
    ) -> Result<Revision, StoreError> {
        self.write_as(&random_name(), expected, commit).await
    }

    /// A commit of that name.
    pub(super) async fn write_as(
        &self,
        name: &str,
        expected: Revision,
        commit: Commit,
    ) -> Result<Revision, StoreError> {
        let known = self.know().await?;
        if known.head.revision != expected {
            let found = known.head.revision;
            return Err(StoreError::Conflict { expected, found });
        }
        let Commit { changes, token } = commit;
        if changes.is_empty() {
            return match token {
                Some(write) => self.write_token(write).await.map(|()| expected),
                None => Ok(expected),
            };
        }
        let entry = self.prepare(name, expected, changes).await?;
        let written = Known {
            head: Head {
                revision: entry.last,
                incarnation: known.head.incarnation.clone(),
                commit: name.to_owned(),
            },
            mod_revision: 0,
            first: expected + 1,
        };
        let token_id = token.as_ref().map(|write| write.after.id.clone());
        let txn = self.transaction(&known, (&written, &entry), token).await?;
        let answer = self.base().client.call(&txn).await?;
        if answer.succeeded {
            let at = answer.header.as_ref().map_or(0, |header| header.revision);
            let revision = self.note(written, at);
            self.checkpoint_if_due(expected + 1, revision);
            return Ok(revision);
        }
        let mut ranges = answer.ranges();
        let (found, found_at) = self.base().head_in(ranges.next())?;
        let in_place = ranges.next().and_then(|range| range.kvs.into_iter().next());
        if let Some(kv) = in_place {
            let there: Entry = from_cbor(&kv).map_err(|cause| self.base().corrupt(cause))?;
            if there.commit == name {
                // A first try whose answer was lost. If others have come after it, the next commit finds that out.
                return Ok(self.note(written, kv.mod_revision));
            }
        }
        match token_id {
            Some(id) if found_at == known.mod_revision => Err(StoreError::TokenConflict { id }),
            Some(_) | None => Err(StoreError::Conflict {
                expected,
                found: found.revision,
            }),
        }
    }

    /// What is known from now on.
    fn note(&self, written: Known, mod_revision: i64) -> Revision {
        let revision = written.head.revision;
        *self.known() = Some(Known {
            mod_revision,
            ..written
        });
        revision
    }

    /// The commit, if head and token are as they were; else a look at what is in its place.
    async fn transaction(
        &self,
        known: &Known,
        (written, entry): (&Known, &Entry),
        token: Option<TokenWrite>,
    ) -> Result<TxnRequest, StoreError> {
        let keys = &self.base().keys;
        let (head, place) = (keys.head(), keys.entry(written.first));
        let mut compare = vec![Compare::is_unchanged_since(&head, known.mod_revision)];
        let mut puts = vec![
            put(&place, to_cbor(entry)),
            put(&head, to_json(&written.head)),
        ];
        if let Some(write) = token {
            compare.push(self.compare_token(&write).await?);
            puts.push(put(&keys.token(&write.after.id), to_cbor(&write.after)));
        }
        Ok(TxnRequest {
            compare,
            success: puts.into_iter().map(|put| Op::Put(put).into()).collect(),
            failure: [one(&head), one(&place)]
                .map(|range| Op::Range(range).into())
                .to_vec(),
        })
    }

    /// The head as we know it; read if nothing was read yet.
    pub(super) async fn know(&self) -> Result<Known, StoreError> {
        loop {
            if let Some(known) = self.known().clone() {
                return Ok(known);
            }
            self.read_everything().await?;
        }
    }

    /// A log entry; what is too long for one request is written beside it first.
    async fn prepare(
        &self,
        name: &str,
        expected: Revision,
        changes: Vec<Change>,
    ) -> Result<Entry, StoreError> {
        let last = expected + changes.len() as u64;
        let bytes = to_cbor(&changes);
        let mut entry = Entry {
            commit: name.to_owned(),
            last,
            changes,
            parts: 0,
        };
        if bytes.len() <= PART_BYTES {
            return Ok(entry);
        }
        entry.changes = Vec::new();
        entry.parts = self
            .base()
            .write_parts(&self.base().keys.parts_of(name), &bytes)
            .await?;
        Ok(entry)
    }

    /// The token is still as the writer found it.
    async fn compare_token(&self, write: &TokenWrite) -> Result<Compare, StoreError> {
        let key = self.base().keys.token(&write.after.id);
        let conflict = || StoreError::TokenConflict {
            id: write.after.id.clone(),
        };
        match (self.read_token(&write.after.id).await?, &write.before) {
            (None, None) => Ok(Compare::is_absent(&key)),
            (Some((found, at)), Some(before)) if found == *before => {
                Ok(Compare::is_unchanged_since(&key, at))
            }
            (Some(_), _) | (None, Some(_)) => Err(conflict()),
        }
    }

    pub(super) async fn write_token(&self, write: TokenWrite) -> Result<(), StoreError> {
        let id = write.after.id.clone();
        let compare = self.compare_token(&write).await?;
        let key = self.base().keys.token(&id);
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![Op::Put(put(&key, to_cbor(&write.after))).into()],
            failure: Vec::new(),
        };
        let written = self.base().client.call(&txn).await?.succeeded;
        // A first try whose answer was lost may have done it.
        let done = written
            || self
                .read_token(&id)
                .await?
                .is_some_and(|(found, _)| found == write.after);
        if !done {
            return Err(StoreError::TokenConflict { id });
        }
        if let Err(error) = self.forget_tokens(&id).await {
            warn!(%error, "expired tokens stay in the store for now");
        }
        Ok(())
    }

    /// Deletes those that nobody needs to hear of any more, but not `keep`.
    async fn forget_tokens(&self, keep: &str) -> Result<(), StoreError> {
        let now = unix_now();
        for kv in self
            .base()
            .pages(all_of(&self.base().keys.tokens(), 0))
            .await?
        {
            let forgotten = from_cbor::<TokenRecord>(&kv)
                .is_ok_and(|token| token.id != keep && token.is_forgotten(now));
            if forgotten {
                let gone = DeleteRangeRequest {
                    key: kv.key,
                    range_end: Vec::new(),
                };
                self.base().client.call(&gone).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn begin_new_life(&self, known: Known) -> Result<String, StoreError> {
        let head = Head {
            incarnation: random_name(),
            ..known.head.clone()
        };
        let key = self.base().keys.head();
        let txn = TxnRequest {
            compare: vec![Compare::is_unchanged_since(&key, known.mod_revision)],
            success: vec![Op::Put(put(&key, to_json(&head))).into()],
            failure: vec![Op::Range(one(&key)).into()],
        };
        let answer = self.base().client.call(&txn).await?;
        let at = answer.header.as_ref().map_or(0, |header| header.revision);
        if answer.succeeded {
            let incarnation = head.incarnation.clone();
            *self.known() = Some(Known {
                head,
                mod_revision: at,
                ..known
            });
            return Ok(incarnation);
        }
        // Another controller was faster, perhaps with the same discovery; or our own first try.
        let (found, found_at) = self.base().head_in(answer.ranges().next())?;
        if found.incarnation == head.incarnation {
            *self.known() = Some(Known {
                head: found.clone(),
                mod_revision: found_at,
                ..known
            });
            return Ok(found.incarnation);
        }
        Err(StoreError::Conflict {
            expected: known.head.revision,
            found: found.revision,
        })
    }
}

impl Base {
    /// Cuts a value into parts and tells how many.
    pub(super) async fn write_parts(
        &self,
        prefix: &str,
        bytes: &[u8],
    ) -> Result<usize, StoreError> {
        let mut count = 0;
        for part in bytes.chunks(PART_BYTES) {
            let key = format!("{prefix}{count:08x}");
            self.client.call(&put(&key, part.to_vec())).await?;
            count += 1;
        }
        Ok(count)
    }
}
