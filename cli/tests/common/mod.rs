//! What the tests of the real binary share: running it, and an agent that gives canned replies.

#![allow(dead_code, reason = "each test file uses its own part")]
#![expect(
    clippy::unwrap_used,
    reason = "only tests call these; a panic fails the test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// `weft` with nothing of this host's configuration.
pub(crate) fn weft(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
    for name in ["WEFT_SOCKET", "WEFT_CONFIG", "WEFT_LOG", "WEFT_TOKEN"] {
        command.env_remove(name);
    }
    command.args(line);
    command
}

/// Exit code, standard output and standard error of one run.
pub(crate) fn run(line: &[&str]) -> (i32, String, String) {
    told(weft(line).output().unwrap())
}

/// What a run left behind.
pub(crate) fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// One request as the fake agent saw it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Method and path.
    pub(crate) line: String,
    /// Body; null when there was none.
    pub(crate) body: Value,
}

/// An agent that knows canned replies by method and path, and remembers what it was asked.
pub(crate) struct FakeAgent {
    dir: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl FakeAgent {
    /// Listens in a directory of its own. A request that is not in `replies` gets an empty 404.
    pub(crate) fn start(replies: Vec<(&'static str, u16, Value)>) -> Self {
        let agent = Self {
            dir: tempfile::tempdir().unwrap(),
            seen: Arc::default(),
        };
        let listener = UnixListener::bind(agent.socket()).unwrap();
        let seen = Arc::clone(&agent.seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &replies, &seen);
            }
        });
        agent
    }

    /// Where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("weft.sock")
    }

    /// Runs `weft` against it.
    pub(crate) fn run(&self, line: &[&str]) -> (i32, String, String) {
        told(
            weft(line)
                .arg("--socket")
                .arg(self.socket())
                .output()
                .unwrap(),
        )
    }

    /// What it was asked since the last time.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn answer(stream: UnixStream, replies: &[(&str, u16, Value)], seen: &Mutex<Vec<Seen>>) {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push(line.trim_end().to_owned());
    }
    let Some(first) = head.first() else { return };
    let line = first.trim_end_matches(" HTTP/1.1").to_owned();
    let length = head
        .iter()
        .find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        })
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let found = replies.iter().find(|(asked, ..)| *asked == line);
    seen.lock().unwrap().push(Seen { line, body });
    let (status, reply) = match found {
        Some((_, status, reply)) => (*status, reply.to_string()),
        None => (404, String::new()),
    };
    let length = reply.len();
    let _ = reader.get_mut().write_all(
        format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{reply}"
        )
        .as_bytes(),
    );
}

/// Compares with a golden file under tests/golden; `WEFT_GOLDEN=write` writes it instead.
pub(crate) fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("WEFT_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        wanted == found,
        "{name} differs\nwanted:\n{wanted}\nfound:\n{found}"
    );
}
