//! Join tokens: made, listed, revoked. What is written is decided by compare-and-swap on the token, as other controllers
//! may work on the same store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ControllerError, unix_now};
use crate::api::{TokenInfo, TokenState};
use crate::identity::{JoinToken, authorities::Authorities, cert};
use crate::model::ClusterMap;
use crate::store::{Store, StoreError, TokenRecord, TokenWrite};

/// A token lives at least a second and at most ten years.
const TTL_SECS: std::ops::RangeInclusive<u64> = 1..=10 * 366 * 24 * 60 * 60;
/// A token lets in at least one node; every node that joined with it is written down with it.
const USES: std::ops::RangeInclusive<u32> = 1..=10_000;
/// Two controllers that take turns at one token: each time one of them is done.
const TRIES: usize = 100;

/// What a token is to be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenSpec {
    /// How long it can be used.
    pub ttl: Duration,
    /// How many nodes it lets in.
    pub uses: u32,
}

impl TokenSpec {
    /// Good for one node.
    pub fn once(ttl: Duration) -> Self {
        Self { ttl, uses: 1 }
    }

    /// # Errors
    /// [`ControllerError::Ttl`], [`ControllerError::Uses`].
    pub(super) fn check(self) -> Result<Self, ControllerError> {
        if !TTL_SECS.contains(&self.ttl.as_secs()) {
            return Err(ControllerError::Ttl(self.ttl));
        }
        if !USES.contains(&self.uses) {
            return Err(ControllerError::Uses(self.uses));
        }
        Ok(self)
    }
}

/// Makes a token of that cluster. A new node knows its controller by the authority that signs controllers: a token ends
/// with that.
pub(super) async fn mint(
    store: &dyn Store,
    authorities: &Authorities,
    spec: TokenSpec,
) -> Result<JoinToken, ControllerError> {
    let TokenSpec { ttl, uses } = spec.check()?;
    let token = JoinToken::mint(cert::fingerprint(authorities.serving().cert()));
    let after = TokenRecord {
        id: token.id.0.clone(),
        secret_digest: token.secret.digest(),
        expires: unix_now() + ttl.as_secs(),
        uses,
        used_by: Vec::new(),
        revoked: false,
    };
    let write = TokenWrite {
        before: None,
        after,
    };
    store.put_token(write).await?;
    Ok(token)
}

/// All tokens that are still remembered, the one that expires first first. Nodes by their names, those that are gone by
/// their ids.
pub(super) async fn list(
    store: &dyn Store,
    map: &ClusterMap,
) -> Result<Vec<TokenInfo>, ControllerError> {
    let now = unix_now();
    let mut records = store.tokens().await?;
    records.retain(|record| !record.is_forgotten(now));
    records.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
    Ok(records
        .iter()
        .map(|record| info(record, map, now))
        .collect())
}

fn info(record: &TokenRecord, map: &ClusterMap, now: u64) -> TokenInfo {
    let nodes = record.used_by.iter().map(|id| match map.nodes.get(id) {
        Some(node) => node.object.name.clone(),
        None => id.to_string(),
    });
    TokenInfo {
        id: record.id.clone(),
        state: state(record, now),
        uses: record.uses,
        nodes: nodes.collect(),
        expires: record.expires,
        expires_in_secs: record.expires.saturating_sub(now),
    }
}

fn state(record: &TokenRecord, now: u64) -> TokenState {
    if record.revoked {
        TokenState::Revoked
    } else if record.used_by.len() >= record.uses as usize {
        TokenState::Used
    } else if record.expires <= now {
        TokenState::Expired
    } else {
        TokenState::Valid
    }
}

/// Nobody gets in with that token any more; who did stays in. The same once more is fine.
pub(super) async fn revoke(store: &dyn Store, id: &str) -> Result<(), ControllerError> {
    for _ in 0..TRIES {
        let Some(before) = store.token(id.to_owned()).await? else {
            return Err(ControllerError::UnknownToken(id.to_owned()));
        };
        if before.revoked {
            return Ok(());
        }
        let after = TokenRecord {
            revoked: true,
            ..before.clone()
        };
        let write = TokenWrite {
            before: Some(before),
            after,
        };
        match store.put_token(write).await {
            Err(StoreError::TokenConflict { .. }) => {}
            written => return Ok(written?),
        }
    }
    Err(StoreError::TokenConflict { id: id.to_owned() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::NodeId;

    #[test]
    fn a_token_says_why_it_lets_nobody_in() {
        let record = TokenRecord {
            id: "t".to_owned(),
            secret_digest: String::new(),
            expires: 100,
            uses: 2,
            used_by: Vec::new(),
            revoked: false,
        };
        let used = |count| TokenRecord {
            used_by: vec![NodeId("n".to_owned()); count],
            ..record.clone()
        };
        assert_eq!(state(&record, 99), TokenState::Valid);
        assert_eq!(state(&record, 100), TokenState::Expired);
        assert_eq!(state(&used(1), 99), TokenState::Valid);
        assert_eq!(state(&used(2), 99), TokenState::Used);
        let revoked = TokenRecord {
            revoked: true,
            ..used(2)
        };
        assert_eq!(state(&revoked, 100), TokenState::Revoked);
    }

    #[test]
    fn lifetimes_and_uses_have_bounds() {
        let spec = |secs, uses| TokenSpec {
            ttl: Duration::from_secs(secs),
            uses,
        };
        assert!(spec(1, 1).check().is_ok() && spec(60, 10_000).check().is_ok());
        assert!(matches!(spec(0, 1).check(), Err(ControllerError::Ttl(_))));
        for uses in [0, 10_001] {
            let error = spec(60, uses).check().unwrap_err().to_string();
            assert!(
                error.contains("--uses") && error.contains(&uses.to_string()),
                "{error}"
            );
        }
    }
}
