//! The switch of one host: it takes frames from ports and tunnels and decides where they go.
//!
//! A frame's way, in the order of the modules: it is read from a [`port`] or comes out of a tunnel ([`Uplink`]); the
//! worker of that queue hands it to the [`datapath`], which admits it (parse once, refuse bad or spoofed), bridges it
//! (learn, look up) and says to whom it is transmitted; the worker writes it there from the same buffer. The datapath
//! is pure: it reads the published [`table`]s and a clock that is passed in, and answers with [`Action`]s.
//!
//! The switch knows networks by VNI, ports and peers by id. It doesn't know what a tunnel looks like on the wire, who
//! the cluster's nodes are, or where an endpoint's addresses come from.

pub mod port;
mod verdict;
mod stats;
pub mod table;
pub mod datapath;
mod uplink;
mod worker;
mod switch;

pub use stats::{DropCounts, Lane, PeerDropStats, PortStats, TrafficStats};
pub use switch::{PortEvent, PortSpec, Switch, SwitchConfig, SwitchError};
pub use table::fdb::{FdbCounts, FdbKind, FdbRow, Place};
pub use table::{NetworkMode, NetworkSpec, PortGuard, Tables};
pub use uplink::Uplink;
pub use verdict::{Action, DropReason, Source};
