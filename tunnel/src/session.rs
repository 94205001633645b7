//! Sessions with the peers of encrypted networks: QUIC (RFC 9000) does the handshake, mutual TLS 1.3 and the check of who
//! is there; the keys of the frames come from its exporter (RFC 8446 section 7.5). Why so: `docs/decisions/0009-esp-beside-quic.md`.
//!
//! A session is made when a frame wants it, or both sides have ports on an encrypted network, and each new key is a new
//! session: its secrets are of a handshake of their own, and who may no longer have a session has no new key either. The
//! side that opens says a number, higher than that of any session the two had; of several sessions both sides use the
//! one with the highest number, and of two with the same number (both opened at once) that which the lower node id
//! opened. The others go a little later, when nothing under their keys is on its way any more.
//!
//! | file | what |
//! |---|---|
//! | `hello` | what the two sides say to each other: two messages |
//! | `handshake` | a session is made, from either side |
//! | `line` | what is decided about one peer: pure, time passed in |
//! | `socket` | datagrams in and out |

mod handshake;
mod hello;
mod line;
mod socket;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quinn::{
    Connection, Endpoint, EndpointConfig, Incoming, ServerConfig, TransportConfig, VarInt,
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use weft_wire::{Mtu, PeerId};

use self::handshake::{Failure, Made, Shared};
pub use self::hello::CIPHER;
pub(crate) use self::hello::fuzz_hello;
use self::line::{Ends, Line, Next, Session};
use self::socket::SessionSocket;
use crate::drop::TunnelDrop;
use crate::esp::Spi;
use crate::path::{EspEnd, SealedTrains};
use crate::peer::{Lane, PeerTable, Peers};
use crate::secure::{SecurePeer, Sessions};

/// How often time is looked at.
const TICK: Duration = Duration::from_millis(250);
/// A side that was silent for this long is gone; it is asked for signs of life a few times in it, which also keeps the
/// way through NATs open.
const IDLE_MS: u32 = 12_000;
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// Until the first answer: hosts of a cluster are near each other.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Handshakes of callers that haven't shown who they are. From half of it on they must show that they are where they say.
const STRANGERS_MAX: usize = 256;
/// What a caller may have in memory before it has shown who it is.
const WINDOW_BYTES: u32 = 16 << 10;

/// How long the key of a session that nobody used still opens what the other side sealed before it heard of the end; it may
/// hear of it only when it asks for a sign of life.
const LINGER: Duration = Duration::from_secs(10);

/// Codes with which a session is closed.
mod close {
    /// Another session has taken its place.
    pub(super) const REPLACED: u32 = 0;
    /// Nobody has used it for long.
    pub(super) const IDLE: u32 = 1;
    /// The other side is no peer.
    pub(super) const STRANGER: u32 = 2;
    /// The other side said what it mustn't.
    pub(super) const PROTOCOL: u32 = 3;
    /// The side is stopping.
    pub(super) const STOPPING: u32 = 4;
}

/// What proves who we are, and tells who the others are. Asked for every session, so certificates may be renewed.
pub trait Credentials: Send + Sync + 'static {
    /// Our node id.
    fn node(&self) -> String;

    /// TLS for a session that we open to a node; it must take nobody else.
    ///
    /// # Errors
    /// A sentence: our certificates can't be used.
    fn client(&self, node: &str) -> Result<Arc<dyn quinn::crypto::ClientConfig>, String>;

    /// TLS for sessions that others open; it must take nobody without a certificate of the cluster.
    ///
    /// # Errors
    /// A sentence: our certificates can't be used.
    fn server(&self) -> Result<Arc<dyn quinn::crypto::ServerConfig>, String>;

    /// The node id that the other side's certificate proves.
    ///
    /// # Errors
    /// A sentence: it is no node of our cluster.
    fn peer(&self, connection: &Connection) -> Result<String, String>;

    /// What stateless resets are made with: the same after a restart, so that peers know at once (RFC 9000 section 10.3).
    fn reset_key(&self) -> Arc<dyn quinn::crypto::HmacKey>;
}

/// How sessions are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Age at which a key is replaced.
    pub rekey_after: Duration,
    /// A session that nobody uses for so long is closed, but behind NAT.
    pub idle_after: Duration,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            rekey_after: Duration::from_secs(3600),
            idle_after: Duration::from_secs(600),
        }
    }
}

