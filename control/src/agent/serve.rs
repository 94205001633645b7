//! The local API server: HTTP/1 with JSON bodies on a unix socket of mode 0660. Routes are listed in [`crate::api`].
//!
//! It listens from the first moment of an agent's life: while the agent still joins its cluster, requests are answered
//! with `joining` and the reason, and `status?wait=` waits.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::{Agent, ApiError};
use crate::api;

mod routers;

/// Mode of the socket: its owner and group may speak to the agent.
const SOCKET_MODE: u32 = 0o660;
/// The longest time that a `status?wait=` may wait.
const MAX_WAIT: Duration = Duration::from_secs(3600);

/// Why the socket can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody answers on it.
    #[error("another agent listens at {path}; stop it, or give this one its own --socket", path = .0.display())]
    Taken(PathBuf),
    /// Something that is no socket has the name.
    #[error("{path} is there and is no socket; move it away, or give another --socket", path = .0.display())]
    NotASocket(PathBuf),
    /// It can't be made.
    #[error("cannot listen at {path}: {source}; give another --socket", path = path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Binds the API's socket. A socket file that nobody listens on any more is replaced.
///
/// # Errors
/// [`SocketError`].
pub(super) fn bind(path: &Path) -> Result<StdUnixListener, SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(SocketError::Taken(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed)?;
            }
            Err(source) => return Err(failed(source)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(failed(source)),
    }
    // Made under a name of our own with its final mode, then moved: nobody sees it with another mode.
    let fresh = path.with_file_name(format!(".{}", std::process::id()));
    let _ = fs::remove_file(&fresh);
    let listener = StdUnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    fs::rename(&fresh, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// What the agent is doing before it can answer.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    /// Not yet a member; why, in a sentence.
    Joining(String),
    /// At work.
    Running(Arc<Agent>),
}

/// Serves the API until the agent ends; what was begun is answered.
pub(super) async fn serve(
    listener: StdUnixListener,
    phase: watch::Receiver<Phase>,
) -> io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let ended = ended(phase.clone());
    axum::serve(listener, router(Door { phase }))
        .with_graceful_shutdown(ended)
        .await
}

pub(super) async fn ended(mut phase: watch::Receiver<Phase>) {
    let running = phase.wait_for(|phase| matches!(phase, Phase::Running(_)));
    let mut stopped = match running.await.as_deref() {
        Ok(Phase::Running(agent)) => agent.stopped.subscribe(),
        Ok(Phase::Joining(_)) | Err(_) => return,
    };
    // An agent that is gone has ended, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn router(door: Door) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/stop", post(stop))
        .route("/v1/peers", get(peers))
        .route("/v1/ports", get(ports))
        .route("/v1/uplinks", get(uplinks).post(uplink_add))
        .route(
            "/v1/uplinks/{network}/{dev}",
            axum::routing::delete(uplink_rm),
        )
        .route("/v1/ports/{name}", axum::routing::patch(port_change))
        .route("/v1/fdb", get(fdb))
        .route("/v1/drops", get(drops))
        .route("/v1/egress", get(egress))
        .route("/v1/subnets", get(subnets))
        .route("/v1/ipam", get(leases))
        .route("/v1/ipam/audit", get(audit).post(audit_and_fix))
        .route("/v1/dns", get(dns))
        .route("/v1/nodes", get(nodes))
        .route("/v1/nodes/{name}", axum::routing::delete(node_rm))
        .route("/v1/networks", get(networks).post(network_create))
        .route(
            "/v1/networks/{name}",
            get(network_inspect)
                .patch(network_change)
                .delete(network_rm),
        )
        .route("/v1/networks-prune", post(network_prune))
        .route("/v1/networks/{name}/vteps", get(vteps))
        .route(
            "/v1/networks/{name}/vteps/{ip}",
            put(vtep_add).delete(vtep_rm),
        )
        .route("/v1/networks/{name}/connect", post(connect))
        .route("/v1/networks/{name}/disconnect", post(disconnect))
        .route("/v1/attachments", get(attachments))
        .route("/v1/attachments/detach", post(detach))
        .merge(routers::routes())
        .fallback(unknown_route)
        .with_state(door)
}

#[derive(Clone, Debug)]
struct Door {
    phase: watch::Receiver<Phase>,
}

