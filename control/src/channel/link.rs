//! The agent's end of the control channel: keeps one session with one of the controllers, for ever.
//!
//! It keeps the node's certificate fresh, too ([`renewal`]): a new one is asked for while the old one has a third of its
//! time left, over the session that is there; the session stays.
//!
//! States: *calling* (address after address, pauses growing from 100 ms to 1 s; what was lost comes last), *up* (a session; events and requests
//! flow), *refused* (a controller won't have this node: calling goes on, slowly, since an operator may change that).
//! What the agent has of the map is tracked here, so that a new session brings only what is missing.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint, VarInt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::codec;
use super::messages::{
    Answer, Ask, Hello, Interest, NodeFacts, PROTOCOLS, Refusal, Reply, Request, STORE_FAILED,
};
use super::tls;
use super::transport::{self, close};
use crate::identity::{Identity, ca::CONTROLLER_NAME};
use crate::model::{Change, ClusterMap, NetworkId, Revision};

mod renewal;
mod session;
mod whom;

use whom::Whom;

use renewal::Keepsake;

/// From the first packet to `Welcome`. The first packet is repeated after 0.3 and 0.9 seconds.
pub(super) const CALL_PATIENCE: Duration = Duration::from_secs(2);
/// The same for the first round when there are other controllers to call; it doubles with each round up to
/// `CALL_PATIENCE`, for those that are far away.
const CALL_PATIENCE_FIRST: Duration = Duration::from_millis(600);
/// First pause between two rounds of calls.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause between two rounds of calls: with `CALL_PATIENCE`, a controller that comes back is found within 3 s.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Pause after a refusal.
const PAUSE_REFUSED: Duration = Duration::from_secs(5);
/// Until a request counts as unanswered.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The same for what an agent does without its controller when it must: it shouldn't wait long for a dead one.
const REPORT_PATIENCE: Duration = Duration::from_secs(2);
/// A controller that is alive acknowledges a report's packets at once, however long its disk takes: one from which nothing
/// at all comes for this long is as good as gone.
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// The same in round trips, for far controllers: sent, lost, sent again, acknowledged.
const SILENCE_ROUND_TRIPS: u32 = 8;
/// How long a stopping link waits for the controller to hear of it.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
/// Events that wait for the agent; then the controller waits.
const EVENTS: usize = 64;

/// What a link needs to know.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Who calls.
    pub identity: Identity,
    /// Where a renewed identity is saved; nowhere when `None`.
    pub identity_dir: Option<PathBuf>,
    /// Whom to call; the cluster may tell of more.
    pub controllers: Vec<SocketAddr>,
    /// This host.
    pub facts: NodeFacts,
    /// The newest revision of the map that the agent has; 0 for none.
    pub have: Revision,
    /// Which life of the store that revision belongs to; empty for none.
    pub incarnation: String,
    /// The networks of which it wants to hear; all when `None`.
    pub interest: Option<BTreeSet<NetworkId>>,
    /// The networks for which what the agent has of the map is complete; all when `None`.
    pub has: Option<BTreeSet<NetworkId>>,
}

/// What happens on the control channel.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session began.
    Up {
        /// With whom.
        controller: SocketAddr,
    },
    /// The session ended, or no controller could be reached.
    Down {
        /// Why.
        reason: String,
    },
    /// A controller answers but won't have this node. Calling goes on slowly.
    Refused {
        /// Why.
        refusal: Refusal,
    },
    /// The whole map, replacing what the agent has.
    Snapshot {
        /// Which life of the store it belongs to.
        incarnation: String,
        /// The map.
        map: Box<ClusterMap>,
        /// The networks for which it is complete; all when `None`.
        has: Option<BTreeSet<NetworkId>>,
    },
    /// What changed since.
    Changes {
        /// In order.
        changes: Vec<(Revision, Change)>,
        /// The revision reached with them.
        up_to: Revision,
    },
    /// What is on these networks is told from now on, and all there is was told. Of others the agent has to forget what
    /// isn't its own. Only for a link with an interest.
    Watched {
        /// All such networks; every one when `None`.
        networks: Option<BTreeSet<NetworkId>>,
        /// Number of the newest wish that is fulfilled with it.
        wish: u64,
    },
    /// What the agent has now is as new as the controller was when the session began.
    CaughtUp,
    /// The cluster told where its controllers are.
    Controllers {
        /// All of them.
        controllers: Vec<SocketAddr>,
    },
    /// The controller asks something.
    Ask {
        /// What.
        ask: Ask,
        /// Where the answer goes.
        answer: oneshot::Sender<Answer>,
    },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no session; nothing was asked.
    #[error("no controller answers: {why}")]
    Offline {
        /// Why not.
        why: String,
    },
    /// The controller says no.
    #[error("{0}")]
    Refused(Refusal),
    /// It was asked but no answer came: it may have been done or not.
    #[error("the controller did not answer in time")]
    TimedOut,
}

