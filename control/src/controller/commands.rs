//! The commands that work on a controller's directory: through the controller that runs there, or by themselves when
//! none does.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::admin::{self, Answer, Question};
use super::data::{STARTING_LOOK, STARTING_PATIENCE, elsewhere};
use super::{ControllerError, TokenSpec, rotation, tokens};
use crate::api::{AuthorityInfo, ControllerReport, TokenInfo};
use crate::identity::JoinToken;
use crate::store::redb::RedbStore;
use crate::store::{Store, StoreError};

/// Makes a join token for the cluster kept in `data`: through the controller that runs there, or by itself when none
/// does. Blocks; not for use inside a runtime.
///
/// # Errors
/// [`ControllerError`]; [`StoreError::Absent`] when there is no cluster.
pub fn mint_token(data: &Path, spec: TokenSpec) -> Result<JoinToken, ControllerError> {
    let spec = spec.check()?;
    let TokenSpec { ttl, uses } = spec;
    let question = Question::MintToken {
        ttl_secs: ttl.as_secs(),
        uses,
    };
    match ask(data, &question)? {
        Asked::Running(answer) => answer.token(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let authorities = rotation::load(&store).await?;
            tokens::mint(&store, &authorities, spec).await
        }),
    }
}

/// The join tokens of the cluster kept in `data`, without their secrets. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn list_tokens(data: &Path) -> Result<Vec<TokenInfo>, ControllerError> {
    match ask(data, &Question::ListTokens)? {
        Asked::Running(answer) => Ok(answer.tokens),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let map = store.snapshot().await?.map;
            tokens::list(&store, &map).await
        }),
    }
}

/// Makes a join token of the cluster kept in `data` worthless. Nodes that joined with it stay. Blocks; not for use inside
/// a runtime.
///
/// # Errors
/// [`ControllerError::UnknownToken`], and as [`mint_token`].
pub fn revoke_token(data: &Path, id: &str) -> Result<(), ControllerError> {
    match ask(data, &Question::RevokeToken { id: id.to_owned() })? {
        Asked::Running(_) => Ok(()),
        Asked::Alone(store, runtime) => runtime.block_on(tokens::revoke(&store, id)),
    }
}

/// How the controller is that runs on `data`, or what is kept there when none does. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn status(data: &Path) -> Result<ControllerReport, ControllerError> {
    match ask(data, &Question::Status)? {
        Asked::Running(answer) => answer.status(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let map = store.snapshot().await?.map;
            Ok(ControllerReport {
                running: false,
                cluster: store.authority().await?.cluster.to_string(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                revision: map.revision,
                nodes: map.nodes.len(),
                connected: 0,
                store: "file".to_owned(),
                write_failed: None,
                refused: BTreeMap::new(),
            })
        }),
    }
}

/// The authority of the cluster kept in `data`, and how far it is being replaced. Blocks; not for use inside a runtime.
///
/// # Errors
/// As [`mint_token`].
pub fn authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::Authority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = store.authority().await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Begins to replace the authority of the cluster kept in `data`; running controllers take it on from there. Blocks; not
/// for use inside a runtime.
///
/// # Errors
/// [`ControllerError::Rotation`] when it is being replaced already, and as [`mint_token`].
pub fn rotate_authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::RotateAuthority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = rotation::begin(&store).await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Takes the replacement of the authority one step further, though nodes aren't ready: in the end they must join anew.
/// Blocks; not for use inside a runtime.
///
/// # Errors
/// [`ControllerError::Rotation`] when it isn't being replaced, and as [`mint_token`].
pub fn advance_authority(data: &Path) -> Result<AuthorityInfo, ControllerError> {
    match ask(data, &Question::AdvanceAuthority)? {
        Asked::Running(answer) => answer.authority(),
        Asked::Alone(store, runtime) => runtime.block_on(async {
            let record = rotation::advance(&store).await?;
            rotation::describe(record, &store.snapshot().await?.map)
        }),
    }
}

/// Who answered.
pub(super) enum Asked {
    /// The controller that runs.
    Running(Box<Answer>),
    /// Nobody: the store is ours meanwhile.
    Alone(RedbStore, tokio::runtime::Runtime),
}

pub(super) fn ask(data: &Path, question: &Question) -> Result<Asked, ControllerError> {
    let patience = Instant::now() + STARTING_PATIENCE;
    loop {
        match admin::ask(data, question) {
            Ok(Some(answer)) => return Ok(Asked::Running(Box::new(answer))),
            Ok(None) => {}
            // It died with our question, or is dying: then its store fails, too.
            Err(ControllerError::Admin { .. } | ControllerError::Failed(_))
                if Instant::now() < patience =>
            {
                std::thread::sleep(STARTING_LOOK);
                continue;
            }
            Err(error) => return Err(error),
        }
        match RedbStore::open(data) {
            Ok(store) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build();
                let runtime = runtime.map_err(|source| ControllerError::System {
                    what: "start the runtime",
                    source,
                })?;
                return Ok(Asked::Alone(store, runtime));
            }
            Err(StoreError::Absent { .. } | StoreError::Locked { .. })
                if Instant::now() < patience =>
            {
                std::thread::sleep(STARTING_LOOK);
            }
            Err(error) => return Err(elsewhere(data).unwrap_or(error).into()),
        }
    }
}
