//! Who may talk to a controller: takes QUIC connections, looks at certificate and protocol, hands them to `session` or
//! `join`. Limits are here: strangers can make it work only so much.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{
    Connection, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, Incoming,
    ServerConfig, TokioRuntime, VarInt,
};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tracing::debug;

use super::{ControllerError, Core, join, session, stopped};
use crate::channel::{HANDSHAKE_PATIENCE, close, server_transport, tls};
use crate::identity::IdentityError;
use crate::identity::ca::Authority;
use crate::identity::cert;

/// Connections at once, members and strangers.
const MAX_CONNECTIONS: usize = 4096;
/// Connections that haven't shown a certificate yet.
const MAX_STRANGERS: usize = 256;
/// From so many strangers on, a new one must first prove its address (RFC 9000 section 8.1.2).
const WARY_FROM: usize = 64;

/// The QUIC endpoint.
pub(super) fn endpoint(
    authority: &Authority,
    socket: UdpSocket,
) -> Result<Endpoint, ControllerError> {
    let (chain, key) = authority.make_controller()?;
    let tls = tls::server(authority.cert(), chain, key).map_err(|error| IdentityError::Crypto {
        what: "the controller's TLS configuration",
        cause: error.to_string(),
    })?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(server_transport());
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(endpoint_config(authority), Some(server), socket, runtime).map_err(|source| {
        ControllerError::System {
            what: "use the control channel's socket",
            source,
        }
    })
}

/// A restarted controller tells agents at once that their connection is gone (stateless reset, RFC 9000 section 10.3):
/// the key for that is derived from the authority's, and connection ids carry no key of one process as quinn's own do.
fn endpoint_config(authority: &Authority) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(authority.derive(b"weft quic stateless reset")));
    config.cid_generator(|| Box::new(RandomIds));
    config
}

/// Connection ids that say nothing.
struct RandomIds;

impl RandomIds {
    /// Enough that two never meet, and what quinn's own have.
    const LEN: usize = 8;
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::random::<[u8; Self::LEN]>())
    }

    fn cid_len(&self) -> usize {
        Self::LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Takes connections until told to stop.
pub(super) async fn accept(
    core: Arc<Core>,
    endpoint: Endpoint,
    mut stopping: watch::Receiver<bool>,
) {
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let incoming = tokio::select! {
            () = stopped(&mut stopping) => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        if endpoint.open_connections() >= MAX_CONNECTIONS {
            incoming.refuse();
            continue;
        }
        let many = MAX_STRANGERS - strangers.available_permits() >= WARY_FROM;
        if many && incoming.may_retry() {
            // It may retry, so this can't fail.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = Arc::clone(&strangers).try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let core = Arc::clone(&core);
        tokio::spawn(async move {
            match introduce(incoming).await {
                Some(Caller::Member(connection, chain)) => {
                    drop(permit);
                    member(core, connection, chain).await;
                }
                Some(Caller::Stranger(connection)) => {
                    join::serve(core, connection).await;
                    drop(permit);
                }
                None => {}
            }
        });
    }
}

enum Caller {
    /// It has a certificate of the cluster: TLS has verified that.
    Member(Connection, Vec<CertificateDer<'static>>),
    /// It wants to join.
    Stranger(Connection),
}

async fn introduce(incoming: Incoming) -> Option<Caller> {
    let remote = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_PATIENCE, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            debug!(%remote, %error, "no handshake");
            return None;
        }
        Err(_) => return None,
    };
    let handshake = connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?;
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    match (handshake.protocol.as_deref(), chain) {
        (Some(tls::ALPN_JOIN), _) => Some(Caller::Stranger(connection)),
        (Some(tls::ALPN_CONTROL), Some(chain)) => Some(Caller::Member(connection, *chain)),
        _ => {
            connection.close(
                VarInt::from_u32(close::PROTOCOL),
                b"a certificate is needed",
            );
            None
        }
    }
}

async fn member(core: Arc<Core>, connection: Connection, chain: Vec<CertificateDer<'static>>) {
    let subject = chain
        .first()
        .ok_or("no certificate".to_owned())
        .and_then(cert::subject);
    match subject {
        Ok(subject) => session::serve(core, connection, subject).await,
        Err(why) => {
            debug!(remote = %connection.remote_address(), "{why}");
            connection.close(VarInt::from_u32(close::PROTOCOL), why.as_bytes());
        }
    }
}
