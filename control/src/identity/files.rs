//! Files that hold secrets: mode 0600 in directories of mode 0700, replaced whole so that a crash leaves the old or the
//! new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::IdentityError;

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { what, path, source }
}

/// Makes a directory of mode 0700 if it isn't there, with all above it.
///
/// # Errors
/// [`IdentityError::Io`].
pub fn make_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(dir).map_err(failed("make directory", dir))
}

/// The file's bytes; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, IdentityError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Replaces a file by `bytes`, mode 0600; durable when it returns.
///
/// # Errors
/// [`IdentityError::Io`]; the old file is still there then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    // A leftover of a crash may have another mode.
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("remove", beside)(error));
        }
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(beside).map_err(failed("make", beside))?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(failed("write", beside))?;
    fs::rename(beside, path).map_err(failed("replace", path))?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync directory", dir))
}
