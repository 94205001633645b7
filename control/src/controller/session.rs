//! One agent's session: hello, the map and its changes, its requests; and who has one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::Deserialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::board::Seat;
use super::decide::endpoint::Claims;
use super::decide::node;
use super::push::push;
use super::refusals::{BREACHES, NO_HELLO, SLOW, Turned};
use super::requests::{Asker, MOVED};
use super::{Core, audience};
use crate::channel::codec::{self, DecodeError};
use crate::channel::messages::{Hello, Interest, PROTOCOLS, Protocols, Welcome};
use crate::channel::{
    Answer, Ask, FRAME_PATIENCE, FrameError, HELLO_PATIENCE, Refusal, Reply, close, receive_bytes,
    send,
};
use crate::identity::cert::Subject;
use crate::model::{ClusterMap, NodeId, Revision};

/// An agent answers from memory; the asking agent waits for it.
pub(super) const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a refusal may take to its reader before the connection is closed.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(1);
/// Between the entry of a node's session at another controller and the end of the one here.
const DEPARTURE_PATIENCE: Duration = Duration::from_millis(500);
/// A member's hello names its networks.
const MAX_HELLO_BYTES: usize = 1 << 20;

/// What a session is to tell its agent.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    /// The networks that it is to hear of; all when `None`.
    pub(super) interest: Option<Interest>,
    /// It waits until its map is as new as this: of a change that it asked for.
    pub(super) reach: Revision,
}

/// Who is connected.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    connections: Mutex<BTreeMap<NodeId, Connected>>,
    /// How many there were.
    count: AtomicU64,
    /// The same for the other controllers: nodes and numbers of their sessions.
    roster: watch::Sender<BTreeMap<NodeId, u64>>,
    /// What each session is to tell.
    wishes: Mutex<BTreeMap<NodeId, watch::Sender<Wish>>>,
}

/// A session, with its number.
#[derive(Clone, Debug)]
struct Connected {
    connection: Connection,
    number: u64,
}

impl Connected {
    fn is(&self, connection: &Connection) -> bool {
        self.connection.stable_id() == connection.stable_id()
    }
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Connected>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn connected(&self) -> BTreeSet<NodeId> {
        self.lock().keys().cloned().collect()
    }

    /// Follows who is connected.
    pub(super) fn roster(&self) -> watch::Receiver<BTreeMap<NodeId, u64>> {
        self.roster.subscribe()
    }

    /// Ends all sessions; their agents may call again.
    pub(super) fn end_all(&self, why: &str) {
        let all = std::mem::take(&mut *self.lock());
        self.roster.send_replace(BTreeMap::new());
        for connected in all.into_values() {
            let connection = connected.connection;
            connection.close(VarInt::from_u32(close::STOPPING), why.as_bytes());
        }
    }

    /// Ends a session of a node that has a newer one at another controller.
    pub(super) fn end_moved(&self, node: &NodeId, session: u64) {
        let known = self.lock().get(node).cloned();
        if let Some(known) = known.filter(|known| known.number == session) {
            let connection = known.connection;
            self.leave(node, &connection);
            let reason = b"another agent with this node's identity connected to another controller";
            connection.close(VarInt::from_u32(close::REPLACED), reason);
        }
    }

    /// Ends the session of a node that is a member no more.
    pub(super) fn expel(&self, node: &NodeId) {
        let connected = self.lock().remove(node);
        if let Some(Connected { connection, .. }) = connected {
            self.roster.send_modify(|roster| {
                roster.remove(node);
            });
            let reason = node::removed(node).message;
            connection.close(VarInt::from_u32(close::REMOVED), reason.as_bytes());
        }
    }

