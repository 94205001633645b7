//! Network namespaces of containers: finding the one the caller means, and working inside it without the agent leaving
//! its own.
//!
//! A namespace lives as long as a process, a mount, an open file descriptor or a socket in it. So nothing here outlives
//! its use: a [`Netns`] is opened for one request and dropped with it, and work inside is done by a thread that is
//! joined before the call returns. Otherwise a container's end would go unnoticed for as long as the agent runs.

mod sys;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::stat::fstat;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

use crate::api::NetnsArg;

/// Where `ip netns` keeps its names.
const NAMED_DIRS: [&str; 2] = ["/run/netns", "/var/run/netns"];
/// The namespace that the agent was started in.
const OWN: &str = "/proc/self/ns/net";
/// Names that an error lists before it says "and N more".
const LISTED_MAX: usize = 8;

/// An open network namespace: for one request, since it keeps the namespace alive.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    name: String,
    id: (u64, u64),
}

/// Why there is no namespace to work in.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No namespace of that name.
    #[error("there is no network namespace {name}")]
    NoSuchNamespace {
        /// As the caller gave it.
        name: String,
        /// Names that there are.
        known: Vec<String>,
    },
    /// The file is there, but something else.
    #[error("{path} is not a network namespace: {why}")]
    NotANamespace {
        /// The file.
        path: String,
        /// What it is instead.
        why: String,
    },
    /// No process of that number.
    #[error("there is no process {pid}, or it has ended")]
    NoSuchProcess {
        /// The number.
        pid: u32,
    },
    /// The agent may not open or enter it.
    #[error("permission denied for network namespace {name}")]
    Permission {
        /// As the caller gave it.
        name: String,
    },
    /// Anything else the kernel says.
    #[error("cannot {what} network namespace {name}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// As the caller gave it.
        name: String,
        /// What the kernel says.
        source: io::Error,
    },
}

impl NetnsError {
    /// What the caller may do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchNamespace { known, .. } if known.is_empty() => Some(
                "this host has no named namespaces (`ip netns add NAME` makes one); name another by its path, or its process by --pid"
                    .to_owned(),
            ),
            Self::NoSuchNamespace { known, .. } => {
                let more = known.len().saturating_sub(LISTED_MAX);
                let listed = known[..known.len() - more].join(", ");
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Some(format!("there are {listed}{more}; name another by its path, or its process by --pid"))
            }
            Self::NotANamespace { .. } => Some(
                "give a name of `ip netns list`, a path such as /proc/PID/ns/net, or --pid PID".to_owned(),
            ),
            Self::NoSuchProcess { .. } => {
                Some("the agent sees process numbers of its own PID namespace".to_owned())
            }
            Self::Permission { .. } => Some(
                "the agent needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN, and CAP_SYS_PTRACE for --pid"
                    .to_owned(),
            ),
            Self::System { .. } => None,
        }
    }
}

/// Whether that is the namespace that this process was started in, by [`Netns::id`].
pub fn is_own(id: (u64, u64)) -> bool {
    static OWN_ID: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let own = OWN_ID.get_or_init(|| Netns::open(&NetnsArg::Host).ok().map(|own| own.id));
    *own == Some(id)
}

impl Netns {
    /// Opens a namespace as the caller named it and makes sure that it is one.
    ///
    /// # Errors
    /// [`NetnsError`].
    pub fn open(arg: &NetnsArg) -> Result<Self, NetnsError> {
        match arg {
            NetnsArg::Name(name) if name.contains('/') => Self::open_path(Path::new(name)),
            NetnsArg::Name(name) => Self::open_name(name),
            NetnsArg::Path(path) => Self::open_path(path),
            NetnsArg::Pid(pid) => Self::open_pid(*pid),
            NetnsArg::Host => {
                let own = File::open(OWN).map_err(|error| explain("open", "host", error))?;
                Self::from_fd(own.into(), "host")
            }
        }
    }

