//! TLS of the control channel: version 1.3 only, certificates of the cluster's own authority and no other.
//!
//! Agents and controllers prove themselves to each other (`weft-control/1`). A node that joins has no certificate yet:
//! it knows the controller by the authority's fingerprint in its token, and is known by the token (`weft-join/1`).

mod verifier;

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub(crate) use verifier::{CertCheck, Shown, verifier};

use crate::identity::{Identity, cert};

/// Members.
pub const ALPN_CONTROL: &[u8] = b"weft-control/1";
/// Nodes that are about to become members.
pub const ALPN_JOIN: &[u8] = b"weft-join/1";
/// Members whose certificate isn't taken any more, since it ended while they were away.
pub const ALPN_RENEW: &[u8] = b"weft-renew/1";

const TLS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(cas: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for ca in cas {
        roots.add(ca.clone())?;
    }
    Ok(Arc::new(roots))
}

/// For a controller with `chain` and `key`.
///
/// # Errors
/// The certificates can't be used; not with those that [`crate::identity::ca::Authority`] makes.
pub fn server(
    cas: &[CertificateDer<'static>],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<QuicServerConfig, rustls::Error> {
    let unusable = |error: &dyn std::fmt::Display| rustls::Error::General(error.to_string());
    // Who comes without a certificate may only join; `controller::serve` sees to that.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(cas)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| unusable(&error))?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![
        ALPN_CONTROL.to_vec(),
        ALPN_JOIN.to_vec(),
        ALPN_RENEW.to_vec(),
    ];
    // Every session begins with a look at the certificates: a resumed one would begin with what they were.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    QuicServerConfig::try_from(config).map_err(|error| unusable(&error))
}

/// For an agent.
///
/// # Errors
/// The identity's certificates can't be used.
pub(super) fn member(identity: &Identity) -> Result<QuicClientConfig, rustls::Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS)?
        .with_root_certificates(roots(identity.cas())?)
        .with_client_auth_cert(identity.chain().to_vec(), identity.key())?;
    config.alpn_protocols = vec![ALPN_CONTROL.to_vec()];
    quic(config)
}

/// For a member that has nothing to show: it knows the controller, and proves its key in what it asks.
///
/// # Errors
/// The identity's certificates can't be used.
pub(super) fn returning(identity: &Identity) -> Result<QuicClientConfig, rustls::Error> {
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS)?
        .with_root_certificates(roots(identity.cas())?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_RENEW.to_vec()];
    quic(config)
}

/// For a node that knows the fingerprint of the cluster's authority.
///
/// # Errors
/// The crypto library can't be used.
pub(super) fn joiner(fingerprint: [u8; 32]) -> Result<QuicClientConfig, rustls::Error> {
    let verifier = verifier(Fingerprint { fingerprint }, provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(TLS)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    quic(config)
}

fn quic(config: rustls::ClientConfig) -> Result<QuicClientConfig, rustls::Error> {
    QuicClientConfig::try_from(config).map_err(|error| rustls::Error::General(error.to_string()))
}

/// Takes a server whose chain ends in the authority with this fingerprint.
#[derive(Debug)]
struct Fingerprint {
    fingerprint: [u8; 32],
}

impl CertCheck for Fingerprint {
    fn check(&self, shown: Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<(), rustls::Error> {
        let ours = shown
            .intermediates
            .iter()
            .find(|ca| cert::fingerprint(ca) == self.fingerprint);
        let Some(ca) = ours else {
            return Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer,
            ));
        };
        let roots = roots(&[ca.clone().into_owned()])?;
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(shown.end_entity, &[], shown.name, &[], shown.now)?;
        Ok(())
    }
}
