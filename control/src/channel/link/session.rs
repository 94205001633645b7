//! One session with one controller: hello, the map, then changes and questions until it ends.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::renewal::{Keepsake, RenewError, request};
use super::{CALL_PATIENCE, Caller, DialError, Ended, LinkEvent, State, dial, member_config};
use crate::channel::codec::{self, DecodeError};
use crate::channel::messages::{Answer, Ask, Hello, Interest, Push, Refusal, Request, Welcome};
use crate::channel::transport::{self, FrameError, close};
use crate::model::{Change, ClusterMap, NetworkId, Revision};

/// Where there is another controller to go to, one that was silent for this long is taken for dead, though both sides
/// say each second that they live: sooner than QUIC would end the connection.
const SILENCE: Duration = Duration::from_secs(2);

/// Between two tries to say what to hear of.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

impl Caller {
    /// Calls a controller and stays with it.
    pub(super) async fn session(
        &mut self,
        controller: SocketAddr,
        source: IpAddr,
        patience: Duration,
    ) -> Ended {
        if self.keepsake.is_over()
            && let Err(ended) = self.renew_by_key(controller, source).await
        {
            return ended;
        }
        // The endpoint carries the connection: it must live as long.
        let (_endpoint, connection) = match self.call(source, controller, patience).await {
            Ok(dialled) => dialled,
            Err(error) => return self.hung_up(controller, source, error).await,
        };
        if let Some(Interest { networks, wish }) = self.interest.borrow().clone() {
            (self.hello.interest, self.hello.wish) = (Some(networks), wish);
        }
        let (hello, pushes) = match timeout(CALL_PATIENCE, self.greet(&connection)).await {
            Ok(Ok(greeted)) => greeted,
            Ok(Err(Greeting::Refused(refusal))) => return Ended::Refused(refusal),
            Ok(Err(Greeting::Broken(cause))) => {
                let error = match connection.close_reason() {
                    Some(reason) => DialError::from(reason),
                    None => DialError::Unreachable(cause),
                };
                return self.hung_up(controller, source, error).await;
            }
            Err(_) => {
                let cause = "it took the call but does not answer".to_owned();
                return self.ended(controller, DialError::Unreachable(cause), false);
            }
        };
        if self
            .events
            .send(LinkEvent::Up { controller })
            .await
            .is_err()
        {
            return Ended::Stopped;
        }
        self.state.send_replace(State::Up(connection.clone()));
        let keepsake = Arc::clone(&self.keepsake);
        let (interest, told) = (self.interest.clone(), self.hello.interest());
        let asks = answer_asks(connection.clone(), self.events.clone(), &keepsake);
        let cause = tokio::select! {
            ended = self.follow(&connection, hello, pushes) => match ended {
                Ok(()) => return Ended::Stopped,
                Err(error) => error.to_string(),
            },
            () = asks => "it hung up".to_owned(),
            never = keepsake.keep_fresh(&connection) => match never {},
            never = keep_watching(&connection, interest, told) => match never {},
        };
        let error = match connection.close_reason() {
            Some(reason) => DialError::from(reason),
            None => {
                connection.close(close::PROTOCOL.into(), cause.as_bytes());
                DialError::Unreachable(cause)
            }
        };
        self.ended(controller, error, true)
    }

    /// Dials with the newest identity.
    async fn call(
        &mut self,
        source: IpAddr,
        controller: SocketAddr,
        patience: Duration,
    ) -> Result<(Endpoint, Connection), DialError> {
        let newest = self.keepsake.identity();
        if !Arc::ptr_eq(&newest, &self.client.0) {
            let unusable = |error: rustls::Error| DialError::Unreachable(error.to_string());
            let client = member_config(&newest).map_err(unusable)?;
            self.client = (newest, client);
        }
        dial(&self.client.1, source, controller, patience).await
    }