    /// The namespace behind a file descriptor, under a name for messages.
    ///
    /// # Errors
    /// [`NetnsError::NotANamespace`], or what the kernel says.
    pub fn from_fd(fd: OwnedFd, name: impl Into<String>) -> Result<Self, NetnsError> {
        let name = name.into();
        let system = |what| {
            let name = name.clone();
            move |source: nix::Error| NetnsError::System {
                what,
                name,
                source: source.into(),
            }
        };
        let not = |why: String| NetnsError::NotANamespace {
            path: name.clone(),
            why,
        };
        if fstatfs(&fd).map_err(system("examine"))?.filesystem_type() != NSFS_MAGIC {
            return Err(not(
                "it is an ordinary file (a namespace that was deleted may leave one)".to_owned(),
            ));
        }
        let kind = sys::kind(fd.as_fd()).map_err(|source| NetnsError::System {
            what: "examine",
            name: name.clone(),
            source,
        })?;
        if kind != CloneFlags::CLONE_NEWNET.bits() {
            return Err(not("it is a namespace of another kind".to_owned()));
        }
        let stat = fstat(&fd).map_err(system("examine"))?;
        Ok(Self {
            fd,
            name,
            id: (stat.st_dev, stat.st_ino),
        })
    }

    fn open_name(name: &str) -> Result<Self, NetnsError> {
        if !name.is_empty() && !matches!(name, "." | "..") {
            for dir in NAMED_DIRS {
                match File::open(Path::new(dir).join(name)) {
                    Ok(file) => return Self::from_fd(file.into(), name),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(explain("open", name, error)),
                }
            }
        }
        Err(NetnsError::NoSuchNamespace {
            name: name.to_owned(),
            known: known_names(),
        })
    }

    fn open_path(path: &Path) -> Result<Self, NetnsError> {
        let name = path.display().to_string();
        // Not to wait for the other end of what turns out to be a pipe.
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path);
        match opened {
            Ok(file) => Self::from_fd(file.into(), name),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(NetnsError::NoSuchNamespace {
                    name,
                    known: known_names(),
                })
            }
            Err(error) => Err(explain("open", &name, error)),
        }
    }

    fn open_pid(pid: u32) -> Result<Self, NetnsError> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_fd(file.into(), name),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Err(NetnsError::NoSuchProcess { pid })
            }
            Err(error) => Err(explain("open", &name, error)),
        }
    }

    /// As the caller named it: a name, a path, or `/proc/PID/ns/net`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Device and inode: the same for two ways to name one namespace, and not used again while it lives.
    pub const fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Runs `work` inside the namespace, on a thread of its own; the caller's thread stays where it is. `work` must
    /// leave no file descriptor of the namespace behind, or its end goes unnoticed.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_own_thread(|| {
            self.enter()?;
            Ok(work())
        })
        .unwrap_or_else(|error| Err(self.no_thread(error)))
    }

    /// Like [`Self::run`] with a small tokio runtime around it, for rtnetlink. Whatever is left of the runtime when
    /// `work` is done is dropped with it.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be entered.
    pub fn run_async<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T, NetnsError> {
        self.run(|| Ok(small_runtime()?.block_on(work())))?
            .map_err(|error| self.no_thread(error))
    }

    /// Moves the calling thread, for good: only for threads that end when their work is done.
    pub(crate) fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET)
            .map_err(|error| explain("enter", &self.name, error.into()))
    }

    pub(crate) fn no_thread(&self, source: io::Error) -> NetnsError {
        NetnsError::System {
            what: "start a thread for",
            name: self.name.clone(),
            source,
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Runs `work` on a fresh thread that is gone when this returns. A panic goes on in the caller.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)?;
        thread.join().map_or_else(|panic| resume_unwind(panic), Ok)
    })
}

/// A runtime for one thread and its sockets.
pub(crate) fn small_runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
}

fn known_names() -> Vec<String> {
    let mut names: Vec<String> = NAMED_DIRS
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

fn explain(what: &'static str, name: &str, source: io::Error) -> NetnsError {
    let name = name.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return NetnsError::Permission { name };
    }
    NetnsError::System { what, name, source }
}

#[cfg(test)]
pub(crate) mod tests;
