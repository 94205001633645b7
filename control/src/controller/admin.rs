//! The unix socket in the data directory (mode 0600 in a directory of mode 0700) by which `weft controller token`
//! reaches a running controller: the store is locked while it runs. One question and one answer per connection, in the
//! control channel's encoding.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::info;

use super::error::FAILED;
use super::{ControllerError, Core, TokenSpec, rotation, stopped};
use crate::api::{AuthorityInfo, ControllerReport, TokenInfo};
use crate::channel::{Refusal, codec};
use crate::identity::{JoinToken, TokenError};
use crate::store::AuthorityRecord;
use crate::store::dump::Dump;

/// The socket's name in the data directory.
const SOCKET_NAME: &str = "admin.sock";
/// Both sides are on one host.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the store may take, so that there is time to say that it didn't answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);
/// A question is short.
const MAX_BYTES: usize = 4096;
/// What a socket's address takes (`sun_path`), less some room.
const MAX_PATH_BYTES: usize = 100;

/// What can be asked of a controller on its own host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Question {
    /// A new join token.
    MintToken {
        /// How long it can be used.
        ttl_secs: u64,
        /// How many nodes it lets in.
        #[serde(default = "one")]
        uses: u32,
    },
    /// All join tokens.
    ListTokens,
    /// The whole cluster.
    Export,
    /// Make a join token worthless.
    RevokeToken {
        /// Which.
        id: String,
    },
    /// How the controller is.
    Status,
    /// The cluster's authority, and how far it is being replaced.
    Authority,
    /// Begin to replace it.
    RotateAuthority,
    /// One step further, whoever isn't ready.
    AdvanceAuthority,
}

fn one() -> u32 {
    1
}

/// Which fields say something depends on the question.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Answer {
    /// `MintToken`: the token's text.
    #[serde(default)]
    token: String,
    /// `ListTokens`.
    #[serde(default)]
    pub(super) tokens: Vec<TokenInfo>,
    /// `Export`: so many bytes of a document come after the answer.
    #[serde(default)]
    follows: u64,
    /// That document.
    #[serde(skip)]
    pub(super) document: Vec<u8>,
    /// `Authority`, `RotateAuthority`, `AdvanceAuthority`.
    #[serde(default)]
    authority: Option<AuthorityInfo>,
    /// `Status`.
    #[serde(default)]
    status: Option<ControllerReport>,
}

impl Answer {
    /// # Errors
    /// [`ControllerError::Refused`]: the controller answered something else.
    pub(super) fn token(&self) -> Result<JoinToken, ControllerError> {
        let parsed = self.token.parse();
        parsed.map_err(|error: TokenError| bad(&format!("no token: {error}")))
    }

    /// # Errors
    /// [`ControllerError::Refused`]: the controller answered something else.
    pub(super) fn status(self) -> Result<ControllerReport, ControllerError> {
        self.status.ok_or_else(|| bad("nothing about how it is"))
    }

    /// # Errors
    /// [`ControllerError::Refused`]: the controller answered something else.
    pub(super) fn authority(self) -> Result<AuthorityInfo, ControllerError> {
        self.authority
            .ok_or_else(|| bad("nothing about the authority"))
    }
}

fn bad(answer: &str) -> ControllerError {
    let message = format!("the controller's answer is {answer}");
    ControllerError::Refused(
        Refusal::new("bad_answer", message)
            .hint("use the same version of weft as the controller that runs"),
    )
}

/// A path short enough for a socket's address, and the directory it may go through.
fn reachable(data: &Path) -> io::Result<(PathBuf, Option<File>)> {
    let path = data.join(SOCKET_NAME);
    if path.as_os_str().len() <= MAX_PATH_BYTES {
        return Ok((path, None));
    }
    let dir = File::open(data)?;
    let short = format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd());
    Ok((short.into(), Some(dir)))
}

fn failed(what: &'static str, path: &Path) -> impl Fn(io::Error) -> ControllerError + use<> {
    let path = path.to_owned();
    move |error| ControllerError::Admin {
        what,
        path: path.clone(),
        cause: error.to_string(),
    }
}

/// Listens in `data`; the caller holds the store's lock, so a socket that is there is a dead controller's.
pub(super) fn serve(
    data: &Path,
    core: Arc<Core>,
    mut stopping: watch::Receiver<bool>,
) -> Result<PathBuf, ControllerError> {
    let path = data.join(SOCKET_NAME);
    let failed = failed("listen on", &path);
    let (short, _dir) = reachable(data).map_err(&failed)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(short).map_err(&failed)?;
    fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(&failed)?;
    listener.set_nonblocking(true).map_err(&failed)?;
    let listener = tokio::net::UnixListener::from_std(listener).map_err(&failed)?;
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stopping) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    // One after the other: the directory lets in only its owner.
                    let _ = timeout(PATIENCE, answer(&core, stream)).await;
                }
                // Out of file descriptors, most likely.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(path)
}

/// The store took too long.
fn silent() -> Refusal {
    let seconds = ANSWER_PATIENCE.as_secs();
    let message = format!("the controller's store did not answer within {seconds} s");
    Refusal::new(FAILED, message).hint("see `weft controller status`; it may have been done")
}