impl Door {
    fn agent(&self) -> Result<Arc<Agent>, ApiError> {
        match &*self.phase.borrow() {
            Phase::Running(agent) => Ok(Arc::clone(agent)),
            Phase::Joining(why) => Err(ApiError::unavailable("joining", why.clone())
                .hint("wait with `weft status --wait`, or see the agent's log")),
        }
    }

    async fn agent_within(&self, wait: Duration) -> Result<Arc<Agent>, ApiError> {
        let mut phase = self.phase.clone();
        let running = phase.wait_for(|phase| matches!(phase, Phase::Running(_)));
        let _ = tokio::time::timeout(wait, running).await;
        self.agent()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.reply)).into_response()
    }
}

type Reply<T> = Result<Json<T>, ApiError>;

/// Bodies are parsed by ourselves: clients needn't send a content type, and errors are ours.
fn body<T: DeserializeOwned>(bytes: &Bytes) -> Result<T, ApiError> {
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { bytes };
    serde_json::from_slice(text).map_err(|error| {
        ApiError::bad_request(
            "bad_body",
            format!("the request's body can't be read: {error}"),
        )
    })
}

#[derive(Debug, Default, Deserialize)]
struct StatusQuery {
    wait: Option<u64>,
}

async fn status(State(door): State<Door>, Query(query): Query<StatusQuery>) -> Reply<api::Status> {
    let Some(wait) = query.wait else {
        return Ok(Json(door.agent()?.status()));
    };
    let wait = Duration::from_secs(wait).min(MAX_WAIT);
    let deadline = tokio::time::Instant::now() + wait;
    let agent = door.agent_within(wait).await?;
    agent.wait_in_sync(deadline).await.map(Json)
}

async fn stop(State(door): State<Door>, bytes: Bytes) -> Reply<api::Stopping> {
    let agent = door.agent()?;
    let request = body::<api::Stop>(&bytes)?;
    // Its own task: a caller that hangs up half-way must not leave an agent that neither ends nor serves.
    own_task(async move { agent.end(request).await })
        .await
        .map(Json)
}

async fn peers(State(door): State<Door>) -> Reply<api::Peers> {
    Ok(Json(door.agent()?.peers()))
}

async fn ports(State(door): State<Door>) -> Reply<Vec<api::Port>> {
    Ok(Json(door.agent()?.ports()))
}

async fn uplinks(State(door): State<Door>) -> Reply<Vec<api::Uplink>> {
    Ok(Json(door.agent()?.uplinks()))
}

async fn uplink_add(State(door): State<Door>, bytes: Bytes) -> Reply<api::Uplink> {
    let (agent, wish) = (door.agent()?, body(&bytes)?);
    Ok(Json(
        own_task(async move { agent.uplink_add(wish).await }).await?,
    ))
}

async fn uplink_rm(
    State(door): State<Door>,
    UrlPath((network, dev)): UrlPath<(String, String)>,
) -> Reply<api::Uplink> {
    let agent = door.agent()?;
    Ok(Json(
        own_task(async move { agent.uplink_rm(&network, &dev).await }).await?,
    ))
}

async fn port_change(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::Port> {
    let (agent, change) = (door.agent()?, body(&bytes)?);
    // Its own task: a caller that hangs up half-way must not leave what is in force and what is on disk apart.
    Ok(Json(
        own_task(async move { agent.port_change(name, change).await }).await?,
    ))
}

async fn fdb(State(door): State<Door>) -> Reply<Vec<api::FdbEntry>> {
    Ok(Json(door.agent()?.fdb()))
}

async fn leases(State(door): State<Door>) -> Reply<Vec<api::Lease>> {
    Ok(Json(door.agent()?.all_leases().await))
}

async fn audit(State(door): State<Door>) -> Reply<api::Audit> {
    Ok(Json(door.agent()?.audit().await))
}

async fn audit_and_fix(State(door): State<Door>) -> Reply<api::Audit> {
    let agent = door.agent()?;
    // Its own task: a caller that hangs up half-way must not leave it half-done.
    own_task(async move { agent.audit_and_fix().await })
        .await
        .map(Json)
}

async fn dns(State(door): State<Door>) -> Reply<api::Dns> {
    Ok(Json(door.agent()?.services.dns()))
}

async fn drops(State(door): State<Door>) -> Reply<Vec<api::Drops>> {
    Ok(Json(door.agent()?.drops()))
}

async fn egress(State(door): State<Door>) -> Reply<Vec<api::NetworkEgress>> {
    Ok(Json(door.agent()?.outside.view()))
}

async fn subnets(State(door): State<Door>) -> Reply<Vec<api::SubnetBlock>> {
    Ok(Json(door.agent()?.subnets().await))
}

async fn nodes(State(door): State<Door>) -> Reply<Vec<api::NodeInfo>> {
    Ok(Json(door.agent()?.nodes().await))
}

async fn node_rm(State(door): State<Door>, UrlPath(name): UrlPath<String>) -> Reply<Empty> {
    door.agent()?.node_rm(name).await?;
    Ok(Json(Empty {}))
}

async fn networks(State(door): State<Door>) -> Reply<Vec<api::NetworkInfo>> {
    Ok(Json(door.agent()?.networks().await))
}

async fn network_create(State(door): State<Door>, bytes: Bytes) -> Reply<api::NetworkInfo> {
    Ok(Json(door.agent()?.network_create(body(&bytes)?).await?))
}

async fn network_inspect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
) -> Reply<api::NetworkDetail> {
    Ok(Json(door.agent()?.network_inspect(&name).await?))
}