/// A session as people see it.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionView {
    /// There is a session.
    pub up: bool,
    /// Node id of the peer.
    pub node: String,
    /// Where the peer's datagrams come from, and ours go to.
    pub remote: Option<SocketAddr>,
    /// We opened it.
    pub ours: bool,
    /// Since the key was made.
    pub key_age: Option<Duration>,
    /// Since the last handshake with the peer was finished.
    pub handshake_age: Option<Duration>,
    /// Packets sealed under the key.
    pub sealed: u64,
    /// Round trip, smoothed.
    pub rtt: Option<Duration>,
    /// Of the session's own packets: sent and lost.
    pub packets: Option<(u64, u64)>,
    /// Path MTU as measured, bytes of an outer packet.
    pub path_mtu: Option<Mtu>,
    /// Why there is none, or what went wrong last.
    pub trouble: Option<String>,
}

/// Keeps sessions as long as it lives: the handle.
#[derive(Debug)]
pub struct SessionKeeper {
    lines: Arc<Mutex<Lines>>,
    peers: Peers,
    endpoint: Endpoint,
    credentials: Arc<CredentialsBox>,
    _task: AbortOnDrop,
}

type Lines = HashMap<PeerId, Line>;

/// For [`std::fmt::Debug`] of what holds it.
struct CredentialsBox(Box<dyn Credentials>);

impl std::fmt::Debug for CredentialsBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials")
    }
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl SessionKeeper {
    /// Takes sessions from peers and makes sessions with them from now on. To be called within a tokio runtime.
    ///
    /// # Errors
    /// A sentence: the certificates can't be used, or the socket can't.
    pub fn start(
        end: EspEnd,
        credentials: Box<dyn Credentials>,
        settings: SessionSettings,
    ) -> Result<Self, String> {
        let credentials = Arc::new(CredentialsBox(credentials));
        let mut config = EndpointConfig::new(credentials.0.reset_key());
        // The bit tells QUIC and ESP apart (see `esp::demux`).
        config.grease_quic_bit(false);
        let runtime = quinn::default_runtime().ok_or("no tokio runtime is running")?;
        let server = server_config(&credentials)?;
        let unusable = |error| format!("the socket for sessions can't be used: {error}");
        let socket = runtime.wrap_udp_socket(end.socket).map_err(unusable)?;
        let socket = SessionSocket::new(socket, end.peers.sessions().strays());
        let endpoint =
            Endpoint::new_with_abstract_socket(config, Some(server), Arc::new(socket), runtime)
                .map_err(unusable)?;
        let lines = Arc::new(Mutex::new(Lines::new()));
        let (events, heard) = unbounded_channel();
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            peers: end.peers.clone(),
            credentials: Arc::clone(&credentials),
            own: credentials.0.node(),
            incarnation: random_number(),
            events,
        });
        let keeper = Keeper {
            shared,
            settings,
            local: end.local,
            lines: Arc::clone(&lines),
            trains: end.trains,
            lingering: Vec::new(),
            heard,
            tasks: JoinSet::new(),
            strangers: JoinSet::new(),
        };
        let task = tokio::spawn(keeper.run());
        Ok(Self {
            lines,
            peers: end.peers,
            endpoint,
            credentials,
            _task: AbortOnDrop(task.abort_handle()),
        })
    }

    /// Our certificate is another one: sessions that begin from now on show it.
    ///
    /// # Errors
    /// A sentence: it can't be used; the one before stays in force.
    pub fn credentials_changed(&self) -> Result<(), String> {
        let config = server_config(&self.credentials)?;
        self.endpoint.set_server_config(Some(config));
        Ok(())
    }

    /// How it stands with a peer; `None` if there is no such peer, or it takes part in no encrypted network.
    pub fn view(&self, peer: PeerId) -> Option<SessionView> {
        let table = self.peers.snapshot();
        let secure = table.by_id(peer)?.secure.as_ref()?;
        let lines = locked(&self.lines);
        Some(view(secure, lines.get(&peer), Instant::now()))
    }

    /// Ends all sessions, so that peers needn't find out by themselves.
    pub async fn stop(&self) {
        self.endpoint
            .close(VarInt::from_u32(close::STOPPING), b"the agent stops");
        let _ = tokio::time::timeout(TICK, self.endpoint.wait_idle()).await;
    }
}

fn view(secure: &SecurePeer, line: Option<&Line>, now: Instant) -> SessionView {
    let session = line.and_then(Line::best);
    let age = |since: Instant| now.saturating_duration_since(since);
    let sealing = secure.sealing();
    let stats = session.map(|session| session.connection.stats().path);
    SessionView {
        up: session.is_some(),
        node: secure.node().to_owned(),
        remote: sealing.as_ref().map(|sealing| sealing.remote),
        ours: session.is_some_and(|session| session.ours),
        key_age: session.map(|session| age(session.since)),
        handshake_age: line.and_then(|line| line.handshake).map(age),
        sealed: session.map_or(0, |session| session.sealing.packets()),
        rtt: stats.map(|stats| stats.rtt),
        packets: stats.map(|stats| (stats.sent_packets, stats.lost_packets)),
        path_mtu: secure.path.settled(),
        trouble: line.and_then(|line| line.trouble.clone()),
    }
}

