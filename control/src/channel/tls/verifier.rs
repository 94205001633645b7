//! What every check of a server by its certificate has in common: the peer holds the certificate's key, by TLS 1.3.

use std::fmt::Debug;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What a server shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    /// Its own certificate.
    pub(crate) end_entity: &'a CertificateDer<'a>,
    /// Those above it.
    pub(crate) intermediates: &'a [CertificateDer<'a>],
    /// Whom we called.
    pub(crate) name: &'a ServerName<'a>,
    /// When.
    pub(crate) now: UnixTime,
}

/// Whether a certificate is the wanted server's.
pub(crate) trait CertCheck: Debug + Send + Sync {
    /// # Errors
    /// It isn't.
    fn check(&self, shown: Shown<'_>, provider: &Arc<CryptoProvider>) -> Result<(), rustls::Error>;
}

/// A check as rustls calls it.
#[derive(Debug)]
struct Verifier<C> {
    check: C,
    provider: Arc<CryptoProvider>,
}

/// That check, with the proof that the server holds its certificate's key.
pub(crate) fn verifier(
    check: impl CertCheck + 'static,
    provider: Arc<CryptoProvider>,
) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Verifier { check, provider })
}

impl<C: CertCheck> ServerCertVerifier for Verifier<C> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Shown {
            end_entity,
            intermediates,
            name,
            now,
        };
        self.check.check(shown, &self.provider)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
