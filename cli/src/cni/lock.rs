//! One invocation at a time for one container; others go on beside it.
//!
//! A lock file per container, taken away by whoever holds it last. Who waited for a file that was taken away meanwhile
//! finds that out by its inode and starts again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::error::{CniError, Code};

/// A container's lock; free again when it goes.
#[derive(Debug)]
pub(super) struct ContainerLock {
    /// `None` where there is no directory of an agent, and so no agent to be asked in order.
    held: Option<(PathBuf, Flock<File>)>,
}

impl ContainerLock {
    /// Waits for the lock of a container. The locks are in a directory beside the agent's socket; where that is to be
    /// nothing is made.
    ///
    /// # Errors
    /// Code 5: the directory can't be written.
    pub(super) fn take(socket: &Path, container: &str) -> Result<Self, CniError> {
        let dir = socket.parent().unwrap_or(Path::new("/")).join("cni");
        // An ID has no '/' and doesn't begin with '.'.
        let path = dir.join(format!("{container}.lock"));
        let held = hold(&dir, path.clone()).map_err(|error| {
            let message = format!("cannot take the container's lock {}: {error}", path.display());
            CniError::new(Code::Io, message).hint("the plugin needs root, and a directory of the agent's socket (\"socket\") that it may write to")
        })?;
        Ok(Self { held })
    }
}

fn hold(dir: &Path, path: PathBuf) -> io::Result<Option<(PathBuf, Flock<File>)>> {
    match DirBuilder::new().mode(0o755).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    loop {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)?;
        let inode = file.metadata()?.ino();
        let file = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| io::Error::from(error))?;
        match fs::metadata(&path) {
            Ok(now) if now.ino() == inode => return Ok(Some((path, file))),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

impl Drop for ContainerLock {
    fn drop(&mut self) {
        // While it is held, so that nobody's fresh file is taken away. A file that stays does no harm.
        if let Some((path, _)) = &self.held {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn one_container_waits_for_itself_and_not_for_others() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("weft.sock");
        let inside = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let _lock = ContainerLock::take(&socket, "a1").unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two at once");
                        thread::sleep(Duration::from_micros(50));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let held = ContainerLock::take(&socket, "a1").unwrap();
        let started = Instant::now();
        drop(ContainerLock::take(&socket, "b2").unwrap());
        assert!(started.elapsed() < Duration::from_secs(1));
        drop(held);
        let left: Vec<_> = fs::read_dir(dir.path().join("cni")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
    }

    #[test]
    fn where_no_agent_can_be_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("elsewhere/weft.sock");
        let lock = ContainerLock::take(&socket, "a1").unwrap();
        assert!(lock.held.is_none());
        assert!(!dir.path().join("elsewhere").exists());
    }
}
