//! Why a controller doesn't run, or doesn't do what it was asked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::channel::Refusal;
use crate::identity::IdentityError;
use crate::store::StoreError;
use crate::store::dump::DumpError;

/// Why a controller doesn't run, or a token can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The listen address is somebody else's.
    #[error("this host has no address {}: the controller can't listen on {listen}; give --listen one of this host's addresses, or 0.0.0.0:{} for all", listen.ip(), listen.port())]
    NotOurAddress {
        /// As configured.
        listen: SocketAddr,
    },
    /// The listen port is taken.
    #[error("UDP port {} of {} is taken by another program (`ss -ulpn` shows which); stop that or give --listen another port", listen.port(), listen.ip())]
    PortTaken {
        /// As configured.
        listen: SocketAddr,
    },
    /// The listen address can't be used for another reason.
    #[error("cannot listen on {listen}: {source}; give --listen another address")]
    Listen {
        /// As configured.
        listen: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The admin socket.
    #[error("cannot {what} {path}: {cause}", path = path.display())]
    Admin {
        /// The verb.
        what: &'static str,
        /// The socket.
        path: PathBuf,
        /// The cause and what to do.
        cause: String,
    },
    /// A token's lifetime.
    #[error("a token can't live {} seconds; give --ttl between 1 second and 10 years", .0.as_secs())]
    Ttl(Duration),
    /// How many nodes a token lets in.
    #[error("a token can't let in {0} nodes; give --uses between 1 and 10000")]
    Uses(u32),
    /// How long nodes' certificates last.
    #[error("certificates can't last {} seconds; give --cert-ttl between 10 seconds and 20 years", .0.as_secs())]
    CertTtl(Duration),
    /// The authority is being replaced already, or isn't.
    #[error("{0}")]
    Rotation(&'static str),
    /// No such token.
    #[error("token {0:?} is not known; `weft controller token ls` lists the ids")]
    UnknownToken(String),
    /// A controller that runs can't do what it was asked; it may be about to end.
    #[error("{0}")]
    Failed(Refusal),
    /// A controller that runs refused what it was asked.
    #[error("{0}")]
    Refused(Refusal),
    /// An exported cluster.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// The operating system.
    #[error("cannot {what}: {source}")]
    System {
        /// The verb.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

/// Code of what isn't the asker's fault.
pub(super) const FAILED: &str = "controller";

impl ControllerError {
    /// For programs: of what an operator asked on the controller's host.
    pub fn code(&self) -> &str {
        match self {
            Self::Refused(refusal) | Self::Failed(refusal) => &refusal.code,
            Self::UnknownToken(_) => "unknown_token",
            Self::Rotation(_) | Self::Store(StoreError::AuthorityConflict) => "rotation",
            Self::Store(_)
            | Self::Identity(_)
            | Self::NotOurAddress { .. }
            | Self::PortTaken { .. }
            | Self::Listen { .. }
            | Self::Admin { .. }
            | Self::Ttl(_)
            | Self::Uses(_)
            | Self::CertTtl(_)
            | Self::Dump(_)
            | Self::System { .. } => FAILED,
        }
    }
}
