//! The client of the local API: HTTP/1 over the agent's unix socket, one connection per request.
//!
//! It knows how to ask and how to explain that nobody answered; what an answer means is for the commands. Refusals of
//! the agent come through as they are.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, SERVER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use weft_control::api::ErrorReply;

use crate::failure::Failure;

mod path;

pub(crate) use path::ApiPath;

/// How long the agent may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take to answer; long enough for what it asks of the controller meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// No list of a cluster is larger; more means that something else listens there.
const ANSWER_MAX_BYTES: usize = 256 * 1024 * 1024;

/// Asks the agent behind one socket.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
}

/// One request on its way: what is asked, and how long the answer may take.
#[derive(Debug)]
struct Ask {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    timeout: Duration,
}

impl Client {
    /// A client of the agent that listens at `socket`; nothing is connected yet.
    ///
    /// # Errors
    /// The process has no file descriptors left for an event loop.
    pub(crate) fn new(socket: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| {
            Failure::new("no_runtime", format!("cannot start an event loop: {error}"))
        })?;
        Ok(Self {
            socket: socket.to_owned(),
            runtime,
        })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// Nobody answers at the socket, or the agent refuses.
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &ApiPath) -> Result<T, Failure> {
        self.get_within(path, ANSWER_TIMEOUT)
    }

    /// Asks for something that may take `timeout`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn get_within<T: DeserializeOwned>(
        &self,
        path: &ApiPath,
        timeout: Duration,
    ) -> Result<T, Failure> {
        self.ask(Ask {
            method: Method::GET,
            path: path.to_string(),
            body: None,
            timeout,
        })
    }

    /// Asks for a change that needs no body.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &ApiPath,
    ) -> Result<T, Failure> {
        self.ask(Ask {
            method,
            path: path.to_string(),
            body: None,
            timeout: ANSWER_TIMEOUT,
        })
    }

    /// Asks for a change.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(crate) fn send<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &ApiPath,
        body: &B,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| {
            Failure::new("request", format!("cannot write the request: {error}"))
        })?;
        let path = path.to_string();
        self.ask(Ask {
            method,
            path,
            body: Some(body),
            timeout: ANSWER_TIMEOUT,
        })
    }

    /// Which file the socket is; `None` when there is none. An agent that ends in good order takes it away, and the next
    /// one makes another.
    pub(crate) fn socket_file(&self) -> Option<(u64, u64)> {
        let file = std::fs::metadata(&self.socket).ok()?;
        Some((file.dev(), file.ino()))
    }

    fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, Failure> {
        let (status, server, body) = self.runtime.block_on(self.exchange(&ask))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let cause = format!(
                    "its answer to {} {} reads wrong ({error})",
                    ask.method, ask.path
                );
                self.mismatch(&cause, server.as_deref())
            });
        }
        if let Ok(reply) = serde_json::from_slice::<ErrorReply>(&body) {
            return Err(reply.into());
        }
        let cause = format!(
            "it answers {} {} with status {status}",
            ask.method, ask.path
        );
        Err(self.mismatch(&cause, server.as_deref()))
    }

    async fn exchange(&self, ask: &Ask) -> Result<(StatusCode, Option<String>, Bytes), Failure> {
        let connect = tokio::time::timeout(CONNECT_TIMEOUT, UnixStream::connect(&self.socket));
        let stream = match connect.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.silent(CONNECT_TIMEOUT)),
        };
        tracing::debug!(socket = %self.socket.display(), method = %ask.method, path = %ask.path, "ask");
        match tokio::time::timeout(ask.timeout, converse(stream, ask)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.broken(error.as_ref())),
            Err(_) => Err(self.silent(ask.timeout)),
        }
    }

    fn unreachable(&self, error: &std::io::Error) -> Failure {
        let path = self.socket.display();
        let start =
            "start one with `weft agent run ...` or name its socket with --socket / WEFT_SOCKET";
        let kind = error.kind();
        if kind == ErrorKind::PermissionDenied {
            let message = format!("the agent's socket {path} may not be used: permission denied");
            return Failure::new("permission_denied", message).hint(self.who_may());
        }
        let message = if kind == ErrorKind::NotFound {
            format!("no agent listens at {path}")
        } else if kind == ErrorKind::ConnectionRefused {
            format!("no agent listens at {path} any more (the file is a leftover)")
        } else {
            format!("cannot connect to {path}: {error}")
        };
        Failure::new("no_agent", message).hint(start)
    }

    /// Who may use the socket, as far as its file tells.
    fn who_may(&self) -> String {
        let gid = std::fs::metadata(&self.socket)
            .map(|file| file.gid())
            .unwrap_or(0);
        let group = nix::unistd::Group::from_gid(gid.into()).ok().flatten();
        match group {
            Some(group) if gid != 0 => format!("be root or a member of group {:?}", group.name),
            _ => "be root, for example with sudo".to_owned(),
        }
    }

    fn silent(&self, waited: Duration) -> Failure {
        let path = self.socket.display();
        let waited = humantime::format_duration(waited);
        Failure::new(
            "timeout",
            format!("the agent at {path} did not answer within {waited}"),
        )
        .hint("it may still carry the request out: look at its log and at `weft status`")
    }

    fn broken(&self, error: &(dyn std::error::Error + Send + Sync + 'static)) -> Failure {
        let path = self.socket.display();
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            return Failure::new(
                "not_an_agent",
                format!("what listens at {path} is no weft agent"),
            )
            .hint("name the agent's socket with --socket / WEFT_SOCKET");
        }
        let cause = Failure::from_error("agent_gone", error).message;
        Failure::new(
            "agent_gone",
            format!("the agent at {path} broke off: {cause}"),
        )
        .hint("look at its log; it may have been stopped or restarted: try again")
    }

    /// The two sides don't understand each other: says which versions they have.
    fn mismatch(&self, cause: &str, server: Option<&str>) -> Failure {
        let ours = env!("CARGO_PKG_VERSION");
        let path = self.socket.display();
        let theirs = self.agent_version().or_else(|| server.map(str::to_owned));
        let theirs = theirs.map_or_else(
            || "of unknown version".to_owned(),
            |version| format!("of version {version}"),
        );
        let message = format!(
            "the agent at {path} ({theirs}) and this command (version {ours}) do not fit: {cause}"
        );
        Failure::new("version_mismatch", message).hint(
            "use the `weft` that the agent was started with, or restart the agent with this one",
        )
    }

    fn agent_version(&self) -> Option<String> {
        let ask = Ask {
            method: Method::GET,
            path: ApiPath::new("status").to_string(),
            body: None,
            timeout: CONNECT_TIMEOUT,
        };
        let (_, _, body) = self.runtime.block_on(self.exchange(&ask)).ok()?;
        let status: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(status.get("version")?.as_str()?.to_owned())
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One request and its answer on a fresh connection.
async fn converse(
    stream: UnixStream,
    ask: &Ask,
) -> Result<(StatusCode, Option<String>, Bytes), BoxError> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(&ask.method)
        .uri(&ask.path)
        .header(HOST, "weft");
    if ask.body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = Full::new(Bytes::from(ask.body.clone().unwrap_or_default()));
    let response = sender.send_request(request.body(body)?).await?;
    let (status, server) = (response.status(), server_of(&response));
    let body = Limited::new(response.into_body(), ANSWER_MAX_BYTES)
        .collect()
        .await?
        .to_bytes();
    connection.abort();
    Ok((status, server, body))
}

fn server_of<B>(response: &Response<B>) -> Option<String> {
    response
        .headers()
        .get(SERVER)?
        .to_str()
        .ok()
        .map(str::to_owned)
}
