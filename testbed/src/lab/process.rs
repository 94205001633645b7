//! Commands with a time limit and captured output, and processes that run until they're stopped. Every process is
//! ended by its own number.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{lock, must, names_in};

/// Between two looks at a process.
const TICK: Duration = Duration::from_millis(1);

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command as typed.
    pub line: String,
    /// Its exit code; `None` when it was ended by a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Finished {
    /// What it printed; the test ends here when it failed.
    #[track_caller]
    pub fn expect_done(self) -> String {
        assert!(self.code == Some(0), "{self}");
        self.stdout
    }
}

impl std::fmt::Display for Finished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            line,
            code,
            stdout,
            stderr,
        } = self;
        write!(f, "`{line}` ended with {code:?}\n{stdout}{stderr}")
    }
}

fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command to its end; the test ends here when that takes longer than `limit`.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Finished {
    let line = line_of(command);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = must(command.spawn(), &format!("run `{line}`"));
    let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let Some(status) = wait(&mut child, limit) else {
        // Both may fail only because it has just ended.
        let _ = child.kill();
        let _ = child.wait();
        panic!("`{line}` did not end within {limit:?}");
    };
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_default();
    Finished {
        line,
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is to show.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = must(child.try_wait(), "wait for a process") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(TICK);
    }
}

/// A process that runs beside the test.
#[derive(Debug)]
pub struct Process {
    line: String,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts it in the calling thread's namespace; its output is appended to `log`.
    #[track_caller]
    pub(super) fn spawn(mut command: Command, log: &Path) -> Self {
        let line = line_of(&command);
        let file: File = must(
            OpenOptions::new().create(true).append(true).open(log),
            &format!("open {}", log.display()),
        );
        let errors = must(file.try_clone(), "share a log");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = must(command.spawn(), &format!("start `{line}`"));
        Self {
            line,
            child: Mutex::new(child),
            log: log.to_owned(),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// What it and its predecessors with the same log said.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Ends it at once (SIGKILL) and waits until it's gone.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Sends a signal and waits for the end.
    #[track_caller]
    pub fn stop(&self, signal: Signal, limit: Duration) -> ExitStatus {
        must(
            kill(pid_of(self.pid()), signal),
            &format!("signal `{}`", self.line),
        );
        self.expect_end(limit)
    }

    /// Waits for the end.
    #[track_caller]
    pub fn expect_end(&self, limit: Duration) -> ExitStatus {
        match wait(&mut lock(&self.child), limit) {
            Some(status) => status,
            None => panic!(
                "`{}` did not end within {limit:?}:\n{}",
                self.line,
                self.log()
            ),
        }
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("Linux numbers processes below 2^22"))
}

/// Ends a process that the lab's processes started.
pub(super) fn kill_pid(pid: u32) {
    // It may have ended by itself.
    let _ = kill(pid_of(pid), Signal::SIGKILL);
}

/// Processes whose command line names something in `dir`: what the lab's processes started and left.
pub fn pids_mentioning(dir: &Path) -> Vec<u32> {
    let wanted = dir.to_string_lossy().into_owned();
    let own = std::process::id();
    names_in(Path::new("/proc"))
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&wanted)
        })
        .collect()
}

/// A process that is stopped (SIGSTOP) until this goes: it is there and says nothing.
#[derive(Debug)]
pub struct Frozen(Pid);

impl Frozen {
    /// Stops a process.
    #[track_caller]
    pub fn new(pid: u32) -> Self {
        let pid = Pid::from_raw(must(i32::try_from(pid), "read a process' number"));
        must(kill(pid, Signal::SIGSTOP), "stop a process");
        Self(pid)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
