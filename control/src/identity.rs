//! Who may speak: the cluster's certificate authority, join tokens, and a node's key and certificate on disk.
//!
//! A node is its key: its id is a digest of the public key, so a name or address can move and a copied machine-id means
//! nothing. The first controller mints the cluster id and the authority ([`ca`]); a token ([`JoinToken`]) carries the
//! authority's fingerprint to the new node, so that neither side has to trust the network between them. What a
//! certificate allows is decided elsewhere (`channel`, `controller`).

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::model::{ClusterId, Credentials, NodeId};
use cert::Validity;

pub mod authorities;
pub mod ca;
pub mod cert;
mod files;
mod token;

pub use files::{make_dir, replace};
pub use token::{JoinToken, TokenError, TokenId, TokenSecret};

const KEY_FILE: &str = "node.key";
const CERT_FILE: &str = "node.crt";
const CA_FILE: &str = "ca.crt";
const ABOUT_FILE: &str = "identity.json";

/// What to do about an identity that can't be used.
const JOIN_ANEW: &str = "restore it from a backup, or move the identity directory away and join again with a new token \
     (after `weft nodes rm` of the old node)";

/// Why an identity can't be loaded, made or saved.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or directory can't be made, read or written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// The verb.
        what: &'static str,
        /// The object.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file isn't what an agent writes, or doesn't go with its neighbours.
    #[error("identity file {path} is corrupt: {cause}; {JOIN_ANEW}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A key or certificate could not be made.
    #[error(
        "cannot make {what}: {cause}; this is a fault of weft or of its crypto library, please report it"
    )]
    Crypto {
        /// The object.
        what: &'static str,
        /// The library's words.
        cause: String,
    },
}

impl IdentityError {
    fn crypto(what: &'static str) -> impl FnOnce(rcgen::Error) -> Self {
        move |error| Self::Crypto {
            what,
            cause: error.to_string(),
        }
    }
}

/// A member of a cluster: what a node needs to prove who it is.
#[derive(Clone)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// From its key.
    pub node_id: NodeId,
    /// As the cluster knows it.
    pub node_name: String,
    /// The controllers it joined by.
    pub controllers: Vec<SocketAddr>,
    key_pem: String,
    chain: Vec<CertificateDer<'static>>,
    cas: Vec<CertificateDer<'static>>,
    validity: Validity,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("cluster", &self.cluster)
            .field("node_id", &self.node_id)
            .field("node_name", &self.node_name)
            .field("controllers", &self.controllers)
            .finish_non_exhaustive()
    }
}

/// What isn't in the certificate.
#[derive(Serialize, Deserialize)]
struct About {
    cluster: ClusterId,
    node_name: String,
    controllers: Vec<SocketAddr>,
}

/// What a controller hands out to a node that joined.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The node's certificate.
    pub cert: CertificateDer<'static>,
    /// The certificates of the authorities it may trust: one, or two while one replaces the other.
    pub cas: Vec<CertificateDer<'static>>,
}

impl Identity {
    /// Puts key and certificates together and checks that they belong together.
    ///
    /// # Errors
    /// A sentence: the certificate isn't of this key, or says nothing that weft understands.
    pub fn assemble(
        key: &NodeKey,
        issued: Issued,
        controllers: Vec<SocketAddr>,
    ) -> Result<Self, String> {
        let subject = cert::subject(&issued.cert)?;
        if subject.node != key.node_id() {
            return Err(format!(
                "the certificate is of node {}, the key of node {}",
                subject.node,
                key.node_id()
            ));
        }
        let validity = cert::validity(&issued.cert)?;
        if issued.cas.is_empty() {
            return Err("there is no authority to trust".to_owned());
        }
        for ca in &issued.cas {
            cert::authority_id(ca)?;
        }
        Ok(Self {
            cluster: subject.cluster,
            node_id: subject.node,
            node_name: subject.name,
            controllers,
            key_pem: key.pem.clone(),
            chain: vec![issued.cert],
            cas: issued.cas,
            validity,
        })
    }

    /// The same node with a new certificate.
    ///
    /// # Errors
    /// A sentence: it is of another node or cluster.
    pub fn renewed(&self, issued: Issued) -> Result<Self, String> {
        let key = NodeKey {
            pem: self.key_pem.clone(),
            node: self.node_id.clone(),
        };
        let renewed = Self::assemble(&key, issued, self.controllers.clone())?;
        if renewed.cluster != self.cluster {
            return Err(format!(
                "the certificate is of cluster {}, the node of cluster {}",
                renewed.cluster, self.cluster
            ));
        }
        Ok(renewed)
    }

