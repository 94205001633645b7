//! The plugin's socket. Docker is answered in bounded time whatever state the agent, its controller or the kernel is in:
//! what Docker asks on its way up at once, everything else within [`ANSWER_WITHIN`] or with a sentence that says why not.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};
use tracing::{debug, warn};

use crate::agent::serve::Phase;
use crate::agent::{Agent, ApiError};
use crate::docker::wire::{self, BadCall, Call, Reply, Side};

/// Docker gives a plugin up after 30 s, and holds locks meanwhile.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What Docker's own plugins answer with.
const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// What the socket's server needs.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Plugin {
    phase: watch::Receiver<Phase>,
    lanes: Arc<Lanes>,
}

impl Plugin {
    pub(in crate::agent) fn new(phase: watch::Receiver<Phase>) -> Self {
        let lanes = Arc::default();
        Self { phase, lanes }
    }
}

/// Serves the plugin until the agent ends; what was begun is answered.
pub(in crate::agent) async fn serve(listener: StdUnixListener, plugin: Plugin) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let ended = crate::agent::serve::ended(plugin.phase.clone());
    axum::serve(listener, router(plugin))
        .with_graceful_shutdown(ended)
        .await
}

pub(super) fn router(plugin: Plugin) -> Router {
    Router::new().fallback(handle).with_state(plugin)
}

/// Any path and any body: Docker sends no content type, and a wrong call is to be answered in the protocol's own form.
async fn handle(
    State(plugin): State<Plugin>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let call = body.map_or_else(
        |why| Err(wire::unreadable(uri.path(), &why.body_text())),
        |body| wire::parse(uri.path(), &body),
    );
    let call = match call {
        Ok(call) => call,
        Err(BadCall::Unknown(sentence)) => {
            let body = wire::error_json(Side::Network, &sentence);
            return (StatusCode::NOT_FOUND, typed(&body)).into_response();
        }
        Err(BadCall::Field(side, sentence)) => {
            warn!(sentence, "call of Docker refused");
            return typed(&wire::error_json(side, &sentence)).into_response();
        }
    };
    let (side, method) = (call.side(), uri.path().to_owned());
    match plugin.answer(call).await {
        Ok(reply) => {
            debug!(method, "call of Docker answered");
            typed(&reply.to_json()).into_response()
        }
        Err(error) => {
            let sentence = sentence(&error);
            warn!(method, sentence, "call of Docker refused");
            typed(&wire::error_json(side, &sentence)).into_response()
        }
    }
}

fn typed(body: &serde_json::Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], body.to_string())
}

/// Docker shows one line: object, cause and next step are in it.
fn sentence(error: &ApiError) -> String {
    let reply = &error.reply;
    match &reply.hint {
        Some(hint) => format!("weft: {}; {hint}", reply.message),
        None => format!("weft: {}", reply.message),
    }
}

impl Plugin {
    async fn answer(&self, call: Call) -> Result<Reply, ApiError> {
        if let Some(answer) = at_once(&call) {
            return answer;
        }
        let agent = self.agent()?;
        let (key, undo) = (call.key(), Undo::of(&call));
        let again = Arc::clone(&agent);
        let work = async move { agent.carry_out(call).await };
        let take_back = |reply| async move { again.take_back(undo, &reply).await };
        self.lanes.answer(key, work, take_back).await
    }

    fn agent(&self) -> Result<Arc<Agent>, ApiError> {
        match &*self.phase.borrow() {
            Phase::Running(agent) => Ok(Arc::clone(agent)),
            Phase::Joining(why) => Err(ApiError::unavailable(
                "joining",
                format!("the agent of this host isn't ready: {why}"),
            )
            .hint("try again when `weft status --wait` returns")),
        }
    }
}

/// What needs no agent, so that dockerd comes up whatever state weft is in.
fn at_once(call: &Call) -> Option<Result<Reply, ApiError>> {
    match call {
        Call::Activate => Some(Ok(Reply::Implements)),
        Call::NetworkCapabilities => Some(Ok(Reply::NetworkCapabilities)),
        Call::GatewayCheck => Some(Ok(Reply::GatewayCheck)),
        Call::IpamCapabilities => Some(Ok(Reply::IpamCapabilities)),
        Call::AddressSpaces => Some(Ok(Reply::AddressSpaces)),
        Call::Heard => Some(Ok(Reply::Done)),
        Call::EndpointInfo(_) => Some(Ok(Reply::EndpointInfo {
            value: BTreeMap::new(),
        })),
        Call::Swarm => Some(Err(ApiError::bad_request(
            "swarm",
            "networks of swarm services need a managed plugin, which weft isn't",
        )
        .hint("make the network with the same -o weft.network on every host instead; see docs/docker.md"))),
        Call::CreateNetwork(_)
        | Call::DeleteNetwork { .. }
        | Call::CreateEndpoint(_)
        | Call::DeleteEndpoint(_)
        | Call::Join { .. }
        | Call::Leave(_)
        | Call::Program { .. }
        | Call::Revoke(_)
        | Call::RequestPool(_)
        | Call::ReleasePool { .. }
        | Call::RequestAddress(_)
        | Call::ReleaseAddress { .. } => None,
    }
}