impl RequestError {
    /// Whether it may have been done nevertheless, or still be done: no answer came, or the store's didn't come.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::TimedOut => true,
            Self::Refused(refusal) => refusal.code == STORE_FAILED,
            Self::Offline { .. } => false,
        }
    }
}

/// The session as requests see it.
#[derive(Clone, Debug)]
enum State {
    Up(Connection),
    Down(String),
}

/// Handle on the link; cheap to clone. The link lives until [`Link::close`] or until all handles are gone.
#[derive(Clone, Debug)]
pub struct Link {
    state: watch::Receiver<State>,
    stop: Arc<watch::Sender<bool>>,
    done: watch::Receiver<()>,
    identity: watch::Receiver<Arc<Identity>>,
    interest: Arc<watch::Sender<Option<Interest>>>,
}

impl Link {
    /// Starts calling. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The identity's certificates can't be used.
    pub fn start(config: LinkConfig) -> std::io::Result<(Self, mpsc::Receiver<LinkEvent>)> {
        let client = member_config(&config.identity).map_err(std::io::Error::other)?;
        let keepsake = Keepsake::new(config.identity.clone(), config.identity_dir);
        let identity = keepsake.follow();
        let (state_in, state) = watch::channel(State::Down("not called yet".to_owned()));
        let (stop_in, stop) = watch::channel(false);
        let (done_in, done) = watch::channel(());
        let (events_in, events) = mpsc::channel(EVENTS);
        let first = config.interest.clone();
        let first = first.map(|networks| Interest { networks, wish: 0 });
        let (interest_in, interest) = watch::channel(first);
        let caller = Caller {
            hello: Hello {
                protocols: PROTOCOLS,
                version: config.facts.version.clone(),
                cluster: config.identity.cluster.clone(),
                node: config.identity.node_id.clone(),
                have: config.have,
                incarnation: config.incarnation,
                facts: config.facts,
                credentials: None,
                interest: config.interest,
                wish: 0,
                has: config.has,
                returns_claims: true,
            },
            whom: Whom::new(config.controllers),
            client: (Arc::clone(&*identity.borrow()), client),
            keepsake: Arc::new(keepsake),
            interest,
            events: events_in,
            state: state_in,
        };
        tokio::spawn(async move {
            caller.run(stop).await;
            drop(done_in);
        });
        Ok((
            Self {
                state,
                stop: Arc::new(stop_in),
                done,
                identity,
                interest: Arc::new(interest_in),
            },
            events,
        ))
    }

    /// Who this node is: another one, of the same key, at each renewal.
    pub fn identity(&self) -> watch::Receiver<Arc<Identity>> {
        self.identity.clone()
    }

    /// Hears of what is on these networks from now on, over all sessions; [`LinkEvent::Watched`] says when it is there.
    /// What was wished by a lower number is no matter any more. Only for a link that was started with an interest.
    pub fn watch(&self, interest: Interest) {
        self.interest.send_if_modified(|wanted| {
            let newer = wanted
                .as_ref()
                .is_some_and(|before| before.wish < interest.wish);
            if newer {
                *wanted = Some(interest);
            }
            newer
        });
    }