    /// The controller didn't take the call. When it is our certificate that it doesn't take, because it ended by the
    /// controller's clock or its authority isn't trusted any more, a new one is asked for.
    async fn hung_up(&self, controller: SocketAddr, source: IpAddr, error: DialError) -> Ended {
        let DialError::Unwelcome(cause) = error else {
            return self.ended(controller, error, false);
        };
        let cause = match self.renew_by_key(controller, source).await {
            Ok(()) => {
                return Ended::Unreachable(format!(
                    "controller {controller} didn't take this node's certificate ({cause}); it has a new one now"
                ));
            }
            Err(Ended::Refused(refusal)) => {
                format!("{cause}; a new one is refused: {}", refusal.message)
            }
            Err(Ended::Lost(_) | Ended::Unreachable(_) | Ended::Stopped) => cause,
        };
        self.ended(controller, DialError::Unwelcome(cause), false)
    }

    /// Asks for a certificate with nothing but the key.
    async fn renew_by_key(&self, controller: SocketAddr, source: IpAddr) -> Result<(), Ended> {
        match self.keepsake.renew_by_key(controller, source).await {
            Ok(()) => Ok(()),
            Err(RenewError::Dial(error)) => Err(self.ended(controller, error, false)),
            Err(RenewError::Refused(refusal)) => Err(Ended::Refused(refusal)),
            Err(RenewError::Failed(cause)) => Err(Ended::Unreachable(cause)),
        }
    }

    async fn greet(
        &self,
        connection: &Connection,
    ) -> Result<(Welcome, (SendStream, RecvStream)), Greeting> {
        let broken = |error: &dyn std::fmt::Display| Greeting::Broken(error.to_string());
        let (mut to, mut from) = connection.open_bi().await.map_err(|error| broken(&error))?;
        let credentials = Some(self.keepsake.identity().credentials());
        let hello = Hello {
            credentials,
            ..self.hello.clone()
        };
        transport::send(&mut to, &hello)
            .await
            .map_err(|error| broken(&error))?;
        let answer: Result<Welcome, Refusal> = transport::receive(&mut from)
            .await
            .map_err(|error| broken(&error))?;
        let welcome = answer.map_err(Greeting::Refused)?;
        if !(self.hello.protocols.min..=self.hello.protocols.max).contains(&welcome.protocol) {
            return Err(Greeting::Refused(Refusal::new(
                "protocol_mismatch",
                format!(
                    "the controller (weft {}) chose control protocol {}, this agent (weft {}) speaks {}",
                    welcome.version, welcome.protocol, self.hello.version, self.hello.protocols
                ),
            )));
        }
        Ok((welcome, (to, from)))
    }

