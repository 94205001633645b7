//! A lock on a directory: a file in it that one process holds until it ends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};

/// Between two looks whether it is free.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Takes the lock, making its file if it isn't there; waits that long for a predecessor that is just dying. `None` when
/// somebody still holds it then.
///
/// # Errors
/// The file can't be opened.
pub(crate) fn take(path: &Path, patience: Duration) -> io::Result<Option<Flock<File>>> {
    let deadline = Instant::now() + patience;
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(Some(lock)),
            Err(_) if Instant::now() < deadline => std::thread::sleep(LOOK_EVERY),
            Err(_) => return Ok(None),
        }
    }
}
