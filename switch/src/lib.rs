//! The switch of one host: it takes frames from ports and tunnels and decides where they go.
//!
//! A frame's way, in the order of the modules: it is read from a [`port`] or comes out of a tunnel ([`Uplink`]); the
//! worker of that queue hands it to the [`datapath`], which admits it (parse once, refuse bad or spoofed), bridges it
//! (learn, look up) and says to whom it is transmitted; the worker writes it there from the same buffer. The datapath
//! is pure: it reads the published [`table`]s and a clock that is passed in, and answers with [`Action`]s.
//!
//! Whatever is not delivered has a [`DropReason`]: counted where the frame came from, or, for a delivery that failed,
//! where it failed.
//!
//! # Threads
//!
//! Each worker owns its uplink, its buffer and its share of the queues; it waits in `epoll` and costs nothing while
//! idle. [`Switch`] is the control plane's handle: it publishes new tables by a pointer swap and hands file descriptors
//! over by messages, so no forwarding thread ever waits for it. A thread of the switch that panics ends the process: a
//! host that silently forwards half its frames is worse than one that its supervisor starts again, and ports survive
//! that in the fd holder.
//!
//! # Where we fall short
//!
//! One frame is decided on at a time, and segments that come out of a tunnel are not merged. A MAC that the control plane owns elsewhere is refused from
//! a peer also while its endpoint moves, until the newer fact has arrived here.
//!
//! # What it doesn't know
//!
//! The switch knows networks by VNI, ports and peers by id. It doesn't know what a tunnel looks like on the wire, who
//! the cluster's nodes are, or where an endpoint's addresses come from.

pub mod gateway;
mod neighbor;
pub mod impair;
pub mod port;
mod verdict;
mod stats;
pub mod table;
pub mod datapath;
mod uplink;
mod answers;
mod burst;
mod worker;
mod patience;
mod switch;
#[doc(hidden)]
pub mod fuzz;

pub use neighbor::Claim;
pub use stats::{DropCounts, Lane, PeerDropStats, PortStats, TrafficStats};
pub use switch::{PortEvent, PortSpec, Switch, SwitchConfig, SwitchError};
pub use table::fdb::{FdbCounts, FdbKind, FdbRow, Place};
pub use table::routes::{Route, RouteSpec, Routes};
pub use table::{NetworkMode, NetworkSpec, PortGuard, Tables};
pub use uplink::{TooBig, Uplink};
pub use verdict::{Action, DropReason, Routed, Source};