    /// Asks the controller.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let connection = match &*self.state.borrow() {
            State::Up(connection) => connection.clone(),
            State::Down(why) => return Err(RequestError::Offline { why: why.clone() }),
        };
        let too_long = |error: codec::DecodeError| {
            RequestError::Refused(Refusal::new("too_long", error.to_string()))
        };
        let bytes = codec::encode(&request).map_err(too_long)?;
        // Longer than single reports, which wait for it.
        let all = matches!(request, Request::SyncEndpoints { .. });
        let one = matches!(
            request,
            Request::PutEndpoint { .. } | Request::DeleteEndpoint { .. }
        );
        let patience = if one {
            REPORT_PATIENCE
        } else {
            REQUEST_PATIENCE
        };
        let exchange = exchange(&connection, &bytes);
        if !(one || all) {
            return timeout(patience, exchange)
                .await
                .unwrap_or(Err(RequestError::TimedOut));
        }
        tokio::select! {
            answer = timeout(patience, exchange) => answer.unwrap_or(Err(RequestError::TimedOut)),
            () = silence(&connection) => Err(RequestError::TimedOut),
        }
    }

    /// Ends the session and stops calling; returns when the controller was told, or half a second later.
    pub async fn close(&self) {
        self.stop.send_replace(true);
        let mut done = self.done.clone();
        while done.changed().await.is_ok() {}
    }
}

/// Returns when nothing came from the other side for longer than one that lives is silent after it was spoken to.
async fn silence(connection: &Connection) {
    let heard = connection.stats().udp_rx.datagrams;
    sleep(SILENCE_MIN.max(connection.rtt() * SILENCE_ROUND_TRIPS)).await;
    if connection.stats().udp_rx.datagrams != heard {
        std::future::pending::<()>().await;
    }
}

async fn exchange(connection: &Connection, bytes: &[u8]) -> Result<Reply, RequestError> {
    let offline = |error: quinn::ConnectionError| RequestError::Offline {
        why: error.to_string(),
    };
    let (mut to, mut from) = connection.open_bi().await.map_err(offline)?;
    let unanswered = |error: &dyn std::fmt::Display| {
        debug!(%error, "a request stayed unanswered");
        RequestError::TimedOut
    };
    to.write_all(bytes)
        .await
        .map_err(|error| unanswered(&error))?;
    let _ = to.finish();
    let answer: Result<Reply, Refusal> = transport::receive(&mut from)
        .await
        .map_err(|error| unanswered(&error))?;
    answer.map_err(RequestError::Refused)
}

pub(super) fn client_config(tls: QuicClientConfig) -> ClientConfig {
    let mut client = ClientConfig::new(Arc::new(tls));
    client.transport_config(transport::client_transport());
    client
}

fn member_config(identity: &Identity) -> Result<ClientConfig, rustls::Error> {
    Ok(client_config(tls::member(identity)?))
}

/// The task behind a [`Link`].
struct Caller {
    hello: Hello,
    whom: Whom,
    /// How to call, and whose identity is in it.
    client: (Arc<Identity>, ClientConfig),
    keepsake: Arc<Keepsake>,
    interest: watch::Receiver<Option<Interest>>,
    events: mpsc::Sender<LinkEvent>,
    state: watch::Sender<State>,
}

/// How a call or session ended.
enum Ended {
    /// No session came to be.
    Unreachable(String),
    /// A session ended.
    Lost(String),
    /// The controller doesn't want us.
    Refused(Refusal),
    /// Nobody listens to the events any more, or the link is to close.
    Stopped,
}

