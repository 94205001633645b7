//! The data directory of a controller. One whose store is elsewhere has it for its admin socket, so one controller only.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use tracing::warn;

use crate::identity::{self, make_dir};
use crate::lockfile;
use crate::store::StoreError;
use crate::store::redb::{self, RedbStore};

/// A controller that is just being started (`controller run &` in a script) is waited for this long: until it answers,
/// its data is not there yet, or locked.
pub(super) const STARTING_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked for.
pub(super) const STARTING_LOOK: Duration = Duration::from_millis(50);

/// The lock's name in the data directory.
const LOCK_NAME: &str = "lock";

/// The file with the controller's mark.
const MARK_NAME: &str = "mark";

/// Tells this controller from the others of its cluster, also after a restart; nothing secret.
pub(super) fn mark(dir: &Path) -> [u8; 16] {
    let path = dir.join(MARK_NAME);
    if let Some(mark) = fs::read(&path).ok().and_then(|mark| mark.try_into().ok()) {
        return mark;
    }
    let mark: [u8; 16] = rand::random();
    if let Err(error) = identity::replace(&path, &mark) {
        warn!(%error, "agents will notice the next restart of this controller late");
    }
    mark
}

/// Held by the controller that runs on a data directory.
#[derive(Debug)]
pub(super) struct DataLock {
    _lock: Flock<File>,
}

impl DataLock {
    /// Makes the directory if it isn't there and takes its lock. Blocks for as long as a predecessor may take to die.
    ///
    /// # Errors
    /// [`StoreError::Embedded`] when there is an embedded store in it: this cluster would not be that one.
    pub(super) fn take(dir: &Path) -> Result<Self, StoreError> {
        let failed = |what, path: &Path, cause: String| StoreError::Io {
            what,
            path: path.to_owned(),
            cause,
        };
        make_dir(dir).map_err(|error| {
            failed(
                "use data directory",
                dir,
                format!("{error}; give --data a directory that can be written"),
            )
        })?;
        if dir.join(redb::FILE_NAME).exists() {
            return Err(StoreError::Embedded {
                path: dir.join(redb::FILE_NAME),
            });
        }
        let path = dir.join(LOCK_NAME);
        let lock = lockfile::take(&path, STARTING_PATIENCE)
            .map_err(|error| failed("open", &path, error.to_string()))?;
        match lock {
            Some(lock) => Ok(Self { _lock: lock }),
            None => Err(StoreError::Locked { path }),
        }
    }
}

/// Opens the store. A token that is just being minted, or a controller that is just dying, holds it for a moment only.
pub(super) fn open_store(data: &Path) -> Result<RedbStore, StoreError> {
    let patience = Instant::now() + STARTING_PATIENCE;
    loop {
        match RedbStore::open_or_make(data) {
            Err(StoreError::Locked { .. }) if Instant::now() < patience => {
                std::thread::sleep(STARTING_LOOK);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_serves_one_controller_and_one_kind_of_store() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataLock::take(dir.path()).unwrap();
        let error = DataLock::take(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Locked { .. }), "{error}");
        drop(held);
        drop(redb::RedbStore::open_or_make(dir.path()).unwrap());
        let error = DataLock::take(dir.path()).unwrap_err().to_string();
        assert!(
            error.contains("weft controller import") && error.contains("weft.redb"),
            "{error}"
        );
    }
}