async fn network_change(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::NetworkInfo> {
    Ok(Json(
        door.agent()?.network_change(name, body(&bytes)?).await?,
    ))
}

async fn network_rm(State(door): State<Door>, UrlPath(name): UrlPath<String>) -> Reply<Empty> {
    door.agent()?.network_rm(name).await?;
    Ok(Json(Empty {}))
}

async fn network_prune(State(door): State<Door>) -> Reply<api::Pruned> {
    Ok(Json(door.agent()?.network_prune().await?))
}

async fn vteps(State(door): State<Door>, UrlPath(name): UrlPath<String>) -> Reply<Vec<IpAddr>> {
    Ok(Json(
        door.agent()?.network_inspect(&name).await?.network.vteps,
    ))
}

async fn vtep_add(
    State(door): State<Door>,
    UrlPath((name, ip)): UrlPath<(String, String)>,
) -> Reply<Empty> {
    door.agent()?.vtep_add(name, vtep_address(&ip)?).await?;
    Ok(Json(Empty {}))
}

async fn vtep_rm(
    State(door): State<Door>,
    UrlPath((name, ip)): UrlPath<(String, String)>,
) -> Reply<Empty> {
    door.agent()?.vtep_rm(name, vtep_address(&ip)?).await?;
    Ok(Json(Empty {}))
}

fn vtep_address(text: &str) -> Result<IpAddr, ApiError> {
    text.parse()
        .map_err(|_| ApiError::bad_request("bad_address", format!("{text:?} is not an IP address")))
}

async fn connect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::Port> {
    let (agent, request) = (door.agent()?, body(&bytes)?);
    // Its own task: a caller that hangs up half-way must not leave half a port.
    Ok(Json(
        own_task(async move { agent.connect(&name, request).await }).await?,
    ))
}

async fn disconnect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::Port> {
    let (agent, request) = (door.agent()?, body(&bytes)?);
    Ok(Json(
        own_task(async move { agent.disconnect(&name, request).await }).await?,
    ))
}

#[derive(Debug, Default, Deserialize)]
struct AttachmentsQuery {
    owner: Option<String>,
    container: Option<String>,
}

async fn attachments(
    State(door): State<Door>,
    Query(query): Query<AttachmentsQuery>,
) -> Reply<Vec<api::Port>> {
    let (owner, container) = (query.owner.as_deref(), query.container.as_deref());
    Ok(Json(door.agent()?.attachments(owner, container)))
}

async fn detach(State(door): State<Door>, bytes: Bytes) -> Reply<api::Detached> {
    let (agent, attachment) = (door.agent()?, body(&bytes)?);
    Ok(Json(
        own_task(async move { agent.detach(attachment).await }).await?,
    ))
}

async fn own_task<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(ApiError::internal(format!(
            "the agent failed on this request: {error}"
        )))
    })
}

async fn unknown_route(uri: axum::http::Uri) -> ApiError {
    ApiError::not_found(
        "unknown_route",
        format!("this agent's API has no {}", uri.path()),
    )
    .hint(
        "client and agent may be of different versions: compare `weft --version` and `weft status`",
    )
}

#[derive(Debug, serde::Serialize)]
struct Empty {}
