//! One agent's session: hello, the map and its changes, its requests; and who has one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::Core;
use super::decide::node;
use super::ledger::News;
use crate::channel::codec::{self, DecodeError};
use crate::channel::messages::{Hello, PROTOCOLS, Protocols, Push, Welcome};
use crate::channel::{
    Answer, Ask, FRAME_PATIENCE, FrameError, HELLO_PATIENCE, Refusal, Reply, close, receive_bytes,
    send,
};
use crate::identity::cert::Subject;
use crate::model::{ClusterMap, NodeId, Object, Revision, Versioned};

/// An agent answers from memory; the asking agent waits for it.
pub(super) const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a refusal may take to its reader before the connection is closed.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// Objects or changes in one message.
const BATCH: usize = 256;
/// What they may take together; one alone may be longer, as long as the request was that brought it.
const BATCH_BYTES: usize = codec::MAX_MESSAGE_BYTES / 4;

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    connections: Mutex<BTreeMap<NodeId, Connection>>,
    /// The same for the other controllers: nodes and numbers of their sessions.
    roster: watch::Sender<BTreeMap<NodeId, u64>>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connection>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) -> BTreeSet<NodeId> {
        self.lock().keys().cloned().collect()
    }

    pub(super) fn is_connected(&self, node: &NodeId) -> bool {
        self.lock().contains_key(node)
    }

    /// Follows who is connected.
    pub(super) fn roster(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        self.roster.subscribe()
    }

    /// Ends all sessions; their agents may call again.
    pub(super) fn end_all(&self, why: &str) {
        let all = std::mem::take(&mut *self.lock());
        self.roster.send_replace(BTreeMap::new());
        for connection in all.into_values() {
            connection.close(VarInt::from_u32(close::STOPPING), why.as_bytes());
        }
    }

    /// Ends a session of a node that has a newer one at another controller.
    pub(super) fn end_moved(&self, node: &NodeId, session: u64) {
        let known = self.lock().get(node).cloned();
        if let Some(connection) = known.filter(|known| number(known) == session) {
            self.leave(node, &connection);
            let reason = b"another agent with this node's identity connected to another controller";
            connection.close(VarInt::from_u32(close::REPLACED), reason);
        }
    }

    /// Ends the session of a node that is a member no more.
    pub(super) fn expel(&self, node: &NodeId) {
        let connection = self.lock().remove(node);
        if let Some(connection) = connection {
            self.roster.send_modify(|roster| {
                roster.remove(node);
            });
            let reason = node::removed(node).message;
            connection.close(VarInt::from_u32(close::REMOVED), reason.as_bytes());
        }
    }

    /// A newer session of the same node ends the older one: its agent was restarted.
    fn enter(&self, node: &NodeId, connection: &Connection) {
        let older = self.lock().insert(node.clone(), connection.clone());
        self.roster.send_modify(|roster| {
            roster.insert(node.clone(), number(connection));
        });
        if let Some(older) = older {
            let reason = b"another agent with this node's identity connected";
            older.close(VarInt::from_u32(close::REPLACED), reason);
        }
    }

    fn leave(&self, node: &NodeId, connection: &Connection) {
        let mut connections = self.lock();
        if connections
            .get(node)
            .is_some_and(|known| known.stable_id() == connection.stable_id())
        {
            connections.remove(node);
            self.roster.send_modify(|roster| {
                roster.remove(node);
            });
        }
    }

    /// Asks an agent; `None` when it isn't connected.
    pub(super) async fn ask(&self, node: &NodeId, ask: Ask) -> Option<Result<Answer, String>> {
        let connection = self.lock().get(node).cloned()?;
        let asked = timeout(ASK_PATIENCE, exchange(&connection, ask)).await;
        Some(asked.unwrap_or_else(|_| Err(format!("for {} s", ASK_PATIENCE.as_secs()))))
    }
}

/// Tells sessions of one node apart.
fn number(connection: &Connection) -> u64 {
    connection.stable_id() as u64
}

async fn exchange(connection: &Connection, ask: Ask) -> Result<Answer, String> {
    let (mut to, mut from) = connection
        .open_bi()
        .await
        .map_err(|error| error.to_string())?;
    send(&mut to, &ask)
        .await
        .map_err(|error| error.to_string())?;
    let _ = to.finish();
    let bytes = receive_bytes(&mut from, codec::MAX_STRANGER_BYTES).await;
    let bytes = bytes.map_err(|error| error.to_string())?;
    let answer: Result<Answer, Refusal> =
        codec::decode(&bytes).map_err(|error| error.to_string())?;
    answer.map_err(|refusal| refusal.message)
}