fn locked(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

fn random_number() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random numbers never end");
    u64::from_ne_bytes(bytes)
}

/// QUIC for sessions: one stream, once, and signs of life.
fn transport() -> Arc<TransportConfig> {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(WINDOW_BYTES))
        .datagram_receive_buffer_size(None)
        // Frames don't travel in it; what they need is measured with sealed probes.
        .mtu_discovery_config(None)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_MS).into()))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT);
    Arc::new(config)
}

fn server_config(credentials: &CredentialsBox) -> Result<ServerConfig, String> {
    let mut config = ServerConfig::with_crypto(credentials.0.server()?);
    config
        .transport_config(transport())
        .max_incoming(STRANGERS_MAX);
    Ok(config)
}

/// What happened.
enum Event {
    /// A session is there.
    Made(Made),
    /// We could not open one.
    Failed(Failure),
    /// A session has ended.
    Ended {
        peer: PeerId,
        spi: Spi,
        why: String,
        /// The other side closed it because nobody used it.
        idle: bool,
    },
}

struct Keeper {
    shared: Arc<Shared>,
    settings: SessionSettings,
    /// As it is advertised.
    local: SocketAddr,
    lines: Arc<Mutex<Lines>>,
    trains: SealedTrains,
    /// Keys of sessions that ended because nobody used them, and until when they open what comes.
    lingering: Vec<(Instant, Spi)>,
    heard: UnboundedReceiver<Event>,
    /// Handshakes that we began, and watches over sessions.
    tasks: JoinSet<()>,
    /// Handshakes that others began.
    strangers: JoinSet<()>,
}

