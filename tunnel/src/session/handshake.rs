//! How a session is made: QUIC's handshake with both certificates, then one message each way. Either side has its opening
//! key in place before the other one can seal: the first frame finds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, Incoming, VarInt};
use tokio::sync::mpsc::UnboundedSender;
use weft_wire::PeerId;

use super::hello::{CIPHER, Hello, MESSAGE_MAX, Reply, encode};
use super::{CredentialsBox, Event, close, transport};
use crate::esp::{KeyMaterial, OpeningKey, SealingKey, Sender, Spi, export_keys};
use crate::peer::Peers;
use crate::secure::{Opening, SecurePeer, Sessions};

/// QUIC's and TLS's part.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(4);
/// The two messages.
const HELLO_PATIENCE: Duration = Duration::from_secs(3);

/// What handshakes need to know of us.
pub(super) struct Shared {
    pub(super) endpoint: Endpoint,
    pub(super) peers: Peers,
    pub(super) credentials: Arc<CredentialsBox>,
    pub(super) own: String,
    pub(super) incarnation: u64,
    pub(super) events: UnboundedSender<Event>,
}

/// A session that was made: its opening key is in place.
pub(super) struct Made {
    pub(super) peer: PeerId,
    pub(super) secure: Arc<SecurePeer>,
    pub(super) connection: Connection,
    pub(super) ours: bool,
    pub(super) number: u64,
    pub(super) incarnation: u64,
    pub(super) spi: Spi,
    pub(super) sealing: SealingKey,
    /// Where the peer sees us, if it said so.
    pub(super) seen: Option<SocketAddr>,
    /// When the first of the two certificates ends.
    pub(super) until: Instant,
}

/// An opening key that is in place; forgotten again when this goes, unless the session was made.
struct Installed<'a> {
    sessions: &'a Sessions,
    spi: Spi,
    made: bool,
}

impl Installed<'_> {
    /// The session was made: whoever has it closes it.
    fn keep(mut self) -> Spi {
        self.made = true;
        self.spi
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if !self.made {
            self.sessions.close(self.spi);
        }
    }
}

/// A session that we could not open.
pub(super) struct Failure {
    pub(super) peer: PeerId,
    pub(super) secure: Arc<SecurePeer>,
    pub(super) why: String,
}

/// Where to open a session to, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) to: SocketAddr,
    pub(super) number: u64,
}

/// Opens a session and tells what came of it.
pub(super) async fn open(
    shared: Arc<Shared>,
    (peer, secure): (PeerId, Arc<SecurePeer>),
    call: Call,
) {
    let made = try_open(&shared, (peer, &secure), call).await;
    let event = match made {
        Ok(made) => Event::Made(made),
        Err(why) => {
            tracing::debug!(peer = secure.node(), to = %call.to, why, "no encrypted session");
            let why = format!("no session with {}: {why}", call.to);
            Event::Failed(Failure { peer, secure, why })
        }
    };
    // Nobody listens any more only at the end.
    let _ = shared.events.send(event);
}

async fn try_open(
    shared: &Shared,
    (peer, secure): (PeerId, &Arc<SecurePeer>),
    call: Call,
) -> Result<Made, String> {
    let mut config = ClientConfig::new(shared.credentials.0.client(secure.node())?);
    config.transport_config(transport());
    // The name only has to be one: whom to expect the credentials know.
    let connecting = shared
        .endpoint
        .connect_with(config, call.to, "node.weft.internal")
        .map_err(|error| error.to_string())?;
    let connection = tokio::time::timeout(HANDSHAKE_PATIENCE, connecting)
        .await
        .map_err(|_| {
            "no answer; is UDP to that port let through, and does the agent run?".to_owned()
        })?
        .map_err(|error| words(&error))?;
    let proved = shared.credentials.0.peer(&connection)?;
    let (there, until) = (proved.node, from_now(proved.until));
    if there != secure.node() {
        connection.close(VarInt::from_u32(close::STRANGER), b"another node");
        return Err(format!(
            "node {there} is there instead of {}",
            secure.node()
        ));
    }
    let installed = install(shared, (peer, secure), &connection, Sender::Responder)?;
    let (number, spi) = (call.number, installed.spi);
    let told = tokio::time::timeout(HELLO_PATIENCE, tell(shared, &connection, number, spi));
    match told
        .await
        .unwrap_or_else(|_| Err("its answer took too long".to_owned()))
    {
        Ok((reply, theirs)) => {
            let material = keys(&connection, Sender::Initiator)?;
            Ok(Made {
                peer,
                secure: Arc::clone(secure),
                ours: true,
                number,
                incarnation: reply.incarnation,
                spi: installed.keep(),
                sealing: SealingKey::new(theirs, &material),
                seen: Some(reply.seen),
                until,
                connection,
            })
        }
        Err(why) => {
            connection.close(VarInt::from_u32(close::PROTOCOL), b"no answer of use");
            Err(why)
        }
    }
}