/// Serves a member until it goes.
pub(super) async fn serve(core: Arc<Core>, connection: Connection, subject: Subject) {
    let (hello, pushes) = match greet(&core, &connection, &subject).await {
        Ok(greeted) => greeted,
        Err(why) => {
            warn!(node = %subject.name, remote = %connection.remote_address(), "session refused: {why:?}");
            return;
        }
    };
    core.sessions.enter(&subject.node, &connection);
    // A removal that came between looking and entering.
    if core
        .ledger
        .read(|map| !map.nodes.contains_key(&subject.node))
    {
        core.sessions.expel(&subject.node);
        return;
    }
    info!(node = %subject.name, remote = %connection.remote_address(), version = %hello.version, "agent connected");
    let have = match core.ledger.recognise(hello.have, &hello.incarnation).await {
        Ok(known) => known.then_some(hello.have),
        Err(refusal) => {
            core.sessions.leave(&subject.node, &connection);
            connection.close(
                VarInt::from_u32(close::STOPPING),
                refusal.message.as_bytes(),
            );
            return;
        }
    };
    let incarnation = core.ledger.incarnation();
    let why = tokio::select! {
        ended = push(&core, pushes, (have, &incarnation)) => {
            ended.err().map_or_else(|| "the controller is stopping".to_owned(), |error| error.to_string())
        }
        error = take_requests(&core, &connection, &subject.node) => error.to_string(),
        () = removal(&core, &subject.node) => {
            core.sessions.expel(&subject.node);
            "the node was removed".to_owned()
        }
    };
    core.sessions.leave(&subject.node, &connection);
    connection.close(VarInt::from_u32(close::DONE), b"session ended");
    info!(node = %subject.name, reason = %why, "agent disconnected");
}

/// Returns when the node is a member no more, whichever controller decided that, and however slowly it reads what it is
/// told.
async fn removal(core: &Core, node: &NodeId) {
    let mut revisions = core.ledger.revisions();
    loop {
        revisions.borrow_and_update();
        if !core.ledger.read(|map| map.nodes.contains_key(node)) {
            return;
        }
        if revisions.changed().await.is_err() {
            // The controller is stopping: others tell.
            return std::future::pending().await;
        }
    }
}

/// What every version of a hello has.
#[derive(Deserialize)]
struct Versions {
    protocols: Protocols,
    #[serde(default)]
    version: String,
}

/// The first message of a caller, and where it is answered. Who doesn't come to the point is sent away.
pub(super) async fn hello_bytes(connection: &Connection) -> Result<(Vec<u8>, SendStream), String> {
    let hello = async {
        let opened = connection.accept_bi().await;
        let (to, mut from) = opened.map_err(|error| error.to_string())?;
        let bytes = receive_bytes(&mut from, codec::MAX_STRANGER_BYTES).await;
        Ok((bytes.map_err(|error| error.to_string())?, to))
    };
    timeout(HELLO_PATIENCE, hello).await.unwrap_or_else(|_| {
        connection.close(VarInt::from_u32(close::PROTOCOL), b"no hello");
        Err("no hello".to_owned())
    })
}

/// Checks the versions of a hello and reads it. Also for joins.
pub(super) fn read_hello<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bad = |error: DecodeError| {
        Refusal::new(
            "bad_request",
            format!("the controller can't read the hello: {error}"),
        )
        .hint("use the same version of weft on both sides")
    };
    let theirs: Versions = codec::decode(bytes).map_err(bad)?;
    if PROTOCOLS.common(theirs.protocols).is_none() {
        let ours = env!("CARGO_PKG_VERSION");
        let (older, newer) = if theirs.protocols.max < PROTOCOLS.min {
            ("agent", "controller")
        } else {
            ("controller", "agent")
        };
        return Err(Refusal::new(
            "protocol_mismatch",
            format!(
                "the agent (weft {}) speaks control protocol {}, the controller (weft {ours}) speaks {PROTOCOLS}",
                theirs.version, theirs.protocols
            ),
        )
        .hint(format!("update the {older}: it is older than the {newer}")));
    }
    codec::decode(bytes).map_err(bad)
}