    /// Hands on what the controller pushes. Ends well only when nobody listens any more.
    async fn follow(
        &mut self,
        connection: &Connection,
        welcome: Welcome,
        (_open, mut pushes): (SendStream, RecvStream),
    ) -> Result<(), FrameError> {
        let controllers = welcome.controllers.clone();
        if !controllers.is_empty() {
            self.whom.learn(&controllers);
            let told = self.events.send(LinkEvent::Controllers { controllers });
            if told.await.is_err() {
                return Ok(());
            }
        }
        let wants = self.hello.interest.is_some();
        let mut reader = Reader::new(welcome, self.hello.have, wants);
        if reader.tells_all() && self.hello.has.is_some() && !self.hello.incarnation.is_empty() {
            // What it takes for our map we don't have: the next session begins anew.
            self.hello.have = 0;
            self.hello.incarnation.clear();
            self.hello.has = None;
            return Err(out_of_order("an excerpt").into());
        }
        loop {
            let bytes = tokio::select! {
                bytes = transport::receive_bytes(&mut pushes, codec::MAX_MESSAGE_BYTES) => bytes?,
                () = gone_silent(connection), if self.whom.are_several() => {
                    return Err(FrameError::Ended("it went silent".to_owned()));
                }
            };
            for event in reader.handle(codec::decode(&bytes)?)? {
                match &event {
                    LinkEvent::Snapshot {
                        map,
                        incarnation,
                        has,
                    } => {
                        self.hello.have = map.revision;
                        self.hello.incarnation.clone_from(incarnation);
                        self.hello.has.clone_from(has);
                    }
                    LinkEvent::Changes { up_to, .. } => {
                        self.hello.have = self.hello.have.max(*up_to);
                    }
                    LinkEvent::Controllers { controllers } => self.whom.learn(controllers),
                    LinkEvent::Watched { networks, .. } => {
                        self.hello.has.clone_from(networks);
                    }
                    LinkEvent::Up { .. }
                    | LinkEvent::Down { .. }
                    | LinkEvent::Refused { .. }
                    | LinkEvent::CaughtUp
                    | LinkEvent::Ask { .. } => {}
                }
                if self.events.send(event).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    fn ended(&self, controller: SocketAddr, error: DialError, was_up: bool) -> Ended {
        let cluster = &self.hello.cluster;
        match error {
            DialError::Foreign(cause) => Ended::Refused(
                Refusal::new(
                    "foreign_controller",
                    format!("the controller at {controller} is not of this node's cluster {cluster} ({cause})"),
                )
                .hint("give --join the address of this cluster's controller, or join that cluster with an empty --state and its token"),
            ),
            DialError::Unwelcome(cause) => Ended::Refused(
                Refusal::new(
                    "certificate_refused",
                    format!("the controller at {controller} does not take this node's certificate ({cause}): it is of another cluster or has expired"),
                )
                .hint("move the state directory's identity away and join again with a new token"),
            ),
            DialError::Closed(code, cause) if code == u64::from(close::REMOVED) => {
                Ended::Refused(Refusal::new("node_removed", cause)
                    .hint("move the state directory's identity away and join again with a new token"))
            }
            DialError::Closed(code, cause) if code == u64::from(close::REPLACED) => {
                Ended::Refused(Refusal::new("replaced", format!("controller {controller}: {cause}"))
                    .hint("stop that other agent: a state directory belongs to one host and must not be copied"))
            }
            DialError::Closed(code, cause) if code == u64::from(close::PROTOCOL) => {
                Ended::Refused(Refusal::new("protocol_mismatch", format!("controller {controller}: {cause}"))
                    .hint("use the same version of weft on both sides"))
            }
            DialError::Closed(_, cause) | DialError::Unreachable(cause) => {
                let reason = format!("controller {controller}: {cause}");
                if was_up { Ended::Lost(reason) } else { Ended::Unreachable(reason) }
            }
        }
    }
}

/// Returns when nothing came from the other side for [`SILENCE`].
async fn gone_silent(connection: &Connection) {
    let mut heard = connection.stats().udp_rx.datagrams;
    let mut since = Instant::now();
    while since.elapsed() < SILENCE {
        sleep(SILENCE / 8).await;
        let now = connection.stats().udp_rx.datagrams;
        if now != heard {
            (heard, since) = (now, Instant::now());
        }
    }
}

enum Greeting {
    Refused(Refusal),
    Broken(String),
}

/// Puts snapshots together.
struct Reader {
    welcome: Welcome,
    /// The agent doesn't want to hear of everything.
    wants: bool,
    snapshot: Option<ClusterMap>,
    /// The agent's revision.
    have: Revision,
    /// It was said for which networks the map is complete, and by which wish.
    watched: Option<(BTreeSet<NetworkId>, u64)>,
    caught_up: bool,
}

impl Reader {
    fn new(welcome: Welcome, have: Revision, wants: bool) -> Self {
        Self {
            welcome,
            wants,
            snapshot: None,
            have,
            watched: None,
            caught_up: false,
        }
    }

    /// The controller knows of no wishes, and the agent has some.
    fn tells_all(&self) -> bool {
        self.wants && !self.welcome.excerpts
    }

    fn handle(&mut self, push: Push) -> Result<Vec<LinkEvent>, DecodeError> {
        let mut events = Vec::with_capacity(2);
        let reached = match push {
            Push::SnapshotStart => {
                self.snapshot = Some(ClusterMap::default());
                return Ok(events);
            }
            Push::Objects(objects) => {
                let map = self
                    .snapshot
                    .as_mut()
                    .ok_or_else(|| out_of_order("objects"))?;
                for object in objects {
                    map.apply(object.revision, Change::Put(object.object));
                }
                return Ok(events);
            }
            Push::SnapshotEnd { revision } => {
                self.end_snapshot(revision, &mut events)?;
                revision
            }
            Push::Watched { networks, wish } => {
                self.watched = Some((networks.clone(), wish));
                if self.snapshot.is_some() {
                    // Of the snapshot: said together with it.
                    return Ok(events);
                }
                let networks = Some(networks);
                events.push(LinkEvent::Watched { networks, wish });
                self.have
            }
            Push::Changes {
                changes,
                up_to,
                controllers,
            } => {
                if let Some(controllers) = controllers {
                    events.push(LinkEvent::Controllers { controllers });
                }
                // Also what no agent is told of takes the map on.
                if !changes.is_empty() || up_to > self.have {
                    events.push(LinkEvent::Changes { changes, up_to });
                }
                up_to
            }
        };
        self.have = self.have.max(reached);
        self.catch_up(reached, &mut events);
        Ok(events)
    }

    fn end_snapshot(
        &mut self,
        revision: Revision,
        events: &mut Vec<LinkEvent>,
    ) -> Result<(), DecodeError> {
        let snapshot = self.snapshot.take();
        let mut map = snapshot.ok_or_else(|| out_of_order("snapshot_end"))?;
        map.revision = revision;
        self.have = revision;
        let watched = self.watched.clone();
        events.push(LinkEvent::Snapshot {
            incarnation: self.welcome.incarnation.clone(),
            map: Box::new(map),
            has: watched.as_ref().map(|(networks, _)| networks.clone()),
        });
        if let Some((networks, wish)) = watched {
            let networks = Some(networks);
            events.push(LinkEvent::Watched { networks, wish });
        }
        Ok(())
    }

    fn catch_up(&mut self, reached: Revision, events: &mut Vec<LinkEvent>) {
        let whole = !self.wants || self.watched.is_some() || self.tells_all();
        if !self.caught_up && whole && reached >= self.welcome.revision {
            self.caught_up = true;
            if self.tells_all() {
                let (networks, wish) = (None, 0);
                events.push(LinkEvent::Watched { networks, wish });
            }
            events.push(LinkEvent::CaughtUp);
        }
    }
}

fn out_of_order(what: &str) -> DecodeError {
    DecodeError::Malformed(format!("{what} without snapshot_start"))
}

/// Tells the controller of which networks the agent wants to hear, whenever it is another set than the last one.
async fn keep_watching(
    connection: &Connection,
    mut interest: watch::Receiver<Option<Interest>>,
    mut told: Option<Interest>,
) -> Infallible {
    loop {
        let wanted = interest.borrow_and_update().clone();
        if let Some(Interest { networks, wish }) = wanted.clone()
            && wanted != told
        {
            match request(connection, &Request::Watch { networks, wish }).await {
                Ok(_) => told = wanted,
                Err(error) => {
                    debug!(%error, "the controller wasn't told what to tell");
                    sleep(WATCH_AGAIN).await;
                }
            }
            continue;
        }
        if interest.changed().await.is_err() {
            // The link is about to end.
            return std::future::pending().await;
        }
    }
}

/// Answers the controller's questions until the connection ends.
async fn answer_asks(
    connection: Connection,
    events: mpsc::Sender<LinkEvent>,
    keepsake: &Arc<Keepsake>,
) {
    while let Ok((mut to, mut from)) = connection.accept_bi().await {
        let (events, keepsake) = (events.clone(), Arc::clone(keepsake));
        let connection = connection.clone();
        tokio::spawn(async move {
            let answer = match transport::receive::<Ask>(&mut from).await {
                Ok(Ask::Renew) => keepsake.renew_when_told(&connection).await,
                Ok(ask) => hand_on(ask, &events).await,
                Err(error) => Err(Refusal::new("unknown_ask", error.to_string())
                    .hint("use the same version of weft on both sides")),
            };
            if let Err(error) = transport::send(&mut to, &answer).await {
                debug!(%error, "an answer did not reach the controller");
            }
            let _ = to.finish();
        });
    }
}

async fn hand_on(ask: Ask, events: &mpsc::Sender<LinkEvent>) -> Result<Answer, Refusal> {
    let stopping = || Refusal::new("stopping", "the agent is stopping");
    let (answer, answered) = oneshot::channel();
    events
        .send(LinkEvent::Ask { ask, answer })
        .await
        .map_err(|_| stopping())?;
    answered.await.map_err(|_| stopping())
}
