//! Real namespaces, real processes, real frames. A [`Lab`] owns what a test makes: when it goes, also by panic, it
//! stops the processes, then deletes the namespaces, then the directory with states, sockets and logs. A failed test
//! prints the logs first.
//!
//! | file | what |
//! |---|---|
//! | `namespace` | network namespaces and what runs in them |
//! | `clock` | wall clocks that a test sets |
//! | `process` | commands with a time limit, daemons with a log |
//! | `container` | a namespace connected to a network |
//! | `cni` | a container runtime that execs CNI plugins |
//! | `node` | a host with an agent, the controller, the `weft` command line |
//! | `docker` | a host's own dockerd |
//! | `cri` | a host's own containerd, as a kubelet speaks to it |
//! | `image` | what containers run, made without a network |
//! | `traffic` | ping, byte-exact TCP, iperf3, a prober that measures gaps |
//! | `flood` | small datagrams as fast as they go, and how many arrive |
//! | `etcd` | a cluster of etcd members |
//! | `echo` | one-way times of datagrams that are sent back |
//! | `machine` | a Debian with systemd, for packages |
//! | `meter` | processor time of the machine, checksum faults that kernels counted |
//! | `raw` | frames and datagrams as no kernel would send them |
//! | `api` | the local API as other programs speak it |
//! | `capture` | tcpdump, and reading what it wrote |
//! | `verdict` | waiting for a state, counting what a process holds |

pub mod api;
pub mod capture;
pub mod clock;
pub mod cni;
pub mod container;
pub mod cri;
pub mod docker;
pub mod echo;
pub mod etcd;
pub mod flood;
pub mod image;
pub mod machine;
pub mod meter;
pub mod namespace;
pub mod node;
pub mod process;
pub mod raw;
mod sys;
pub mod traffic;
pub mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tempfile::TempDir;

pub use container::Container;
pub use docker::Docker;
pub use namespace::Namespace;
pub use node::{Controller, Host, Refusal};
pub use process::{Finished, Process};

/// Lines of each log that a failed test prints.
const LOG_TAIL_LINES: usize = 120;
/// What the lab runs, with the Debian package that has it.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("bridge", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("tcpdump", "tcpdump"),
];

static COUNTER: AtomicU32 = AtomicU32::new(0);
/// Tests that measure have the machine to themselves, others share it.
static MACHINE: RwLock<()> = RwLock::new(());

/// Unwraps what the lab can't go on without.
#[track_caller]
pub(crate) fn must<T, E: std::fmt::Display>(result: Result<T, E>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("cannot {what}: {error}"),
    }
}

/// What one test made; see the module's words.
#[derive(Debug)]
pub struct Lab {
    site: Arc<Site>,
    _turn: Turn,
}

#[derive(Debug)]
enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

/// What namespaces, hosts and processes of one lab share.
#[derive(Debug)]
pub(crate) struct Site {
    id: String,
    dir: TempDir,
    namespaces: Mutex<Vec<String>>,
    processes: Mutex<Vec<Arc<Process>>>,
    agent_args: Mutex<Vec<String>>,
}

impl Lab {
    /// A lab that may run beside others.
    pub fn new() -> Self {
        let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Self::open(Turn::Shared { _guard: guard })
    }

    /// A lab that has the machine to itself, for tests that measure.
    pub fn alone() -> Self {
        let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Self::open(Turn::Alone { _guard: guard })
    }

    fn open(turn: Turn) -> Self {
        check_machine();
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let id = format!("wt{}-{number}", std::process::id());
        let dir = must(
            tempfile::Builder::new().prefix(&format!("{id}-")).tempdir(),
            "make a directory",
        );
        let site = Site {
            id,
            dir,
            namespaces: Mutex::default(),
            processes: Mutex::default(),
            agent_args: Mutex::default(),
        };
        Self {
            site: Arc::new(site),
            _turn: turn,
        }
    }

    /// A new network namespace with loopback up; `name` is unique in the lab.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::create(&self.site, name)
    }

    /// Further flags for every agent that is started from now on, such as `--no-gso`.
    pub fn give_agents(&self, args: &[String]) {
        lock(&self.site.agent_args).extend_from_slice(args);
    }

    /// Where states, sockets and logs of this lab are.
    pub fn dir(&self) -> &Path {
        self.site.dir.path()
    }

    /// What the names of all its namespaces begin with.
    pub fn prefix(&self) -> &str {
        &self.site.id
    }

    /// The lab's namespaces that exist, as `ip netns` lists them.
    pub fn namespaces_left(&self) -> Vec<String> {
        let prefix = format!("{}-", self.site.id);
        names_in(Path::new("/run/netns"))
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect()
    }

    pub(crate) fn site(&self) -> &Arc<Site> {
        &self.site
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn print_logs(&self) {
        let mut logs: Vec<PathBuf> = names_in(self.dir.path())
            .into_iter()
            .filter(|name| name.ends_with(".log"))
            .map(|name| self.path(&name))
            .collect();
        logs.sort();
        for log in logs {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            let name = log
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            say(&format!(
                "----- {name} ({} lines) -----\n{}",
                lines.len(),
                tail.join("\n")
            ));
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.site.print_logs();
        }
        let processes = std::mem::take(&mut *lock(&self.site.processes));
        for process in processes.iter().rev() {
            process.kill();
        }
        // What an agent started outlives it by design.
        for pid in process::pids_mentioning(self.site.dir.path()) {
            process::kill_pid(pid);
        }
        for name in std::mem::take(&mut *lock(&self.site.namespaces)) {
            namespace::delete(&name);
        }
    }
}

/// A test's own word among its output; shown when the test fails, or with `--nocapture`.
#[expect(clippy::print_stderr, reason = "a test's output is for people")]
pub fn say(text: &str) {
    eprintln!("{text}");
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of a directory's entries; none when it isn't there.
pub(crate) fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

fn check_machine() {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    if let Err(why) = CHECKED.get_or_init(machine_is_fit) {
        panic!("{why}");
    }
}

fn machine_is_fit() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the test bed makes network namespaces and TAPs: run it as root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err(
            "there is no /dev/net/tun: load the kernel's tun module (modprobe tun)".to_owned(),
        );
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (tool, package) in TOOLS {
        let here = std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
        if !here {
            return Err(format!(
                "the program {tool} is missing: install the Debian package {package}"
            ));
        }
    }
    Ok(())
}

/// The `weft` program under test: `WEFT_BIN`, or built by cargo with the profile of this test.
pub fn weft_bin() -> &'static Path {
    static BIN: OnceLock<PathBuf> = OnceLock::new();
    BIN.get_or_init(|| match std::env::var_os("WEFT_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(
                path.is_file(),
                "WEFT_BIN names {}, which is no file",
                path.display()
            );
            path
        }
        None => build_weft(),
    })
}

fn build_weft() -> PathBuf {
    let exe = must(std::env::current_exe(), "find this test's own file");
    // Tests are target/PROFILE/deps/TEST-HASH, programs target/PROFILE/PROGRAM.
    let mut dirs = exe.ancestors().skip(1);
    let Some(dir) = dirs.find(|dir| !dir.ends_with("deps")) else {
        panic!("{} is not in a target directory", exe.display())
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        // With the features of the whole workspace, as the tests themselves: else much would be built twice.
        .args(["build", "--quiet", "--workspace", "--bin", "weft"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if dir.ends_with("release") {
        build.arg("--release");
    }
    let status = must(build.status(), "run cargo build");
    assert!(
        status.success(),
        "cargo build of weft failed ({status}): there is nothing to test"
    );
    dir.join("weft")
}