/// Tells why not, and gives the other side time to hear it.
pub(super) async fn refuse<T: serde::Serialize>(
    connection: &Connection,
    mut to: SendStream,
    refusal: &Refusal,
) {
    let answer: Result<&T, &Refusal> = Err(refusal);
    if send(&mut to, &answer).await.is_ok() {
        let _ = to.finish();
        let _ = timeout(REFUSAL_PATIENCE, to.stopped()).await;
        // The reader closes when it has read.
        let _ = timeout(REFUSAL_PATIENCE, connection.closed()).await;
    }
    connection.close(VarInt::from_u32(close::DONE), b"refused");
}

async fn greet(
    core: &Core,
    connection: &Connection,
    subject: &Subject,
) -> Result<(Hello, SendStream), String> {
    let (bytes, mut to) = hello_bytes(connection).await?;
    let admitted = match read_hello::<Hello>(&bytes) {
        Ok(hello) => admit(core, subject, &hello)
            .await
            .map(|welcome| (hello, welcome)),
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((hello, welcome)) => {
            let answer: Result<Welcome, Refusal> = Ok(welcome);
            send(&mut to, &answer)
                .await
                .map_err(|error| error.to_string())?;
            Ok((hello, to))
        }
        Err(refusal) => {
            refuse::<Welcome>(connection, to, &refusal).await;
            Err(refusal.message)
        }
    }
}

/// Whether the node may have a session.
async fn admit(core: &Core, subject: &Subject, hello: &Hello) -> Result<Welcome, Refusal> {
    let cluster = core.authority.cluster();
    if subject.cluster != *cluster || hello.cluster != *cluster {
        let message = format!(
            "this controller keeps cluster {cluster}, the node belongs to {}",
            hello.cluster
        );
        return Err(Refusal::new("cluster_mismatch", message)
            .hint("give --join the address of the node's own controller, or join this cluster with an empty --state and a token of it"));
    }
    if subject.node != hello.node {
        let message = format!(
            "node {} called with the certificate of node {}",
            hello.node, subject.node
        );
        return Err(Refusal::new("identity_mismatch", message)
            .hint("restore the state directory's identity from one backup"));
    }
    if hello.have > core.ledger.revision() || hello.incarnation != core.ledger.incarnation() {
        // Another controller may have told it.
        core.ledger.refresh().await?;
    }
    let decide = |map: &ClusterMap| Ok((node::update(map, &subject.node, &hello.facts)?, ()));
    let (revision, ()) = core.ledger.decide(decide).await?;
    Ok(Welcome {
        protocol: PROTOCOLS.common(hello.protocols).unwrap_or(PROTOCOLS.max),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: core.ledger.incarnation(),
        revision,
        controllers: core.fellows.addresses().borrow().clone(),
    })
}

/// Brings the agent's map up to date, for ever.
async fn push(
    core: &Core,
    mut to: SendStream,
    (mut have, incarnation): (Option<Revision>, &str),
) -> Result<(), FrameError> {
    let mut revisions = core.ledger.revisions();
    let mut addresses = core.fellows.addresses();
    addresses.mark_unchanged();
    loop {
        revisions.borrow_and_update();
        if core.ledger.incarnation() != incarnation {
            // The store was set back: what this agent has is worth nothing. It learns that when it calls again.
            return Ok(());
        }
        have = Some(match core.ledger.since(have) {
            News::Changes(changes, newest) => push_changes(&mut to, changes, newest).await?,
            News::Everything(map) => push_everything(&mut to, map).await?,
        });
        let next = tokio::select! {
            next = revisions.changed() => next,
            next = addresses.changed() => {
                let controllers = Some(addresses.borrow_and_update().clone());
                let (changes, up_to) = (Vec::new(), have.unwrap_or_default());
                send(&mut to, &Push::Changes { changes, up_to, controllers }).await?;
                next
            }
        };
        if next.is_err() {
            return Ok(());
        }
    }
}

async fn push_changes(
    to: &mut SendStream,
    mut changes: Vec<(Revision, crate::model::Change)>,
    newest: Revision,
) -> Result<Revision, FrameError> {
    loop {
        let first = batch_len(&changes);
        if first == changes.len() {
            break;
        }
        let rest = changes.split_off(first);
        let up_to = changes.last().map_or(newest, |(revision, _)| *revision);
        let controllers = None;
        send(
            to,
            &Push::Changes {
                changes,
                up_to,
                controllers,
            },
        )
        .await?;
        changes = rest;
    }
    send(
        to,
        &Push::Changes {
            changes,
            up_to: newest,
            controllers: None,
        },
    )
    .await?;
    Ok(newest)
}

