//! What a controller tells its operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Whether a join token lets anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    /// It does.
    Valid,
    /// As many nodes as it is for have joined with it.
    Used,
    /// Its time is over.
    Expired,
    /// An operator took it back.
    Revoked,
}

impl std::fmt::Display for TokenState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Valid => "valid",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// A join token without its secret: `weft controller token ls`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenInfo {
    /// Id: the third part of the token.
    pub id: String,
    /// Whether it lets anybody in.
    pub state: TokenState,
    /// How many nodes it is for.
    pub uses: u32,
    /// Names of the nodes that joined with it; ids of those that were removed since.
    pub nodes: Vec<String>,
    /// Seconds since 1970 from which on it is refused.
    pub expires: u64,
    /// Seconds until then; 0 when it has expired.
    pub expires_in_secs: u64,
}

/// How far the replacement of a cluster's authority is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorityStep {
    /// There is one authority.
    Settled,
    /// Nodes learn to trust the next one.
    Announced,
    /// Nodes get certificates of the next one.
    Switched,
}

/// The cluster's authority: `weft controller ca`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityInfo {
    /// How far it is being replaced.
    pub step: AuthorityStep,
    /// Subject key identifier of the authority that signs controllers, in hexadecimal.
    pub current: String,
    /// The one that is to replace it.
    pub next: Option<String>,
    /// Names of the nodes that the next step waits for.
    pub waiting: Vec<String>,
}

/// A node's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Seconds since 1970 from which on it isn't taken.
    pub expires: u64,
    /// Seconds until then; 0 when it has ended.
    pub expires_in_secs: u64,
    /// The authority that signed it: its subject key identifier in hexadecimal.
    pub issuer: String,
}

/// How a controller is: `weft controller status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerReport {
    /// It runs; else this is what is stored.
    pub running: bool,
    /// The cluster it keeps.
    pub cluster: String,
    /// Its version.
    pub version: String,
    /// Revision of the map.
    pub revision: u64,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Nodes with a session here.
    pub connected: usize,
    /// What was refused on the control port since it was started, by reason.
    pub refused: BTreeMap<String, u64>,
}
