//! The agent: one per host. It keeps the host's ports alive, holds a copy of the cluster map, and makes switch and
//! tunnel hold what the map and the ports ask for.
//!
//! | file | what |
//! |---|---|
//! | `startup` | from a configuration to a running agent: identity, join, what survived the last one |
//! | `attach`, `detach` | connect and disconnect: beginning and end of a port |
//! | `line` | limits and impairments of a port |
//! | `session` | the control channel's events, and telling the controller what it missed |
//! | `reconcile` | map and ports -> `plan` -> `assemble::Fabric` |
//! | `ipam` | which address |
//! | `outside` | the way out of networks: what `egress` is told of them |
//! | `state` | what is on disk |
//! | `requests`, `views` | the API's writing and reading half |
//! | `serve` | the API's HTTP |
//!
//! Locks: `inner` before `fabric`; neither is held across an await or a system call that can wait for long.

mod assemble;
mod attach;
mod detach;
mod error;
mod ipam;
mod keeper;
mod outside;
