//! How a node becomes a member: it shows its token and key, and gets a certificate.

use std::net::SocketAddr;
use std::path::Path;

use quinn::{ClientConfig, Connection};
use serde::Serialize;
use tokio::time::timeout;

use super::link::{CALL_PATIENCE, DialError, client_config, dial, source_for};
use super::messages::{JoinHello, JoinWelcome, NodeFacts, PROTOCOLS, Refusal};
use super::tls;
use super::transport::{self, HANDSHAKE_PATIENCE, close};
use crate::identity::{Identity, IdentityError, JoinToken, NodeKey, cert};

/// What a new node says of itself.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The name it wants.
    pub node_name: String,
    /// Its host.
    pub facts: NodeFacts,
}

/// Why a node didn't become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No controller could be asked; it may be there later.
    #[error("no controller answers ({why})")]
    Unreachable {
        /// Each address with its reason.
        why: String,
    },
    /// A controller said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The key or the identity can't be kept.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl JoinError {
    /// Whether trying again can't help.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Unreachable { .. } => false,
            Self::Refused(_) | Self::Identity(_) => true,
        }
    }
}

/// How one controller answered.
enum Failed {
    Unreachable(String),
    Refused(Refusal),
}

/// Joins the cluster of `token` by one of its controllers, tried in turn, and saves the identity in `dir`. The key is
/// saved first: when an answer is lost, asking again with the same token works.
///
/// # Errors
/// [`JoinError`].
pub async fn join(
    controllers: &[SocketAddr],
    token: &JoinToken,
    request: &JoinRequest,
    dir: &Path,
) -> Result<Identity, JoinError> {
    let key = NodeKey::load_or_make(dir)?;
    let hello = JoinHello {
        protocols: PROTOCOLS,
        version: request.facts.version.clone(),
        token_id: token.id.0.clone(),
        secret: token.secret.reveal(),
        node_name: request.node_name.clone(),
        facts: request.facts.clone(),
        csr: key.csr()?,
    };
    let tls = tls::joiner(token.ca).map_err(|error| IdentityError::Crypto {
        what: "a TLS configuration",
        cause: error.to_string(),
    })?;
    let client = client_config(tls);
    let mut unreachable = Vec::new();
    let mut refused = None;
    for controller in controllers {
        match ask(&client, *controller, &hello).await {
            Ok(welcome) => {
                let identity = accept(&key, token, welcome, controllers)
                    .map_err(|cause| JoinError::Refused(bad_answer(*controller, &cause)))?;
                identity.save(dir)?;
                return Ok(identity);
            }
            Err(Failed::Unreachable(cause)) => unreachable.push(format!("{controller}: {cause}")),
            // Another controller may be the right one.
            Err(Failed::Refused(refusal)) => refused = Some(refusal),
        }
    }
    match refused {
        Some(refusal) => Err(JoinError::Refused(refusal)),
        None => Err(JoinError::Unreachable {
            why: unreachable.join("; "),
        }),
    }
}

async fn ask(
    client: &ClientConfig,
    controller: SocketAddr,
    hello: &JoinHello,
) -> Result<JoinWelcome, Failed> {
    let mut dialled = Err(DialError::Unreachable(String::new()));
    for round in 0..2 {
        let source = source_for(hello.facts.underlay, controller, round);
        dialled = dial(client, source, controller, CALL_PATIENCE).await;
        if !matches!(dialled, Err(DialError::Unreachable(_))) || source.is_unspecified() {
            break;
        }
    }
    let (_endpoint, connection) = dialled.map_err(|error| failed(controller, error))?;
    let answer = ask_over(&connection, hello).await;
    let answer = answer.map_err(|error| failed(controller, error))?;
    answer.map_err(Failed::Refused)
}

/// One question and its answer, and the connection's end.
pub(super) async fn ask_over<T: Serialize>(
    connection: &Connection,
    hello: &T,
) -> Result<Result<JoinWelcome, Refusal>, DialError> {
    let answer = timeout(HANDSHAKE_PATIENCE, exchange(connection, hello)).await;
    let closed = connection.close_reason();
    connection.close(close::DONE.into(), b"done");
    match (answer, closed) {
        (Ok(Ok(answer)), _) => Ok(answer),
        (Ok(Err(_)), Some(reason)) => Err(DialError::from(reason)),
        (Ok(Err(error)), None) => Err(DialError::Unreachable(error.to_string())),
        (Err(_), _) => Err(DialError::Unreachable(
            "it took the call but does not answer".to_owned(),
        )),
    }
}

async fn exchange<T: Serialize>(
    connection: &Connection,
    hello: &T,
) -> Result<Result<JoinWelcome, Refusal>, transport::FrameError> {
    let (mut to, mut from) = connection
        .open_bi()
        .await
        .map_err(|error| transport::FrameError::Ended(error.to_string()))?;
    transport::send(&mut to, hello).await?;
    let _ = to.finish();
    transport::receive(&mut from).await
}

fn failed(controller: SocketAddr, error: DialError) -> Failed {
    match error {
        DialError::Unreachable(cause) => Failed::Unreachable(cause),
        DialError::Foreign(cause) => Failed::Refused(
            Refusal::new(
                "foreign_controller",
                format!("the controller at {controller} is not of the cluster that the token is for ({cause})"),
            )
            .hint("take a token from `weft controller token` on that controller, or give --join the right address"),
        ),
        DialError::Closed(code, cause) if code == u64::from(close::PROTOCOL) => Failed::Refused(
            Refusal::new("protocol_mismatch", format!("controller {controller}: {cause}"))
                .hint("use the same version of weft on both sides"),
        ),
        DialError::Unwelcome(cause) | DialError::Closed(_, cause) => Failed::Unreachable(cause),
    }
}

/// Checks what the controller handed out: it may come from nobody but the token's cluster.
fn accept(
    key: &NodeKey,
    token: &JoinToken,
    welcome: JoinWelcome,
    controllers: &[SocketAddr],
) -> Result<Identity, String> {
    let issued = welcome.issued();
    let known = |ca| cert::fingerprint(ca) == token.ca;
    if !issued.cas.first().is_some_and(known) {
        return Err("its authority is not the token's".to_owned());
    }
    Identity::assemble(key, issued, controllers.to_vec())
}

fn bad_answer(controller: SocketAddr, cause: &str) -> Refusal {
    let message =
        format!("the controller at {controller} handed out an unusable certificate: {cause}");
    Refusal::new("bad_certificate", message).hint("use the same version of weft on both sides")
}
