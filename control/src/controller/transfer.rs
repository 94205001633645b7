//! A cluster leaves its store as one document, or comes from one: backup, restore, and from one kind of store to another.

use std::path::Path;

use super::admin::Question;
use super::commands::{Asked, ask};
use super::{ControllerError, DataLock};
use crate::store::dump::Dump;
use crate::store::etcd::{EtcdConfig, EtcdStore};
use crate::store::redb::RedbStore;

/// All of the cluster kept in `store`, or else in `data`: through the controller that runs there, or by itself when none
/// does. Blocks; not for use inside a runtime.
///
/// # Errors
/// [`ControllerError`].
pub fn export(data: &Path, store: Option<&EtcdConfig>) -> Result<Dump, ControllerError> {
    if let Some(config) = store {
        return runtime()?.block_on(async {
            let store = EtcdStore::open(config).await?;
            Ok(Dump::of(&store).await?)
        });
    }
    match ask(data, &Question::Export)? {
        Asked::Running(answer) => Ok(Dump::parse(&answer.document)?),
        Asked::Alone(store, runtime) => Ok(runtime.block_on(Dump::of(&store))?),
    }
}

/// Makes the cluster of a document in `store`, or else in `data`, where there must be none. Blocks; not for use inside a
/// runtime.
///
/// # Errors
/// [`ControllerError`]; nothing is changed then.
pub fn import(data: &Path, store: Option<&EtcdConfig>, dump: &Dump) -> Result<(), ControllerError> {
    match store {
        Some(config) => Ok(runtime()?.block_on(EtcdStore::import(config, dump))?),
        None => {
            // Nor may a controller of another store run there.
            drop(DataLock::take(data)?);
            Ok(RedbStore::import(data, dump)?)
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ControllerError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ControllerError::System {
            what: "start the runtime",
            source,
        })
}
