//! The control plane of weft: what a cluster knows (`model`), who keeps it (`controller`, `store`), how it reaches the
//! hosts (`channel`), who may speak (`identity`), and the agent that turns it into ports, tables and tunnels.

pub mod model;
pub mod api;
pub mod netns;
pub mod link;
mod egress;
pub mod holder;
mod privileges;
pub mod identity;
mod notify;
mod lockfile;
pub mod channel;
pub mod store;
pub mod controller;
pub mod docker;
pub mod agent;
#[doc(hidden)]
pub mod fuzz;
