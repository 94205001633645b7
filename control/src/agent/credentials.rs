//! Who we are to the peers of encrypted networks, and how they prove who they are: the cluster's certificates, both ways
//! (`channel::tls` does the same towards controllers). The chain to the cluster's authority says that somebody is a node
//! of the cluster; which one, the key says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use quinn::Connection;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{ClientConfig, HmacKey, ServerConfig};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use tracing::warn;
use weft_tunnel::session::{Credentials, Proof};

use super::Agent;
use crate::channel::tls::{CertCheck, Shown, verifier};
use crate::identity::{Identity, cert};
use crate::model::ClusterId;

/// Sessions between nodes.
const ALPN_TUNNEL: &[u8] = b"weft-tunnel/1";
const TLS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// This node's certificate and key, as its tunnels use them.
#[derive(Debug)]
pub(super) struct NodeCredentials {
    /// Another one at each renewal; key, node and cluster stay.
    identity: watch::Receiver<Arc<Identity>>,
}

impl NodeCredentials {
    pub(super) const fn new(identity: watch::Receiver<Arc<Identity>>) -> Self {
        Self { identity }
    }

    fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    fn try_client(&self, node: &str) -> Result<QuicClientConfig, rustls::Error> {
        let identity = self.identity();
        let provider = Arc::new(provider::default_provider());
        let check = NodeVerifier {
            node: node.to_owned(),
            cluster: identity.cluster.clone(),
            roots: roots(&identity)?,
        };
        let verifier = verifier(check, Arc::clone(&provider));
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(TLS)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(identity.chain().to_vec(), identity.key())?;
        config.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
        // Each session is a whole handshake: a key that is to be new owes nothing to an old one.
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_early_data = false;
        QuicClientConfig::try_from(config).map_err(general)
    }

    fn try_server(&self) -> Result<QuicServerConfig, rustls::Error> {
        let identity = self.identity();
        let provider = Arc::new(provider::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(&identity)?, Arc::clone(&provider))
                .build()
                .map_err(general)?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(TLS)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain().to_vec(), identity.key())?;
        config.alpn_protocols = vec![ALPN_TUNNEL.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        QuicServerConfig::try_from(config).map_err(general)
    }
}

/// Both authorities, while one takes the place of the other.
fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for ca in identity.cas() {
        roots.add(ca.clone())?;
    }
    Ok(Arc::new(roots))
}

fn general(error: impl std::fmt::Display) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

impl Credentials for NodeCredentials {
    fn node(&self) -> String {
        self.identity().node_id.0.clone()
    }

    fn client(&self, node: &str) -> Result<Arc<dyn ClientConfig>, String> {
        let config = self.try_client(node).map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }

    fn server(&self) -> Result<Arc<dyn ServerConfig>, String> {
        let config = self.try_server().map_err(|error| error.to_string())?;
        Ok(Arc::new(config))
    }

    fn peer(&self, connection: &Connection) -> Result<Proof, String> {
        let chain = connection
            .peer_identity()
            .ok_or("it showed no certificate")?;
        let chain = chain
            .downcast::<Vec<CertificateDer<'static>>>()
            .map_err(|_| "it showed no certificate that we know")?;
        let cert = chain.first().ok_or("it showed no certificate")?;
        let own = self.identity();
        let ends = own.validity().until.min(cert::validity(cert)?.until);
        Ok(Proof {
            node: node_of(cert, &own.cluster)?,
            until: SystemTime::UNIX_EPOCH + Duration::from_secs(ends),
        })
    }

    fn reset_key(&self) -> Arc<dyn HmacKey> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, self.identity().key().secret_der());
        let derived = hmac::sign(&root, b"weft tunnel stateless reset");
        Arc::new(hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()))
    }
}

/// The node that a certificate of our cluster names; its chain is checked elsewhere.
fn node_of(cert: &CertificateDer<'_>, cluster: &ClusterId) -> Result<String, String> {
    let subject = cert::subject(cert)?;
    if subject.cluster != *cluster {
        return Err(format!("it is a node of cluster {}", subject.cluster));
    }
    Ok(subject.node.0)
}

/// Takes one node of the cluster and nobody else.
#[derive(Debug)]
struct NodeVerifier {
    node: String,
    cluster: ClusterId,
    roots: Arc<RootCertStore>,
}

impl CertCheck for NodeVerifier {
    fn check(&self, shown: Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<(), rustls::Error> {
        let parsed = ParsedCertificate::try_from(shown.end_entity)?;
        let algorithms = provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            shown.intermediates,
            shown.now,
            algorithms,
        )?;
        match node_of(shown.end_entity, &self.cluster) {
            Ok(node) if node == self.node => Ok(()),
            Ok(_) | Err(_) => Err(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }
}

/// Has the sessions show the new certificate after each renewal, until the agent stops.
pub(super) async fn follow(agent: Arc<Agent>) {
    let mut identity = agent.link.identity();
    while identity.changed().await.is_ok() {
        let sessions = agent.fabric().sessions();
        if let Some(Err(why)) = sessions.map(|sessions| sessions.credentials_changed()) {
            warn!(%why, "the tunnels still show the certificate before the renewal");
        }
    }
}