impl Agent {
    async fn carry_out(self: &Arc<Self>, call: Call) -> Result<Reply, ApiError> {
        match call {
            Call::CreateNetwork(call) => self.docker_create_network(call).await,
            Call::DeleteNetwork { network } => self.docker_delete_network(network).await,
            Call::CreateEndpoint(call) => self.docker_create_endpoint(call).await,
            Call::DeleteEndpoint(of) => self.docker_delete_endpoint(of.endpoint).await,
            Call::Join { of, sandbox } => self.docker_join(of, sandbox).await,
            Call::Program { of, publish } => self.docker_program(of, publish).await,
            // A Docker that binds the ports on its own bridge next doesn't always say so before.
            Call::Revoke(of) | Call::Leave(of) => self.docker_revoke(of.endpoint).await,
            Call::RequestPool(call) => self.docker_request_pool(call).await,
            Call::ReleasePool { pool } => self.docker_release_pool(pool).await,
            Call::RequestAddress(call) => self.docker_request_address(call).await,
            Call::ReleaseAddress { pool, address } => {
                self.docker_release_address(pool, address).await
            }
            Call::Activate
            | Call::NetworkCapabilities
            | Call::GatewayCheck
            | Call::EndpointInfo(_)
            | Call::Heard
            | Call::Swarm
            | Call::IpamCapabilities
            | Call::AddressSpaces => Ok(Reply::Done),
        }
    }

    /// Nobody waits for the answer any more: Docker takes the call for failed and won't give back what it got.
    async fn take_back(self: &Arc<Self>, undo: Undo, reply: &Reply) {
        let undone = match (undo, reply) {
            (Undo::Network(network), _) => self.docker_delete_network(network).await,
            (Undo::Endpoint(endpoint), _) => self.docker_delete_endpoint(endpoint).await,
            (Undo::Pool, Reply::Pool { id, .. }) => self.docker_release_pool(id.clone()).await,
            (Undo::Address(pool), Reply::Address(address)) => {
                self.docker_release_address(pool, address.addr()).await
            }
            (Undo::Nothing | Undo::Pool | Undo::Address(_), _) => return,
        };
        match undone {
            Ok(_) => warn!("Docker gave a call up that went well in the end; it was taken back"),
            Err(error) => {
                warn!(error = %error.reply.message, "a call that Docker gave up could not be taken back")
            }
        }
    }
}

/// What undoes a call.
enum Undo {
    Nothing,
    Network(String),
    Endpoint(String),
    Pool,
    Address(String),
}

impl Undo {
    fn of(call: &Call) -> Self {
        match call {
            Call::CreateNetwork(call) => Self::Network(call.network.clone()),
            Call::CreateEndpoint(call) => Self::Endpoint(call.of.endpoint.clone()),
            Call::RequestPool(_) => Self::Pool,
            Call::RequestAddress(call) if !call.gateway => Self::Address(call.pool.clone()),
            // Docker deletes an endpoint that could not be joined, and forgets what could not be deleted.
            Call::RequestAddress(_)
            | Call::Activate
            | Call::NetworkCapabilities
            | Call::GatewayCheck
            | Call::DeleteNetwork { .. }
            | Call::EndpointInfo(_)
            | Call::DeleteEndpoint(_)
            | Call::Join { .. }
            | Call::Program { .. }
            | Call::Revoke(_)
            | Call::Leave(_)
            | Call::Heard
            | Call::Swarm
            | Call::IpamCapabilities
            | Call::AddressSpaces
            | Call::ReleasePool { .. }
            | Call::ReleaseAddress { .. } => Self::Nothing,
        }
    }
}

/// Orders the calls for one thing; those for different things pass each other.
#[derive(Debug, Default)]
struct Lanes {
    open: Mutex<BTreeMap<String, Lane>>,
}

/// One thing's, with how many calls are in it.
#[derive(Clone, Debug, Default)]
struct Lane {
    turn: Arc<tokio::sync::Mutex<()>>,
    calls: usize,
}

/// A call's place in its lane.
struct Place {
    lanes: Arc<Lanes>,
    key: String,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Lanes {
    /// Does `work` when everything that came before it for the same thing is done, and answers in bounded time. Nobody
    /// may wait for the outcome any more (dockerd died, or it took too long): a good one is then taken back, before the
    /// next call for that thing.
    async fn answer<T: Send + 'static, Back: Future<Output = ()> + Send>(
        self: &Arc<Self>,
        key: Option<String>,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
        take_back: impl FnOnce(T) -> Back + Send + 'static,
    ) -> Result<T, ApiError> {
        let lane = key.map(|key| self.enter(key));
        let (done, answer) = oneshot::channel();
        // Its own task: what was begun is carried to its end also when dockerd dies.
        tokio::spawn(async move {
            let turn = match &lane {
                Some(lane) => Some(lane.turn.lock().await),
                None => None,
            };
            if let Err(Ok(reply)) = done.send(work.await) {
                take_back(reply).await;
            }
            drop(turn);
        });
        match tokio::time::timeout(ANSWER_WITHIN, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(ApiError::internal("the agent failed on this call")
                .hint("see the log of `weft agent run`")),
            Err(_) => Err(ApiError::unavailable(
                "timed_out",
                format!(
                    "this took longer than {} s and was given up",
                    ANSWER_WITHIN.as_secs()
                ),
            )
            .hint("see `weft status` and the agent's log, then try again")),
        }
    }

    fn enter(self: &Arc<Self>, key: String) -> Place {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = open.entry(key.clone()).or_default();
        lane.calls += 1;
        Place {
            lanes: Arc::clone(self),
            turn: Arc::clone(&lane.turn),
            key,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self
            .lanes
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = open.get_mut(&self.key) {
            lane.calls -= 1;
            if lane.calls == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