    /// A newer session of the same node ends the older one: its agent was restarted.
    fn enter(&self, node: &NodeId, connection: &Connection) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let connected = Connected {
            connection: connection.clone(),
            number,
        };
        let older = self.lock().insert(node.clone(), connected);
        self.roster.send_modify(|roster| {
            roster.insert(node.clone(), number);
        });
        if let Some(older) = older {
            let reason = b"another agent with this node's identity connected";
            older
                .connection
                .close(VarInt::from_u32(close::REPLACED), reason);
        }
    }

    /// Ends a node's session because it begins another one: what it asked in that one isn't done any more.
    fn end_older(&self, node: &NodeId) {
        let older = self.lock().remove(node);
        if let Some(older) = older {
            self.roster.send_modify(|roster| {
                roster.remove(node);
            });
            let reason = b"another agent with this node's identity connected";
            older
                .connection
                .close(VarInt::from_u32(close::REPLACED), reason);
        }
    }

    /// Whether that connection is the node's session.
    fn is_current(&self, node: &NodeId, connection: &Connection) -> bool {
        let connections = self.lock();
        let known = connections.get(node);
        known.is_some_and(|known| known.is(connection))
    }

    fn leave(&self, node: &NodeId, connection: &Connection) {
        let mut connections = self.lock();
        if connections
            .get(node)
            .is_some_and(|known| known.is(connection))
        {
            connections.remove(node);
            self.roster.send_modify(|roster| {
                roster.remove(node);
            });
        }
    }

    fn wishes(&self) -> MutexGuard<'_, BTreeMap<NodeId, watch::Sender<Wish>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session's wishes; an older one of the same node hears of no more.
    pub(super) fn listen(
        &self,
        node: &NodeId,
        interest: Option<Interest>,
    ) -> watch::Receiver<Wish> {
        let (wishes, listening) = watch::channel(Wish { interest, reach: 0 });
        self.wishes().insert(node.clone(), wishes);
        listening
    }

    /// Forgets the wishes of a session that ended, but not of one that took its place.
    fn unlisten(&self, node: &NodeId) {
        let mut wishes = self.wishes();
        if wishes
            .get(node)
            .is_some_and(|wish| wish.receiver_count() == 0)
        {
            wishes.remove(node);
        }
    }

    /// An agent wants to hear of these networks. What it wanted before that may arrive later; what it wanted in an older
    /// session is nothing to the newer one, whose wishes may be numbered anew. False if this one isn't its newest.
    pub(super) fn watch(&self, from: Asker<'_>, interest: Interest) -> bool {
        let wishes = self.wishes();
        // Under the lock: a session's own wishes begin after it has taken the older one's place.
        if !(from.is_current)() {
            return false;
        }
        if let Some(wishes) = wishes.get(from.node) {
            wishes.send_if_modified(|wish| {
                let before = wish.interest.as_ref().map(|before| before.wish);
                let newer = before.is_none_or(|before| before <= interest.wish);
                if newer {
                    wish.interest = Some(interest);
                }
                newer
            });
        }
        true
    }

    /// An agent was told of a change that it waits for.
    fn reach(&self, node: &NodeId, revision: Revision) {
        if let Some(wishes) = self.wishes().get(node) {
            wishes.send_if_modified(|wish| {
                let later = revision > wish.reach;
                wish.reach = wish.reach.max(revision);
                later
            });
        }
    }

    /// Asks an agent; `None` when it isn't connected.
    pub(super) async fn ask(&self, node: &NodeId, ask: Ask) -> Option<Result<Answer, String>> {
        let connected = self.lock().get(node).cloned()?;
        let asked = timeout(ASK_PATIENCE, exchange(&connected.connection, ask)).await;
        Some(asked.unwrap_or_else(|_| Err(format!("for {} s", ASK_PATIENCE.as_secs()))))
    }
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
    let (hello, controllers, pushes) = match greet(&core, &connection, &subject).await {
        Ok(greeted) => greeted,
        Err(turned) => {
            let remote = connection.remote_address();
            let what = format!("node {}: {}", subject.name, turned.why);
            core.refusals.note(&turned.reason, remote, what);
            return;
        }
    };
    core.sessions.enter(&subject.node, &connection);
    if is_over(&core, (&subject.node, &connection)) {
        return;
    }
    info!(node = %subject.name, remote = %connection.remote_address(), version = %hello.version, "agent connected");
    let have = match recognise(&core, &hello).await {
        Ok(known) => known.then_some(hello.have),
        Err(refusal) => {
            core.sessions.leave(&subject.node, &connection);
            let reason = refusal.message.as_bytes();
            connection.close(VarInt::from_u32(close::STOPPING), reason);
            return;
        }
    };
    let claims = Claims::of(&hello);
    let interest = hello.interest();
    let wishes = core.sessions.listen(&subject.node, interest);
    let seat = core.ledger.sit(&subject.node);
    let place = (Arc::clone(&seat), &subject.node);
    let view = core.ledger.view(place, have, hello.has);
    let why = tokio::select! {
        ended = push(&core, view, pushes, (wishes, controllers)) => {
            ended.err().map_or_else(|| "the controller is stopping".to_owned(), |error| error.to_string())
        }
        error = take_requests(&core, &connection, (&subject.node, claims)) => error.to_string(),
        why = departure(&core, &subject.node, &seat) => match why {
            Departure::Removed => {
                core.sessions.expel(&subject.node);
                "the node was removed".to_owned()
            }
            Departure::Moved => {
                core.sessions.leave(&subject.node, &connection);
                let reason = b"the node connected to another controller";
                connection.close(VarInt::from_u32(close::STOPPING), reason);
                "it is connected to another controller".to_owned()
            }
        },
    };
    core.sessions.leave(&subject.node, &connection);
    core.sessions.unlisten(&subject.node);
    connection.close(VarInt::from_u32(close::DONE), b"session ended");
    info!(node = %subject.name, reason = %why, "agent disconnected");
}

