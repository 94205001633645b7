//! The cluster's authority: minted once by the first controller, kept in its store, signs nodes and controllers.

use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};

use super::{IdentityError, cert};
use crate::model::{ClusterId, NodeId};

/// The name every controller's certificate has and no node's has.
pub const CONTROLLER_NAME: &str = "controller.weft";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Hosts' clocks may differ by this much before a fresh certificate is refused as not valid yet.
const CLOCK_SLACK: Duration = DAY;
/// A certificate of a node or controller lasts this long when nobody says otherwise; it is renewed with a third of that
/// left.
pub const CERT_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The authority itself.
pub const CA_VALIDITY: Duration = Duration::from_secs(20 * 366 * 24 * 60 * 60);

/// The authority with its private key.
pub struct Authority {
    cluster: ClusterId,
    cert: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

/// A node that asked to be signed: its request was made by the holder of the key.
#[derive(Debug)]
pub struct Applicant {
    csr: CertificateSigningRequestParams,
    node: NodeId,
}

impl Applicant {
    /// Reads and verifies a certificate signing request.
    ///
    /// # Errors
    /// A sentence.
    pub fn from_csr(csr: &[u8]) -> Result<Self, String> {
        let csr = CertificateSigningRequestDer::from(csr);
        let csr = CertificateSigningRequestParams::from_der(&csr)
            .map_err(|error| format!("the certificate signing request is not usable ({error})"))?;
        let node = cert::node_id_of(&csr.public_key);
        Ok(Self { csr, node })
    }

    /// Who asks.
    pub fn node(&self) -> &NodeId {
        &self.node
    }
}

impl Authority {
    /// A new cluster.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn mint() -> Result<Self, IdentityError> {
        Self::mint_for(ClusterId(format!("{:032x}", rand::random::<u128>())))
    }

    /// A further authority of a cluster.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn mint_for(cluster: ClusterId) -> Result<Self, IdentityError> {
        let failed = || IdentityError::crypto("the cluster's certificate authority");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed())?;
        let mut params = params(&format!("weft cluster {cluster}"), CA_VALIDITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(failed())?;
        Ok(Self {
            cluster,
            cert: cert.der().clone(),
            key,
        })
    }

    /// The authority as it was stored.
    ///
    /// # Errors
    /// A sentence: the key isn't readable or isn't the certificate's.
    pub fn restore(cluster: ClusterId, cert: &[u8], key_pem: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(key_pem)
            .map_err(|error| format!("the authority's key is not readable ({error})"))?;
        let cert = CertificateDer::from(cert.to_vec());
        Issuer::from_ca_cert_der(&cert, &key)
            .map_err(|error| format!("the authority's certificate is not readable ({error})"))?;
        cert::authority_id(&cert)?;
        Ok(Self { cluster, cert, key })
    }

    /// The cluster it stands for.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Its certificate.
    pub fn cert(&self) -> &CertificateDer<'static> {
        &self.cert
    }

    /// Its private key as PEM, to be stored.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// A secret that a controller keeps over restarts without storing it.
    pub fn derive(&self, purpose: &[u8]) -> hmac::Key {
        let root = hmac::Key::new(hmac::HMAC_SHA256, self.key.serialized_der());
        hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, purpose).as_ref())
    }

    /// Its name in certificates; see [`cert::authority_id`].
    pub fn id(&self) -> String {
        cert::authority_id(&self.cert).expect("read when it was made or restored")
    }

    /// Signs a node's certificate that lasts for `ttl`.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn sign_node(
        &self,
        applicant: Applicant,
        (name, ttl): (&str, Duration),
    ) -> Result<CertificateDer<'static>, IdentityError> {
        let failed = || IdentityError::crypto("a node certificate");
        let mut params = params(name, ttl);
        let uri = cert::node_uri(&self.cluster, &applicant.node);
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(failed())?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Nodes are servers to one another in encrypted tunnels.
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let mut csr = applicant.csr;
        csr.params = params;
        let cert = csr.signed_by(&self.issuer()?).map_err(failed())?;
        Ok(cert.der().clone())
    }

    /// Makes a key and certificate for a controller that last for `ttl`.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn make_controller(
        &self,
        ttl: Duration,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), IdentityError> {
        let failed = || IdentityError::crypto("the controller's certificate");
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(failed())?;
        let mut params = params("weft controller", ttl);
        let name = CONTROLLER_NAME.try_into().map_err(failed())?;
        params.subject_alt_names = vec![SanType::DnsName(name)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let cert = params.signed_by(&key, &self.issuer()?).map_err(failed())?;
        // The authority goes along: a node that joins knows only its fingerprint.
        let chain = vec![cert.der().clone(), self.cert.clone()];
        Ok((chain, PrivateKeyDer::Pkcs8(key.serialize_der().into())))
    }

    fn issuer(&self) -> Result<Issuer<'_, &KeyPair>, IdentityError> {
        Issuer::from_ca_cert_der(&self.cert, &self.key).map_err(IdentityError::crypto(
            "a certificate of the cluster's authority",
        ))
    }
}

fn params(name: &str, validity: Duration) -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    // A holder reads from both ends how much of its time is over: the slack may not be most of it.
    params.not_before = (now - CLOCK_SLACK.min(validity)).into();
    params.not_after = (now + validity).into();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
