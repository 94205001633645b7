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
use tokio::sync::watch;
use tokio::time::timeout;

use super::places::Places;
use super::{ControllerError, Core, join, refusals, session, stopped};
use crate::channel::{HANDSHAKE_PATIENCE, close, server_transport, tls, welcome};
use crate::identity::IdentityError;
use crate::identity::authorities::Authorities;
use crate::identity::ca::Authority;
use crate::identity::cert;

/// Connections at once, members and strangers.
const MAX_CONNECTIONS: usize = 4096;
/// Handshakes under way.
const MAX_HANDSHAKES: usize = 256;
/// Connections without a certificate: nodes that are just joining.
const MAX_JOINING: usize = 64;
/// A part of both that one address can't go beyond; the hosts behind it come again a moment later.
const SHARE_OF_ONE: usize = 4;
/// From so many strangers on, a new one must first prove its address (RFC 9000 section 8.1.2).
const WARY_FROM: usize = 64;

/// The QUIC endpoint of the controller with that mark; its own certificate lasts for `ttl`.
pub(super) fn endpoint(
    authorities: &Authorities,
    mark: [u8; 16],
    (socket, ttl): (UdpSocket, Duration),
) -> Result<Endpoint, ControllerError> {
    let server = server_config(authorities, ttl)?;
    let runtime = Arc::new(TokioRuntime);
    let config = endpoint_config(authorities.serving(), mark);
    Endpoint::new(config, Some(server), socket, runtime).map_err(|source| ControllerError::System {
        what: "use the control channel's socket",
        source,
    })
}

/// With a fresh key and certificate for this controller.
pub(super) fn server_config(
    authorities: &Authorities,
    ttl: Duration,
) -> Result<ServerConfig, ControllerError> {
    let (chain, key) = authorities.serving().make_controller(ttl)?;
    let tls = tls::server(&authorities.trusted(), chain, key);
    let tls = tls.map_err(|error| IdentityError::Crypto {
        what: "the controller's TLS configuration",
        cause: error.to_string(),
    })?;
    let mut server = ServerConfig::with_crypto(Arc::new(tls));
    server.transport_config(server_transport());
    Ok(server)
}

/// A restarted controller tells agents at once that their connection is gone (stateless reset, RFC 9000 section 10.3):
/// the key for that is derived from the authority's, and connection ids carry no key of one process as quinn's own do.
/// Each controller has a key of its own: one that answered for the connections of another would end them (section 21.11).
fn endpoint_config(authority: &Authority, mark: [u8; 16]) -> EndpointConfig {
    let purpose = [&b"weft quic stateless reset"[..], &mark].concat();
    let mut config = EndpointConfig::new(Arc::new(authority.derive(&purpose)));
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
    let handshakes = Places::new(MAX_HANDSHAKES, MAX_HANDSHAKES / SHARE_OF_ONE);
    let joining = Places::new(MAX_JOINING, MAX_JOINING / SHARE_OF_ONE);
    loop {
        let incoming = tokio::select! {
            () = stopped(&mut stopping) => return,
            incoming = endpoint.accept() => incoming,
        };
        let Some(incoming) = incoming else { return };
        if core.fellows.is_cut_off() {
            incoming.refuse();
            continue;
        }
        let remote = incoming.remote_address();
        if endpoint.open_connections() >= MAX_CONNECTIONS {
            core.refusals
                .note(refusals::CROWDED, remote, "too many connections");
            incoming.refuse();
            continue;
        }
        let many = handshakes.taken() >= WARY_FROM;
        if many && incoming.may_retry() {
            // It may retry, so this can't fail.
            let _ = incoming.retry();
            continue;
        }
        let Some(place) = handshakes.take(remote.ip()) else {
            core.refusals
                .note(refusals::CROWDED, remote, "too many handshakes");
            incoming.refuse();
            continue;
        };
        let (core, joining) = (Arc::clone(&core), Arc::clone(&joining));
        tokio::spawn(async move {
            let caller = introduce(&core, incoming).await;
            drop(place);
            match caller {
                Some(Caller::Member(connection, chain)) => member(core, connection, chain).await,
                Some(Caller::Stranger(connection, wish)) => {
                    stranger(core, (connection, wish), &joining).await;
                }
                None => {}
            }
        });
    }
}

enum Caller {
    /// It has a certificate of the cluster: TLS has verified that.
    Member(Connection, Vec<CertificateDer<'static>>),
    /// It has nothing to show.
    Stranger(Connection, join::Wish),
}

async fn introduce(core: &Core, incoming: Incoming) -> Option<Caller> {
    let remote = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_PATIENCE, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            core.refusals.note(refusals::HANDSHAKE, remote, error);
            return None;
        }
        Err(_) => {
            core.refusals
                .note(refusals::SLOW, remote, "no whole handshake");
            return None;
        }
    };
    let handshake = connection
        .handshake_data()?
        .downcast::<HandshakeData>()
        .ok()?;
    let chain = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    match (handshake.protocol.as_deref(), chain) {
        (Some(tls::ALPN_JOIN), _) => Some(Caller::Stranger(connection, join::Wish::Join)),
        (Some(tls::ALPN_RENEW), _) => Some(Caller::Stranger(connection, join::Wish::Renew)),
        (Some(tls::ALPN_CONTROL), Some(chain)) => Some(Caller::Member(connection, *chain)),
        _ => {
            core.refusals
                .note(refusals::NO_MEMBER, remote, "no certificate");
            connection.close(
                VarInt::from_u32(close::PROTOCOL),
                b"a certificate is needed",
            );
            None
        }
    }
}

/// One that finds no place calls again.
async fn stranger(
    core: Arc<Core>,
    (connection, wish): (Connection, join::Wish),
    joining: &Arc<Places>,
) {
    match joining.take(connection.remote_address().ip()) {
        Some(_place) => join::serve(core, connection, wish).await,
        None => {
            let remote = connection.remote_address();
            core.refusals
                .note(refusals::CROWDED, remote, "too many are joining");
            connection.close(VarInt::from_u32(close::DONE), b"too many are joining");
        }
    }
}

async fn member(core: Arc<Core>, connection: Connection, chain: Vec<CertificateDer<'static>>) {
    let subject = chain
        .first()
        .ok_or("no certificate".to_owned())
        .and_then(cert::subject);
    match subject {
        Ok(subject) => {
            welcome(&connection);
            session::serve(core, connection, subject).await;
        }
        Err(why) => {
            let remote = connection.remote_address();
            core.refusals.note(refusals::NO_MEMBER, remote, &why);
            connection.close(VarInt::from_u32(close::PROTOCOL), why.as_bytes());
        }
    }
}