/// Ends a session that was just entered if something has come in between.
fn is_over(core: &Core, (node, connection): (&NodeId, &Connection)) -> bool {
    if core.ledger.read(|map| !map.nodes.contains_key(node)) {
        // It was removed between looking and entering.
        core.sessions.expel(node);
        return true;
    }
    // The store was lost since the connection was taken: all sessions were ended, and this one is to find another
    // controller, too.
    if core.fellows.is_cut_off() {
        core.sessions.leave(node, connection);
        let reason = b"this controller can't reach its store";
        connection.close(VarInt::from_u32(close::STOPPING), reason);
        return true;
    }
    false
}

/// Whether the agent's map is one of this store's.
async fn recognise(core: &Core, hello: &Hello) -> Result<bool, Refusal> {
    let Hello {
        node,
        have,
        incarnation,
        ..
    } = hello;
    let believe = || {
        core.set_backs
            .believe(node, *have, tokio::time::Instant::now())
    };
    core.ledger.recognise((*have, incarnation), believe).await
}

/// Why a node has no session here any more.
enum Departure {
    Removed,
    Moved,
}

/// Returns when the node is a member no more, whichever controller decided that, and however slowly it reads what it is
/// told; and when the map has had its session at another controller for a while. Where the node really went there, this
/// session was ended before; otherwise it was entered there too late, and has to come here anew.
async fn departure(core: &Core, node: &NodeId, seat: &Seat) -> Departure {
    let has_moved = || core.ledger.read(|map| core.has_moved(map, node));
    while core.ledger.read(|map| map.nodes.contains_key(node)) {
        if has_moved() {
            sleep(DEPARTURE_PATIENCE).await;
            if has_moved() {
                return Departure::Moved;
            }
            continue;
        }
        seat.doubted().await;
    }
    Departure::Removed
}

/// What every version of a hello has.
#[derive(Deserialize)]
struct Versions {
    protocols: Protocols,
    #[serde(default)]
    version: String,
}