/// How many of the first fit into one message: at least one.
fn batch_len<T: serde::Serialize>(items: &[T]) -> usize {
    let mut bytes = 0;
    let fitting = items.iter().take(BATCH).take_while(|item| {
        bytes += codec::encoded_len(item);
        bytes <= BATCH_BYTES
    });
    fitting.count().max(1).min(items.len())
}

async fn push_everything(to: &mut SendStream, map: ClusterMap) -> Result<Revision, FrameError> {
    fn object<T>(of: Versioned<T>, kind: impl Fn(T) -> Object) -> Versioned<Object> {
        Versioned {
            revision: of.revision,
            object: kind(of.object),
        }
    }
    send(to, &Push::SnapshotStart).await?;
    let nodes = map.nodes.into_values().map(|of| object(of, Object::Node));
    let networks = map
        .networks
        .into_values()
        .map(|of| object(of, Object::Network));
    let blocks = map.blocks.into_values().map(|of| object(of, Object::Block));
    let endpoints = map
        .endpoints
        .into_values()
        .map(|of| object(of, Object::Endpoint));
    let mut objects = nodes
        .chain(networks)
        .chain(blocks)
        .chain(endpoints)
        .peekable();
    while objects.peek().is_some() {
        let mut batch: Vec<Versioned<Object>> = objects.by_ref().take(BATCH).collect();
        while !batch.is_empty() {
            let rest = batch.split_off(batch_len(&batch));
            send(to, &Push::Objects(batch)).await?;
            batch = rest;
        }
    }
    send(
        to,
        &Push::SnapshotEnd {
            revision: map.revision,
        },
    )
    .await?;
    Ok(map.revision)
}

/// Takes requests until the connection ends; each is worked on beside the others.
async fn take_requests(
    core: &Arc<Core>,
    connection: &Connection,
    node: &NodeId,
) -> quinn::ConnectionError {
    loop {
        match connection.accept_bi().await {
            Ok((to, from)) => {
                let (core, node) = (Arc::clone(core), node.clone());
                tokio::spawn(async move { answer(&core, &node, (to, from)).await });
            }
            Err(error) => return error,
        }
    }
}

async fn answer(core: &Core, node: &NodeId, (mut to, mut from): (SendStream, RecvStream)) {
    let received = receive_bytes(&mut from, codec::MAX_MESSAGE_BYTES);
    let request = match timeout(FRAME_PATIENCE, received).await {
        Ok(Ok(bytes)) => codec::decode_request(&bytes).map_err(unreadable),
        Ok(Err(FrameError::Decode(error))) => Err(unreadable(error)),
        Ok(Err(FrameError::Ended(_) | FrameError::TooSlow)) | Err(_) => return,
    };
    let reply: Result<Reply, Refusal> = match request {
        Ok(request) => core.handle(node, request).await,
        Err(refusal) => Err(refusal),
    };
    if let Err(error) = send(&mut to, &reply).await {
        debug!(%node, %error, "a reply did not reach its agent");
    }
    let _ = to.finish();
}

fn unreadable(error: DecodeError) -> Refusal {
    let same = "use the same version of weft on both sides";
    match error {
        DecodeError::UnknownKind(kind) => Refusal::new(
            "unsupported",
            format!(
                "this controller (weft {}) does not know request {kind}",
                env!("CARGO_PKG_VERSION")
            ),
        )
        .hint("update the controller: the agent is newer"),
        DecodeError::Malformed(_) | DecodeError::TooLong { .. } | DecodeError::CutOff { .. } => {
            Refusal::new(
                "bad_request",
                format!("the controller can't read the request: {error}"),
            )
            .hint(same)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_takes_what_fits_and_at_least_one() {
        let lengths = |items: &[String]| {
            let (mut rest, mut lengths) = (items, Vec::new());
            while !rest.is_empty() {
                let first = batch_len(rest);
                codec::encode(&rest[..first].to_vec()).unwrap();
                lengths.push(first);
                rest = &rest[first..];
            }
            lengths
        };
        assert_eq!(batch_len::<String>(&[]), 0);
        assert_eq!(lengths(&vec![String::new(); BATCH + 1]), [BATCH, 1]);
        // Together they are longer than any message may be.
        let long = "x".repeat(codec::MAX_MESSAGE_BYTES / 2 + 1);
        let items = ["a".to_owned(), long.clone(), long, "b".to_owned()];
        assert_eq!(lengths(&items), [1, 1, 1, 1]);
    }
}
