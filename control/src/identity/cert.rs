//! What a certificate of the cluster says, and its way into text and back.

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use rcgen::PublicKeyData;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::model::{ClusterId, NodeId};

/// Bytes of a key's digest that make a node id.
const NODE_ID_LEN: usize = 16;

/// Whom a node certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// From the URI `weft://CLUSTER/node/NODE`.
    pub cluster: ClusterId,
    /// From the key itself; the URI must agree.
    pub node: NodeId,
    /// The common name.
    pub name: String,
}

/// The URI in a node's certificate.
pub(super) fn node_uri(cluster: &ClusterId, node: &NodeId) -> String {
    format!("weft://{cluster}/node/{node}")
}

/// Reads a node's certificate. It is not verified here: that is done by the TLS handshake.
///
/// # Errors
/// A sentence: it is no certificate, or not one of a weft node.
pub fn subject(cert: &CertificateDer<'_>) -> Result<Subject, String> {
    let parsed = parse(cert)?;
    let node = node_id_of_spki(parsed.public_key().raw);
    let name = parsed.subject().iter_common_name().next();
    let name = name
        .and_then(|name| name.as_str().ok())
        .ok_or("the certificate has no name")?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| format!("the certificate's names can't be read ({error})"))?;
    let uris = names.iter().flat_map(|names| &names.value.general_names);
    let cluster = uris
        .filter_map(|name| {
            let GeneralName::URI(uri) = name else {
                return None;
            };
            let (cluster, id) = uri.strip_prefix("weft://")?.split_once("/node/")?;
            (id == node.0).then(|| ClusterId(cluster.to_owned()))
        })
        .next()
        .ok_or("the certificate is not of a weft node")?;
    Ok(Subject {
        cluster,
        node,
        name: name.to_owned(),
    })
}

/// From when to when a certificate may be used, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub from: u64,
    /// The last second.
    pub until: u64,
}

impl Validity {
    /// When a holder should ask for a new one: with a third of its time left.
    pub fn renewal(self) -> u64 {
        self.until - self.until.saturating_sub(self.from) / 3
    }
}

/// Reads how long a certificate may be used.
///
/// # Errors
/// A sentence: it is no certificate.
pub fn validity(cert: &CertificateDer<'_>) -> Result<Validity, String> {
    let validity = parse(cert)?.validity().clone();
    let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    let (from, until) = (seconds(validity.not_before), seconds(validity.not_after));
    if until < from {
        return Err("the certificate ends before it begins".to_owned());
    }
    Ok(Validity { from, until })
}

/// What names an authority's key in its own certificate: the subject key identifier (RFC 5280 section 4.2.1.2), in
/// hexadecimal.
///
/// # Errors
/// A sentence: it is no authority's certificate.
pub fn authority_id(cert: &CertificateDer<'_>) -> Result<String, String> {
    let parsed = parse(cert)?;
    let id = parsed.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(HEXLOWER.encode(id.0))
    });
    id.ok_or_else(|| "the authority's certificate doesn't name its key".to_owned())
}

/// The [`authority_id`] of whoever signed a certificate, as the certificate says (RFC 5280 section 4.2.1.1).
///
/// # Errors
/// A sentence: it is no certificate, or doesn't say.
pub fn issuer_id(cert: &CertificateDer<'_>) -> Result<String, String> {
    let parsed = parse(cert)?;
    let id = parsed.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else {
            return None;
        };
        Some(HEXLOWER.encode(id.key_identifier.as_ref()?.0))
    });
    id.ok_or_else(|| "the certificate doesn't name its issuer's key".to_owned())
}

fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, String> {
    let parsed = X509Certificate::from_der(cert);
    let (_, parsed) = parsed.map_err(|error| format!("no certificate ({error})"))?;
    Ok(parsed)
}

/// The node id that goes with a key.
pub(super) fn node_id_of(key: &impl PublicKeyData) -> NodeId {
    node_id_of_spki(&key.subject_public_key_info())
}

fn node_id_of_spki(spki: &[u8]) -> NodeId {
    NodeId(HEXLOWER.encode(&digest(&SHA256, spki).as_ref()[..NODE_ID_LEN]))
}

/// SHA-256 of a certificate's DER: what a join token carries of the authority.
pub fn fingerprint(cert: &CertificateDer<'_>) -> [u8; 32] {
    let digest = digest(&SHA256, cert);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// PEM text of a certificate.
pub(super) fn to_pem(cert: &CertificateDer<'_>) -> String {
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let encoded = data_encoding::BASE64.encode(cert);
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

/// The first certificate of a PEM text.
pub(super) fn from_pem(text: &[u8]) -> Result<CertificateDer<'static>, String> {
    let cert = CertificateDer::from_pem_slice(text)
        .map_err(|error| format!("no certificate in it ({error})"))?;
    X509Certificate::from_der(&cert).map_err(|error| format!("no certificate in it ({error})"))?;
    Ok(cert)
}

/// All certificates of a PEM text: at least one, and nothing broken among them.
pub(super) fn all_from_pem(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let certs = certs.map_err(|error| format!("no certificate in it ({error})"))?;
    if certs.is_empty() {
        return Err("no certificate in it".to_owned());
    }
    for cert in &certs {
        parse(cert).map_err(|cause| format!("{cause} in it"))?;
    }
    Ok(certs)
}