impl Keeper {
    async fn run(mut self) {
        let wake = self.shared.peers.sessions().wake();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                incoming = self.shared.endpoint.accept() => match incoming {
                    Some(incoming) => self.answer(incoming),
                    None => return,
                },
                Some(event) = self.heard.recv() => self.hear(event),
                () = wake.notified() => self.look(),
                _ = tick.tick() => self.look(),
            }
            while self.tasks.try_join_next().is_some() {}
            while self.strangers.try_join_next().is_some() {}
        }
    }

    /// Somebody calls.
    fn answer(&mut self, incoming: Incoming) {
        let busy = self.strangers.len();
        if busy >= STRANGERS_MAX {
            return incoming.ignore();
        }
        if busy >= STRANGERS_MAX / 2 && !incoming.remote_address_validated() {
            // Can't fail: it isn't validated.
            let _ = incoming.retry();
            return;
        }
        let shared = Arc::clone(&self.shared);
        self.strangers
            .spawn(async move { handshake::answer(shared, incoming).await });
    }

    fn hear(&mut self, event: Event) {
        let now = Instant::now();
        let table = self.shared.peers.snapshot();
        let lines = Arc::clone(&self.lines);
        let mut lines = locked(&lines);
        match event {
            Event::Made(made) => self.take(made, &table, &mut lines, now),
            Event::Failed(failure) => {
                if let Some(line) = lines.get_mut(&failure.peer)
                    && Arc::ptr_eq(&line.secure, &failure.secure)
                {
                    line.failed(failure.why, now);
                }
            }
            Event::Ended {
                peer,
                spi,
                why,
                idle,
            } => {
                if idle {
                    self.lingering.push((now + LINGER, spi));
                } else if !self.lingering.iter().any(|(_, of)| *of == spi) {
                    self.shared.peers.sessions().close(spi);
                }
                if let Some(line) = lines.get_mut(&peer) {
                    line.ended(spi, why, idle);
                    settle(&mut self.trains, &table, peer, line);
                }
            }
        }
        drop(lines);
        self.look();
    }

    /// A session was made, by us or by the peer.
    fn take(&mut self, made: Made, table: &PeerTable, lines: &mut Lines, now: Instant) {
        let sessions = self.shared.peers.sessions();
        let id = made.peer;
        let is_peer = table
            .by_id(id)
            .and_then(|peer| peer.secure.as_ref())
            .is_some_and(|secure| Arc::ptr_eq(secure, &made.secure));
        if !is_peer {
            sessions.close(made.spi);
            made.connection
                .close(VarInt::from_u32(close::STRANGER), b"no peer any more");
            return;
        }
        let line = line_of(lines, id, &made.secure, now);
        let spi = made.spi;
        let watched = made.connection.clone();
        let session = Session::new(made, &self.shared.own, now);
        tracing::info!(
            peer = line.secure.node(),
            remote = %watched.remote_address(),
            ours = session.ours,
            number = session.number,
            "encrypted session made"
        );
        for dead in line.add(session, now) {
            sessions.close(dead.spi);
            dead.connection
                .close(VarInt::from_u32(close::REPLACED), b"of an earlier start");
        }
        settle(&mut self.trains, table, id, line);
        let events = self.shared.events.clone();
        self.tasks.spawn(async move {
            let reason = watched.closed().await;
            let idle = matches!(&reason, quinn::ConnectionError::ApplicationClosed(close)
                if close.error_code == VarInt::from_u32(close::IDLE));
            let why = handshake::words(&reason);
            let peer = id;
            // Nobody listens any more only at the end.
            let _ = events.send(Event::Ended {
                peer,
                spi,
                why,
                idle,
            });
        });
    }

    /// Looks at every peer: who left, who wants a session, whose is too old.
    fn look(&mut self) {
        let now = Instant::now();
        let table = self.shared.peers.snapshot();
        let lines = Arc::clone(&self.lines);
        let mut lines = locked(&lines);
        let sessions = self.shared.peers.sessions();
        drop_strangers(sessions, &table, &mut lines);
        for (_, spi) in self.lingering.extract_if(.., |(until, _)| *until <= now) {
            sessions.close(spi);
        }
        for peer in table.peers() {
            let Some(secure) = &peer.secure else { continue };
            let line = line_of(&mut lines, peer.id, secure, now);
            let expired = secure.expire(now);
            if expired > 0 {
                let lane = Lane::of_worker(0);
                peer.counters.dropped(lane, TunnelDrop::NoSession, expired);
            }
            for session in line.retired(now) {
                sessions.close(session.spi);
                session
                    .connection
                    .close(VarInt::from_u32(close::REPLACED), b"replaced");
            }
            let ends = Ends {
                ours: self.local,
                theirs: SocketAddr::new(peer.address, secure.port()),
            };
            match line.next(self.settings, ends, now) {
                Next::Nothing => {}
                Next::Open => {
                    let call = line.call(ends.theirs);
                    let (id, secure) = (peer.id, Arc::clone(secure));
                    let shared = Arc::clone(&self.shared);
                    self.tasks
                        .spawn(async move { handshake::open(shared, (id, secure), call).await });
                }
                Next::Close => {
                    tracing::info!(
                        peer = secure.node(),
                        "encrypted session closed: nobody uses it"
                    );
                    let ended = line.rest();
                    // From here on frames wait for another one.
                    secure.unpublish();
                    for session in ended {
                        self.lingering.push((now + LINGER, session.spi));
                        session
                            .connection
                            .close(VarInt::from_u32(close::IDLE), b"nobody uses it");
                    }
                }
            }
        }
    }
}

/// Ends the sessions of those that are no peers any more.
fn drop_strangers(sessions: &Sessions, table: &PeerTable, lines: &mut Lines) {
    lines.retain(|id, line| {
        let secure = table.by_id(*id).and_then(|peer| peer.secure.as_ref());
        let stays = secure.is_some_and(|secure| Arc::ptr_eq(secure, &line.secure));
        if !stays {
            line.secure.unpublish();
            for session in &line.sessions {
                sessions.close(session.spi);
                session
                    .connection
                    .close(VarInt::from_u32(close::STRANGER), b"no peer any more");
            }
        }
        stays
    });
}

fn line_of<'l>(
    lines: &'l mut Lines,
    id: PeerId,
    secure: &Arc<SecurePeer>,
    now: Instant,
) -> &'l mut Line {
    lines
        .entry(id)
        .or_insert_with(|| Line::new(Arc::clone(secure), now))
}

/// Lets frames go by the best session that there is.
fn settle(trains: &mut SealedTrains, table: &PeerTable, id: PeerId, line: &Line) {
    let Some(best) = line.best() else {
        line.secure.unpublish();
        return;
    };
    let key = Arc::clone(&best.sealing);
    let same = |sealing: &Arc<crate::secure::Sealing>| Arc::ptr_eq(&sealing.key, &key);
    if line.secure.sealing().as_ref().is_some_and(same) {
        return;
    }
    let remote = best.connection.remote_address();
    let Some(peer) = table.by_id(id) else { return };
    line.secure
        .publish(Arc::clone(&key), remote, |sealing, held| {
            // What befalls it is counted. Its network may have changed while it waited.
            if table.carriage(held.vni) == Some(crate::carriage::Carriage::Encrypted) {
                let _ = trains.send((peer, &line.secure), sealing, held.vni, held.frame());
            }
        });
    trains.flush();
}