    /// Reads the identity in `dir`; `None` when the node has not joined yet (a key alone is no identity).
    ///
    /// # Errors
    /// [`IdentityError::Io`]; [`IdentityError::Corrupt`] for a file that is half there or not of this node.
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let cert_path = dir.join(CERT_FILE);
        if files::read(&cert_path)?.is_none() {
            return Ok(None);
        }
        let Some(key) = NodeKey::load(dir)? else {
            return Err(missing(&dir.join(KEY_FILE)));
        };
        let issued = Issued {
            cert: load_cert(&cert_path)?,
            cas: load_cas(&dir.join(CA_FILE))?,
        };
        let about_path = dir.join(ABOUT_FILE);
        let bytes = files::read(&about_path)?.ok_or_else(|| missing(&about_path))?;
        let about: About = serde_json::from_slice(&bytes)
            .map_err(|error| corrupt(&about_path, error.to_string()))?;
        let identity = Self::assemble(&key, issued, about.controllers)
            .map_err(|cause| corrupt(&cert_path, cause))?;
        if identity.cluster != about.cluster || identity.node_name != about.node_name {
            let cause = format!(
                "it is of node {} of cluster {}, the certificate of node {} of cluster {}",
                about.node_name, about.cluster, identity.node_name, identity.cluster
            );
            return Err(corrupt(&about_path, cause));
        }
        Ok(Some(identity))
    }

    /// Writes the identity into `dir` (0700), each file whole and 0600; the certificate comes last and makes it one.
    ///
    /// # Errors
    /// [`IdentityError::Io`].
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        files::make_dir(dir)?;
        let about = About {
            cluster: self.cluster.clone(),
            node_name: self.node_name.clone(),
            controllers: self.controllers.clone(),
        };
        let about = serde_json::to_vec_pretty(&about).expect("text keys only");
        files::replace(&dir.join(KEY_FILE), self.key_pem.as_bytes())?;
        let cas: String = self.cas.iter().map(cert::to_pem).collect();
        // Before the certificate: whoever signed that is among them, and the one that signed the last one as long as it
        // is trusted.
        files::replace(&dir.join(CA_FILE), cas.as_bytes())?;
        files::replace(&dir.join(ABOUT_FILE), &about)?;
        files::replace(
            &dir.join(CERT_FILE),
            cert::to_pem(&self.chain[0]).as_bytes(),
        )
    }

    /// The node's certificate, its issuer left out.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The cluster's authorities: one, or two while one replaces the other. All of them are to be trusted.
    pub fn cas(&self) -> &[CertificateDer<'static>] {
        &self.cas
    }

    /// From when to when its certificate may be used.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// What a controller has to know of it to replace authorities.
    pub fn credentials(&self) -> Credentials {
        let ids = self.cas.iter().map(cert::authority_id);
        Credentials {
            // Read when it was assembled; a certificate of an older weft may not name its issuer.
            trusts: ids.filter_map(Result::ok).collect(),
            issuer: cert::issuer_id(&self.chain[0]).unwrap_or_default(),
            expires: self.validity.until,
        }
    }

    /// A request for a new certificate.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        csr(&self.key_pem)
    }

    /// The node's private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        key_der(&self.key_pem)
    }
}

fn key_der(pem: &str) -> PrivateKeyDer<'static> {
    let pair = KeyPair::from_pem(pem).expect("checked when it was loaded or made");
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()))
}

fn corrupt(path: &Path, cause: String) -> IdentityError {
    IdentityError::Corrupt {
        path: path.to_owned(),
        cause,
    }
}

fn missing(path: &Path) -> IdentityError {
    corrupt(
        path,
        "it is missing, though the files beside it are there".to_owned(),
    )
}

fn load_cert(path: &Path) -> Result<CertificateDer<'static>, IdentityError> {
    let bytes = files::read(path)?.ok_or_else(|| missing(path))?;
    cert::from_pem(&bytes).map_err(|cause| corrupt(path, cause))
}

fn load_cas(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let bytes = files::read(path)?.ok_or_else(|| missing(path))?;
    cert::all_from_pem(&bytes).map_err(|cause| corrupt(path, cause))
}

/// A node's key: made before it joins, so that a join whose answer was lost can be asked for again by the same node.
#[derive(Clone)]
pub struct NodeKey {
    pem: String,
    node: NodeId,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl NodeKey {
    /// The key in `dir`, if there is one.
    ///
    /// # Errors
    /// [`IdentityError::Io`], [`IdentityError::Corrupt`].
    pub fn load(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let path = dir.join(KEY_FILE);
        let Some(bytes) = files::read(&path)? else {
            return Ok(None);
        };
        let text =
            String::from_utf8(bytes).map_err(|_| corrupt(&path, "it is no text".to_owned()))?;
        let pair = KeyPair::from_pem(&text)
            .map_err(|error| corrupt(&path, format!("no private key in it ({error})")))?;
        Ok(Some(Self::from_pair(&pair)))
    }

    /// The key in `dir`, made and saved if there is none.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load_or_make(dir: &Path) -> Result<Self, IdentityError> {
        if let Some(key) = Self::load(dir)? {
            return Ok(key);
        }
        files::make_dir(dir)?;
        let key = Self::make()?;
        files::replace(&dir.join(KEY_FILE), key.pem.as_bytes())?;
        Ok(key)
    }

    /// A new key (EC P-256), not saved.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn make() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(IdentityError::crypto("a node key"))?;
        Ok(Self::from_pair(&pair))
    }

    fn from_pair(pair: &KeyPair) -> Self {
        Self {
            pem: pair.serialize_pem(),
            node: cert::node_id_of(pair),
        }
    }

    /// What the key names.
    pub fn node_id(&self) -> NodeId {
        self.node.clone()
    }

    /// A certificate signing request: proves that the asker holds the key. All else in it is ignored.
    ///
    /// # Errors
    /// [`IdentityError::Crypto`].
    pub fn csr(&self) -> Result<Vec<u8>, IdentityError> {
        csr(&self.pem)
    }
}

fn csr(key_pem: &str) -> Result<Vec<u8>, IdentityError> {
    let pair = KeyPair::from_pem(key_pem).map_err(IdentityError::crypto("a node key"))?;
    let params = rcgen::CertificateParams::default();
    let csr = params
        .serialize_request(&pair)
        .map_err(IdentityError::crypto("a certificate signing request"))?;
    Ok(csr.der().to_vec())
}

#[cfg(test)]
mod tests;