impl Caller {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        tokio::select! {
            // Also when all handles are gone.
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.call_for_ever() => {}
        }
        let last = self
            .state
            .send_replace(State::Down("the agent is stopping".to_owned()));
        if let State::Up(connection) = last {
            connection.close(VarInt::from_u32(close::STOPPING), b"agent stops");
            // The endpoint's driver sends the last word.
            let _ = timeout(CLOSE_PATIENCE, connection.closed()).await;
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn call_for_ever(&mut self) {
        let mut pause = PAUSE_MIN;
        let mut patience = CALL_PATIENCE_FIRST;
        let mut round = 0;
        loop {
            let mut refused = false;
            let mut lost = false;
            for controller in self.whom.order() {
                let source = source_for(self.hello.facts.underlay, controller, round);
                let waits = if self.whom.are_several() {
                    patience
                } else {
                    CALL_PATIENCE
                };
                match self.session(controller, source, waits).await {
                    Ended::Stopped => return,
                    Ended::Lost(reason) => {
                        self.down(reason).await;
                        self.whom.put_last(controller);
                        lost = true;
                    }
                    Ended::Unreachable(reason) => self.down(reason).await,
                    Ended::Refused(refusal) => {
                        refused = true;
                        self.state
                            .send_replace(State::Down(refusal.message.clone()));
                        let _ = self.events.send(LinkEvent::Refused { refusal }).await;
                    }
                }
                if self.events.is_closed() {
                    return;
                }
                if lost {
                    break;
                }
            }
            if lost {
                (pause, patience, round) = (PAUSE_MIN, CALL_PATIENCE_FIRST, 0);
            } else {
                round += 1;
            }
            let wait = if refused { PAUSE_REFUSED } else { pause };
            // A quarter of chance, so that a hundred agents don't call in step.
            sleep(wait.mul_f64(rand::random_range(0.75..1.0))).await;
            if !lost {
                pause = (pause * 2).min(PAUSE_MAX);
                patience = (patience * 2).min(CALL_PATIENCE);
            }
        }
    }

    async fn down(&self, reason: String) {
        self.state.send_replace(State::Down(reason.clone()));
        let _ = self.events.send(LinkEvent::Down { reason }).await;
    }
}

/// The address to call from: the underlay's, since firewalls expect it; each other round none in particular, since the
/// way to the controller may be another.
pub(super) fn source_for(underlay: IpAddr, controller: SocketAddr, round: usize) -> IpAddr {
    let fits = underlay.is_ipv4() == controller.is_ipv4()
        && underlay.is_loopback() == controller.ip().is_loopback();
    match controller {
        _ if fits && round.is_multiple_of(2) => underlay,
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Calls one controller: QUIC and TLS, nothing said yet. The endpoint must live as long as the connection.
pub(super) async fn dial(
    client: &ClientConfig,
    source: IpAddr,
    controller: SocketAddr,
    patience: Duration,
) -> Result<(Endpoint, Connection), DialError> {
    let failed = |cause: String| DialError::Unreachable(cause);
    let endpoint = Endpoint::client(SocketAddr::new(source, 0))
        .map_err(|error| failed(format!("no socket on {source}: {error}")))?;
    let connecting = endpoint
        .connect_with(client.clone(), controller, CONTROLLER_NAME)
        .map_err(|error| failed(error.to_string()))?;
    match timeout(patience, connecting).await {
        Err(_) => Err(failed("it does not answer".to_owned())),
        Ok(Err(error)) => Err(DialError::from(error)),
        Ok(Ok(connection)) => Ok((endpoint, connection)),
    }
}

/// Why a controller could not be called, or hung up.
pub(super) enum DialError {
    /// Nobody there, or it went away.
    Unreachable(String),
    /// We don't take its certificate.
    Foreign(String),
    /// It doesn't take our certificate.
    Unwelcome(String),
    /// It closed the connection with one of our codes.
    Closed(u64, String),
}

/// TLS alerts as QUIC tells them (RFC 9001 section 4.8): 0x100 and the alert.
const TLS_ALERTS: std::ops::Range<u64> = 0x100..0x200;
/// No common application protocol (RFC 7301 section 3.2).
const TLS_NO_APPLICATION_PROTOCOL: u64 = 0x178;

impl From<quinn::ConnectionError> for DialError {
    fn from(error: quinn::ConnectionError) -> Self {
        use quinn::ConnectionError as E;
        match error {
            E::TransportError(error) if TLS_ALERTS.contains(&u64::from(error.code)) => {
                Self::Foreign(error.reason)
            }
            E::ConnectionClosed(frame) => match u64::from(frame.error_code) {
                TLS_NO_APPLICATION_PROTOCOL => Self::Closed(
                    u64::from(close::PROTOCOL),
                    "it speaks no version of the control protocol that this weft knows".to_owned(),
                ),
                code if TLS_ALERTS.contains(&code) => {
                    Self::Unwelcome(String::from_utf8_lossy(&frame.reason).into_owned())
                }
                _ => Self::Unreachable(frame.to_string()),
            },
            E::ApplicationClosed(frame) => Self::Closed(
                frame.error_code.into_inner(),
                String::from_utf8_lossy(&frame.reason).into_owned(),
            ),
            E::TimedOut => Self::Unreachable("it went silent".to_owned()),
            E::Reset => Self::Unreachable("it was restarted".to_owned()),
            E::TransportError(_) | E::VersionMismatch | E::LocallyClosed | E::CidsExhausted => {
                Self::Unreachable(error.to_string())
            }
        }
    }
}
