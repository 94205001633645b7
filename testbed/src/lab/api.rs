//! The local API as other programs speak it: raw HTTP/1 on the agent's socket, without the command line between.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::{Host, must};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request and its answer: HTTP status and JSON body (null where there is none).
#[track_caller]
pub fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = must(UnixStream::connect(socket), "connect to the agent's socket");
    must(stream.set_read_timeout(Some(PATIENCE)), "limit the wait");
    must(stream.write_all(request.as_bytes()), "ask the agent");
    let mut answer = Vec::new();
    must(stream.read_to_end(&mut answer), "read the agent's answer");
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        panic!("no HTTP answer to {method} {path}: {answer:?}");
    };
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let Some(status) = status else {
        panic!("no HTTP status in {head:?}");
    };
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

impl Host {
    /// Asks this host's agent.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        ask(&self.socket(), method, path, body)
    }
}