/// The first message of a caller, and where it is answered. Who doesn't come to the point within `limit` bytes is sent away.
pub(super) async fn hello_bytes(
    connection: &Connection,
    limit: usize,
) -> Result<(Vec<u8>, SendStream), Turned> {
    let hello = async {
        let opened = connection.accept_bi().await;
        let (to, mut from) = opened.map_err(|error| Turned::new(NO_HELLO, error))?;
        let bytes = receive_bytes(&mut from, limit).await;
        if let Err(FrameError::Decode(error)) = &bytes {
            connection.close(
                VarInt::from_u32(close::PROTOCOL),
                error.to_string().as_bytes(),
            );
        }
        Ok((bytes?, to))
    };
    timeout(HELLO_PATIENCE, hello).await.unwrap_or_else(|_| {
        connection.close(VarInt::from_u32(close::PROTOCOL), b"no hello");
        Err(Turned::new(SLOW, "no hello"))
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

/// Returns the hello, which controllers its node was told of, and where news go.
async fn greet(
    core: &Core,
    connection: &Connection,
    subject: &Subject,
) -> Result<(Hello, Vec<SocketAddr>, SendStream), Turned> {
    let (bytes, mut to) = hello_bytes(connection, MAX_HELLO_BYTES).await?;
    let admitted = match read_hello::<Hello>(&bytes) {
        Ok(hello) => {
            let admitted = tokio::select! {
                admitted = admit(core, subject, &hello) => admitted,
                // It has gone to another controller, perhaps: it mustn't be entered here after that.
                error = connection.closed() => return Err(Turned::new(NO_HELLO, error)),
            };
            admitted.map(|welcome| (hello, welcome))
        }
        Err(refusal) => Err(refusal),
    };
    match admitted {
        Ok((hello, welcome)) => {
            let controllers = welcome.controllers.clone();
            let answer: Result<Welcome, Refusal> = Ok(welcome);
            send(&mut to, &answer).await?;
            Ok((hello, controllers, to))
        }
        Err(refusal) => {
            refuse::<Welcome>(connection, to, &refusal).await;
            Err(refusal.into())
        }
    }
}

/// Whether the node may have a session.
async fn admit(core: &Core, subject: &Subject, hello: &Hello) -> Result<Welcome, Refusal> {
    let cluster = &core.cluster;
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
    audience::check(hello.interest.as_ref())?;
    let revision = enter(core, hello).await?;
    Ok(Welcome {
        protocol: PROTOCOLS.common(hello.protocols).unwrap_or(PROTOCOLS.max),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: core.ledger.incarnation(),
        revision,
        excerpts: true,
        controllers: core.fellows.addresses().borrow().clone(),
    })
}

/// Notes what a member says of itself, and that it has its session here. Returns the revision that its map has to reach.
pub(super) async fn enter(core: &Core, hello: &Hello) -> Result<Revision, Refusal> {
    // Before anything is written: that would raise the revision, and hide that the store was set back. Who is no member isn't
    // asked: what it says is refused below.
    let is_member = core.ledger.read(|map| map.nodes.contains_key(&hello.node));
    let is_known = is_member && recognise(core, hello).await?;
    // Another controller may have told it, or have its session since: an old map would say that it has it here.
    let seems_here = |map: &ClusterMap| {
        let name = core.fellows.name();
        name.is_some_and(|name| node::has_session(map, &hello.node, name))
    };
    if !is_known || core.ledger.read(seems_here) {
        core.ledger.refresh().await?;
    }
    let decide = |map: &ClusterMap| {
        let mut changes = node::update(map, &hello.node, &hello.facts)?;
        if let Some(credentials) = &hello.credentials {
            changes.extend(node::note_credentials(map, &hello.node, credentials)?);
        }
        if let Some(controller) = core.fellows.name() {
            changes.extend(node::enter(map, &hello.node, controller));
        }
        // Before anything that is decided after this, and not for one that is refused.
        core.sessions.end_older(&hello.node);
        Ok((changes, ()))
    };
    let (revision, ()) = core.ledger.decide(decide).await?;
    Ok(revision)
}

/// Takes requests until the connection ends; each is worked on beside the others. None outlives the connection: what its
/// node says in its next session is newer.
async fn take_requests(
    core: &Arc<Core>,
    connection: &Connection,
    (node, claims): (&NodeId, Claims),
) -> quinn::ConnectionError {
    let mut requests = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => accepted,
            Some(_) = requests.join_next() => continue,
        };
        match accepted {
            Ok((to, from)) => {
                let (core, node) = (Arc::clone(core), node.clone());
                let connection = connection.clone();
                requests.spawn(async move {
                    answer(&core, (&node, claims, &connection), (to, from)).await;
                });
            }
            Err(error) => return error,
        }
    }
}

async fn answer(
    core: &Core,
    (node, claims, connection): (&NodeId, Claims, &Connection),
    (mut to, mut from): (SendStream, RecvStream),
) {
    let received = receive_bytes(&mut from, codec::MAX_MESSAGE_BYTES);
    let request = match timeout(FRAME_PATIENCE, received).await {
        Ok(Ok(bytes)) => codec::decode_request(&bytes).map_err(unreadable),
        Ok(Err(FrameError::Decode(error))) => Err(unreadable(error)),
        Ok(Err(FrameError::Ended(_) | FrameError::TooSlow)) | Err(_) => return,
    };
    let reply: Result<Reply, Refusal> = match request {
        Ok(request) => {
            let is_current = || core.sessions.is_current(node, connection);
            let from = Asker {
                node,
                is_current: &is_current,
                claims,
            };
            core.handle(from, request).await
        }
        Err(refusal) => Err(refusal),
    };
    if let Ok(reply) = &reply {
        core.sessions.reach(node, reply.revision);
    }
    if reply.as_ref().is_err_and(|refusal| refusal.code == MOVED) {
        // The session ends; the node asks again where it is.
        return;
    }
    if let Err(refusal) = &reply
        && BREACHES.contains(&refusal.code.as_str())
    {
        let what = format!("node {node}: {}", refusal.message);
        core.refusals
            .note(&refusal.code, connection.remote_address(), what);
    }
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
