//! Calls to an etcd cluster: to the member that answered last, to the next one when it doesn't. Every call that is made
//! here may be repeated: none does harm when a lost answer's work was done after all.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::http::uri::PathAndQuery;
use tokio::time::{sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use tracing::debug;

use super::config::EtcdConfig;
use super::proto::{AuthenticateRequest, Method};
use crate::store::StoreError;

/// Until a member that takes a connection must have taken it.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Until one member must have answered; then the next is asked.
const MEMBER_PATIENCE: Duration = Duration::from_millis(1500);
/// Until somebody must have answered. An election takes about a second (etcd's `--election-timeout`).
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two rounds of asking all members.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A connection that is silent for this long is asked whether it lives (HTTP/2 PING), and is dead when it isn't heard
/// of for as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Longest answer: a page of the longest values there are.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// The members and how they're talked to.
pub(super) struct Client {
    name: String,
    members: Vec<Member>,
    /// Which answered last.
    current: AtomicUsize,
    login: Option<AuthenticateRequest>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

struct Member {
    address: String,
    channel: Channel,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Must be called inside a tokio runtime. Connects at the first call.
    ///
    /// # Errors
    /// [`StoreError::Io`] for a file that can't be read; [`StoreError::Etcd`] for what is in it.
    pub(super) fn new(config: &EtcdConfig) -> Result<Self, StoreError> {
        let name = config.name();
        let failed = |what: &str, cause: &dyn std::fmt::Display| StoreError::Etcd {
            store: name.clone(),
            cause: format!("{what}: {cause}"),
        };
        let tls = tls(config)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut members = Vec::new();
        for address in &config.members {
            let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
                .map_err(|error| failed("a member's address is not usable", &error))?
                .connect_timeout(CONNECT_PATIENCE)
                .tcp_nodelay(true)
                .tcp_keepalive(Some(KEEP_ALIVE))
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true);
            if let Some(tls) = &tls {
                endpoint = endpoint
                    .tls_config(tls.clone())
                    .map_err(|error| failed("the TLS files are not usable", &error))?;
            }
            members.push(Member {
                address: address.clone(),
                channel: endpoint.connect_lazy(),
            });
        }
        let login = config.user.as_ref().map(|user| AuthenticateRequest {
            name: user.clone(),
            password: config.password.clone().unwrap_or_default(),
        });
        Ok(Self {
            name,
            members,
            current: AtomicUsize::new(0),
            login,
            token: Mutex::default(),
        })
    }

    /// The store's name for people.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Calls until a member answers or [`PATIENCE`] ends.
    ///
    /// # Errors
    /// [`StoreError::Etcd`].
    pub(super) async fn call<M: Method>(&self, request: &M) -> Result<M::Answer, StoreError> {
        let mut tries = Tries::new();
        loop {
            let at = self.current();
            let call = self.unary(&self.members[at], request);
            match timeout(MEMBER_PATIENCE, call)
                .await
                .unwrap_or_else(|_| silent())
            {
                Ok(answer) => return Ok(answer),
                Err(status) => self.after(&mut tries, at, (M::PATH, status)).await?,
            }
        }
    }

    /// Opens a stream of answers to one request. It ends with an error when its member has lost the cluster's leader.
    ///
    /// # Errors
    /// [`StoreError::Etcd`].
    pub(super) async fn stream<M: Method>(
        &self,
        request: &M,
    ) -> Result<tonic::Streaming<M::Answer>, StoreError> {
        let mut tries = Tries::new();
        loop {
            let at = self.current();
            let open = self.open(&self.members[at], request);
            match timeout(MEMBER_PATIENCE, open)
                .await
                .unwrap_or_else(|_| silent())
            {
                Ok(stream) => return Ok(stream),
                Err(status) => self.after(&mut tries, at, (M::PATH, status)).await?,
            }
        }
    }

    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.members.len()
    }

    /// After a member said no: returns when it is worth trying the next, or the same again.
    async fn after(
        &self,
        tries: &mut Tries,
        at: usize,
        (path, status): (&'static str, Status),
    ) -> Result<(), StoreError> {
        let member = &self.members[at];
        debug!(member = %member.address, path, %status, "etcd member failed");
        match fate(&status) {
            Fate::Final => return Err(self.failed(explain(&status))),
            Fate::LogIn if tries.logins < self.members.len() => {
                tries.logins += 1;
                match self.log_in(member).await {
                    Ok(()) => return Ok(()),
                    Err(status) if matches!(fate(&status), Fate::Another) => {}
                    Err(status) => {
                        let cause = format!("cannot log in: {}", explain(&status));
                        return Err(self.failed(cause));
                    }
                }
            }
            Fate::LogIn => return Err(self.failed(explain(&status))),
            Fate::Another => {}
        }
        tries.count += 1;
        // Unless another call has moved on already.
        let next = (at + 1) % self.members.len();
        let _ = self
            .current
            .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        if Instant::now() >= tries.deadline {
            let last = format!("{}: {}", member.address, explain(&status));
            return Err(self.failed(format!("no member of it answers ({last})")));
        }
        if tries.count.is_multiple_of(self.members.len()) {
            sleep(ROUND_PAUSE).await;
        }
        Ok(())
    }

    async fn unary<M: Method>(&self, member: &Member, request: &M) -> Result<M::Answer, Status> {
        let mut grpc = self.grpc(member).await?;
        let path = PathAndQuery::from_static(M::PATH);
        let request = self.dress(tonic::Request::new(request.clone())).await?;
        let codec = ProstCodec::<M, M::Answer>::default();
        grpc.unary(request, path, codec)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn open<M: Method>(
        &self,
        member: &Member,
        request: &M,
    ) -> Result<tonic::Streaming<M::Answer>, Status> {
        let mut grpc = self.grpc(member).await?;
        let path = PathAndQuery::from_static(M::PATH);
        let mut request = self.dress(tonic::Request::new(request.clone())).await?;
        request
            .metadata_mut()
            .insert("hasleader", MetadataValue::from_static("true"));
        let codec = ProstCodec::<M, M::Answer>::default();
        grpc.server_streaming(request, path, codec)
            .await
            .map(tonic::Response::into_inner)
    }

    async fn grpc(&self, member: &Member) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(member.channel.clone())
            .max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    /// With the token of our user, if we have one.
    async fn dress<T>(&self, mut request: tonic::Request<T>) -> Result<tonic::Request<T>, Status> {
        if self.login.is_none() {
            return Ok(request);
        }
        let token = self
            .token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let token = token.ok_or_else(|| Status::unauthenticated("not logged in yet"))?;
        request.metadata_mut().insert("token", token);
        Ok(request)
    }

    async fn log_in(&self, member: &Member) -> Result<(), Status> {
        let Some(login) = &self.login else {
            return Err(Status::permission_denied("it wants a user and a password"));
        };
        let path = PathAndQuery::from_static(AuthenticateRequest::PATH);
        let codec =
            ProstCodec::<AuthenticateRequest, <AuthenticateRequest as Method>::Answer>::default();
        let call = async {
            let mut grpc = self.grpc(member).await?;
            grpc.unary(tonic::Request::new(login.clone()), path, codec)
                .await
        };
        let answer = timeout(MEMBER_PATIENCE, call).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::unavailable("it does not answer")))?;
        let token = MetadataValue::try_from(answer.into_inner().token)
            .map_err(|_| Status::internal("its token is no text"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        Ok(())
    }

    /// As if the server didn't know our token any more.
    #[cfg(test)]
    pub(super) fn forget_token(&self) {
        let wrong = MetadataValue::from_static("nobody.1");
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(wrong);
    }

    fn failed(&self, cause: String) -> StoreError {
        let store = self.name.clone();
        StoreError::Etcd { store, cause }
    }
}

/// What was tried for one call.
struct Tries {
    deadline: Instant,
    count: usize,
    logins: usize,
}

impl Tries {
    fn new() -> Self {
        Self {
            deadline: Instant::now() + PATIENCE,
            count: 0,
            logins: 0,
        }
    }
}

fn silent<T>() -> Result<T, Status> {
    Err(Status::unavailable("it does not answer"))
}

/// What an error means for the call.
enum Fate {
    /// Nobody would answer otherwise.
    Final,
    /// Our token is too old, or there is none yet.
    LogIn,
    /// Another member may answer, or this one a little later.
    Another,
}

fn fate(status: &Status) -> Fate {
    let stale_token = status.message().contains("revision of auth store is old")
        || status.message().contains("invalid auth token");
    match status.code() {
        _ if stale_token => Fate::LogIn,
        Code::Unauthenticated => Fate::LogIn,
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => Fate::Another,
        // Too many requests for the moment, or no room: the latter stays.
        Code::ResourceExhausted if !status.message().contains("space exceeded") => Fate::Another,
        // "etcdserver: user name is empty": it has authentication and we said no user.
        Code::InvalidArgument if status.message().contains("user name is empty") => Fate::LogIn,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss => Fate::Final,
    }
}

/// In words, with the next step where there is one.
fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    // The transport's own words are in the sources.
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    let next = match status.code() {
        Code::ResourceExhausted if text.contains("space exceeded") => {
            "; compact and defragment it, then `etcdctl alarm disarm` (docs/controllers.md)"
        }
        Code::PermissionDenied => {
            "; give its user read and write on the prefix (docs/controllers.md)"
        }
        Code::InvalidArgument if text.contains("authentication failed") => {
            "; see --store-user and the password"
        }
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => "",
    };
    text + next
}

fn tls(config: &EtcdConfig) -> Result<Option<ClientTlsConfig>, StoreError> {
    let Some(ca) = &config.ca else {
        return Ok(None);
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    if let (Some(cert), Some(key)) = (&config.cert, &config.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(Some(tls))
}

fn read(path: &PathBuf) -> Result<Vec<u8>, StoreError> {
    std::fs::read(path).map_err(|error| StoreError::Io {
        what: "read",
        path: path.clone(),
        cause: format!("{error}; it is to be a PEM file for TLS with etcd"),
    })
}
