//! Why an agent doesn't run.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::agent::assemble::FabricError;
use crate::agent::serve::SocketError;
use crate::agent::state::StateError;
use crate::channel::JoinError;
use crate::controller::ControllerError;
use crate::identity::IdentityError;

/// Why an agent doesn't run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The local API's socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// This node's certificate and key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Switch or tunnel.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// The controller inside a standalone agent.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The cluster won't have us.
    #[error("cannot join the cluster: {0}")]
    Join(#[source] JoinError),
    /// Something must be given the first time.
    #[error("{what} is missing: {why}; give {flag}")]
    Missing {
        /// In words.
        what: &'static str,
        /// Why it is needed.
        why: &'static str,
        /// The flag.
        flag: &'static str,
    },
    /// A name or token that can't be used.
    #[error("{0}")]
    Invalid(String),
    /// The underlay address isn't this host's.
    #[error(
        "this host has no address {address}: tunnels can't be bound to it; give --underlay one of {have}"
    )]
    NotOurAddress {
        /// What was asked for.
        address: IpAddr,
        /// What is there.
        have: String,
    },
    /// A host of its own is to become part of a cluster.
    #[error("state directory {dir} is of a standalone agent, whose networks and endpoints are in its own controller; leave out --join, or give another --state to join a cluster", dir = dir.display())]
    Standalone {
        /// The directory.
        dir: PathBuf,
    },
    /// The node belongs to another name.
    #[error("state directory {dir} belongs to node {is}, not {wanted}; leave out --node, or give another --state", dir = dir.display())]
    OtherName {
        /// The directory.
        dir: PathBuf,
        /// Who it belongs to.
        is: String,
        /// Who it should be.
        wanted: String,
    },
    /// The operating system.
    #[error("cannot {what}: {source}")]
    System {
        /// The verb.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}
