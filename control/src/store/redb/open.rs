//! Opening the store's file, and keeping what is wrong with it from ending the controller: redb finds most damage by
//! its checksums, but panics on some when it opens, writes or closes.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::redb::{Database, DatabaseError, StorageError};
use tracing::warn;

use super::FILE_NAME;
use crate::store::StoreError;

/// A cluster's map is small; redb's own default takes a gigabyte.
const CACHE_BYTES: usize = 16 << 20;

/// The store's file while it is open.
pub(super) struct OpenFile {
    pub(super) path: PathBuf,
    /// There until it is dropped.
    database: Option<Database>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let database = self.database.take();
        // Closing writes, and trips over a damaged file as opening does.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(database)));
    }
}

impl std::fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl OpenFile {
    /// Opens and verifies the file in `dir`.
    pub(super) fn open(dir: &Path, create: bool) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| StoreError::Io {
                what: "open store",
                path: path.clone(),
                cause: format!("{error}; give --data a directory that can be written"),
            })?;
        // A file that was damaged may trip the library's own checks.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Database::builder()
                .set_cache_size(CACHE_BYTES)
                .create_file(file)
        }));
        let mut file = Self {
            path,
            database: None,
        };
        match opened {
            Ok(Ok(database)) => file.database = Some(database),
            Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
                return Err(StoreError::Locked {
                    path: file.path.clone(),
                });
            }
            Ok(Err(DatabaseError::Storage(StorageError::Io(error))))
                if error.kind() != std::io::ErrorKind::InvalidData
                    && error.kind() != std::io::ErrorKind::UnexpectedEof =>
            {
                let (path, cause) = (file.path.clone(), error.to_string());
                return Err(StoreError::Io {
                    what: "open store",
                    path,
                    cause,
                });
            }
            Ok(Err(error)) => return Err(StoreError::corrupt(&file.path, error)),
            Err(_) => return Err(StoreError::corrupt(&file.path, "its structure is damaged")),
        }
        file.check_integrity()?;
        Ok(file)
    }

    pub(super) fn database(&self) -> &Database {
        self.database.as_ref().expect("there until it is dropped")
    }

    /// Runs what uses the file; what the library finds impossible in it is an error and not the end.
    pub(super) fn guarded<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        catch_unwind(AssertUnwindSafe(|| work(self)))
            .unwrap_or_else(|_| Err(StoreError::corrupt(&self.path, "its structure is damaged")))
    }

    /// Verifies the checksums of all pages and builds the table of free ones anew if that is wrong.
    fn check_integrity(&mut self) -> Result<(), StoreError> {
        let Some(database) = self.database.as_mut() else {
            return Ok(());
        };
        match catch_unwind(AssertUnwindSafe(|| database.check_integrity())) {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => {
                warn!(path = %self.path.display(), "the store was damaged and has been repaired");
                Ok(())
            }
            Ok(Err(DatabaseError::Storage(error @ StorageError::Io(_)))) => Err(self.failed(error)),
            Ok(Err(error)) => Err(StoreError::corrupt(&self.path, error)),
            Err(_) => Err(StoreError::corrupt(&self.path, "its structure is damaged")),
        }
    }

    pub(super) fn failed(&self, error: impl Into<::redb::Error>) -> StoreError {
        let error = error.into();
        if !matches!(error, ::redb::Error::Io(_) | ::redb::Error::PreviousIo) {
            return StoreError::corrupt(&self.path, error);
        }
        StoreError::Io {
            what: "use store",
            path: self.path.clone(),
            cause: format!("{error}; see that the disk has room and works"),
        }
    }
}