async fn tell(
    shared: &Shared,
    connection: &Connection,
    number: u64,
    spi: Spi,
) -> Result<(Reply, Spi), String> {
    let hello = Hello {
        incarnation: shared.incarnation,
        number,
        spi: spi.value(),
        ciphers: vec![CIPHER.to_owned()],
    };
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let (mut send, mut receive) = connection.open_bi().await.map_err(|error| words(&error))?;
    let bytes = encode(&hello);
    send.write_all(&bytes)
        .await
        .map_err(|error| failed(&error))?;
    send.finish().map_err(|error| failed(&error))?;
    let reply = receive.read_to_end(MESSAGE_MAX).await;
    let reply = reply.map_err(|error| match connection.close_reason() {
        Some(reason) => words(&reason),
        None => failed(&error),
    })?;
    Reply::checked(&reply)
}

/// Answers somebody who calls; only a peer with a good certificate and a good hello becomes an event.
pub(super) async fn answer(shared: Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let connection = match tokio::time::timeout(HANDSHAKE_PATIENCE, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%from, why = words(&error), "caller without a session");
            return;
        }
        Err(_) => return,
    };
    let heard = tokio::time::timeout(HELLO_PATIENCE, try_answer(&shared, &connection)).await;
    match heard {
        Ok(Ok(made)) => {
            // Nobody listens any more only at the end.
            let _ = shared.events.send(Event::Made(made));
        }
        Ok(Err((code, why))) => {
            tracing::debug!(%from, why, "caller without a session");
            connection.close(VarInt::from_u32(code), why.as_bytes());
        }
        Err(_) => connection.close(VarInt::from_u32(close::PROTOCOL), b"too slow"),
    }
}

async fn try_answer(shared: &Shared, connection: &Connection) -> Result<Made, (u32, String)> {
    let protocol = |why: String| (close::PROTOCOL, why);
    let stranger = |why: String| (close::STRANGER, why);
    let proved = shared.credentials.0.peer(connection).map_err(stranger)?;
    let (node, until) = (proved.node, from_now(proved.until));
    let (peer, secure) = peer_of(&shared.peers, &node)
        .ok_or_else(|| stranger(format!("node {node} is no peer here (yet)")))?;
    let (mut send, mut receive) = connection
        .accept_bi()
        .await
        .map_err(|error| protocol(words(&error)))?;
    let hello = receive
        .read_to_end(MESSAGE_MAX)
        .await
        .map_err(|error| protocol(error.to_string()))?;
    let (hello, theirs) = Hello::checked(&hello).map_err(protocol)?;
    let installed = install(shared, (peer, &secure), connection, Sender::Initiator);
    let installed = installed.map_err(protocol)?;
    let spi = installed.spi;
    let finished = async {
        let material = keys(connection, Sender::Responder)?;
        let reply = Reply {
            incarnation: shared.incarnation,
            spi: spi.value(),
            cipher: CIPHER.to_owned(),
            seen: connection.remote_address(),
        };
        let sent = send.write_all(&encode(&reply)).await;
        sent.map_err(|error| error.to_string())?;
        send.finish().map_err(|error| error.to_string())?;
        Ok(material)
    };
    let material = finished.await.map_err(protocol)?;
    Ok(Made {
        peer,
        secure,
        connection: connection.clone(),
        ours: false,
        number: hello.number,
        incarnation: hello.incarnation,
        spi: installed.keep(),
        sealing: SealingKey::new(theirs, &material),
        seen: None,
        until,
    })
}

fn peer_of(peers: &Peers, node: &str) -> Option<(PeerId, Arc<SecurePeer>)> {
    let table = peers.snapshot();
    table.peers().iter().find_map(|peer| {
        let secure = peer
            .secure
            .as_ref()
            .filter(|secure| secure.node() == node)?;
        Some((peer.id, Arc::clone(secure)))
    })
}

/// The same time by the clock that nobody sets; a century from now at most, which any clock can add.
fn from_now(until: SystemTime) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 366 * 24 * 3600);
    let left = until.duration_since(SystemTime::now()).unwrap_or_default();
    Instant::now() + left.min(CENTURY)
}

/// Puts the key in place that opens what `sender` seals.
fn install<'a>(
    shared: &'a Shared,
    (peer, secure): (PeerId, &Arc<SecurePeer>),
    connection: &Connection,
    sender: Sender,
) -> Result<Installed<'a>, String> {
    let material = keys(connection, sender)?;
    let sessions = shared.peers.sessions();
    let spi = sessions.open_with(|spi| {
        let key = OpeningKey::new(spi, &material);
        Opening::new(key, peer, Arc::clone(secure))
    });
    Ok(Installed {
        sessions,
        spi,
        made: false,
    })
}

fn keys(connection: &Connection, sender: Sender) -> Result<KeyMaterial, String> {
    // A new key is a new session: there is one generation in each.
    export_keys(sender, 0, |out, label, context| {
        connection
            .export_keying_material(out, label, context)
            .map_err(|_| "the session's keys can't be exported".to_owned())
    })
}

/// Why a connection ended, for people.
pub(super) fn words(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let said = String::from_utf8_lossy(&close.reason);
            format!("the other side closed it: {said}")
        }
        ConnectionError::TimedOut => "nothing is heard from the other side any more".to_owned(),
        ConnectionError::Reset => "the other side has started anew".to_owned(),
        ConnectionError::LocallyClosed => "closed here".to_owned(),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::CidsExhausted => error.to_string(),
    }
}