async fn answer(core: &Core, mut stream: tokio::net::UnixStream) -> io::Result<()> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await?;
    let length = codec::decode_length(prefix, MAX_BYTES).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let answer: Result<Answer, Refusal> = match codec::decode(&bytes) {
        Ok(question) => match timeout(ANSWER_PATIENCE, core.answer(question)).await {
            Ok(answered) => answered.map_err(|error| {
                let code = error.code();
                Refusal::new(code, error.to_string())
            }),
            Err(_) => Err(silent()),
        },
        Err(error) => Err(Refusal::new("bad_request", error.to_string())),
    };
    stream
        .write_all(&codec::encode(&answer).map_err(io::Error::other)?)
        .await?;
    match answer {
        Ok(answer) => stream.write_all(&answer.document).await,
        Err(_) => Ok(()),
    }
}

impl Core {
    async fn answer(&self, question: Question) -> Result<Answer, ControllerError> {
        match question {
            Question::MintToken { ttl_secs, uses } => {
                let ttl = Duration::from_secs(ttl_secs);
                let token = self.mint_token(TokenSpec { ttl, uses }).await?;
                Ok(Answer {
                    token: token.to_string(),
                    ..Answer::default()
                })
            }
            Question::ListTokens => Ok(Answer {
                tokens: self.tokens().await?,
                ..Answer::default()
            }),
            Question::Export => {
                let document = Dump::of(self.ledger.store()).await?.to_json();
                info!("cluster exported");
                Ok(Answer {
                    follows: document.len() as u64,
                    document,
                    ..Answer::default()
                })
            }
            Question::RevokeToken { id } => {
                self.revoke_token(&id).await?;
                Ok(Answer::default())
            }
            Question::Status => Ok(Answer {
                status: Some(self.report()),
                ..Answer::default()
            }),
            Question::Authority => {
                let record = self.ledger.store().authority().await?;
                self.describe(record)
            }
            Question::RotateAuthority => {
                let record = rotation::begin(self.ledger.store()).await?;
                self.rotated.notify_one();
                self.describe(record)
            }
            Question::AdvanceAuthority => {
                let record = rotation::advance(self.ledger.store()).await?;
                self.rotated.notify_one();
                self.describe(record)
            }
        }
    }

    fn report(&self) -> ControllerReport {
        let (revision, nodes) = self.ledger.read(|map| (map.revision, map.nodes.len()));
        ControllerReport {
            running: true,
            cluster: self.cluster.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision,
            nodes,
            connected: self.sessions.connected().len(),
            store: match self.fellows.name() {
                Some(_) => "etcd".to_owned(),
                None => "file".to_owned(),
            },
            write_failed: self.ledger.trouble().or_else(|| self.fellows.trouble()),
            refused: self.refusals.counts(),
        }
    }

    fn describe(&self, record: AuthorityRecord) -> Result<Answer, ControllerError> {
        let info = self.ledger.read(|map| rotation::describe(record, map))?;
        Ok(Answer {
            authority: Some(info),
            ..Answer::default()
        })
    }
}

/// Asks the controller that runs on `data`; `None` when none runs. Blocks.
pub(super) fn ask(data: &Path, question: &Question) -> Result<Option<Answer>, ControllerError> {
    let path = data.join(SOCKET_NAME);
    let failed = failed("ask the controller at", &path);
    let Ok((short, _dir)) = reachable(data) else {
        return Ok(None);
    };
    let mut stream = match UnixStream::connect(short) {
        Ok(stream) => stream,
        Err(error) => {
            // Nothing there, or what a controller left that was killed.
            let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
            return if nobody.contains(&error.kind()) {
                Ok(None)
            } else {
                Err(failed(error))
            };
        }
    };
    let answer = exchange(&mut stream, question).map_err(|error| failed(in_words(error)))?;
    answer.map(Some).map_err(|refusal| match &*refusal.code {
        FAILED => ControllerError::Failed(refusal),
        _ => ControllerError::Refused(refusal),
    })
}

/// What the end of a socket's patience means.
fn in_words(error: io::Error) -> io::Error {
    let kind = error.kind();
    if matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        let why = format!("it did not answer within {} s", PATIENCE.as_secs());
        return io::Error::new(io::ErrorKind::TimedOut, why);
    }
    if kind == io::ErrorKind::UnexpectedEof {
        return io::Error::new(kind, "it hung up without an answer");
    }
    error
}

fn exchange(stream: &mut UnixStream, question: &Question) -> io::Result<Result<Answer, Refusal>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&codec::encode(question).map_err(io::Error::other)?)?;
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix)?;
    let length =
        codec::decode_length(prefix, codec::MAX_MESSAGE_BYTES).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    let mut answer: Result<Answer, Refusal> = codec::decode(&bytes).map_err(io::Error::other)?;
    if let Ok(answer) = &mut answer {
        let read = stream
            .take(answer.follows)
            .read_to_end(&mut answer.document)?;
        if read as u64 != answer.follows {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(answer)
}
