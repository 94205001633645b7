//! Certificates of a cluster of two, and mutual TLS 1.3 with them: who shows none of this authority gets no connection.
//! The only cipher is AES-128-GCM, which the CPU has instructions for.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::args::Run;

/// What both hosts' certificates say; the authority stands for two hosts only.
pub(crate) const NAME: &str = "host.weft-quic.internal";
/// The first message says what is spoken.
const ALPN: &[u8] = b"weft-quic-bench";
const TLS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Makes an authority and both hosts' keys and certificates.
///
/// # Errors
/// A sentence: something can't be made or written.
pub(crate) fn make(dir: &Path) -> Result<(), String> {
    let words = |error: rcgen::Error| error.to_string();
    let new_key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(words);
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    ca.distinguished_name.push(DnType::CommonName, "weft-quic");
    let ca_key = new_key()?;
    let ca_cert = ca.self_signed(&ca_key).map_err(words)?;
    let issuer = Issuer::from_ca_cert_der(ca_cert.der(), &ca_key).map_err(words)?;
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    write(&dir.join("ca.der"), ca_cert.der())?;
    for host in [1, 2] {
        let key = new_key()?;
        let mut params = CertificateParams::new(vec![NAME.to_owned()]).map_err(words)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let cert = params.signed_by(&key, &issuer).map_err(words)?;
        write(&dir.join(format!("{host}.der")), cert.der())?;
        write(&dir.join(format!("{host}.key")), key.serialized_der())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// What a host has.
struct Identity {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    fn load(run: &Run) -> Result<Self, String> {
        let file = |name: &str| read(&run.certificates.join(name));
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from(file("ca.der")?);
        roots.add(ca).map_err(|error| error.to_string())?;
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        Ok(Self {
            roots: Arc::new(roots),
            chain: vec![CertificateDer::from(file(&format!("{}.der", run.host))?)],
            key: PrivatePkcs8KeyDer::from(file(&format!("{}.key", run.host))?).into(),
            provider: Arc::new(provider),
        })
    }
}

/// For the side that opens connections.
///
/// # Errors
/// A sentence: the certificates are of no use.
pub(crate) fn client(run: &Run) -> Result<Arc<QuicClientConfig>, String> {
    let identity = Identity::load(run)?;
    let words = |error: rustls::Error| error.to_string();
    let mut config = rustls::ClientConfig::builder_with_provider(identity.provider)
        .with_protocol_versions(TLS)
        .map_err(words)?
        .with_root_certificates(identity.roots)
        .with_client_auth_cert(identity.chain, identity.key)
        .map_err(words)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = QuicClientConfig::try_from(config).map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}

/// For the side that takes them.
///
/// # Errors
/// A sentence: the certificates are of no use.
pub(crate) fn server(run: &Run) -> Result<Arc<QuicServerConfig>, String> {
    let identity = Identity::load(run)?;
    let words = |error: rustls::Error| error.to_string();
    let provider = Arc::clone(&identity.provider);
    let verifier = WebPkiClientVerifier::builder_with_provider(identity.roots, provider)
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = rustls::ServerConfig::builder_with_provider(identity.provider)
        .with_protocol_versions(TLS)
        .map_err(words)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain, identity.key)
        .map_err(words)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    let config = QuicServerConfig::try_from(config).map_err(|error| error.to_string())?;
    Ok(Arc::new(config))
}
